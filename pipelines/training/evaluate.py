"""A bundle judged on a cohort that had no part in its training, through the serving code, with nothing left out."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import BundleError, CohortError
from pipelines.models.bundle import MANIFEST, Bundle, load_bundle
from pipelines.models.manifest import Manifest
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.training.breakdown import class_columns, has_call, judge_finding, judge_sets, one_against_rest
from pipelines.training.cohort import MIN_EVENTS, CohortRow, name_rows, read_cohort
from pipelines.training.evaluation import (
    BundleFacts,
    Coverage,
    Evaluation,
    Finding,
    Flow,
    PatientRow,
    RefusedRow,
    tell_labels,
    write_evaluation,
)
from pipelines.training.identity import check_identities
from pipelines.training.intervals import RESAMPLES, Estimate
from pipelines.training.judge import Answer, Judged, Refused, judge_cohort
from pipelines.training.several import SeveralClasses, judge_several
from pipelines.training.tally import Look, Tally, check_tally, count_look

FILE_NAME = "evaluation.json"
LEAST = 2  # rows of either class, for an area with a variance
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
    trusted_keys: Collection[str] = (),
    systems_path: Path | None = None,
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
    trusted_keys : public keys of those who may release bundles, see :func:`pipelines.models.bundle.load_bundle`.
    systems_path : a folder with a site's own declarations of systems, see :func:`pipelines.systems.catalogue`.
    seed, resamples : of the bootstrap.
    progress : called with one line for a person per step.

    Raises
    ------
    BundleError
        The bundle cannot be used.
    CohortError
        The table cannot be used, a study or a patient stands in two of its rows, or too few patients of a class could be judged.
    """
    spec = _spec_of(bundle_folder, systems_path)
    bundle = load_bundle(bundle_folder, spec, trusted_keys=trusted_keys)
    facts = _bundle_facts(bundle, spec)
    rows = read_cohort(cohort_csv, classes=[c.number for c in spec.classes] or (0, 1), each=1 if facts.classes else MIN_EVENTS)
    check_tally(cohort_csv)
    judged = [r for r in rows if r.split != "train"]
    answers = judge_cohort(
        judged,
        bundle,
        trusted_keys=trusted_keys,
        systems_path=systems_path,
        cache_folder=out / "patients",
        workers=workers,
        progress=progress,
    )
    known = [(a.row, a.outcome.identity) for a in answers if isinstance(a.outcome, Judged)]
    untold = check_identities(cohort_csv, [row for row, _ in known], [identity for _, identity in known])
    flow, patients = _flow(rows, answers), [_patient(a, a.outcome) for a in answers if isinstance(a.outcome, Judged)]
    _check_enough(cohort_csv, flow, facts)
    numbers = judge_patients(facts, patients, seed=seed, resamples=resamples, systems_path=systems_path)
    digest = _digest(cohort_csv, answers)
    look = Look(date, cohort_csv.name, digest, spec.name, facts.version, bundle.digest, len(patients), numbers.auc.value)
    tally = count_look(cohort_csv.parent, look)
    synthetic = any(isinstance(a.outcome, Judged) and a.outcome.synthetic for a in answers)
    evaluation = assemble(facts, flow, patients, numbers, look=look, tally=tally, synthetic=synthetic, seed=seed, warnings=untold)
    write_evaluation(out / FILE_NAME, evaluation)
    return evaluation


class Numbers(NamedTuple):
    """What comes out of the patients' rows, see :class:`pipelines.training.evaluation.Evaluation`."""

    auc: Estimate
    findings: tuple[Finding, ...]
    several: SeveralClasses | None
    coverage: Coverage | None


def judge_patients(
    facts: BundleFacts, patients: Sequence[PatientRow], *, seed: int, resamples: int, systems_path: Path | None = None
) -> Numbers:
    """Judge a bundle's answers, of which there are at least two of each class (of several classes, of two of them)."""
    if not facts.classes:
        finding = judge_finding(facts.finding, patients, seed=seed, resamples=resamples)
        return Numbers(Estimate(finding.auc.value, finding.auc.interval), (finding,), None, judge_sets(patients, facts.coverage))
    known, spec = facts.classes, catalogue(systems_path)[facts.system]
    several = judge_several(*class_columns(patients, known), known=known, spec=spec, seed=seed, resamples=resamples)
    asked = one_against_rest(patients, known, spec)
    findings = tuple(judge_finding(name, rows, seed=seed, resamples=resamples) for name, rows in asked)
    return Numbers(several.mean_auc, findings, several, judge_sets(patients, facts.coverage))


def assemble(
    facts: BundleFacts,
    flow: Flow,
    patients: Sequence[PatientRow],
    numbers: Numbers,
    *,
    look: Look,
    tally: Tally,
    synthetic: bool,
    seed: int,
    warnings: Sequence[str] = (),
) -> Evaluation:
    """Put together what was found and how far to believe it.

    ``look`` is this evaluation as it was counted; ``synthetic`` says that there is a phantom among the patients,
    ``warnings`` what else is to be known of them.
    """
    sites = _sites(patients)
    external = _is_external(sites, facts.training_sites)
    return Evaluation(
        format_version=2,
        date=look.date,
        statement=_statement(facts, synthetic, external),
        warnings=(*_warnings(facts, flow, tally, patients, numbers.several), *warnings),
        bundle_digest=look.bundle_digest,
        cohort_digest=look.cohort_digest,
        cohort=look.cohort,
        n=len(patients),
        events=None if facts.classes else flow.labels.get(1, 0),
        sites=sites,
        external=external,
        synthetic=synthetic,
        bundle=facts,
        flow=flow,
        tally=tally,
        auc=numbers.auc,
        findings=numbers.findings,
        several=numbers.several,
        patients=tuple(patients),
        seed=seed,
        coverage=numbers.coverage,
        made_with={"python": platform.python_version()} | {library: version(library) for library in _LIBRARIES},
    )


def _spec_of(folder: Path, systems_path: Path | None) -> PipelineSpec:
    """Return the declaration of the system that a bundle is for."""
    try:
        system = Manifest.model_validate_json((folder / MANIFEST).read_bytes()).system
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read: {error}") from error
    specs = catalogue(systems_path)
    if system not in specs:
        raise BundleError(f"{folder / MANIFEST} is a bundle of {system}, which is no system here")
    return specs[system]


def _bundle_facts(bundle: Bundle, spec: PipelineSpec) -> BundleFacts:
    manifest, decision = bundle.manifest, bundle.manifest.decision
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
        classes=decision.classes,
        coverage=rule.coverage if (rule := decision.class_conformal or decision.conformal) else None,
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
        row_labels=dict(Counter(r.label for r in rows)),
        training_rows=len(rows) - len(answers),
        refused=tuple(refused),
        refused_labels=dict(Counter(r.label for r in refused)),
        evaluated=len(judged),
        labels=dict(Counter(row.label for row, _ in judged)),
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
        classes=outcome.classes,
        plausible=outcome.plausible,
        interval=outcome.interval,
        alone=outcome.alone,
    )


def _check_enough(cohort_csv: Path, flow: Flow, facts: BundleFacts) -> None:
    if sum(flow.labels.get(c, 0) >= LEAST for c in facts.classes or (0, 1)) >= 2:
        return
    if facts.classes:
        judged, needed = tell_labels(flow.labels, classes=facts.classes), f"{LEAST} of two classes that the bundle knows"
    else:
        judged, needed = f"{flow.labels.get(1, 0)} positive and {flow.labels.get(0, 0)} negative patients", f"{LEAST} of each"
    refused = "; ".join(f"line {r.line} ({r.patient}): {r.reason}" for r in flow.refused[:3])
    raise CohortError(
        f"{cohort_csv}: {judged} could be judged, at least {needed} are needed; "
        f"{len(flow.refused)} were refused{f', first {refused}' if refused else ''}"
    )


def _statement(bundle: BundleFacts, synthetic: bool, external: bool | None) -> str:
    """Say how far the numbers may be believed; phantoms among patients spoil all of them."""
    if synthetic:
        return _PHANTOMS
    if bundle.trained_on == "synthetic":
        return _DEMO
    return _UNKNOWN if external is None else _EXTERNAL if external else _SAME_SITE


def _warnings(
    facts: BundleFacts, flow: Flow, tally: Tally, patients: Sequence[PatientRow], several: SeveralClasses | None
) -> Iterator[str]:
    judged = flow.rows - flow.training_rows
    if flow.training_rows:
        yield f"{flow.training_rows} rows of the table belong to the training split and were left out."
    if flow.refused:
        refused = tell_labels(flow.refused_labels, classes=facts.classes)
        yield f"{len(flow.refused)} of {judged} patients were refused, {refused}: no number counts them."
    if flow.withheld:
        yield f"The call was withheld from {flow.withheld} patients; the operating point is without them."
    fewest = min(flow.labels.get(c, 0) for c in several.classes if c in facts.classes) if several else min(flow.labels.values())
    if fewest < PRECISE:
        counts = tell_labels(flow.labels, classes=facts.classes) + ("" if several else f" and {flow.labels.get(0, 0)} without")
        yield f"{counts}: below {PRECISE} patients of a class, intervals are wide and calibration can hardly be judged."
    if several:
        yield from _class_warnings(facts, flow, patients, several)
    if drawn := flow.roi_origins.get("MODEL", 0):
        yield f"The tumour was drawn by the bundle's segmenter in {drawn} patients, by a person in the others."
    if flagged := sum(bool(x.flags) for x in patients):
        yield f"{flagged} patients' predictions carry a flag, such as features outside the training range; see each one's line."
    if len(tally.looks) > 1:
        yield tally.sentence


def _class_warnings(facts: BundleFacts, flow: Flow, patients: Sequence[PatientRow], several: SeveralClasses) -> Iterator[str]:
    if never := {c: n for c, n in flow.labels.items() if c not in facts.classes}:
        named = name_rows([f"line {x.line} ({x.patient})" for x in patients if x.label in never])
        told = tell_labels(never, classes=list(never))
        yield f"The bundle cannot call {told} ({named}): its training cohort had none; they count as wrong."
    if several.unjudged:
        yield f"Not judged, for want of two patients on either side or of a model that knows both: {'; '.join(several.unjudged)}."
