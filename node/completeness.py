"""Is a study complete? What its route expects, and what its sender says: C-FIND what belongs to it, C-MOVE what did not come.

A sender that cannot be asked, or does not answer, leaves the quiet time alone to decide; the record of the job says which it was.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from node.audit import AuditEvent, record
from node.config import Peer, Route, Settings
from node.dicom.query import AnnouncedSeries, count_instances, find_series, move_series
from node.dicom.scu import Address
from node.log import fields
from node.planning import OUR_MARK, Gap
from node.storage.ledger import Ledger
from node.storage.records import ReceivedStudy
from pipelines.errors import TransportError
from pipelines.imaging.sequences import rank
from pipelines.spec import PipelineSpec
from pipelines.types import Series, SeriesRole

_MOVES = 2  # times that a peer is asked to send what is missing
_ARRIVAL_S = 10.0  # longest time between the end of a C-MOVE and its last image in the ledger
_POLL_S = 0.1
_AT_A_TIME = 4  # studies that are asked about, so that a slow PACS holds up nobody else's
_BY_MODALITY = {SeriesRole.TVUS: "US", SeriesRole.SEG: "SEG", SeriesRole.RTSTRUCT: "RTSTRUCT", SeriesRole.SR: "SR"}

log = logging.getLogger(__name__)


def find_gap(series: Sequence[Series], spec: PipelineSpec, route: Route, *, n_missing: int) -> Gap | None:
    """Return what the study lacks of what the route expects of it; ``None`` if nothing, or if the route runs it all the same.

    ``n_missing`` is the number of images that its sender has and that did not come.
    """
    if route.incomplete == "run":
        return None
    found = rank(series, spec).keys()
    modalities = {one.header.modality for one in series}
    lacking = [r for r in route.expect or spec.required if r not in found and _BY_MODALITY.get(r) not in modalities]
    words = [f"no {role} series came" for role in lacking]
    if n_missing:
        words.append(f"{n_missing} image{'s' if n_missing > 1 else ''} that the sender has did not come")
    return Gap(", ".join(words), route.incomplete, route.hold_s) if words else None


def is_quiet(study: ReceivedStudy, settings: Settings, now: float) -> bool:
    """Return whether nothing came for the sender's quiet time; ``now`` is seconds since 1970."""
    return now - study.last_received_at >= settings.quiet_s(study.calling_ae_title)


def peers_to_ask(study_instance_uid: str, settings: Settings, ledger: Ledger) -> list[Peer]:
    """Return the senders of a study that can be asked about it, the last one first."""
    peers = (settings.peer(title) for title in ledger.callers(study_instance_uid))
    return [peer for peer in peers if peer is not None and peer.query]


def is_settled(study: ReceivedStudy, settings: Settings, ledger: Ledger, now: float) -> bool:
    """Return whether a study can be planned: its senders were asked since its last image, or it is quiet and nobody can be asked."""
    if study.checked_instance_id == study.last_instance_id:
        return True
    return is_quiet(study, settings, now) and not peers_to_ask(study.study_instance_uid, settings, ledger)


def describe(study: ReceivedStudy, settings: Settings) -> str:
    """Say how it was established that a study is complete."""
    return "; ".join(filter(None, (f"quiet time {settings.quiet_s(study.calling_ae_title):g} s", study.completeness)))


class Completer:
    """Asks the senders of quiet studies, in threads of its own. One thread calls ``run``."""

    def __init__(self, settings: Settings, *, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="complete")
        self._running: dict[str, tuple[ReceivedStudy, Future[None]]] = {}

    def run(self, now: float) -> None:
        """Begin to ask about each study that is quiet at ``now`` (seconds since 1970) and was not asked about since its last image."""
        for uid, (study, future) in list(self._running.items()):
            if future.done():
                del self._running[uid]
                if error := future.exception():
                    log.error("completeness check failed", exc_info=error, extra=fields(study=uid))
                    words = f"asking the sender failed ({type(error).__name__}), so only the quiet time counts"
                    self._conclude(study, study.last_instance_id, words, n_missing=0)
        for study in self._ledger.unplanned_studies():
            uid = study.study_instance_uid
            open_question = study.checked_instance_id != study.last_instance_id and uid not in self._running
            if open_question and is_quiet(study, self._settings, now) and (peers := peers_to_ask(uid, self._settings, self._ledger)):
                self._running[uid] = (study, self._pool.submit(self._check, study, peers))

    def stop(self) -> None:
        """Wait until nobody is being asked any more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, study: ReceivedStudy, peers: Sequence[Peer]) -> None:
        """Ask each peer, fetch what is missing, and write down what came out."""
        inquiries = [_Inquiry(study.study_instance_uid, peer, self._settings, self._ledger) for peer in peers]
        words = "; ".join(inquiry.run() for inquiry in inquiries)
        self._conclude(study, inquiries[-1].instance_id, words, n_missing=max(inquiry.n_missing for inquiry in inquiries))

    def _conclude(self, study: ReceivedStudy, instance_id: int, words: str, *, n_missing: int) -> None:
        uid = study.study_instance_uid
        self._ledger.record_check(uid, instance_id, words, n_missing=n_missing)
        record(self._ledger, AuditEvent.STUDY_CHECKED, actor=self._settings.node.ae_title, study_instance_uid=uid, detail=words)
        log.info("completeness checked", extra=fields(study=uid, found=words))


class _Inquiry:
    """One study, one peer: compare counts, fetch, compare again."""

    def __init__(self, study_instance_uid: str, peer: Peer, settings: Settings, ledger: Ledger) -> None:
        self._study, self._ledger = study_instance_uid, ledger
        self._title = peer.ae_title
        self._address = Address(peer.ae_title, peer.host, peer.port)
        self._ours = settings.node.ae_title
        self._timeout_s = settings.delivery.timeout_s
        self._announced: dict[str, int] = {}
        self.instance_id = 0  # the study's last instance here when counts were last compared
        self.n_missing = 0

    def run(self) -> str:
        """Return what came out, in words."""
        what = f"C-FIND at {self._title}"
        try:
            self._announced = self._ask()
        except TransportError as error:
            self._compare()
            return f"{what} failed ({error}), so only the quiet time counts"
        lacking, before = self._compare(), self.n_missing
        if not self._announced:
            return f"{what}: it does not know the study, so only the quiet time counts"
        trouble = ""
        for _ in range(_MOVES):
            if lacking:
                trouble = self._fetch(lacking)
                lacking = self._compare()
        total = sum(self._announced.values())
        words = f"{what}: {total - self.n_missing} of {total} images"
        if fetched := before - self.n_missing:
            words += f", {fetched} of them fetched by C-MOVE"
        return f"{words}; the others could not be fetched{f' ({trouble})' if trouble else ''}" if lacking else words

    def _ask(self) -> dict[str, int]:
        """Return the number of instances of each series at the peer, without results of ours."""
        announced = find_series(self._address, self._study, calling_ae_title=self._ours, timeout_s=self._timeout_s)
        return {s.series_instance_uid: self._count(s) for s in announced if not s.description.startswith(OUR_MARK)}

    def _count(self, one: AnnouncedSeries) -> int:
        if one.n_instances is not None:
            return one.n_instances
        uid = one.series_instance_uid
        return count_instances(self._address, self._study, uid, calling_ae_title=self._ours, timeout_s=self._timeout_s)

    def _compare(self) -> list[str]:
        """Return the series of which images are missing here."""
        study = self._ledger.study(self._study)
        self.instance_id = study.last_instance_id if study else 0
        here = Counter(instance.series_instance_uid for instance in self._ledger.instances(self._study))
        missing = {uid: n - here[uid] for uid, n in self._announced.items() if n > here[uid]}
        self.n_missing = sum(missing.values())
        return list(missing)

    def _fetch(self, series_instance_uids: Sequence[str]) -> str:
        """Have the peer send series; return why that failed, if it did."""
        try:
            move_series(self._address, self._study, series_instance_uids, calling_ae_title=self._ours, timeout_s=self._timeout_s)
        except TransportError as error:
            return str(error)
        end = time.monotonic() + _ARRIVAL_S
        while self._compare() and time.monotonic() < end:
            time.sleep(_POLL_S)
        return ""
