"""Regions of interest that people drew: SEG and RTSTRUCT objects of the study.

A human's region always wins over the segmenter, and the result says whose it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import InputError, MissingRoi
from pipelines.imaging.geometry import resample_mask
from pipelines.types import FloatArray, ImageVolume, Roi, RoiOrigin, Series, SeriesRole

_NAMES = re.compile(r"tumou?r|lesion|cervi|cancer|gtv|neoplasm|\broi\b", re.IGNORECASE)
_NEOPLASM_CODES = {
    "372087000",
    "14799000",
    "108369006",
    "363354003",
    "4147007",
}  # SCT: primary, secondary, neoplasm, cervical cancer, mass


def find_roi(series: Sequence[Series], volumes: Mapping[SeriesRole, ImageVolume]) -> Roi | None:
    """Return the newest usable SEG or RTSTRUCT region on the grid of one of ``volumes``, or ``None`` when nobody sent one.

    Our own segmentations (Manufacturer Model Name Cervinode) are never taken for a person's.

    Raises
    ------
    MissingRoi
        A region was sent but cannot be used: no segment that looks like a tumour, another frame of reference, or an empty mask.
    """
    candidates = [d for s in series for d in s.instances if _is_region(d)]
    if not candidates:
        return None
    newest = max(
        candidates,
        key=lambda d: (str(d.get("ContentDate") or d.get("StructureSetDate") or ""), str(d.get("ContentTime") or "")),
    )
    try:
        roi = _from_seg(newest, volumes) if newest.Modality == "SEG" else _from_rtstruct(newest, volumes)
    except (ValueError, AttributeError, KeyError, NotImplementedError, RuntimeError) as error:
        raise MissingRoi(f"{newest.Modality} {newest.SOPInstanceUID} cannot be read: {error}") from error
    if not roi.volume.array.any():
        raise MissingRoi(f"{newest.Modality} {newest.SOPInstanceUID} marks nothing within the images")
    return roi


def _is_region(header: Dataset) -> bool:
    return header.get("Modality") in ("SEG", "RTSTRUCT") and header.get("ManufacturerModelName") != "Cervinode"


def _target(referenced: set[str], frame_of_reference: str, volumes: Mapping[SeriesRole, ImageVolume], what: str) -> ImageVolume:
    """Return the volume that a region was drawn on, else the first one in its frame of reference."""
    for image in volumes.values():
        if image.header.series_instance_uid in referenced:
            return image
    for image in volumes.values():
        if image.header.frame_of_reference_uid == frame_of_reference:
            return image
    known = ", ".join(sorted({i.header.frame_of_reference_uid for i in volumes.values()}))
    raise MissingRoi(f"{what} lies in frame of reference {frame_of_reference}, the images in {known}")


def _from_seg(header: Dataset, volumes: Mapping[SeriesRole, ImageVolume]) -> Roi:
    seg = hd.seg.segread(header.filename)
    number, label = _choose(
        [(int(d.SegmentNumber), str(d.SegmentLabel), _type_code(d)) for d in seg.SegmentSequence],
        f"SEG {header.SOPInstanceUID}",
    )
    referenced = {str(s.SeriesInstanceUID) for s in seg.get("ReferencedSeriesSequence", [])}
    target = _target(referenced, str(seg.get("FrameOfReferenceUID", "")), volumes, f"SEG {header.SOPInstanceUID}")
    drawn = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
    mask = resample_mask(drawn.with_array((drawn.array > 0).astype(np.uint8)), target.volume)
    return _roi(target, mask, RoiOrigin.SEG, f'SEG segment {number} "{label}"', header)


def _type_code(segment: Dataset) -> str:
    sequence = segment.get("SegmentedPropertyTypeCodeSequence")
    return str(sequence[0].get("CodeValue", "")) if sequence else ""


def _choose(options: list[tuple[int, str, str]], what: str) -> tuple[int, str]:
    """Choose by code, then by name; a single segment needs neither."""
    if len(options) == 1:
        return options[0][0], options[0][1]
    for number, label, code in options:
        if code in _NEOPLASM_CODES:
            return number, label
    for number, label, _ in options:
        if _NAMES.search(label):
            return number, label
    names = ", ".join(f'"{label}"' for _, label, _ in options)
    raise MissingRoi(f"{what} has no segment that names a tumour: {names}")


def _from_rtstruct(header: Dataset, volumes: Mapping[SeriesRole, ImageVolume]) -> Roi:
    full = pydicom.dcmread(header.filename)
    names = [(int(r.ROINumber), str(r.ROIName), "") for r in full.StructureSetROISequence]
    number, label = _choose(names, f"RTSTRUCT {header.SOPInstanceUID}")
    frame = next(str(r.ReferencedFrameOfReferenceUID) for r in full.StructureSetROISequence if int(r.ROINumber) == number)
    target = _target(set(_referenced_series(full)), frame, volumes, f"RTSTRUCT {header.SOPInstanceUID}")
    contours = [c for r in full.ROIContourSequence if int(r.ReferencedROINumber) == number for c in r.get("ContourSequence", [])]
    mask = np.zeros(target.volume.spatial_shape, dtype=np.uint8)
    for contour in contours:
        points = np.asarray(contour.ContourData, dtype=float).reshape(-1, 3)
        indices = np.asarray(target.volume.map_reference_to_indices(points), dtype=float)
        k = round(float(indices[:, 0].mean()))
        if 0 <= k < mask.shape[0]:
            mask[k] ^= _fill_polygon(indices[:, 1:], mask.shape[1:])  # XOR: an inner contour is a hole
    return _roi(target, target.volume.with_array(mask), RoiOrigin.RTSTRUCT, f'RTSTRUCT structure "{label}"', header)


def _referenced_series(rtstruct: Dataset) -> Iterator[str]:
    for frame in rtstruct.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                yield str(series.SeriesInstanceUID)


def _fill_polygon(vertices_rc: FloatArray, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the pixels (uint8 0/1) whose centres lie inside a closed polygon, by the even-odd rule."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, dtype=bool)
    for (r0, c0), (r1, c1) in zip(vertices_rc, np.roll(vertices_rc, -1, axis=0), strict=True):
        if r0 == r1:
            continue
        crosses = (rows >= min(r0, r1)) & (rows < max(r0, r1))
        inside ^= crosses & (columns < c0 + (rows - r0) * (c1 - c0) / (r1 - r0))
    return inside.astype(np.uint8)


def _roi(target: ImageVolume, mask: hd.Volume, origin: RoiOrigin, description: str, header: Dataset) -> Roi:
    if header.get("StudyInstanceUID") != target.header.study_instance_uid:
        raise InputError(f"{header.Modality} {header.SOPInstanceUID} belongs to another study")
    return Roi(
        role=target.role,
        volume=mask,
        origin=origin,
        description=description,
        source_sop_instance_uid=str(header.SOPInstanceUID),
    )
