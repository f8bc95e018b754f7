"""Structured reports as a radiologist's workstation writes them: PS3.16 TID 1500, made with highdicom."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom.sr as sr
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

SHORT_AXIS = CodedConcept("103340004", "SCT", "Short Axis")
LONG_AXIS = CodedConcept("103339001", "SCT", "Long Axis")
MM, CM = codes.UCUM.Millimeter, codes.UCUM.Centimeter
LYMPH_NODE = CodedConcept("54268001", "SCT", "Pelvic lymph node")
CERVIX = CodedConcept("71252005", "SCT", "Cervix uteri")
TUMOUR = CodedConcept("372087000", "SCT", "Neoplasm, Primary")
CYST = CodedConcept("441457006", "SCT", "Cyst")

Lengths = Sequence[tuple[CodedConcept, float, CodedConcept]]


def group(
    name: str,
    lengths: Lengths,
    *,
    site: CodedConcept | None = None,
    finding: CodedConcept | None = None,
    evaluations: Sequence[tuple[CodedConcept, CodedConcept]] = (),
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return a measurement group (TID 1501)."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=name),
        finding_type=finding,
        finding_sites=[sr.FindingSite(site)] if site else None,
        measurements=[sr.Measurement(concept, value, unit) for concept, value, unit in lengths],
        qualitative_evaluations=[sr.QualitativeEvaluation(concept, value) for concept, value in evaluations],
    )


def make_report(
    sources: Sequence[Dataset], groups: Sequence[sr.MeasurementsAndQualitativeEvaluations], *, date: str = "20260102", device: bool = False
) -> Dataset:
    """Return a report on some images, by a person or a device."""
    observer = (
        sr.ObserverContext(codes.DCM.Device, sr.DeviceObserverIdentifyingAttributes(uid=generate_uid()))
        if device
        else sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name="Reader^Rita"))
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer)
        if not device
        else sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.Comprehensive3DSR(
        evidence=list(sources),
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=50,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation maker",
        is_complete=True,
        is_final=True,
        is_verified=False,
    )
    report.ContentDate, report.SeriesDescription = date, "Measurements"
    report.ManufacturerModelName = "Workstation"
    return report


def items(report: Dataset, value_type: str) -> list[Dataset]:
    """Return the content items of a type, at any depth."""
    nested = (item for element in report.iterall() if element.keyword == "ContentSequence" for item in element.value)
    return [item for item in nested if item.ValueType == value_type]


def numbers(report: Dataset) -> dict[str, float]:
    """Return the numbers of a report by the code of their concept."""
    return {i.ConceptNameCodeSequence[0].CodeValue: float(i.MeasuredValueSequence[0].NumericValue) for i in items(report, "NUM")}


def coded(report: Dataset) -> dict[str, str]:
    """Return the coded answers of a report by the code of their question."""
    return {i.ConceptNameCodeSequence[0].CodeValue: i.ConceptCodeSequence[0].CodeValue for i in items(report, "CODE")}
