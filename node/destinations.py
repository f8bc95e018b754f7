"""The destinations of results: what each one takes, as far as it has answered, and whether it may be used at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydicom import Dataset

from node.audit import AuditEvent, record
from node.config import Peer, Settings
from node.dicom.probe import Profile, probe
from node.dicom.scu import Address
from node.log import fields
from node.storage.ledger import Ledger
from pipelines.errors import ConfigError, TransportError
from structured_reports.attributes import GRAPHIC_SERIES
from structured_reports.variants import REPORT_CLASSES

_PROBE_TIMEOUT_S = 5.0  # a peer that is away must not hold up the start
_REPORTS = dict(zip(("comprehensive-3d", "comprehensive", "enhanced", "text"), REPORT_CLASSES, strict=True))  # [[peers]] report

log = logging.getLogger(__name__)


def address_of(peer: Peer) -> Address:
    """Return where a peer is reached."""
    return Address(peer.ae_title, peer.host, peer.port)


def _key(peer: Peer) -> str:
    """Return what an answer belongs to: a title at another address, or to get another kind of report, has not answered yet."""
    return f"{address_of(peer)} {peer.report}"


def richest_report(peer: Peer) -> str:
    """Return the SOP class of the richest report that a peer is to get."""
    return _REPORTS[peer.report]


def is_wanted(peer: Peer, header: Dataset) -> bool:
    """Return whether a peer is to get one of our objects: all, but for the report with the outline where its settings say no.

    A peer that is to get reports as text alone is not to get that one either: an outline cannot be written as text.
    """
    return (peer.graphic and peer.report != "text") or header.get("SeriesNumber") != GRAPHIC_SERIES


def is_blind(peer: Peer, profile: Profile) -> bool:
    """Return whether a radiologist would see nothing of a result at a peer, though nobody has said that this is meant."""
    return profile.shows_nothing(richest_report(peer)) and not peer.may_show_nothing


def describe_blindness(peer: Peer) -> str:
    """Return what is wrong with a blind peer, and what an administrator can do."""
    allowed = "any structured report" if peer.report == "comprehensive-3d" else f"a structured report (report = {peer.report!r} and below)"
    return (
        f"{address_of(peer)} takes neither {allowed} nor Secondary Captures: a radiologist would see nothing there."
        " Allow these SOP classes for our AE title, or set may_show_nothing = true for this peer"
    )


def probe_all(settings: Settings, peers: Sequence[Peer]) -> dict[str, Profile | TransportError]:
    """Return what peers take, or why they could not be asked, by AE title. They are asked at the same time."""
    timeout_s = min(settings.delivery.timeout_s, _PROBE_TIMEOUT_S)

    def ask(peer: Peer) -> Profile | TransportError:
        try:
            return probe(address_of(peer), calling_ae_title=settings.node.ae_title, timeout_s=timeout_s)
        except TransportError as error:
            return error

    if not peers:
        return {}
    with ThreadPoolExecutor(len(peers)) as pool:
        return dict(zip((peer.ae_title for peer in peers), pool.map(ask, peers), strict=True))


class Destinations:
    """Keeps in the ledger what the destinations answered, and notices when an answer changes.

    An answer that would show a radiologist nothing is not kept: who has given no other is not in use yet.
    """

    def __init__(self, settings: Settings, *, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._last: dict[str, Profile] = {}

    def activate(self) -> None:
        """Ask the destinations that are not in use yet.

        Raises
        ------
        ConfigError
            One would show the radiologist nothing, and its settings do not say that this is meant. One that cannot be reached is no
            error: it may be down.
        """
        new = [peer for peer in self._settings.destinations() if not self._is_in_use(peer)]
        answers = probe_all(self._settings, new)
        blind = [peer for peer in new if isinstance(answer := answers[peer.ae_title], Profile) and is_blind(peer, answer)]
        if blind:
            raise ConfigError(f"[[peers]]: {'; '.join(describe_blindness(peer) for peer in blind)}")
        self._take(new, answers)

    def refresh(self) -> None:
        """Ask the destinations in use whether anything has changed."""
        known = [peer for peer in self._settings.destinations() if self._is_in_use(peer)]
        self._take(known, probe_all(self._settings, known))

    def note(self, peer: Peer, profile: Profile) -> None:
        """Take note of what a peer takes, aloud if that is news."""
        if is_blind(peer, profile):
            log.error("destination shows nothing", extra=fields(destination=peer.ae_title, reason=describe_blindness(peer)))
        key = _key(peer)
        before = self._last.get(key) or self._kept(peer)
        self._last[key] = profile
        if profile == before:
            return
        if not is_blind(peer, profile):
            self._ledger.record_destination(key, json.dumps(profile.to_json()))
        event = AuditEvent.DESTINATION_CHANGED if before else AuditEvent.DESTINATION_ANSWERED
        record(self._ledger, event, actor=peer.ae_title, detail=profile.words())
        log.info("destination answered", extra=fields(destination=peer.ae_title, answer=profile.words()))

    def _take(self, peers: Sequence[Peer], answers: dict[str, Profile | TransportError]) -> None:
        for peer in peers:
            answer = answers[peer.ae_title]
            if isinstance(answer, Profile):
                self.note(peer, answer)
            else:
                log.warning("destination not reached", extra=fields(destination=peer.ae_title, reason=str(answer)))

    def _kept(self, peer: Peer) -> Profile | None:
        kept = self._ledger.destination(_key(peer))
        return Profile.from_json(json.loads(kept)) if kept else None

    def _is_in_use(self, peer: Peer) -> bool:
        kept = self._kept(peer)
        return kept is not None and not is_blind(peer, kept)
