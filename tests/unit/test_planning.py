"""What a job waits for, and what happens when nothing comes: clinical values, missing series, missing images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import Dataset

from node.completeness import find_gap
from node.config import Route
from node.jobs import JobState
from node.planning import BundleReference, Circumstances, Gap, make_job
from node.storage.records import Job, PlannedJob
from pipelines.features.clinical import parse_all
from pipelines.imaging.series import _make_series, read_series
from pipelines.spec import ClinicalInput, PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import Series, SeriesRole
from tests.mr import OLNM_STUDY, T1W, T2W_FS, make_series, write_study
from tests.mr import Sequence as MrSequence

PLAIN = replace(catalogue()["olnm_mri"], inclusion=())
SPEC = replace(
    PLAIN,
    clinical=(
        ClinicalInput("age_y", required=False),
        ClinicalInput("figo_stage", wait_s=100.0, fallback="refuse"),
        ClinicalInput("max_tumour_diameter_mm", wait_s=50.0, fallback="without"),
    ),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLNM, ULTRASOUND = (catalogue()[name] for name in ("olnm_mri", "plnm_us"))
DAY = 86400.0
ALL = parse_all({"age_y": 47, "figo_stage": "IB2", "max_tumour_diameter_mm": 31, "hpv": "yes"}, source="test")
HOLD = Gap("no DWI series came", "hold", 60.0)


def _series(*sequences: MrSequence) -> list[Series]:
    grouped: dict[str, list[Dataset]] = {}
    for sequence in sequences:
        for ds in make_series(replace(sequence, shape=(6, 8, 8))):
            grouped.setdefault(ds.SeriesInstanceUID, []).append(ds)
    return [_make_series(instances) for instances in grouped.values()]


FULL, PART = _series(*OLNM_STUDY), _series(T1W, T2W_FS)


def _earlier(job: PlannedJob, state: JobState = JobState.DONE) -> Job:
    return Job(job.order, job.key, job.destinations, state, None, 1, "", 0.0, 0.0, job.waits_until)


def _make(
    series: Sequence[Series] = FULL, earlier: Sequence[Job] = (), *, spec: PipelineSpec = SPEC, names: str = "", **known: Any
) -> PlannedJob | None:
    circumstances = Circumstances(**{"clinical": {name: ALL[name] for name in names.split()}, "waited_s": 0.0, **known})
    return make_job(series, spec, bundle=BundleReference("1", "d"), station="NODE", created_at=NOW, earlier=earlier, known=circumstances)


def _job(*positional: Any, **options: Any) -> PlannedJob:
    job = _make(*positional, **options)
    assert job is not None
    return job


def test_job_takes_the_values_that_its_system_declares() -> None:
    job = _job(names="age_y figo_stage max_tumour_diameter_mm hpv")
    assert [(v.name, v.words, v.source) for v in job.order.clinical] == [
        ("age_y", "47 years", "test"), ("figo_stage", "IB2", "test"), ("max_tumour_diameter_mm", "31 mm", "test"),
    ]  # fmt: skip
    assert job.waits_until is None and job.waits_for == ""


def test_system_without_clinical_inputs_has_the_same_key_whatever_is_known() -> None:
    assert _job(spec=PLAIN, names="age_y figo_stage").key == _job(spec=PLAIN).key
    assert _job(spec=PLAIN).order.clinical == ()


def test_missing_required_values_are_waited_for_as_long_as_declared() -> None:
    job = _job(names="age_y")
    assert job.waits_until == NOW.timestamp() + 100
    assert job.waits_for == "waits until 2026-01-01T00:01:40+00:00 for clinical value figo_stage; clinical value max_tumour_diameter_mm"
    assert _job(names="figo_stage").waits_until == NOW.timestamp() + 50
    assert _job(names="figo_stage max_tumour_diameter_mm").waits_until is None, "the age is not required"


def test_time_already_waited_counts() -> None:
    assert _job(waited_s=30.0).waits_until == NOW.timestamp() + 70
    assert _job(waited_s=60.0).waits_for.endswith("for clinical value figo_stage")


def test_fallback_after_the_wait_is_the_declared_one() -> None:
    refusal = _job(waited_s=100.0).order.refusal
    assert refusal is not None and refusal.code == "MISSING_CLINICAL"
    assert len(refusal.reasons) == 1 and "FIGO stage (2018) (figo_stage) is not known" in refusal.reasons[0]
    without = _job(names="figo_stage", waited_s=math.inf).order
    assert without.refusal is None and without.chosen and [v.name for v in without.clinical] == ["figo_stage"]


def test_study_that_is_refused_anyway_does_not_wait_for_values() -> None:
    job = _job(PART)
    assert job.waits_until is None and job.order.refusal and job.order.refusal.code == "MISSING_SEQUENCE"


def test_waiting_job_is_planned_anew_in_its_place() -> None:
    waiting = _job()
    job = _job(FULL, [_earlier(waiting, JobState.WAITING)], names="figo_stage max_tumour_diameter_mm", waited_s=10.0)
    assert (job.order.job_id, job.order.version, job.order.predecessor) == (waiting.order.job_id, 1, None)
    assert job.waits_until is None and len(job.order.clinical) == 2
    later = _earlier(_job(FULL, [_earlier(job)]), JobState.WAITING)
    assert (later.order.version, later.order.predecessor) == (2, job.order.job_id)
    assert _job(FULL, [_earlier(job), later]).order.predecessor == job.order.job_id


def test_values_are_part_of_the_identity() -> None:
    names = "figo_stage max_tumour_diameter_mm"
    first = _job(names=names)
    assert _make(FULL, [_earlier(first)], names=names) is None
    second = _job(FULL, [_earlier(first)], names=f"{names} age_y")
    assert (second.order.version, second.order.predecessor) == (2, first.order.job_id)
    third = _job(FULL, [_earlier(first), _earlier(second)], names=names)
    assert third.order.version == 3, "a value that was withdrawn again makes a new version too"


def test_same_value_from_another_source_changes_nothing() -> None:
    names = "figo_stage max_tumour_diameter_mm"
    first = _job(names=names)
    other = {name: replace(ALL[name], source="another") for name in names.split()}
    known = Circumstances(clinical=other, waited_s=0.0)
    values: dict[str, Any] = {"bundle": BundleReference("1", "d"), "station": "NODE", "created_at": NOW, "known": known}
    assert make_job(FULL, SPEC, earlier=[_earlier(first)], **values) is None


def _stated(**values: object) -> dict[str, Any]:
    return {"clinical": parse_all(values, source="test")}


def test_node_status_comes_first() -> None:
    waiting = _job(spec=OLNM)
    assert waiting.waits_until == NOW.timestamp() + DAY
    assert waiting.waits_for == "waits until 2026-01-02T00:00:00+00:00 for clinical value node_short_axis_mm", "and for no other rule"
    small = _job(FULL, [_earlier(waiting, JobState.WAITING)], spec=OLNM, **_stated(node_short_axis_mm=9.9))
    assert small.waits_until is None and small.order.refusal is None and small.order.chosen
    large = _job(FULL, [_earlier(waiting, JobState.WAITING)], spec=OLNM, **_stated(node_short_axis_mm=10))
    assert large.waits_until is None and large.order.refusal is not None
    assert (large.order.version, large.order.refusal.code, large.order.chosen) == (1, "NOT_APPLICABLE", ())
    assert "no lymph node of 10 mm or more in short axis" in large.order.refusal.reasons[0]
    assert [v.words for v in large.order.clinical] == ["10 mm"], "the report says of whom it knew what"


def test_node_status_that_nobody_enters_is_not_waited_for_longer_than_declared_or_than_the_site_allows() -> None:
    after = _job(spec=OLNM, waited_s=DAY)
    assert after.waits_until is None and after.order.refusal is None and after.order.chosen
    assert _job(spec=OLNM, longest_wait_s=600.0).waits_until == NOW.timestamp() + 600
    assert _job(spec=OLNM, longest_wait_s=2 * DAY).waits_until == NOW.timestamp() + DAY
    assert _job(spec=OLNM, longest_wait_s=0.0).waits_until is None
    assert _job(longest_wait_s=0.0).order.refusal is not None, "a value that it cannot do without is still refused"


def test_value_that_a_system_predicts_with_is_waited_for_once() -> None:
    both = replace(OLNM, clinical=(ClinicalInput("node_short_axis_mm", wait_s=30.0),))
    assert _job(spec=both).waits_for == "waits until 2026-01-01T00:00:30+00:00 for clinical value node_short_axis_mm"


@pytest.mark.parametrize(
    ("spec", "series", "stated"),
    [
        (ULTRASOUND, PART, {"neoadjuvant_therapy": "yes"}),  # which would wait for diameter and blood cells
        (OLNM, FULL, {"figo_stage": "IIIB"}),
        (OLNM, PART, {"node_suspicious": "necrosis"}),  # what is missing need not be sent
    ],
)
def test_patient_of_another_kind_is_refused_before_anything_is_waited_for(
    spec: PipelineSpec, series: list[Series], stated: dict[str, object]
) -> None:
    job = _job(series, spec=spec, gap=HOLD, **_stated(**stated))
    assert job.waits_until is None and job.order.refusal is not None and job.order.refusal.code == "NOT_APPLICABLE"


def test_another_value_that_breaks_the_rule_makes_a_new_version() -> None:
    first = _job(spec=OLNM, **_stated(node_short_axis_mm=12))
    assert _make(FULL, [_earlier(first, JobState.REFUSED)], spec=OLNM, **_stated(node_short_axis_mm=12)) is None
    second = _job(FULL, [_earlier(first, JobState.REFUSED)], spec=OLNM, **_stated(node_short_axis_mm=14))
    assert second.order.version == 2 and second.order.refusal is not None and "14 mm" in second.order.refusal.reasons[0]
    third = _job(FULL, [_earlier(first), _earlier(second, JobState.REFUSED)], spec=OLNM, **_stated(node_short_axis_mm=6))
    assert third.order.version == 3 and third.order.refusal is None


def test_images_of_two_patients_are_refused_as_that_whatever_is_known_of_one() -> None:
    mixed = [*FULL, *_series(replace(T1W, number=77))]
    for ds in mixed[-1].instances:
        ds.PatientID = "OTHER"
    refusal = _job(mixed, spec=OLNM, **_stated(node_short_axis_mm=12)).order.refusal
    assert refusal is not None and refusal.code == "MIXED_PATIENTS"


def test_gap_is_held_then_run_as_it_is() -> None:
    held = _job(PART, spec=PLAIN, gap=HOLD)
    assert held.waits_until == NOW.timestamp() + 60 and held.waits_for.endswith("for images: no DWI series came")
    ran = _job(PART, [_earlier(held, JobState.WAITING)], spec=PLAIN, gap=HOLD, waited_s=60.0)
    assert ran.waits_until is None and ran.order.refusal and ran.order.refusal.code == "MISSING_SEQUENCE"


def test_hold_and_missing_values_are_waited_for_together() -> None:
    job = _job(FULL, gap=HOLD)
    assert job.waits_until == NOW.timestamp() + 100 and "images: " in job.waits_for and "figo_stage" in job.waits_for


def test_gap_is_refused_with_what_is_missing() -> None:
    job = _job(FULL, spec=PLAIN, gap=Gap("3 images that the sender has did not come", "refuse", 1.0))
    assert job.order.refusal and job.order.refusal.code == "INCOMPLETE"
    assert job.order.refusal.reasons == ("the study is not complete: 3 images that the sender has did not come",)
    complete = _job(FULL, [_earlier(job)], spec=PLAIN)
    assert complete.order.version == 2 and complete.order.refusal is None, "the same images, but now they are all"


def test_how_completeness_was_established_is_in_the_order_but_not_in_the_key() -> None:
    first, second = (_job(spec=PLAIN, completeness=words) for words in ("quiet time 60 s", "C-FIND"))
    assert (first.order.completeness, second.order.completeness) == ("quiet time 60 s", "C-FIND")
    assert first.key == second.key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, tuple(replace(sequence, shape=(4, 8, 8)) for sequence in OLNM_STUDY))
    return sorted(folder.iterdir())


@given(data=st.data())
@hypothesis_settings(max_examples=25, deadline=None)
def test_order_of_arrival_and_duplicates_do_not_matter(files: list[Path], data: st.DataObject) -> None:
    arrived = data.draw(st.permutations(files)) + data.draw(st.lists(st.sampled_from(files), max_size=5))
    job, expected = _job(read_series(arrived), spec=PLAIN), _job(read_series(files), spec=PLAIN)
    assert (job.key, job.order) == (expected.key, expected.order)


@pytest.mark.parametrize(
    ("route", "series", "n_missing", "words"),
    [
        ({}, PART, 5, None),
        ({"incomplete": "hold"}, PART, 0, "no DWI series came"),
        ({"incomplete": "hold"}, FULL, 0, None),
        ({"incomplete": "refuse", "expect": ["T1W"]}, PART, 0, None),
        ({"incomplete": "refuse", "expect": ["T2W", "SEG"]}, FULL, 0, "no T2W series came, no SEG series came"),
        ({"incomplete": "refuse"}, FULL, 2, "2 images that the sender has did not come"),
    ],
)
def test_route_says_what_is_a_gap(route: dict[str, Any], series: list[Series], n_missing: int, words: str | None) -> None:
    rule = Route.model_validate({"systems": ["olnm_mri"], "hold_s": 7, **route})
    gap = find_gap(series, PLAIN, rule, n_missing=n_missing)
    assert gap == (None if words is None else Gap(words, route["incomplete"], 7.0))


def test_region_of_interest_counts_as_an_expected_role() -> None:
    (seg,) = make_series(replace(T1W, number=98, shape=(1, 8, 8)), Modality="SEG")
    rule = Route.model_validate({"systems": ["olnm_mri"], "incomplete": "hold", "expect": [SeriesRole.SEG]})
    assert find_gap([*FULL, _make_series([seg])], PLAIN, rule, n_missing=0) is None
