"""Outcomes of training runs on made-up scores, whole and of every shape, without a training library."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from pipelines.features.ibsi import identify
from pipelines.models.manifest import Decision, Feature, Linear, Platt
from pipelines.systems.histotype_mri import SPEC as HISTOTYPE
from pipelines.systems.plnm_us import SPEC
from pipelines.training.calibration import calibration
from pipelines.training.decision_curve import decision_curve
from pipelines.training.discrimination import adjust_bonferroni, adjust_holm, area, bootstrap_auc, compare_paired, delong, roc_curve
from pipelines.training.intervals import Estimate, Interval
from pipelines.training.nomogram import nomogram_of
from pipelines.training.operating_point import operating_point, sensitivity_threshold, youden_threshold
from pipelines.training.outcome import (
    Beeswarm,
    ChosenFeature,
    CohortFlow,
    JudgedClasses,
    JudgedPatient,
    JudgedQuestion,
    LassoCurve,
    LieDetector,
    Outcome,
    Performance,
    Printed,
    Rival,
    ShapCheck,
    SiteLeftOut,
)
from pipelines.training.sample_size import events_per_variable, minimum_sample_size
from pipelines.training.several import judge_several, macro, questions
from pipelines.types import FloatArray

N = 180
SHAP = ShapCheck("0.51.0", 5, 7, 0.0123, 0.0345)
_HALVES = {"North": slice(None, 60), "South": slice(60, None)}
NAMES = (
    "TVUS:radiomics:original_shape_Maximum3DDiameter",
    "TVUS:radiomics:wavelet-HLL_glcm_JointEntropy",
    "TVUS:radiomics:log-sigma-2-0-mm-3D_firstorder_Kurtosis",
    "TVUS:radiomics:original_glrlm_ShortRunEmphasis",
    "TVUS:radiomics:square_ngtdm_Coarseness",
    "TVUS:radiomics:lbp-3D-m1_gldm_DependenceVariance",
    "TVUS:pca:3",
    "TVUS:pca:11",
)


@cache
def _cohort() -> tuple[FloatArray, Any, FloatArray]:
    """Return z-scores (n, features), labels, and the log-odds that they were drawn from."""
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((N, len(NAMES)))
    log_odds = -1.1 + rows @ (np.array([1.0, 0.8, -0.6, 0.5, -0.3, 0.3, 0.4, 0.2]) * 0.9)
    return rows, (rng.random(N) < _sigmoid(log_odds)).astype(np.int64), log_odds


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-x)))


def make_outcome(**changes: Any) -> Outcome:
    """Return the outcome of a run of two classes with everything in it; ``changes`` replace fields."""
    rows, labels, log_odds = _cohort()
    rng = np.random.default_rng(9)
    seen, unseen = _sigmoid(1.3 * log_odds), _sigmoid(0.9 * log_odds + 0.7 * rng.standard_normal(N))
    size, told = rows[:, 0] + rng.standard_normal(N), _sigmoid(rows[:, 0] + rng.standard_normal(N) - 1)
    threshold = youden_threshold(unseen, labels)
    sensitive = {f"sensitivity {s:.2f}": sensitivity_threshold(unseen, labels, s) for s in (0.90, 0.95)}
    sites = np.array(["North", "South"])[rng.integers(0, 2, N)]
    whole = Outcome(
        format_version=1,
        system=SPEC.name,
        title=SPEC.title,
        version="site-1",
        bundle_digest="ab" * 32,
        date=datetime.date(2026, 3, 1),
        seed=1,
        synthetic=True,
        statement="Trained and judged on synthetic phantoms: the numbers say nothing about patients.",
        leakage=("Patients, not images, are split.", "Feature selection is repeated inside every fold."),
        warnings=("Overfitting: the model looks 0.060 better on its own training patients than on unseen ones.",),
        flow=_flow(labels),
        recipe=dataclasses.asdict(SPEC.recipe)
        | {"steps": [{"step": type(step).__name__, **dataclasses.asdict(step)} for step in SPEC.recipe.steps]},
        classifier="MLP hidden 16",
        families={"MLP": 17, "LR": 8},
        threshold_rule="Youden index on out-of-fold probabilities of the training patients",
        thresholds={"Youden": threshold} | sensitive,
        apparent_auc=area(seen, labels),
        nested_auc=area(unseen, labels) - 0.008,
        nested_auc_by_repeat=tuple(area(unseen, labels) - 0.008 + d for d in (-0.02, -0.01, 0.0, 0.01, 0.02)),
        optimism=area(seen, labels) - area(unseen, labels) + 0.008,
        stability=Estimate(0.41, Interval(0.33, 0.49, "Nogueira")),
        lie_detector=make_lie_detector(valid=True),
        features=tuple(_features(rows)),
        lasso=_lasso(),
        beeswarm=replace(_beeswarm(rows), check=SHAP),
        sample_size=minimum_sample_size(len(NAMES), float(labels.mean())),
        events_per_variable=events_per_variable(int(labels.sum()), int((labels == 0).sum()), 1577),
        conformal_coverage=0.906,
        segmenter_dice=0.874,
        performance=_performance(unseen, labels, threshold),
        several=None,
        rivals=_rivals(unseen, {"size": size, "clinical": told}, labels),
        printed=tuple(_printed(unseen, labels, threshold)),
        sites_left_out=tuple(
            SiteLeftOut(s, int((sites == s).sum()), int(labels[sites == s].sum()), delong(unseen[sites == s], labels[sites == s]))
            for s in ("North", "South")
        ),
        patients=tuple(
            JudgedPatient(f"P{i}", str(sites[i]), int(labels[i]), (float(p),), int(p >= threshold)) for i, p in enumerate(unseen)
        ),
        known={"bayes_auc": 0.88},
        made_with={"python": "3.11.7", "scikit-learn": "1.9.1"},
        apparent_point=operating_point(seen >= threshold, labels),
        nomogram=nomogram_of(_decision()),
        conformal_aim=0.9,
        method_digest=SPEC.method_digest(),
        sensitive_points={name: operating_point(unseen >= t + 0.01, labels) for name, t in sensitive.items()},
    )
    return replace(whole, **changes)


def _flow(labels: Any) -> CohortFlow:
    return CohortFlow(
        file="cohort.csv",
        rows=240,
        row_events=int(labels.sum()) + 20,
        network_rows=60,
        judged=N,
        events=int(labels.sum()),
        sites=("North", "South"),
        scanners={"GE MEDICAL SYSTEMS Voluson E10": 120, "Philips <EPIQ>": 60},
        second_reader=30,
        class_counts={0: int((labels == 0).sum()), 1: int(labels.sum())},
    )


@cache
def _typed() -> tuple[FloatArray, Any, Any]:
    """Return probabilities of three classes, labels and calls."""
    rng = np.random.default_rng(2)
    labels = rng.choice([4, 6, 7], size=120, p=[0.2, 0.6, 0.2])
    scores = rng.random((120, 3)) + 0.4 * (labels[:, None] == np.array([4, 6, 7]))
    scores /= scores.sum(axis=1, keepdims=True)
    return scores, labels, np.array([4, 6, 7])[scores.argmax(axis=1)]


def make_classes(**changes: Any) -> Outcome:
    """Return the outcome of a run of three classes."""
    scores, labels, calls = _typed()
    several = judge_several(scores, labels, calls, known=(4, 6, 7), spec=HISTOTYPE, seed=1, resamples=50)
    whole = make_outcome()
    flow = replace(whole.flow, judged=120, class_counts={c: int((labels == c).sum()) for c in (4, 6, 7)})
    patients = tuple(
        JudgedPatient(f"P{i}", "", int(c), tuple(map(float, p)), int(k))
        for i, (c, p, k) in enumerate(zip(labels, scores, calls, strict=True))
    )
    mean = several.mean_auc.value
    nothing: dict[str, Any] = dict.fromkeys(("performance", "lasso", "nomogram", "apparent_point"))
    rows = [
        JudgedClasses(name, 120, mean + d, macro(calls, labels)) for name, d in (("nested", 0.0), ("size of the roi alone, nested", -0.1))
    ]
    sites = [JudgedClasses(site, 60, mean - 0.02, macro(calls[part], labels[part])) for site, part in _HALVES.items()]
    return replace(
        whole,
        **nothing,
        several=several,
        nested_auc=mean,
        apparent_auc=mean + 0.04,
        optimism=0.04,
        flow=flow,
        patients=patients,
        rivals=(),
        printed=(),
        sites_left_out=(),
        thresholds={},
        sensitive_points={},
        beeswarm=replace(
            _beeswarm(np.random.default_rng(2).standard_normal((120, len(NAMES)))), target=6, words="class 6: large-cell", check=SHAP
        ),
        class_rows=tuple(rows),
        class_printed=(JudgedClasses("RF", 36, mean, macro(calls[:36], labels[:36]), chosen=True),),
        class_sites=tuple(sites),
        questions=_questions(),
        **changes,
    )


@cache
def _questions() -> tuple[JudgedQuestion, ...]:
    scores, labels, calls = _typed()
    return tuple(_judge_questions(scores, labels, calls))


def _judge_questions(scores: FloatArray, labels: Any, calls: Any) -> list[JudgedQuestion]:
    made = []
    for q in questions(scores, labels, calls, known=(4, 6, 7), spec=HISTOTYPE):
        if not q.can_be_judged:
            continue
        performance = replace(_performance(q.scores, q.truth, 0.5), operating_point=operating_point(q.calls, q.truth))
        auc = performance.auc.value
        rival = replace(_rivals(q.scores, {"clinical": np.random.default_rng(3).random(120)}, q.truth)[0], name="size", words="size alone")
        sites = [SiteLeftOut(s, 60, int(q.truth[part].sum()), delong(q.scores[part], q.truth[part])) for s, part in _HALVES.items()]
        answers = tuple(q.truth.tolist()), tuple(q.scores.tolist()), tuple(q.calls.tolist())
        point = performance.operating_point
        made.append(JudgedQuestion(q.words, *answers, (auc, auc - 0.01), auc + 0.05, point, performance, (rival,), tuple(sites)))
    return made


def make_lie_detector(*, valid: bool) -> LieDetector:
    """Return a lie detector that found nothing, or that found what is not there."""
    areas = np.random.default_rng(1).normal(0.49 if valid else 0.71, 0.05, 20)
    half = 1.96 * areas.std(ddof=1) / np.sqrt(20)
    words = "finds nothing, as it should" if valid else "finds a signal where there is none"
    interval = Interval(float(areas.mean() - half), float(areas.mean() + half), "normal, over shufflings")
    return LieDetector(
        tuple(areas.tolist()), float(areas.mean()), interval, valid, f"On 20 shufflings of the labels the whole recipe {words}."
    )


def _performance(p: FloatArray, labels: Any, threshold: float) -> Performance:
    return Performance(
        auc=delong(p, labels),
        bootstrap=bootstrap_auc(p, labels, seed=1, resamples=200),
        roc=roc_curve(p, labels),
        operating_point=operating_point(p >= threshold, labels),
        calibration=calibration(p, labels, external=False, seed=1, resamples=50),
        decision_curve=decision_curve(p, labels),
    )


def _rivals(p: FloatArray, scores: dict[str, FloatArray], labels: Any) -> tuple[Rival, ...]:
    tests = {name: compare_paired(p, s, labels) for name, s in scores.items()}
    family = [t.p or 0.0 for t in tests.values()]
    points = {"clinical": operating_point(scores["clinical"] >= 0.3, labels)}
    return tuple(
        Rival(name, f"{name} alone", delong(scores[name], labels), tests[name], holm, points.get(name), bonferroni)
        for name, holm, bonferroni in zip(scores, adjust_holm(family), adjust_bonferroni(family), strict=True)
    )


def _printed(p: FloatArray, labels: Any, threshold: float) -> list[Printed]:
    part = np.arange(0, N, 3)
    rng = np.random.default_rng(0)
    scores = {name: p[part] + w * rng.standard_normal(len(part)) for name, w in (("MLP", 0.05), ("LR", 0.1), ("KNN", 0.3))}
    return [
        Printed(name, delong(s, labels[part]), name == "MLP", operating_point(s >= threshold, labels[part])) for name, s in scores.items()
    ]


def _features(rows: FloatArray) -> list[ChosenFeature]:
    made = []
    for i, name in enumerate(NAMES):
        code = identify(name)
        made.append(
            ChosenFeature(
                name=name,
                words=name.split(":", 2)[2].replace("_", " ") + " (TVUS)",
                ibsi_code=code and code[0],
                ibsi_name=code and code[1],
                frequency=max(0.04, 1.0 - 0.12 * i),
                importance=0.7 / (i + 1) if i < 7 else 0.0,
                in_final=i < 7,
            )
        )
    return made


def _lasso() -> LassoCurve:
    penalties = np.geomspace(0.3, 0.003, 40)
    loss = 0.55 + 0.04 * np.abs(np.log10(penalties) + 1.5) ** 1.5
    coefficients = np.maximum(0, np.log10(0.3 / penalties)[:, None] - np.linspace(0, 1.5, 7)) * np.array([1, -1, 1, 1, -1, 1, -1]) * 0.3
    return LassoCurve(
        penalties=tuple(penalties.tolist()),
        loss=tuple(loss.tolist()),
        standard_error=(0.015,) * 40,
        coefficients=tuple(tuple(row) for row in coefficients.tolist()),
        chosen=int(loss.argmin()),
        rule="min",
        names=NAMES[:7],
    )


def _beeswarm(rows: FloatArray) -> Beeswarm:
    shapley = rows[:, :7] * np.array([1.0, 0.8, -0.6, 0.5, -0.3, 0.3, 0.4])
    return Beeswarm(
        features=NAMES[:7],
        values=tuple(tuple(row) for row in rows[:, :7].tolist()),
        shapley=tuple(tuple(row) for row in shapley.tolist()),
        base=(-1.1,) * len(rows),
    )


def _decision() -> Decision:
    features = (
        Feature(name="SCORE:model:log_odds", mean=-1.1, std=1.2, low=-3.5, high=2.4),
        Feature(name="CLINICAL:value:max_tumour_diameter_mm", mean=34.0, std=12.0, low=11.0, high=68.0),
        Feature(name="CLINICAL:value:rbc_1e12_per_l", mean=4.2, std=0.5, low=3.0, high=5.3),
    )
    return Decision(
        linear=Linear(intercept=-1.1, coefficients=(1.1, 0.6, -0.3)),
        classifier="nomogram",
        features=features,
        platt=Platt(a=0.95, b=0.02),
        threshold=0.3,
        threshold_rule="Youden",
        background="b.npy",
    )
