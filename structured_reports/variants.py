"""One report as another SR SOP class, for archives that do not take the class it was written in.

Comprehensive 3D, Comprehensive and Enhanced SR hold the same content as long as it has no 3D coordinates (PS3.3 A.35.2, A.35.3, A.35.13),
so only the class and the UIDs change. Basic Text SR (A.35.1) has no numbers and no coordinates: each becomes a line of text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from pipelines.errors import ResultError
from structured_reports.uids import derive_uid

REPORT_CLASSES: tuple[str, ...] = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, BasicTextSRStorage)  # richest first
_KEPT_AS_TEXT = {"TEXT", "DATETIME", "DATE", "TIME", "PNAME"}  # value types of Basic Text SR that are lines already


def convertible_classes(report: Dataset) -> tuple[str, ...]:
    """Return the SOP classes as which a report can be written, its own first, then ever poorer ones.

    Of coordinates no text can be made, and they are what such a report is about.
    """
    types = {item.get("ValueType") for item in _descendants(report)}
    below = REPORT_CLASSES[REPORT_CLASSES.index(report.SOPClassUID) + 1 :]
    if "SCOORD3D" in types:
        below = ()
    return (str(report.SOPClassUID), *(c for c in below if c != BasicTextSRStorage or "SCOORD" not in types))


def convert(report: Dataset, sop_class_uid: str) -> Dataset:
    """Return a report as another SOP class, with a series and UIDs of its own; the same report always gives the same bytes.

    Identity, references and flags stay byte by byte. A predecessor is named in the same class, as it went to the same archive.

    Raises
    ------
    ResultError
        The report cannot be written as this class.
    """
    if sop_class_uid not in convertible_classes(report)[1:]:
        raise ResultError(f"report {report.SOPInstanceUID} of class {report.SOPClassUID} cannot be written as {sop_class_uid}")
    variant = copy.deepcopy(report)
    if sop_class_uid == BasicTextSRStorage:
        variant.ContentSequence = _as_text(variant.ContentSequence, at_root=True)
        variant.pop("ContentTemplateSequence", None)  # what is left does not follow TID 1500
    variant.SOPClassUID = variant.file_meta.MediaStorageSOPClassUID = sop_class_uid
    variant.SOPInstanceUID = variant.file_meta.MediaStorageSOPInstanceUID = _variant_uid(report.SOPInstanceUID, sop_class_uid)
    variant.SeriesInstanceUID = _variant_uid(report.SeriesInstanceUID, sop_class_uid)
    for study in variant.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            _rename_predecessors(series, sop_class_uid)
    return variant


def _variant_uid(uid: str, sop_class_uid: str) -> str:
    return derive_uid("variant", uid, sop_class_uid)


def _rename_predecessors(series: Dataset, sop_class_uid: str) -> None:
    if all(document.ReferencedSOPClassUID != sop_class_uid for document in series.ReferencedSOPSequence):
        series.SeriesInstanceUID = _variant_uid(series.SeriesInstanceUID, sop_class_uid)
        for document in series.ReferencedSOPSequence:
            document.ReferencedSOPInstanceUID = _variant_uid(document.ReferencedSOPInstanceUID, sop_class_uid)
            document.ReferencedSOPClassUID = sop_class_uid


def _descendants(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _descendants(child)


def _as_text(items: Iterable[Dataset], *, at_root: bool = False) -> Sequence[Dataset]:
    """Return a container's content without what Basic Text SR or its readers have no use for: images, coordinates, UIDs of groups."""
    kept = []
    for item in items:
        if item.RelationshipType != "CONTAINS":  # who observed, what was done: allowed in every class
            if at_root or item.ValueType != "UIDREF":
                kept.append(item)
        elif item.ValueType == "CONTAINER":
            item.ContentSequence = _as_text(item.get("ContentSequence", []))
            item.pop("ContentTemplateSequence", None)
            if any(child.RelationshipType == "CONTAINS" for child in item.ContentSequence):
                kept.append(item)
        elif item.ValueType in _KEPT_AS_TEXT:
            kept.append(item)
        elif item.ValueType in {"NUM", "CODE"}:
            kept.append(_line(item))
    return kept


def _line(item: Dataset) -> Dataset:
    """Return a number or code as TEXT under the same concept name; what modifies it follows in brackets."""
    line = Dataset()
    line.RelationshipType, line.ValueType = "CONTAINS", "TEXT"
    line.ConceptNameCodeSequence = item.ConceptNameCodeSequence
    modifiers = [m for m in item.get("ContentSequence", []) if m.RelationshipType == "HAS CONCEPT MOD"]
    brackets = "; ".join(f"{m.ConceptNameCodeSequence[0].CodeMeaning}: {_words(m)}" for m in modifiers)
    line.TextValue = _words(item) + (f" ({brackets})" if brackets else "")
    return line


def _words(item: Dataset) -> str:
    if item.ValueType == "CODE":
        return str(item.ConceptCodeSequence[0].CodeMeaning)
    if item.ValueType == "TEXT":
        return str(item.TextValue)
    if not item.MeasuredValueSequence:  # type 2
        return "no value"
    measured = item.MeasuredValueSequence[0]
    unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)  # UCUM codes are what people write: mm, ml, %
    return str(measured.NumericValue) + ("" if unit == "1" else f" {unit}")
