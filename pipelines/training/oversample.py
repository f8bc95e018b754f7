"""Fill up rare classes with synthetic rows, and take the prevalence that this makes up back out of the probabilities."""

from __future__ import annotations

import numpy as np
from imblearn.over_sampling import SMOTE

from pipelines.errors import CohortError
from pipelines.training.select import Labels
from pipelines.types import FloatArray

NEIGHBOURS = 5  # between which rows are made, as in the reference; fewer where a class has fewer


def smote(rows: FloatArray, labels: Labels, *, seed: int) -> tuple[FloatArray, Labels]:
    """Return rows (m, p) and labels (m,) with all classes as large as the largest: the given rows first, then the synthetic ones.

    Each synthetic row lies between a row and one of its nearest neighbours of the same class (Chawla et al. 2002). Only for training rows:
    a synthetic row of a patient whom the model is later asked about carries the answer over.

    Raises
    ------
    CohortError
        A class has a single row, which has no neighbour.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise CohortError(f"class {classes[counts.argmin()]} has a single row in a training part; oversampling needs two")
    sampler = SMOTE(k_neighbors=min(NEIGHBOURS, int(counts.min()) - 1), random_state=seed)
    filled, answers = sampler.fit_resample(rows, labels)
    return np.asarray(filled, dtype=np.float64), np.asarray(answers, dtype=np.int64)


def prior_odds(before: Labels, after: Labels) -> FloatArray:
    """Return factors (classes,) by which probabilities of a model fitted on ``after`` are multiplied, before they are made to add up to 1.

    Each is a class's share before oversampling over its share after it, so that the model speaks of the cohort's prevalence again; of two
    classes the log of their ratio is an offset in log-odds (Elkan 2001, theorem 2).
    """
    classes = np.unique(before)
    return np.array([(before == c).mean() / (after == c).mean() for c in classes])
