"""Whether probabilities mean what they say.

Terms after Van Calster et al., BMC Med 2019;17:230: mean calibration (in the large), weak calibration (intercept and slope), moderate
calibration (curve and integrated calibration index). Hosmer and Lemeshow's test is there because the papers print it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import chi2

from pipelines.errors import CohortError
from pipelines.models.classify import logit
from pipelines.training.intervals import (
    RESAMPLES,
    Estimate,
    Interval,
    Labels,
    Proportion,
    Z,
    bootstrap_intervals,
    check_scores,
    proportion,
)
from pipelines.types import FloatArray

_EDGE = 1e-7  # probabilities of 0 and 1 become this far from them, as in serving
GROUPS = 10
SPAN = 0.75  # share of the patients in each local fit, the default of R's loess
_GRID = 101  # probabilities at which the curve is drawn
_NEWTON_STEPS, _NEWTON_TOLERANCE = 100, 1e-12


@dataclass(frozen=True, slots=True)
class Bin:
    """Patients of similar probability, ``low`` to ``high``: how many events were expected and how many came."""

    low: float
    high: float
    expected: float
    observed: Proportion


@dataclass(frozen=True, slots=True)
class HosmerLemeshow:
    """Hosmer and Lemeshow's test; ``p`` is ``None`` where the groups are too few for it."""

    statistic: float
    df: int
    p: float | None
    groups: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """The observed risk, smoothed by loess, at predicted risks from the lowest to the highest."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything about the calibration of one set of probabilities.

    ``in_the_large`` is the intercept with the slope held at 1, ``intercept`` that of the fit with a free ``slope``; both of the latter are
    ``None`` where probabilities separate the classes or do not vary, so that no slope fits best. Ideal: 0, 0, 1, and 0 for ``ici``, ``e50``
    and ``e90`` (mean, median and 90th percentile of \\|observed - predicted\\| along the smooth curve).
    """

    prevalence: float
    mean_predicted: float
    brier: Estimate
    scaled_brier: Estimate
    in_the_large: Estimate
    intercept: Estimate | None
    slope: Estimate | None
    ici: Estimate
    e50: float
    e90: float
    curve: Curve
    hosmer_lemeshow: HosmerLemeshow


def calibration(probabilities: ArrayLike, labels: ArrayLike, *, external: bool, resamples: int = RESAMPLES, seed: int) -> Calibration:
    """Return the calibration of probabilities (n,).

    Brier score, scaled Brier score and ICI have bootstrap intervals, the coefficients Wald's. ``external`` says that these patients had no
    part in the model: see :func:`hosmer_lemeshow`.
    """
    p, y = _checked(probabilities, labels)
    error = calibration_error(p, y)
    intervals = bootstrap_intervals(_resampled, p, y, resamples=resamples, seed=seed)
    refit = recalibration(p, y)
    values = (brier(p, y), scaled_brier(p, y), float(error.mean()))
    brier_estimate, scaled, ici = (Estimate(v, i) for v, i in zip(values, intervals, strict=True))
    grid = np.linspace(p.min(), p.max(), _GRID)
    return Calibration(
        prevalence=float(y.mean()),
        mean_predicted=float(p.mean()),
        brier=brier_estimate,
        scaled_brier=scaled,
        in_the_large=calibration_in_the_large(p, y),
        intercept=refit[0] if refit else None,
        slope=refit[1] if refit else None,
        ici=ici,
        e50=float(np.median(error)),
        e90=float(np.quantile(error, 0.9)),
        curve=Curve(tuple(grid.tolist()), tuple(smooth(p, y, at=grid).tolist())),
        hosmer_lemeshow=hosmer_lemeshow(p, y, external=external),
    )


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the Brier score, the mean squared difference between probability and outcome."""
    p, y = _checked(probabilities, labels)
    return float(((p - y) ** 2).mean())


def scaled_brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return 1 - Brier / Brier of the prevalence for everyone: 1 is perfect, 0 no better than knowing the prevalence."""
    p, y = _checked(probabilities, labels)
    return 1 - brier(p, y) / float(y.mean() * (1 - y.mean()))


def calibration_in_the_large(probabilities: ArrayLike, labels: ArrayLike) -> Estimate:
    """Return the shift in log-odds that makes the mean probability equal the prevalence; positive where the model predicts too low."""
    p, y = _checked(probabilities, labels)
    return _fit_logistic(np.ones((len(p), 1)), y, offset=logit(p))[0]


def recalibration(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Estimate, Estimate] | None:
    """Return intercept and slope of the logistic regression of the outcome on the log-odds, or ``None`` where it has no maximum.

    A slope below 1 means probabilities that are too extreme, as overfitting makes them.
    """
    p, y = _checked(probabilities, labels)
    x = logit(p)
    cases, controls = x[y == 1], x[y == 0]
    if cases.min() >= controls.max() or controls.min() >= cases.max():
        return None
    intercept, slope = _fit_logistic(np.column_stack([np.ones(len(x)), x]), y, offset=np.zeros(len(x)))
    return intercept, slope


def calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> FloatArray:
    """Return \\|observed - predicted\\| of each patient along the smooth curve (n,); its mean is the ICI.

    Austin and Steyerberg, Stat Med 2019;38:4051-4065: ICI, E50 and E90 are its mean, median and 90th percentile.
    """
    p, y = _checked(probabilities, labels)
    return np.asarray(np.abs(smooth(p, y, at=p) - p))


def smooth(probabilities: ArrayLike, labels: ArrayLike, *, at: FloatArray) -> FloatArray:
    """Return the outcome at probabilities ``at`` (m,) smoothed by loess, cut off at 0 and 1.

    Local quadratic fits with tricube weights on the nearest three quarters of the patients (Cleveland and Devlin, J Am Stat Assoc
    1988;83:596-610), computed at each point: R's ``loess(y ~ p)`` with ``surface = "direct"``.
    """
    p, y = _checked(probabilities, labels)
    distance = p[None] - at[:, None]
    nearest = max(int(len(p) * SPAN + 1e-5), min(len(p), 4))
    width = np.partition(np.abs(distance), nearest - 1, axis=1)[:, nearest - 1, None]
    x = distance / np.maximum(width, _EDGE)  # a floor, for many equal probabilities
    near = np.maximum(0.0, 1 - np.abs(x * x * x))
    powers = [near * near * near]  # the tricube weight, then times x, x^2, x^3, x^4
    for _ in range(4):
        powers.append(powers[-1] * x)
    moments = np.stack([w.sum(axis=1) for w in powers], axis=1)
    right = np.stack([w @ y for w in powers[:3]], axis=1)
    normal = moments[:, np.arange(3)[:, None] + np.arange(3)]
    fitted = np.einsum("mi,mi->m", np.linalg.pinv(normal, rcond=1e-10, hermitian=True)[:, 0], right)
    return np.asarray(np.clip(fitted, 0.0, 1.0))


def hosmer_lemeshow(probabilities: ArrayLike, labels: ArrayLike, *, external: bool, groups: int = GROUPS) -> HosmerLemeshow:
    """Return Hosmer and Lemeshow's test over quantile groups of the probability.

    The groups end at quantiles (R's type 7), equal probabilities stay together, so ties make fewer groups g. Degrees of freedom: g for
    patients who had no part in the model, g - 2 for those it was fitted on (Hosmer, Lemeshow and Sturdivant 2013, section 5.2.2).
    """
    p, y = _checked(probabilities, labels)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, groups + 1)))
    group = np.maximum(np.searchsorted(edges, p, side="left"), 1) - 1
    bins, statistic = [], 0.0
    for k in np.unique(group):
        here = group == k
        n, events, expected = int(here.sum()), int(y[here].sum()), float(p[here].sum())
        statistic += (events - expected) ** 2 / (expected * (1 - expected / n))
        bins.append(Bin(float(p[here].min()), float(p[here].max()), expected, proportion(events, n)))
    df = len(bins) if external else len(bins) - 2
    return HosmerLemeshow(statistic, df, float(chi2.sf(statistic, df)) if df > 0 else None, tuple(bins))


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, Labels]:
    p, y = check_scores(probabilities, labels)
    if p.min() < 0 or p.max() > 1:
        raise CohortError(f"probabilities must lie within 0 to 1, not {p.min():g} to {p.max():g}")
    return np.clip(p, _EDGE, 1 - _EDGE), y


def _resampled(p: FloatArray, y: Labels) -> FloatArray:
    """Return Brier score, scaled Brier score and ICI of a resample; its curve is computed on a grid, which is fast for large cohorts."""
    grid = np.linspace(p.min(), p.max(), _GRID)
    ici = np.abs(np.interp(p, grid, smooth(p, y, at=grid)) - p).mean()
    return np.array([brier(p, y), scaled_brier(p, y), ici])


def _fit_logistic(design: FloatArray, labels: Labels, *, offset: FloatArray) -> list[Estimate]:
    """Return the maximum-likelihood coefficients with Wald's intervals, by Newton's method with halved steps."""
    beta = np.zeros(design.shape[1])

    def loss(b: FloatArray) -> float:
        z = design @ b + offset
        return float((np.logaddexp(0, z) - labels * z).sum())

    for _ in range(_NEWTON_STEPS):
        risk = expit(design @ beta + offset)
        information = design.T @ (design * (risk * (1 - risk))[:, None])
        step = np.linalg.solve(information, design.T @ (labels - risk))
        while loss(beta + step) > loss(beta) and np.abs(step).max() > _NEWTON_TOLERANCE:
            step /= 2
        beta = beta + step
        if np.abs(step).max() <= _NEWTON_TOLERANCE:
            break
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    return [Estimate(float(b), Interval(float(b - Z * e), float(b + Z * e), "Wald")) for b, e in zip(beta, errors, strict=True)]
