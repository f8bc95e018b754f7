"""Delivery of stored results to a PACS that refuses, fails or is away."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage, SegmentationStorage, generate_uid

from node.config import Settings
from node.delivery import Deliverer
from node.jobs import OVERVIEW, JobOrder, JobOutcome, JobState, OutcomeObject, ResultStatus
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import DeliveryState, Job, PlannedJob
from structured_reports.variants import REPORT_CLASSES
from tests.e2e.conftest import Pacs

MakeStudy = Callable[..., list[Dataset]]
# pynetdicom leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
CLASSES = (SecondaryCaptureImageStorage, SegmentationStorage, ComprehensiveSRStorage)


class Results:
    """A store and a ledger with finished jobs in them."""

    def __init__(self, settings: Settings, make_study: MakeStudy) -> None:
        self.store = StudyStore(settings.node.storage_root)
        self.store.prepare()
        self.ledger = Ledger(settings.node.storage_root / "ledger.sqlite3")
        self.deliverer = Deliverer(settings, store=self.store, ledger=self.ledger)
        self._make_study = make_study

    def add(
        self,
        job_id: str,
        *,
        status: ResultStatus = ResultStatus.DONE,
        to: tuple[str, ...] = ("PACS",),
        system: str = "s",
        classes: Sequence[str] = CLASSES,
    ) -> list[str]:
        """Store the result of a job, three objects, and return their UIDs in the order of sending."""
        contents, items = {}, []
        for number, sop_class in enumerate(classes):
            (ds,) = self._make_study(1, SOPClassUID=sop_class, SOPInstanceUID=generate_uid())
            buffer = BytesIO()
            pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
            name = f"{number}.dcm"
            contents[name] = buffer.getvalue()
            sha256 = hashlib.sha256(contents[name]).hexdigest()
            items.append(OutcomeObject(path=name, sop_class_uid=sop_class, sop_instance_uid=ds.SOPInstanceUID, sha256=sha256))
        order = JobOrder(
            job_id=job_id, system=system, bundle_version="1", bundle_digest="d", study_instance_uid=generate_uid(), version=1,
            sop_instance_uids=(), created_at=datetime.now(UTC), station="CERVINODE",
        )  # fmt: skip
        outcome = JobOutcome(job_id=job_id, system=system, status=status, objects=tuple(items))
        self.store.keep_result(outcome, contents)
        self.ledger.plan(order.study_instance_uid, [PlannedJob(order, job_id, to)])
        self.ledger.move(job_id, JobState.QUEUED)
        self.ledger.accept_outcome(outcome)
        return [item.sop_instance_uid for item in items]

    def job(self, job_id: str) -> Job:
        job = self.ledger.job(job_id)
        assert job is not None
        return job

    def states(self, job_id: str) -> list[DeliveryState]:
        return [d.state for d in self.ledger.deliveries(job_id)]


@pytest.fixture
def results(settings: Settings, make_study: MakeStudy) -> Iterator[Results]:
    made = Results(settings, make_study)
    yield made
    made.ledger.close()


def test_objects_arrive_in_order_over_one_association(results: Results, pacs: Pacs) -> None:
    pacs.start()
    uids = results.add("a-1")
    results.deliverer.run(now=0)
    assert pacs.uids() == uids and pacs.associations == 1
    assert results.job("a-1").state is JobState.DONE
    stored = pydicom.dcmread(results.store.result_folder("a-1") / "0.dcm")
    assert pacs.received[0] == stored


def test_refused_result_ends_refused(results: Results, pacs: Pacs) -> None:
    pacs.start()
    results.add("a-1", status=ResultStatus.REFUSED)
    results.deliverer.run(now=0)
    assert results.job("a-1").state is JobState.REFUSED


def test_result_without_destination_ends(results: Results) -> None:
    results.add("a-1", to=())
    results.deliverer.run(now=0)
    assert results.job("a-1").state is JobState.DONE


def test_peer_that_does_not_take_seg_gets_the_rest(results: Results, pacs: Pacs) -> None:
    pacs.refuse = {SegmentationStorage}
    pacs.start()
    capture, _, report = results.add("a-1")
    results.deliverer.run(now=0)
    assert pacs.uids() == [capture, report]
    job = results.job("a-1")
    assert job.state is JobState.DONE
    assert job.detail == "delivered with omissions: PACS does not accept 1 of 3 objects (Segmentation)" and job.n_omitted == 1
    results.deliverer.run(now=100)
    assert pacs.associations == 1, "what was omitted is not tried again"


def test_overview_that_a_peer_of_reports_alone_does_not_take_is_an_omission(results: Results, pacs: Pacs) -> None:
    pacs.refuse = {SecondaryCaptureImageStorage}
    pacs.start()
    results.add("a-1", system=OVERVIEW, classes=(SecondaryCaptureImageStorage,))
    results.deliverer.run(now=0)
    job = results.job("a-1")
    assert job.state is JobState.DONE and job.detail.startswith("delivered with omissions: PACS does not accept 1 of 1 objects")


def test_peer_that_takes_nothing_makes_the_job_fail_visibly(results: Results, pacs: Pacs) -> None:
    pacs.refuse = {*CLASSES, *REPORT_CLASSES}
    pacs.start()
    results.add("a-1")
    results.deliverer.run(now=0)
    job = results.job("a-1")
    assert job.state is JobState.FAILED and job.detail == "PACS accepts none of the 3 objects"


def test_peer_that_is_down_gets_everything_once_it_is_up(results: Results, pacs: Pacs) -> None:
    uids = results.add("a-1")
    results.deliverer.run(now=0)
    results.deliverer.run(now=0.1)
    assert results.job("a-1").state is JobState.SENDING
    pacs.start()
    results.deliverer.run(now=0.15)
    assert pacs.uids() == [], "the pause after a failure is kept"
    results.deliverer.run(now=0.25)
    assert pacs.uids() == uids and results.job("a-1").state is JobState.DONE


def test_pause_grows_to_its_limit(results: Results, pacs: Pacs) -> None:
    results.add("a-1")
    now, pauses = 0.0, []
    for _ in range(4):
        results.deliverer.run(now=now)
        pauses.append(results.deliverer._not_before["PACS"] - now)
        now += pauses[-1]
    assert pauses == pytest.approx([0.2, 0.4, 0.5, 0.5])


def test_peer_that_is_down_does_not_hold_up_another(results: Results, pacs: Pacs) -> None:
    pacs.start()
    uids = results.add("a-1", to=("SINK", "PACS"))
    results.deliverer.run(now=0)
    assert pacs.uids() == uids
    assert results.job("a-1").state is JobState.SENDING


def test_accepted_object_is_never_sent_again(results: Results, settings: Settings, pacs: Pacs) -> None:
    """The PACS dies after the first object; a new deliverer, as after a restart of the node, sends the other two."""
    seen = []

    def die_after_one(ds: Dataset) -> int:
        seen.append(ds.SOPInstanceUID)
        return 0x0000 if len(seen) == 1 else 0xA700

    pacs.status = die_after_one
    pacs.start()
    uids = results.add("a-1")
    results.deliverer.run(now=0)
    assert results.states("a-1") == [DeliveryState.ACCEPTED, DeliveryState.PENDING, DeliveryState.PENDING]
    pacs.status = lambda ds: 0x0000
    Deliverer(settings, store=results.store, ledger=results.ledger).run(now=0)
    assert pacs.uids() == uids
    assert results.job("a-1").state is JobState.DONE


@pytest.mark.parametrize("status", [0xC000, 0xA900])
def test_segmentation_that_a_peer_makes_nothing_of_is_an_omission(results: Results, pacs: Pacs, status: int) -> None:
    pacs.status = lambda ds: status if ds.SOPClassUID == SegmentationStorage else 0x0000
    pacs.start()
    results.add("a-1")
    results.deliverer.run(now=0)
    job = results.job("a-1")
    assert job.state is JobState.DONE and "delivered with omissions: PACS does not accept 1 of 3 objects (Segmentation)" in job.detail
    assert len(pacs.received) == 2


def test_segmentation_that_is_answered_failed_too_often_is_an_omission(results: Results, settings: Settings, pacs: Pacs) -> None:
    pacs.status = lambda ds: 0x0110 if ds.SOPClassUID == SegmentationStorage else 0x0000
    pacs.start()
    results.add("a-1")
    for turn in range(settings.delivery.max_rejections):
        assert results.job("a-1").state is JobState.SENDING
        results.deliverer.run(now=turn * 1.0)
    assert results.job("a-1").state is JobState.DONE and "delivered with omissions" in results.job("a-1").detail


def test_object_to_read_that_is_answered_failed_too_often_is_rejected(results: Results, settings: Settings, pacs: Pacs) -> None:
    pacs.status = lambda ds: 0xC000 if ds.SOPClassUID in REPORT_CLASSES else 0x0000
    pacs.start()
    results.add("a-1")
    for turn in range(settings.delivery.max_rejections):
        assert results.job("a-1").state is JobState.SENDING
        results.deliverer.run(now=turn * 1.0)
    job = results.job("a-1")
    assert job.state is JobState.FAILED and job.detail == "PACS rejected 1 of 3 objects"
    assert len(pacs.received) == 2


def test_warning_and_duplicate_count_as_accepted(results: Results, pacs: Pacs) -> None:
    answers = iter([0xB000, 0x0111, 0x0000])
    pacs.status = lambda ds: next(answers)
    pacs.start()
    results.add("a-1")
    results.deliverer.run(now=0)
    assert results.job("a-1").state is JobState.DONE


@pytest.mark.parametrize("harm", ["another name", "damaged", "gone"])
def test_result_with_a_changed_file_is_not_sent_and_fails_loudly(results: Results, pacs: Pacs, harm: str) -> None:
    pacs.start()
    results.add("a-1")
    path = results.store.result_folder("a-1") / "1.dcm"
    if harm == "gone":
        path.unlink()
    else:  # a whole DICOM file of another patient, or none
        path.write_bytes(path.read_bytes().replace(b"TEST^PHANTOM", b"NEXT^PATIENT") if harm == "another name" else b"damaged")
    for hour in range(2):
        results.deliverer.run(now=3600.0 * hour)
    job = results.job("a-1")
    assert pacs.received == [] and pacs.associations == 0
    assert job.state is JobState.FAILED
    assert job.detail == "3 of 3 objects were not sent to PACS: 1.dcm changed since the result was made"
    assert results.states("a-1") == [DeliveryState.WITHHELD] * 3
    assert [line.event for line in results.ledger.audit_trail(job_id="a-1")] == ["RESULT_WITHHELD"] * 3 + ["JOB_ENDED"]


def test_delivery_is_in_the_audit_trail(results: Results, pacs: Pacs) -> None:
    pacs.start()
    uids = results.add("a-1")
    results.deliverer.run(now=0)
    lines: Any = results.ledger.audit_trail(job_id="a-1")
    assert [line.event for line in lines] == ["RESULT_DELIVERED"] * 3 + ["JOB_ENDED"]
    assert [line.detail.split(":")[0] for line in lines[:3]] == uids


def test_peer_without_room_is_tried_again_for_ever(results: Results, pacs: Pacs) -> None:
    pacs.start()
    pacs.status = lambda ds: 0xA700
    uids = results.add("a-1")
    for hour in range(20):
        results.deliverer.run(now=3600.0 * hour)
    assert results.states("a-1") == [DeliveryState.PENDING] * 3
    pacs.status = lambda ds: 0x0000
    results.deliverer.run(now=3600.0 * 20)
    assert pacs.uids() == uids
    assert results.job("a-1").state is JobState.DONE


def test_name_that_does_not_resolve_does_not_hold_up_another(settings: Settings, make_study: MakeStudy, pacs: Pacs) -> None:
    peers = [p.model_copy(update={"host": "no-such-host.invalid"}) if p.ae_title == "SINK" else p for p in settings.peers]
    pacs.start()
    made = Results(settings.model_copy(update={"peers": tuple(peers)}), make_study)
    try:
        uids = made.add("a-1", to=("SINK", "PACS"))
        made.deliverer.run(now=0)
        assert pacs.uids() == uids
    finally:
        made.ledger.close()
