"""What makes a job, and what does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from node.config import NodeTable, Peer, Route, Settings
from node.intake import Intake
from node.jobs import JobState
from node.planning import BundleReference, is_own_result, make_job, routed, without_own_results
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import Job, PlannedJob, ReceivedInstance
from pipelines.errors import InputError
from pipelines.imaging.series import _make_series
from pipelines.systems import catalogue
from pipelines.types import Series, SeriesRole
from tests.mr import DWI_B0, DWI_B800, OLNM_STUDY, STUDY, T1W, T2W, T2W_FS, make_series
from tests.mr import Sequence as MrSequence

SPEC = catalogue()["olnm_mri"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BUNDLE = BundleReference("1", "digest")


def _small(sequence: MrSequence, n: int = 6) -> MrSequence:
    return replace(sequence, shape=(n, 8, 8))


def _series(*sequences: MrSequence, **identity: Any) -> list[Series]:
    grouped: dict[str, list[Dataset]] = {}
    for sequence in sequences:
        for ds in make_series(_small(sequence), **identity):
            grouped.setdefault(ds.SeriesInstanceUID, []).append(ds)
    return [_make_series(instances) for instances in grouped.values()]


def _object(modality: str, **values: Any) -> Series:
    (ds,) = make_series(_small(replace(T2W, number=99), 1), Modality=modality, **values)
    return _make_series([ds])


def _make(series: Sequence[Series], earlier: Sequence[PlannedJob] = (), **options: Any) -> PlannedJob | None:
    jobs = [Job(p.order, p.key, p.destinations, JobState.DONE, None, 1, "", 0.0, 0.0) for p in earlier]
    values: dict[str, Any] = {"bundle": BUNDLE, "station": "CERVINODE", "created_at": NOW} | options
    return make_job(series, SPEC, earlier=jobs, **values)


def _job(series: Sequence[Series], earlier: Sequence[PlannedJob] = (), **options: Any) -> PlannedJob:
    job = _make(series, earlier, **options)
    assert job is not None
    return job


def test_complete_study_makes_an_order_with_its_choice() -> None:
    series = _series(*OLNM_STUDY)
    order = _job(series).order
    assert order.refusal is None and order.version == 1 and order.predecessor is None
    assert {c.role for c in order.chosen} == {SeriesRole.T1W, SeriesRole.T2W_FS, SeriesRole.DWI}
    dwi = next(c for c in order.chosen if c.role is SeriesRole.DWI)
    assert len(dwi.sop_instance_uids) == 6, "only the images of the wanted b-value"
    assert order.sop_instance_uids == tuple(sorted(d.SOPInstanceUID for s in series for d in s.instances))


def test_missing_sequence_is_a_refusal_that_says_what_was_found() -> None:
    refusal = _job(_series(T2W, DWI_B0)).order.refusal
    assert refusal is not None and refusal.code == "MISSING_SEQUENCE"
    assert "no T1W series found" in refusal.reasons and len(refusal.reasons) == 3
    assert any("t2_tse_tra" in line for line in refusal.found)


def test_two_patients_are_a_refusal_that_names_neither() -> None:
    series = [*_series(T1W, T2W_FS), *_series(DWI_B800, PatientID="SECRET-2")]
    refusal = _job(series).order.refusal
    assert refusal is not None and refusal.code == "MIXED_PATIENTS"
    assert "2 patients" in refusal.reasons[0] and "ep2d_diff" in refusal.reasons[0]
    assert "SECRET" not in str(refusal) and "T-1" not in str(refusal)


def test_unreadable_file_is_a_refusal() -> None:
    refusal = _job(_series(*OLNM_STUDY), problem=InputError("1.2.dcm cannot be read as DICOM")).order.refusal
    assert refusal is not None and refusal.reasons == ("1.2.dcm cannot be read as DICOM",)


def test_same_input_makes_no_second_job() -> None:
    first = _job(_series(*OLNM_STUDY))
    assert _make(_series(*OLNM_STUDY), [first]) is None
    assert _make(_series(T2W), [_job(_series(T2W))]) is None


def test_irrelevant_late_series_makes_no_second_job() -> None:
    first = _job(_series(*OLNM_STUDY))
    localizer = MrSequence(9, "localizer", 10, 600)
    assert _make(_series(*OLNM_STUDY, localizer), [first]) is None


def test_late_series_on_which_the_region_is_drawn_makes_a_new_version() -> None:
    first = _job(_series(*OLNM_STUDY))
    second = _job(_series(*OLNM_STUDY, T2W), [first])
    assert second.order.version == 2
    assert {chosen.role for chosen in second.order.chosen} - {chosen.role for chosen in first.order.chosen} == {SeriesRole.T2W}


def test_relevant_late_image_makes_a_new_version() -> None:
    early = _series(*OLNM_STUDY)
    late = early[0].instances[-1]
    early[0] = _make_series(list(early[0].instances[:-1]))
    first = _job(early)
    second = _job(_series(*OLNM_STUDY), [first])
    assert late.SOPInstanceUID not in first.order.sop_instance_uids
    assert (second.order.version, second.order.predecessor) == (2, first.order.job_id)
    assert second.order.job_id != first.order.job_id


def test_missing_sequence_that_comes_late_makes_a_new_version() -> None:
    first = _job(_series(T1W, T2W_FS))
    second = _job(_series(*OLNM_STUDY), [first])
    assert second.order.refusal is None and second.order.version == 2


def test_drawn_region_that_comes_late_makes_a_new_version() -> None:
    first = _job(_series(*OLNM_STUDY))
    assert _job([*_series(*OLNM_STUDY), _object("RTSTRUCT")], [first]).order.version == 2


def test_new_bundle_makes_a_new_version() -> None:
    first = _job(_series(*OLNM_STUDY))
    assert _job(_series(*OLNM_STUDY), [first], bundle=BundleReference("2", "other")).order.version == 2


def test_asked_again_makes_a_new_version_of_the_same_input() -> None:
    first = _job(_series(*OLNM_STUDY))
    second = _job(_series(*OLNM_STUDY), [first], again=True)
    assert second.key == first.key and second.order.job_id != first.order.job_id


def test_own_result_is_no_input() -> None:
    own = _object("SEG", ManufacturerModelName="Cervinode", SeriesDescription="[RUO] DEMO segmentation")
    assert is_own_result(own.instances[0])
    assert not is_own_result(_object("SEG", SeriesDescription="[RUO] of somebody else").instances[0])
    assert not is_own_result(_object("SEG", ManufacturerModelName="Cervinode").instances[0])
    series = _series(*OLNM_STUDY)
    assert without_own_results([*series, own]) == series


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ({"from": ["*"]}, True),
        ({"from": ["MR"]}, True),
        ({"from": ["US"]}, False),
        ({"from": ["MR"], "modalities": ["MR"]}, True),
        ({"from": ["MR"], "modalities": ["US", "CT"]}, False),
    ],
)
def test_route_decides_by_caller_and_modality(route: dict[str, Any], expected: bool) -> None:
    rule = Route.model_validate({**route, "systems": ["s"], "to": ["PACS"]})
    assert routed([rule], calling_ae_titles={"MR"}, modalities={"MR", "SEG"}) == ({"s": ("PACS",)} if expected else {})


def test_routes_add_up_their_destinations() -> None:
    rules = [Route(systems=("s", "t"), to=("A",)), Route(systems=("s",), to=("B", "A"))]
    assert routed(rules, calling_ae_titles={"X"}, modalities={"MR"}) == {"s": ("A", "B"), "t": ("A",)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        node=NodeTable(storage_root=tmp_path, models_root=tmp_path / "models", quiet_s=10),
        peers=(Peer(ae_title="MR", host="h", port=1), Peer(ae_title="SLOW", host="h", port=1, quiet_s=100)),
        routes=(Route(systems=("olnm_mri",), to=("MR",), wait_s=0),),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3") as made:
        yield made


@pytest.fixture
def intake(settings: Settings, ledger: Ledger) -> Intake:
    store = StudyStore(settings.node.storage_root)
    store.prepare()
    return Intake(settings, store=store, ledger=ledger, specs={SPEC.name: SPEC})


def _receive(
    settings: Settings, ledger: Ledger, *sequences: MrSequence, calling: str = "MR", at: float = 100.0, **values: Any
) -> list[str]:
    store, uids = StudyStore(settings.node.storage_root), []
    for sequence in sequences:
        for ds in make_series(_small(sequence), **values):
            path = store.instance_path(ds.StudyInstanceUID, ds.SOPInstanceUID)
            path.parent.mkdir(exist_ok=True)
            ds.save_as(path, enforce_file_format=True)
            syntax, study = ds.file_meta.TransferSyntaxUID, ds.StudyInstanceUID
            ledger.add_instance(ReceivedInstance(ds.SOPInstanceUID, ds.SOPClassUID, syntax, ds.SeriesInstanceUID, study, calling, "0", at))
            uids.append(ds.SOPInstanceUID)
    return uids


@pytest.mark.parametrize(("calling", "quiet_s"), [("MR", 10), ("SLOW", 100)])
def test_study_is_due_after_the_quiet_time_of_its_sender(
    settings: Settings, ledger: Ledger, intake: Intake, calling: str, quiet_s: float
) -> None:
    _receive(settings, ledger, T2W, calling=calling, at=100)
    assert intake.due(100 + quiet_s - 0.1) == []
    assert [s.study_instance_uid for s in intake.due(100 + quiet_s)] == [STUDY]


def test_planned_study_is_not_due_until_something_new_comes(settings: Settings, ledger: Ledger, intake: Intake) -> None:
    _receive(settings, ledger, T1W, T2W_FS)
    (planned,) = intake.plan(intake.due(1000)[0])
    assert planned.order.refusal and planned.destinations == ("MR",)
    assert intake.due(1000) == []
    _receive(settings, ledger, DWI_B800, at=2000)
    (second,) = intake.plan(intake.due(3000)[0])
    assert second.order.version == 2 and second.order.refusal is None
    assert [line.event for line in ledger.audit_trail()] == ["JOB_PLANNED", "JOB_PLANNED"]


@pytest.mark.parametrize(("wait_s", "seconds"), [(None, 86400), (600, 600)])
def test_route_says_how_long_the_node_status_is_waited_for(
    settings: Settings, ledger: Ledger, intake: Intake, wait_s: float | None, seconds: float
) -> None:
    _receive(settings, ledger, *OLNM_STUDY)
    route = settings.routes[0].model_copy(update={"wait_s": wait_s})
    store = StudyStore(settings.node.storage_root)
    intake = Intake(settings.model_copy(update={"routes": (route,)}), store=store, ledger=ledger, specs={SPEC.name: SPEC})
    (planned,) = intake.plan(intake.due(1000)[0])
    assert planned.waits_until == pytest.approx(planned.order.created_at.timestamp() + seconds, abs=1)
    assert planned.waits_for.endswith("for clinical value node_short_axis_mm")


def test_job_without_a_bundle_is_planned_and_will_say_so(settings: Settings, ledger: Ledger, intake: Intake) -> None:
    _receive(settings, ledger, *OLNM_STUDY)
    (planned,) = intake.plan(intake.due(1000)[0])
    assert planned.order.bundle_version == "" and planned.order.refusal is None


def test_damaged_file_is_refused_and_the_rest_is_kept(settings: Settings, ledger: Ledger, intake: Intake) -> None:
    uids = _receive(settings, ledger, T2W)
    StudyStore(settings.node.storage_root).instance_path(STUDY, uids[0]).write_bytes(b"damaged")
    (planned,) = intake.plan(intake.due(1000)[0])
    assert planned.order.refusal is not None and uids[0] in planned.order.refusal.reasons[0]
    assert set(planned.order.sop_instance_uids) == set(uids[1:])


def test_own_results_alone_plan_nothing(settings: Settings, ledger: Ledger, intake: Intake) -> None:
    _receive(settings, ledger, T2W, ManufacturerModelName="Cervinode", SeriesDescription="[RUO] capture")
    assert intake.plan(intake.due(1000)[0]) == []
    assert intake.due(1000) == [] and ledger.audit_trail() == []


def test_only_the_newest_finished_job_runs_again(settings: Settings, ledger: Ledger, intake: Intake) -> None:
    _receive(settings, ledger, T2W)
    (planned,) = intake.plan(intake.due(1000)[0])
    job = ledger.job(planned.order.job_id)
    assert job is not None and intake.plan_again(job) is None, "it has not ended"
    ledger.move(job.order.job_id, JobState.CANCELLED)
    job = ledger.job(planned.order.job_id)
    assert job is not None
    again = intake.plan_again(job)
    assert again is not None and again.order.version == 2 and again.destinations == ("MR",)
    assert intake.plan_again(job) is None, "a newer one exists"
