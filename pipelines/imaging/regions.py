"""Regions of interest that people drew: SEG and RTSTRUCT objects of the study.

A human's region always wins over the segmenter, and the result says whose it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import InputError, MissingRoi
from pipelines.imaging.elements import UNREADABLE, text
from pipelines.imaging.geometry import resample_mask
from pipelines.types import OUR_MODEL_NAME, FloatArray, ImageVolume, Roi, RoiOrigin, Series, SeriesRole

_NAMES = re.compile(r"tumou?r|lesion|cervi|cancer|gtv|neoplasm|\broi\b", re.IGNORECASE)
_OTHER_NAMES = re.compile(r"node|nodal|lymph|gtv[-_ ]?n|\bln\b|metast", re.IGNORECASE)  # a tumour word in them means another structure
_ORGANS = re.compile(r"bladder|rect|bowel|sigmoid|uter|ovar|vagin|femur|bone|sacr|muscle|kidney|vessel|arter|vein|body|skin", re.IGNORECASE)
_NEOPLASM_CODES = {
    "372087000",
    "14799000",
    "108369006",
    "363354003",
    "4147007",
}  # SCT: primary, secondary, neoplasm, cervical cancer, mass
_HALF = 0.5
_HOW = {"MANUAL": "by hand", "SEMIAUTOMATIC": "semi-automatically", "AUTOMATIC": "by other software"}  # Segment Algorithm Type (0062,0008)
_IN_PLANE = 0.5  # slices that a contour may spread over
_SAME_PLANE = 0.05  # slices


def find_roi(series: Sequence[Series], volumes: Mapping[SeriesRole, ImageVolume], *, names: Collection[str] = ()) -> Roi | None:
    """Return the newest usable SEG or RTSTRUCT region on the grid of one of ``volumes``, or ``None`` when nobody sent one.

    ``names`` are segment labels or structure names that the system takes for the tumour, whatever their code; then codes count, then the
    usual words. Our own segmentations (Manufacturer Model Name Cervinode) are never taken for a person's.

    Raises
    ------
    MissingRoi
        Regions were sent but none can be used: no segment or several that look like a tumour, another frame of reference, or an empty mask.
    """
    candidates = [d for s in series for d in s.instances if _is_region(d)]
    problems: list[MissingRoi] = []
    for header in sorted(candidates, key=_made_at, reverse=True):
        try:
            return _read_region(header, volumes, names)
        except MissingRoi as error:  # an organ that somebody outlined later must not hide the tumour that was outlined before
            problems.append(error)
    if problems:
        raise problems[0]
    return None


def referenced_series(series: Sequence[Series]) -> set[str]:
    """Return the UIDs of the series that the newest region of the study says it was drawn on; none where nobody sent one."""
    candidates = [d for s in series for d in s.instances if _is_region(d)]
    if not candidates:
        return set()
    newest = max(candidates, key=_made_at)
    try:
        if text(newest, "Modality") == "SEG":
            return {text(item, "SeriesInstanceUID") for item in newest.get("ReferencedSeriesSequence") or []} - {""}
        return set(_referenced_series(newest))
    except UNREADABLE:  # whoever reads the region itself says what is wrong with it
        return set()


def _read_region(header: Dataset, volumes: Mapping[SeriesRole, ImageVolume], names: Collection[str]) -> Roi:
    what = f"{text(header, 'Modality')} {text(header, 'SOPInstanceUID')}"
    try:
        roi = _from_seg(header, volumes, names) if text(header, "Modality") == "SEG" else _from_rtstruct(header, volumes, names)
    except UNREADABLE as error:
        raise MissingRoi(f"{what} cannot be read: {error}") from error
    if not roi.volume.array.any():
        raise MissingRoi(f"{what} marks nothing within the images")
    return roi


def _is_region(header: Dataset) -> bool:
    return text(header, "Modality") in ("SEG", "RTSTRUCT") and text(header, "ManufacturerModelName") != OUR_MODEL_NAME


def _made_at(header: Dataset) -> tuple[str, str, str]:
    """Return when a region was drawn, as it sorts: content, else structure set, else series; ties by UID."""
    for kind in ("Content", "StructureSet", "Series", "InstanceCreation"):
        if date := text(header, f"{kind}Date"):
            return date, text(header, f"{kind}Time"), text(header, "SOPInstanceUID")
    return "", "", text(header, "SOPInstanceUID")


def _target(referenced: set[str], frame_of_reference: str, volumes: Mapping[SeriesRole, ImageVolume], what: str) -> ImageVolume:
    """Return the volume that a region was drawn on, else the first one in its frame of reference."""
    known = sorted({i.header.frame_of_reference_uid for i in volumes.values()})
    for image in volumes.values():
        if image.header.series_instance_uid in referenced and frame_of_reference in ("", image.header.frame_of_reference_uid):
            return image
    for image in volumes.values():
        if frame_of_reference and image.header.frame_of_reference_uid == frame_of_reference:
            return image
    raise MissingRoi(f"{what} lies in frame of reference {frame_of_reference or 'none'}, the images in {', '.join(known)}")


def _from_seg(header: Dataset, volumes: Mapping[SeriesRole, ImageVolume], names: Collection[str]) -> Roi:
    what = f"SEG {text(header, 'SOPInstanceUID')}"
    seg = hd.seg.segread(header.filename)
    segments = [d for d in seg.SegmentSequence if int(d.SegmentNumber) > 0]  # 0 is the background of a label map
    options = [(int(d.SegmentNumber), str(d.SegmentLabel), _type_code(d)) for d in segments]
    number, label = choose_named(options, what, names)
    referenced = {str(s.SeriesInstanceUID) for s in seg.get("ReferencedSeriesSequence", [])}
    target = _target(referenced, text(header, "FrameOfReferenceUID"), volumes, what)
    drawn = seg.get_volume(segment_numbers=[number], combine_segments=False)
    mask = drawn.with_array((drawn.array[..., 0] >= _HALF).astype(np.uint8))  # a fractional segment is its half-maximum
    how = str(next(d for d in segments if int(d.SegmentNumber) == number).get("SegmentAlgorithmType", "")).upper()
    description = f'SEG segment {number} "{label}"' + (f", drawn {_HOW[how]}" if how in _HOW else "")
    roi = _roi(target, resample_mask(mask, target.volume), RoiOrigin.SEG, description, header)
    return replace(roi, segment_algorithm_type=how if how in _HOW else "")


def _type_code(segment: Dataset) -> str:
    sequence = segment.get("SegmentedPropertyTypeCodeSequence")
    return str(sequence[0].get("CodeValue", "")) if sequence else ""


def choose_named(options: list[tuple[int, str, str]], what: str, names: Collection[str] = ()) -> tuple[int, str]:
    """Choose among (number, label, code) by configured name, then by code, then by the usual words.

    A single segment needs none of them, only no name of an organ or a node.
    """
    wanted = {name.casefold() for name in names}
    tests: tuple[Callable[[str, str], bool], ...] = (
        lambda label, code: label.casefold() in wanted,
        lambda label, code: code in _NEOPLASM_CODES and not _OTHER_NAMES.search(label),
        lambda label, code: bool(_NAMES.search(label)) and not _OTHER_NAMES.search(label),
        lambda label, code: len(options) == 1 and not (_ORGANS.search(label) or _OTHER_NAMES.search(label)),
    )
    for test in tests:
        found = [(number, label) for number, label, code in options if test(label, code)]
        if len(found) == 1:
            return found[0]
        if found:
            labels = ", ".join(f'"{label}"' for _, label in found)
            raise MissingRoi(f"{what} has {len(found)} segments that name a tumour, which one is meant cannot be told: {labels}")
    labels = ", ".join(f'"{label}"' for _, label, _ in options)
    raise MissingRoi(f"{what} has no segment that names a tumour: {labels}")


def _from_rtstruct(header: Dataset, volumes: Mapping[SeriesRole, ImageVolume], names: Collection[str]) -> Roi:
    what = f"RTSTRUCT {text(header, 'SOPInstanceUID')}"
    full = pydicom.dcmread(header.filename)
    options = [(int(r.ROINumber), str(r.ROIName), "") for r in full.StructureSetROISequence]
    number, label = choose_named(options, what, names)
    frame = next(text(r, "ReferencedFrameOfReferenceUID") for r in full.StructureSetROISequence if int(r.ROINumber) == number)
    target = _target(set(_referenced_series(full)), frame, volumes, what)
    contours = [c for r in full.ROIContourSequence if int(r.ReferencedROINumber) == number for c in r.get("ContourSequence", [])]
    mask = _fill_contours([c for c in contours if text(c, "ContourGeometricType") in ("", "CLOSED_PLANAR")], target.volume, what)
    return _roi(target, target.volume.with_array(mask), RoiOrigin.RTSTRUCT, f'RTSTRUCT structure "{label}"', header)


def _fill_contours(contours: Sequence[Dataset], volume: hd.Volume, what: str) -> NDArray[np.uint8]:
    """Return the mask of closed contours; each slice takes the contours of the plane nearest to it.

    Contours of one plane exclude each other where they overlap, so an inner one is a hole.
    """
    shape = volume.spatial_shape
    planes: dict[float, NDArray[np.uint8]] = {}
    for contour in contours:
        points = np.asarray(contour.ContourData, dtype=float).reshape(-1, 3)
        indices = np.asarray(volume.map_reference_to_indices(points), dtype=float)
        if np.ptp(indices[:, 0]) > _IN_PLANE:
            raise MissingRoi(f"{what} has a contour that is not parallel to the slices of its images")
        depth = round(float(indices[:, 0].mean()), 2)
        near = min(planes, key=lambda known: abs(known - depth), default=None)
        plane = near if near is not None and abs(near - depth) < _SAME_PLANE else depth
        planes[plane] = planes.get(plane, np.zeros(shape[1:], dtype=np.uint8)) ^ fill_polygon(indices[:, 1:], shape[1:])
    mask = np.zeros(shape, dtype=np.uint8)
    depths = sorted(planes)
    reach = max(0.5, float(np.median(np.diff(depths))) / 2) if len(depths) > 1 else 0.5
    for k in range(shape[0]) if depths else ():
        nearest = min(depths, key=lambda depth: abs(depth - k))
        if abs(nearest - k) <= reach:
            mask[k] = planes[nearest]
    return mask


def _referenced_series(rtstruct: Dataset) -> Iterator[str]:
    for frame in rtstruct.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            for series in study.get("RTReferencedSeriesSequence", []):
                yield str(series.SeriesInstanceUID)


def fill_polygon(vertices_rc: FloatArray, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the pixels (uint8 0/1) whose centres lie inside a closed polygon, by the even-odd rule."""
    inside = np.zeros(shape, dtype=bool)
    columns = np.arange(shape[1])
    for (r0, c0), (r1, c1) in zip(vertices_rc, np.roll(vertices_rc, -1, axis=0), strict=True):
        first, last = np.clip(np.ceil([min(r0, r1), max(r0, r1)]), 0, shape[0]).astype(int)
        if first < last:
            crossings = c0 + (np.arange(first, last) - r0) * (c1 - c0) / (r1 - r0)
            inside[first:last] ^= columns < crossings[:, None]
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
