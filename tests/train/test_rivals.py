"""What a model is compared with: size, clinical values, imaging alone, and features harmonised between sites inside every fold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

import torch

from pipelines.errors import CohortError
from pipelines.features import clinical
from pipelines.recipe import Lasso, Recipe
from pipelines.training.discrimination import area
from pipelines.training.fusion import fit_fusion, judge_fusion
from pipelines.training.nested import Judge, Static, mean_area
from pipelines.training.outcome import Rival
from pipelines.training.rivals import compare_rivals, known_values
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
    assert len(parts) == 10  # the model, with imaging alone, and harmonised; clinical values alone come from the table
    assert parts[:5] == parts[5:]
    assert mean_area(nested, labels) > 0.5


def test_sites_too_few_or_too_small_are_refused() -> None:
    check_sites(["A"] * 30 + ["B"] * 30 + ["C"] * 2)
    for sites in (["A"] * 90, ["A"] * 60 + ["B"] * 29, [""] * 80):
        with pytest.raises(CohortError, match="harmonisation needs two sites with 30 judged patients each, there are: "):
            check_sites(sites)


def _known(labels: Labels, *, informative: bool) -> Table:
    """Return the clinical values of 160 patients: the diameter tells the label or not, the stage is missing once, the age is known."""
    rng = np.random.default_rng(8)
    patients = []
    for i, label in enumerate(labels):
        large = label if informative and rng.random() < 0.9 else rng.random() < 0.5
        stated = {"age_y": int(rng.integers(25, 70)), "max_tumour_diameter_mm": 25 + 20 * int(large) + 10 * rng.random()}
        patients.append(clinical.parse_all(stated | ({"figo_stage": "IB2"} if i else {}), source="test"))
    return known_values(patients)


def test_clinical_model_is_a_rival_where_the_recipe_has_no_clinical_values() -> None:
    table, labels = _cohort(shift=0.0)
    imaging = table.columns(lambda name: name != TOLD)
    judge = Judge(Recipe(), Static(imaging), labels, 0)
    nested = judge.nested(repeats=1)
    areas = {}
    for informative in (True, False):
        known = _known(labels, informative=informative)
        assert known.names == ("CLINICAL:value:age_y", "CLINICAL:value:diameter_class")  # the stage is not known of all
        rivals = {r.name: r for r in compare_rivals(judge, nested, table=imaging, sizes=[1.0] * N, sites=None, known=known)}
        assert list(rivals) == ["size", "clinical"]
        assert rivals["clinical"].words == "clinical values alone (Age, Diameter class (1 to 3)), LightGBM as in [OLNM], nested"
        assert rivals["clinical"].p_holm is not None
        areas[informative] = rivals["clinical"].auc.value
    assert areas[True] > 0.8
    assert areas[False] == pytest.approx(0.5, abs=0.12)


def test_values_that_are_missing_or_constant_make_no_clinical_model() -> None:
    table, labels = _cohort(shift=0.0)
    patients = [clinical.parse_all({"age_y": 40} | ({"figo_stage": "IB1"} if i else {}), source="test") for i in range(N)]
    known = known_values(patients)
    assert known.names == ()
    judge = Judge(Recipe(), Static(table.columns(lambda name: name != TOLD)), labels, 0)
    rivals = compare_rivals(judge, judge.nested(repeats=1), table=judge.embedding.table, sizes=[1.0] * N, sites=None, known=known)  # type: ignore[attr-defined]
    assert [r.name for r in rivals] == ["size"]


def _sequences(*, signal: float) -> tuple[Table, Labels]:
    """Return features of two sequences that tell the label only together: it is the sign of the product of one from each."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal((N, 8))
    labels = (signal * values[:, 0] * values[:, 4] + rng.logistic(size=N) > 0).astype(np.int64)
    names = [f"{role}:{block}:original_x_{i}" for role in ("T1W", "DWI") for block in ("radiomics", "cnn") for i in range(2)]
    return Table(tuple(names), values), labels


def test_transformer_joins_sequences_that_tell_the_label_only_together() -> None:
    for signal, low, high in ((12.0, 0.75, 1.0), (0.0, 0.35, 0.65)):
        table, labels = _sequences(signal=signal)
        logits = judge_fusion(Judge(Recipe(), Static(table), labels, 0))
        assert low < area(logits, labels) < high


def test_transformer_is_judged_in_the_folds_of_the_model_and_only_on_demand() -> None:
    table, labels = _sequences(signal=4.0)
    watched = _Watched(table)
    judge = Judge(Recipe(steps=(Lasso(folds=5),)), watched, labels, 0)
    nested = judge.nested(repeats=1)
    arguments = {"table": table, "sizes": [1.0] * N, "sites": None}
    assert [r.name for r in compare_rivals(judge, nested, **arguments)] == ["size"]
    rivals = {r.name: r for r in compare_rivals(judge, nested, fusion=True, **arguments)}
    assert rivals["transformer"].p_holm is not None and rivals["transformer"].operating_point is None
    parts = [(tuple(train.tolist()), tuple(test.tolist())) for train, test in watched.asked]
    assert len(parts) == 10 and parts[:5] == parts[5:]
    one = table.columns(lambda name: name.startswith("T1W"))
    alone = compare_rivals(judge, nested, fusion=True, **(arguments | {"table": one}))
    assert [r.name for r in alone] == ["size"]  # there is nothing to fuse


def test_fusion_takes_its_features_and_scaling_from_the_training_rows_and_no_clinical_value() -> None:
    table, labels = _sequences(signal=4.0)
    told = Table((*table.names, TOLD), np.column_stack([table.values, 100.0 * labels]))
    state = torch.get_rng_state()
    fitted = [fit_fusion((Lasso(folds=5),), one.rows(np.arange(120)), labels[:120], seed=3) for one in (table, told)]
    assert torch.equal(torch.get_rng_state(), state)
    answers = [fusion.predict(table.rows(np.arange(120, N))) for fusion in fitted]
    assert np.array_equal(*answers)
    assert np.ptp(answers[0]) > 0
    for selection, role in zip(fitted[0].selections, ("T1W", "DWI"), strict=True):
        assert selection.names and all(name.startswith(role) for name in selection.names)
