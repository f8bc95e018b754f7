"""Thresholds, and what calling at one of them does. A probability at or above the threshold is called positive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipelines.errors import CohortError
from pipelines.training.discrimination import cumulative_counts
from pipelines.training.intervals import Proportion, check_scores, proportion
from pipelines.types import FloatArray

_EDGE = 1e-6  # a threshold lies within (0, 1)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The calls against the truth."""

    tp: int
    fp: int
    tn: int
    fn: int
    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion
    accuracy: Proportion
    balanced_accuracy: float
    f1: float


def operating_point(calls: ArrayLike, labels: ArrayLike) -> OperatingPoint:
    """Return what calls (n,), 1 or True for positive, are worth; both classes must be there."""
    called, truth = check_scores(calls, labels)
    if not np.isin(called, (0.0, 1.0)).all():
        raise CohortError("a call is neither 0 nor 1")
    tp, fp = int((called * truth).sum()), int((called * (1 - truth)).sum())
    fn, tn = int(truth.sum()) - tp, int((1 - truth).sum()) - fp
    return OperatingPoint(
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        sensitivity=proportion(tp, tp + fn),
        specificity=proportion(tn, tn + fp),
        ppv=proportion(tp, tp + fp),
        npv=proportion(tn, tn + fn),
        accuracy=proportion(tp + tn, len(truth)),
        balanced_accuracy=(tp / (tp + fn) + tn / (tn + fp)) / 2,
        f1=2 * tp / (2 * tp + fp + fn),
    )


def youden_threshold(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the threshold of the highest sensitivity + specificity - 1, midway to the next lower probability.

    Of several equally good ones it is the highest. Take it from out-of-fold probabilities, never from the patients it is judged on.
    """
    values, truth = check_scores(probabilities, labels)
    distinct, true, false = cumulative_counts(values, truth)
    cases = int(truth.sum())
    return _below(distinct, int(np.argmax(true / cases - false / (len(truth) - cases))))


def sensitivity_threshold(probabilities: ArrayLike, labels: ArrayLike, sensitivity: float) -> float:
    """Return the highest threshold that finds at least this share of the cases, midway to the next lower probability."""
    if not 0 < sensitivity <= 1:
        raise CohortError(f"a sensitivity lies between 0 and 1, not {sensitivity}")
    values, truth = check_scores(probabilities, labels)
    distinct, true, _ = cumulative_counts(values, truth)
    needed = int(np.ceil(sensitivity * truth.sum() - 1e-9))  # 0.9 of 10 cases are 9 in spite of binary fractions
    return _below(distinct, int(np.searchsorted(true, needed)))


def _below(distinct: FloatArray, index: int) -> float:
    """Return a threshold between one of the distinct probabilities, highest first, and the next lower one."""
    lower = distinct[index + 1] if index + 1 < len(distinct) else 0.0
    return float(np.clip((distinct[index] + lower) / 2, _EDGE, 1 - _EDGE))
