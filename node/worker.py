"""The worker: one order in, one result folder out. It knows the study store and the models; nothing of peers, ledger or network."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from node.config import Settings
from node.jobs import OVERVIEW, JobOrder, JobOutcome, OutcomeObject, ResultStatus
from node.log import fields
from node.overview import write_overview
from node.storage.claims import Beat, Claims
from node.storage.files import StudyStore
from node.storage.objects import REASONS, encode, quarantine
from pipelines.engine import load_case, run
from pipelines.errors import BundleError, CervinodeError, InputError, RejectedObjects, ResultError, UnusableDrawing
from pipelines.imaging.sequences import describe_found
from pipelines.imaging.series import read_series
from pipelines.models.bundle import Bundle, find_bundle, load_bundle
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import Choice, ClinicalValue, Evidence, Prediction, Refusal, Series, SeriesRole
from structured_reports.attributes import OVERVIEW_SERIES, SR_SERIES
from structured_reports.brief import Brief
from structured_reports.build import brief_result, build_refusal, build_result
from structured_reports.context import Predecessor, ReportContext

log = logging.getLogger(__name__)


class WorkerLost(CervinodeError):
    """The worker died each time it tried this job."""

    code = "WORKER_LOST"


class _Result(NamedTuple):
    """What a job comes to before it is stored."""

    status: ResultStatus
    objects: list[Dataset]
    code: str | None = None
    reasons: tuple[str, ...] = ()
    prediction: Prediction | None = None
    brief: Brief | None = None
    rejected: tuple[RejectedObjects, ...] = ()


class _Stages:
    """Measures how long each stage takes, and tells."""

    def __init__(self, listeners: Sequence[Callable[[str], None]]) -> None:
        self._listeners = listeners
        self._since: tuple[str, float] | None = None
        self.timings_s: dict[str, float] = {}

    def enter(self, name: str) -> None:
        self.leave()
        self._since = (name, time.perf_counter())
        for tell in self._listeners:
            tell(name)

    def leave(self) -> None:
        if self._since:
            name, start = self._since
            self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - start
            self._since = None


class Worker:
    """Executes orders. Bundles stay open between them."""

    def __init__(
        self,
        *,
        store: StudyStore,
        claims: Claims,
        models_root: Path,
        specs: Mapping[str, PipelineSpec],
        max_attempts: int,
        trusted_keys: Collection[str] = (),
    ) -> None:
        self._store, self._claims, self._models_root, self._specs = store, claims, models_root, specs
        self._max_attempts, self._trusted_keys = max_attempts, trusted_keys
        self._bundles: dict[str, Bundle] = {}

    def execute(self, order: JobOrder, *, progress: Callable[[str], None] = lambda _: None) -> JobOutcome | None:
        """Run a job and store its result; do nothing if it has one, or if somebody alive works on it (``None``).

        Raises
        ------
        CervinodeError
            An error that another attempt can cure. All others end in the outcome.
        """
        stored = self._store.outcome(order.job_id)
        beat = None if stored else self._claims.take(order.job_id)
        if beat is None:
            return stored
        with beat:
            stages = _Stages((beat.stage, progress))
            try:
                result = self._run(order, beat, stages)
            except Exception as error:
                if isinstance(error, CervinodeError) and error.retry and beat.claim.attempt < self._max_attempts:
                    raise
                if not isinstance(error, InputError):
                    log.exception("job failed", extra=fields(job=order.job_id))
                result = self._explain(order, error)
            stages.leave()
            outcome = self._store_result(order, result, stages.timings_s)
        self._claims.remove(order.job_id)
        log.info("job executed", extra=fields(job=order.job_id, status=outcome.status, code=outcome.code))
        return outcome

    def _run(self, order: JobOrder, beat: Beat, stages: _Stages) -> _Result:
        if beat.claim.attempt > self._max_attempts:
            raise WorkerLost(f"the worker died {beat.claim.attempt - 1} times while it worked on this job")
        if order.system == OVERVIEW:
            stages.enter("report")
            first = next((self._specs[m.system] for m in order.members if m.system in self._specs), None)
            if first is None:
                raise BundleError("this worker knows none of the systems of the study")
            return _Result(ResultStatus.DONE, write_overview(order, self._store, self._specs, self._context(order, first)))
        stages.enter("read")
        spec = self._spec(order)
        series = self._read(order)
        if order.refusal:
            stages.enter("report")
            refusal = Refusal(spec.name, spec.title, order.refusal.code, order.refusal.reasons, order.refusal.found)
            return _Result(ResultStatus.REFUSED, self._build_refusal(order, series, refusal), refusal.code, refusal.reasons)
        bundle = self._bundle(order, spec)
        clinical = {v.name: ClinicalValue(v.name, v.value, v.words, v.source) for v in order.clinical}
        case = replace(load_case(series, _chosen(order, series), spec), clinical=clinical)
        prediction, evidence = run(spec, bundle, case, progress=stages.enter)
        prediction = replace(prediction, bundle_status=order.bundle_status or prediction.bundle_status)
        stages.enter("report")
        context = self._context(order, spec)
        objects = build_result(_used(series, order, evidence), prediction, evidence, context)
        return _Result(ResultStatus.DONE, objects, prediction=prediction, brief=brief_result(prediction, evidence, context))

    def _explain(self, order: JobOrder, error: Exception) -> _Result:
        """Return the result that tells a reader why there is none."""
        known = isinstance(error, CervinodeError)
        status = ResultStatus(error.job_state) if isinstance(error, CervinodeError) else ResultStatus.FAILED
        code = error.code if isinstance(error, CervinodeError) else "INTERNAL"
        # The text of a foreign exception may quote the header of a patient; its type never does.
        reasons = tuple(str(error).split("; ")) if known else (f"internal error: {type(error).__name__}",)
        objects: list[Dataset] = []
        rejected = [error] if isinstance(error, RejectedObjects) else []
        if order.system == OVERVIEW:
            return _Result(status, objects, code, reasons, rejected=tuple(rejected))
        try:
            spec, series = self._spec(order), self._read(order)
            refusal = Refusal(
                spec.name,
                spec.title,
                code,
                reasons,
                describe_found(series),
                failed=status is ResultStatus.FAILED,
                drawing=error.drawing if isinstance(error, UnusableDrawing) else None,
            )
            objects = self._build_refusal(order, series, refusal)
        except CervinodeError as second:
            reasons = (*reasons, f"no report could be written: {second}")
            rejected += [second] if isinstance(second, RejectedObjects) else []
        except Exception as second:  # the outcome must be stored whatever the report's writing ran into
            log.exception("no report", extra=fields(job=order.job_id))
            reasons = (*reasons, f"no report could be written: {type(second).__name__}")
        return _Result(status, objects, code, reasons, rejected=tuple(rejected))

    def _spec(self, order: JobOrder) -> PipelineSpec:
        try:
            return self._specs[order.system]
        except KeyError:
            raise BundleError(f"this worker does not know the system {order.system!r}") from None

    def _read(self, order: JobOrder) -> list[Series]:
        return read_series(self._store.instance_path(order.study_instance_uid, uid) for uid in order.sop_instance_uids)

    def _bundle(self, order: JobOrder, spec: PipelineSpec) -> Bundle:
        """Return the bundle that was ordered, verified when it is first used."""
        if order.bundle_digest not in self._bundles:
            named = self._models_root / spec.name / order.bundle_version if order.bundle_version else None
            folder = named or find_bundle(self._models_root, spec, trusted_keys=self._trusted_keys)
            bundle = load_bundle(folder, spec, trusted_keys=self._trusted_keys)
            if bundle.digest != order.bundle_digest:
                raise BundleError(f"{bundle.label} on this worker is not the bundle that was ordered; all hosts need the same models")
            self._bundles[bundle.digest] = bundle
        return self._bundles[order.bundle_digest]

    def _context(self, order: JobOrder, spec: PipelineSpec) -> ReportContext:
        predecessor = self._predecessor(order)
        return ReportContext(
            spec=spec,
            created_at=order.created_at,
            station=order.station,
            language=order.language,
            version=order.version,
            predecessor=predecessor,
            bundle_status=order.bundle_status,
        )

    def _predecessor(self, order: JobOrder) -> Predecessor | None:
        """Return the SR (of an overview the page) of the newest version before that has left one."""
        job_id = order.predecessor
        while job_id and (earlier := self._store.outcome(job_id)):
            for item in earlier.objects:
                header = pydicom.dcmread(self._store.result_folder(job_id) / item.path, stop_before_pixels=True)
                if header.SeriesNumber in (SR_SERIES, OVERVIEW_SERIES):
                    return Predecessor.of(header)
            job_id = earlier.predecessor
        return None

    def _build_refusal(self, order: JobOrder, series: Sequence[Series], refusal: Refusal) -> list[Dataset]:
        sources = [d for s in series for d in s.instances]
        return build_refusal(sources, refusal, self._context(order, self._spec(order)))

    def _store_result(self, order: JobOrder, result: _Result, timings_s: dict[str, float]) -> JobOutcome:
        objects, contents = [], {}
        for number, dataset in enumerate(result.objects, start=1):
            name = f"{number:02d}_{str(dataset.Modality).lower()}.dcm"
            contents[name] = encode(dataset)
            if dataset.SOPClassUID == SegmentationStorage:
                uid = str(dataset.SOPInstanceUID)
                if self._store.keep_shared(uid, contents[name]) != contents[name]:
                    error = ResultError(f"segmentation {uid}, which results of this study share, is not stored as it was built")
                    return self._store_result(order, self._explain(order, error), timings_s)
            objects.append(
                OutcomeObject(
                    path=name,
                    sop_class_uid=str(dataset.SOPClassUID),
                    sop_instance_uid=str(dataset.SOPInstanceUID),
                    sha256=hashlib.sha256(contents[name]).hexdigest(),
                )
            )
        rejected = quarantine(result.rejected)
        outcome = JobOutcome(
            job_id=order.job_id,
            system=order.system,
            status=result.status,
            code=result.code,
            reasons=result.reasons,
            predecessor=order.predecessor,
            probability=result.prediction.probability if result.prediction else None,
            threshold=result.prediction.threshold if result.prediction else None,
            call=_call(result.prediction) if result.prediction else None,
            brief=result.brief,
            objects=tuple(objects),
            quarantined=tuple(name for name in rejected if name != REASONS),
            timings_s={name: round(seconds, 3) for name, seconds in timings_s.items()},
        )
        return self._store.keep_result(outcome, contents, rejected)


def make_worker(settings: Settings) -> Worker:
    """Return the worker that settings describe."""
    store = StudyStore(settings.node.storage_root)
    return Worker(
        store=store,
        claims=Claims(store.running, heartbeat_s=settings.worker.heartbeat_s),
        models_root=settings.node.models_root,
        specs=catalogue(settings.node.systems_path),
        max_attempts=settings.worker.max_attempts,
        trusted_keys=settings.node.trusted_keys,
    )


def _chosen(order: JobOrder, series: Sequence[Series]) -> dict[SeriesRole, Choice]:
    """Return the choices of the order with their headers."""
    headers = {s.header.series_instance_uid: s.header for s in series}
    choices = {}
    for chosen in order.chosen:
        wanted = set(chosen.sop_instance_uids)  # of several series where a map is computed from them
        instances = tuple(d for s in series for d in s.instances if d.SOPInstanceUID in wanted)
        choices[chosen.role] = Choice(chosen.role, headers[chosen.series_instance_uid], instances, chosen.score, chosen.reason)
    return choices


def _used(series: Sequence[Series], order: JobOrder, evidence: Evidence) -> list[Dataset]:
    """Return the headers of what the result rests on: the chosen images, and the object that gave the roi."""
    wanted = {uid for c in order.chosen for uid in c.sop_instance_uids} | {evidence.roi.source_sop_instance_uid}
    return [d for s in series for d in s.instances if d.SOPInstanceUID in wanted]


def _call(prediction: Prediction) -> str:
    """Return the call in a word; of a system of several classes the most probable one, by its name."""
    named = (outcome.words for outcome in prediction.outcomes if outcome.kind == "class")
    return next(named, prediction.call) if prediction.call == "class" else prediction.call
