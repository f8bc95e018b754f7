"""The last look at result objects before they leave: a failing one is never sent.

Everything that is wrong is collected, so that whoever looks at a rejected object sees all of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from pipelines.errors import RejectedObjects
from pipelines.types import FloatArray
from structured_reports import codes
from structured_reports.attributes import KEY_SLICE
from structured_reports.iod import missing_attributes
from structured_reports.received import TEXT_VRS, received_bytes, written_bytes
from structured_reports.source import IDENTITY, declared_character_set, has_plain_identity, normalise_source
from structured_reports.variants import REPORT_CLASSES

_GEOMETRY_TOLERANCE = 1e-3  # mm, or a direction cosine's difference
_PATIENT_AND_STUDY = ("PatientID", "StudyInstanceUID")
_MEASUREMENT_GROUP = "125007"  # DCM, TID 1501, 1410, 1411
_MAX_UID = 64  # characters, PS3.5 9.1
_BROKEN = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)  # what a look at a broken object may run into

Problems = Iterator[str]


def check_objects(objects: Sequence[Dataset], sources: Sequence[Dataset], *, identity: Dataset) -> None:
    """Hold every object against the standard, its sources and the others.

    It has what its IOD requires, patient and study equal those of ``identity`` (names byte by byte), every referenced instance is a source
    or one of the objects, the segmentation has the geometry of its source, outlines lie within their image, numbers are finite, the
    research flags stand, nothing private is in it, and it can be encoded.

    Parameters
    ----------
    sources
        Headers of the instances that the objects may refer to: of the same patient and study, though other attributes of theirs may
        differ between series.
    identity
        The header from which the objects took patient and study.

    Raises
    ------
    RejectedObjects
        Every problem names the object and the attribute.
    """
    normalised, anchor = [normalise_source(source) for source in sources], normalise_source(identity)
    received = received_bytes(identity, IDENTITY) if declared_character_set(identity) == declared_character_set(anchor) else {}
    with _no_warnings():
        problems = list(_all_problems(objects, normalised, anchor, received))
    if problems:
        raise RejectedObjects(objects, problems)


def check_variant(variant: Dataset, report: Dataset) -> None:
    """Hold a report that was written as another SOP class against the standard and the report that it was made of.

    Both are looked at, and so may be changed in what pydicom has of them: give it copies read from what is sent.

    Raises
    ------
    RejectedObjects
        Every problem names the attribute.
    """
    received = received_bytes(report, IDENTITY)
    with _no_warnings():
        references = {str(e.value) for e in report.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        problems = list(_problems_of(variant, report, [], references, received))
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        if variant.get(keyword) == report.get(keyword):
            problems.append(_name(variant, f"{keyword} is that of the report that it was made of"))
    if problems:
        raise RejectedObjects([variant], problems)


def _all_problems(objects: Sequence[Dataset], sources: Sequence[Dataset], anchor: Dataset, received: Mapping[str, bytes]) -> Problems:
    if not objects:
        yield "there is no object to send"
    for source in sources:
        for keyword in (k for k in _PATIENT_AND_STUDY if source[k].value != anchor[k].value):
            yield f"source {source.SOPInstanceUID}: {keyword} differs from that of {anchor.SOPInstanceUID}"
    known = {str(d.get("SOPInstanceUID")) for d in (*sources, *objects)}
    if len({d.get("SOPInstanceUID") for d in objects}) < len(objects):
        yield "two result objects have the same SOPInstanceUID"
    for d in objects:
        yield from _problems_of(d, anchor, sources, known, received)
    yield from _check_tracking(objects)


def _problems_of(d: Dataset, anchor: Dataset, sources: Sequence[Dataset], known: set[str], received: Mapping[str, bytes]) -> Problems:
    """Yield what is wrong with one object; a look at it that fails is a problem, too. Without sources its geometry is not looked at."""
    looks = {
        "text": _check_text(d, anchor, received),  # first: it wants names that were not decoded yet
        "attributes": missing_attributes(d),
        "identity": _check_identity(d, anchor),
        "flags": _check_flags(d),
        "elements": _check_elements(d, known),
        "encoding": _check_encoding(d),
    }
    if sources:
        looks["content"] = _check_content(d, sources)
    for what, problems in looks.items():
        try:
            yield from (_name(d, problem) for problem in problems)
        except _BROKEN as error:
            yield _name(d, f"its {what} cannot be checked ({type(error).__name__})")


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keep quiet about names that cannot be decoded: they are passed on as they came, and flagged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _name(d: Dataset, problem: str) -> str:
    return f"{d.get('Modality', '?')} {d.get('SOPInstanceUID', '?')}: {problem}"


def _check_content(d: Dataset, sources: Sequence[Dataset]) -> Problems:
    if d.SOPClassUID == SegmentationStorage:
        yield from _check_segmentation(d, sources)
    elif d.SOPClassUID == SecondaryCaptureImageStorage:
        yield from _check_capture(d, sources)
    elif d.SOPClassUID in REPORT_CLASSES:
        yield from _check_report(d, sources)


def _check_text(d: Dataset, source: Dataset, received: Mapping[str, bytes]) -> Problems:
    """Hold names and identifiers against the bytes of the source's file, or, where those are not to be had, against its header."""
    if declared_character_set(d) != declared_character_set(source):
        return
    for keyword in (k for k in IDENTITY if dictionary_VR(k) in TEXT_VRS):
        expected = received[keyword] if keyword in received else written_bytes(source, keyword)
        if written_bytes(d, keyword) != expected and d.get(keyword) == source.get(keyword):  # else it is said below
            yield f"{keyword} has other bytes than the source"


def _check_identity(d: Dataset, source: Dataset) -> Problems:
    if declared_character_set(d) != declared_character_set(source) and not has_plain_identity(source):
        yield "SpecificCharacterSet differs from the source, whose text is not plain ASCII"
    for keyword in IDENTITY:
        if d.get(keyword) != source.get(keyword):
            yield f"{keyword} differs from the source"


def _check_flags(d: Dataset) -> Problems:
    if d.get("ContentQualification") != "RESEARCH":
        yield "ContentQualification is not RESEARCH"
    if not str(d.get("SeriesDescription", "")).startswith("[RUO]"):
        yield "SeriesDescription does not begin with [RUO]"
    if d.Modality == "SR" and d.get("VerificationFlag") != "UNVERIFIED":
        yield "VerificationFlag is not UNVERIFIED"
    if (d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID) != (d.SOPClassUID, d.SOPInstanceUID):
        yield "file meta information names another object"


def _check_elements(d: Dataset, known: set[str]) -> Problems:
    predecessors = {i.ReferencedSOPInstanceUID for i in _predecessors(d)}
    for element in d.iterall():
        if element.tag.is_private:
            yield f"{element.tag} is private"
        if element.VR == "UI" and any(len(uid) > _MAX_UID for uid in _values(element.value)):
            yield f"{element.keyword} is longer than {_MAX_UID} characters"
        if element.keyword == "ReferencedSOPInstanceUID" and element.value not in known | predecessors:
            yield f"{element.keyword} refers to {element.value}, which is neither a source nor a result"
        if element.keyword == "ContinuityOfContent" and element.value != "SEPARATE":
            yield f"{element.keyword} is not SEPARATE"
        if element.VR in ("DS", "FL", "FD") and not all(math.isfinite(float(v)) for v in _values(element.value)):
            yield f"{element.keyword} is not finite"


def _predecessors(d: Dataset) -> Iterable[Dataset]:
    for study in d.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            yield from series.ReferencedSOPSequence


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _check_segmentation(d: Dataset, sources: Sequence[Dataset]) -> Problems:
    shared = d.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" in shared:
        yield "SegmentIdentificationSequence is shared; some receivers look for it per frame only"
    if not any(d.PixelData):
        yield "PixelData marks nothing"
    series = d.ReferencedSeriesSequence[0].SeriesInstanceUID
    slices = [s for s in sources if s.SeriesInstanceUID == series]
    if not slices:
        yield f"ReferencedSeriesSequence names {series}, which is no source"
        return
    first = slices[0]
    if not first.get("FrameOfReferenceUID"):
        yield "FrameOfReferenceUID is unknown: viewers break on a segmentation without patient coordinates"
    for keyword in ("Rows", "Columns", "FrameOfReferenceUID"):
        if d.get(keyword) != first.get(keyword):
            yield f"{keyword} differs from the source"
    for macro, keyword in (("PlaneOrientationSequence", "ImageOrientationPatient"), ("PixelMeasuresSequence", "PixelSpacing")):
        if not _close(shared[macro].value[0][keyword].value, first[keyword].value):
            yield f"{keyword} differs from the source"
    positions = {(str(s.SOPInstanceUID), getattr(s, "frame_number", None)): list(s.ImagePositionPatient) for s in slices}
    for number, frame in enumerate(d.PerFrameFunctionalGroupsSequence, start=1):
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        if not any(_close(position, known) for known in positions.values()):
            yield f"ImagePositionPatient of frame {number} is no source slice's"
        for item in (i for derivation in frame.get("DerivationImageSequence", []) for i in derivation.SourceImageSequence):
            named = positions.get((str(item.ReferencedSOPInstanceUID), item.get("ReferencedFrameNumber")))
            if named is None or not _close(position, named):
                yield f"frame {number} refers to an image that lies elsewhere"


def _close(a: Iterable[float], b: Iterable[float] | FloatArray) -> bool:
    return bool(np.allclose(np.asarray(list(a), dtype=float), np.asarray(list(b), dtype=float), atol=_GEOMETRY_TOLERANCE))


def _check_report(d: Dataset, sources: Sequence[Dataset]) -> Problems:
    """Every group of a graphic report has a closed outline within its image: OHIF shows nothing of a report with one that has none."""
    graphic = d.ConceptNameCodeSequence[0].CodeValue == codes.GRAPHIC_TITLE.value
    images = {str(s.SOPInstanceUID): s for s in sources}
    for group in _find(d, lambda item: item.get("ValueType") == "CONTAINER" and _concept(item) == _MEASUREMENT_GROUP):
        outlines = list(_find(group, lambda item: item.get("ValueType") == "SCOORD"))
        if graphic and not outlines:
            yield "a measurement group of a graphic report has no outline"
        for outline in outlines:
            yield from _check_outline(outline, images)


def _check_outline(outline: Dataset, images: Mapping[str, Dataset]) -> Problems:
    points = np.asarray(outline.GraphicData, dtype=float).reshape(-1, 2)
    image = images.get(str(outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
    if image is None:
        yield "GraphicData lies on no source image"
        return
    if (points < 0).any() or (points > (int(image.Columns), int(image.Rows))).any():
        yield "GraphicData leaves its image"
    if not np.array_equal(points[0], points[-1]):
        yield "GraphicData is no closed outline"


def _find(item: Dataset, wanted: Callable[[Dataset], bool]) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        if wanted(child):
            yield child
        yield from _find(child, wanted)


def _concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if item.get("ConceptNameCodeSequence") else ""


def _check_capture(d: Dataset, sources: Sequence[Dataset]) -> Problems:
    if (d.PhotometricInterpretation, d.BitsStored, d.SamplesPerPixel) != ("RGB", 8, 3):
        yield "PhotometricInterpretation is not 8-bit RGB"
    if len(d.PixelData) != d.Rows * d.Columns * 3:
        yield "PixelData does not fit Rows and Columns"
    for keyword in ("BurnedInAnnotation", "SourceImageSequence"):
        if not d.get(keyword):
            yield f"{keyword} is missing"
    shown = {i.ReferencedSOPInstanceUID for i in d.SourceImageSequence} if d.ImageType[3] == KEY_SLICE else set()
    for source in (s for s in sources if s.SOPInstanceUID in shown):
        for keyword, worst in (("LossyImageCompression", "01"), ("BurnedInAnnotation", "YES")):
            if source.get(keyword) == worst != d.get(keyword):
                yield f"{keyword} is not {worst}, although it shows a source image that is"


def _check_encoding(d: Dataset) -> Problems:
    try:
        dcmwrite(BytesIO(), d, enforce_file_format=True)
    except _BROKEN as error:  # its words may quote the patient; its kind does not
        yield f"the data set cannot be encoded ({type(error).__name__})"


def _check_tracking(objects: Sequence[Dataset]) -> Problems:
    """The tumour's Tracking UID must be the same in segmentation and report, or viewers take them for two lesions."""
    reports = [d for d in objects if d.get("Modality") == "SR"]
    reported = {element.value for d in reports for element in d.iterall() if element.keyword == "UID" and element.value}
    for seg in (d for d in objects if d.get("SOPClassUID") == SegmentationStorage):
        for segment in seg.get("SegmentSequence") or ():
            if reported and segment.get("TrackingUID") not in reported:
                yield _name(seg, "TrackingUID is not in the report")
