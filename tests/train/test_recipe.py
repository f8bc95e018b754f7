"""Recipes on planted tables: what they find, what they do not find, and that cheating is noticed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from scipy.special import expit

from pipelines.decide import SCORE
from pipelines.errors import CohortError
from pipelines.models.classify import logit
from pipelines.models.explain import explain
from pipelines.models.manifest import LIE_DETECTOR
from pipelines.phantoms.planting import plant
from pipelines.recipe import Decorrelate, Lasso, MannWhitney, Mrmr, Pca, Rank, Recipe, Rfe
from pipelines.systems import catalogue
from pipelines.training import select
from pipelines.training.agreement import selection_stability
from pipelines.training.cohort import CohortRow
from pipelines.training.coverage import held_truth
from pipelines.training.discrimination import area, delong
from pipelines.training.extract import ExtractedFile
from pipelines.training.findings import Found
from pipelines.training.lie_detector import area_of_prevalence, detect, deviation_by_chance
from pipelines.training.nested import Judge, Static, mean_area
from pipelines.training.oversample import smote
from pipelines.training.plan import Plan
from pipelines.training.platt import class_conformal_rule
from pipelines.training.recipe import Linear, choose_features, fit
from pipelines.training.select import Labels
from pipelines.training.selected import stability_of
from pipelines.training.table import Rows, Table

pytestmark = pytest.mark.train

BAYES = 0.85
LATENTS = np.array([0.7, 0.5, 0.5])
RECIPE = Recipe(steps=(MannWhitney(0.05), Decorrelate(0.9)), classifiers=("LR",))
WITH_LASSO = replace(RECIPE, steps=(*RECIPE.steps, Lasso(folds=5)))


def planted(
    n: int = 200, *, auc: float = BAYES, seed: int = 0, noise: float = 0.35, nuisance: int = 80, drop: tuple[int, ...] = ()
) -> tuple[Table, Labels]:
    """Return features that measure three latents with some noise, each twice, among others that measure nothing."""
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((n, 3))
    index = latents @ (LATENTS / np.linalg.norm(LATENTS))
    model = plant(auc, 0.35)
    labels = (rng.random(n) < expit(model.intercept + model.slope * index)).astype(np.int64)
    names, columns = [], []
    for k in (k for k in range(3) if k not in drop):
        for twin in range(2):
            names.append(f"T2W:radiomics:original_latent_{k}{twin}")
            columns.append(np.exp(0.5 * (latents[:, k] + noise * rng.standard_normal(n))))
    common = rng.standard_normal((n, 8))
    for k in range(nuisance):
        names.append(f"ADC:radiomics:original_nuisance_{k}")
        columns.append(common @ rng.standard_normal(8) + rng.standard_normal(n))
    return Table(tuple(names), np.column_stack(columns)), labels


def judged(table: Table, labels: Labels, recipe: Recipe = RECIPE, *, seed: int = 0) -> float:
    return mean_area(Judge(recipe, Static(table), labels, seed).nested(repeats=1), labels)


def test_nested_auc_is_between_what_can_be_found_and_what_is_there() -> None:
    areas, errors = [], []
    for seed in range(3):
        table, labels = planted(seed=seed, noise=0.2)
        nested = Judge(WITH_LASSO, Static(table), labels, seed).nested(repeats=1)
        areas.append(mean_area(nested, labels))
        errors.append(delong(nested.probabilities[0], labels).variance)
    assert BAYES - 0.09 <= np.mean(areas) <= BAYES + 2 * np.sqrt(np.sum(errors)) / 3


def test_ten_null_cohorts_give_one_half_on_average() -> None:
    """Or as low as knowing nothing but how common the label is in each fold's training patients."""
    cohorts = [planted(auc=0.5, seed=seed) for seed in range(10)]
    areas = np.array([judged(*cohort, seed=seed) for seed, cohort in enumerate(cohorts)])
    least = np.mean([area_of_prevalence(labels, seed=seed + 1) for seed, (_, labels) in enumerate(cohorts)])
    error = areas.std(ddof=1) / np.sqrt(len(areas))
    assert least - 2 * error <= areas.mean() <= 0.5 + 2 * error, (areas, least)


def test_loss_of_a_planted_latent_costs_auc() -> None:
    whole = judged(*planted(n=300))
    assert judged(*planted(n=300, drop=(0,))) < whole - 0.03


@dataclass(frozen=True)
class SelectedBeforeTheSplit(Static):
    """What an often copied template does: the features that differ between the classes are chosen on all patients."""

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        kept = self.table.at(select.mann_whitney(self.table.values, labels, p=0.05))
        return kept.rows(train), kept.rows(test)


@pytest.mark.parametrize("leaky", [False, True])
def test_lie_detector_catches_selection_before_the_split(leaky: bool) -> None:
    table, labels = planted(n=120, nuisance=400)
    embedding = SelectedBeforeTheSplit(table) if leaky else Static(table)
    found = detect(Judge(RECIPE, embedding, labels, 0).permuted(8), chance=deviation_by_chance(labels))
    assert found is not None
    assert found.valid is not leaky, found.words


def test_two_shufflings_are_enough_to_catch_a_gross_lie() -> None:
    labels = np.repeat([0, 1], [82, 58])  # as in a demo bundle
    chance = deviation_by_chance(labels)
    for areas, valid in (([0.45, 0.52], True), ([0.66, 0.71], False), ([0.28, 0.31], False)):
        found = detect(np.array(areas), chance=chance)
        assert found is not None and found.valid is valid, found
    assert detect(np.array([0.9]), chance=chance) is None


def test_lie_detector_does_not_take_luck_for_a_lie() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([4] * 22 + [6] * 74 + [7] * 14)
    chance = deviation_by_chance(labels)
    scores = rng.standard_normal((4000, 110))
    binary = np.array([area(s, (labels == 6).astype(np.int64)) for s in scores])
    assert binary.std() == pytest.approx(deviation_by_chance((labels == 6).astype(np.int64)), rel=0.05)
    lucky = np.array([0.523, 0.541, 0.526, 0.536])  # close to one another, and one standard error above 0.5
    alone, judged_by_chance = detect(lucky, chance=1e-9), detect(lucky, chance=chance)
    assert alone is not None and not alone.valid
    assert judged_by_chance is not None and judged_by_chance.valid
    wrong = sum(not found.valid for part in binary.reshape(-1, 5) if (found := detect(part, chance=binary.std())))
    assert wrong <= 0.05 * 800


def test_lie_detector_takes_pessimism_for_what_the_folds_explain_and_no_more() -> None:
    labels = np.array([1] * 13 + [0] * 34)
    explained, chance = area_of_prevalence(labels, seed=1), deviation_by_chance(labels)
    assert 0.4 < explained < 0.47
    assert area_of_prevalence(np.array([1] * 50 + [0] * 100), seed=1) == 0.5  # the same share in every fold
    honest = detect(np.full(20, explained - 0.01), chance=chance, explained=explained)
    assert honest is not None and honest.valid
    for areas in (np.full(20, explained - 0.06), np.full(20, 0.56)):
        found = detect(areas, chance=chance, explained=explained)
        assert found is not None and not found.valid
    below = detect(np.full(20, 0.444), chance=deviation_by_chance(np.repeat([0, 1], 150)))
    assert below is not None and not below.valid
    assert "the wrong way round" in below.words


def test_two_shufflings_go_through_every_classifier() -> None:
    table, labels = planted(n=80, nuisance=3)
    judge = Judge(replace(RECIPE, classifiers=("KNN", "LR")), Static(table), labels, 0)
    areas, first = judge.permuted(3), replace(judge, recipe=replace(RECIPE, classifiers=("KNN",))).permuted(3)
    assert (areas != first).tolist() == [True, True, False]


def test_lie_detector_catches_oversampling_before_the_split() -> None:
    table, labels = planted(n=150, nuisance=60)
    rng = np.random.default_rng(5)
    areas = []
    for i in range(6):
        values, filled = smote(table.values, rng.permutation(labels), seed=i)
        areas.append(judged(Table(table.names, values), filled, replace(RECIPE, steps=(), classifiers=("KNN",)), seed=i))
    found = detect(np.array(areas), chance=deviation_by_chance(labels))
    assert found is not None
    assert not found.valid, found.words


def test_apparent_auc_is_above_the_nested_one() -> None:
    table, labels = planted(n=120, nuisance=300)
    system = fit(RECIPE, table, labels, seed=0)
    assert area(system.predict(table), labels) > judged(table, labels)


def test_logistic_regression_is_a_formula_that_never_saturates_and_is_explained_exactly() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(120) % 2
    table = Table(tuple(f"T2W:radiomics:original_{i}" for i in range(4)), 3.0 * labels[:, None] + rng.standard_normal((120, 4)))
    stage = fit(replace(RECIPE, steps=(), classifiers=("LR",)), table, labels, seed=0).decision
    assert isinstance(stage.model, Linear)
    rows = 5 * stage.standardise(stage.selection.take(table))  # far out: float32 probabilities end at 0 and 1
    assert np.abs(stage.log_odds(rows)).max() > 20
    found = explain(stage.log_odds, rows[0], background=rows[:50])
    assert found.values == pytest.approx(stage.model.coefficients * (rows[0] - rows[:50].mean(axis=0)), abs=1e-10)
    assert found.standard_errors.max() < 1e-10


def test_oversampling_two_classes_leaves_probabilities_at_their_prevalence() -> None:
    table, labels = planted(n=300, nuisance=3)
    rare = np.concatenate([np.flatnonzero(labels == 0)[:150], np.flatnonzero(labels == 1)[:30]])
    system = fit(replace(RECIPE, steps=(), classifiers=("LR",), smote=True), table.rows(rare), labels[rare], seed=0)
    assert system.predict(table.rows(rare)).mean() == pytest.approx(labels[rare].mean(), abs=0.04)


def test_same_seed_gives_the_same_system() -> None:
    table, labels = planted(n=120)
    first, second = (fit(RECIPE, table, labels, seed=3) for _ in range(2))
    assert first.decision.selection.names == second.decision.selection.names
    assert np.array_equal(first.predict(table), second.predict(table))


def test_steps_work_on_their_block_and_projections_are_of_training_rows_only() -> None:
    table, labels = planted(n=150, nuisance=20)
    rng = np.random.default_rng(0)
    deep = Table(tuple(f"T2W:cnn:{i}" for i in range(30)), rng.standard_normal((150, 30)))
    both = table.join(deep)
    steps = (Lasso(folds=5, on="radiomics"), Pca(8), Rfe(6))
    selection = choose_features(steps, both.rows(np.arange(100)), labels[:100], seed=0)
    assert len(selection.names) == 6
    assert all(":radiomics:" in n or ":pca:" in n for n in selection.names)
    projection = selection.projections["T2W"]
    assert np.allclose(projection.mean, deep.values[:100].mean(axis=0))
    again = choose_features(steps, both.rows(np.arange(100)), labels[:100], seed=0).take(both.rows(np.arange(100, 150)))
    assert again.shape == (50, 6)


def test_mrmr_keeps_so_many_of_each_sequence() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    names = tuple(f"{role}:cnn:{i}" for role in ("T1W", "DWI") for i in range(20))
    chosen = choose_features((Mrmr(5),), Table(names, rng.standard_normal((80, 40))), labels, seed=0).names
    assert [sum(n.startswith(role) for n in chosen) for role in ("T1W", "DWI")] == [5, 5]


def test_nomogram_joins_clinical_values_and_serves_without_them() -> None:
    table, labels = planted(n=250, nuisance=10)
    rng = np.random.default_rng(1)
    told = Table(("CLINICAL:value:max_tumour_diameter_mm",), (30 + 8 * labels + 8 * rng.standard_normal(250))[:, None])
    recipe = replace(RECIPE, nomogram=("max_tumour_diameter_mm",))
    system = fit(recipe, table.join(told), labels, seed=0)
    assert system.decision.selection.names == (SCORE, *told.names)
    assert system.imaging_only is system.score
    joined, alone = (area(p, labels) for p in (system.predict(table.join(told)), system.score.predict(table)))  # type: ignore[union-attr]
    assert joined > alone
    missing = table.join(Table(told.names, np.where(np.arange(250) < 3, np.nan, told.values[:, 0])[:, None]))
    with pytest.raises(CohortError, match="max_tumour_diameter_mm of every patient"):
        fit(recipe, missing, labels, seed=0)


def test_joint_network_answer_is_the_decision_and_its_own_is_imaging_only() -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random(150) < 0.4).astype(np.int64)
    dl, h = labels + rng.standard_normal(150), 2 * labels + rng.standard_normal(150)
    names = ("CE_T1W:cnn:dl", "CE_T1W:cnn:h0", "CE_T1W:cnn:h1", "CE_T1W:cnn:h")
    table = Table(names, np.column_stack([dl, h - 1, h + 1, h]))
    system = fit(Recipe(classifiers=("LR",), nomogram=("node_positive",)), table.join(_status(150)), labels, seed=0)
    assert system.decision.selection.names == ("CE_T1W:cnn:h",)
    assert system.imaging_only is not None
    assert system.imaging_only.selection.names == ("CE_T1W:cnn:dl",)


def _status(n: int) -> Table:
    return Table(("CLINICAL:value:node_positive",), np.zeros((n, 1)))


def test_several_classes_get_probabilities_at_their_own_prevalence() -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice([4, 6, 7], size=300, p=[0.2, 0.6, 0.2])
    values = rng.standard_normal((300, 12))
    for k, number in enumerate((4, 6, 7)):
        values[labels == number, k] += 2.0
    table = Table(tuple(f"T2W:radiomics:original_x_{i}" for i in range(12)), values)
    system = fit(Recipe(steps=(Rank(6),), classifiers=("LR",), smote=True), table, labels, seed=0)
    probabilities = system.predict(table)
    assert system.decision.classes == (4, 6, 7)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert probabilities.mean(axis=0) == pytest.approx([0.2, 0.6, 0.2], abs=0.06)


def test_selection_tells_what_it_could_have_chosen_and_what_its_lasso_saw() -> None:
    table, labels = planted(nuisance=20)
    rng = np.random.default_rng(0)
    deep = Table(tuple(f"T2W:cnn:{i}" for i in range(30)), rng.standard_normal((len(labels), 30)))
    steps = (MannWhitney(0.05, on="radiomics"), Pca(4), Lasso(folds=5))
    selection = choose_features(steps, table.join(deep), labels, seed=0)
    assert set(selection.candidates) == {*table.names, *(f"T2W:pca:{i}" for i in range(4))}
    assert set(selection.names) <= set(selection.on_path) < set(selection.candidates)
    assert selection.path is not None
    assert selection.path.coefficients.shape[1] == len(selection.on_path)
    assert {selection.on_path[i] for i in selection.path.chosen()} == set(selection.names)


def test_stability_counts_features_that_no_fold_chose() -> None:
    table, labels = planted()
    nested = Judge(WITH_LASSO, Static(table), labels, 0).nested(repeats=2)
    stage = fit(WITH_LASSO, table, labels, seed=0).decision
    every = sorted({name for names in nested.selected for name in names})
    found = stability_of(nested, stage)
    assert found is not None
    padded = np.array([[name in names for name in table.names] for names in nested.selected])
    assert len(every) < len(table.names)
    assert found.value == pytest.approx(selection_stability(padded).value)
    assert found.value > selection_stability(padded[:, padded.any(axis=0)]).value


def _found(recipe: Recipe, table: Table, labels: Labels, *, system: str, permuted: list[float], files: list[ExtractedFile]) -> Found:
    judge, fitted = Judge(recipe, Static(table), labels, 0), fit(recipe, table, labels, seed=0)
    nested = judge.nested(repeats=1)
    answers = nested.probabilities[0], fitted.predict(table), np.array(permuted)
    rows = [CohortRow(i, f"P{i}", Path("x"), None, int(y), "") for i, y in enumerate(labels)]
    return Found(
        judge, fitted, table, rows, [files[i % len(files)] for i in range(len(rows))], catalogue()[system], Plan(), nested, *answers, {}, {}
    )


def test_bundle_records_what_the_lie_detector_found(tmp_path: Path) -> None:
    files = [ExtractedFile(tmp_path / f"{i}.npz") for i in range(7)]
    for i, file in enumerate(files):
        np.savez(file.path, size=np.array(3.0 + i))
    rng = np.random.default_rng(3)
    types = rng.choice([4, 6, 7], size=120)
    shifted = Table(("T2W:x:a", "T2W:x:b"), rng.standard_normal((120, 2)) + types[:, None])
    for (table, labels), system in ((planted(n=120, nuisance=5), "olnm_mri"), ((shifted, types), "histotype_mri")):
        recipe = Recipe(classifiers=("LR",))
        for permuted, valid in (([0.5, 0.47, 0.52], 1.0), ([0.71, 0.74, 0.69], 0.0)):
            found = _found(recipe, table, labels, system=system, permuted=permuted, files=files)
            assert found.metrics[LIE_DETECTOR] == valid
            assert found.metrics["permuted_auc"] == pytest.approx(np.mean(permuted))
        assert LIE_DETECTOR not in _found(recipe, table, labels, system=system, permuted=[], files=files).metrics


def test_calibrated_interval_and_conformal_sets_hold_what_they_promise() -> None:
    table, labels = planted(n=400)
    nested = Judge(RECIPE, Static(table), labels, 0).nested(repeats=1)
    covered = nested.plausible[0][np.arange(400), labels]
    for kind in (0, 1):
        assert covered[labels == kind].mean() >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / (labels == kind).sum())


def test_conformal_sets_of_several_classes_cover_each_and_exclude_some() -> None:
    rng = np.random.default_rng(8)
    labels = rng.choice([4, 6, 7], size=450, p=[0.2, 0.5, 0.3])
    table = Table(("T2W:x:a", "T2W:x:b"), rng.standard_normal((450, 2)) + 1.2 * (labels[:, None] == [4, 7]))
    plausible = Judge(Recipe(classifiers=("LR",)), Static(table), labels, 0).nested(repeats=1).plausible
    held = held_truth(plausible, labels)[0]
    for kind in (4, 6, 7):
        assert held[labels == kind].mean() >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / (labels == kind).sum())
    assert plausible.sum(axis=2).min() >= 1
    assert plausible.sum(axis=2).mean() < 2.7


def test_class_of_few_patients_is_never_excluded() -> None:
    labels = np.repeat([0, 1, 2], [8, 30, 30])
    probabilities = np.random.default_rng(1).dirichlet([2, 2, 2], 68)
    rule = class_conformal_rule(probabilities, labels, classes=np.array([0, 1, 2]), coverage=0.9)
    assert rule.plausible_from[0] == 0.0
    assert min(rule.plausible_from[1:]) > 0.0
    assert rule.holds(probabilities)[:, 0].all()


def test_every_printed_classifier_is_asked_about_the_same_test_part() -> None:
    table, labels = planted(n=150)
    several = replace(RECIPE, classifiers=("LR", "KNN", "SVM"))
    answers = Judge(several, Static(table), labels, 0).as_printed()
    areas = {name: area(answer.probabilities, labels[test]) for name, (test, answer) in answers.items()}
    assert set(areas) == {"LR", "KNN", "SVM"}
    assert all(len(test) == 45 for test, _ in answers.values())


def test_sites_are_left_out_in_turn() -> None:
    table, labels = planted(n=200)
    sites = ["A" if i % 3 else "B" for i in range(200)]
    found = Judge(RECIPE, Static(table), labels, 0).by_site(sites)
    assert {name: len(where) for name, (where, _) in found.items()} == {"A": 133, "B": 67}
    assert Judge(RECIPE, Static(table), labels, 0).by_site(["A"] * 200) == {}


def test_calibration_recovers_the_log_odds_it_was_made_of() -> None:
    table, labels = planted(n=600, nuisance=0)
    p = Judge(RECIPE, Static(table), labels, 0).nested(repeats=1).probabilities[0]
    assert p.mean() == pytest.approx(labels.mean(), abs=0.03)
    assert np.isfinite(logit(p)).all()
