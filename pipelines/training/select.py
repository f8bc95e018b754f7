"""From thousands of features to a few. Every function sees only the rows it is given, float64 (n, p), and returns columns.

Labels are 0 and 1 unless a function says that it takes more classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from pipelines.errors import CohortError
from pipelines.training.agreement import icc
from pipelines.types import FloatArray

Labels = NDArray[np.int64]
Indices = NDArray[np.intp]
IccForm = Literal["ICC(2,1)", "ICC(3,1)"]

EMPTY_IMAGE = 1e-8  # variance of a filtered image over that of the original below which it holds nothing but round-off
ELIMINATED_PER_ROUND = 0.1  # share of the columns left, at least one: 45 fits from 1625 columns to 16
FOREST_TREES = 300
SMALLEST_PENALTY = 0.01  # of the largest: glmnet's lambda.min.ratio where columns outnumber rows
LEAST_PROBABILITY = 1e-5  # in a log loss, as in glmnet: one row judged wrongly and surely does not decide


class Scaling(NamedTuple):
    """Mean and standard deviation per feature; features that do not vary have a standard deviation of 0."""

    mean: FloatArray
    std: FloatArray


class Projection(NamedTuple):
    """Principal components: ``mean`` (p,) and orthonormal ``matrix`` (components, p), the largest variance first."""

    mean: FloatArray
    matrix: FloatArray

    def apply(self, rows: FloatArray) -> FloatArray:
        """Return the scores (n, components) of rows (n, p)."""
        return np.asarray((rows - self.mean) @ self.matrix.T)


def fit_scaling(rows: FloatArray) -> Scaling:
    """Return mean and population standard deviation of each column of (n, p)."""
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    return Scaling(mean, np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-12), std, 0.0))


def apply_scaling(rows: FloatArray, scaling: Scaling) -> FloatArray:
    """Return z-scores; columns that do not vary become 0."""
    return np.divide(rows - scaling.mean, scaling.std, out=np.zeros_like(rows), where=scaling.std > 0)


def fit_pca(rows: FloatArray, *, components: int) -> Projection:
    """Return the first principal components of (n, p); of each, the loading of largest size is positive.

    Raises
    ------
    CohortError
        ``components`` rows or fewer, or fewer columns: n rows span n - 1 directions about their mean.
    """
    n, p = rows.shape
    if components > min(n - 1, p):
        raise CohortError(f"{components} principal components need more than {components} training rows, there are {n} of {p} columns")
    mean = rows.mean(axis=0)
    matrix = np.linalg.svd(rows - mean, full_matrices=False)[2][:components]
    largest = np.take_along_axis(matrix, np.abs(matrix).argmax(axis=1)[:, None], axis=1)
    return Projection(mean, matrix * np.sign(largest))


def split_folds(labels: Labels, *, folds: int, seed: int) -> list[tuple[Indices, Indices]]:
    """Return (train, test) rows of a shuffled cross-validation that is stratified by class.

    Raises
    ------
    CohortError
        A class has fewer rows than there are folds, so that a fold would not see it.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        raise CohortError(f"class {classes[counts.argmin()]} has {counts.min()} rows, too few for {folds} folds")
    return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels))


def f_scores(rows: FloatArray, labels: Labels) -> FloatArray:
    """Return the F statistic of each column between two classes or more (one-way ANOVA); 0 for a column that does not vary."""
    classes = np.unique(labels)
    groups = [rows[labels == c] for c in classes]
    total = rows.mean(axis=0)
    between = np.sum([len(g) * (g.mean(axis=0) - total) ** 2 for g in groups], axis=0) / (len(classes) - 1)
    within = np.sum([len(g) * g.var(axis=0) for g in groups], axis=0) / (len(rows) - len(classes))
    return np.asarray(np.divide(between, within, out=np.zeros_like(within), where=within > 0))


def drop_constant(rows: FloatArray, *, names: Sequence[str] = ()) -> Indices:
    """Return the columns that vary; with ``names``, none of those measured on an empty filtered image.

    A wavelet along an axis with one slice leaves subbands of pure round-off, whose features vary at random and would be blown up by the
    z-score. They are known by their image: its variance within the roi is, in the median row, below 1e-8 of the original image's.

    Parameters
    ----------
    names : ``<role>:<block>:<image>_<class>_<feature>`` of each column, as features are named everywhere.
    """
    varies = fit_scaling(rows).std > 0
    column = {name: i for i, name in enumerate(names)}
    images = [name.rsplit("_", 2)[0] for name in names]
    for image in set(images):
        prefix = image.rpartition(":")[0]
        own, original = (column.get(f"{i}_firstorder_Variance") for i in (image, f"{prefix}:original"))
        if own is not None and original is not None and np.median(rows[:, own] - EMPTY_IMAGE * rows[:, original]) < 0:
            varies &= np.array([i != image for i in images])
    return np.flatnonzero(varies)


def repeatable(first: FloatArray, second: FloatArray, *, minimum: float, form: IccForm) -> Indices:
    """Return the columns whose intraclass correlation between two readers' tables (n, p), row by row, is at least ``minimum``.

    Raises
    ------
    CohortError
        Fewer than two rows, or a value that is not finite.
    """
    return np.flatnonzero(icc(np.stack([first, second], axis=1))[form].value >= minimum)


def mann_whitney(rows: FloatArray, labels: Labels, *, p: float = 0.05) -> Indices:
    """Return the columns that differ between the classes with a two-sided p below ``p``."""
    return np.flatnonzero(mann_whitney_p(rows, labels) < p)


def mann_whitney_p(rows: FloatArray, labels: Labels) -> FloatArray:
    """Return the p of each column's Mann-Whitney U test, shape (p,): normal approximation with corrections for ties and continuity."""
    lowest, highest = (rankdata(rows, method=method, axis=0) for method in ("min", "max"))
    n, cases = len(labels), int((labels == 1).sum())
    controls = n - cases
    u = ((lowest + highest) / 2)[labels == 1].sum(axis=0) - cases * (cases + 1) / 2
    ties = ((highest - lowest + 1) ** 2 - 1).sum(axis=0)
    deviation = np.sqrt(cases * controls / 12 * (n + 1 - ties / (n * (n - 1))))
    distance = np.abs(u - cases * controls / 2) - 0.5
    z = np.divide(distance, deviation, out=np.zeros_like(distance), where=deviation > 0)
    return np.asarray(np.minimum(2 * norm.sf(z), 1.0))


def drop_correlated(
    rows: FloatArray, labels: Labels, *, limit: float = 0.9, method: Literal["spearman", "pearson"] = "spearman"
) -> Indices:
    """Return the columns to keep so that no two correlate by more than ``limit`` in size ([OLNM] feature selection).

    Columns are visited from the highest F statistic down, and kept unless one kept before is too close; columns that do not vary go.
    Labels may have several classes.
    """
    varies = np.flatnonzero(fit_scaling(rows).std > 0)
    order = varies[np.argsort(-f_scores(rows, labels)[varies], kind="stable")]
    unit = rankdata(rows[:, order], axis=0) if method == "spearman" else rows[:, order]
    unit = unit - unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=0)
    free, kept = np.ones(len(order), dtype=bool), []
    for column in range(len(order)):
        if free[column]:
            kept.append(column)
            free &= np.abs(unit[:, column] @ unit) <= limit
    return np.sort(order[kept])


def mrmr(rows: FloatArray, labels: Labels, *, k: int, form: Literal["quotient", "difference"] = "quotient") -> Indices:
    """Return ``k`` columns by minimum redundancy and maximum relevance, in the order in which they were chosen.

    Parameters
    ----------
    form : ``quotient``: F statistic over the mean |Pearson r| with those chosen before (Zhao, Anand and Wang 2019, FCQ).
        ``difference``: mutual information with the label less the mean one with those chosen, both -ln(1 - r^2) / 2, as in the R package
        mRMRe (De Jay et al. 2013).
    """
    std = fit_scaling(rows).std
    scaled = np.divide(rows - rows.mean(axis=0), std, out=np.zeros_like(rows), where=std > 0)
    relevance = f_scores(rows, labels) if form == "quotient" else _information((labels - labels.mean()) / labels.std() @ scaled / len(rows))
    redundancy, free = np.zeros(rows.shape[1]), std > 0
    chosen: list[int] = []
    while len(chosen) < k and free.any():
        mean = redundancy / max(len(chosen), 1)
        score = relevance - mean if form == "difference" else relevance / np.maximum(mean, 1e-3)
        best = int(np.argmax(np.where(free, score, -np.inf)))
        chosen.append(best)
        free[best] = False
        r = scaled[:, best] @ scaled / len(rows)
        redundancy += np.abs(r) if form == "quotient" else _information(r)
    return np.array(chosen, dtype=np.intp)


def _information(r: FloatArray) -> FloatArray:
    """Return the mutual information of normal variables with Pearson correlation ``r``, in nats."""
    return np.asarray(-0.5 * np.log1p(-np.minimum(r**2, 1 - 1e-15)))


class LassoPath(NamedTuple):
    """A LASSO-logistic regression at decreasing penalties, the first of which makes every coefficient 0.

    ``penalties`` (steps,) are glmnet's lambda; ``loss`` (steps,) is the mean log loss per row of held-out folds, in nats, with its
    ``standard_error`` (steps,) over the folds; ``coefficients`` (steps, p) are those of the z-scores of all rows. ``minimum`` is the step
    of the lowest loss, ``one_se`` the first step with a loss within one standard error of it, ``fallback`` the column of the highest F.
    """

    penalties: FloatArray
    loss: FloatArray
    standard_error: FloatArray
    coefficients: FloatArray
    minimum: int
    one_se: int
    fallback: int

    def chosen(self, rule: Literal["min", "1se"] = "min") -> Indices:
        """Return the columns with a coefficient at the minimum or at one standard error.

        Where that model is empty, the largest penalty with any coefficient is taken, and at last the fallback: a classifier needs an input.
        """
        for coefficients in self.coefficients[self.minimum if rule == "min" else self.one_se :]:
            if coefficients.any():
                return np.flatnonzero(coefficients)
        return np.array([self.fallback], dtype=np.intp)


def lasso_path(rows: FloatArray, labels: Labels, *, seed: int, folds: int = 5, steps: int = 30) -> LassoPath:
    """Cross-validate a path of penalties ([OLNM], [PLNM] and [LVSI] feature selection), as cv.glmnet does (Friedman et al. 2010).

    Each fold is scaled by its own training rows.

    Raises
    ------
    CohortError
        A class has fewer rows than there are folds.
    """
    scaled = apply_scaling(rows, fit_scaling(rows))
    largest = float(np.abs(scaled.T @ (labels - labels.mean())).max()) / len(labels)
    penalties = max(largest, 1e-12) * np.logspace(0, np.log10(SMALLEST_PENALTY), steps)
    return cross_validate(rows, labels, penalties, split_folds(labels, folds=folds, seed=seed))


def cross_validate(rows: FloatArray, labels: Labels, penalties: FloatArray, folds: Sequence[tuple[Indices, Indices]]) -> LassoPath:
    """Return the path at given penalties and folds, pairs of training and held-out rows."""
    losses = np.empty((len(folds), len(penalties)))
    for i, (train, test) in enumerate(folds):
        scaling = fit_scaling(rows[train])
        inner, outer = apply_scaling(rows[train], scaling), apply_scaling(rows[test], scaling)
        fits = [_fit_lasso(inner, labels[train], penalty) for penalty in penalties]
        probabilities = np.stack([fit.predict_proba(outer)[np.arange(len(test)), labels[test]] for fit in fits])
        losses[i] = -np.log(np.maximum(probabilities, LEAST_PROBABILITY)).mean(axis=1)
    sizes = [len(test) for _, test in folds]
    loss = np.average(losses, axis=0, weights=sizes)
    error = np.sqrt(np.average((losses - loss) ** 2, axis=0, weights=sizes) / (len(folds) - 1))
    scaled = apply_scaling(rows, fit_scaling(rows))
    coefficients = np.stack([_fit_lasso(scaled, labels, penalty).coef_[0] for penalty in penalties])
    return LassoPath(penalties, loss, error, coefficients, *choose_steps(loss, error), int(f_scores(rows, labels).argmax()))


def choose_steps(loss: FloatArray, error: FloatArray) -> tuple[int, int]:
    """Return the step of the lowest loss, and the first one within that step's standard error of it, as cv.glmnet does."""
    minimum = int(loss.argmin())
    return minimum, int(np.argmax(loss <= loss[minimum] + error[minimum]))


def _fit_lasso(rows: FloatArray, labels: Labels, penalty: float) -> LogisticRegression:
    # liblinear penalises the intercept too; a large intercept scaling makes that immaterial.
    model = LogisticRegression(
        l1_ratio=1.0, C=1 / (penalty * len(labels)), solver="liblinear", intercept_scaling=100, tol=1e-4, max_iter=1000, random_state=0
    )
    return model.fit(rows, labels)


def recursive_elimination(rows: FloatArray, labels: Labels, *, keep: int, seed: int) -> Indices:
    """Return the ``keep`` columns left when those with the smallest coefficients are dropped again and again (Guyon et al. 2002).

    The model is a logistic regression with L2 penalty on z-scores; labels may have several classes.
    """
    return np.sort(_elimination(rows, labels, keep=keep, seed=seed)[:keep])


def rank_features(rows: FloatArray, labels: Labels, *, keep: int, seed: int) -> Indices:
    """Return the ``keep`` columns of the best mean rank in forest importance, ANOVA F and recursive elimination.

    [CRFE] feature selection names the three; how they are combined is ours. Labels may have several classes.
    """
    forest = RandomForestClassifier(FOREST_TREES, random_state=seed, n_jobs=1).fit(rows.astype(np.float32), labels)
    eliminated = np.empty(rows.shape[1])
    eliminated[_elimination(rows, labels, keep=1, seed=seed)] = np.arange(rows.shape[1])
    ranks = rankdata(-forest.feature_importances_) + rankdata(-f_scores(rows, labels)) + rankdata(eliminated)
    return np.asarray(np.sort(np.argsort(ranks, kind="stable")[:keep]), dtype=np.intp)


def _elimination(rows: FloatArray, labels: Labels, *, keep: int, seed: int) -> Indices:
    """Return all columns, those left at the end first, then the others from the last dropped to the first."""
    scaled = apply_scaling(rows, fit_scaling(rows))
    left, dropped = np.arange(rows.shape[1]), np.array([], dtype=np.intp)
    while len(left) > keep:
        model = LogisticRegression(C=1.0, max_iter=2000, random_state=seed).fit(scaled[:, left], labels)
        order = np.argsort(-(model.coef_**2).sum(axis=0), kind="stable")
        stay = max(keep, len(left) - max(1, int(ELIMINATED_PER_ROUND * len(left))))
        dropped = np.concatenate([left[order[stay:]], dropped])
        left = left[np.sort(order[:stay])]
    return np.concatenate([left, dropped])
