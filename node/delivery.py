"""Deliver results: the stored objects of finished jobs go to the destinations of their route, in order, until each has an answer.

What a peer has accepted is written down at once and never sent again. A peer that is down is tried for ever, with growing pauses; one that
does not take a kind of object gets the others. A report goes as the richest SOP class that the peer takes; the choice is written down
before it is sent. A file that is not what the worker wrote is not sent, nor is the rest of its result.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from io import BytesIO
from itertools import groupby

import pydicom
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from node.audit import AuditEvent, record
from node.config import Peer, Settings
from node.destinations import Destinations, address_of, is_wanted, richest_report
from node.dicom.probe import CONTEXTS, KINDS, Profile, report_chain
from node.dicom.scu import Answer, Sent, StoreAssociation, contexts_of, open_store
from node.jobs import OVERVIEW, JobState, OutcomeObject
from node.log import fields
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.objects import encode
from node.storage.records import Delivery, DeliveryState, Job
from pipelines.errors import InputError, ResultError, TransportError
from structured_reports.check import check_variant
from structured_reports.variants import REPORT_CLASSES, convert, convertible_classes

_EVENTS = {
    DeliveryState.ACCEPTED: AuditEvent.RESULT_DELIVERED,
    DeliveryState.OMITTED: AuditEvent.RESULT_OMITTED,
    DeliveryState.REJECTED: AuditEvent.RESULT_REJECTED,
    DeliveryState.WITHHELD: AuditEvent.RESULT_WITHHELD,
}
_READABLE = {*REPORT_CLASSES, SecondaryCaptureImageStorage}  # what a radiologist can read in a plain viewer

log = logging.getLogger(__name__)


class Deliverer:
    """Sends what is pending. Not thread-safe: one thread calls it."""

    def __init__(self, settings: Settings, *, store: StudyStore, ledger: Ledger) -> None:
        self._settings, self._store, self._ledger = settings, store, ledger
        self.destinations = Destinations(settings, ledger=ledger)
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
        stored = _objects(self._ledger.job(job_id))
        if changed := [item.path for item in stored if not self._is_unchanged(job_id, item)]:
            for item in items:
                self._end(item, DeliveryState.WITHHELD, f"{', '.join(changed)} changed since the result was made")
            return
        failed = []
        try:
            peer = self._peer(destination)
            contexts = [*CONTEXTS, *contexts_of(self._store.result_folder(job_id) / item.path for item in items)]
            title, timeout_s = self._settings.node.ae_title, self._settings.delivery.timeout_s
            with open_store(address_of(peer), contexts, calling_ae_title=title, timeout_s=timeout_s) as association:
                self.destinations.note(peer, Profile.of(association))
                for item in items:
                    if not is_wanted(peer, self._header(item, stored[item.position])):
                        self._ledger.record_delivery(item, DeliveryState.UNWANTED, detail="its settings leave this object out")
                        continue
                    try:
                        chosen, sent = self._hand_over(association, item, stored[item.position], peer)
                    except ResultError as error:
                        self._end(item, DeliveryState.WITHHELD, str(error))
                        continue
                    self._record_answer(chosen, sent)
                    failed += [sent.detail] if sent.answer in (Answer.FAILED, Answer.REFUSED) else []
        except TransportError as error:
            failed.append(str(error))
        except InputError as error:
            for item in items:
                self._end(item, DeliveryState.REJECTED, f"cannot be sent: {error}")
        self._pause(destination, now, failed)

    def _is_unchanged(self, job_id: str, stored: OutcomeObject) -> bool:
        try:
            content = (self._store.result_folder(job_id) / stored.path).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(content).hexdigest() == stored.sha256

    def _hand_over(self, association: StoreAssociation, item: Delivery, stored: OutcomeObject, peer: Peer) -> tuple[Delivery, Sent]:
        """Send one object, a report as the first SOP class that the peer takes; return what was chosen and the answer."""
        folder = self._store.result_folder(item.job_id)
        if stored.sop_class_uid not in REPORT_CLASSES:
            sent = association.store(folder / item.path)
            if sent.answer is Answer.REFUSED and stored.sop_class_uid not in _READABLE:  # it would say the same of it next time
                return item, Sent(sent.path, Answer.OMITTED, sent.detail)
            return item, sent
        for sop_class in self._classes(item, stored, peer):
            if not association.accepts(sop_class):
                continue
            item = self._choose(item, stored, sop_class)
            sent = association.store(folder / item.path)
            if sent.answer is not Answer.OMITTED:
                kind = "" if item.path == stored.path else f" as {KINDS[sop_class]}"
                return item, Sent(sent.path, sent.answer, sent.detail + kind)
        return item, Sent(folder / item.path, Answer.OMITTED, f"{address_of(peer)} accepts the report in none of its SOP classes")

    def _header(self, item: Delivery, stored: OutcomeObject) -> Dataset:
        return pydicom.dcmread(self._store.result_folder(item.job_id) / stored.path, stop_before_pixels=True)

    def _classes(self, item: Delivery, stored: OutcomeObject, peer: Peer) -> list[str]:
        """Return the SOP classes to try. A variant chosen earlier comes first: it may have arrived without our hearing of it."""
        possible = convertible_classes(self._header(item, stored))
        chain = [c for c in report_chain(richest_report(peer)) if c in possible]
        before = _variant_class(item, stored)
        return list(dict.fromkeys([*([before] if before else []), *chain]))

    def _choose(self, item: Delivery, stored: OutcomeObject, sop_class: str) -> Delivery:
        """Have a report go out as this SOP class, and write that down.

        Raises
        ------
        ResultError
            The variant fails its check, or the stored one is another.
        """
        folder = self._store.result_folder(item.job_id)
        name, uid = stored.path, stored.sop_instance_uid
        if sop_class != stored.sop_class_uid:
            name = _variant_name(stored.path, sop_class)
            content = encode(convert(pydicom.dcmread(folder / stored.path), sop_class))
            variant = pydicom.dcmread(BytesIO(content))
            uid = str(variant.SOPInstanceUID)
            check_variant(variant, pydicom.dcmread(folder / stored.path))
            if not (folder / name).exists():
                self._store.keep_variant(item.job_id, name, content)
            elif (folder / name).read_bytes() != content:
                raise ResultError(f"{name} changed since it was made")
        return item if item.path == name else self._ledger.redirect_delivery(item, name, uid)

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

    def _peer(self, destination: str) -> Peer:
        peer = self._settings.peer(destination)
        if peer is None:
            raise TransportError(f"{destination} is no longer among the peers")
        return peer

    def _record_answer(self, item: Delivery, sent: Sent) -> None:
        if sent.answer in (Answer.ACCEPTED, Answer.OMITTED):
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
        """End a job whose objects all have an answer. It has failed if a destination rejected an object or shows a reader nothing."""
        assert job.outcome is not None
        problems, notes = [], list(job.outcome.reasons)
        for destination, group in groupby(deliveries, key=lambda d: d.destination):
            problem, note = self._sum_up(destination, list(group), _objects(job), overview=job.order.system == OVERVIEW)
            problems += [problem] if problem else []
            notes += note
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
        log.info("job ended", extra=fields(job=job.order.job_id, state=state, problems=problems, omitted=job.n_omitted))

    def _sum_up(
        self, destination: str, items: Sequence[Delivery], stored: Sequence[OutcomeObject], *, overview: bool
    ) -> tuple[str, list[str]]:
        """Return what is wrong at a destination, and what else a person should know of the delivery there.

        Where an ``overview`` is not taken, the systems' own results still tell all that is in it.
        """
        items = [d for d in items if d.state is not DeliveryState.UNWANTED]
        by_state = {state: [d for d in items if d.state is state] for state in DeliveryState}
        omitted, taken = by_state[DeliveryState.OMITTED], by_state[DeliveryState.ACCEPTED]
        rejected = [d for d in by_state[DeliveryState.REJECTED] if stored[d.position].sop_class_uid in _READABLE]
        omitted += [d for d in by_state[DeliveryState.REJECTED] if d not in rejected]
        if rejected:
            return f"{destination} rejected {len(rejected)} of {len(items)} objects", []
        if withheld := by_state[DeliveryState.WITHHELD]:
            return f"{len(withheld)} of {len(items)} objects were not sent to {destination}: {withheld[0].detail}", []
        if omitted and not taken and not overview:
            return f"{destination} accepts none of the {len(items)} objects", []
        peer = self._settings.peer(destination)
        if taken and not any(stored[d.position].sop_class_uid in _READABLE for d in taken) and not (peer and peer.may_show_nothing):
            return f"{destination} took neither a report nor a capture: a radiologist sees nothing there", []
        variants = [c for d in taken if (c := _variant_class(d, stored[d.position]))]
        notes = [f"{destination} got the report as {KINDS[c]}" for c in dict.fromkeys(variants)]
        if omitted:
            kinds = sorted({KINDS.get(stored[d.position].sop_class_uid, stored[d.position].sop_class_uid) for d in omitted})
            notes.insert(
                0, f"delivered with omissions: {destination} does not accept {len(omitted)} of {len(items)} objects ({', '.join(kinds)})"
            )
        return "", notes


def _objects(job: Job | None) -> tuple[OutcomeObject, ...]:
    """Return the objects of a job that has an outcome, by the positions of its deliveries."""
    assert job is not None and job.outcome is not None
    return job.outcome.objects


def _variant_name(path: str, sop_class: str) -> str:
    return f"{path.removesuffix('.dcm')}_{KINDS[sop_class].lower().replace(' ', '_')}.dcm"


def _variant_class(item: Delivery, stored: OutcomeObject) -> str | None:
    """Return the SOP class as which a report goes out, ``None`` where that is its own."""
    return next((c for c in REPORT_CLASSES if item.path == _variant_name(stored.path, c)), None)
