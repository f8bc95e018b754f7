"""How well a score tells cases from controls: the area under the ROC curve and tests between areas.

DeLong et al., Biometrics 1988;44:837-845, by midranks (Sun and Xu, IEEE Signal Process Lett 2014;21:1389-1393). Ties count one half. A
higher score speaks for the case; scores that rank the other way have an area below 0.5 and are never turned round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtr, stdtr
from scipy.stats import rankdata

from pipelines.training.intervals import (
    RESAMPLES,
    Interval,
    Labels,
    Z,
    check_scores,
    percentile_interval,
    stratified_resamples,
)
from pipelines.types import FloatArray

_EDGE = 1e-9  # bounds of a root search within (0, 1)


@dataclass(frozen=True, slots=True)
class Auc:
    """An area under the ROC curve with DeLong's variance.

    ``interval`` is made on the logit scale and stays within 0 to 1; ``interval_normal`` is the plain one that pROC prints, cut off at 0
    and 1. Where DeLong's variance is 0 (all cases above all controls) the former is Newcombe's score interval, as the latter has no width.
    """

    value: float
    variance: float
    events: int
    non_events: int
    interval: Interval
    interval_normal: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """A test of two areas; ``difference`` and ``statistic`` are positive where the first is the larger one.

    Where an area is exactly 0 or 1 its variance is 0 by DeLong, though nobody knows it that well: then there is no test, and interval,
    statistic and p are ``None``. ``df`` is given where the statistic follows a t distribution.
    """

    difference: float
    interval: Interval | None
    statistic: float | None
    p: float | None
    df: float | None
    method: str


@dataclass(frozen=True, slots=True)
class RocCurve:
    """Points of the ROC curve from (0, 0) to (1, 1). ``thresholds`` is one shorter: nothing is called positive at the first point.

    A score is called positive at or above the threshold.
    """

    thresholds: tuple[float, ...]
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]


def area(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve: the chance that a case scores higher than a control, ties counting one half."""
    values, truth = check_scores(scores, labels)
    of_cases, _ = _placements(values, truth)
    return float(of_cases.mean())


def delong(scores: ArrayLike, labels: ArrayLike) -> Auc:
    """Return the area with DeLong's variance and intervals; at least two rows of each class are needed."""
    values, truth = check_scores(scores, labels, each=2)
    of_cases, of_controls = _placements(values, truth)
    m, n, a = len(of_cases), len(of_controls), float(of_cases.mean())
    variance = float(of_cases.var(ddof=1) / m + of_controls.var(ddof=1) / n)
    se = float(np.sqrt(variance))
    normal = Interval(max(0.0, a - Z * se), min(1.0, a + Z * se), "DeLong")
    if variance > 0 and 0 < a < 1:
        low, high = expit(logit(a) + np.array([-Z, Z]) * se / (a * (1 - a)))
        interval = Interval(float(low), float(high), "DeLong, logit scale")
    else:
        interval = _score_interval(a, m, n)
    return Auc(a, variance, m, n, interval, normal)


def compare_paired(first: ArrayLike, second: ArrayLike, labels: ArrayLike) -> Comparison:
    """Return DeLong's test of two scores of the same patients (Z, two-sided p), with the interval of the difference of the areas."""
    parts = [_placements(*check_scores(scores, labels, each=2)) for scores in (first, second)]
    cases, controls = (parts[0][k] - parts[1][k] for k in (0, 1))
    variance = float(cases.var(ddof=1) / len(cases) + controls.var(ddof=1) / len(controls))
    return _test([float(x.mean()) for x, _ in parts], variance, None, "DeLong, paired")


def compare_unpaired(first: ArrayLike, first_labels: ArrayLike, second: ArrayLike, second_labels: ArrayLike) -> Comparison:
    """Return DeLong's test of the areas in two separate groups of patients, with Welch's degrees of freedom as pROC has them."""
    a, b = delong(first, first_labels), delong(second, second_labels)
    variance = a.variance + b.variance
    weights = [x.variance**2 / (x.events + x.non_events - 1) for x in (a, b)]
    return _test([a.value, b.value], variance, variance**2 / sum(weights) if variance else None, "DeLong, unpaired")


def bootstrap_auc(scores: ArrayLike, labels: ArrayLike, *, resamples: int = RESAMPLES, seed: int) -> Interval:
    """Return the percentile interval of the area by a bootstrap within each class."""
    values, truth = check_scores(scores, labels, each=2)
    n = len(truth) - int(truth.sum())
    drawn = values[stratified_resamples(truth, resamples=resamples, seed=seed)]  # controls first
    m = drawn.shape[1] - n
    ranks = rankdata(drawn, axis=1)[:, n:].sum(axis=1)
    return percentile_interval((ranks - m * (m + 1) / 2) / (m * n))


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> RocCurve:
    """Return the ROC curve with a point per distinct score."""
    values, truth = check_scores(scores, labels)
    thresholds, true, false = cumulative_counts(values, truth)
    cases, controls = int(truth.sum()), int(len(truth) - truth.sum())
    return RocCurve(
        thresholds=tuple(thresholds.tolist()),
        sensitivity=(0.0, *(true / cases).tolist()),
        specificity=(1.0, *(1 - false / controls).tolist()),
    )


def cumulative_counts(scores: FloatArray, labels: Labels) -> tuple[FloatArray, Labels, Labels]:
    """Return the distinct scores, highest first, with the true and the false positives of calling at or above each."""
    distinct, index = np.unique(-scores, return_inverse=True)
    cases = np.bincount(index, weights=labels, minlength=len(distinct)).astype(np.int64)
    everyone = np.bincount(index, minlength=len(distinct))
    return -distinct, np.cumsum(cases), np.cumsum(everyone - cases)


def adjust_bonferroni(p_values: Sequence[float]) -> list[float]:
    """Return Bonferroni's adjusted p-values of a family."""
    return [min(1.0, len(p_values) * p) for p in p_values]


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values of a family (Scand J Stat 1979;6:65-70), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(v) for v in adjusted]


def _placements(scores: FloatArray, labels: Labels) -> tuple[FloatArray, FloatArray]:
    """Return, for each case, the share of controls below it and, for each control, the share of cases above it."""
    cases, controls = scores[labels == 1], scores[labels == 0]
    m, n = len(cases), len(controls)
    ranks = rankdata(np.r_[cases, controls])
    return (ranks[:m] - rankdata(cases)) / n, 1 - (ranks[m:] - rankdata(controls)) / m


def _test(areas: Sequence[float], variance: float, df: float | None, method: str) -> Comparison:
    difference, se = areas[0] - areas[1], float(np.sqrt(variance))
    if set(areas) & {0.0, 1.0}:
        return Comparison(difference, None, None, None, None, method)
    if se == 0:  # the same ranking twice, or scores that are constant
        return Comparison(difference, Interval(difference, difference, method), 0.0, 1.0, df, method)
    statistic = difference / se
    tail = ndtr(-abs(statistic)) if df is None else stdtr(df, -abs(statistic))
    return Comparison(difference, Interval(difference - Z * se, difference + Z * se, method), statistic, float(2 * tail), df, method)


def _score_interval(a: float, m: int, n: int) -> Interval:
    """Return the interval of an area from the null variance at its own bounds: it has width where all pairs are in order.

    Newcombe, Stat Med 2006;25:559-573, method 5.
    """
    mean_size = (m + n) / 2 - 1

    def excess(bound: float) -> float:
        spread = 1 + mean_size * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        return float(abs(a - bound) - Z * np.sqrt(bound * (1 - bound) * spread / (m * n)))

    low = float(brentq(excess, _EDGE, min(a, 1 - _EDGE))) if a > 0 else 0.0
    high = float(brentq(excess, max(a, _EDGE), 1 - _EDGE)) if a < 1 else 1.0
    return Interval(low, high, "Newcombe's score interval: DeLong's variance is 0")
