"""The last look at result objects before they leave: a failing one is never sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from pipelines.errors import ResultError
from pipelines.types import FloatArray
from structured_reports import codes
from structured_reports.attributes import KEY_SLICE
from structured_reports.source import IDENTITY, declared_character_set, has_plain_identity, name_bytes, normalise_source

_GEOMETRY_TOLERANCE = 1e-3  # mm, or a direction cosine's difference
_PATIENT_AND_STUDY = ("PatientID", "StudyInstanceUID")
_NAMES = ("PatientName", "ReferringPhysicianName")
_MEASUREMENT_GROUP = "125007"  # DCM, TID 1501, 1410, 1411
_MAX_UID = 64  # characters, PS3.5 9.1


def check_objects(objects: Sequence[Dataset], sources: Sequence[Dataset], *, identity: Dataset) -> None:
    """Hold every object against its sources and the others.

    Patient and study equal those of ``identity`` (names byte by byte), every referenced instance is a source or one of the objects, the
    segmentation has the geometry of its source, outlines lie within their image, numbers are finite, the research flags stand, nothing
    private is in it, and it can be encoded.

    Parameters
    ----------
    sources
        Headers of the instances that the objects may refer to: of the same patient and study, though other attributes of theirs may
        differ between series.
    identity
        The header from which the objects took patient and study.

    Raises
    ------
    ResultError
        The message names the object and the attribute.
    """
    if not objects:
        raise ResultError("there is no object to send")
    normalised = [normalise_source(source) for source in sources]
    anchor = normalise_source(identity)
    for source in normalised:
        if strange := [keyword for keyword in _PATIENT_AND_STUDY if source[keyword].value != anchor[keyword].value]:
            raise ResultError(f"source {source.SOPInstanceUID}: {strange[0]} differs from that of {anchor.SOPInstanceUID}")
    known = {str(d.SOPInstanceUID) for d in (*normalised, *objects)}
    if len({d.SOPInstanceUID for d in objects}) < len(objects):
        raise ResultError("two result objects have the same SOPInstanceUID")
    for d in objects:
        _check_identity(d, anchor)
        _check_flags(d)
        _check_elements(d, known)
        if d.SOPClassUID == SegmentationStorage:
            _check_segmentation(d, normalised)
        elif d.SOPClassUID == SecondaryCaptureImageStorage:
            _check_capture(d, normalised)
        elif d.Modality == "SR":
            _check_report(d, normalised)
        _check_encoding(d)
    _check_tracking(objects)


def _fail(d: Dataset, attribute: str, problem: str) -> ResultError:
    return ResultError(f"{d.get('Modality', '?')} {d.get('SOPInstanceUID', '?')}: {attribute} {problem}")


def _check_identity(d: Dataset, source: Dataset) -> None:
    if declared_character_set(d) != declared_character_set(source) and not has_plain_identity(source):
        raise _fail(d, "SpecificCharacterSet", "differs from the source, whose text is not plain ASCII")
    for keyword in IDENTITY:
        if d.get(keyword) != source.get(keyword):
            raise _fail(d, keyword, "differs from the source")
    for keyword in _NAMES:
        if name_bytes(d, keyword) != name_bytes(source, keyword):
            raise _fail(d, keyword, "has other bytes than the source")


def _check_flags(d: Dataset) -> None:
    if d.get("ContentQualification") != "RESEARCH":
        raise _fail(d, "ContentQualification", "is not RESEARCH")
    if not str(d.get("SeriesDescription", "")).startswith("[RUO]"):
        raise _fail(d, "SeriesDescription", "does not begin with [RUO]")
    if d.Modality == "SR" and d.get("VerificationFlag") != "UNVERIFIED":
        raise _fail(d, "VerificationFlag", "is not UNVERIFIED")


def _check_elements(d: Dataset, known: set[str]) -> None:
    predecessors = {i.ReferencedSOPInstanceUID for i in _predecessors(d)}
    for element in d.iterall():
        if element.tag.is_private:
            raise _fail(d, str(element.tag), "is private")
        if element.VR == "UI" and any(len(uid) > _MAX_UID for uid in _values(element.value)):
            raise _fail(d, element.keyword, f"is longer than {_MAX_UID} characters")
        if element.keyword == "ReferencedSOPInstanceUID" and element.value not in known | predecessors:
            raise _fail(d, element.keyword, f"refers to {element.value}, which is neither a source nor a result")
        if element.keyword == "ContinuityOfContent" and element.value != "SEPARATE":
            raise _fail(d, element.keyword, "is not SEPARATE")
        if element.VR in ("DS", "FL", "FD") and not all(math.isfinite(float(v)) for v in _values(element.value)):
            raise _fail(d, element.keyword, "is not finite")


def _predecessors(d: Dataset) -> Iterable[Dataset]:
    for study in d.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            yield from series.ReferencedSOPSequence


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _check_segmentation(d: Dataset, sources: Sequence[Dataset]) -> None:
    shared = d.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        raise _fail(d, "SegmentIdentificationSequence", "is shared; some receivers look for it per frame only")
    if not any(d.PixelData):
        raise _fail(d, "PixelData", "marks nothing")
    series = d.ReferencedSeriesSequence[0].SeriesInstanceUID
    slices = [s for s in sources if s.SeriesInstanceUID == series]
    if not slices:
        raise _fail(d, "ReferencedSeriesSequence", f"names {series}, which is no source")
    first = slices[0]
    if not first.get("FrameOfReferenceUID"):
        raise _fail(d, "FrameOfReferenceUID", "is unknown: viewers break on a segmentation without patient coordinates")
    for keyword in ("Rows", "Columns", "FrameOfReferenceUID"):
        if d.get(keyword) != first.get(keyword):
            raise _fail(d, keyword, "differs from the source")
    for macro, keyword in (("PlaneOrientationSequence", "ImageOrientationPatient"), ("PixelMeasuresSequence", "PixelSpacing")):
        if not _close(shared[macro].value[0][keyword].value, first[keyword].value):
            raise _fail(d, keyword, "differs from the source")
    positions = [np.asarray(s.ImagePositionPatient, dtype=float) for s in slices]
    for number, frame in enumerate(d.PerFrameFunctionalGroupsSequence, start=1):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        if not any(_close(position, known) for known in positions):
            raise _fail(d, "ImagePositionPatient", f"of frame {number} is no source slice's")


def _close(a: Iterable[float], b: Iterable[float] | FloatArray) -> bool:
    return bool(np.allclose(np.asarray(list(a), dtype=float), np.asarray(list(b), dtype=float), atol=_GEOMETRY_TOLERANCE))


def _check_report(d: Dataset, sources: Sequence[Dataset]) -> None:
    """Every group of a graphic report has a closed outline within its image: OHIF shows nothing of a report with one that has none."""
    graphic = d.ConceptNameCodeSequence[0].CodeValue == codes.GRAPHIC_TITLE.value
    images = {str(s.SOPInstanceUID): s for s in sources}
    for group in _find(d, lambda item: item.get("ValueType") == "CONTAINER" and _concept(item) == _MEASUREMENT_GROUP):
        outlines = list(_find(group, lambda item: item.get("ValueType") == "SCOORD"))
        if graphic and not outlines:
            raise _fail(d, "a measurement group", "of a graphic report has no outline")
        for outline in outlines:
            _check_outline(d, outline, images)


def _check_outline(d: Dataset, outline: Dataset, images: Mapping[str, Dataset]) -> None:
    points = np.asarray(outline.GraphicData, dtype=float).reshape(-1, 2)
    image = images.get(str(outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
    if image is None:
        raise _fail(d, "GraphicData", "lies on no source image")
    if (points < 0).any() or (points > (int(image.Columns), int(image.Rows))).any():
        raise _fail(d, "GraphicData", "leaves its image")
    if not np.array_equal(points[0], points[-1]):
        raise _fail(d, "GraphicData", "is no closed outline")


def _find(item: Dataset, wanted: Callable[[Dataset], bool]) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        if wanted(child):
            yield child
        yield from _find(child, wanted)


def _concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if item.get("ConceptNameCodeSequence") else ""


def _check_capture(d: Dataset, sources: Sequence[Dataset]) -> None:
    if (d.PhotometricInterpretation, d.BitsStored, d.SamplesPerPixel) != ("RGB", 8, 3):
        raise _fail(d, "PhotometricInterpretation", "is not 8-bit RGB")
    if len(d.PixelData) != d.Rows * d.Columns * 3:
        raise _fail(d, "PixelData", "does not fit Rows and Columns")
    for keyword in ("BurnedInAnnotation", "SourceImageSequence"):
        if not d.get(keyword):
            raise _fail(d, keyword, "is missing")
    shown = {i.ReferencedSOPInstanceUID for i in d.SourceImageSequence} if d.ImageType[3] == KEY_SLICE else set()
    for source in (s for s in sources if s.SOPInstanceUID in shown):
        for keyword, worst in (("LossyImageCompression", "01"), ("BurnedInAnnotation", "YES")):
            if source.get(keyword) == worst != d.get(keyword):
                raise _fail(d, keyword, f"is not {worst}, although it shows a source image that is")


def _check_encoding(d: Dataset) -> None:
    try:
        dcmwrite(BytesIO(), d, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, UnicodeError) as error:
        raise _fail(d, "the data set", f"cannot be encoded: {error}") from error


def _check_tracking(objects: Sequence[Dataset]) -> None:
    """The tumour's Tracking UID must be the same in segmentation and report, or viewers take them for two lesions."""
    reported = {
        element.value for d in objects if d.Modality == "SR" for element in d.iterall() if element.keyword == "UID" and element.value
    }
    for seg in (d for d in objects if d.SOPClassUID == SegmentationStorage):
        for segment in seg.SegmentSequence:
            if reported and segment.TrackingUID not in reported:
                raise _fail(seg, "TrackingUID", "is not in the report")
