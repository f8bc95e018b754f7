"""How a sequence was acquired, in numbers: a bundle records their ranges, and a study outside of them is told so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.types import ImageVolume, SeriesHeader, SeriesRole

Acquisition = dict[str, float]  # by DICOM keyword
Ranges = dict[SeriesRole, dict[str, tuple[float, float]]]
UNITS = {
    "RepetitionTime": "ms",
    "EchoTime": "ms",
    "FlipAngle": "deg",
    "DiffusionBValue": "s/mm2",
    "SpacingBetweenSlices": "mm",
    "PixelSpacing": "mm",
}
_TOLERANCE = 0.1  # of a limit: protocols of one kind differ by as much


def acquisition(header: SeriesHeader) -> Acquisition:
    """Return the numbers that the series states, of TR, TE, flip angle, highest b-value, distance of slices and pixel size."""
    slices, rows = header.spacing_mm[:2] if header.spacing_mm else (None, None)
    found = {
        "RepetitionTime": header.repetition_time_ms,
        "EchoTime": header.echo_time_ms,
        "FlipAngle": header.flip_angle_deg,
        "DiffusionBValue": max(header.b_values, default=None),
        "SpacingBetweenSlices": slices,
        "PixelSpacing": rows,
    }
    return {keyword: round(float(value), 4) for keyword, value in found.items() if value is not None}


def ranges(patients: Iterable[Mapping[SeriesRole, Acquisition]]) -> Ranges:
    """Return the least and the largest value of each number by sequence, over all patients who have it."""
    found: Ranges = {}
    for patient in patients:
        for role, numbers in patient.items():
            of_role = found.setdefault(role, {})
            for keyword, value in numbers.items():
                low, high = of_role.get(keyword, (value, value))
                of_role[keyword] = min(low, value), max(high, value)
    return found


def unlike(volumes: Mapping[SeriesRole, ImageVolume], known: Ranges) -> str:
    """Say, in words, what of a study lies outside the known ranges by more than a tenth of the limit; nothing where nothing does."""
    found = []
    for role, image in volumes.items():
        of_role = known.get(role, {})
        for keyword, value in acquisition(image.header).items():
            low, high = of_role.get(keyword, (value, value))
            if value < low * (1 - _TOLERANCE) or value > high * (1 + _TOLERANCE):
                found.append(f"{role} {keyword} {value:g} ({low:g} to {high:g} {UNITS[keyword]})")
    return f"acquired outside the range of the training cohort: {', '.join(found)}" if found else ""
