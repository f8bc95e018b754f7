"""Feature selection finds what was planted and drops what repeats it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")

from pipelines.training.select import (
    apply_scaling,
    drop_correlated,
    f_scores,
    fit_scaling,
    lasso_logistic,
    mrmr,
)

pytestmark = pytest.mark.train


def _planted(n: int = 200, p: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose columns 0, 1 and 2 make the label, and the label."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, p))
    return rows, (rows[:, :3].sum(axis=1) * 1.5 + rng.logistic(size=n) > 0).astype(int)


def test_scaling_makes_z_scores_and_keeps_constants_harmless() -> None:
    rows = np.c_[np.arange(5.0), np.full(5, 0.1 + 0.2)]
    scaled = apply_scaling(rows, fit_scaling(rows))
    assert scaled[:, 0].mean() == pytest.approx(0) and scaled[:, 0].std() == pytest.approx(1)
    assert (scaled[:, 1] == 0).all()


def test_f_score_equals_sklearn() -> None:
    from sklearn.feature_selection import f_classif

    rows, labels = _planted()
    assert np.allclose(f_scores(rows, labels), f_classif(rows, labels)[0])


def test_correlation_filter_keeps_the_better_of_two_twins() -> None:
    rows, labels = _planted()
    noisy = rows[:, 0] ** 3 + np.random.default_rng(1).normal(0, 0.01, len(rows))  # same ranks, weaker in the mean
    table = np.c_[noisy, rows, np.ones(len(rows))]
    kept = drop_correlated(table, labels, limit=0.9)
    assert 1 in kept and 0 not in kept
    assert table.shape[1] - 1 not in kept  # a constant tells nothing
    assert {2, 3} <= set(kept.tolist())


def test_correlation_filter_leaves_no_pair_above_the_limit() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    table = np.repeat(rng.normal(size=(80, 6)), 4, axis=1) + rng.normal(0, 0.3, (80, 24))
    kept = drop_correlated(table, rng.integers(0, 2, 80), limit=0.8)
    rho = np.abs(spearmanr(table[:, kept]).statistic) - np.eye(len(kept))
    assert rho.max() <= 0.8 and 6 <= len(kept) < 24


def test_mrmr_takes_relevance_first_and_avoids_copies() -> None:
    rows, labels = _planted()
    best = int(np.argmax(f_scores(rows, labels)))
    copy = rows[:, best] + np.random.default_rng(1).normal(0, 0.05, len(rows))
    chosen = mrmr(np.c_[rows, copy], labels, k=3).tolist()
    assert len(chosen) == 3 and chosen[0] in (best, rows.shape[1])
    assert not {best, rows.shape[1]} <= set(chosen)
    assert len(mrmr(rows[:, :2], labels, k=50)) == 2


def test_lasso_keeps_the_planted_columns() -> None:
    rows, labels = _planted()
    assert {0, 1, 2} <= set(lasso_logistic(rows, labels, seed=0).tolist())


def test_lasso_always_returns_a_column() -> None:
    rng = np.random.default_rng(5)
    assert len(lasso_logistic(rng.normal(size=(60, 30)), rng.integers(0, 2, 60), seed=0)) >= 1
