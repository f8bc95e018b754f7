"""Each system's own recipe on a planted cohort, of features named and structured like its own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from scipy.special import expit

from pipelines.phantoms.planting import HISTOLOGY, KERATINISATION, plant, plantings
from pipelines.spec import Cnn, PipelineSpec, Triplets
from pipelines.systems import catalogue
from pipelines.training.discrimination import area, delong
from pipelines.training.lie_detector import deviation_by_chance
from pipelines.training.nested import Judge, Static, area_of, mean_area
from pipelines.training.select import Labels
from pipelines.training.table import Table, role_of
from pipelines.types import FloatArray

pytestmark = pytest.mark.train

N, BAYES, NOISE = 200, 0.85, 0.25
SYSTEMS = catalogue()
BINARY = tuple(name for name, spec in SYSTEMS.items() if not spec.classes)
LATENTS, DEEP, NUISANCE = 3, 80, 30  # latents per patient; deep features and such that measure nothing, per sequence


def planted(spec: PipelineSpec, *, seed: int, auc: float = BAYES, prevalence: float = 0.35) -> tuple[Table, Labels, float]:
    """Return features of every block of the system, of which some measure the latents that the label depends on, and labels.

    The last is the AUC that the latents themselves have on these patients: with 200 of them it differs from the planted one by luck.
    """
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((N, LATENTS))
    model = plant(auc, prevalence)
    index = latents.sum(axis=1) / np.sqrt(LATENTS)
    labels = (rng.random(N) < expit(model.intercept + model.slope * index)).astype(np.int64)
    table = Table((), np.zeros((N, 0)))
    for block in spec.blocks:
        for role in block.roles:
            table = table.join(_measure(f"{role}:{block.name}", block, latents, index, rng))
    for name in spec.recipe.nomogram:
        table = table.join(Table((f"CLINICAL:value:{name}",), (rng.random(N) < 0.3).astype(float)[:, None]))
    return table, labels, area(index, labels)


def _measure(prefix: str, block: object, latents: FloatArray, index: FloatArray, rng: np.random.Generator) -> Table:
    if isinstance(block, Cnn) and isinstance(block.view, Triplets):  # one number from the network, and the same told the status
        score = 2 * (index + NOISE * rng.standard_normal(N))
        values = np.column_stack([score, score - 0.5, score + 0.5, score])
        return Table(tuple(f"{prefix}:{name}" for name in ("dl", "h0", "h1", "h")), values)
    if isinstance(block, Cnn):  # many features, each a mixture of all latents
        mixed = (latents + NOISE * rng.standard_normal(latents.shape)) @ rng.standard_normal((LATENTS, DEEP))
        return Table(tuple(f"{prefix}:{i}" for i in range(DEEP)), mixed + rng.standard_normal((N, DEEP)))
    true = np.exp(0.5 * (latents + NOISE * rng.standard_normal(latents.shape)))
    other = rng.standard_normal((N, 6)) @ rng.standard_normal((6, NUISANCE)) + rng.standard_normal((N, NUISANCE))
    names = [*(f"original_latent_{i}" for i in range(LATENTS)), *(f"original_nuisance_{i}" for i in range(NUISANCE))]
    return Table(tuple(f"{prefix}:{name}" for name in names), np.column_stack([true, other]))


@pytest.mark.parametrize("system", BINARY)
def test_recipe_finds_what_was_planted_and_no_more(system: str) -> None:
    spec = SYSTEMS[system]
    table, labels, there = planted(spec, seed=4)
    found = Judge(spec.recipe, Static(table), labels, 4).nested(repeats=1, families=spec.recipe.classifiers[:1])
    error = float(np.sqrt(delong(found.probabilities[0], labels).variance))
    assert there - 0.09 <= mean_area(found, labels) <= there + 2 * error
    assert all(names for names in found.selected)


@pytest.mark.parametrize("system", BINARY)
def test_recipe_finds_nothing_where_nothing_was_planted(system: str) -> None:
    spec = SYSTEMS[system]
    table, labels, _ = planted(spec, seed=5)
    shuffled = np.random.default_rng(5).permutation(labels)
    found = Judge(spec.recipe, Static(table), shuffled, 5).nested(repeats=1, families=spec.recipe.classifiers[:1])
    positives = int(shuffled.sum())
    chance = float(np.sqrt((N + 1) / (12 * positives * (N - positives))))  # standard deviation of the AUC of random scores
    assert abs(mean_area(found, shuffled) - 0.5) < 3 * chance


def planted_classes(*, seed: int, auc: float) -> tuple[Table, Labels, float]:
    """Return the same of the system that tells types apart: two axes, each planted on a latent of its own as in its phantoms."""
    spec, rng = SYSTEMS["histotype_mri"], np.random.default_rng(seed)
    latents = rng.standard_normal((N, LATENTS))
    models = plantings(spec.name, auc)
    risk = {axis: expit(m.intercept + m.slope * latents[:, i]) for i, (axis, m) in enumerate(models.items())}
    other, adeno = risk[KERATINISATION], risk[HISTOLOGY]
    non_keratinising = rng.random(N) < other
    labels = np.where(~non_keratinising, 4, np.where(rng.random(N) < adeno, 7, 6))
    truth = np.column_stack([1 - other, other * (1 - adeno), other * adeno])
    table = Table((), np.zeros((N, 0)))
    for block in spec.blocks:
        table = table.join(_measure(f"{block.roles[0]}:{block.name}", block, latents, latents[:, 0], rng))
    return table, labels, area_of(truth, labels, (4, 6, 7))


def test_recipe_of_several_classes_finds_planted_axes_and_no_more() -> None:
    recipe = SYSTEMS["histotype_mri"].recipe
    table, labels, there = planted_classes(seed=6, auc=0.95)
    found = Judge(recipe, Static(table), labels, 6).nested(repeats=1, families=recipe.classifiers[:1])
    assert found.classes == (4, 6, 7)
    assert there - 0.09 <= mean_area(found, labels) <= there + 2 * deviation_by_chance(labels)
    assert {role_of(name) for names in found.selected for name in names} == {"T2W"}
    assert found.probabilities.sum(axis=2) == pytest.approx(1.0)


def test_recipe_of_several_classes_finds_nothing_where_nothing_was_planted() -> None:
    recipe = SYSTEMS["histotype_mri"].recipe
    table, labels, _ = planted_classes(seed=7, auc=0.95)
    shuffled = np.random.default_rng(7).permutation(labels)
    found = Judge(recipe, Static(table), shuffled, 7).nested(repeats=1, families=recipe.classifiers[:1])
    assert abs(mean_area(found, shuffled) - 0.5) < 3 * deviation_by_chance(shuffled)
