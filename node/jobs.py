"""Jobs: what is ordered, what comes back, and the states in between.

``JobOrder`` and ``JobOutcome`` cross the queue as JSON: no pixels, no patient names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from pipelines.types import BundleStatus, SeriesRole
from structured_reports.brief import Brief

OVERVIEW = "overview"  # system of the job that makes one page of a study's results


class JobState(StrEnum):
    """Where a job stands."""

    PLANNED = "PLANNED"  # in the ledger, not yet handed to the queue
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"  # for clinical input or a missing series
    SENDING = "SENDING"
    DONE = "DONE"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


FINAL = frozenset({JobState.DONE, JobState.REFUSED, JobState.FAILED, JobState.CANCELLED})

UNDER_WAY = frozenset({JobState.PLANNED, JobState.QUEUED, JobState.RUNNING})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.PLANNED: frozenset({JobState.QUEUED, JobState.WAITING, JobState.CANCELLED}),
    JobState.WAITING: frozenset({JobState.PLANNED, JobState.CANCELLED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.SENDING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.SENDING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SENDING: frozenset({JobState.DONE, JobState.REFUSED, JobState.FAILED, JobState.CANCELLED}),
    JobState.DONE: frozenset(),
    JobState.REFUSED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class ResultStatus(StrEnum):
    """How a job ended for the person who reads the result."""

    DONE = "DONE"
    REFUSED = "REFUSED"
    FAILED = "FAILED"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChosenSeries(_Frozen):
    """The instances that play one role, and why."""

    role: SeriesRole
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    score: float
    reason: str


class OrderedRefusal(_Frozen):
    """A refusal already decided at intake; the worker only writes it down as DICOM."""

    code: str
    reasons: tuple[str, ...]
    found: tuple[str, ...] = ()


class OrderedValue(_Frozen):
    """A clinical value that the run uses, and whose it is."""

    name: str
    value: float
    words: str
    source: str


class OrderedMember(_Frozen):
    """A job that an overview shows: as what it ended, or WAITING; ``reason`` says in words why one has no outcome."""

    job_id: str
    system: str
    state: JobState
    has_outcome: bool
    reason: str = ""


class JobOrder(_Frozen):
    """One run of one system on one version of one study. Everything that the result depends on is in here."""

    job_id: str
    system: str
    bundle_version: str
    bundle_digest: str
    study_instance_uid: str
    version: int = Field(ge=1, description="1 for the first result of this study and system, then 2, 3, ...")
    sop_instance_uids: tuple[str, ...] = Field(description="every instance of the study at the time of planning, sorted")
    chosen: tuple[ChosenSeries, ...] = ()
    refusal: OrderedRefusal | None = None
    clinical: tuple[OrderedValue, ...] = ()
    members: tuple[OrderedMember, ...] = Field(default=(), description="what an overview shows, in this order")
    completeness: str = Field(default="", description="how it was established that the study is complete, in words")
    bundle_status: BundleStatus | None = Field(default=None, description="as what the bundle is in use; as it calls itself if not given")
    predecessor: str | None = Field(default=None, description="job_id of the result that this one replaces")
    created_at: datetime = Field(description="in the node's time zone; the content date of the result objects")
    station: str = Field(description="AE title of the node: device serial number in the results")
    language: str = Field(default="en", description="of the sentences in the results")


class OutcomeObject(_Frozen):
    """One result object as stored."""

    path: str = Field(description="file name inside the job's result folder")
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str


class JobOutcome(_Frozen):
    """What a worker returns."""

    job_id: str
    system: str
    status: ResultStatus
    code: str | None = Field(default=None, description="error code of a REFUSED or FAILED job")
    reasons: tuple[str, ...] = ()
    predecessor: str | None = Field(default=None, description="job_id of the result that this one replaces")
    probability: float | None = None
    threshold: float | None = None
    call: str | None = None
    brief: Brief | None = Field(default=None, description="what the overview of the study says of a DONE job")
    objects: tuple[OutcomeObject, ...] = ()
    quarantined: tuple[str, ...] = Field(default=(), description="file names of objects that failed their check and are sent nowhere")
    timings_s: dict[str, float] = Field(default_factory=dict)


def job_key(study_instance_uid: str, system: str, bundle_digest: str, inputs: Iterable[str]) -> str:
    """Return the identity of a piece of work: SHA-256 (hex) over study, system, bundle and the sorted inputs (instances, values)."""
    parts = [study_instance_uid, system, bundle_digest, *sorted(inputs)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
