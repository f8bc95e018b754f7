"""Read the headers of a study and group them into series.

Only headers are read here; pixels are read once a series has a role (:mod:`pipelines.imaging.geometry`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from pipelines.errors import InputError
from pipelines.imaging.diffusion import b_value
from pipelines.types import Series, SeriesHeader, as_float

_PREAMBLE = 132  # bytes: 128 of preamble and the letters DICM (PS3.10 7.1)


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
        if header.SOPInstanceUID not in seen:
            seen.add(header.SOPInstanceUID)
            groups[header.SeriesInstanceUID].append(header)
    series = [_make_series(instances) for instances in groups.values()]
    return sorted(series, key=lambda s: (_order(s.header.series_number), s.header.series_instance_uid))


def _read_header(path: Path) -> Dataset:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        missing = [k for k in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID") if not header.get(k)]
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path.name} cannot be read as DICOM: {error}") from error
    if missing:
        raise InputError(f"{path.name} has no {', '.join(missing)}")
    return header


def _order(series_number: int | None) -> int:
    return series_number if series_number is not None else 1 << 31


def _make_series(instances: list[Dataset]) -> Series:
    ordered = sorted(instances, key=lambda d: (_order(_integer(d.get("InstanceNumber"))), str(d.SOPInstanceUID)))
    return Series(header=_summarise(ordered), instances=tuple(ordered))


def _summarise(instances: list[Dataset]) -> SeriesHeader:
    first = instances[0]
    b_values = {b for b in (b_value(d) for d in instances) if b is not None}
    orientation = first.get("ImageOrientationPatient")
    return SeriesHeader(
        study_instance_uid=str(first.StudyInstanceUID),
        series_instance_uid=str(first.SeriesInstanceUID),
        modality=str(first.get("Modality") or ""),
        series_number=_integer(first.get("SeriesNumber")),
        description=str(first.get("SeriesDescription") or ""),
        sop_class_uid=str(first.get("SOPClassUID") or ""),
        n_instances=len(instances),
        image_type=_strings(first.get("ImageType")),
        scanning_sequence=_strings(first.get("ScanningSequence")),
        sequence_variant=_strings(first.get("SequenceVariant")),
        scan_options=_strings(first.get("ScanOptions")),
        sequence_name=str(first.get("SequenceName") or ""),
        echo_time_ms=as_float(first.get("EchoTime")),
        repetition_time_ms=as_float(first.get("RepetitionTime")),
        inversion_time_ms=as_float(first.get("InversionTime")),
        flip_angle_deg=as_float(first.get("FlipAngle")),
        contrast_agent=str(first.get("ContrastBolusAgent") or ""),
        b_values=tuple(sorted(b_values)),
        orientation=tuple(float(v) for v in orientation) if orientation else None,
        spacing_mm=_spacing(first),
        rows=int(first.get("Rows") or 0),
        columns=int(first.get("Columns") or 0),
        frame_of_reference_uid=str(first.get("FrameOfReferenceUID") or ""),
        manufacturer=str(first.get("Manufacturer") or ""),
        acquisition_time=str(first.get("AcquisitionTime") or ""),
    )


def _spacing(header: Dataset) -> tuple[float, float, float] | None:
    between = as_float(header.get("SpacingBetweenSlices")) or as_float(header.get("SliceThickness"))
    in_plane = header.get("PixelSpacing")
    if between is None or not in_plane:
        return None
    return (between, float(in_plane[0]), float(in_plane[1]))


def _strings(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value.upper(),)
    return tuple(str(v).upper() for v in value)  # type: ignore[attr-defined]


def _integer(value: object) -> int | None:
    number = as_float(value)
    return None if number is None else int(number)
