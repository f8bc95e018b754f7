"""Clinical values of a study: entered by people, else found in its reports and images."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from node.audit import AuditEvent, record
from node.log import fields
from node.storage.ledger import Ledger
from node.storage.records import ClinicalEntry
from pipelines.errors import InputError
from pipelines.features.clinical import KNOWN, parse_all
from pipelines.features.clinical_dicom import from_study
from pipelines.types import ClinicalValue, Series

log = logging.getLogger(__name__)


class UnknownStudy(InputError):
    """Nothing of this study was ever received here."""

    code = "UNKNOWN_STUDY"


def enter(ledger: Ledger, study_instance_uid: str, stated: Mapping[str, object], *, how: str, actor: str) -> None:
    """Write down values for a study; ``None`` withdraws one. All or none are taken.

    ``how`` says in words how they came ("entered through the API"), ``actor`` who is behind it, for the audit trail.

    Raises
    ------
    UnknownStudy
        The study is not here.
    InputError
        A value is wrong; the message names each.
    """
    if ledger.study(study_instance_uid) is None:
        raise UnknownStudy(f"study {study_instance_uid[:64]} is not here")
    now = time.time()
    source = f"{how} at {_iso(now)}"
    withdrawn = [name for name, one in stated.items() if one is None]
    if unknown := [name for name in withdrawn if name not in KNOWN]:
        raise InputError(f"{unknown[0]}: there is no such value; known are {', '.join(KNOWN)}")
    values = parse_all({name: one for name, one in stated.items() if one is not None}, source=source)
    entries = [ClinicalEntry(v.name, v.value, v.words, v.source, now) for v in values.values()]
    ledger.add_clinical(study_instance_uid, [*entries, *(ClinicalEntry(name, None, "", source, now) for name in withdrawn)])
    detail = f"{how}: {', '.join([*values, *(f'{name} withdrawn' for name in withdrawn)])}"  # names of values, never what they are
    record(ledger, AuditEvent.CLINICAL_ENTERED, actor=actor, study_instance_uid=study_instance_uid, detail=detail)
    log.info("clinical values entered", extra=fields(study=study_instance_uid, names=list(stated)))


def stored_record(ledger: Ledger, study_instance_uid: str) -> dict[str, object]:
    """Return what was entered for a study, JSON-ready.

    Raises
    ------
    UnknownStudy
        The study is not here.
    """
    if ledger.study(study_instance_uid) is None:
        raise UnknownStudy(f"study {study_instance_uid[:64]} is not here")
    values = {
        entry.name: {
            "title": KNOWN[entry.name].title,
            "value": entry.words if KNOWN[entry.name].choices else entry.value,
            "unit": KNOWN[entry.name].unit,
            "source": entry.source,
            "entered_at": _iso(entry.entered_at),
        }
        for entry in ledger.clinical(study_instance_uid)
    }
    return {"study_instance_uid": study_instance_uid, "values": values}


def known_values(ledger: Ledger, study_instance_uid: str, series: Sequence[Series]) -> dict[str, ClinicalValue]:
    """Return all that is known of a study's patient, by name: what was entered, else what a report or the images' attributes say."""
    entered = {
        e.name: ClinicalValue(e.name, e.value, e.words, e.source) for e in ledger.clinical(study_instance_uid) if e.value is not None
    }
    return from_study(series) | entered


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
