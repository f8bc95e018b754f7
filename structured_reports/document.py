"""The SR document around the content: SOP class, references, predecessor (PS3.3 A.35)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom.sr as sr
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from pipelines.errors import ResultError
from pipelines.types import Code
from structured_reports import codes
from structured_reports.attributes import Run, stamp
from structured_reports.source import carrier


class _IdentityLater:
    """Mix-in: leave patient and study to :func:`stamp`; highdicom would look up the source's SOP class, which may be any."""

    def copy_patient_and_study_information(self, dataset: Dataset) -> None:
        """Copy nothing."""


_CLASSES: dict[str, Any] = {
    uid: type(base.__name__, (_IdentityLater, base), {})
    for uid, base in (
        (Comprehensive3DSRStorage, sr.Comprehensive3DSR),
        (ComprehensiveSRStorage, sr.ComprehensiveSR),
        (EnhancedSRStorage, sr.EnhancedSR),
    )
}

_MAX_DESCRIPTION = 64  # characters, VR LO
_GRAPHIC_CLASSES = {Comprehensive3DSRStorage: ComprehensiveSRStorage}  # 2D coordinates need no more, and more receivers take it


def build_root(
    run: Run,
    groups: list[sr.MeasurementsAndQualitativeEvaluations],
    *,
    title: Code,
    notice: str,
    library: sr.ContainerContentItem | None,
) -> Dataset:
    """Return the root of TID 1500 around measurement groups and, where there is one, an image library.

    ``notice`` is a Comment before everything that was found: TID 1500 is extensible, and only its header rows come first.
    """
    context = run.context
    observer = sr.ObserverContext(
        observer_type=sr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=run.device_uid,
            name=run.model,
            manufacturer_name=context.manufacturer,
            model_name=f"{context.model_name} {context.software_version}",
            serial_number=context.station,
        ),
    )
    modality = str(run.source.get("Modality", ""))
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.concept(codes.PROCEDURE_US if modality == "US" else codes.PROCEDURE_MR),
        imaging_measurements=groups,
        title=codes.concept(title),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept(run.say.language, "RFC5646", run.say.name)
        ),
    )
    root: Dataset = report[0]
    comment = sr.TextContentItem(codes.concept(codes.COMMENT), run.text(notice), sr.RelationshipTypeValues.CONTAINS)
    for item in (comment, library):
        if item is not None:
            root.ContentSequence.insert(len(root.ContentSequence) - 1, item)  # before Imaging Measurements, TID 1500
    return root


def build_document(
    root: Dataset,
    evidence: Sequence[Dataset],
    run: Run,
    *,
    kind: str,
    series_number: int,
    description: str,
    missing: str = "",
    graphic: bool = False,
) -> Dataset:
    """Return the SR document around its content, every container SEPARATE.

    ``kind`` names the document among the objects of the run; ``missing`` says, in ASCII, what of the planned content it lacks, which makes
    it PARTIAL (PS3.3 C.17.2). A ``graphic`` one is a Comprehensive SR where the main one is of a class
    that is wider, and has no predecessor: viewers show only the last of a series, and the main report tells of versions.

    Raises
    ------
    ResultError
        The SOP class asked for is none that this package writes.
    """
    context = run.context
    if context.sr_class_uid not in _CLASSES:
        raise ResultError(f"no structured report is written as SOP class {context.sr_class_uid}")
    sop_class_uid = _GRAPHIC_CLASSES.get(context.sr_class_uid, context.sr_class_uid) if graphic else context.sr_class_uid
    document = _CLASSES[sop_class_uid](
        evidence=[carrier(evidence[0]), *evidence[1:]],
        content=root,
        series_instance_uid=run.series_uid(kind, sop_class_uid),
        series_number=series_number,
        sop_instance_uid=run.instance_uid(kind, sop_class_uid),
        instance_number=1,
        manufacturer=context.manufacturer,
        is_complete=not missing,
        coding_schemes=[codes.scheme_identification()],
        requested_procedures=run.source.get("ReferencedRequestSequence"),
        previous_versions=None if graphic else _predecessor(run),
    )
    if missing:
        document.CompletionFlagDescription = missing[:_MAX_DESCRIPTION]
    for element in document.iterall():
        if element.keyword == "ContinuityOfContent":
            element.value = "SEPARATE"
    stamp(document, run, description=description)
    return document


def _predecessor(run: Run) -> list[Dataset] | None:
    """Return what names the report that this one replaces."""
    before = run.context.predecessor
    if before is None:
        return None
    old = Dataset()
    old.StudyInstanceUID, old.SeriesInstanceUID = run.source.StudyInstanceUID, before.series_instance_uid
    old.SOPClassUID, old.SOPInstanceUID = before.sop_class_uid, before.sop_instance_uid
    return [old]
