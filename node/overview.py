"""One page per study: when all systems of a study have come to an end, an overview of their results is ordered like any other job.

The node decides when (:func:`make_overview`), a worker reads the members' stored outcomes and draws (:func:`write_overview`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydicom import Dataset

from node.jobs import OVERVIEW, UNDER_WAY, JobOrder, JobState, OrderedMember, job_key
from node.planning import JOB_ID_DIGITS
from node.storage.files import StudyStore
from node.storage.records import Job, PlannedJob
from pipelines.errors import ResultError
from pipelines.imaging.series import read_series
from pipelines.spec import PipelineSpec
from pipelines.types import BundleStatus
from structured_reports.brief import Brief, Entry
from structured_reports.build import build_overview
from structured_reports.context import ReportContext


def make_overview(jobs: Sequence[Job], *, station: str, language: str, created_at: datetime, again: bool = False) -> PlannedJob | None:
    """Return the overview that a study needs, ``None`` if it needs none.

    ``jobs`` are all jobs of the study, oldest first. It needs one when the newest jobs of at least two systems have ended or wait, one has
    a result, nothing is under way, and the newest overview shows something else, or ``again`` asks for a new version all the same.
    """
    newest = {job.order.system: job for job in jobs}
    earlier = newest.pop(OVERVIEW, None)
    if len(newest) < 2 or any(job.state in UNDER_WAY for job in jobs) or not any(job.outcome for job in newest.values()):
        return None
    members = tuple(_member(job) for job in newest.values())
    study = jobs[0].order.study_instance_uid
    key = job_key(study, OVERVIEW, "", (f"{member.job_id} {member.state}" for member in members))
    if earlier and earlier.key == key and not again:
        return None
    version = earlier.order.version + 1 if earlier else 1
    order = JobOrder(
        job_id=f"{key[:JOB_ID_DIGITS]}-{version}",
        system=OVERVIEW,
        bundle_version="",
        bundle_digest="",
        bundle_status=_least([job.order.bundle_status for job in newest.values()]),
        study_instance_uid=study,
        version=version,
        sop_instance_uids=tuple(sorted({uid for job in newest.values() for uid in job.order.sop_instance_uids})),
        members=members,
        predecessor=earlier.order.job_id if earlier else None,
        created_at=created_at,
        station=station,
        language=language,
    )
    destinations = dict.fromkeys(destination for job in newest.values() for destination in job.destinations)
    return PlannedJob(order=order, key=key, destinations=tuple(destinations))


def _member(job: Job) -> OrderedMember:
    """Return what the overview is to show of a job; a delivery that failed does not change the result."""
    state, reason = (JobState(job.outcome.status), "") if job.outcome else (job.state, job.detail)
    ended = job.outcome is not None
    return OrderedMember(job_id=job.order.job_id, system=job.order.system, state=state, has_outcome=ended, reason=reason)


def _least(statuses: Sequence[BundleStatus | None]) -> BundleStatus | None:
    """Return the status that the page carries: that of a demo bundle, where there is one."""
    known = [status for status in statuses if status]
    return BundleStatus.DEMO if BundleStatus.DEMO in known else next(iter(known), None)


def write_overview(order: JobOrder, store: StudyStore, specs: Mapping[str, PipelineSpec], context: ReportContext) -> list[Dataset]:
    """Return the page of an ordered overview.

    Raises
    ------
    ResultError
        A member's outcome is gone, or the page does not pass its checks.
    """
    entries = [_entry(member, store, specs) for member in order.members]
    shown = next((entry.brief.key_image for entry in entries if entry.brief and entry.brief.key_image), None)
    uids = [shown] if shown else order.sop_instance_uids
    series = read_series(store.instance_path(order.study_instance_uid, uid) for uid in uids)
    return build_overview([d for one in series for d in one.instances], entries, context)


def _entry(member: OrderedMember, store: StudyStore, specs: Mapping[str, PipelineSpec]) -> Entry:
    title = specs[member.system].title if member.system in specs else member.system
    if not member.has_outcome:
        return Entry(member.system, title, member.state, (member.reason,) if member.reason else ())
    outcome = store.outcome(member.job_id)
    if outcome is None:
        raise ResultError(f"the outcome of {member.system} (job {member.job_id}) is gone")
    brief = outcome.brief
    if brief is None and outcome.probability is not None:  # of an earlier build
        call = outcome.call or ""
        brief = Brief(kind=call, call=call, probability=outcome.probability, threshold=outcome.threshold)
    return Entry(member.system, title, outcome.status, outcome.reasons, brief)
