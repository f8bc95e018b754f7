"""Deliver results: the stored objects of finished jobs go to the destinations of their route, in order, until each has an answer.

What a peer has accepted is written down at once and never sent again. A peer that is down is tried for ever, with growing pauses; one that
does not take a kind of object gets the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby

from node.audit import AuditEvent, record
from node.config import Settings
from node.dicom.scu import Address, Answer, Sent, send
from node.jobs import JobState
from node.log import fields
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import Delivery, DeliveryState, Job
from pipelines.errors import InputError, TransportError

_EVENTS = {
    DeliveryState.ACCEPTED: AuditEvent.RESULT_DELIVERED,
    DeliveryState.OMITTED: AuditEvent.RESULT_OMITTED,
    DeliveryState.REJECTED: AuditEvent.RESULT_REJECTED,
}

log = logging.getLogger(__name__)


class Deliverer:
    """Sends what is pending. Not thread-safe: one thread calls it."""

    def __init__(self, settings: Settings, *, store: StudyStore, ledger: Ledger) -> None:
        self._settings, self._store, self._ledger = settings, store, ledger
        self._failures: dict[str, int] = {}  # in a row, by destination
        self._not_before: dict[str, float] = {}

    def run(self, now: float) -> None:
        """Send everything that is due at ``now`` (seconds of a monotonic clock), and end the jobs that have nothing left to send."""
        pending = self._ledger.pending_deliveries()
        for (job_id, destination), items in groupby(pending, key=lambda d: (d.job_id, d.destination)):
            if now >= self._not_before.get(destination, now):
                self._send(job_id, destination, list(items), now)
        for job in self._ledger.jobs(JobState.SENDING):
            deliveries = self._ledger.deliveries(job.order.job_id)
            if all(d.state is not DeliveryState.PENDING for d in deliveries):
                self._conclude(job, deliveries)

    def _send(self, job_id: str, destination: str, items: Sequence[Delivery], now: float) -> None:
        folder = self._store.result_folder(job_id)
        waiting = {folder / item.path: item for item in items}
        failed = []

        def note(sent: Sent) -> None:
            self._record_answer(waiting.pop(sent.path), sent)
            if sent.answer is Answer.FAILED:
                failed.append(sent.detail)

        try:
            send(
                list(waiting),
                self._address(destination),
                calling_ae_title=self._settings.node.ae_title,
                timeout_s=self._settings.delivery.timeout_s,
                on_answer=note,
            )
        except TransportError as error:
            failed.append(str(error))
        except InputError as error:
            for item in waiting.values():
                self._end(item, DeliveryState.REJECTED, f"cannot be sent: {error}")
        self._pause(destination, now, failed)

    def _pause(self, destination: str, now: float, failed: Sequence[str]) -> None:
        if not failed:
            self._failures.pop(destination, None)
            self._not_before.pop(destination, None)
            return
        count = self._failures.get(destination, 0)
        rule = self._settings.delivery
        pause_s = min(rule.retry_first_s * 2 ** min(count, 20), rule.retry_max_s)
        self._failures[destination] = count + 1
        self._not_before[destination] = now + pause_s
        log.warning("delivery failed", extra=fields(destination=destination, reason=failed[-1], again_in_s=pause_s))

    def _address(self, destination: str) -> Address:
        peer = self._settings.peer(destination)
        if peer is None:
            raise TransportError(f"{destination} is no longer among the peers")
        return Address(peer.ae_title, peer.host, peer.port)

    def _record_answer(self, item: Delivery, sent: Sent) -> None:
        if sent.answer is not Answer.FAILED:
            state = DeliveryState.ACCEPTED if sent.answer is Answer.ACCEPTED else DeliveryState.OMITTED
            self._end(item, state, sent.detail)
        elif item.rejections + 1 >= self._settings.delivery.max_rejections:
            self._end(item, DeliveryState.REJECTED, sent.detail)
        else:
            self._ledger.record_delivery(item, DeliveryState.PENDING, detail=sent.detail, rejected=True)

    def _end(self, item: Delivery, state: DeliveryState, detail: str) -> None:
        self._ledger.record_delivery(item, state, detail=detail, rejected=state is DeliveryState.REJECTED)
        record(self._ledger, _EVENTS[state], actor=item.destination, job_id=item.job_id, detail=f"{item.sop_instance_uid}: {detail}")

    def _conclude(self, job: Job, deliveries: Sequence[Delivery]) -> None:
        """End a job whose objects all have an answer. It has failed if a destination rejected an object or took none at all."""
        assert job.outcome is not None
        problems, notes = [], list(job.outcome.reasons)
        for destination, group in groupby(deliveries, key=lambda d: d.destination):
            states = [d.state for d in group]
            omitted, rejected = states.count(DeliveryState.OMITTED), states.count(DeliveryState.REJECTED)
            if rejected:
                problems.append(f"{destination} rejected {rejected} of {len(states)} objects")
            elif omitted == len(states):
                problems.append(f"{destination} accepts none of the {omitted} objects")
            elif omitted:
                notes.append(f"{destination} does not accept {omitted} of {len(states)} objects, which were left out")
        state = JobState.FAILED if problems else JobState(job.outcome.status)
        self._ledger.move(job.order.job_id, state, detail="; ".join(problems or notes))
        record(
            self._ledger,
            AuditEvent.JOB_ENDED,
            actor=self._settings.node.ae_title,
            study_instance_uid=job.order.study_instance_uid,
            job_id=job.order.job_id,
            detail=f"{state}: {'; '.join(problems or notes)}",
        )
        log.info("job ended", extra=fields(job=job.order.job_id, state=state, problems=problems))
