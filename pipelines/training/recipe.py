"""The decision of ``olnm_mri``: early fusion, selection, LightGBM, calibration, threshold ([OLNM] Methods), all inside the folds.

:func:`fit` learns from the rows it is given and nothing else, so that running it within the folds of :func:`nested` gives an honest
estimate of what it will do on new patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import log_loss, roc_curve
from sklearn.model_selection import StratifiedKFold

from pipelines.models.classify import logit
from pipelines.training.select import (
    Indices,
    Labels,
    Scaling,
    apply_scaling,
    drop_correlated,
    fit_scaling,
    lasso_logistic,
    mrmr,
)
from pipelines.types import FloatArray

FOLDS = 5
# The paper prints no grid; this one is small because cohorts are, and shallow because a leaf needs patients.
GRID = tuple(
    {"num_leaves": leaves, "n_estimators": trees, "min_child_samples": least}
    for leaves, trees, least in product((2, 4), (40, 120), (5, 10))
)
THRESHOLD_RULE = "Youden index on out-of-fold probabilities of the training rows"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted decision: which columns, their scaling, the trees, Platt's two numbers and the threshold."""

    columns: Indices
    scaling: Scaling
    trees: LGBMClassifier
    settings: dict[str, int]
    platt: tuple[float, float]
    threshold: float

    def standardise(self, table: FloatArray) -> FloatArray:
        """Return the chosen columns of (n, p) as z-scores, float64."""
        return apply_scaling(table[:, self.columns], self.scaling)

    def predict(self, table: FloatArray) -> FloatArray:
        """Return calibrated probabilities (n,) of raw rows (n, p)."""
        raw = self.trees.predict_proba(self.standardise(table).astype(np.float32))[:, 1]
        return np.asarray(expit(self.platt[0] * logit(raw) + self.platt[1]))


@dataclass(frozen=True, eq=False)
class NestedResult:
    """Out-of-fold probabilities (n,) and calls (n,) of patients that the model which judged them had never seen."""

    probabilities: FloatArray
    calls: NDArray[np.bool_]


def select_columns(table: FloatArray, labels: Labels, *, deep: Sequence[Indices], keep: int, seed: int) -> Indices:
    """Return the classifier's columns: deep features to ``keep`` per network by mRMR, |rho| filter, LASSO.

    ``deep`` lists each network's columns; all others are radiomics.
    """
    of_networks = np.concatenate(deep) if deep else np.array([], dtype=np.intp)
    radiomics = np.setdiff1d(np.arange(table.shape[1]), of_networks)
    pool = [radiomics, *(columns[mrmr(table[:, columns], labels, k=keep)] for columns in deep)]
    candidates = np.sort(np.concatenate(pool))
    distinct = candidates[drop_correlated(table[:, candidates], labels)]
    return distinct[lasso_logistic(table[:, distinct], labels, seed=seed)]


def fit(table: FloatArray, labels: Labels, *, deep: Sequence[Indices], keep: int, seed: int) -> Classifier:
    """Fit the whole recipe on raw rows (n, p). Grid, calibration and threshold come from an inner cross-validation.

    In the inner folds the selection is repeated on the training part, so that calibration and threshold see honest scores.
    """
    out_of_fold = np.zeros((len(GRID), len(labels)))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(table, labels):
        columns = select_columns(table[train], labels[train], deep=deep, keep=keep, seed=seed)
        scaling = fit_scaling(table[train][:, columns])
        inner, outer = (apply_scaling(table[part][:, columns], scaling).astype(np.float32) for part in (train, test))
        for i, settings in enumerate(GRID):
            out_of_fold[i, test] = _grow(inner, labels[train], settings, seed).predict_proba(outer)[:, 1]
    best = int(np.argmin([log_loss(labels, p) for p in out_of_fold]))
    a, b = fit_platt(out_of_fold[best], labels)
    columns = select_columns(table, labels, deep=deep, keep=keep, seed=seed)
    scaling = fit_scaling(table[:, columns])
    rows = apply_scaling(table[:, columns], scaling).astype(np.float32)
    return Classifier(
        columns=columns,
        scaling=scaling,
        trees=_grow(rows, labels, GRID[best], seed),
        settings=GRID[best],
        platt=(a, b),
        threshold=youden(expit(a * logit(out_of_fold[best]) + b), labels),
    )


def nested(
    table: FloatArray, labels: Labels, *, deep: Sequence[Indices], keep: int, seed: int, progress: Callable[[str], None]
) -> NestedResult:
    """Judge the recipe: in each outer fold it is fitted anew, from selection to threshold, and scores the patients left out."""
    probabilities, calls = np.zeros(len(labels)), np.zeros(len(labels), dtype=bool)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed + 1).split(table, labels)
    for i, (train, test) in enumerate(folds, start=1):
        model = fit(table[train], labels[train], deep=deep, keep=keep, seed=seed)
        probabilities[test] = model.predict(table[test])
        calls[test] = probabilities[test] >= model.threshold
        progress(f"nested cross-validation: fold {i} of {FOLDS}, {len(model.columns)} features selected")
    return NestedResult(probabilities, calls)


def _grow(rows: NDArray[np.float32], labels: Labels, settings: dict[str, int], seed: int) -> LGBMClassifier:
    model = LGBMClassifier(
        **settings, learning_rate=0.05, reg_lambda=1.0, random_state=seed, deterministic=True, force_row_wise=True, n_jobs=1, verbose=-1
    )
    return model.fit(rows, labels)


def fit_platt(raw: FloatArray, labels: Labels) -> tuple[float, float]:
    """Return (a, b) of p = expit(a logit(raw) + b) by maximum likelihood with Platt's targets (Platt 1999, section 2.2).

    Where out-of-fold scores do not rank the cases above the controls, ``a`` is held just above 0: the probability becomes the prevalence.
    """
    x = logit(raw)
    events = int(labels.sum())
    targets = np.where(labels == 1, (events + 1) / (events + 2), 1 / (len(labels) - events + 2))

    def loss(parameters: FloatArray) -> float:
        z = parameters[0] * x + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - targets * z))

    found = minimize(loss, np.array([1.0, 0.0]), bounds=[(1e-3, 10.0), (-20.0, 20.0)], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def youden(probabilities: FloatArray, labels: Labels) -> float:
    """Return the threshold of the highest sensitivity + specificity - 1, midway to the next lower score."""
    false, true, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    best = int(np.argmax((true - false)[1:])) + 1
    below = thresholds[best + 1] if best + 1 < len(thresholds) else 0.0
    return float(np.clip((thresholds[best] + below) / 2, 1e-6, 1 - 1e-6))


def auc(scores: FloatArray, labels: Labels) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error (DeLong et al. 1988, by midranks: Sun and Xu 2014)."""
    cases, controls = scores[labels == 1], scores[labels == 0]
    m, n = len(cases), len(controls)
    ranks = rankdata(np.r_[cases, controls])
    area = (ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    of_cases = (ranks[:m] - rankdata(cases)) / n
    of_controls = 1 - (ranks[m:] - rankdata(controls)) / m
    return float(area), float(np.sqrt(of_cases.var(ddof=1) / m + of_controls.var(ddof=1) / n))
