"""The rows of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from node.jobs import JobOrder, JobOutcome, JobState


class DeliveryState(StrEnum):
    """Where one result object stands at one destination."""

    PENDING = "PENDING"
    ACCEPTED = "ACCEPTED"
    OMITTED = "OMITTED"  # the peer does not take this SOP class
    UNWANTED = "UNWANTED"  # its settings say that it is not to get this object
    REJECTED = "REJECTED"  # the peer answered "failed" too often
    WITHHELD = "WITHHELD"  # it failed our own last look: changed since it was made, or a variant that is not what it should be


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance as it came in. ``sha256`` is over the data set as encoded on the wire; ``received_at`` is seconds since 1970, UTC."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    series_instance_uid: str
    study_instance_uid: str
    calling_ae_title: str
    sha256: str
    received_at: float


@dataclass(frozen=True, slots=True)
class ReceivedStudy:
    """A study of which something was received."""

    study_instance_uid: str
    calling_ae_title: str  # of the last instance
    last_received_at: float
    last_instance_id: int
    checked_instance_id: int  # the last instance when its sender was asked what belongs to it, 0 if never
    completeness: str  # what the sender said
    n_missing: int  # images that the sender has and that did not come
    last_clinical_id: int  # the last entry of clinical values, 0 if there is none


@dataclass(frozen=True, slots=True)
class ClinicalEntry:
    """A clinical value that somebody entered; with ``value`` None it withdraws an earlier one."""

    name: str
    value: float | None
    words: str
    source: str
    entered_at: float


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job to be written down: its order, its identity, and where its results go; perhaps what it waits for, and until when."""

    order: JobOrder
    key: str
    destinations: tuple[str, ...]
    waits_for: str = ""
    waits_until: float | None = None  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the ledger knows it. ``dispatches`` counts how often it went to the queue."""

    order: JobOrder
    key: str
    destinations: tuple[str, ...]
    state: JobState
    outcome: JobOutcome | None
    dispatches: int
    detail: str
    created_at: float
    changed_at: float
    waits_until: float | None = None  # of a WAITING job, seconds since 1970
    n_omitted: int = 0  # objects that some destination does not take: "delivered with omissions"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One result object on its way to one destination; ``position`` is its place in the order of sending.

    ``path`` and ``sop_instance_uid`` are those of what goes out: of a report perhaps another SOP class than the outcome's.
    """

    job_id: str
    destination: str
    position: int
    path: str
    sop_instance_uid: str
    state: DeliveryState
    rejections: int
    detail: str


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One line of the audit trail."""

    at: float
    event: str
    actor: str
    study_instance_uid: str
    job_id: str
    detail: str
