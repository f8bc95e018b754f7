"""From received instances to orders: is a study complete, which systems does it concern, which series do they use, or why not.

All decisions about input are made here. What decides is pure (:func:`routed`, :func:`make_job`); :class:`Intake` brings ledger and files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset

from node.audit import AuditEvent, record
from node.config import ANY_PEER, Route, Settings
from node.jobs import FINAL, ChosenSeries, JobOrder, OrderedRefusal, job_key
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import Job, PlannedJob, UnplannedStudy
from pipelines.errors import BundleError, InputError, MixedPatients
from pipelines.imaging.sequences import choose, describe_found
from pipelines.imaging.series import read_series
from pipelines.models.bundle import MANIFEST, find_bundle
from pipelines.spec import PipelineSpec
from pipelines.types import Series

OUR_MODEL_NAME = "Cervinode"  # ManufacturerModelName of every result object
_OUR_MARK = "[RUO]"  # their series descriptions begin with it
_ROI_MODALITIES = ("SEG", "RTSTRUCT")
_JOB_ID_DIGITS = 32  # hex digits of the key: 128 bits


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The bundle that a job will run with; empty when there is none, and then the job fails with that as its reason."""

    version: str = ""
    digest: str = ""


def refer_to_bundle(models_root: Path, spec: PipelineSpec) -> BundleReference:
    """Return the bundle in use for a system."""
    try:
        folder = find_bundle(models_root, spec)
    except BundleError:
        return BundleReference()
    return BundleReference(version=folder.name, digest=hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest())


def is_own_result(instance: Dataset) -> bool:
    """Return whether an instance is a result object of ours, come back from a PACS: it must never trigger a run or serve as input."""
    return instance.get("ManufacturerModelName") == OUR_MODEL_NAME and str(instance.get("SeriesDescription", "")).startswith(_OUR_MARK)


def without_own_results(series: Iterable[Series]) -> list[Series]:
    """Return the series that are input."""
    return [s for s in series if not is_own_result(s.instances[0])]


def routed(routes: Sequence[Route], *, calling_ae_titles: set[str], modalities: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the systems that a study runs, each with its destinations: those of all routes that fit, in their order."""
    systems: dict[str, dict[str, None]] = {}
    for route in routes:
        from_known = ANY_PEER in route.from_ or calling_ae_titles & set(route.from_)
        if from_known and (not route.modalities or modalities & set(route.modalities)):
            for system in route.systems:
                systems.setdefault(system, {}).update(dict.fromkeys(route.to))
    return {system: tuple(destinations) for system, destinations in systems.items()}


def make_job(
    series: Sequence[Series],
    spec: PipelineSpec,
    *,
    bundle: BundleReference,
    station: str,
    created_at: datetime,
    earlier: Sequence[Job] = (),
    destinations: tuple[str, ...] = (),
    problem: InputError | None = None,
    again: bool = False,
) -> PlannedJob | None:
    """Return the job that a system has on a study, or ``None`` when one with the same input exists already.

    Same input is: the same chosen images and drawn regions, or for a refusal the same instances. ``earlier`` are the jobs of this study
    and system, oldest first; ``problem`` is what went wrong with reading; ``again`` asks for a new version whatever there was.
    """
    instances = sorted(str(d.SOPInstanceUID) for s in series for d in s.instances)
    chosen, refusal = _choose(series, spec, problem)
    study = series[0].header.study_instance_uid
    identity = instances
    if refusal is None:
        regions = [str(d.SOPInstanceUID) for s in series if s.header.modality in _ROI_MODALITIES for d in s.instances]
        identity = [*regions, *(uid for c in chosen for uid in c.sop_instance_uids)]
    key = job_key(study, spec.name, bundle.digest, identity)
    if not again and any(job.key == key for job in earlier):
        return None
    version = earlier[-1].order.version + 1 if earlier else 1
    order = JobOrder(
        job_id=f"{key[:_JOB_ID_DIGITS]}-{version}",
        system=spec.name,
        bundle_version=bundle.version,
        bundle_digest=bundle.digest,
        study_instance_uid=study,
        version=version,
        sop_instance_uids=tuple(instances),
        chosen=chosen,
        refusal=refusal,
        predecessor=earlier[-1].order.job_id if earlier else None,
        created_at=created_at,
        station=station,
    )
    return PlannedJob(order=order, key=key, destinations=destinations)


def _choose(
    series: Sequence[Series], spec: PipelineSpec, problem: InputError | None
) -> tuple[tuple[ChosenSeries, ...], OrderedRefusal | None]:
    try:
        if problem:
            raise problem
        _check_one_patient(series)
        choices = choose(series, spec)
    except InputError as error:
        return (), OrderedRefusal(code=error.code, reasons=tuple(str(error).split("; ")), found=describe_found(series))
    chosen = [
        ChosenSeries(
            role=choice.role,
            series_instance_uid=choice.header.series_instance_uid,
            sop_instance_uids=tuple(str(d.SOPInstanceUID) for d in choice.instances),
            score=choice.score,
            reason=choice.reason,
        )
        for choice in choices.values()
    ]
    return tuple(chosen), None


def _check_one_patient(series: Sequence[Series]) -> None:
    """Raise :class:`MixedPatients` when Patient IDs differ; the sentence names series, not patients."""
    groups: dict[str, list[str]] = {}
    for one in series:
        for patient in dict.fromkeys(str(d.get("PatientID") or "") for d in one.instances):
            groups.setdefault(patient, []).append(one.header.label())
    if len(groups) > 1:
        named = " against ".join(f"series {', '.join(labels)}" for labels in groups.values())
        raise MixedPatients(f"the study holds instances of {len(groups)} patients (by Patient ID): {named}")


def _is_readable(path: Path) -> bool:
    try:
        read_series([path])
    except InputError:
        return False
    return True


class Intake:
    """Plans jobs for the studies in the ledger."""

    def __init__(self, settings: Settings, *, store: StudyStore, ledger: Ledger, specs: Mapping[str, PipelineSpec]) -> None:
        self._settings, self._store, self._ledger, self._specs = settings, store, ledger, specs

    def due(self, now: float) -> list[UnplannedStudy]:
        """Return the studies that count as complete at ``now`` (seconds since 1970): quiet for long enough since their last instance."""
        return [
            study
            for study in self._ledger.unplanned_studies()
            if now - study.last_received_at >= self._settings.quiet_s(study.calling_ae_title)
        ]

    def plan(self, study: UnplannedStudy) -> list[PlannedJob]:
        """Write down the jobs of a complete study and return them; none when nothing that matters is new."""
        uid = study.study_instance_uid
        series, problem = self._read(uid)
        jobs, systems = [], self._route(uid, series)
        for name, destinations in systems.items():
            job = self._make(name, series, destinations, problem=problem)
            if job:
                jobs.append(job)
        self._ledger.plan(uid, jobs, seen_instance_id=study.last_instance_id)
        if not systems and (series or problem):
            modalities = ", ".join(sorted({s.header.modality for s in series}))
            self._record(AuditEvent.STUDY_NOT_ROUTED, uid, detail=str(problem or f"from {study.calling_ae_title}, modalities {modalities}"))
        for job in jobs:
            self._record_planned(job)
        return jobs

    def plan_again(self, job: Job) -> PlannedJob | None:
        """Plan a new version of a finished job, whatever its result was; ``None`` if it is not finished or not the newest."""
        order = job.order
        newest = self._earlier(order.study_instance_uid, order.system)[-1]
        if job.state not in FINAL or newest.order.job_id != order.job_id or order.system not in self._specs:
            return None
        series, problem = self._read(order.study_instance_uid)
        if not series:
            return None
        planned = self._make(order.system, series, job.destinations, problem=problem, again=True)
        if planned:
            self._ledger.plan(order.study_instance_uid, [planned])
            self._record(AuditEvent.JOB_RETRIED, order.study_instance_uid, job_id=order.job_id)
            self._record_planned(planned)
        return planned

    def _read(self, study_instance_uid: str) -> tuple[list[Series], InputError | None]:
        """Return the input series of a study, and what is wrong with files that cannot be read."""
        instances = self._ledger.instances(study_instance_uid)
        paths = [self._store.instance_path(study_instance_uid, i.sop_instance_uid) for i in instances]
        try:
            return without_own_results(read_series(paths)), None
        except InputError as error:
            return without_own_results(read_series(p for p in paths if _is_readable(p))), error

    def _route(self, study_instance_uid: str, series: Sequence[Series]) -> dict[str, tuple[str, ...]]:
        inputs = {str(d.SOPInstanceUID) for s in series for d in s.instances}
        callers = {i.calling_ae_title for i in self._ledger.instances(study_instance_uid) if i.sop_instance_uid in inputs}
        modalities = {s.header.modality for s in series}
        return routed(self._settings.routes, calling_ae_titles=callers, modalities=modalities) if series else {}

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
        spec = self._specs[system]
        return make_job(
            series,
            spec,
            bundle=refer_to_bundle(self._settings.node.models_root, spec),
            station=self._settings.node.ae_title,
            created_at=datetime.now(UTC),
            earlier=self._earlier(series[0].header.study_instance_uid, system),
            destinations=destinations,
            problem=problem,
            again=again,
        )

    def _record_planned(self, job: PlannedJob) -> None:
        order = job.order
        detail = f"{order.system} version {order.version}: " + (order.refusal.code if order.refusal else "series chosen")
        self._record(AuditEvent.JOB_PLANNED, order.study_instance_uid, job_id=order.job_id, detail=detail)

    def _record(self, event: AuditEvent, study_instance_uid: str, *, job_id: str = "", detail: str = "") -> None:
        record(
            self._ledger,
            event,
            actor=self._settings.node.ae_title,
            study_instance_uid=study_instance_uid,
            job_id=job_id,
            detail=detail,
        )
