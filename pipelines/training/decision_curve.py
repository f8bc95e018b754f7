"""Decision curves: whether acting on the model does more good than acting on all or none (Vickers and Elkin, 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipelines.errors import CohortError
from pipelines.training.intervals import check_scores

THRESHOLDS = tuple(round(0.05 + 0.01 * i, 2) for i in range(46))  # 0.05 to 0.50: risks at which a clinician might act


@dataclass(frozen=True, slots=True)
class DecisionCurve:
    """Net benefit per patient at each threshold probability, in true positives.

    ``interventions_avoided`` is the net reduction of interventions per patient against treating all, at no loss of true positives.
    """

    thresholds: tuple[float, ...]
    model: tuple[float, ...]
    treat_all: tuple[float, ...]
    treat_none: tuple[float, ...]
    interventions_avoided: tuple[float, ...]


def decision_curve(probabilities: ArrayLike, labels: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> DecisionCurve:
    """Return the decision curve of probabilities (n,). Thresholds lie within (0, 1); at or above one, a patient is treated."""
    values, truth = check_scores(probabilities, labels)
    if not all(0 < t < 1 for t in thresholds):
        raise CohortError("a threshold probability does not lie between 0 and 1")
    model = [net_benefit(values >= t, truth, t) for t in thresholds]
    everyone = [net_benefit(np.ones(len(truth)), truth, t) for t in thresholds]
    return DecisionCurve(
        thresholds=tuple(thresholds),
        model=tuple(model),
        treat_all=tuple(everyone),
        treat_none=(0.0,) * len(thresholds),
        interventions_avoided=tuple((m - a) * (1 - t) / t for m, a, t in zip(model, everyone, thresholds, strict=True)),
    )


def net_benefit(treated: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Return TP/n - FP/n * t/(1 - t) of treating those marked (n,) at threshold probability ``t``."""
    marked, truth = check_scores(treated, labels)
    tp, fp = (marked * truth).mean(), (marked * (1 - truth)).mean()
    return float(tp - fp * threshold / (1 - threshold))
