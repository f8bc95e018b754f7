"""The SR document around the content: SOP class, references, predecessor (PS3.3 A.35)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom.sr as sr
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from pipelines.errors import ResultError
from structured_reports import codes
from structured_reports.attributes import SR_SERIES, Run, stamp
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


def build_root(
    run: Run, groups: list[sr.MeasurementsAndQualitativeEvaluations], *, notice: str, library: sr.ContainerContentItem | None
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
        title=codes.concept(codes.TITLE),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(codes.concept(codes.ENGLISH)),
    )
    root: Dataset = report[0]
    comment = sr.TextContentItem(codes.concept(codes.COMMENT), run.text(notice), sr.RelationshipTypeValues.CONTAINS)
    for item in (comment, library):
        if item is not None:
            root.ContentSequence.insert(len(root.ContentSequence) - 1, item)  # before Imaging Measurements, TID 1500
    return root


def build_document(root: Dataset, evidence: Sequence[Dataset], run: Run, *, description: str) -> Dataset:
    """Return the SR document around its content, every container SEPARATE.

    Raises
    ------
    ResultError
        The SOP class asked for is none that this package writes.
    """
    context = run.context
    if context.sr_class_uid not in _CLASSES:
        raise ResultError(f"no structured report is written as SOP class {context.sr_class_uid}")
    previous = None
    if context.predecessor:
        old = Dataset()
        old.StudyInstanceUID, old.SeriesInstanceUID = run.source.StudyInstanceUID, context.predecessor.series_instance_uid
        old.SOPClassUID, old.SOPInstanceUID = context.predecessor.sop_class_uid, context.predecessor.sop_instance_uid
        previous = [old]
    document = _CLASSES[context.sr_class_uid](
        evidence=[carrier(evidence[0]), *evidence[1:]],
        content=root,
        series_instance_uid=run.series_uid("sr_main", context.sr_class_uid),
        series_number=SR_SERIES,
        sop_instance_uid=run.instance_uid("sr_main", context.sr_class_uid),
        instance_number=1,
        manufacturer=context.manufacturer,
        is_complete=True,
        coding_schemes=[codes.scheme_identification()],
        requested_procedures=run.source.get("ReferencedRequestSequence"),
        previous_versions=previous,
    )
    for element in document.iterall():
        if element.keyword == "ContinuityOfContent":
            element.value = "SEPARATE"
    stamp(document, run, description=description)
    return document
