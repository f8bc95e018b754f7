"""Support vector machines with a radial kernel that give probabilities: fitted by scikit-learn, kept and evaluated as plain arrays.

In float64 throughout: at a small C the distances from the boundary are tiny and their calibration steep, so that float32 would show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from pipelines.errors import CohortError
from pipelines.types import FloatArray

CALIBRATION_FOLDS = 5  # that give the distances on which the probabilities are calibrated


@dataclass(frozen=True, eq=False)
class SupportVectors:
    """One machine for two classes, or one per class against the rest.

    Machine i says expit(K @ ``weights[i]`` + ``offsets[i]``) with K = exp(-``gamma`` |x - v|^2) over ``vectors`` (m, p). Of two classes
    that is the probability of the second; of several, the machines' answers are divided by their sum.
    """

    vectors: FloatArray
    gamma: float
    weights: FloatArray
    offsets: FloatArray

    def predict_proba(self, rows: NDArray[np.float32]) -> FloatArray:
        """Return probabilities (n, classes)."""
        x = rows.astype(np.float64)
        squared = (x**2).sum(axis=1, keepdims=True) + (self.vectors**2).sum(axis=1) - 2 * x @ self.vectors.T
        positive = expit(np.exp(-self.gamma * squared) @ self.weights.T + self.offsets)
        if len(self.weights) == 1:
            return np.hstack([1 - positive, positive])
        return np.asarray(positive / positive.sum(axis=1, keepdims=True))


def fit_support_vectors(rows: NDArray[np.float32], codes: NDArray[np.int64], weights: FloatArray, *, c: float, seed: int) -> SupportVectors:
    """Fit on standardised rows (n, p), classes 0 to k - 1 and weights (n,).

    The kernel's width is 1 / (p times the variance of all values). Probabilities are Platt's, from distances of rows that were left out.

    Raises
    ------
    CohortError
        A class has fewer than two rows.
    """
    counts = np.bincount(codes)
    if counts.min() < 2:
        raise CohortError("a class has a single row in a training part; a support vector machine needs two for its probabilities")
    gamma = 1.0 / (rows.shape[1] * max(float(rows.var()), 1e-12))
    machines = (1,) if len(counts) == 2 else tuple(range(len(counts)))
    duals, offsets = np.zeros((len(machines), len(rows))), np.zeros(len(machines))
    for i, code in enumerate(machines):
        target = codes == code
        folds = min(CALIBRATION_FOLDS, int(target.sum()), int((~target).sum()))
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
        model = CalibratedClassifierCV(SVC(C=c, kernel="rbf", gamma=gamma), cv=split, ensemble=False, n_jobs=1)
        fitted = model.fit(rows.astype(np.float64), target, sample_weight=weights).calibrated_classifiers_[0]
        machine, platt = fitted.estimator, fitted.calibrators[0]
        duals[i, machine.support_] = -platt.a_ * machine.dual_coef_[0]
        offsets[i] = -platt.a_ * machine.intercept_[0] - platt.b_
    used = duals.any(axis=0)
    return SupportVectors(rows[used].astype(np.float64), gamma, duals[:, used], offsets)
