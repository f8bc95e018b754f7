"""The result objects as a set: identity, references, UIDs, numbers; and the check that holds them to it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from pipelines.errors import RejectedObjects, ResultError
from pipelines.systems import catalogue
from pipelines.types import BundleStatus, Code, Measurement, Refusal, RoiOrigin, SeriesRole
from structured_reports import codes, wording
from structured_reports.check import check_objects
from structured_reports.context import Predecessor
from structured_reports.groups import risk
from structured_reports.language import load_messages
from tests.results import ADC, DIAMETER, ML, MM, MM2_S, VOLUME, Result, make_context, make_prediction, make_result

# Codes of the contract that pydicom's dictionary does not carry, verified elsewhere.
_VERIFIED_ELSEWHERE = {"371512006", "24869-0", "en", "MR", "US", "RID13", "ml", "mm", "mm2/s", "%", "1"}

LATER = datetime(2026, 1, 2, 9, 30, 16, tzinfo=UTC)
EN = load_messages("en")
REFUSAL = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_SEQUENCE", ("No DWI series was found.",))


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


@pytest.fixture(scope="module")
def objects(result: Result) -> list[Dataset]:
    return result.build()


def numbers(report: Dataset) -> dict[str, tuple[float, str]]:
    """Return value and unit of each NUM by its code value."""
    found = {}
    for item in _items(report):
        if item.ValueType == "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            found[item.ConceptNameCodeSequence[0].CodeValue] = (float(measured.NumericValue), unit)
    return found


def texts(report: Dataset) -> list[str]:
    return [item.TextValue for item in _items(report) if item.ValueType == "TEXT"]


def first_comment(report: Dataset) -> str:
    """Return what stands first after the header rows of the report."""
    return next(item.TextValue for item in report.ContentSequence if item.RelationshipType == "CONTAINS")


def _items(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence", []))
    return children + [below for child in children for below in _items(child)]


def test_objects_come_in_the_order_in_which_they_are_sent(objects: list[Dataset]) -> None:
    assert [(d.Modality, d.SeriesNumber) for d in objects] == [("OT", 9301)] * 5 + [("SEG", 9101), ("SR", 9202), ("SR", 9201)]


def test_warning_shows_in_the_first_22_characters_of_every_series(objects: list[Dataset]) -> None:
    for d in objects:
        assert d.SeriesDescription.startswith("[RUO]")
        assert "DEMO" in d.SeriesDescription[:22]


def test_report_holds_the_numbers_of_the_prediction(objects: list[Dataset]) -> None:
    found = numbers(objects[-1])
    assert found["P.OLNM"] == (71.3, "%")
    assert (found["P.OLNM.LO"][0], found["P.OLNM.HI"][0], found["THRESHOLD"][0]) == (58.1, 82.2, 48.2)
    assert found["371886008"][0] == pytest.approx(82.2 - 71.3)
    assert found["371885007"][0] == pytest.approx(71.3 - 58.1)
    assert (found["118565006"], found["L0JK"], found["113041"]) == ((10.56, "ml"), (30.2, "mm"), (0.000912, "mm2/s"))
    assert sum(name.startswith("SHAP.") for name in found) == 5


def test_reports_with_all_that_was_planned_are_complete(objects: list[Dataset]) -> None:
    assert [(d.CompletionFlag, "CompletionFlagDescription" in d) for d in objects if d.Modality == "SR"] == [("COMPLETE", False)] * 2


def test_report_and_segmentation_track_the_same_tumour(objects: list[Dataset]) -> None:
    tracked = {item.UID for item in _items(objects[-1]) if item.ValueType == "UIDREF"}
    assert objects[-3].SegmentSequence[0].TrackingUID in tracked


def test_segmented_series_is_the_first_evidence(result: Result, objects: list[Dataset]) -> None:
    series = objects[-1].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert series[0].SeriesInstanceUID == result.evidence.volumes[SeriesRole.T2W_FS].header.series_instance_uid


def test_segment_frames_are_the_roi(result: Result, objects: list[Dataset]) -> None:
    seg = objects[-3]
    assert all("SegmentIdentificationSequence" in frame for frame in seg.PerFrameFunctionalGroupsSequence)
    image, roi = result.evidence.volumes[SeriesRole.T2W_FS], result.evidence.roi.volume.array
    slices = {tuple(d.ImagePositionPatient): i for i, d in enumerate(image.sources)}
    frames = [slices[tuple(f.PlanePositionSequence[0].ImagePositionPatient)] for f in seg.PerFrameFunctionalGroupsSequence]
    assert sorted(frames) == list(np.flatnonzero(roi.any(axis=(1, 2))))
    assert np.array_equal(seg.pixel_array, roi[frames])


def test_every_code_is_short_enough_and_known(objects: list[Dataset]) -> None:
    for element in objects[-1].iterall():
        if element.VR != "SQ" or not element.keyword.endswith("CodeSequence"):
            continue
        for code in element.value:
            assert len(code.CodeMeaning) <= 64
            value = code.get("CodeValue") or code.LongCodeValue
            if code.CodingSchemeDesignator == codes.PRIVATE:
                assert len(value) <= 16
            elif value not in _VERIFIED_ELSEWHERE:
                scheme = concepts[code.CodingSchemeDesignator]
                assert any(value in entry for entry in scheme.values()), value


@pytest.mark.parametrize("change", ["pixel", "roi", "bundle", "station", "version", "source", "time", "identity"])
def test_every_uid_changes_with_what_the_result_depends_on(result: Result, objects: list[Dataset], change: str) -> None:
    evidence, prediction, context, sources = result.evidence, result.prediction, result.context, result.sources
    if change == "pixel":
        image = evidence.volumes[SeriesRole.DWI]
        array = image.volume.array.copy()
        array[0, 0, 0] += 1
        evidence = replace(evidence, volumes={**evidence.volumes, SeriesRole.DWI: replace(image, volume=image.volume.with_array(array))})
    elif change == "roi":
        array = evidence.roi.volume.array.copy()
        array[8, 5, 5] = 1
        evidence = replace(evidence, roi=replace(evidence.roi, volume=evidence.roi.volume.with_array(array)))
    elif change == "bundle":
        prediction = make_prediction(bundle_digest="cd34" * 16)
    elif change == "identity":
        result = make_result(PatientName="Other^Name")
        evidence, sources = result.evidence, result.sources
    elif change == "source":
        more = copy.deepcopy(sources[0])
        more.SOPInstanceUID = "2.25.5"
        sources = (*sources, more)
    else:
        context = make_context(**{"station": {"station": "OTHER"}, "version": {"version": 2}, "time": {"created_at": LATER}}[change])
    changed = Result(sources, prediction, evidence, context).build()
    # Nothing of the roi's sequence, of who drew it or of the job: the same segmentation.
    of_others = change in ("pixel", "version", "source", "bundle", "time")
    for before, after in zip(objects, changed, strict=True):
        same = of_others and before.SOPClassUID == SegmentationStorage
        assert (before.SOPInstanceUID == after.SOPInstanceUID) is same
        assert (before.SeriesInstanceUID == after.SeriesInstanceUID) is same
        assert (_encode(before) == _encode(after)) is same


def _encode(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("origin", "segmenter", "shared"),
    [(RoiOrigin.SEG, "", True), (RoiOrigin.MODEL, "CRFE abc", True), (RoiOrigin.MODEL, "CRFE def", False)],
)
def test_systems_that_use_the_same_region_have_one_segmentation(origin: RoiOrigin, segmenter: str, shared: bool) -> None:
    one = make_result(origin=origin)
    one = replace(one, evidence=replace(one.evidence, segmenter="CRFE abc" if segmenter else None))
    prediction = make_prediction(system="lvsi_mri", bundle_version="demo-9", bundle_digest="f" * 64)
    context = replace(one.context, spec=catalogue()["lvsi_mri"], version=3, predecessor=None)
    other = Result(one.sources, prediction, replace(one.evidence, segmenter=segmenter or None), context)
    first, second = (next(d for d in result.build() if d.SOPClassUID == SegmentationStorage) for result in (one, other))
    assert (first.SOPInstanceUID == second.SOPInstanceUID) is shared
    assert (first.SeriesInstanceUID == second.SeriesInstanceUID) is shared
    assert (_encode(first) == _encode(second)) is shared
    assert "TUMOUR" in first.SeriesDescription


def test_segmentation_of_images_without_a_date_is_of_its_job() -> None:
    dates = ("StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime")
    result = make_result(**dict.fromkeys(dates))
    later = replace(result, context=make_context(created_at=LATER))
    first, second = (next(d for d in r.build() if d.Modality == "SEG") for r in (result, later))
    assert (first.ContentTime, second.ContentTime) == ("093015", "093016") and first.SOPInstanceUID != second.SOPInstanceUID


def test_later_versions_keep_the_segmentation_of_the_region_that_the_bundle_drew(result: Result, objects: list[Dataset]) -> None:
    again = Result(result.sources, result.prediction, result.evidence, replace(result.context, version=2)).build()
    assert _encode(again[-3]) == _encode(objects[-3])
    assert {d.SOPInstanceUID for d in again} & {d.SOPInstanceUID for d in objects} == {objects[-3].SOPInstanceUID}


def test_report_names_its_predecessor(result: Result) -> None:
    context = make_context(version=2, predecessor=Predecessor("2.25.11", "2.25.12"))
    report = Result(result.sources, result.prediction, result.evidence, context).build()[-1]
    series = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert (series.SeriesInstanceUID, series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == ("2.25.11", "2.25.12")


def test_versions_are_told_apart(result: Result, objects: list[Dataset]) -> None:
    context = make_context(version=2, predecessor=Predecessor.of(objects[-1]))
    second = Result(result.sources, result.prediction, result.evidence, context)
    again = second.build()
    assert [d.SeriesDescription for d in again[-4:]] == [
        "[RUO] DEMO OLNM v2 pages",
        "[RUO] DEMO TUMOUR SEG",  # the region is still the same, and no one system's
        "[RUO] DEMO OLNM v2 ROI",
        "[RUO] DEMO OLNM v2",
    ]
    assert first_comment(again[-1]).endswith(" Version 2, replaces the result of 2026-01-02 09:30:15.")
    page, refusal = second.refuse(REFUSAL)
    assert page.SeriesDescription == "[RUO] OLNM v2 REFUSED pages"
    assert refusal.SeriesDescription == "[RUO] OLNM v2 REFUSED"
    assert "Version 2, replaces" in first_comment(refusal)
    assert "ersion" not in first_comment(objects[-1])


def test_version_is_named_where_its_predecessor_left_no_report() -> None:
    assert wording.version_words(make_context(version=3), EN) == "Version 3"


def test_mark_comes_before_everything_that_was_found(result: Result, objects: list[Dataset]) -> None:
    for report, words in (
        (objects[-1], "DEMO MODEL - NOT FOR CLINICAL USE. RESEARCH USE ONLY"),
        (result.refuse(REFUSAL)[-1], "RESEARCH USE ONLY"),
    ):
        assert first_comment(report).startswith(words)
    assert all(d.get("ContentDescription", d.get("DerivationDescription", "DEMO")).startswith("DEMO") for d in objects)


def test_time_is_that_of_the_node_where_the_source_declares_no_zone(result: Result) -> None:
    local = datetime(2026, 1, 3, 4, 0, tzinfo=timezone(timedelta(hours=8)))
    built = Result(result.sources, result.prediction, result.evidence, make_context(created_at=local)).build()
    ours, seg = [d for d in built if d.Modality != "SEG"], next(d for d in built if d.Modality == "SEG")
    assert {(d.ContentDate, d.ContentTime) for d in ours} == {("20260103", "040000")}
    assert {d.ContributingEquipmentSequence[-1].ContributionDateTime for d in ours} == {"20260103040000+0800"}
    assert (seg.ContentDate, seg.ContentTime) == (result.sources[0].ContentDate, result.sources[0].ContentTime)
    assert seg.ContributingEquipmentSequence[-1].ContributionDateTime == "20260101102000"


def test_dates_are_in_the_time_zone_of_the_source() -> None:
    result = make_result(TimezoneOffsetFromUTC="+0800")
    late = Result(result.sources, result.prediction, result.evidence, make_context(created_at=datetime(2026, 1, 2, 20, 0, tzinfo=UTC)))
    assert {(d.ContentDate, d.ContentTime) for d in late.build() if d.Modality != "SEG"} == {("20260103", "040000")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, codes.HIGH_RISK),
        ({"interval": (0.4, 0.9)}, codes.MODERATE_RISK),
        ({"interval": None}, None),
        ({"interval": (0.05, 0.2), "call": "negative", "probability": 0.1}, codes.LOW_RISK),
    ],
)
def test_risk_follows_call_and_interval(changes: dict[str, Any], expected: Code | None) -> None:
    assert risk(make_prediction(**changes)) == expected


def test_report_has_a_risk_only_where_there_is_an_interval(result: Result, objects: list[Dataset]) -> None:
    bare = Result(result.sources, make_prediction(interval=None), result.evidence, result.context).build()[-1]
    named = [{i.ConceptNameCodeSequence[0].CodeValue for i in _items(r) if i.ValueType == "CODE"} for r in (objects[-1], bare)]
    assert ["RISK" in names for names in named] == [True, False]


def test_negative_call_states_no_finding(result: Result) -> None:
    prediction = make_prediction(probability=0.1, call="negative", interval=None)
    report = Result(result.sources, prediction, result.evidence, result.context).build()[-1]
    values = {item.ConceptCodeSequence[0].CodeValue for item in _items(report) if item.ValueType == "CODE"}
    assert "OLNM.NEG" in values
    assert "14799000" not in values


@pytest.mark.parametrize(("probability", "written"), [(1.0, 99.9), (0.99999, 99.9), (1e-9, 0.1), (0.0, 0.1)])
def test_probability_is_never_written_as_certainty(result: Result, probability: float, written: float) -> None:
    prediction = make_prediction(probability=probability, call="positive" if probability > 0.5 else "negative", interval=None)
    report = Result(result.sources, prediction, result.evidence, result.context).build()[-1]
    assert numbers(report)["P.OLNM"] == (written, "%")


def test_probability_and_threshold_are_told_apart(result: Result) -> None:
    prediction = make_prediction(probability=0.48214, threshold=0.4816, interval=(0.4, 0.5))
    report = Result(result.sources, prediction, result.evidence, result.context).build()[-1]
    found = numbers(report)
    assert (found["P.OLNM"][0], found["THRESHOLD"][0]) == (48.21, 48.16)
    assert any("probability 48.21 % (40.00 to 50.00 %), decision threshold 48.16 %" in text for text in texts(report))
    summary = wording.summary(result.context.spec, make_prediction(probability=0.482, threshold=0.482, interval=None), EN)
    assert "probability 48.2 %, decision threshold 48.2 %" in summary


def test_extreme_numbers_are_written_and_those_that_are_none_are_named() -> None:
    measurements = (
        Measurement(VOLUME, np.float32(10.56), ML),  # type: ignore[arg-type]
        Measurement(DIAMETER, math.nan, MM),
        Measurement(ADC, 1e-17, MM2_S),
        Measurement(Code("103339001", "SCT", "Long axis"), 1e20, MM),
        Measurement(Code("103340004", "SCT", "Short axis"), math.inf, MM),
    )
    report = make_result(measurements=measurements).build()[-1]
    found = numbers(report)
    assert (found["118565006"][0], found["113041"][0], found["103339001"][0]) == (10.56, 1e-17, 1e20)
    assert (report.CompletionFlag, report.CompletionFlagDescription) == ("PARTIAL", "2 planned numbers are left out, see the QC group")
    assert "L0JK" not in found
    assert "Maximum 3D diameter: not a finite number" in texts(report)
    assert "Short axis: not a finite number" in texts(report)


@pytest.mark.parametrize(
    ("origin", "words"), [(RoiOrigin.MODEL, "not checked by a person"), (RoiOrigin.SEG, "received with the study (DICOM SEG)")]
)
def test_report_says_whose_region_it_is(origin: RoiOrigin, words: str) -> None:
    assert any(words in text for text in texts(make_result(origin=origin).build()[-1]))


def test_empty_roi_gives_an_error_and_no_segmentation(result: Result) -> None:
    empty = replace(result.evidence.roi, volume=result.evidence.roi.volume.with_array(np.zeros_like(result.evidence.roi.volume.array)))
    with pytest.raises(ResultError, match="roi on T2W_FS is empty"):
        Result(result.sources, result.prediction, replace(result.evidence, roi=empty), result.context).build()


def test_roi_off_its_grid_gives_an_error(result: Result) -> None:
    shifted = replace(result.evidence.roi, volume=result.evidence.roi.volume.flip_spatial(0))
    with pytest.raises(ResultError, match="slice 1 lies at"):
        Result(result.sources, result.prediction, replace(result.evidence, roi=shifted), result.context).build()


def test_multi_frame_source_is_refused_clearly() -> None:
    with pytest.raises(ResultError, match="multi-frame"):
        make_result(NumberOfFrames=4).build()


def test_refusal_refers_only_to_the_patient_it_is_filed_under(result: Result) -> None:
    stranger = copy.deepcopy(result.sources[-1])
    stranger.PatientID = "T-2"
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MIXED_PATIENTS", ("Two patients.",))
    page, report = Result((*result.sources[:-1], stranger), result.prediction, result.evidence, result.context).refuse(refusal)
    referred = {e.value for e in report.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert stranger.SOPInstanceUID not in referred
    assert referred == {d.SOPInstanceUID for d in (*result.sources[:-1], page)}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientWeight", "71"),
        ("PatientAge", "055Y"),
        ("StudyDescription", "Pelvis"),
        ("AccessionNumber", "B2"),
        ("ReferringPhysicianName", "R^R"),
    ],
)
def test_series_may_differ_in_what_is_not_identity(result: Result, keyword: str, value: str, first: bool) -> None:
    sources = tuple(copy.deepcopy(d) for d in result.sources)
    for d in sources:
        if (d.SeriesInstanceUID == sources[0].SeriesInstanceUID) == first:
            setattr(d, keyword, value)
    by_uid = {d.SOPInstanceUID: d for d in sources}
    volumes = {r: replace(v, sources=tuple(by_uid[s.SOPInstanceUID] for s in v.sources)) for r, v in result.evidence.volumes.items()}
    changed = Result(sources, result.prediction, replace(result.evidence, volumes=volumes), result.context)
    expected = volumes[SeriesRole.T2W_FS].sources[0].get(keyword)
    assert all(d.get(keyword) == expected for d in changed.build())
    assert all(d.get(keyword) == sources[0].get(keyword) for d in changed.refuse(REFUSAL))


def test_region_object_without_patient_study_attributes_may_come_first() -> None:
    result = make_result(PatientWeight="70.5", PatientAge="055Y")
    region = Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
        region[keyword] = result.sources[0][keyword]
    region.SOPClassUID, region.SOPInstanceUID, region.SeriesInstanceUID = RTStructureSetStorage, "2.25.7", "2.25.8"
    region.Modality, region.SeriesNumber = "RTSTRUCT", 1
    objects = Result((region, *result.sources), result.prediction, result.evidence, result.context).build()
    assert {(d.PatientWeight, d.PatientAge) for d in objects} == {(70.5, "055Y")}


def test_source_of_another_patient_is_found(result: Result, objects: list[Dataset]) -> None:
    for keyword in ("PatientID", "StudyInstanceUID"):
        stranger = copy.deepcopy(result.sources[-1])
        setattr(stranger, keyword, "2.25.9")
        with pytest.raises(ResultError, match=f"{stranger.SOPInstanceUID}: {keyword} differs"):
            check_objects(objects, (*result.sources[:-1], stranger), identity=result.sources[0])


def test_refusal_of_a_study_with_unknown_objects_is_written(result: Result) -> None:
    strange = copy.deepcopy(result.sources[0])
    strange.SOPClassUID = "1.2.3.4"
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "INPUT", ("Nothing usable.",))
    page, report = Result((strange,), result.prediction, result.evidence, result.context).refuse(refusal)
    assert page.PatientName == report.PatientName == strange.PatientName


def test_unknown_refusal_code_is_reported_as_technical_failure(result: Result) -> None:
    _, report = result.refuse(Refusal("olnm_mri", "Occult", "BUNDLE", ("The bundle is damaged.",), failed=True))
    assert "R.FAILURE" in {i.ConceptCodeSequence[0].CodeValue for i in _items(report) if i.ValueType == "CODE"}
    assert report.SeriesDescription == "[RUO] OLNM FAILED"
    assert (report.CompletionFlag, report.CompletionFlagDescription) == ("PARTIAL", "FAILED: there is no result")


@pytest.mark.parametrize(
    ("index", "keyword", "value", "message"),
    [
        (0, "PatientID", "other", "PatientID differs"),
        (-1, "PatientName", "Other^Name", "PatientName differs"),
        (-1, "VerificationFlag", "VERIFIED", "VerificationFlag"),
        (-3, "ContentQualification", "PRODUCT", "ContentQualification"),
        (-3, "Rows", 4, "Rows differs"),
        (0, "SeriesDescription", "AI result", "SeriesDescription"),
        (0, "Columns", 4, "PixelData"),
        (0, "BurnedInAnnotation", "", "BurnedInAnnotation"),
        (-3, "PixelData", b"\0\0", "PixelData marks nothing"),
    ],
)
def test_check_names_object_and_attribute(
    result: Result, objects: list[Dataset], index: int, keyword: str, value: object, message: str
) -> None:
    broken = [copy.deepcopy(d) for d in objects]
    setattr(broken[index], keyword, value)
    with pytest.raises(ResultError, match=message) as caught:
        check_objects(broken, result.sources, identity=result.sources[0])
    assert broken[index].SOPInstanceUID in str(caught.value)


_SR_ATTRIBUTES = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality InstanceNumber Manufacturer CompletionFlag
    VerificationFlag ContentDate ContentTime ValueType ConceptNameCodeSequence ContentSequence ContinuityOfContent ContentTemplateSequence
    CurrentRequestedProcedureEvidenceSequence PerformedProcedureCodeSequence PatientName PatientID StudyDate"""
_SEG_ATTRIBUTES = """SOPInstanceUID SeriesInstanceUID Modality InstanceNumber SegmentationType SegmentSequence ImageType ContentLabel
    DimensionOrganizationSequence DimensionIndexSequence BitsAllocated BitsStored HighBit Rows NumberOfFrames SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence ManufacturerModelName DeviceSerialNumber SoftwareVersions PixelData"""
_SC_ATTRIBUTES = """SOPClassUID SOPInstanceUID SeriesInstanceUID Modality ConversionType ImageType InstanceNumber PhotometricInterpretation
    SamplesPerPixel Rows Columns BitsAllocated BitsStored PixelRepresentation PixelData AccessionNumber"""
_REQUIRED = [(i, k) for i, names in ((-1, _SR_ATTRIBUTES), (-3, _SEG_ATTRIBUTES), (0, _SC_ATTRIBUTES)) for k in names.split()]


@pytest.mark.parametrize(("index", "keyword"), _REQUIRED, ids=[f"{['SC', 'SEG', 'SR'][i % 4 % 3]} {k}" for i, k in _REQUIRED])
def test_check_misses_every_attribute_that_the_standard_requires(result: Result, objects: list[Dataset], index: int, keyword: str) -> None:
    broken = list(objects)
    broken[index] = copy.deepcopy(objects[index])
    del broken[index][keyword]
    with pytest.raises(RejectedObjects, match=keyword) as caught:
        check_objects(broken, result.sources, identity=result.sources[0])
    assert caught.value.objects == tuple(broken)


def test_check_looks_into_items(result: Result, objects: list[Dataset]) -> None:
    broken = [copy.deepcopy(d) for d in objects]
    number = next(item for item in _items(broken[-1]) if item.ValueType == "NUM")
    del number.MeasuredValueSequence
    del broken[-3].SegmentSequence[0].SegmentLabel
    del broken[-3].PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    broken[0].SourceImageSequence[0].ReferencedSOPClassUID = ""
    with pytest.raises(RejectedObjects) as caught:
        check_objects(broken, result.sources, identity=result.sources[0])
    for words in ("MeasuredValueSequence", "SegmentSequence.SegmentLabel", "PlanePositionSequence", "ReferencedSOPClassUID is empty"):
        assert any(words in problem for problem in caught.value.problems)


def test_items_that_the_source_left_incomplete_are_passed_on() -> None:
    number = Dataset()
    number.PatientID = "T-7"  # without TypeOfPatientID, which the standard requires
    assert all(d.OtherPatientIDsSequence[0].PatientID == "T-7" for d in make_result(OtherPatientIDsSequence=[number]).build())


def test_check_tells_all_that_is_wrong(result: Result, objects: list[Dataset]) -> None:
    broken = [copy.deepcopy(d) for d in objects]
    for d in broken:
        d.ContentQualification, d.SeriesDescription, d.PatientID = "PRODUCT", "AI result", "other"
    with pytest.raises(RejectedObjects, match=r"; \d+ more problems$") as caught:
        check_objects(broken, result.sources, identity=result.sources[0])
    found = caught.value.problems
    assert len(found) == len(set(found)) == 3 * len(broken)
    for d in broken:
        assert sum(d.SOPInstanceUID in problem for problem in found) == 3


def test_check_finds_dangling_references_private_elements_and_shifted_frames(result: Result, objects: list[Dataset]) -> None:
    with pytest.raises(ResultError, match="neither a source nor a result"):
        check_objects([d for d in objects if d.Modality != "SEG"], result.sources, identity=result.sources[0])
    for message, breaks in (
        ("is private", lambda d: d.add_new(0x00290010, "LO", "VENDOR")),
        ("no source slice", lambda d: _shift(d)),
        ("refers to an image that lies elsewhere", lambda d: _swap_references(d)),
    ):
        broken = [copy.deepcopy(d) for d in objects]
        breaks(broken[-3])
        with pytest.raises(ResultError, match=message):
            check_objects(broken, result.sources, identity=result.sources[0])


def _shift(seg: Dataset) -> None:
    position = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(v) + 0.5 for v in position.ImagePositionPatient]


def _swap_references(seg: Dataset) -> None:
    first, second = (f.DerivationImageSequence[0].SourceImageSequence[0] for f in seg.PerFrameFunctionalGroupsSequence[:2])
    first.ReferencedSOPInstanceUID, second.ReferencedSOPInstanceUID = second.ReferencedSOPInstanceUID, first.ReferencedSOPInstanceUID


def test_feature_words_fit_a_code_meaning(result: Result) -> None:
    words = [wording.feature_words(c, EN) for c in result.evidence.contributions]
    assert words[0] == "DWI LoG 1.0 mm GLSZM Small Area High Gray Level Emphasis"
    assert words[2] == "DWI deep feature 17"
    assert all(len(f"SHAP {w}") <= 64 for w in words)


@pytest.mark.parametrize(
    ("probability", "words"), [(0.99999, "> 99.9 %"), (1e-6, "< 0.1 %"), (1.0, "> 99.9 %"), (0.9994, "99.9 %"), (0.5, "50.0 %")]
)
def test_probability_is_never_worded_as_certainty(probability: float, words: str) -> None:
    assert wording.percent_words(probability, 1) == words


def test_validated_bundle_still_says_research_use_only() -> None:
    assert wording.banner(BundleStatus.VALIDATED, EN) == "RESEARCH USE ONLY"
    prediction = make_prediction()
    assert wording.series_description(prediction.finding, "SEG", version=1, status=BundleStatus.RESEARCH) == "[RUO] OLNM SEG"
