"""Oversampling makes rows of the rare class between its own, and its effect on the prevalence is taken back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("imblearn", reason="training needs the [train] extra")

from sklearn.linear_model import LogisticRegression

from pipelines.errors import CohortError
from pipelines.training.oversample import prior_odds, smote

pytestmark = pytest.mark.train


def test_classes_become_equal_and_new_rows_lie_between_old_ones() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([4, 6, 7], [3, 30, 12])
    rows = rng.normal(size=(45, 4)) + labels[:, None]
    filled, answers = smote(rows, labels, seed=1)
    assert [int((answers == c).sum()) for c in (4, 6, 7)] == [30, 30, 30]
    assert np.array_equal(filled[:45], rows) and np.array_equal(answers[:45], labels)
    few, made = rows[labels == 4], filled[45:][answers[45:] == 4]
    assert (made >= few.min(axis=0)).all() and (made <= few.max(axis=0)).all()
    again = smote(rows, labels, seed=1)[0]
    assert np.array_equal(filled, again) and not np.array_equal(filled, smote(rows, labels, seed=2)[0])


def test_class_of_one_row_is_refused() -> None:
    with pytest.raises(CohortError, match="class 7 has a single row"):
        smote(np.eye(6), np.array([6, 6, 6, 6, 6, 7]), seed=0)


def test_prior_odds_bring_the_mean_probability_back_to_the_prevalence() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.1).astype(np.int64)
    rows = rng.normal(size=(4000, 2)) + labels[:, None]
    filled, answers = smote(rows, labels, seed=0)
    p = LogisticRegression().fit(filled, answers).predict_proba(rows)
    assert p[:, 1].mean() > 0.25
    weighted = p * prior_odds(labels, answers)
    corrected = weighted / weighted.sum(axis=1, keepdims=True)
    assert corrected[:, 1].mean() == pytest.approx(labels.mean(), abs=0.01)
    offset = np.diff(np.log(prior_odds(labels, answers)))[0]
    assert offset == pytest.approx(np.log(labels.mean() / (1 - labels.mean())), abs=1e-9)  # from 1 : 1 after oversampling
