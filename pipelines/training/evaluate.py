"""A bundle judged on a cohort that had no part in its training, through the serving code, with nothing left out."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from pipelines.errors import BundleError, CohortError
from pipelines.models.bundle import MANIFEST, Bundle, load_bundle
from pipelines.models.manifest import Manifest
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.training.breakdown import columns, group_tables, has_call, judge_calls, size_baselines
from pipelines.training.calibration import calibration
from pipelines.training.cohort import CohortRow, read_cohort
from pipelines.training.decision_curve import decision_curve
from pipelines.training.discrimination import area, bootstrap_auc, delong, roc_curve
from pipelines.training.evaluation import BundleFacts, Evaluation, Flow, PatientRow, RefusedRow, write_evaluation
from pipelines.training.intervals import RESAMPLES
from pipelines.training.judge import Answer, Judged, Refused, judge_cohort
from pipelines.training.tally import Look, Tally, check_tally, count_look

FILE_NAME = "evaluation.json"
PRECISE = 100  # rows of either class for a precise judgement (Collins, Ogundimu and Altman, Stat Med 2016;35:214-226)
_LIBRARIES = ("cervinode", "numpy", "scipy", "simpleitk", "pyradiomics", "onnxruntime")
_PHANTOMS = "Synthetic phantoms; says nothing about patients."
_DEMO = "The bundle was trained on synthetic phantoms: whatever it scores here, its probabilities mean nothing for patients."
_EXTERNAL = "External cohort: none of its sites took part in training."
_SAME_SITE = "Not an external cohort: it shares sites with the training cohort, whose patients must not be among these."
_UNKNOWN = "The sites of training cohort and this one are not both recorded: whether this is an external cohort is not known."


def evaluate(
    bundle_folder: Path,
    cohort_csv: Path,
    *,
    out: Path,
    date: datetime.date,
    workers: int = 2,
    seed: int = 1,
    resamples: int = RESAMPLES,
    progress: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Judge a bundle on a cohort and write ``evaluation.json`` below ``out``.

    Each patient's answer is kept in ``out/patients`` by the content of bundle and study, so that a run that was killed goes on. The
    evaluation is counted beside the cohort, see :mod:`pipelines.training.tally`.

    Parameters
    ----------
    date : of the evaluation, as the result states it.
    seed, resamples : of the bootstrap.
    progress : called with one line for a person per step.

    Raises
    ------
    BundleError
        The bundle cannot be used.
    CohortError
        The table cannot be used, the system has more than two classes, or too few patients of a class could be judged.
    """
    spec = _spec_of(bundle_folder)
    bundle = load_bundle(bundle_folder, spec)
    facts, rows = _bundle_facts(bundle, spec), read_cohort(cohort_csv)
    check_tally(cohort_csv)
    judged = [r for r in rows if r.split != "train"]
    answers = judge_cohort(judged, bundle, cache_folder=out / "patients", workers=workers, progress=progress)
    flow, patients = _flow(rows, answers), [_patient(a, a.outcome) for a in answers if isinstance(a.outcome, Judged)]
    _check_enough(cohort_csv, flow)
    digest, auc = _digest(cohort_csv, answers), area(*columns(patients))
    look = Look(date, cohort_csv.name, digest, spec.name, facts.version, bundle.digest, len(patients), auc)
    tally = count_look(cohort_csv.parent, look)
    synthetic = any(isinstance(a.outcome, Judged) and a.outcome.synthetic for a in answers)
    evaluation = assemble(facts, flow, patients, look=look, tally=tally, synthetic=synthetic, seed=seed, resamples=resamples)
    write_evaluation(out / FILE_NAME, evaluation)
    return evaluation


def assemble(
    facts: BundleFacts,
    flow: Flow,
    patients: Sequence[PatientRow],
    *,
    look: Look,
    tally: Tally,
    synthetic: bool,
    seed: int,
    resamples: int,
) -> Evaluation:
    """Compute everything from the patients' rows, of which there are at least two of each class.

    ``look`` is this evaluation as it was counted; ``synthetic`` says that there is a phantom among the patients.
    """
    p, y = columns(patients)
    sites = _sites(patients)
    external = _is_external(sites, facts.training_sites)
    return Evaluation(
        format_version=1,
        date=look.date,
        statement=_statement(facts, synthetic, external),
        warnings=tuple(_warnings(flow, tally, patients)),
        bundle_digest=look.bundle_digest,
        cohort_digest=look.cohort_digest,
        cohort=look.cohort,
        n=len(patients),
        events=flow.events,
        sites=sites,
        external=external,
        synthetic=synthetic,
        bundle=facts,
        flow=flow,
        tally=tally,
        auc=delong(p, y),
        auc_bootstrap=bootstrap_auc(p, y, resamples=resamples, seed=seed),
        roc=roc_curve(p, y),
        operating_point=judge_calls(patients),
        calibration=calibration(p, y, external=True, resamples=resamples, seed=seed),
        decision_curve=decision_curve(p, y),
        baselines=size_baselines(patients),
        groups=group_tables(patients),
        patients=tuple(patients),
        seed=seed,
        made_with={"python": platform.python_version()} | {library: version(library) for library in _LIBRARIES},
    )


def _spec_of(folder: Path) -> PipelineSpec:
    """Return the declaration of the system that a bundle is for."""
    try:
        system = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).system
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if system not in catalogue():
        raise BundleError(f"{folder / MANIFEST} is a bundle of {system}, which is no system here")
    return catalogue()[system]


def _bundle_facts(bundle: Bundle, spec: PipelineSpec) -> BundleFacts:
    manifest, decision = bundle.manifest, bundle.manifest.decision
    if decision.threshold is None:
        raise CohortError(f"{bundle.label} tells several classes apart; so far only bundles with one finding can be evaluated")
    return BundleFacts(
        system=spec.name,
        title=spec.title,
        finding=spec.finding.meaning,
        version=manifest.version,
        status=manifest.status,
        threshold=decision.threshold,
        threshold_rule=decision.threshold_rule,
        trained_on=manifest.training.data,
        training_sites=manifest.training.sites,
        training_metrics=manifest.training.metrics,
        training_statement=manifest.training.statement,
    )


def _digest(cohort_csv: Path, answers: Sequence[Answer]) -> str:
    content = "\n".join([hashlib.sha256(cohort_csv.read_bytes()).hexdigest(), *(a.study_digest for a in answers)])
    return hashlib.sha256(content.encode()).hexdigest()


def _sites(patients: Sequence[PatientRow]) -> tuple[str, ...]:
    """Return the sites that patients came from, none where one patient's is not known: nothing could be said of them all."""
    return tuple(sorted({x.site for x in patients})) if all(x.site.strip() for x in patients) else ()


def _is_external(sites: Sequence[str], training_sites: Sequence[str]) -> bool | None:
    judged, trained = ({" ".join(s.split()).casefold() for s in some} for some in (sites, training_sites))
    return judged.isdisjoint(trained) if judged and trained else None


def _flow(rows: Sequence[CohortRow], answers: Sequence[Answer]) -> Flow:
    refused = [_refused(a, a.outcome) for a in answers if isinstance(a.outcome, Refused)]
    judged = [(a.row, a.outcome) for a in answers if isinstance(a.outcome, Judged)]
    return Flow(
        rows=len(rows),
        row_events=sum(r.label for r in rows),
        training_rows=len(rows) - len(answers),
        refused=tuple(refused),
        refused_events=sum(r.label for r in refused),
        evaluated=len(judged),
        events=sum(row.label for row, _ in judged),
        withheld=sum(not has_call(outcome.call) for _, outcome in judged),
        roi_origins=dict(sorted(Counter(outcome.roi_origin for _, outcome in judged).items())),
    )


def _refused(answer: Answer, outcome: Refused) -> RefusedRow:
    row = answer.row
    return RefusedRow(row.line, row.patient, row.site, row.label, outcome.code, outcome.reason)


def _patient(answer: Answer, outcome: Judged) -> PatientRow:
    row = answer.row
    return PatientRow(
        line=row.line,
        patient=row.patient,
        site=row.site,
        label=row.label,
        probability=outcome.probability,
        threshold=outcome.threshold,
        call=outcome.call,
        roi_origin=outcome.roi_origin,
        measurements=outcome.measurements,
        manufacturer=outcome.manufacturer,
        model=outcome.model,
        field_strength_t=outcome.field_strength_t,
        flags=outcome.flags,
    )


def _check_enough(cohort_csv: Path, flow: Flow) -> None:
    others = flow.evaluated - flow.events
    if min(flow.events, others) >= 2:
        return
    refused = "; ".join(f"line {r.line} ({r.patient}): {r.reason}" for r in flow.refused[:3])
    raise CohortError(
        f"{cohort_csv}: {flow.events} positive and {others} negative patients could be judged, at least 2 of each are needed; "
        f"{len(flow.refused)} were refused{f', first {refused}' if refused else ''}"
    )


def _statement(bundle: BundleFacts, synthetic: bool, external: bool | None) -> str:
    """Say how far the numbers may be believed; phantoms among patients spoil all of them."""
    if synthetic:
        return _PHANTOMS
    if bundle.trained_on == "synthetic":
        return _DEMO
    return _UNKNOWN if external is None else _EXTERNAL if external else _SAME_SITE


def _warnings(flow: Flow, tally: Tally, patients: Sequence[PatientRow]) -> Iterator[str]:
    judged = flow.rows - flow.training_rows
    if flow.training_rows:
        yield f"{flow.training_rows} rows of the table belong to the training split and were left out."
    if flow.refused:
        yield f"{len(flow.refused)} of {judged} patients were refused, {flow.refused_events} with the finding: no number counts them."
    if flow.withheld:
        yield f"The call was withheld from {flow.withheld} patients; the operating point is without them."
    if min(flow.events, flow.evaluated - flow.events) < PRECISE:
        yield (
            f"{flow.events} patients with the finding and {flow.evaluated - flow.events} without: below {PRECISE} of either, intervals are "
            "wide and calibration can hardly be judged."
        )
    if drawn := flow.roi_origins.get("MODEL", 0):
        yield f"The tumour was drawn by the bundle's segmenter in {drawn} patients, by a person in the others."
    if flagged := sum(bool(x.flags) for x in patients):
        yield f"{flagged} patients' predictions carry a flag, such as features outside the training range; see each one's line."
    if len(tally.looks) > 1:
        yield tally.sentence
