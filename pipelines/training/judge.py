"""Every patient of a cohort through the serving code, in parallel; what is done stays on disk by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import SimpleITK as sitk
from threadpoolctl import threadpool_limits

from pipelines import engine
from pipelines.errors import InferenceError, InputError, MissingClinical
from pipelines.features.clinical_dicom import from_study
from pipelines.imaging.elements import text
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import read_series
from pipelines.models.bundle import Bundle, load_bundle
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.training.cohort import CohortRow
from pipelines.training.extract import study_files
from pipelines.training.identity import Identity, identify
from pipelines.types import Case, Evidence, Prediction, as_float

_VERSION = "5"  # part of every key; raised when the serving code changes what it returns
_REPORT_EVERY = 10  # patients
PHANTOM = "SYNTHETIC PHANTOM"  # Image Comments (0020,4000) of every phantom image


@dataclass(frozen=True, slots=True)
class Judged:
    """What a bundle said of one patient. ``measurements`` are by name and unit, as ``Volume [ml]``; ``classes`` by number, if several.

    ``plausible`` are the labels in the conformal set, ``interval`` the bounds of the probability, ``alone`` is the probability by images
    alone where clinical values had a part in the other.
    """

    probability: float
    threshold: float | None
    call: str
    flags: tuple[str, ...]
    roi_origin: str
    measurements: dict[str, float]
    manufacturer: str
    model: str
    field_strength_t: float | None
    synthetic: bool
    classes: dict[int, float]
    identity: Identity
    plausible: tuple[int, ...]
    interval: tuple[float, float] | None
    alone: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the bundle said nothing of a patient: an error's code and sentence."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A row's answer, and the SHA-256 over its study's files, empty where they cannot be read."""

    row: CohortRow
    study_digest: str
    outcome: Judged | Refused


def judge_cohort(
    rows: Sequence[CohortRow],
    bundle: Bundle,
    *,
    trusted_keys: Collection[str],
    systems_path: Path | None,
    cache_folder: Path,
    workers: int,
    progress: Callable[[str], None],
) -> list[Answer]:
    """Return the bundle's answer for every row, in order. Answers are kept in ``cache_folder``, refusals are tried anew each time.

    ``trusted_keys`` and ``systems_path`` are those that the bundle was opened with: every process opens it anew.

    Raises
    ------
    BundleError
        The bundle cannot be opened: that is no fault of a patient's.
    """
    cache_folder.mkdir(parents=True, exist_ok=True)
    opened = partial(_open, bundle.manifest.system, bundle.folder, tuple(trusted_keys), systems_path)
    task = partial(_judge, opened=opened, digest=bundle.digest, cache_folder=cache_folder)
    answers: list[Answer] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
        for i, answer in enumerate(pool.map(task, rows), start=1):
            answers.append(answer)
            if i % _REPORT_EVERY == 0 or i == len(rows):
                progress(f"evaluation: {i} of {len(rows)} studies")
    return answers


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the processes are the parallelism
    threadpool_limits(1)


@cache
def _open(system: str, folder: Path, trusted_keys: tuple[str, ...], systems_path: Path | None) -> tuple[PipelineSpec, Bundle]:
    """Open the bundle once per process."""
    spec = catalogue(systems_path)[system]
    return spec, load_bundle(folder, spec, trusted_keys=trusted_keys)


def _judge(row: CohortRow, *, opened: Callable[[], tuple[PipelineSpec, Bundle]], digest: str, cache_folder: Path) -> Answer:
    spec, bundle = opened()
    study_digest = ""
    try:
        paths = study_files(row)
        study_digest = _digest_files(paths)
        stated = sorted((v.name, v.value) for v in row.clinical.values())
        file = cache_folder / f"{hashlib.sha256(f'{_VERSION} {digest} {study_digest} {stated}'.encode()).hexdigest()}.json"
        if not file.exists():
            case = _read_case(row, paths, spec)
            judged = _summarise(spec, case, *engine.run(spec, bundle, case))
            if bundle.imaging_only and case.clinical:  # what was extracted is shared
                alone, _ = engine.run(spec, bundle, replace(case, clinical={}))
                judged = replace(judged, alone=alone.probability)
            _write(file, judged)
    except (InputError, InferenceError) as error:
        return Answer(row, study_digest, Refused(error.code, str(error)))
    except OSError as error:
        return Answer(row, study_digest, Refused(InputError.code, f"the study cannot be read: {error}"))
    return Answer(row, study_digest, _read(file))


def _read_case(row: CohortRow, paths: Sequence[Path], spec: PipelineSpec) -> Case:
    """Read a study as the node does, with the clinical values that the system declares; those of the table win over the study's own."""
    series = read_series(paths)
    known = {**from_study(series), **row.clinical}
    if missing := [c.name for c in spec.clinical if c.required and c.fallback == "refuse" and c.name not in known]:
        raise MissingClinical(f"not known: {', '.join(missing)}")
    case = engine.load_case(series, choose(series, spec), spec)
    return replace(case, clinical={name: known[name] for name in spec.clinical_names if name in known})


def _digest_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _summarise(spec: PipelineSpec, case: Case, prediction: Prediction, evidence: Evidence) -> Judged:
    headers = {role: image.sources[0] for role, image in case.volumes.items()}
    scanner, numbers = next(iter(headers.values())), {label.code: label.number for label in spec.classes}
    return Judged(
        probability=prediction.probability,
        threshold=prediction.threshold,
        call=prediction.call,
        flags=prediction.flags,
        roi_origin=str(evidence.roi.origin),
        measurements={f"{m.name.meaning} [{m.unit.value}]": m.value for m in evidence.measurements},
        manufacturer=text(scanner, "Manufacturer"),
        model=text(scanner, "ManufacturerModelName"),
        field_strength_t=as_float(scanner.get("MagneticFieldStrength")),
        synthetic=any(text(h, "ImageComments") == PHANTOM for h in headers.values()),
        classes={numbers[o.code]: o.probability for o in prediction.outcomes if o.kind == "class"},
        identity=identify(case, spec.required),
        plausible=tuple(_label(spec, answer) for answer in prediction.plausible),
        interval=prediction.interval,
        alone=None,
    )


def _write(file: Path, judged: Judged) -> None:
    partial_file = file.with_suffix(".partial")  # renamed when whole, so that a killed run leaves nothing half written
    partial_file.write_text(json.dumps(asdict(judged), indent=1), encoding="utf-8")
    partial_file.replace(file)


def _read(file: Path) -> Judged:
    stored = json.loads(file.read_text(encoding="utf-8"))
    classes = {int(k): p for k, p in stored["classes"].items()}
    stored |= {"flags": tuple(stored["flags"]), "classes": classes, "identity": Identity(**stored["identity"])}
    stored |= {"plausible": tuple(stored["plausible"]), "interval": tuple(stored["interval"]) if stored["interval"] else None}
    return Judged(**stored)


def _label(spec: PipelineSpec, answer: str) -> int:
    """Return the label that an answer of a conformal set stands for."""
    return {label.code.meaning: label.number for label in spec.classes}[answer] if spec.classes else int(answer == "positive")
