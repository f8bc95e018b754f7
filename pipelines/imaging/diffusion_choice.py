"""Which images of a study make a diffusion image of one b-value, and which an ADC map where the scanner sent none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom import Dataset

from pipelines.imaging.adc import usable_b_values
from pipelines.imaging.diffusion import b_value, is_trace, nominal
from pipelines.imaging.elements import text
from pipelines.imaging.parts import Part, check
from pipelines.imaging.series import summarise
from pipelines.types import Choice, SeriesRole

_B_TOLERANCE = 0.15  # relative: 750 to 900 s/mm2 stand for the 800 s/mm2 of [OLNM]
_COMPUTED_ADC = 40.0  # score of a map computed from diffusion images: any map that the scanner made wins
_JOINED_ADC = 35.0  # and any that comes from one series


def as_choice(parts: Sequence[Part], role: SeriesRole, frames: Sequence[Dataset], score: float, reason: str) -> Choice:
    """Return frames of one or more parts as a choice; its header is that of the first part."""
    used = {text(d, "SOPInstanceUID") for d in frames}
    series = {id(part.series): part.series for part in parts}.values()
    instances = tuple(d for one in series for d in one.instances if text(d, "SOPInstanceUID") in used)
    return Choice(role=role, header=parts[0].series.header, instances=instances, score=score, reason=reason, frames=tuple(frames))


def choose_dwi(part: Part, score: float, reason: str, *, wanted_b: float | None) -> Choice | None:
    """Return the diffusion images with the b-value (s/mm2) nearest to the wanted one, by default the highest; ``None`` if none is near."""
    b_values = part.header.b_values
    b = max(b_values) if wanted_b is None else min(b_values, key=lambda v: abs(v - wanted_b))
    if wanted_b is not None and abs(b - wanted_b) > _B_TOLERANCE * wanted_b:
        return None
    frames, words = _images_at(part, b)
    return as_choice([part], SeriesRole.DWI, frames, score, f"{reason}; the images with b = {b:g} s/mm2 taken{words}")


def _images_at(part: Part, b: float) -> tuple[list[Dataset], str]:
    """Return the images of one nominal b-value: trace images where there are some, and what was done with the directions in words."""
    names = nominal(v for v in map(b_value, part.frames) if v is not None)
    frames = [d for d in part.frames if (v := b_value(d)) is not None and names[v] == b]
    traces = [d for d in frames if is_trace(d)]
    if traces and len(traces) < len(frames) and check(traces, "") is None:
        return traces, " (the trace images)"
    positions = summarise(frames, n_instances=len(frames)).n_positions
    if len(frames) > positions:
        return frames, f" (geometric mean of {len(frames) // positions} directions)"
    return frames, ""


def compute_adc(part: Part) -> Choice | None:
    """Return the ADC map that can be computed from the diffusion images of one part."""
    used = usable_b_values(part.header.b_values)
    if not used or part.problem:
        return None
    frames = [d for b in used for d in _images_at(part, b)[0]]
    words = ", ".join(f"{b:g}" for b in used)
    reason = f"no map of the scanner is used: computed here from diffusion images with b = {words} s/mm2, mono-exponential fit"
    return as_choice([part], SeriesRole.ADC, frames, _COMPUTED_ADC, reason)


def join_adc(parts: Iterable[Part]) -> list[tuple[Choice, Part]]:
    """Return the ADC maps that need diffusion images of several series, as some scanners send each b-value as a series of its own.

    ``parts`` are diffusion images of any b-values. Those of one protocol, grid and frame of reference are fitted together, of repeated
    ones the later; only where none of them allows a map by itself. Each map comes with the part of its lowest b-value.
    """
    groups: dict[tuple[object, ...], list[Part]] = {}
    for part in parts:
        if part.header.frame_of_reference_uid and not part.problem:
            groups.setdefault(_protocol(part), []).append(part)
    alone = (group for group in groups.values() if not any(compute_adc(part) for part in group))
    return [joined for group in alone if (joined := _join(group))]


def _protocol(part: Part) -> tuple[object, ...]:
    h = part.header
    grid = (h.rows, h.columns, h.n_positions, _rounded(h.orientation), _rounded(h.spacing_mm))
    return (h.frame_of_reference_uid, *grid, _rounded((h.echo_time_ms, h.repetition_time_ms)))


def _rounded(values: Sequence[float | None] | None) -> tuple[float | None, ...]:
    return tuple(None if v is None else round(v, 2) + 0.0 for v in values or ())


def _join(group: Sequence[Part]) -> tuple[Choice, Part] | None:
    names = nominal(b for part in group for b in part.header.b_values)
    used = usable_b_values(names.values())
    latest: dict[float, tuple[Part, float]] = {}
    for part in sorted(group, key=lambda p: (p.seconds or 0.0, p.header.series_number or 0, p.header.series_instance_uid)):
        latest |= {names[b]: (part, b) for b in part.header.b_values}
    taken = [latest[b] for b in used]
    frames = [d for part, b in taken for d in _images_at(part, b)[0]]
    if not used or check(frames, "") or summarise(frames, n_instances=len(frames)).n_positions != group[0].header.n_positions:
        return None
    words = ", ".join(f"b = {b:g} s/mm2 of series {part.series.header.label()}" for part, b in taken)
    reason = f"no map of the scanner is used: computed here by a mono-exponential fit from {words}, taken to have one receiver gain"
    parts = [part for part, _ in taken]
    return as_choice(parts, SeriesRole.ADC, frames, _JOINED_ADC, reason), parts[0]
