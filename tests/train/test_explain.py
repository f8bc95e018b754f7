"""Shapley values of exported graphs equal those of shap's exact explainers, in log-odds, within their own standard error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("shap", reason="training needs the [train] extra")

import shap

from pipelines.models.classify import logit
from pipelines.models.explain import explain
from pipelines.models.session import open_session
from pipelines.training.classifiers import FAMILIES, Fitted
from pipelines.training.export import export_classifier

pytestmark = pytest.mark.train

Predict = Callable[[np.ndarray], np.ndarray]


def _exported(name: str, folder: Path) -> tuple[Fitted, Predict, np.ndarray]:
    """Return a classifier on six features that interact, its graph's log-odds, and rows in float32 steps."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(160, 6)).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] + 0.5 * rows[:, 3] + rng.logistic(size=160) * 0.7 > 0).astype(np.int64)
    fitted = FAMILIES[name].fit(rows, labels, FAMILIES[name].grid[0], 0)
    export_classifier(fitted, folder / "c.onnx", rows)
    session = open_session(folder / "c.onnx")

    def predict(given: np.ndarray) -> np.ndarray:
        return logit(session.run(["probabilities"], {"rows": given.astype(np.float32)})[0][:, 1].astype(np.float64))

    return fitted, predict, rows.astype(np.float64)


def _assert_equal_within_errors(predict: Predict, rows: np.ndarray, background: np.ndarray, exact: np.ndarray, rounding: float) -> None:
    """Compare the values of rows (n, p) with exact ones (n, p); ``rounding`` is what the graph's float32 adds."""
    distances = []
    for row, expected in zip(rows, exact, strict=True):
        found = explain(predict, row, background=background)
        assert abs(found.base + found.values.sum() - predict(row[None])[0]) <= 1e-12
        assert found.base == pytest.approx(predict(background).mean(), abs=rounding)
        distances.append((np.abs(found.values - expected) - rounding).clip(0) / np.maximum(found.standard_errors, 1e-12))
    assert np.max(distances) < 4.5 and np.sqrt(np.mean(np.square(distances))) < 1.3  # of values and errors from 20 pairs of walks


def test_linear_model_is_explained_exactly(tmp_path: Path) -> None:
    fitted, predict, rows = _exported("LR", tmp_path)
    background = rows[:50]
    coefficients, intercept = fitted.model.coef_[0].astype(np.float64), fitted.model.intercept_[0]
    for row in rows[100:105]:
        exact = coefficients * (row - background.mean(axis=0))
        found = explain(lambda given: given @ coefficients + intercept, row, background=background)
        assert found.values == pytest.approx(exact, abs=1e-12) and found.standard_errors.max() < 1e-12
        assert explain(predict, row, background=background).values == pytest.approx(exact, abs=2e-5)  # float32 probabilities


@pytest.mark.parametrize("name", ["LightGBM", "XGBoost", "GB"])
def test_boosted_trees_equal_interventional_tree_shap(tmp_path: Path, name: str) -> None:
    fitted, predict, rows = _exported(name, tmp_path)
    tree = shap.TreeExplainer(fitted.model, rows[:50], feature_perturbation="interventional", model_output="raw")
    exact = np.asarray(tree.shap_values(rows[100:110]))
    _assert_equal_within_errors(predict, rows[100:110], rows[:50], exact, 2e-5)


@pytest.mark.parametrize("name", ["SVM", "MLP", "KNN", "RF", "ExtraTrees"])
def test_other_models_equal_shap_over_all_coalitions(tmp_path: Path, name: str) -> None:
    _, predict, rows = _exported(name, tmp_path)
    background = rows[:20]
    exact = shap.explainers.ExactExplainer(predict, shap.maskers.Independent(background, max_samples=20))(rows[100:105]).values
    _assert_equal_within_errors(predict, rows[100:105], background, exact, 2e-5)
