"""Judge a recipe in every way that the report shows, and write it up."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.errors import CohortError
from pipelines.features.ibsi import identify
from pipelines.models.classify import logit
from pipelines.models.explain import explain
from pipelines.models.manifest import LIE_DETECTOR, Decision, Manifest
from pipelines.spec import PipelineSpec
from pipelines.training.agreement import selection_stability
from pipelines.training.calibration import calibration
from pipelines.training.cohort import CohortRow
from pipelines.training.decision_curve import decision_curve
from pipelines.training.discrimination import area, bootstrap_auc, delong, roc_curve
from pipelines.training.extract import ExtractedFile
from pipelines.training.intervals import Estimate, Interval
from pipelines.training.nested import Judge, Nested, area_of, area_of_prevalence, mean_area
from pipelines.training.nomogram import nomogram_of
from pipelines.training.operating_point import OperatingPoint, operating_point, sensitivity_threshold
from pipelines.training.outcome import (
    Beeswarm,
    ChosenFeature,
    CohortFlow,
    JudgedPatient,
    LassoCurve,
    LieDetector,
    Outcome,
    Performance,
    Printed,
    Rival,
    SiteLeftOut,
)
from pipelines.training.plan import Plan
from pipelines.training.recipe import Stage, System
from pipelines.training.rivals import compare_rivals, known_values
from pipelines.training.sample_size import events_per_variable, minimum_sample_size
from pipelines.training.select import Labels
from pipelines.training.several import SeveralClasses, judge_several
from pipelines.training.table import Table
from pipelines.types import FloatArray

LEAST_PATIENTS = 2  # of either class, for an area
_SITES_DIFFER = 0.1  # range of AUC over sites left out in turn from which the report warns
_OVERFIT = 0.05  # difference of apparent and nested AUC from which the report warns ([OLNM] Evaluation)


@dataclass(frozen=True, eq=False)
class Found:
    """All judgements of one run. ``unseen`` (n,) or (n, classes) is the mean over repeats of the nested probabilities."""

    judge: Judge
    system: System
    table: Table
    rows: Sequence[CohortRow]
    files: Sequence[ExtractedFile]
    spec: PipelineSpec
    plan: Plan
    nested: Nested
    unseen: FloatArray
    apparent: FloatArray
    permuted: FloatArray
    printed: tuple[Printed, ...]
    sites: tuple[SiteLeftOut, ...]

    @property
    def labels(self) -> Labels:
        """Labels of the judged patients."""
        return self.judge.labels

    @property
    def several(self) -> bool:
        """Whether the system tells more than two classes apart."""
        return self.unseen.ndim == 2

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that the manifest and the model card state."""
        nested = mean_area(self.nested, self.labels)
        stated = {"nested_auc": nested, "apparent_auc": area_of(self.apparent, self.labels, self.nested.classes)}
        if lie_detector := self.lie_detector:
            stated |= {"permuted_auc": lie_detector.mean, "permuted_auc_explained": lie_detector.explained}
            stated[LIE_DETECTOR] = float(lie_detector.valid)
        if self.several:
            stated["nested_accuracy"] = float(np.mean(self.nested.calls == self.labels))
            return stated
        auc, point = delong(self.unseen, self.labels), operating_point(self.calls, self.labels)
        stated["nested_auc_se"] = float(np.sqrt(auc.variance))
        stated["nested_sensitivity"] = float(point.sensitivity.value or 0.0)
        stated["nested_specificity"] = float(point.specificity.value or 0.0)
        stated["size_only_auc"] = area([f.size for f in self.files], self.labels)
        return stated | self._ablations

    @property
    def _ablations(self) -> dict[str, float]:
        """What clinical values and images do without each other, of a recipe that joins them."""
        if not self.spec.recipe.nomogram or self.nested.alone is None:
            return {}
        clinical = next(rival for rival in self.rivals if rival.name == "clinical")
        point, stated = clinical.operating_point, {"clinical_only_auc": clinical.auc.value}
        if point:
            stated["clinical_only_sensitivity"] = float(point.sensitivity.value or 0.0)
            stated["clinical_only_specificity"] = float(point.specificity.value or 0.0)
        return stated | {"imaging_only_auc": float(np.mean([area(p, self.labels) for p in self.nested.alone.probabilities]))}

    @cached_property
    def rivals(self) -> tuple[Rival, ...]:
        """Other scores on the same patients."""
        return () if self.several else _rivals(self)

    @cached_property
    def interval(self) -> Interval:
        """The nested AUC's, of probabilities averaged over repeats; of several classes the mean of one against the rest."""
        if self.several:
            mean = self.classes.mean_auc.interval
            assert mean is not None  # a bootstrap always has one
            return mean
        return delong(self.unseen, self.labels).interval

    @cached_property
    def classes(self) -> SeveralClasses:
        """A system of several classes judged."""
        answers, seed = (self.unseen, self.labels, self.calls), self.judge.seed
        return judge_several(*answers, known=self.nested.classes, spec=self.spec, seed=seed)

    @property
    def lie_detector(self) -> LieDetector | None:
        """What the shuffled labels gave."""
        explained = area_of_prevalence(self.labels, seed=self.judge.seed + 1)
        return detect(self.permuted, chance=deviation_by_chance(self.labels), explained=explained)

    @property
    def calls(self) -> Labels:
        """Calls at the folds' own thresholds: what most repeats said, in a tie positive."""
        if self.several:
            return np.asarray(np.array(self.nested.classes)[self.unseen.argmax(axis=1)], dtype=np.int64)
        return np.asarray(self.nested.calls.mean(axis=0) >= 0.5, dtype=np.int64)


def judge_all(
    judge: Judge,
    *,
    system: System,
    table: Table,
    rows: Sequence[CohortRow],
    files: Sequence[ExtractedFile],
    spec: PipelineSpec,
    plan: Plan,
) -> Found:
    """Run every judgement."""
    nested = judge.nested(repeats=plan.repeats)
    judge.progress(f"nested AUC {mean_area(nested, judge.labels):.3f}")
    permuted = judge.permuted(plan.permutations)
    several = nested.probabilities.ndim == 3
    printed = () if several else tuple(_printed(judge))
    sites = () if several else tuple(_sites_left_out(judge, rows))
    apparent, unseen = system.predict(table), nested.probabilities.mean(axis=0)
    return Found(judge, system, table, rows, files, spec, plan, nested, unseen, apparent, permuted, printed, sites)


def covered(decision: Decision, plausible: NDArray[np.bool_], labels: Labels) -> Decision:
    """Return a decision with what its conformal sets, ``plausible`` (repeats, n, classes), held of unseen patients."""
    name = "class_conformal" if decision.classes else "conformal"
    rule = decision.class_conformal or decision.conformal
    assert rule is not None  # training always makes one
    held, classes = held_truth(plausible, labels), np.unique(labels)
    measured = {
        "covered": round(float(held.mean()), 4),
        "covered_each": tuple(round(float(held[:, labels == c].mean()), 4) for c in classes),
        "mean_size": round(float(plausible.sum(axis=2).mean()), 4),
        "n": len(labels),
    }
    return decision.model_copy(update={name: rule.model_copy(update=measured)})


def held_truth(plausible: NDArray[np.bool_], labels: Labels) -> NDArray[np.bool_]:
    """Tell for each patient whether the conformal set held the truth, (repeats, n); classes are those of the labels, in order."""
    return np.asarray(plausible[:, np.arange(len(labels)), np.unique(labels, return_inverse=True)[1]])


def write_up(found: Found, *, manifest: Manifest, digest: str, date: datetime.date, flow: CohortFlow, leakage: tuple[str, ...]) -> Outcome:
    """Return everything as data for the report."""
    spec, nested, labels = found.spec, found.nested, found.labels
    stage = found.system.score or found.system.decision
    by_repeat = tuple(area_of(p, labels, nested.classes) for p in nested.probabilities)
    candidates = sum(not name.startswith("CLINICAL:") for name in found.table.names)
    beeswarm = None if found.several else _beeswarm(found, stage)
    rule = manifest.decision.class_conformal or manifest.decision.conformal
    return Outcome(
        format_version=1,
        system=spec.name,
        title=spec.title,
        version=manifest.version,
        bundle_digest=digest,
        date=date,
        seed=found.judge.seed,
        synthetic=manifest.training.data == "synthetic",
        statement=manifest.training.statement,
        leakage=leakage,
        warnings=(*_warnings(found, found.lie_detector), *_left_out(flow)),
        flow=flow,
        recipe=manifest.recipe,
        classifier=(manifest.score or manifest.decision).classifier,
        families=dict(Counter(nested.families)),
        threshold_rule=manifest.decision.threshold_rule,
        thresholds={} if found.several else _thresholds(found, manifest),
        apparent_auc=area_of(found.apparent, labels, nested.classes),
        nested_auc=mean_area(nested, labels),
        nested_auc_by_repeat=by_repeat,
        optimism=area_of(found.apparent, labels, nested.classes) - mean_area(nested, labels),
        stability=stability_of(nested, stage),
        lie_detector=found.lie_detector,
        features=_features(found, stage, beeswarm),
        lasso=_lasso(found, stage),
        beeswarm=beeswarm,
        sample_size=minimum_sample_size(max(len(stage.selection.names), 1), float(np.mean(labels == labels.max()))),
        events_per_variable=events_per_variable(int((labels == 1).sum()), int((labels != 1).sum()), max(candidates, 1)),
        conformal_coverage=float(held_truth(nested.plausible, labels).mean()),
        segmenter_dice=min(manifest.segmenter.dice.values(), default=None) if manifest.segmenter else None,
        performance=None if found.several else _performance(found),
        several=found.classes if found.several else None,
        rivals=found.rivals,
        printed=found.printed,
        sites_left_out=found.sites,
        patients=tuple(_patients(found)),
        known={k: v for k, v in manifest.training.metrics.items() if k.startswith("bayes")},
        made_with=manifest.made_with,
        apparent_point=_apparent_point(found),
        nomogram=nomogram_of(manifest.decision),
        conformal_aim=rule.coverage if rule else None,
        method_digest=manifest.method_digest,
    )


def _printed(judge: Judge) -> Iterator[Printed]:
    answers = judge.as_printed()
    areas = {name: delong(answer.probabilities, judge.labels[test]) for name, (test, answer) in answers.items()}
    best = max(areas, key=lambda name: areas[name].value)
    for name, auc in areas.items():
        test, answer = answers[name]
        yield Printed(classifier=name, auc=auc, chosen=name == best, operating_point=operating_point(answer.calls, judge.labels[test]))


def _sites_left_out(judge: Judge, rows: Sequence[CohortRow]) -> Iterator[SiteLeftOut]:
    for site, (where, answer) in judge.by_site([r.site for r in rows]).items():
        labels = judge.labels[where]
        if min(labels.sum(), len(labels) - labels.sum()) >= LEAST_PATIENTS:
            yield SiteLeftOut(site=site, n=len(labels), events=int(labels.sum()), auc=delong(answer.probabilities, labels))


def _performance(found: Found) -> Performance:
    p, labels, seed = found.unseen, found.labels, found.judge.seed
    return Performance(
        auc=delong(p, labels),
        bootstrap=bootstrap_auc(p, labels, seed=seed),
        roc=roc_curve(p, labels),
        operating_point=operating_point(found.calls, labels),
        calibration=calibration(p, labels, external=False, seed=seed),
        decision_curve=decision_curve(p, labels),
    )


def _apparent_point(found: Found) -> OperatingPoint | None:
    threshold = found.system.decision.threshold
    return None if threshold is None else operating_point(found.apparent >= threshold, found.labels)


def _thresholds(found: Found, manifest: Manifest) -> dict[str, float]:
    stated = manifest.decision.threshold
    fixed = {f"sensitivity {s:.2f}": sensitivity_threshold(found.unseen, found.labels, s) for s in (0.90, 0.95)}
    return ({"Youden": stated} if stated is not None else {}) | fixed


def _rivals(found: Found) -> tuple[Rival, ...]:
    sites = [row.site for row in found.rows] if found.plan.combat else None
    return compare_rivals(
        found.judge,
        found.nested,
        table=found.table,
        sizes=[f.size for f in found.files],
        sites=sites,
        known=known_values([f.clinical for f in found.files]),
        fusion=found.plan.compare_fusion,
    )


def detect(areas: FloatArray, *, chance: float = 0.0, explained: float = 0.5) -> LieDetector | None:
    """Judge the lie detector: INVALID where the interval of the mean AUC (t, 95 %) lies above 0.5 or below ``explained``.

    Parameters
    ----------
    chance : standard deviation of an AUC of random scores. A few areas may lie closer together by luck; they are not believed to.
    explained : how low an honest recipe falls, see :func:`pipelines.training.nested.area_of_prevalence`.
    """
    if len(areas) < 2:
        return None
    mean, spread = float(areas.mean()), max(float(areas.std(ddof=1)), chance)
    half = float(stats.t.ppf(0.975, len(areas) - 1)) * spread / np.sqrt(len(areas))
    interval = Interval(float(mean - half), float(mean + half), "t, over shufflings")
    fault = "finds a signal where there is none: nothing it says of the true labels can be believed"
    below = f"falls below {explained:.3f}, further than knowing nothing explains: labels reach it the wrong way round"
    finds = fault if interval.low > 0.5 else below if interval.high < explained else "finds nothing, as it should"
    valid = interval.low <= 0.5 and interval.high >= explained
    words = f"On {len(areas)} shufflings of the labels the whole recipe {finds}."
    return LieDetector(tuple(areas.tolist()), mean, interval, valid, words, explained)


def deviation_by_chance(labels: Labels) -> float:
    """Return the standard deviation of the AUC of random scores (Mann-Whitney's null); of several classes their mean, one against the rest.

    Of two classes either one against the rest is the same AUC.
    """
    counts = np.unique(labels, return_counts=True)[1]
    return float(np.mean(np.sqrt((len(labels) + 1) / (12 * counts * (len(labels) - counts)))))


def stability_of(nested: Nested, stage: Stage) -> Estimate | None:
    """Return how far the folds agree; candidates that no fold chose count, as agreement by chance depends on how many there are."""
    chosen = np.array([np.isin(stage.selection.candidates, names) for names in nested.selected])
    try:
        return selection_stability(chosen)
    except CohortError:
        return None


def _beeswarm(found: Found, stage: Stage) -> Beeswarm:
    table = found.table
    rows = stage.standardise(stage.selection.take(table))
    background = rows[np.random.default_rng(found.judge.seed).permutation(len(rows))[:50]]

    def predict(values: FloatArray) -> FloatArray:
        raw = logit(stage.model.predict_proba(values.astype(np.float32))[:, 1])
        assert stage.calibration is not None  # of two classes
        return stage.calibration.a * raw + stage.calibration.b

    explained = [explain(predict, row, background=background, permutations=4) for row in rows]
    return Beeswarm(
        features=stage.selection.names,
        values=tuple(tuple(row.tolist()) for row in rows),
        shapley=tuple(tuple(one.values.tolist()) for one in explained),
        base=tuple(one.base for one in explained),
    )


def _features(found: Found, stage: Stage, beeswarm: Beeswarm | None) -> tuple[ChosenFeature, ...]:
    runs = found.nested.selected
    count = Counter(name for names in runs for name in names)
    importance = dict(zip(beeswarm.features, np.abs(beeswarm.shapley).mean(axis=0).tolist(), strict=True)) if beeswarm else {}
    final = set(stage.selection.names)
    ordered = sorted(final | {n for n, k in count.items() if k >= len(runs) / 2}, key=lambda n: (n not in final, -count[n], n))
    return tuple(
        ChosenFeature(
            name=name,
            words=name.split(":", 2)[2].replace("_", " ") + f" ({name.split(':', 1)[0]})",
            ibsi_code=(code := identify(name)) and code[0],
            ibsi_name=code and code[1],
            frequency=count[name] / len(runs),
            importance=importance.get(name, 0.0),
            in_final=name in final,
        )
        for name in ordered
    )


def _lasso(found: Found, stage: Stage) -> LassoCurve | None:
    path = stage.selection.path
    if path is None:
        return None
    entered = np.abs(path.coefficients).max(axis=0) > 0
    rule = next((step.rule for step in found.spec.recipe.steps if hasattr(step, "rule")), "min")
    return LassoCurve(
        penalties=tuple(path.penalties.tolist()),
        loss=tuple(path.loss.tolist()),
        standard_error=tuple(path.standard_error.tolist()),
        coefficients=tuple(tuple(row) for row in path.coefficients[:, entered].tolist()),
        chosen=path.minimum if rule == "min" else path.one_se,
        rule=rule,
        names=tuple(np.array(stage.selection.on_path)[entered].tolist()),
    )


def _patients(found: Found) -> Iterator[JudgedPatient]:
    for row, p, call in zip(found.rows, found.unseen, found.calls, strict=True):
        yield JudgedPatient(row.patient, row.site, row.label, tuple(np.atleast_1d(p).tolist()), int(call))


def _warnings(found: Found, lie_detector: LieDetector | None) -> Iterator[str]:
    labels = found.labels
    if lie_detector and not lie_detector.valid:
        yield f"INVALID: {lie_detector.words}"
    elif lie_detector is None:
        yield "The lie detector was not run: nobody knows whether the recipe finds signals where there are none."
    optimism = area_of(found.apparent, labels, found.nested.classes) - mean_area(found.nested, labels)
    if optimism > _OVERFIT:
        yield f"Overfitting: the model looks {optimism:.3f} better on its own training patients than on unseen ones."
    areas = [s.auc.value for s in found.sites]
    if areas and max(areas) - min(areas) > _SITES_DIFFER:
        yield "The sites differ by more than 0.1 in AUC when left out in turn."
    if not found.several and int(labels.sum()) < 50:
        yield f"{int(labels.sum())} events are few; intervals are wide, and fewer candidate features would be wiser."


def _left_out(flow: CohortFlow) -> Iterator[str]:
    for rule, lines in flow.excluded.items():
        n, named = len(lines), ", ".join(map(str, lines))
        yield f"Left out of training, as the system was made for patients with {rule}: {n} of {flow.rows} rows (lines {named})."
