"""Regions that people drew on ultrasound frames: closed 2D shapes (SCOORD) of structured reports, above all TID 1500.

A SEG needs a frame of reference, which ultrasound has not: outlines on ultrasound travel as SCOORD (PS3.3 C.18.6).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.imaging.elements import items, text, values
from pipelines.imaging.regions import choose_named, fill_polygon
from pipelines.types import OUR_MODEL_NAME, FloatArray, FrameRegion, Series, as_float

_TRACKING_IDENTIFIER, _FINDING = "112039", "121071"  # DCM
_PERSON_NAME, _DEVICE_NAME = "121008", "121013"  # DCM: Person Observer Name, Device Observer Name
_CURVE_POINTS = 180  # a polygon of so many vertices has 0.02 % less area than its ellipse
_CLOSED = 1e-2  # pixels between first and last vertex


class _Shape(NamedTuple):
    label: str
    code: str  # of the finding
    contour: FloatArray
    references: tuple[tuple[str, int | None], ...]  # SOP Instance UID and frame of the images


def find_frame_regions(series: Sequence[Series], images: Collection[str], *, names: Collection[str] = ()) -> tuple[FrameRegion, ...]:
    """Return the outlines of the newest report that draws a lesion on one of these images (SOP Instance UIDs).

    All outlines of one label are taken; where a report draws several labels it is the one in ``names``, else the one coded or named as a
    tumour, as for a SEG. An open polyline is a measurement, not a region. Our own reports (Manufacturer Model Name Cervinode) are never
    taken for a person's.

    Raises
    ------
    MissingRoi
        The newest report draws several labels, and which one is the tumour cannot be told.
    """
    sent = [d for s in series if s.header.modality == "SR" for d in s.instances]
    reports = [d for d in sent if text(d, "ManufacturerModelName") != OUR_MODEL_NAME]
    for report in sorted(reports, key=_written, reverse=True):
        shapes = [s for s in _shapes(report, "", "") if any(uid in images for uid, _ in s.references)]
        if shapes:
            return _of_one_label(report, shapes, names)
    return ()


def _written(report: Dataset) -> tuple[str, str, str]:
    return text(report, "ContentDate"), text(report, "ContentTime"), str(report.SOPInstanceUID)


def _of_one_label(report: Dataset, shapes: Sequence[_Shape], names: Collection[str]) -> tuple[FrameRegion, ...]:
    what = f"SR {report.SOPInstanceUID}"
    labels = list(dict.fromkeys((s.label, s.code) for s in shapes))
    number, label = choose_named([(i, label, code) for i, (label, code) in enumerate(labels)], what, names)
    contours: dict[tuple[str, int | None], list[FloatArray]] = {}
    for shape in shapes:
        if (shape.label, shape.code) == labels[number]:
            for reference in shape.references:
                contours.setdefault(reference, []).append(shape.contour)
    return tuple(
        FrameRegion(
            sop_instance_uid=uid,
            frame_number=frame,
            contours=tuple(drawn),
            description=f'SR outline "{label}"',
            drawn_by=_author(report),
            source_sop_instance_uid=str(report.SOPInstanceUID),
        )
        for (uid, frame), drawn in contours.items()
    )


def _shapes(item: Dataset, label: str, code: str) -> Iterator[_Shape]:
    """Walk the content tree (PS3.3 C.17.3); a shape belongs to the nearest container that names it (TID 1410, TID 1411)."""
    children = items(item, "ContentSequence")
    for child in children:
        concept = _concept(child, "CodeValue")
        if concept == _TRACKING_IDENTIFIER:
            label = text(child, "TextValue") or label
        elif concept == _FINDING:
            finding = items(child, "ConceptCodeSequence")
            code = text(finding[0], "CodeValue") if finding else code
            label = label or (text(finding[0], "CodeMeaning") if finding else "")
    for child in children:
        if text(child, "ValueType") == "SCOORD":
            contour = _contour(text(child, "GraphicType"), values(child, "GraphicData"))
            references = tuple(_references(child))
            if contour is not None and references:
                yield _Shape(label or _concept(child, "CodeMeaning"), code, contour, references)
        yield from _shapes(child, label, code)


def _concept(item: Dataset, keyword: str) -> str:
    names = items(item, "ConceptNameCodeSequence")
    return text(names[0], keyword) if names else ""


def _references(scoord: Dataset) -> Iterator[tuple[str, int | None]]:
    for child in items(scoord, "ContentSequence"):
        for image in items(child, "ReferencedSOPSequence"):
            uid = text(image, "ReferencedSOPInstanceUID")
            frames = [int(n) for n in map(as_float, values(image, "ReferencedFrameNumber")) if n is not None]
            yield from ((uid, frame) for frame in frames)
            if not frames:
                yield uid, None


def _contour(kind: str, data: Sequence[object]) -> FloatArray | None:
    """Return (row, column) vertices of a closed shape, ``None`` for a point or an open line (PS3.3 C.18.6.1.2).

    Graphic data are (column, row) pairs whose origin is the outer corner of the first pixel: its centre, our (0, 0), is at (0.5, 0.5).
    """
    points = np.array([n for n in map(as_float, data) if n is not None])
    if len(points) != len(data) or len(points) % 2:
        return None
    vertices = points.reshape(-1, 2)[:, ::-1] - 0.5
    angles = np.linspace(0, 2 * np.pi, _CURVE_POINTS, endpoint=False)
    if kind in ("POLYLINE", "POLYGON") and len(vertices) > 3 and np.allclose(vertices[0], vertices[-1], atol=_CLOSED):
        return np.asarray(vertices[:-1], dtype=float)
    if kind == "CIRCLE" and len(vertices) == 2:
        radius = float(np.linalg.norm(vertices[1] - vertices[0]))
        return np.asarray(vertices[0] + radius * np.column_stack([np.sin(angles), np.cos(angles)]), dtype=float)
    if kind == "ELLIPSE" and len(vertices) == 4:
        centre, major, minor = vertices[:2].mean(axis=0), (vertices[1] - vertices[0]) / 2, (vertices[3] - vertices[2]) / 2
        return np.asarray(centre + np.outer(np.cos(angles), major) + np.outer(np.sin(angles), minor), dtype=float)
    return None


def _author(report: Dataset) -> str:
    """Say who drew: the observer context of the report (TID 1001), which names a person or a device."""
    for child in items(report, "ContentSequence"):
        concept = _concept(child, "CodeValue")
        if concept == _PERSON_NAME and text(child, "PersonName"):
            return text(child, "PersonName")
        if concept == _DEVICE_NAME and text(child, "TextValue"):
            return f"device {text(child, 'TextValue')}"
    return "a person the report does not name"


def area_px(region: FrameRegion) -> float:
    """Return the area within the outlines in pixels (shoelace formula; holes count, no one frame is chosen for its holes)."""
    crosses = [c[:, 0] * np.roll(c[:, 1], -1) - c[:, 1] * np.roll(c[:, 0], -1) for c in region.contours]
    return float(sum(abs(cross.sum()) / 2 for cross in crosses))


def fill(region: FrameRegion, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the pixels (uint8 0/1) of an image of this shape whose centres lie inside the outlines, by the even-odd rule."""
    mask = np.zeros(shape, dtype=np.uint8)
    for contour in region.contours:
        mask ^= fill_polygon(contour, shape)
    return mask
