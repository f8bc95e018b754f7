"""Run the systems on a folder of DICOM files, without network: the same planning and the same worker as in a node."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.uid import UID

from node.jobs import JobOutcome, OutcomeObject
from node.planning import Circumstances, make_job, refer_to_bundle, without_own_results
from node.storage.claims import Claims
from node.storage.files import StudyStore
from node.worker import Worker
from pipelines.errors import InputError
from pipelines.features.clinical_dicom import from_study
from pipelines.imaging.series import find_dicom_files, read_what_is_readable
from pipelines.spec import PipelineSpec
from pipelines.types import ClinicalValue, Series
from structured_reports.source import newest_time

SUMMARY = "summary.json"
_HEARTBEAT_S = 60.0  # nobody watches


@dataclass(frozen=True, slots=True)
class Predicted:
    """The outcome of one system on one study."""

    study_instance_uid: str
    outcome: JobOutcome


def predict(
    folder: Path,
    out: Path,
    *,
    specs: Iterable[PipelineSpec],
    models_root: Path,
    station: str,
    language: str = "en",
    clinical: Mapping[str, ClinicalValue] | None = None,
    trusted_keys: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[Predicted]:
    """Run each system on each study in ``folder``; write the objects to ``out/objects`` and ``out/summary.json``.

    Every run on the same files gives the same bytes: the time of its objects is that of the newest instance of the study.
    ``clinical`` are values that were entered, by name; they win over what the studies themselves say.

    Raises
    ------
    InputError
        The folder holds no DICOM file, or none that can be read. One bad file among others makes the result REFUSED and names it.
    """
    chosen = {spec.name: spec for spec in specs}
    results = []
    with tempfile.TemporaryDirectory(prefix="cervinode-predict-") as scratch:
        store = StudyStore(Path(scratch))
        store.prepare()
        claims = Claims(store.running, heartbeat_s=_HEARTBEAT_S)
        worker = Worker(store=store, claims=claims, models_root=models_root, specs=chosen, max_attempts=1, trusted_keys=trusted_keys)
        studies, problem = _by_study(folder)
        for study, series in studies.items():
            _link(store, study, series)
            created_at = newest_time(d for s in series for d in s.instances) or datetime.now().astimezone()
            known = Circumstances(clinical={**from_study(series), **(clinical or {})})
            for spec in chosen.values():
                bundle = refer_to_bundle(models_root, spec, trusted_keys=trusted_keys)
                job = make_job(
                    series,
                    spec,
                    bundle=bundle,
                    station=station,
                    language=language,
                    created_at=created_at,
                    known=known,
                    problem=problem,
                )
                outcome = worker.execute(job.order, progress=progress) if job else None
                if outcome:
                    results.append(Predicted(study, outcome))
                    _take_objects(store.result_folder(outcome.job_id), outcome, out / "objects")
    (out / SUMMARY).write_text(json.dumps(summarise(results), indent=2) + "\n", encoding="utf-8")
    return results


def summarise(results: Sequence[Predicted]) -> dict[str, object]:
    """Return results, objects and seconds per stage as JSON-ready data."""
    timings: dict[str, float] = defaultdict(float)
    for result in results:
        for stage, seconds in result.outcome.timings_s.items():
            timings[stage] += seconds
    return {
        "results": [_describe(result) for result in results],
        "objects": [_describe_object(item) for result in results for item in result.outcome.objects],
        "timings_s": {stage: round(seconds, 3) for stage, seconds in timings.items()},
    }


def _describe(result: Predicted) -> Mapping[str, object]:
    outcome = result.outcome
    return {
        "system": outcome.system,
        "study_instance_uid": result.study_instance_uid,
        "status": outcome.status,
        "probability": outcome.probability,
        "threshold": outcome.threshold,
        "call": outcome.call,
        "code": outcome.code,
        "reasons": outcome.reasons,
    }


def _describe_object(item: OutcomeObject) -> Mapping[str, str]:
    name = f"{item.sop_instance_uid}.dcm"
    return {"path": f"objects/{name}", "sop_class": UID(item.sop_class_uid).name, "sop_instance_uid": item.sop_instance_uid}


def _by_study(folder: Path) -> tuple[dict[str, list[Series]], InputError | None]:
    """Return the studies of a folder, and what is wrong with files that cannot be read: it may concern any of them."""
    studies: dict[str, list[Series]] = defaultdict(list)
    found, problem = read_what_is_readable(find_dicom_files(folder))
    for series in without_own_results(found):
        studies[series.header.study_instance_uid].append(series)
    if not studies:
        raise problem or InputError(f"{folder} holds nothing but result objects of our own")
    return studies, problem


def _link(store: StudyStore, study_instance_uid: str, series: Sequence[Series]) -> None:
    """Put the files of a study where the worker looks for them."""
    for instance in (d for s in series for d in s.instances):
        path = store.instance_path(study_instance_uid, str(instance.SOPInstanceUID))
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(Path(instance.filename).resolve())


def _take_objects(result_folder: Path, outcome: JobOutcome, objects: Path) -> None:
    objects.mkdir(parents=True, exist_ok=True)
    for item in outcome.objects:
        shutil.copyfile(result_folder / item.path, objects / f"{item.sop_instance_uid}.dcm")
