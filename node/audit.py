"""The audit trail: who sent, refused, computed and delivered what, when. In the ledger, durable, without names of patients."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.storage.ledger import Ledger


class AuditEvent(StrEnum):
    """What happened. The kinds follow the events of PS3.15 A.5.3 as far as a node sees them."""

    NODE_STARTED = "NODE_STARTED"
    NODE_STOPPED = "NODE_STOPPED"
    ASSOCIATION_REJECTED = "ASSOCIATION_REJECTED"
    INSTANCE_REFUSED = "INSTANCE_REFUSED"
    DUPLICATE_DIFFERS = "DUPLICATE_DIFFERS"
    STUDY_NOT_ROUTED = "STUDY_NOT_ROUTED"
    STUDY_CHECKED = "STUDY_CHECKED"
    CLINICAL_ENTERED = "CLINICAL_ENTERED"
    CLINICAL_REFUSED = "CLINICAL_REFUSED"
    JOB_WAITING = "JOB_WAITING"
    JOB_PLANNED = "JOB_PLANNED"
    JOB_ENDED = "JOB_ENDED"
    JOB_RETRIED = "JOB_RETRIED"
    DESTINATION_ANSWERED = "DESTINATION_ANSWERED"
    DESTINATION_CHANGED = "DESTINATION_CHANGED"
    BUNDLE_INSTALLED = "BUNDLE_INSTALLED"
    BUNDLE_PROMOTED = "BUNDLE_PROMOTED"
    BUNDLE_ROLLED_BACK = "BUNDLE_ROLLED_BACK"
    RESULT_QUARANTINED = "RESULT_QUARANTINED"
    RESULT_DELIVERED = "RESULT_DELIVERED"
    RESULT_OMITTED = "RESULT_OMITTED"
    RESULT_REJECTED = "RESULT_REJECTED"
    RESULT_WITHHELD = "RESULT_WITHHELD"


BUNDLE_EVENTS = (AuditEvent.BUNDLE_INSTALLED, AuditEvent.BUNDLE_PROMOTED, AuditEvent.BUNDLE_ROLLED_BACK)


def record(ledger: Ledger, event: AuditEvent, *, actor: str, study_instance_uid: str = "", job_id: str = "", detail: str = "") -> None:
    """Write one line of the audit trail. ``actor`` is an AE title or a person; ``detail`` holds UIDs and reasons, never patient data."""
    ledger.add_audit(event, actor=actor, study_instance_uid=study_instance_uid, job_id=job_id, detail=detail)
