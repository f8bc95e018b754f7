"""ComBat equals the reference implementation, leaves the reference site alone, and says which rows it does not know."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")

from pipelines.errors import CohortError
from pipelines.training.harmonise import fit_combat
from pipelines.types import FloatArray

pytestmark = pytest.mark.train

_SITES = ["a"] * 22 + ["b"] * 28
# neuroCombat 0.2.12 on the table below, rows 0, 21, 22 and 49; without and with b as reference site.
_NEUROCOMBAT = [
    [3.953259932, 5.547605289, 4.134870477, -0.020640436, -2.203344606, 2.497721439],
    [1.92669468, 0.867800931, 2.984909181, 7.926528588, 9.725805372, 7.313017278],
    [2.179815782, 2.398422896, 2.208297983, 1.314041239, -0.906795527, -4.095897509],
    [2.880630117, 1.091545658, 7.967137017, -0.916761733, 9.445266582, 5.105149589],
]
_NEUROCOMBAT_REFERENCE = [
    [4.602081413, 6.758392697, 5.452696012, 0.868000516, -1.500477953, 3.967445513],
    [2.40753126, 1.407626468, 4.111407944, 10.193380989, 12.216626047, 9.578958641],
    [2.869048428, 3.252536526, 3.170791548, 2.344231875, 0.109899945, -3.659943354],
    [3.68277377, 1.69957799, 9.902559534, -0.235641882, 11.85289961, 7.500325484],
]


def _table() -> tuple[FloatArray, FloatArray]:
    """Return rows (50, 6), of which site b is shifted and spread, and a covariate (50, 1)."""
    i, j = np.arange(50.0)[:, None], np.arange(1, 7.0)[None]
    rows = np.sin(i * j * 1.7 + j) * j + np.cos(i * 0.9 * j) * 2
    rows[22:] = rows[22:] * (1 + 0.2 * j) + 0.7 * j
    return rows, np.sin(np.arange(50.0) * 2.3)[:, None]


@pytest.mark.parametrize(("reference", "expected"), [(None, _NEUROCOMBAT), ("b", _NEUROCOMBAT_REFERENCE)])
def test_combat_equals_neurocombat(reference: str | None, expected: list[list[float]]) -> None:
    rows, covariate = _table()
    fitted = fit_combat(rows, _SITES, covariates=covariate, reference=reference)
    found, known = fitted.apply(rows, _SITES, covariate)
    assert found[[0, 21, 22, 49]] == pytest.approx(np.array(expected), abs=3e-6)
    assert known.all()


def test_reference_site_stays_as_it_is() -> None:
    rows, _ = _table()
    found = fit_combat(rows, _SITES, reference="a").apply(rows, _SITES).rows
    assert found[:22] == pytest.approx(rows[:22], abs=1e-12)
    assert np.abs(found[22:] - rows[22:]).min() > 0


def test_new_patients_of_a_known_site_are_harmonised_and_those_of_another_are_not() -> None:
    rng = np.random.default_rng(0)
    sites = np.array(["north"] * 100 + ["south"] * 100)
    rows = rng.normal(size=(200, 30))
    rows[100:] = rows[100:] * 2 + 3
    train = np.arange(200) % 2 == 0
    fitted = fit_combat(rows[train], sites[train].tolist())
    found, known = fitted.apply(rows[~train], sites[~train].tolist())
    north, south = found[:50], found[50:]
    assert known.all() and abs(north.mean() - south.mean()) < 0.1 and south.std() / north.std() == pytest.approx(1, abs=0.1)
    found, known = fitted.apply(rows[:2], ["east", "north"])
    assert known.tolist() == [False, True]
    assert np.array_equal(found[0], rows[0]) and not np.array_equal(found[1], rows[1])


def test_covariate_keeps_its_effect_and_constants_stay() -> None:
    rng = np.random.default_rng(1)
    sites = ["x"] * 60 + ["y"] * 60
    age = np.r_[rng.normal(40, 8, 60), rng.normal(60, 8, 60)][:, None]  # site y is older
    rows = 0.5 * age + rng.normal(size=(120, 12)) + np.repeat([0, 4], 60)[:, None]
    rows[:, 5] = 7.0
    found = fit_combat(rows, sites, covariates=age).apply(rows, sites, age).rows
    assert found[:, 5] == pytest.approx(np.full(120, 7.0))
    slope, jump = np.linalg.lstsq(np.c_[age, np.repeat([0, 1], 60), np.ones(120)], found[:, 0], rcond=None)[0][:2]
    assert slope == pytest.approx(0.5, abs=0.03) and abs(jump) < 0.5


@pytest.mark.parametrize(
    ("sites", "reference", "message"),
    [
        (["a"] * 50, None, "at least two sites, the training rows have a"),
        (["a"] * 45 + ["b"] * 5, None, r"20 training rows of each site: b \(5\)"),
        (_SITES, "c", "reference site c is not among a, b"),
    ],
)
def test_sites_that_cannot_be_compared_are_refused(sites: list[str], reference: str | None, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        fit_combat(_table()[0], sites, reference=reference)


def test_covariate_that_is_the_site_is_refused() -> None:
    with pytest.raises(CohortError, match="explained by the site"):
        fit_combat(_table()[0], _SITES, covariates=np.repeat([0.0, 1.0], [22, 28])[:, None])
