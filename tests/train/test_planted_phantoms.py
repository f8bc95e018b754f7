"""The recipe of `olnm_mri` on the radiomics of 200 phantoms, with a planted label of known best AUC and with none at all.

The table holds the radiomic features of real extractions (``phantom_features.py`` beside it writes it), in half precision about each
one's mean.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from pipelines.phantoms.cohort import draw_patients
from pipelines.phantoms.planting import LABEL, plantings
from pipelines.systems import catalogue
from pipelines.training.demo import DEMOS
from pipelines.training.discrimination import delong
from pipelines.training.nested import Judge, Static, mean_area
from pipelines.training.select import Labels
from pipelines.training.table import Table
from pipelines.types import FloatArray

pytestmark = [pytest.mark.train, pytest.mark.slow]

SYSTEM, N = "olnm_mri", DEMOS["olnm_mri"].patients
RECIPE = catalogue()[SYSTEM].recipe
FAMILY = ("LR",)
NULLS = 10


class Planted(NamedTuple):
    table: Table
    labels: Labels
    index: FloatArray  # what the labels depend on
    auc: float  # best possible


@cache
def planted() -> Planted:
    """Return the table of :data:`N` phantoms."""
    with np.load(Path(__file__).parent / "data" / "olnm_phantoms.npz", allow_pickle=False) as stored:
        table = Table(tuple(map(str, stored["names"])), stored["values"].astype(np.float64) * stored["std"] + stored["mean"])
        return Planted(table, stored["labels"].astype(np.int64), stored["index"], float(stored["auc"]))


def _redraw(seed: int) -> Labels:
    """Return labels drawn anew from the planted risks, so that one lucky draw proves nothing."""
    (model,) = plantings(SYSTEM, planted().auc).values()
    rng = np.random.default_rng(seed)
    return np.array([rng.random() < model.risk(float(x)) for x in planted().index], dtype=np.int64)


def _judge(labels: Labels, table: Table | None = None) -> Judge:
    return Judge(RECIPE, Static(table or planted().table), labels, seed=5, workers=2)


def test_table_is_that_of_the_paper_and_of_the_planting() -> None:
    table, labels, index, auc = planted()
    assert table.values.shape == (N, 3 * 1198) and labels.shape == index.shape == (N,)
    (model,) = plantings(SYSTEM, planted().auc).values()
    assert auc == DEMOS[SYSTEM].auc, "the demo bundle's phantoms changed: run phantom_features.py"
    assert abs(model.bayes_auc() - auc) < 1e-6
    drawn = draw_patients(SYSTEM, n=N, auc=auc, seed=DEMOS[SYSTEM].seed)
    assert labels.tolist() == [one.label for one in drawn]
    assert index == pytest.approx([one.indices[LABEL] for one in drawn], abs=1e-4)


def test_nested_auc_finds_the_planted_signal_and_does_not_overstate_it() -> None:
    """Radiomics and logistic regression alone, with 160 patients to train on; one drawing of labels may miss the band by luck."""
    found, errors = [], []
    for labels in (planted().labels, _redraw(1), _redraw(2)):
        nested = _judge(labels).nested(repeats=1, families=FAMILY)
        found.append(mean_area(nested, labels))
        errors.append(float(np.sqrt(delong(nested.probabilities[0], labels).variance)))
    assert planted().auc - 0.09 <= np.mean(found) <= planted().auc + 2 * np.mean(errors), found


def test_ten_null_cohorts_have_a_mean_of_one_half() -> None:
    rng = np.random.default_rng(9)
    areas = []
    for _ in range(NULLS):
        labels = rng.permutation(planted().labels)
        areas.append(mean_area(_judge(labels).nested(repeats=1, families=FAMILY), labels))
    error = np.std(areas, ddof=1) / np.sqrt(NULLS)
    assert abs(np.mean(areas) - 0.5) <= 2 * error, areas
