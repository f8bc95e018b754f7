"""Shapley values of a final model on its patients, by the node's own estimator, and how far that is from shap's exact values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.models.classify import logit
from pipelines.models.explain import explain
from pipelines.spec import PipelineSpec
from pipelines.training.intervals import Labels
from pipelines.training.outcome import Beeswarm, ShapCheck
from pipelines.training.recipe import Stage
from pipelines.training.table import Table
from pipelines.types import FloatArray

BACKGROUND = 50  # patients
_PERMUTATIONS = 4
_CHECKED, _EXACT = 5, 8  # patients and features that are compared with shap: exact values need 2 to the power of the features

Predict = Callable[[FloatArray], FloatArray]


def beeswarm_of(stage: Stage, table: Table, labels: Labels, *, spec: PipelineSpec, seed: int) -> Beeswarm:
    """Explain the log-odds of the finding, or of several classes those of the most frequent one, for every patient of ``table``."""
    rows = stage.standardise(stage.selection.take(table))
    background = rows[np.random.default_rng(seed).permutation(len(rows))[:BACKGROUND]]
    target, words = 1, "the finding"
    if stage.calibration is None:
        classes, counts = np.unique(labels, return_counts=True)
        target = int(classes[counts.argmax()])
        words = f"class {target}: " + next(c.code.meaning for c in spec.classes if c.number == target)
    predict = _log_odds(stage, target)
    explained = [explain(predict, row, background=background, permutations=_PERMUTATIONS) for row in rows]
    shapley = np.array([one.values for one in explained])
    return Beeswarm(
        features=stage.selection.names,
        values=tuple(tuple(row.tolist()) for row in rows),
        shapley=tuple(tuple(row) for row in shapley.tolist()),
        base=tuple(one.base for one in explained),
        target=target,
        words=words,
        check=compare_with_shap(predict, rows, background, importance=np.abs(shapley).mean(axis=0)),
    )


def compare_with_shap(predict: Predict, rows: FloatArray, background: FloatArray, *, importance: FloatArray) -> ShapCheck:
    """Compare the node's values with those of shap's exact explainer, in log-odds, whatever the classifier.

    Exact values need every subset of features, so the most important ones are compared, with the others held at the patient's own values.
    """
    import shap  # of the training extra, and slow to import

    some = np.sort(np.argsort(-importance, kind="stable")[:_EXACT])
    differences, errors = [], []
    for row in rows[np.linspace(0, len(rows) - 1, min(_CHECKED, len(rows))).astype(int)]:

        def held(values: FloatArray, row: FloatArray = row) -> FloatArray:
            whole = np.repeat(row[None], len(values), axis=0)
            whole[:, some] = values
            return predict(whole)

        exact = shap.explainers.Exact(held, shap.maskers.Independent(background[:, some], max_samples=len(background)))
        own = explain(held, row[some], background=background[:, some])
        differences.append(np.abs(exact(row[None, some], silent=True).values[0] - own.values).max())
        errors.append(own.standard_errors.max())
    return ShapCheck(shap.__version__, len(differences), len(some), float(max(differences)), float(max(errors)))


def _log_odds(stage: Stage, target: int) -> Predict:
    """Return the function of standardised rows (n, k) that is explained: log-odds (n,) of the finding or of one class, as served."""

    def predict(rows: FloatArray) -> FloatArray:
        if stage.calibration is not None:
            return stage.calibration.a * stage.log_odds(rows) + stage.calibration.b
        return logit(stage.shares(rows)[:, stage.classes.index(target)])

    return predict
