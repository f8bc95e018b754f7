"""From thousands of features to a few: z-score, redundancy filter, mRMR, LASSO. Every function sees only the rows it is given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from pipelines.types import FloatArray

Labels = NDArray[np.int64]
Indices = NDArray[np.intp]


class Scaling(NamedTuple):
    """Mean and standard deviation per feature; features that do not vary have a standard deviation of 0."""

    mean: FloatArray
    std: FloatArray


def fit_scaling(rows: FloatArray) -> Scaling:
    """Return mean and population standard deviation of each column of (n, p)."""
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    return Scaling(mean, np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-12), std, 0.0))


def f_scores(rows: FloatArray, labels: Labels) -> FloatArray:
    """Return the F statistic of each column between the two classes; 0 for a column that does not vary."""
    cases, controls = rows[labels == 1], rows[labels == 0]
    total = rows.mean(axis=0)
    between = len(cases) * (cases.mean(axis=0) - total) ** 2 + len(controls) * (controls.mean(axis=0) - total) ** 2
    within = len(cases) * cases.var(axis=0) + len(controls) * controls.var(axis=0)
    return np.asarray(np.divide(between * (len(rows) - 2), within, out=np.zeros_like(within), where=within > 0))


def drop_correlated(rows: FloatArray, labels: Labels, *, limit: float = 0.9) -> Indices:
    """Return the columns to keep so that no two have |Spearman rho| > ``limit`` ([OLNM] feature selection).

    Columns are visited from the highest F statistic down, and kept unless one kept before is too close; columns that do not vary go.
    """
    varies = np.flatnonzero(fit_scaling(rows).std > 0)
    order = varies[np.argsort(-f_scores(rows, labels)[varies], kind="stable")]
    ranks = rankdata(rows[:, order], axis=0)
    ranks -= ranks.mean(axis=0)
    ranks /= np.linalg.norm(ranks, axis=0)
    kept: list[int] = []
    for column in range(len(order)):
        if not kept or np.abs(ranks[:, kept].T @ ranks[:, column]).max() <= limit:
            kept.append(column)
    return np.sort(order[kept])


def mrmr(rows: FloatArray, labels: Labels, *, k: int) -> Indices:
    """Return ``k`` columns by minimum redundancy and maximum relevance: F statistic over the mean |Pearson r| with those chosen."""
    relevance = f_scores(rows, labels)
    std = fit_scaling(rows).std
    scaled = np.divide(rows - rows.mean(axis=0), std, out=np.zeros_like(rows), where=std > 0) / np.sqrt(len(rows))
    redundancy = np.zeros(rows.shape[1])
    free = std > 0
    chosen: list[int] = []
    while len(chosen) < k and free.any():
        score = relevance / np.maximum(redundancy / max(len(chosen), 1), 1e-3) if chosen else relevance
        best = int(np.argmax(np.where(free, score, -np.inf)))
        chosen.append(best)
        free[best] = False
        redundancy += np.abs(scaled.T @ scaled[:, best])
    return np.array(chosen, dtype=np.intp)


def lasso_logistic(rows: FloatArray, labels: Labels, *, seed: int, folds: int = 5, steps: int = 30) -> Indices:
    """Return the columns with a non-zero coefficient in a LASSO-logistic regression ([OLNM] feature selection).

    The penalty is the one with the lowest cross-validated log loss. Where that model is empty, the largest penalty with any coefficient is
    taken: a classifier needs an input.
    """
    n = len(labels)
    penalties = _largest_penalty(rows, labels) * np.logspace(0, -2, steps)
    losses = np.zeros(steps)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels):
        scaling = fit_scaling(rows[train])
        inner, outer = apply_scaling(rows[train], scaling), apply_scaling(rows[test], scaling)
        for i, penalty in enumerate(penalties):
            p = _lasso(inner, labels[train], penalty).predict_proba(outer)[:, 1]
            losses[i] += log_loss(labels[test], p, labels=[0, 1]) * len(test) / n
    scaled = apply_scaling(rows, fit_scaling(rows))
    for penalty in penalties[int(losses.argmin()) :]:
        chosen = np.flatnonzero(_lasso(scaled, labels, penalty).coef_[0])
        if len(chosen):
            return chosen
    return np.array([int(f_scores(rows, labels).argmax())], dtype=np.intp)


def apply_scaling(rows: FloatArray, scaling: Scaling) -> FloatArray:
    """Return z-scores; columns that do not vary become 0."""
    return np.divide(rows - scaling.mean, scaling.std, out=np.zeros_like(rows), where=scaling.std > 0)


def _largest_penalty(rows: FloatArray, labels: Labels) -> float:
    """Return the smallest penalty at which every coefficient is zero."""
    scaled = apply_scaling(rows, fit_scaling(rows))
    return float(np.abs(scaled.T @ (labels - labels.mean())).max()) / len(labels)


def _lasso(rows: FloatArray, labels: Labels, penalty: float) -> LogisticRegression:
    # liblinear penalises the intercept too; a large intercept scaling makes that immaterial.
    model = LogisticRegression(
        l1_ratio=1.0, C=1 / (penalty * len(labels)), solver="liblinear", intercept_scaling=100, tol=1e-3, max_iter=300, random_state=0
    )
    return model.fit(rows, labels)
