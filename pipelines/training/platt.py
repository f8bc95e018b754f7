"""From scores of patients that a classifier had not seen to calibrated probabilities and conformal sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from pipelines.training.select import Labels
from pipelines.types import FloatArray

_LEAST_SLOPE, _MOST_SLOPE = 1e-3, 10.0  # of Platt scaling


@dataclass(frozen=True)
class Calibration:
    """Platt scaling in log-odds, p = expit(a x + b), and the covariance of its two numbers (var a, cov ab, var b)."""

    a: float
    b: float
    covariance: tuple[float, float, float]

    def apply(self, log_odds: FloatArray) -> FloatArray:
        """Return calibrated probabilities of raw log-odds."""
        return np.asarray(expit(self.a * log_odds + self.b))


@dataclass(frozen=True)
class Rule:
    """A class-conditional conformal rule: positive is plausible from one probability on, negative up to another."""

    coverage: float
    positive_from: float
    negative_to: float

    def holds(self, probabilities: FloatArray) -> NDArray[np.bool_]:
        """Tell of probabilities (n,) whether the set holds negative and positive, (n, 2)."""
        return np.column_stack([probabilities <= self.negative_to, probabilities >= self.positive_from])


@dataclass(frozen=True)
class ClassRule:
    """The same of several classes: each is plausible from a probability of its own on, the most probable one always."""

    coverage: float
    plausible_from: tuple[float, ...]

    def holds(self, probabilities: FloatArray) -> NDArray[np.bool_]:
        """Tell of probabilities (n, classes) whether the set holds each class, (n, classes)."""
        first = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
        return np.asarray((probabilities >= np.array(self.plausible_from)) | first)


def calibrate(log_odds: FloatArray, labels: Labels) -> Calibration:
    """Fit Platt scaling by maximum likelihood with Platt's targets (Platt 1999, section 2.2).

    Where out-of-fold scores do not rank the cases above the controls, ``a`` is held just above 0: the probability becomes the prevalence.
    """
    events = int(labels.sum())
    targets = np.where(labels == 1, (events + 1) / (events + 2), 1 / (len(labels) - events + 2))

    def loss(parameters: FloatArray) -> float:
        z = parameters[0] * log_odds + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - targets * z))

    found = minimize(loss, np.array([1.0, 0.0]), bounds=[(_LEAST_SLOPE, _MOST_SLOPE), (-20.0, 20.0)], method="L-BFGS-B")
    a, b = float(found.x[0]), float(found.x[1])
    p = expit(a * log_odds + b)
    design = np.column_stack([log_odds, np.ones(len(log_odds))])
    information = (design * (p * (1 - p))[:, None]).T @ design
    covariance = np.linalg.pinv(information)
    return Calibration(a, b, (float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1])))


def conformal_rule(probabilities: FloatArray, labels: Labels, *, coverage: float) -> Rule:
    """Return the rule that covers each class at ``coverage`` (split conformal within classes: Vovk 2012, section 3).

    With k patients of a class, the (k + 1)(1 - coverage)-th most surprising of their scores is the limit.
    """
    cases, controls = np.sort(probabilities[labels == 1]), np.sort(probabilities[labels == 0])[::-1]
    return Rule(coverage, _limit(cases, coverage, 0.0), _limit(controls, coverage, 1.0))


def class_conformal_rule(probabilities: FloatArray, labels: Labels, *, classes: Labels, coverage: float) -> ClassRule:
    """Return the rule that covers each class at ``coverage``, from probabilities (n, classes) of patients unseen by their model.

    A class with fewer than ten patients (at 0.9) can never be excluded: so few cannot tell how low its probability may be.
    """
    limits = (_limit(np.sort(probabilities[labels == c, k]), coverage, 0.0) for k, c in enumerate(classes))
    return ClassRule(coverage, tuple(limits))


def _limit(by_surprise: FloatArray, coverage: float, everything: float) -> float:
    rank = int(np.floor((len(by_surprise) + 1) * (1 - coverage)))
    return float(by_surprise[rank - 1]) if rank >= 1 else everything
