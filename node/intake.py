"""From received instances to planned jobs: is a study complete, what does it order, and what do late images and values change.

What decides is pure, in :mod:`node.planning`; :class:`Intake` brings ledger, files and clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from node.audit import AuditEvent, record
from node.clinical import known_values
from node.completeness import describe, find_gap, is_settled
from node.config import Route, Settings
from node.jobs import FINAL, OVERVIEW, JobState
from node.log import fields
from node.overview import make_overview
from node.planning import Circumstances, fitting, make_job, refer_to_bundle, routed, without_own_results
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import Job, PlannedJob, ReceivedStudy
from pipelines.errors import InputError
from pipelines.imaging.series import read_what_is_readable
from pipelines.spec import PipelineSpec
from pipelines.types import Series

log = logging.getLogger(__name__)


class Intake:
    """Plans jobs for the studies in the ledger."""

    def __init__(self, settings: Settings, *, store: StudyStore, ledger: Ledger, specs: Mapping[str, PipelineSpec]) -> None:
        self._settings, self._store, self._ledger, self._specs = settings, store, ledger, specs

    def due(self, now: float) -> list[ReceivedStudy]:
        """Return the studies with new instances that count as complete at ``now`` (seconds since 1970): their senders were asked, or
        they are quiet for long enough since their last instance."""
        return [study for study in self._ledger.unplanned_studies() if is_settled(study, self._settings, self._ledger, now)]

    def plan(self, study: ReceivedStudy) -> list[PlannedJob]:
        """Write down the jobs of a complete study and return them; none when nothing that matters is new."""
        uid = study.study_instance_uid
        series, problem = self._read(uid)
        found = self._facts(uid, series)
        systems = routed(self._settings.routes, **found) if series else {}
        jobs = [self._make(name, series, destinations, problem=problem) for name, destinations in systems.items()]
        planned = self._keep(uid, jobs, seen_instance_id=study.last_instance_id, seen_clinical_id=study.last_clinical_id)
        if not systems and (series or problem):
            modalities = ", ".join(sorted(found["modalities"]))
            self._record(AuditEvent.STUDY_NOT_ROUTED, uid, detail=str(problem or f"from {study.calling_ae_title}, modalities {modalities}"))
        return planned

    def plan_values(self, study: ReceivedStudy) -> list[PlannedJob]:
        """Plan what new clinical values change: jobs that wait go on, finished ones of a system that uses them get a new version."""
        uid = study.study_instance_uid
        newest = {job.order.system: job for job in self._ledger.jobs(study_instance_uid=uid)}
        using = [job for name, job in newest.items() if name in self._specs and self._specs[name].clinical_names]
        series, problem = self._read(uid) if using else ([], None)
        jobs = [self._make(job.order.system, series, job.destinations, problem=problem) for job in using if series]
        return self._keep(uid, jobs, seen_clinical_id=study.last_clinical_id)

    def overdue(self, now: float) -> list[Job]:
        """Return the jobs that have waited long enough at ``now`` (seconds since 1970)."""
        return [j for j in self._ledger.jobs(JobState.WAITING) if j.waits_until is not None and j.waits_until <= now]

    def release(self, job: Job) -> list[PlannedJob]:
        """Let an overdue job go on as its system and route declare."""
        uid, system = job.order.study_instance_uid, job.order.system
        series, problem = self._read(uid)
        if not series or system not in self._specs:
            self._ledger.move(job.order.job_id, JobState.CANCELLED, detail="its images or its system are gone")
            return []
        return self._keep(uid, [self._make(system, series, job.destinations, problem=problem)])

    def plan_overview(self, study_instance_uid: str, *, again: bool = False) -> PlannedJob | None:
        """Plan the overview of a study, if it needs one."""
        planned = make_overview(
            self._ledger.jobs(study_instance_uid=study_instance_uid),
            station=self._settings.node.ae_title,
            language=self._settings.node.language,
            created_at=datetime.now().astimezone(),
            again=again,
        )
        self._ledger.plan_overview(study_instance_uid, planned)
        if planned:
            order = planned.order
            detail = f"{order.system} version {order.version}: {', '.join(f'{m.system} {m.state}' for m in order.members)}"
            self._record(AuditEvent.JOB_PLANNED, study_instance_uid, job_id=order.job_id, detail=detail)
        return planned

    def plan_again(self, job: Job) -> PlannedJob | None:
        """Plan a new version of a finished job, whatever its result was; ``None`` if it is not finished or not the newest."""
        order = job.order
        newest = self._earlier(order.study_instance_uid, order.system)[-1]
        if job.state not in FINAL or newest.order.job_id != order.job_id:
            return None
        if order.system == OVERVIEW:
            if again := self.plan_overview(order.study_instance_uid, again=True):
                self._record(AuditEvent.JOB_RETRIED, order.study_instance_uid, job_id=order.job_id)
            return again
        if order.system not in self._specs:
            return None
        series, problem = self._read(order.study_instance_uid)
        if not series:
            return None
        planned = self._make(order.system, series, job.destinations, problem=problem, again=True)
        if planned:
            self._record(AuditEvent.JOB_RETRIED, order.study_instance_uid, job_id=order.job_id)
            self._keep(order.study_instance_uid, [planned])
        return planned

    def _read(self, study_instance_uid: str) -> tuple[list[Series], InputError | None]:
        """Return the input series of a study, and what is wrong with files that cannot be read."""
        instances = self._ledger.instances(study_instance_uid)
        paths = [self._store.instance_path(study_instance_uid, i.sop_instance_uid) for i in instances]
        series, problem = read_what_is_readable(paths)
        return without_own_results(series), problem

    def _facts(self, study_instance_uid: str, series: Sequence[Series]) -> dict[str, set[str]]:
        """Return what routes ask about: who sent the input, and its modalities."""
        inputs = {str(d.SOPInstanceUID) for s in series for d in s.instances}
        instances = self._ledger.instances(study_instance_uid)
        callers = {i.calling_ae_title for i in instances if i.sop_instance_uid in inputs}
        return {"calling_ae_titles": callers, "modalities": {s.header.modality for s in series}}

    def _earlier(self, study_instance_uid: str, system: str) -> list[Job]:
        jobs = self._ledger.jobs(study_instance_uid=study_instance_uid)
        return sorted((j for j in jobs if j.order.system == system), key=lambda j: j.order.version)

    def _make(
        self,
        system: str,
        series: Sequence[Series],
        destinations: tuple[str, ...],
        *,
        problem: InputError | None,
        again: bool = False,
    ) -> PlannedJob | None:
        spec, uid = self._specs[system], series[0].header.study_instance_uid
        earlier, now = self._earlier(uid, system), datetime.now().astimezone()
        return make_job(
            series,
            spec,
            bundle=refer_to_bundle(self._settings.node.models_root, spec, trusted_keys=self._settings.node.trusted_keys),
            station=self._settings.node.ae_title,
            language=self._settings.node.language,
            created_at=now,
            earlier=earlier,
            destinations=destinations,
            problem=problem,
            again=again,
            known=self._circumstances(spec, uid, series, waited_s=now.timestamp() - earlier[0].created_at if earlier else 0.0),
        )

    def _circumstances(self, spec: PipelineSpec, uid: str, series: Sequence[Series], *, waited_s: float) -> Circumstances:
        study = self._ledger.study(uid)
        route = self._route(spec.name, uid, series)
        return Circumstances(
            clinical=known_values(self._ledger, uid, series) if spec.clinical_names else {},
            completeness=describe(study, self._settings) if study else "",
            gap=find_gap(series, spec, route, n_missing=study.n_missing) if route and study else None,
            waited_s=waited_s,
            longest_wait_s=math.inf if route is None or route.wait_s is None else route.wait_s,
        )

    def _route(self, system: str, study_instance_uid: str, series: Sequence[Series]) -> Route | None:
        """Return the route whose word counts on what a system's study must hold: the first that fits."""
        routes = fitting(self._settings.routes, **self._facts(study_instance_uid, series))
        return next((route for route in routes if system in route.systems), None)

    def _keep(
        self, uid: str, jobs: Sequence[PlannedJob | None], *, seen_instance_id: int | None = None, seen_clinical_id: int | None = None
    ) -> list[PlannedJob]:
        """Write down jobs, and say so."""
        planned = [job for job in jobs if job]
        self._ledger.plan(uid, planned, seen_instance_id=seen_instance_id, seen_clinical_id=seen_clinical_id)
        for job in planned:
            order, event = job.order, AuditEvent.JOB_WAITING if job.waits_for else AuditEvent.JOB_PLANNED
            what = job.waits_for or (order.refusal.code if order.refusal else "series chosen")
            detail = f"{order.system} version {order.version}: {what}; complete by: {order.completeness}"
            self._record(event, uid, job_id=order.job_id, detail=detail)
            if job.waits_for:
                log.warning("job waits", extra=fields(job=order.job_id, study=uid, reason=job.waits_for))
        return planned

    def _record(self, event: AuditEvent, study_instance_uid: str, *, job_id: str = "", detail: str = "") -> None:
        record(
            self._ledger,
            event,
            actor=self._settings.node.ae_title,
            study_instance_uid=study_instance_uid,
            job_id=job_id,
            detail=detail,
        )
