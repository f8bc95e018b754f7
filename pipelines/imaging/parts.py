"""Split a series into the images that belong together: one contrast, one stack, one point in time.

Scanners put several of them in one series (or one multi-frame instance): in-phase and water images, echoes, an ADC map beside its
diffusion images, the phases of a dynamic scan, three planes of a localizer. Diffusion images stay together here, whatever their b-values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset

from pipelines.errors import BadGeometry
from pipelines.imaging.diffusion import b_value
from pipelines.imaging.elements import integer, number, numbers, text, upper
from pipelines.imaging.geometry import stack
from pipelines.imaging.series import SAME_POSITION_MM, summarise
from pipelines.types import Series, SeriesHeader

_PLANE_TOLERANCE = 1e-2  # per direction cosine: other planes differ by far more, rounding by far less
_PIXEL_TOLERANCE_MM = 1e-3
_ECHO_DIGITS = 1  # ms
# Image Type values (PS3.3 C.8.3.1.1.1, and vendors' own) that make images of one series something else than their neighbours.
_KIND = re.compile(
    r"^(E?ADC.*|EXP.*ADC.*|FA|COLOR|.*MAP|[WF]|IP|OP|WATER|FAT|IN_PHASE|OP\w*_PHASE|OUT_PHASE|PHASE.*|(P|R|I)(_\w+)?|REAL|IMAGINARY"
    r"|M(AX)?IP|MI?NIP|SUB\w*|MPR|MOSAIC|VFRAME|LOCALIZER|T2_?STAR.*|MEAN|STD\w*)$"
)
_DIGITS = re.compile(r"^\d{6}(\.\d+)?$")


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one series that belong together. ``header`` describes them, ``series`` is where they come from."""

    series: Series
    header: SeriesHeader
    frames: tuple[Dataset, ...]
    problem: str | None = None  # why the slices form no volume

    @property
    def seconds(self) -> float | None:
        """Time at which its acquisition began, in seconds since an arbitrary day."""
        known = [t for t in map(acquired_seconds, self.frames) if t is not None]
        return min(known) if known else None


def split(series: Series) -> list[Part]:
    """Return the parts of a series in a fixed order; one part for what is no MR image."""
    frames = series.frames or series.instances
    if series.header.modality != "MR":
        return [Part(series, series.header, frames)]
    groups = _group(frames, _same_look)
    groups = [part for group in groups for part in _by_stack(group)]
    groups = [part for group in groups for part in _by_time(group)]
    return [_make(series, group) for group in groups]


def seconds_of_day(time: str) -> float | None:
    """Return a DICOM time (PS3.5 6.2, VR TM) in seconds, or ``None`` where it is none."""
    plain = time.replace(":", "")
    if not _DIGITS.match(plain):
        return None
    return int(plain[:2]) * 3600.0 + int(plain[2:4]) * 60.0 + float(plain[4:])


def acquired_seconds(header: Dataset) -> float | None:
    """Return when an image was acquired, in seconds since an arbitrary day; without a date, that of the day."""
    time = seconds_of_day(text(header, "AcquisitionTime"))
    date = text(header, "AcquisitionDate")
    if time is None or not re.fullmatch(r"\d{8}", date):
        return time
    return time + 86400.0 * (int(date[:4]) * 372 + int(date[4:6]) * 31 + int(date[6:]))


def check(frames: Sequence[Dataset], label: str) -> str | None:
    """Return why images form no volume, or ``None``."""
    try:
        stack(frames, label)
    except BadGeometry as error:
        return str(error)
    return None


def _make(series: Series, frames: Sequence[Dataset]) -> Part:
    if len(frames) == len(series.frames or series.instances):
        header = series.header
    else:
        header = summarise(frames, n_instances=len({text(d, "SOPInstanceUID") for d in frames}))
    return Part(series, header, tuple(frames), check(frames, f"series {series.header.label()}"))


def _group(frames: Iterable[Dataset], same: Callable[[Dataset, Dataset], bool]) -> list[list[Dataset]]:
    groups: list[list[Dataset]] = []
    for frame in frames:
        for group in groups:
            if same(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _same_look(one: Dataset, other: Dataset) -> bool:
    if _look(one) != _look(other):
        return False
    pairs = (
        (numbers(one, "ImageOrientationPatient", 6), numbers(other, "ImageOrientationPatient", 6), _PLANE_TOLERANCE),
        (numbers(one, "PixelSpacing", 2), numbers(other, "PixelSpacing", 2), _PIXEL_TOLERANCE_MM),
    )
    return all(a is None or b is None or np.allclose(a, b, atol=tolerance) for a, b, tolerance in pairs)


def _look(header: Dataset) -> tuple[Any, ...]:
    echo = number(header, "EchoTime")
    kinds = tuple(sorted(word for word in set(upper(header, "ImageType")[2:]) if _KIND.match(word)))
    return (
        integer(header, "Rows"),
        integer(header, "Columns"),
        kinds,
        upper(header, "ComplexImageComponent"),
        None if echo is None else round(echo, _ECHO_DIGITS),
    )


def _by_stack(frames: list[Dataset]) -> list[list[Dataset]]:
    """Split by Stack ID, but only where the stacks do not continue one another."""
    stacks = _group(frames, lambda a, b: text(a, "StackID") == text(b, "StackID"))
    return stacks if len(stacks) > 1 and check(frames, "") else [frames]


def _by_time(frames: list[Dataset]) -> list[list[Dataset]]:
    """Split repetitions of the same slices by their time; without a time that tells them apart they stay together."""
    if any(b_value(d) for d in frames):
        return [frames]
    slices = _slices(frames)
    if slices is None or max(len(images) for images in slices) == 1:
        return [frames]
    phases: list[list[Dataset]] = []
    for images in slices:
        if len({_time_key(d) for d in images}) < len(images):
            return [frames]
        for i, image in enumerate(sorted(images, key=_time_key)):
            phases.extend([[]] * (i + 1 - len(phases)))
            phases[i] = [*phases[i], image]
    return phases


def _slices(frames: Sequence[Dataset]) -> list[list[Dataset]] | None:
    cosines = numbers(frames[0], "ImageOrientationPatient", 6)
    positions = [numbers(d, "ImagePositionPatient", 3) for d in frames]
    if cosines is None or any(p is None for p in positions):
        return None
    depths = np.asarray(positions, dtype=float) @ np.cross(cosines[:3], cosines[3:])
    groups: list[list[Dataset]] = []
    last = -np.inf
    for i in np.argsort(depths, kind="stable"):
        if depths[i] - last >= SAME_POSITION_MM:
            groups.append([])
            last = depths[i]
        groups[-1].append(frames[i])
    return groups


def _time_key(header: Dataset) -> tuple[float, ...]:
    found = (
        number(header, "TemporalPositionIdentifier"),
        number(header, "AcquisitionNumber"),
        number(header, "TriggerTime"),
        acquired_seconds(header),
        seconds_of_day(text(header, "ContentTime")),
    )
    return tuple(-1.0 if v is None else v for v in found)
