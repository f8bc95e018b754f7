"""Whether a recipe finds a signal in shuffled labels, where there is none."""

from __future__ import annotations

import numpy as np
from scipy import stats

from pipelines.training.intervals import Interval, Labels
from pipelines.training.nested import area_of, outer_folds
from pipelines.training.outcome import LieDetector
from pipelines.types import FloatArray


def detect(areas: FloatArray, *, chance: float, explained: float = 0.5) -> LieDetector | None:
    """Judge the lie detector: INVALID where the 95 % interval of the mean AUC lies above 0.5 or below ``explained``.

    Parameters
    ----------
    chance : standard deviation of an AUC of random scores, which is known, so that two areas are enough to catch a gross lie. Areas may
        lie closer together by luck; they are not believed to.
    explained : how low an honest recipe falls, see :func:`area_of_prevalence`.
    """
    if len(areas) < 2:
        return None
    mean, spread = float(areas.mean()), max(float(areas.std(ddof=1)), chance)
    half = float(stats.norm.ppf(0.975)) * spread / np.sqrt(len(areas))
    interval = Interval(float(mean - half), float(mean + half), "normal, over shufflings")
    fault = "finds a signal where there is none: nothing it says of the true labels can be believed"
    below = f"falls below {explained:.3f}, further than knowing nothing explains: labels reach it the wrong way round"
    finds = fault if interval.low > 0.5 else below if interval.high < explained else "finds nothing, as it should"
    valid = interval.low <= 0.5 and interval.high >= explained
    words = f"On {len(areas)} shufflings of the labels the recipe, from selection to classifier, {finds}."
    return LieDetector(tuple(areas.tolist()), mean, interval, valid, words, explained)


def deviation_by_chance(labels: Labels) -> float:
    """Return the standard deviation of the AUC of random scores (Mann-Whitney's null); of several classes their mean, one against the rest.

    Of two classes either one against the rest is the same AUC.
    """
    counts = np.unique(labels, return_counts=True)[1]
    return float(np.mean(np.sqrt((len(labels) + 1) / (12 * counts * (len(labels) - counts)))))


def area_of_prevalence(labels: Labels, *, seed: int) -> float:
    """Return the AUC, in the outer folds of one repeat, of a model that knows how common each class is among its training patients.

    That is all that an honest recipe learns where there is nothing to learn, and it is a little worse than chance: a fold with more cases
    than its share leaves fewer to train on, so its patients get lower probabilities than the others.
    """
    classes = np.unique(labels)
    probabilities = np.zeros((len(labels), len(classes)))
    for train, test in outer_folds(labels, seed=seed):
        probabilities[test] = (labels[train][:, None] == classes).mean(axis=0)
    return area_of(probabilities if len(classes) > 2 else probabilities[:, 1], labels, [int(c) for c in classes])
