"""What a model is compared with: size, clinical values, imaging alone, and features harmonised between sites inside every fold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from pipelines.errors import CohortError
from pipelines.recipe import Recipe
from pipelines.training.nested import Judge, Static, mean_area
from pipelines.training.outcome import Rival
from pipelines.training.rivals import compare_rivals
from pipelines.training.select import Labels
from pipelines.training.site_effect import Harmonised, check_sites
from pipelines.training.table import Rows, Table

pytestmark = pytest.mark.train

N = 160
SITES = ["A" if i % 2 else "B" for i in range(N)]
TOLD = "CLINICAL:value:max_tumour_diameter_mm"


def _cohort(*, shift: float) -> tuple[Table, Labels]:
    """Return ten features of which three tell the label, all moved and stretched at site B, and a clinical value that tells it too."""
    rng = np.random.default_rng(4)
    labels = (rng.random(N) < 0.4).astype(np.int64)
    values = rng.standard_normal((N, 10))
    values[:, :3] += 0.8 * labels[:, None]
    of_b = np.array(SITES) == "B"
    values[of_b] = values[of_b] * (1 + shift / 8) + shift
    told = 30 + 9 * labels + 10 * rng.standard_normal(N)
    names = (*(f"T2W:radiomics:original_x_{i}" for i in range(10)), TOLD)
    return Table(names, np.column_stack([values, told])), labels


def _rivals(table: Table, labels: Labels, *, sites: list[str] | None) -> dict[str, Rival]:
    judge = Judge(Recipe(nomogram=("max_tumour_diameter_mm",)), Static(table), labels, 0)
    sizes = np.random.default_rng(1).random(N).tolist()
    return {r.name: r for r in compare_rivals(judge, judge.nested(repeats=1), table=table, sizes=sizes, sites=sites)}


def test_each_rival_is_judged_on_its_own_features() -> None:
    table, labels = _cohort(shift=0.0)
    rivals = _rivals(table, labels, sites=None)
    assert list(rivals) == ["size", "clinical", "imaging"]
    assert rivals["size"].auc.value == pytest.approx(0.5, abs=0.12)
    assert 0.6 < rivals["clinical"].auc.value < 0.85
    assert 0.6 < rivals["imaging"].auc.value < 0.9
    assert rivals["size"].operating_point is None
    point = rivals["imaging"].operating_point
    assert point is not None
    assert point.tp + point.fn == labels.sum()
    p, adjusted = (
        np.array([value for value in values if value is not None])
        for values in zip(*((r.comparison.p, r.p_holm) for r in rivals.values()), strict=True)
    )
    assert (adjusted >= p).all()


def test_harmonised_features_help_where_scanners_differ_and_change_little_where_not() -> None:
    shifted, labels = _cohort(shift=4.0)
    apart = _rivals(shifted, labels, sites=SITES)["combat"]
    assert apart.comparison.difference < -0.05  # the model as it is, less the harmonised one
    same, labels = _cohort(shift=0.0)
    assert abs(_rivals(same, labels, sites=SITES)["combat"].comparison.difference) < 0.05


@dataclass
class _Watched:
    """Passes on a table and keeps what it was asked for."""

    table: Table
    asked: list[tuple[Rows, Rows]] = field(default_factory=list)

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        self.asked.append((train, test))
        return self.table.rows(train), self.table.rows(test)


def test_harmonisation_learns_from_the_training_part_alone_and_leaves_clinical_values() -> None:
    table, labels = _cohort(shift=4.0)
    train, test = np.arange(0, 120), np.arange(120, N)
    inner, outer = Harmonised(Static(table), SITES).split(train, test, labels)
    other = table.values.copy()
    other[120:] += 50.0
    again, moved = Harmonised(Static(Table(table.names, other)), SITES).split(train, test, 1 - labels)
    assert np.array_equal(inner.values, again.values)  # neither test rows nor labels
    assert not np.array_equal(outer.values, moved.values)
    assert np.array_equal(inner.take([TOLD]), table.rows(train).take([TOLD]))
    of_b = np.array(SITES)[train] == "B"
    first = inner.take(table.names[:10])
    assert np.abs(first[of_b].mean(axis=0) - first[~of_b].mean(axis=0)).max() < 0.5
    raw = table.rows(train).take(table.names[:10])
    assert np.abs(raw[of_b].mean(axis=0) - raw[~of_b].mean(axis=0)).min() > 2.0


def test_patients_of_an_unseen_or_small_site_stay_as_they_are() -> None:
    table, labels = _cohort(shift=2.0)
    sites = [*SITES[:120], *["C"] * 5, *SITES[125:150], *["D"] * 10]
    train, test = np.arange(0, 150), np.arange(150, N)  # five of C to train on, all of D to judge
    inner, outer = Harmonised(Static(table), sites).split(train, test, labels)
    assert np.array_equal(outer.values, table.values[150:])
    assert np.array_equal(inner.values[120:125], table.values[120:125])
    assert not np.array_equal(inner.values[:120], table.values[:120])


def test_harmonised_recipe_is_judged_in_the_same_folds() -> None:
    table, labels = _cohort(shift=1.0)
    watched = _Watched(table)
    judge = Judge(Recipe(nomogram=("max_tumour_diameter_mm",)), watched, labels, 0)
    nested = judge.nested(repeats=1)
    compare_rivals(judge, nested, table=table, sizes=[1.0] * N, sites=SITES)
    parts = [tuple(test.tolist()) for _, test in watched.asked]
    assert len(parts) == 15  # the model, imaging alone and harmonised; clinical values alone come from the table
    assert parts[:5] == parts[5:10] == parts[10:]
    assert mean_area(nested, labels) > 0.5


def test_sites_too_few_or_too_small_are_refused() -> None:
    check_sites(["A"] * 30 + ["B"] * 30 + ["C"] * 2)
    for sites in (["A"] * 90, ["A"] * 60 + ["B"] * 29, [""] * 80):
        with pytest.raises(CohortError, match="harmonisation needs two sites with 30 judged patients each, there are: "):
            check_sites(sites)
