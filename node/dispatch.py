"""Between ledger, queue and workers: orders go out, outcomes come in, and what a dead worker left goes out again.

The ledger is the outbox: an order is QUEUED only after the broker took it, and every order that is neither waiting in the queue nor in
anybody's hands is sent again. Sending twice is harmless, because a worker looks for an existing result first.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from node.audit import BUNDLE_EVENTS, AuditEvent, record
from node.clinical import enter
from node.intake import Intake
from node.jobs import FINAL, JobState
from node.log import fields
from node.queues.celery import JobQueue
from node.storage.claims import Claims
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import Job
from pipelines.errors import InputError

_PICK_UP_S = 15.0  # longest time between a worker's taking an order off the queue and its claim on the disk
_REQUEUE_S = 2.0  # after a worker's death, for the queue to offer the order again by itself
_REPORTING_ATTEMPTS = 2  # after the last attempt at the job: attempts at reporting that it failed

log = logging.getLogger(__name__)


class Dispatcher:
    """Moves jobs from PLANNED to SENDING. Not thread-safe: one thread calls it."""

    def __init__(self, *, ledger: Ledger, store: StudyStore, claims: Claims, queue: JobQueue, max_attempts: int, ae_title: str) -> None:
        self._ledger, self._store, self._claims, self._queue = ledger, store, claims, queue
        self._max_claims = max_attempts + _REPORTING_ATTEMPTS
        self._ae_title = ae_title
        self._missing_since: dict[str, float] = {}  # orders that are nowhere to be seen

    def run(self, now: float) -> None:
        """Collect outcomes, then send what must be sent; ``now`` is seconds of a monotonic clock.

        Raises
        ------
        TransportError
            The broker cannot be reached; everything stays as it is.
        """
        for job in self._ledger.jobs(JobState.QUEUED, JobState.RUNNING):
            self._collect(job)
        for job in self._ledger.jobs(JobState.PLANNED):
            if not self._predecessor_runs(job):
                self._send(job)
        open_jobs = self._ledger.jobs(JobState.QUEUED, JobState.RUNNING)
        waiting = self._queue.waiting() if open_jobs else set()
        for job in open_jobs:
            self._watch(job, now, is_waiting=job.order.job_id in waiting)

    def _predecessor_runs(self, job: Job) -> bool:
        """Return whether the version before has no result yet: the new one is to name it."""
        before = self._ledger.job(job.order.predecessor) if job.order.predecessor else None
        return before is not None and before.state not in FINAL and before.outcome is None

    def _collect(self, job: Job) -> None:
        outcome = self._store.outcome(job.order.job_id)
        if outcome is None:
            return
        self._ledger.accept_outcome(outcome)
        if outcome.quarantined:
            self._record(job, AuditEvent.RESULT_QUARANTINED, f"{len(outcome.quarantined)} objects: {'; '.join(outcome.reasons)}")
        self._claims.remove(job.order.job_id)
        self._missing_since.pop(job.order.job_id, None)
        log.info("outcome collected", extra=fields(job=job.order.job_id, status=outcome.status, code=outcome.code))

    def _watch(self, job: Job, now: float, *, is_waiting: bool) -> None:
        """Note that a job is being worked on, or send one again that nobody has."""
        job_id = job.order.job_id
        claim = self._claims.find(job_id)
        if claim and self._claims.is_alive(claim):
            self._missing_since.pop(job_id, None)
            if job.state is JobState.QUEUED:
                self._ledger.move(job_id, JobState.RUNNING, detail=f"attempt {claim.attempt}")
            return
        if is_waiting:
            self._missing_since.pop(job_id, None)
            return
        patience_s = _REQUEUE_S if claim else _PICK_UP_S
        if now - self._missing_since.setdefault(job_id, now) < patience_s or self._store.outcome(job_id):
            return
        del self._missing_since[job_id]
        if claim and claim.attempt >= self._max_claims:
            self._give_up(job, claim.attempt)
        else:
            log.warning("job lost by its worker or the queue", extra=fields(job=job_id, dispatches=job.dispatches))
            self._send(job)

    def _send(self, job: Job) -> None:
        self._queue.put(job.order)
        self._ledger.move(job.order.job_id, JobState.QUEUED)

    def _give_up(self, job: Job, attempts: int) -> None:
        detail = f"{attempts} attempts ended without a result, and without a worker that could report why"
        self._ledger.move(job.order.job_id, JobState.FAILED, detail=detail)
        self._claims.remove(job.order.job_id)
        self._record(job, AuditEvent.JOB_ENDED, f"{JobState.FAILED}: {detail}")
        log.error("job given up", extra=fields(job=job.order.job_id))

    def _record(self, job: Job, event: AuditEvent, detail: str) -> None:
        study, job_id = job.order.study_instance_uid, job.order.job_id
        record(self._ledger, event, actor=self._ae_title, study_instance_uid=study, job_id=job_id, detail=detail)


def carry_out_requests(*, store: StudyStore, ledger: Ledger, intake: Intake) -> None:
    """Carry out what operators asked for on the command line; each is a file: {"retry": ...}, {"clinical": ...}, {"models": ...}."""
    for path in store.requests():
        request = _read_request(path)
        if "clinical" in request:
            _enter_values(request, ledger)
        elif "models" in request:
            _record_bundle(request, ledger)
        else:
            job = ledger.job(str(request.get("retry", "")))
            planned = intake.plan_again(job) if job else None
            log.info("retry", extra=fields(request=path.name, planned=planned.order.job_id if planned else None))
        path.unlink()


def _read_request(path: Path) -> dict[str, Any]:
    try:
        request = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}


def _record_bundle(request: dict[str, Any], ledger: Ledger) -> None:
    """Write down in the audit trail what :mod:`node.models` did."""
    event = next((e for e in BUNDLE_EVENTS if e == request["models"]), None)
    if event:
        record(ledger, event, actor=str(request.get("by", "unknown")), detail=str(request.get("detail", "")))


def _enter_values(request: dict[str, Any], ledger: Ledger) -> None:
    """Enter clinical values; the command has checked them, but the study may be gone by now."""
    study, values, user = str(request["clinical"]), request.get("values"), str(request.get("by", "unknown"))
    try:
        if not isinstance(values, dict):
            raise InputError("the request has no values")
        enter(ledger, study, values, how=f"entered on the command line by {user}", actor=user)
    except InputError as error:
        log.warning("clinical values refused", extra=fields(reason=str(error)))
        record(ledger, AuditEvent.CLINICAL_REFUSED, actor=user, detail=str(error))
