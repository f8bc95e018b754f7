"""Every family of classifiers learns, repeats itself, and keeps its classes apart."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("xgboost", reason="training needs the [train] extra")

import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from pipelines.errors import CohortError
from pipelines.training.classifiers import FAMILIES

pytestmark = pytest.mark.train


def _planted(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of which columns 0 and 1 tell the classes 4, 6 and 7 apart, the first of them rare."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 6)).astype(np.float32)
    noise = rng.normal(size=(n, 2)) * 0.5
    return rows, np.where(rows[:, 0] + noise[:, 0] > 1.3, 4, np.where(rows[:, 1] + noise[:, 1] > 0.3, 7, 6))


@pytest.mark.parametrize("name", FAMILIES)
def test_family_learns_two_and_three_classes_and_repeats_itself(name: str) -> None:
    family, (rows, labels) = FAMILIES[name], _planted()
    for answers, classes in ((labels, [4, 6, 7]), ((labels == 7).astype(np.int64), [0, 1])):
        fitted = family.fit(rows[:150], answers[:150], family.grid[0], 3)
        p = fitted.predict_proba(rows[150:])
        assert fitted.classes.tolist() == classes
        assert p.shape == (450, len(classes)) and p.dtype == np.float64 and np.abs(p.sum(axis=1) - 1).max() < 1e-6
        assert all(roc_auc_score(answers[150:] == c, p[:, i]) > 0.7 for i, c in enumerate(classes))
        again = family.fit(rows[:150], answers[:150], family.grid[0], 3)
        assert np.array_equal(p, again.predict_proba(rows[150:]))


# Neighbours have no weights, and extremely random trees grow until their leaves are pure, where weights no longer count.
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("KNN", "ExtraTrees")])
def test_balanced_classes_raise_the_rare_one(name: str) -> None:
    rows, labels = _planted()
    rare = (labels == 4).astype(np.int64)
    plain, balanced = (
        FAMILIES[name].fit(rows[:300], rare[:300], FAMILIES[name].grid[-1], 0, balanced=b).predict_proba(rows[300:])[:, 1].mean()
        for b in (False, True)
    )
    assert balanced > plain


def test_support_vectors_equal_those_of_sklearn() -> None:
    rows, labels = _planted(200)
    target = (labels == 7).astype(np.int64)
    for settings in FAMILIES["SVM"].grid:
        found = FAMILIES["SVM"].fit(rows, target, settings, 5).predict_proba(rows)
        folds = StratifiedKFold(5, shuffle=True, random_state=5)
        machine = SVC(C=settings["c"], gamma=1 / (6 * float(rows.var())))  # one width, also for the parts that calibrate
        expected = CalibratedClassifierCV(machine, cv=folds, ensemble=False).fit(rows.astype(np.float64), target)
        assert np.abs(found - expected.predict_proba(rows.astype(np.float64))).max() < 1e-9


def test_perceptron_leaves_torch_as_it_was() -> None:
    rows, labels = _planted(100)
    torch.manual_seed(1)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(1)
    FAMILIES["MLP"].fit(rows, labels, FAMILIES["MLP"].grid[0], 0)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


@pytest.mark.parametrize("name", FAMILIES)
def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(CohortError, match=r"only \[6\]"):
        FAMILIES[name].fit(np.zeros((10, 2), np.float32), np.full(10, 6), FAMILIES[name].grid[0], 0)


@pytest.mark.parametrize("name", ["SVM", "MLP"])
def test_class_of_one_row_is_refused_where_it_must_be_split(name: str) -> None:
    rows = _planted(30)[0]
    with pytest.raises(CohortError, match="a single row"):
        FAMILIES[name].fit(rows, (np.arange(30) == 3).astype(np.int64), FAMILIES[name].grid[0], 0)
