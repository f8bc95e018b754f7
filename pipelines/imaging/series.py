"""Read the headers of a study and group them into series.

Only headers are read here; pixels are read once a series has a role (:mod:`pipelines.imaging.geometry`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset

from pipelines.errors import InputError
from pipelines.imaging.diffusion import b_value, nominal
from pipelines.imaging.elements import UNREADABLE, integer, number, numbers, text, upper
from pipelines.imaging.multiframe import expand, injection_time
from pipelines.types import Series, SeriesHeader

SAME_POSITION_MM = 1e-2  # along the slice normal
_PREAMBLE = 132  # bytes: 128 of preamble and the letters DICM (PS3.10 7.1)
_NAMING = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


def find_dicom_files(folder: Path) -> list[Path]:
    """Return every DICOM Part 10 file below ``folder``, sorted; files without the DICM prefix and DICOMDIRs are left out.

    Raises
    ------
    InputError
        The folder does not exist or holds no DICOM file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "DICOMDIR" and _has_prefix(p)]
    if not paths:
        raise InputError(f"{folder} holds no DICOM file")
    return paths


def _has_prefix(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_PREAMBLE)[128:] == b"DICM"


def read_series(paths: Iterable[Path]) -> list[Series]:
    """Read headers and group them by Series Instance UID, ordered by series number.

    Raises
    ------
    InputError
        A file is no readable DICOM, or lacks its UIDs; the message names it.
    """
    groups: dict[str, list[Dataset]] = defaultdict(list)
    seen: set[str] = set()
    for path in paths:
        header = _read_header(path)
        if (uid := text(header, "SOPInstanceUID")) not in seen:
            seen.add(uid)
            groups[text(header, "SeriesInstanceUID")].append(header)
    series = [_make_series(instances) for instances in groups.values()]
    return sorted(series, key=lambda s: (_order(s.header.series_number), s.header.series_instance_uid))


def read_what_is_readable(paths: Iterable[Path]) -> tuple[list[Series], InputError | None]:
    """Return the series of the files that can be read, and what is wrong with the first one that cannot."""
    paths = list(paths)
    try:
        return read_series(paths), None
    except InputError as error:
        return read_series(p for p in paths if _is_readable(p)), error


def _is_readable(path: Path) -> bool:
    try:
        _read_header(path)
    except InputError:
        return False
    return True


def _read_header(path: Path) -> Dataset:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except UNREADABLE as error:
        raise InputError(f"{path.name} cannot be read as DICOM: {error}") from error
    if missing := [k for k in _NAMING if not text(header, k)]:
        raise InputError(f"{path.name} has no {', '.join(missing)}")
    return header


def _order(series_number: int | None) -> int:
    return series_number if series_number is not None else 1 << 31


def _make_series(instances: list[Dataset]) -> Series:
    ordered = tuple(sorted(instances, key=lambda d: (_order(integer(d, "InstanceNumber")), text(d, "SOPInstanceUID"))))
    frames = expand(ordered)
    return Series(header=summarise(frames, n_instances=len(ordered)), instances=ordered, frames=frames)


def summarise(frames: Sequence[Dataset], *, n_instances: int) -> SeriesHeader:
    """Return what the headers of images of one series say of it; what they have in common is taken from the first."""
    first = frames[0]
    b_values = nominal(b for b in map(b_value, frames) if b is not None)
    orientation = numbers(first, "ImageOrientationPatient", 6)
    return SeriesHeader(
        study_instance_uid=text(first, "StudyInstanceUID"),
        series_instance_uid=text(first, "SeriesInstanceUID"),
        modality=text(first, "Modality"),
        series_number=integer(first, "SeriesNumber"),
        description=text(first, "SeriesDescription"),
        sop_class_uid=text(first, "SOPClassUID"),
        n_instances=n_instances,
        image_type=upper(first, "ImageType"),
        scanning_sequence=upper(first, "ScanningSequence"),
        sequence_variant=upper(first, "SequenceVariant"),
        scan_options=upper(first, "ScanOptions"),
        sequence_name=text(first, "SequenceName"),
        echo_time_ms=number(first, "EchoTime"),
        repetition_time_ms=number(first, "RepetitionTime"),
        inversion_time_ms=number(first, "InversionTime"),
        flip_angle_deg=number(first, "FlipAngle"),
        contrast_agent=text(first, "ContrastBolusAgent"),
        b_values=tuple(sorted(set(b_values.values()))),
        orientation=orientation,
        spacing_mm=_spacing(first),
        rows=integer(first, "Rows") or 0,
        columns=integer(first, "Columns") or 0,
        frame_of_reference_uid=text(first, "FrameOfReferenceUID"),
        manufacturer=text(first, "Manufacturer"),
        acquisition_time=text(first, "AcquisitionTime"),
        n_frames=len(frames),
        n_positions=_count_positions(frames, orientation),
        acquisition_date=text(first, "AcquisitionDate") or text(first, "SeriesDate") or text(first, "StudyDate"),
        injection_time=injection_time(first),
        samples_per_pixel=integer(first, "SamplesPerPixel") or 1,
    )


def _count_positions(frames: Sequence[Dataset], orientation: tuple[float, ...] | None) -> int:
    if orientation is None:
        return len(frames)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [p for p in (numbers(d, "ImagePositionPatient", 3) for d in frames) if p is not None]
    depths = np.sort([float(np.dot(normal, p)) for p in positions])
    return int(np.count_nonzero(np.diff(depths) >= SAME_POSITION_MM)) + 1 if positions else len(frames)


def _spacing(header: Dataset) -> tuple[float, float, float] | None:
    between = number(header, "SpacingBetweenSlices") or number(header, "SliceThickness")
    in_plane = numbers(header, "PixelSpacing", 2)
    if between is None or in_plane is None:
        return None
    return (between, in_plane[0], in_plane[1])
