"""Estimates with intervals: proportions, and the stratified bootstrap for everything that has no formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import beta

from pipelines.errors import CohortError
from pipelines.types import FloatArray

LEVEL = 0.95  # of every interval here
Z = float(ndtri((1 + LEVEL) / 2))  # 1.96
RESAMPLES = 2000
_NAMED = 5  # rows named in an error

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval and how it was made."""

    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, where one can be given."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Proportion:
    """``count`` of ``of``; the value and its intervals are ``None`` where ``of`` is 0."""

    count: int
    of: int
    value: float | None
    wilson: Interval | None
    clopper_pearson: Interval | None


def check_scores(scores: ArrayLike, labels: ArrayLike, *, each: int = 1) -> tuple[FloatArray, Labels]:
    """Return scores (n,) as float64 and labels (n,) as 0 and 1.

    Raises
    ------
    CohortError
        Lengths differ, a score is not finite, a label is not 0 or 1, or there are fewer than ``each`` rows of either class.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise CohortError(f"scores of shape {values.shape} do not fit labels of shape {truth.shape}")
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise CohortError(f"the score is not finite in {len(bad)} rows (counted from 0), first {bad[:_NAMED].tolist()}")
    if len(bad := np.flatnonzero((truth != 0) & (truth != 1))):
        raise CohortError(f"the label is neither 0 nor 1 in {len(bad)} rows (counted from 0), first {bad[:_NAMED].tolist()}")
    events = int(np.count_nonzero(truth))
    if min(events, len(truth) - events) < each:
        raise CohortError(f"{events} positive and {len(truth) - events} negative rows: at least {each} of each are needed")
    return values, truth.astype(np.int64)


def proportion(count: int, of: int) -> Proportion:
    """Return ``count / of`` with the intervals of Wilson (1927) and of Clopper and Pearson (1934)."""
    if of == 0:
        return Proportion(count, of, None, None, None)
    p = count / of
    centre, half = p + Z**2 / (2 * of), Z * np.sqrt(p * (1 - p) / of + Z**2 / (4 * of**2))
    low, high = (centre - half) / (1 + Z**2 / of), (centre + half) / (1 + Z**2 / of)
    wilson = Interval(0.0 if count == 0 else float(low), 1.0 if count == of else float(high), "Wilson")
    tail = (1 - LEVEL) / 2
    exact = Interval(
        float(beta.ppf(tail, count, of - count + 1)) if count else 0.0,
        float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0,
        "Clopper-Pearson",
    )
    return Proportion(count, of, p, wilson, exact)


def stratified_resamples(labels: Labels, *, resamples: int, seed: int) -> NDArray[np.intp]:
    """Return row numbers (resamples, n), drawn with replacement within each class: every resample has as many of each as the cohort."""
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    return np.concatenate([rng.choice(rows, size=(resamples, len(rows))) for rows in strata], axis=1)


def bootstrap_intervals(
    statistic: Callable[[FloatArray, Labels], FloatArray],
    scores: FloatArray,
    labels: Labels,
    *,
    resamples: int = RESAMPLES,
    seed: int,
) -> list[Interval]:
    """Return the percentile interval of each value that ``statistic(scores, labels)`` returns, by a stratified bootstrap.

    ``scores`` has a row per patient; labels may have several classes.
    """
    drawn = stratified_resamples(labels, resamples=resamples, seed=seed)
    values = np.array([statistic(scores[rows], labels[rows]) for rows in drawn])
    return [percentile_interval(column) for column in values.T]


def percentile_interval(values: FloatArray) -> Interval:
    """Return the percentile interval of a statistic's bootstrap values (resamples,)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), f"stratified bootstrap, percentiles of {len(values)} resamples")
