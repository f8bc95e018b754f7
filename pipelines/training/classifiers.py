"""The classifiers that the papers compare, behind one face: fit on standardised float32 rows, probabilities in float64.

All are deterministic for a seed, use one thread, and take any two or more integer classes. Where a paper prints a setting it is in the
grid, marked with its source; everything else is ours, and small because cohorts are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from xgboost import XGBClassifier

from pipelines.errors import CohortError
from pipelines.training.perceptron import fit_perceptron
from pipelines.training.select import Labels
from pipelines.training.support_vectors import fit_support_vectors
from pipelines.types import FloatArray

Float32Array = NDArray[np.float32]
Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted classifier. ``model`` is the library's, on classes 0 to k - 1 that stand for ``classes`` in order."""

    family: str
    model: Any
    classes: Labels

    def predict_proba(self, rows: Float32Array) -> FloatArray:
        """Return probabilities (n, classes) of standardised rows (n, p)."""
        return np.asarray(self.model.predict_proba(rows), dtype=np.float64)


@dataclass(frozen=True)
class Family:
    """A kind of classifier and the settings among which cross-validation chooses.

    ``learn(rows, codes, weights, settings, seed)`` returns the library's fitted model.
    """

    name: str
    grid: tuple[Settings, ...]
    learn: Callable[[Float32Array, Labels, FloatArray, Settings, int], Any]

    def fit(self, rows: Float32Array, labels: Labels, settings: Settings, seed: int, *, balanced: bool = False) -> Fitted:
        """Fit on rows (n, p) and labels (n,).

        Parameters
        ----------
        balanced : weigh rows so that classes count alike; nearest neighbours have no weights.

        Raises
        ------
        CohortError
            Fewer than two classes, or too few rows of one.
        """
        classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if len(classes) < 2:
            raise CohortError(f"a classifier needs two classes, the training part has only {classes.tolist()}")
        weights = (len(labels) / (len(classes) * counts))[codes] if balanced else np.ones(len(labels))
        return Fitted(self.name, self.learn(rows, codes, weights, settings, seed), classes)


def _logistic(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return LogisticRegression(max_iter=2000, random_state=seed, **settings).fit(rows, codes, sample_weight=weights)


def _support_vectors(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return fit_support_vectors(rows, codes, weights, seed=seed, **settings)


def _neighbours(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return KNeighborsClassifier(n_jobs=1, algorithm="brute", **settings).fit(rows, codes)


def _forest(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return RandomForestClassifier(n_jobs=1, random_state=seed, **settings).fit(rows, codes, sample_weight=weights)


def _extra_trees(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return ExtraTreesClassifier(n_jobs=1, random_state=seed, **settings).fit(rows, codes, sample_weight=weights)


def _gradient_boosting(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return GradientBoostingClassifier(random_state=seed, **settings).fit(rows, codes, sample_weight=weights)


def _xgboost(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return XGBClassifier(n_jobs=1, random_state=seed, tree_method="hist", **settings).fit(rows, codes, sample_weight=weights)


def _lightgbm(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    model = LGBMClassifier(
        learning_rate=0.05, reg_lambda=1.0, random_state=seed, deterministic=True, force_row_wise=True, n_jobs=1, verbose=-1, **settings
    )
    return model.fit(rows, codes, sample_weight=weights)


def _perceptron(rows: Float32Array, codes: Labels, weights: FloatArray, settings: Settings, seed: int) -> Any:
    return fit_perceptron(rows, codes, weights, seed=seed, **settings)


def _grid(**values: tuple[Any, ...]) -> tuple[Settings, ...]:
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


_ALL = (
    Family("LR", _grid(C=(0.01, 0.1, 1.0, 10.0)), _logistic),  # L2: [PLNM]
    Family("SVM", _grid(c=(1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)), _support_vectors),  # [LVSI]
    Family("KNN", _grid(n_neighbors=(5,)), _neighbours),  # [PLNM]
    # [CRFE] tries 50 to 300 trees, [PLNM] 100; depths of 20 and 30, which [CRFE] tries too, are not reached on cohorts of this size.
    Family("RF", _grid(n_estimators=(100,), max_depth=(None, 10), min_samples_split=(2, 5, 10)), _forest),
    Family("ExtraTrees", _grid(n_estimators=(50,)), _extra_trees),  # [PLNM]
    Family("GB", _grid(n_estimators=(50, 150), max_depth=(1, 3), learning_rate=(0.05,), subsample=(0.8,)), _gradient_boosting),
    Family("XGBoost", _grid(max_depth=(2, 6), n_estimators=(50, 100), learning_rate=(0.1,)), _xgboost),  # depth of 6: [PLNM]
    Family(
        "LightGBM",
        (
            *_grid(num_leaves=(2, 4), n_estimators=(40, 120), min_child_samples=(5, 10)),
            *_grid(num_leaves=(31,), n_estimators=(100,), min_child_samples=(20,)),  # leaves: [PLNM]
        ),
        _lightgbm,
    ),
    Family("MLP", _grid(hidden=((32, 16), (64, 32))), _perceptron),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}
