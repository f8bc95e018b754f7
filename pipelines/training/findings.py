"""Judge a recipe in every way that the report shows, and write it up."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipelines.models.manifest import LIE_DETECTOR, Manifest
from pipelines.spec import PipelineSpec
from pipelines.training.answers import Said
from pipelines.training.class_findings import Asked, judge_questions, judge_score, of_classes, of_parts
from pipelines.training.cohort import CohortRow
from pipelines.training.coverage import held_truth
from pipelines.training.discrimination import area, delong
from pipelines.training.extract import ExtractedFile
from pipelines.training.intervals import Interval
from pipelines.training.lie_detector import area_of_prevalence, detect, deviation_by_chance
from pipelines.training.nested import Judge, Nested, area_of, mean_area
from pipelines.training.nomogram import nomogram_of
from pipelines.training.operating_point import OperatingPoint, operating_point
from pipelines.training.outcome import CohortFlow, JudgedPatient, LieDetector, Outcome, Printed, Rival, SiteLeftOut
from pipelines.training.plan import Plan
from pipelines.training.recipe import SENSITIVITIES, System
from pipelines.training.rivals import compare_rivals, known_values, on_size
from pipelines.training.sample_size import events_per_variable, minimum_sample_size
from pipelines.training.select import Labels
from pipelines.training.selected import features_of, lasso_of, stability_of
from pipelines.training.several import SeveralClasses, judge_several
from pipelines.training.shapley import beeswarm_of
from pipelines.training.statement import left_out
from pipelines.training.table import Table
from pipelines.types import FloatArray

LEAST_PATIENTS = 2  # of either class, for an area
_SITES_DIFFER = 0.1  # range of AUC over sites left out in turn from which the report warns
_SENSITIVE = tuple(f"sensitivity {s:.2f}" for s in SENSITIVITIES)
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
    printed: Asked
    sites: Asked

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
            return stated | {"size_only_auc": area_of(self.size_alone.probabilities[0], self.labels, self.nested.classes)}
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
    def size_alone(self) -> Said:
        """What the size of the region alone says of several classes."""
        return on_size(self.judge, [f.size for f in self.files])

    @cached_property
    def rivals(self) -> tuple[Rival, ...]:
        """Other scores on the same patients."""
        if self.several:
            return ()
        return compare_rivals(
            self.judge,
            self.nested,
            table=self.table,
            sizes=[f.size for f in self.files],
            sites=[row.site for row in self.rows] if self.plan.combat else None,
            known=known_values([f.clinical for f in self.files]),
            fusion=self.plan.compare_fusion,
        )

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
        return judge_several(self.unseen, self.labels, self.calls, known=self.nested.classes, spec=self.spec, **self.bootstrap)

    @property
    def bootstrap(self) -> dict[str, int]:
        """Seed and resamples of every bootstrap."""
        return {"seed": self.judge.seed, "resamples": self.plan.resamples}

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
    printed, sites = judge.as_printed(), judge.by_site([r.site for r in rows])
    apparent, unseen = system.predict(table), nested.probabilities.mean(axis=0)
    return Found(judge, system, table, rows, files, spec, plan, nested, unseen, apparent, permuted, printed, sites)


def write_up(found: Found, *, manifest: Manifest, digest: str, date: datetime.date, flow: CohortFlow, leakage: tuple[str, ...]) -> Outcome:
    """Return everything as data for the report."""
    spec, nested, labels = found.spec, found.nested, found.labels
    stage = found.system.score or found.system.decision
    by_repeat = tuple(area_of(p, labels, nested.classes) for p in nested.probabilities)
    candidates = sum(not name.startswith("CLINICAL:") for name in found.table.names)
    beeswarm = beeswarm_of(stage, found.table, labels, spec=spec, seed=found.judge.seed)
    sites = () if found.several else tuple(_sites_left_out(found.sites, labels))
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
        warnings=(
            *_warnings(found, [s.auc.value for s in sites] or [s.mean_auc for s in of_parts(found.sites, labels, best=False)]),
            *left_out(flow),
        ),
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
        features=features_of(nested, stage, beeswarm),
        lasso=lasso_of(spec.recipe, stage),
        beeswarm=beeswarm,
        sample_size=minimum_sample_size(max(len(stage.selection.names), 1), float(np.mean(labels == labels.max()))),
        events_per_variable=events_per_variable(int((labels == 1).sum()), int((labels != 1).sum()), max(candidates, 1)),
        conformal_coverage=float(held_truth(nested.plausible, labels).mean()),
        segmenter_dice=min(manifest.segmenter.dice.values(), default=None) if manifest.segmenter else None,
        performance=None if found.several else judge_score(found.unseen, labels, found.calls, **found.bootstrap),
        several=found.classes if found.several else None,
        rivals=found.rivals,
        printed=() if found.several else tuple(_printed(found.printed, labels)),
        sites_left_out=sites,
        patients=tuple(_patients(found)),
        known={k: v for k, v in manifest.training.metrics.items() if k.startswith("bayes")},
        made_with=manifest.made_with,
        apparent_point=_apparent_point(found),
        nomogram=nomogram_of(manifest.decision),
        conformal_aim=rule.coverage if rule else None,
        method_digest=manifest.method_digest,
        sensitive_points=_sensitive_points(found),
        **(_of_classes(found) if found.several else {}),
    )


def _of_classes(found: Found) -> dict[str, Any]:
    """Return what only the outcome of several classes has."""
    labels, known, size = found.labels, found.nested.classes, found.size_alone
    rows = (("nested", found.unseen), ("size of the roi alone, nested", size.probabilities[0]), ("training rows", found.apparent))
    return {
        "class_rows": tuple(of_classes(name, p, labels, known) for name, p in rows),
        "class_printed": tuple(of_parts(found.printed, labels, best=True)),
        "class_sites": tuple(of_parts(found.sites, labels, best=False)),
        "questions": tuple(
            judge_questions(found.nested, labels, apparent=found.apparent, size=size, sites=found.sites, spec=found.spec, **found.bootstrap)
        ),
    }


def _printed(asked: Asked, labels: Labels) -> Iterator[Printed]:
    areas = {name: delong(answer.probabilities, labels[test]) for name, (test, answer) in asked.items()}
    for name, (test, answer) in asked.items():
        best = max(areas, key=lambda name: areas[name].value)
        yield Printed(classifier=name, auc=areas[name], chosen=name == best, operating_point=operating_point(answer.calls, labels[test]))


def _sites_left_out(asked: Asked, labels: Labels) -> Iterator[SiteLeftOut]:
    for site, (where, answer) in asked.items():
        truth = labels[where]
        if min(truth.sum(), len(truth) - truth.sum()) >= LEAST_PATIENTS:
            yield SiteLeftOut(site=site, n=len(truth), events=int(truth.sum()), auc=delong(answer.probabilities, truth))


def _apparent_point(found: Found) -> OperatingPoint | None:
    threshold = found.system.decision.threshold
    return None if threshold is None else operating_point(found.apparent >= threshold, found.labels)


def _thresholds(found: Found, manifest: Manifest) -> dict[str, float]:
    stated = manifest.decision.threshold
    fixed = dict(zip(_SENSITIVE, found.system.decision.sensitive, strict=True))
    return ({"Youden": stated} if stated is not None else {}) | fixed


def _sensitive_points(found: Found) -> dict[str, OperatingPoint]:
    """Return the calls at the folds' own thresholds for a sensitivity: what most repeats said, in a tie positive."""
    if found.several:
        return {}
    calls = found.nested.said.sensitive.mean(axis=0) >= 0.5
    return {name: operating_point(calls[:, k], found.labels) for k, name in enumerate(_SENSITIVE)}


def _patients(found: Found) -> Iterator[JudgedPatient]:
    for row, p, call in zip(found.rows, found.unseen, found.calls, strict=True):
        yield JudgedPatient(row.patient, row.site, row.label, tuple(np.atleast_1d(p).tolist()), int(call))


def _warnings(found: Found, areas: Sequence[float]) -> Iterator[str]:
    """Yield what the reader must know first; ``areas`` are those of the sites."""
    labels, lie_detector = found.labels, found.lie_detector
    if lie_detector and not lie_detector.valid:
        yield f"INVALID: {lie_detector.words}"
    elif lie_detector is None:
        yield "The lie detector was not run: nobody knows whether the recipe finds signals where there are none."
    optimism = area_of(found.apparent, labels, found.nested.classes) - mean_area(found.nested, labels)
    if optimism > _OVERFIT:
        yield f"Overfitting: the model looks {optimism:.3f} better on its own training patients than on unseen ones."
    if areas and max(areas) - min(areas) > _SITES_DIFFER:
        yield "The sites differ by more than 0.1 in AUC when left out in turn."
    if not found.several and int(labels.sum()) < 50:
        yield f"{int(labels.sum())} events are few; intervals are wide, and fewer candidate features would be wiser."
