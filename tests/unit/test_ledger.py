from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.audit import AuditEvent, record
from node.jobs import TRANSITIONS, JobOrder, JobOutcome, JobState, OutcomeObject, ResultStatus
from node.storage.ledger import Ledger, LedgerError
from node.storage.records import ClinicalEntry, DeliveryState, PlannedJob, ReceivedInstance
from node.storage.schema import MIGRATIONS


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3") as made:
        yield made


def _instance(sop: str, *, study: str = "1.2", at: float = 100.0, calling: str = "PACS") -> ReceivedInstance:
    return ReceivedInstance(sop, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1", "1.2.3", study, calling, "0" * 64, at)


def _job(job_id: str = "a-1", *, version: int = 1, system: str = "s", to: tuple[str, ...] = ("PACS",)) -> PlannedJob:
    order = JobOrder(
        job_id=job_id,
        system=system,
        bundle_version="1",
        bundle_digest="d",
        study_instance_uid="1.2",
        version=version,
        sop_instance_uids=("1.2.3.4",),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        station="CERVINODE",
    )
    return PlannedJob(order, key=f"key {job_id}", destinations=to)


def _outcome(job_id: str = "a-1", n: int = 2) -> JobOutcome:
    items = tuple(OutcomeObject(path=f"{i}.dcm", sop_class_uid="1", sop_instance_uid=f"9.{i}", sha256="0") for i in range(n))
    return JobOutcome(job_id=job_id, system="s", status=ResultStatus.DONE, objects=items)


_PATHS = {
    JobState.PLANNED: (),
    JobState.WAITING: (JobState.WAITING,),
    JobState.QUEUED: (JobState.QUEUED,),
    JobState.RUNNING: (JobState.QUEUED, JobState.RUNNING),
    JobState.SENDING: (JobState.QUEUED, JobState.SENDING),
    JobState.DONE: (JobState.QUEUED, JobState.SENDING, JobState.DONE),
    JobState.REFUSED: (JobState.QUEUED, JobState.SENDING, JobState.REFUSED),
    JobState.FAILED: (JobState.QUEUED, JobState.FAILED),
    JobState.CANCELLED: (JobState.CANCELLED,),
}


@pytest.mark.parametrize(("start", "target"), list(itertools.product(JobState, JobState)))
def test_only_allowed_transitions_happen(ledger: Ledger, start: JobState, target: JobState) -> None:
    ledger.plan("1.2", [_job()])
    for state in _PATHS[start]:
        ledger.move("a-1", state)
    if target in TRANSITIONS[start]:
        ledger.move("a-1", target)
        expected = target
    else:
        with pytest.raises(LedgerError, match=f"cannot become {target}"):
            ledger.move("a-1", target)
        expected = start
    job = ledger.job("a-1")
    assert job is not None and job.state is expected


def test_study_is_unplanned_until_the_plan_has_seen_its_last_instance(ledger: Ledger) -> None:
    ledger.add_instance(_instance("1.2.3.1", at=100))
    ledger.add_instance(_instance("1.2.3.2", at=105, calling="MR"))
    (study,) = ledger.unplanned_studies()
    assert (study.calling_ae_title, study.last_received_at) == ("MR", 105)
    ledger.add_instance(_instance("1.2.3.3", at=110))
    ledger.plan("1.2", [_job()], seen_instance_id=study.last_instance_id)
    assert len(ledger.unplanned_studies()) == 1, "an instance that came while planning must not be lost"
    ledger.plan("1.2", [], seen_instance_id=ledger.unplanned_studies()[0].last_instance_id)
    assert ledger.unplanned_studies() == []


def test_instance_is_found_again(ledger: Ledger) -> None:
    ledger.add_instance(_instance("1.2.3.1"))
    assert ledger.find_instance("1.2.3.1") == _instance("1.2.3.1")
    assert ledger.find_instance("1.2.3.2") is None
    assert ledger.instances("1.2") == [_instance("1.2.3.1")]


def test_plan_is_all_or_nothing(ledger: Ledger) -> None:
    ledger.add_instance(_instance("1.2.3.1"))
    ledger.plan("1.2", [_job("a-1")])
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.plan("1.2", [_job("b-1", system="t"), _job("a-1", system="u")], seen_instance_id=1)
    assert [j.order.job_id for j in ledger.jobs()] == ["a-1"]
    assert len(ledger.unplanned_studies()) == 1


def test_dispatches_are_counted(ledger: Ledger) -> None:
    ledger.plan("1.2", [_job()])
    for _ in range(3):
        ledger.move("a-1", JobState.QUEUED)
    job = ledger.job("a-1")
    assert job is not None and job.dispatches == 3


def test_outcome_plans_deliveries_in_order_for_each_destination(ledger: Ledger) -> None:
    ledger.plan("1.2", [_job(to=("PACS", "ARCHIVE"))])
    ledger.move("a-1", JobState.QUEUED)
    ledger.accept_outcome(_outcome())
    pending = ledger.pending_deliveries()
    assert [(d.destination, d.position) for d in pending] == [("ARCHIVE", 0), ("ARCHIVE", 1), ("PACS", 0), ("PACS", 1)]
    ledger.record_delivery(pending[0], DeliveryState.PENDING, detail="0xA700", rejected=True)
    ledger.record_delivery(pending[1], DeliveryState.ACCEPTED)
    assert [(d.state, d.rejections) for d in ledger.deliveries("a-1")][:2] == [(DeliveryState.PENDING, 1), (DeliveryState.ACCEPTED, 0)]
    assert len(ledger.pending_deliveries()) == 3
    job = ledger.job("a-1")
    assert job is not None and job.outcome == _outcome()
    with pytest.raises(LedgerError, match="cannot become SENDING"):
        ledger.accept_outcome(_outcome())


def test_committed_rows_survive_a_process_that_dies(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from node.storage.ledger import Ledger\n"
        "from node.storage.records import ReceivedInstance\n"
        "Ledger(Path(sys.argv[1])).add_instance(ReceivedInstance('1', '2', '3', '4', '5', 'P', '0', 1.0)); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "ledger.sqlite3"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    with Ledger(path) as ledger:
        assert ledger.find_instance("1") is not None


def test_reader_sees_but_never_writes(tmp_path: Path, ledger: Ledger) -> None:
    ledger.plan("1.2", [_job()])
    with Ledger(tmp_path / "ledger.sqlite3", read_only=True) as reader:
        assert [j.order.job_id for j in reader.jobs(JobState.PLANNED)] == ["a-1"]
        assert reader.jobs(JobState.DONE) == [] and reader.jobs(study_instance_uid="9") == []
        with pytest.raises(Exception, match="readonly"):
            reader.move("a-1", JobState.QUEUED)
    with pytest.raises(LedgerError, match="no node has run here"):
        Ledger(tmp_path / "none.sqlite3", read_only=True)
    assert not (tmp_path / "none.sqlite3").exists()


def test_ledger_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    import sqlite3

    path, job = tmp_path / "old.sqlite3", _job()
    with sqlite3.connect(path) as db:
        db.executescript(f"BEGIN; {MIGRATIONS[0]} PRAGMA user_version = 1; COMMIT;")
        db.execute("INSERT INTO studies VALUES ('1.2', 'PACS', 100.0, 1, 1)")
        old = job.order.model_dump_json(exclude={"clinical", "completeness"})
        db.execute("INSERT INTO jobs VALUES ('a-1', 'key', '1.2', 's', 1, 'PLANNED', ?, '[]', NULL, 0, '', 1.0, 1.0)", (old,))
    db.close()
    with pytest.raises(LedgerError, match=r"written by another version of this program \(schema 1\)"):
        Ledger(path, read_only=True)
    with Ledger(path) as ledger:
        (found,) = ledger.jobs()
        assert found.order == job.order and found.waits_until is None
        study = ledger.study("1.2")
        assert study is not None and (study.checked_instance_id, study.completeness, study.n_missing) == (0, "", 0)
        assert ledger.clinical("1.2") == [] and ledger.studies_with_new_values() == []


def test_study_has_new_results_when_jobs_have_ended_or_wait_until_its_overview_is_planned(ledger: Ledger) -> None:
    ledger.add_instance(_instance("1.2.3.1"))
    ledger.plan("1.2", [_job("a-1"), _job("b-1", system="t"), _job("c-1", system="u")])
    assert ledger.studies_with_new_results() == []
    ledger.move("a-1", JobState.QUEUED)
    ledger.accept_outcome(_outcome("a-1"))
    ledger.move("b-1", JobState.CANCELLED)
    assert ledger.studies_with_new_results() == [], "one is under way"
    ledger.move("c-1", JobState.WAITING)
    assert ledger.studies_with_new_results() == ["1.2"]
    ledger.plan_overview("1.2", None)
    ledger.move("a-1", JobState.DONE)
    assert ledger.studies_with_new_results() == [], "a delivery is no new result"
    ledger.plan("1.2", [replace(_job("c-1", system="u"), waits_for="hpv", waits_until=9e9)])
    assert ledger.studies_with_new_results() == ["1.2"]
    ledger.plan_overview("1.2", _job("o-1", system="overview"))
    assert ledger.studies_with_new_results() == [] and ledger.jobs(JobState.PLANNED)[0].order.job_id == "o-1"


def test_last_clinical_entry_counts_until_it_is_withdrawn(ledger: Ledger) -> None:
    ledger.add_instance(_instance("1.2.3.1"))
    ledger.plan("1.2", [], seen_instance_id=1)
    entries = [ClinicalEntry("age_y", value, f"{value} years", "test", 1.0) for value in (47.0, 48.0)]
    ledger.add_clinical("1.2", [*entries, ClinicalEntry("hpv", 1.0, "yes", "test", 1.0)])
    ledger.add_clinical("1.3", [ClinicalEntry("age_y", 20.0, "20 years", "test", 1.0)])
    assert [(e.name, e.value) for e in ledger.clinical("1.2")] == [("age_y", 48.0), ("hpv", 1.0)]
    ledger.add_clinical("1.2", [ClinicalEntry("age_y", None, "", "test", 2.0)])
    assert [(e.name, e.value) for e in ledger.clinical("1.2")] == [("hpv", 1.0)]


def test_study_has_new_values_until_a_plan_has_seen_them(ledger: Ledger) -> None:
    ledger.add_instance(_instance("1.2.3.1"))
    ledger.add_clinical("1.2", [ClinicalEntry("age_y", 47.0, "47 years", "test", 1.0)])
    assert ledger.studies_with_new_values() == [], "the plan of its images will see them"
    ledger.plan("1.2", [], seen_instance_id=1)
    assert [s.study_instance_uid for s in ledger.studies_with_new_values()] == ["1.2"]
    ledger.plan("1.2", [], seen_clinical_id=ledger.studies_with_new_values()[0].last_clinical_id)
    assert ledger.studies_with_new_values() == []


def test_waiting_job_is_replaced_and_any_other_is_not(ledger: Ledger) -> None:
    ledger.plan("1.2", [replace(_job(), waits_for="waits", waits_until=500.0)])
    job = ledger.job("a-1")
    assert job is not None and (job.state, job.detail, job.waits_until) == (JobState.WAITING, "waits", 500.0)
    ledger.plan("1.2", [replace(_job(), key="another")])
    again = ledger.job("a-1")
    assert again is not None and (again.state, again.key, again.detail, again.waits_until) == (JobState.PLANNED, "another", "", None)
    assert again.created_at == job.created_at
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.plan("1.2", [_job()])


def test_callers_are_listed_last_first(ledger: Ledger) -> None:
    for number, calling in enumerate(("PACS", "MR", "PACS", "US")):
        ledger.add_instance(_instance(f"1.2.3.{number}", calling=calling))
    assert ledger.callers("1.2") == ["US", "PACS", "MR"]


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "ledger.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match="newer version"):
        Ledger(path)


def test_audit_lines_are_kept_in_order(ledger: Ledger) -> None:
    record(ledger, AuditEvent.NODE_STARTED, actor="CERVINODE")
    record(ledger, AuditEvent.JOB_PLANNED, actor="CERVINODE", study_instance_uid="1.2", job_id="a-1", detail="system s")
    assert [line.event for line in ledger.audit_trail()] == ["NODE_STARTED", "JOB_PLANNED"]
    assert [line.detail for line in ledger.audit_trail(job_id="a-1")] == ["system s"]
