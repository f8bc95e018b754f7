"""The statistics against published numbers and R (pROC 1.18.0, psych 2.2.9, dcurves, base R 4.2.2), and at their edges."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from pipelines.errors import CohortError
from pipelines.training.agreement import icc, selection_stability
from pipelines.training.calibration import (
    brier,
    calibration,
    calibration_error,
    calibration_in_the_large,
    hosmer_lemeshow,
    recalibration,
    scaled_brier,
    smooth,
)
from pipelines.training.decision_curve import decision_curve, net_benefit
from pipelines.training.discrimination import (
    adjust_bonferroni,
    adjust_holm,
    area,
    bootstrap_auc,
    compare_paired,
    compare_unpaired,
    delong,
    roc_curve,
)
from pipelines.training.intervals import Interval, proportion
from pipelines.training.operating_point import operating_point, sensitivity_threshold, youden_threshold
from pipelines.training.sample_size import events_per_variable, minimum_sample_size
from tests.foreign import missing, need

_EXACT = {"rel": 1e-13, "abs": 1e-15}  # the references have 15 digits
_R = {"rel": 1e-12, "abs": 1e-14}


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "statistics" / "golden_R.json").read_text())


_MARKERS = ("wfns", "s100b", "ndka")


@pytest.fixture(scope="module")
def asah(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The example of pROC, out of the R package: its patients stay out of this repository."""
    if not Path("/usr/lib/R/site-library/pROC").is_dir():
        missing("R's package pROC")
    path = tmp_path_factory.mktemp("proc") / "asah.csv"
    script = 'data(aSAH, package = "pROC"); write.csv(aSAH, commandArgs(TRUE), row.names = FALSE)'
    subprocess.run([need("Rscript"), "-e", script, str(path)], check=True, timeout=120)
    rows = _rows(path)
    markers = {k: np.array([float(r[k]) for r in rows]) for k in _MARKERS}
    return markers | {"outcome": np.array([int(r["outcome"] == "Poor") for r in rows])}


@pytest.fixture(scope="module")
def cancer(shared_data: Path) -> dict[str, np.ndarray]:
    """The 750 simulated patients that dcurves ships."""
    rows = _rows(shared_data / "statistics" / "dcurves_df_binary.csv")
    numbers = {k: np.array([float(r[k]) for r in rows]) for k in ("age", "famhistory", "cancerpredmarker")}
    return numbers | {"cancer": np.array([int(r["cancer"] == "TRUE") for r in rows])}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _both(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


def _random(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(size=n))
    return p, (rng.random(n) < p).astype(int)


@pytest.mark.parametrize("name", _MARKERS)
def test_area_variance_and_interval_equal_proc(golden: dict[str, Any], asah: dict[str, np.ndarray], name: str) -> None:
    found = delong(asah[name], asah["outcome"])
    assert found.value == area(asah[name], asah["outcome"]) == pytest.approx(golden["auc"][name], **_EXACT)
    assert found.variance == pytest.approx(golden["var_delong"][name], **_EXACT)
    low, middle, high = golden["ci95_delong"][name]
    assert (*_both(found.interval_normal), found.value) == pytest.approx((low, high, middle), **_EXACT)
    assert found.interval.low < found.value < found.interval.high
    assert (found.events, found.non_events) == (41, 72)


@pytest.mark.parametrize("pair", ["wfns_s100b", "wfns_ndka", "ndka_s100b"])
def test_tests_between_areas_equal_proc(golden: dict[str, Any], asah: dict[str, np.ndarray], pair: str) -> None:
    first, second = (asah[name] for name in pair.split("_"))
    found, expected = compare_paired(first, second, asah["outcome"]), golden["delong_paired"][pair]
    assert (found.statistic, found.p) == pytest.approx((expected["stat"], expected["p"]), rel=1e-12)
    assert _both(found.interval) == pytest.approx(expected["ci"], rel=1e-12)
    found, expected = compare_unpaired(first, asah["outcome"], second, asah["outcome"]), golden["delong_unpaired"][pair]
    assert (found.statistic, found.p, found.df) == pytest.approx((expected["stat"], expected["p"], expected["df"]), rel=1e-12)


@pytest.mark.parametrize("name", _MARKERS)
def test_youden_threshold_has_the_sensitivity_and_specificity_that_proc_finds(
    golden: dict[str, Any], asah: dict[str, np.ndarray], name: str
) -> None:
    scale = asah[name].max() + 1  # into 0..1
    threshold = youden_threshold(asah[name] / scale, asah["outcome"])
    point = operating_point(asah[name] / scale >= threshold, asah["outcome"])
    (expected,) = golden["youden"][name]
    assert point.sensitivity.value == pytest.approx(expected["sensitivity"], **_EXACT)
    assert point.specificity.value == pytest.approx(expected["specificity"], **_EXACT)
    if name == "wfns":  # the others may lie anywhere between two values
        assert threshold * scale == pytest.approx(expected["threshold"])


_few = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=4, max_size=30).filter(
    lambda rows: 2 <= sum(r[2] for r in rows) <= len(rows) - 2
)


@settings(deadline=None)
@given(_few)
def test_delong_equals_its_definition_by_pairs(rows: list[tuple[int, int, bool]]) -> None:
    a, b, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    kernels = [_kernel(s, y) for s in (a, b)]
    m, n = kernels[0].shape
    cov = np.cov([k.mean(axis=1) for k in kernels]) / m + np.cov([k.mean(axis=0) for k in kernels]) / n
    found = delong(a, y)
    assert (found.value, found.variance) == pytest.approx((kernels[0].mean(), cov[0, 0]), abs=1e-12)
    test, variance = compare_paired(a, b, y), cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]
    assert test.difference == pytest.approx(kernels[0].mean() - kernels[1].mean(), abs=1e-12)
    if {kernels[0].mean(), kernels[1].mean()} & {0.0, 1.0}:
        assert test.p is test.interval is None
    elif variance > 1e-9:
        assert test.statistic == pytest.approx(test.difference / np.sqrt(variance), rel=1e-6)


def _kernel(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    cases, controls = scores[labels == 1], scores[labels == 0]
    return (cases[:, None] > controls) + (cases[:, None] == controls) / 2


def test_perfect_separation_has_an_interval_with_width_and_no_test() -> None:
    p, y = np.linspace(0.1, 0.9, 12), np.repeat([0, 1], 6)
    found = delong(p, y)
    assert (found.value, found.variance, found.interval.high) == (1, 0, 1)
    assert 0.5 < found.interval.low < 0.8
    assert delong(np.tile(p, 10), np.tile(y, 10)).interval.low > 0.95
    assert delong(-p, y).interval.high == pytest.approx(1 - found.interval.low)
    assert compare_paired(p, np.ones(12), y).p is None
    assert compare_unpaired(p, y, *_random(40)).p is None
    assert recalibration(p, y) is None
    assert recalibration(1 - p, y) is None
    assert recalibration(np.full(12, 0.3), y) is None


def test_the_same_score_twice_does_not_differ_from_itself() -> None:
    p, y = _random(40)
    test = compare_paired(p, p, y)
    assert (test.difference, test.statistic, test.p) == (0, 0, 1)
    flat = delong(np.ones(40), y)
    assert flat.value == 0.5
    assert flat.interval.low < 0.4


def test_bootstrap_interval_is_near_delongs_and_depends_on_the_seed_alone() -> None:
    p, y = _random(300)
    found = bootstrap_auc(p, y, seed=1)
    assert found == bootstrap_auc(p, y, seed=1) != bootstrap_auc(p, y, seed=2)
    assert _both(found) == pytest.approx(_both(delong(p, y).interval), abs=0.015)
    one = bootstrap_auc(np.round(p, 1), y, resamples=1, seed=3)  # ties
    assert one.low == one.high
    assert 0.5 < one.low < 1


def test_roc_curve_has_the_area_under_it() -> None:
    p, y = _random(50)
    p = np.round(p, 1)
    curve = roc_curve(p, y)
    assert (curve.sensitivity[0], curve.specificity[0], curve.sensitivity[-1], curve.specificity[-1]) == (0, 1, 1, 0)
    assert len(curve.thresholds) == len(curve.sensitivity) - 1 == len(set(p))
    assert np.trapezoid(curve.sensitivity, 1 - np.array(curve.specificity)) == pytest.approx(area(p, y))
    point = operating_point(p >= curve.thresholds[2], y)
    assert (point.sensitivity.value, point.specificity.value) == pytest.approx((curve.sensitivity[3], curve.specificity[3]))


def test_adjusted_p_values_equal_p_adjust() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert adjust_holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_bonferroni(p) == pytest.approx([0.04, 0.16, 0.12, 0.02])
    assert adjust_holm([0.9, 0.8]) == [1, 1]
    assert adjust_holm([]) == []


@pytest.mark.parametrize(
    ("count", "of", "wilson", "exact"),
    [  # prop.test(count, of, correct = FALSE) and binom.test(count, of)
        (18, 31, (0.407662624953697, 0.735844569326878), (0.390759222492093, 0.754524049261348)),
        (81, 96, (0.758085133254714, 0.902962900093134), (0.755415884698511, 0.909827517138611)),
        (0, 12, (0.0, 0.242494006655241), (0.0, 0.264648469397051)),
        (12, 12, (0.757505993344759, 1.0), (0.735351530602949, 1.0)),
    ],
)
def test_intervals_of_proportions_equal_r(count: int, of: int, wilson: tuple[float, float], exact: tuple[float, float]) -> None:
    found = proportion(count, of)
    assert found.value == count / of
    assert _both(found.wilson) == pytest.approx(wilson, **_R)
    assert _both(found.clopper_pearson) == pytest.approx(exact, **_R)


def test_proportion_of_nobody_has_no_value() -> None:
    found = proportion(0, 0)
    assert found.value is found.wilson is found.clopper_pearson is None


def test_operating_point_counts_the_published_confusion() -> None:
    calls, labels = np.repeat([1, 0, 0, 1], [18, 13, 81, 15]), np.repeat([1, 1, 0, 0], [18, 13, 81, 15])
    point = operating_point(calls, labels)
    assert (point.tp, point.fn, point.tn, point.fp) == (18, 13, 81, 15)
    shares = [point.sensitivity, point.specificity, point.ppv, point.npv, point.accuracy]
    assert [s.value for s in shares] == pytest.approx([18 / 31, 81 / 96, 18 / 33, 81 / 94, 99 / 127])
    assert point.balanced_accuracy == pytest.approx((18 / 31 + 81 / 96) / 2)
    assert point.f1 == pytest.approx(2 * 18 / (2 * 18 + 13 + 15))
    silent = operating_point(np.zeros(127), labels)
    assert (silent.ppv.value, silent.f1) == (None, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=30).filter(lambda r: len({y for _, y in r}) == 2))
def test_thresholds_are_the_best_of_all(rows: list[tuple[int, bool]]) -> None:
    p, y = np.array([(1 + r[0]) / 12 for r in rows]), np.array([int(r[1]) for r in rows])
    cuts = [*np.unique(p), 1.1]

    def rates(t: float) -> tuple[float, float]:
        return float((p[y == 1] >= t).mean()), float((p[y == 0] < t).mean())

    youden = youden_threshold(p, y)
    assert sum(rates(youden)) == pytest.approx(max(sum(rates(t)) for t in cuts[:-1]))
    for wanted in (0.5, 0.9, 0.95, 1.0):
        threshold = sensitivity_threshold(p, y, wanted)
        sensitivity, specificity = rates(threshold)
        assert sensitivity >= wanted
        assert specificity == max(sp for se, sp in map(rates, cuts) if se >= wanted)
    assert 0 < youden < 1


def test_threshold_lies_midway_to_the_next_lower_probability() -> None:
    p, y = np.array([0.1, 0.2, 0.3, 0.6, 0.8]), np.array([0, 0, 0, 1, 1])
    assert youden_threshold(p, y) == pytest.approx(0.45)
    assert sensitivity_threshold(p, y, 0.5) == pytest.approx(0.7)
    assert sensitivity_threshold(1 - p, y, 1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "model"), [("age", "age"), ("famhistory", "famhistory"), ("case1", "famhistory")])
def test_net_benefit_equals_dcurves(cancer: dict[str, np.ndarray], shared_data: Path, name: str, model: str) -> None:
    x, y = cancer[model], cancer["cancer"]
    p = expit(-16.8697920889027 + 0.225347514835928 * x) if model == "age" else x  # R: coef(glm(cancer ~ age, binomial))
    rows = _rows(shared_data / "statistics" / f"dcurves_r_{name}.csv")
    curve = decision_curve(p, y, [i / 100 for i in range(1, 100)])
    found = {"all": curve.treat_all, "none": curve.treat_none, model: curve.model}
    assert len(rows) == 300
    for row in rows:
        t = round(float(row["threshold"]), 2)
        if t == 0:  # no threshold of a curve; dcurves means the smallest above 0
            treated = {"all": np.ones(len(y)), "none": np.zeros(len(y)), model: p > 0}[row["variable"]]
            assert net_benefit(treated, y, 0.0) == pytest.approx(float(row["net_benefit"]), **_R)
            continue
        i = round(100 * t) - 1
        assert found[row["variable"]][i] == pytest.approx(float(row["net_benefit"]), **_R)
        if row["variable"] == model and "net_intervention_avoided" in row:
            assert curve.interventions_avoided[i] == pytest.approx(float(row["net_intervention_avoided"]), **_R)
    assert curve.treat_none == (0.0,) * 99


def test_net_benefit_of_the_published_family_history(cancer: dict[str, np.ndarray]) -> None:
    curve = decision_curve(cancer["famhistory"], cancer["cancer"], (0.05, 0.10))
    assert curve.model == pytest.approx((0.025614, 0.018519), abs=5e-7)
    usual = decision_curve(*_random()).thresholds
    assert (usual[0], usual[-1], len(usual)) == (0.05, 0.5, 46)


def test_all_forms_of_the_icc_equal_psych(golden: dict[str, Any], shared_data: Path) -> None:
    ratings = [[float(v) for v in r.values()] for r in _rows(shared_data / "statistics" / "shrout_fleiss_1979.csv")]
    found = icc(ratings)
    names = {"ICC1": "ICC(1,1)", "ICC2": "ICC(2,1)", "ICC3": "ICC(3,1)", "ICC1k": "ICC(1,k)", "ICC2k": "ICC(2,k)", "ICC3k": "ICC(3,k)"}
    assert len(golden["icc_shrout_fleiss"]) == len(found) == 6
    for row in golden["icc_shrout_fleiss"]:
        one = found[names[row["type"]]]
        numbers = (one.value[0], one.low[0], one.high[0], one.f[0], one.p[0], one.df1, one.df2)
        expected = [row[k] for k in ("ICC", "lower bound", "upper bound", "F", "p", "df1", "df2")]
        assert numbers == pytest.approx(expected, **_EXACT)


def test_icc_of_many_features_is_that_of_each(shared_data: Path) -> None:
    rng = np.random.default_rng(0)
    ratings = rng.normal(size=(30, 1, 50)) + rng.normal(size=(30, 2, 50)) * np.linspace(0.1, 2, 50)
    together = icc(ratings)
    for form, feature in product(together, (0, 31)):
        alone = icc(ratings[:, :, feature])[form]
        assert (together[form].value[feature], together[form].low[feature]) == pytest.approx((alone.value[0], alone.low[0]))
    assert together["ICC(2,1)"].value[0] > 0.97 > 0.5 > together["ICC(2,1)"].value[49]


def test_icc_at_its_edges() -> None:
    x = np.arange(10.0)
    perfect = icc(np.stack([x, x], axis=1))
    assert all((one.value[0], one.low[0], one.high[0]) == (1, 1, 1) for one in perfect.values())
    shifted = icc(np.stack([x, x + 3], axis=1))
    assert shifted["ICC(3,1)"].value[0] == 1
    assert shifted["ICC(2,1)"].value[0] < 0.8
    assert np.isnan(icc(np.ones((10, 2)))["ICC(2,1)"].value[0])
    with pytest.raises(CohortError, match="two subjects and two readers"):
        icc(np.ones((10, 1)))
    with pytest.raises(CohortError, match=r"\(3, 1, 0\)"):
        icc(np.where(np.arange(20).reshape(10, 2) == 7, np.nan, 1.0))


def test_calibration_equals_r(cancer: dict[str, np.ndarray]) -> None:
    """R: glm(y ~ qlogis(p)), glm(y ~ offset(qlogis(p))), loess(y ~ p, control = loess.control(surface = "direct")), quantile(type = 7)."""
    p, y = cancer["cancerpredmarker"], cancer["cancer"]
    assert (brier(p, y), scaled_brier(p, y)) == pytest.approx((0.0849290977970174, 0.294608822283909), **_R)
    refit = recalibration(p, y)
    assert refit is not None
    assert [e.value for e in refit] == pytest.approx([4.03028327918041e-08, 1.00000002870479], abs=1e-11)
    intercept, slope = refit
    assert _both(intercept.interval) == pytest.approx((-0.344742391082437, 0.344742471688103), abs=1e-9)
    assert _both(slope.interval) == pytest.approx((0.812327976826740, 1.187672080582849), abs=1e-9)
    large = calibration_in_the_large(p, y)
    assert (large.value, *_both(large.interval)) == pytest.approx((3.1089e-09, -0.244363950323682, 0.244363956541501), abs=1e-9)
    error = calibration_error(p, y)
    found = error.mean(), np.median(error), np.quantile(error, 0.9), error.max()
    assert found == pytest.approx((0.0182896099291394, 0.0105384340735117, 0.0473958697272537, 0.141033393351645), **_R)
    expected = (0.0615661583666822, 0.0836589928076829, 0.3125340132144972, 0.5472203840772059)
    assert smooth(p, y, at=np.array([0.05, 0.1, 0.3, 0.5])) == pytest.approx(expected, **_R)
    outside, inside = (hosmer_lemeshow(p, y, external=e) for e in (True, False))
    assert outside.statistic == pytest.approx(14.4006402171808, rel=1e-12)
    assert (outside.df, outside.p) == (10, pytest.approx(0.155488856997033, rel=1e-11))
    assert (inside.df, inside.p) == (8, pytest.approx(0.0719022521387746, rel=1e-11))


def test_recalibration_undoes_a_known_distortion(cancer: dict[str, np.ndarray]) -> None:
    p, y = cancer["cancerpredmarker"], cancer["cancer"]  # slope 1, intercept 0 to 8 digits
    refit = recalibration(expit((logit(p) - 0.7) / 0.8), y)
    assert refit is not None
    assert [e.value for e in refit] == pytest.approx([0.7, 0.8], abs=1e-6)
    assert calibration_in_the_large(expit(logit(p) - 0.5), y).value == pytest.approx(0.5, abs=1e-6)


def test_calibration_of_true_risks_is_good_and_of_squeezed_ones_is_not() -> None:
    p, y = _random(2000, seed=3)
    good, bad = (calibration(q, y, external=True, resamples=100, seed=1) for q in (p, expit(3 * logit(p) + 1)))
    assert good.slope is not None
    assert bad.slope is not None
    assert _both(good.slope.interval)[0] < 1 < _both(good.slope.interval)[1]
    assert bad.slope.value == pytest.approx(good.slope.value / 3)
    assert good.ici.value < 0.03 < 0.1 < bad.ici.value
    assert bad.brier.value > good.brier.value
    assert bad.scaled_brier.value < good.scaled_brier.value
    assert good.hosmer_lemeshow.p is not None
    assert good.hosmer_lemeshow.p > 0.01 > (bad.hosmer_lemeshow.p or 0)
    assert sum(b.observed.count for b in good.hosmer_lemeshow.groups) == y.sum()
    assert sum(b.expected for b in good.hosmer_lemeshow.groups) == pytest.approx(p.sum())
    low, high = _both(good.brier.interval)
    assert low < good.brier.value < high
    assert good.curve.predicted[0] == p.min()
    assert np.abs(np.array(good.curve.predicted) - good.curve.observed).max() < 0.1


@pytest.mark.parametrize("n", [4, 5, 9, 30])
def test_calibration_of_few_and_tied_probabilities_is_finite(n: int) -> None:
    y = np.arange(n) % 2
    for p in (np.full(n, 0.3), np.where(y, 1.0, 0.0), np.where(np.arange(n) % 3, 0.2, 0.7)):
        found = calibration(p, y, external=True, resamples=20, seed=1)
        assert np.isfinite([found.ici.value, found.e90, found.hosmer_lemeshow.statistic, *found.curve.observed]).all()
    assert hosmer_lemeshow(np.full(n, 0.3), y, external=False).p is None


def test_stability_of_selections() -> None:
    always = np.tile([1, 0, 0, 1, 0], (6, 1))
    found = selection_stability(always)
    assert (found.value, *_both(found.interval)) == pytest.approx((1, 1, 1))
    half = selection_stability([[1, 1, 0], [0, 1, 1]])
    spread = (0.5 + 0 + 0.5) / 3  # of the features' 0 and 1, unbiased
    assert half.value == pytest.approx(1 - spread / (2 / 3 * 1 / 3))
    with pytest.raises(CohortError, match="selected nothing"):
        selection_stability(np.zeros((4, 5)))
    with pytest.raises(CohortError, match="two repeats"):
        selection_stability(np.ones((1, 5)))


def test_interval_of_stability_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    chance = np.array([0.9] * 5 + [0.1] * 45)
    share = chance.mean()
    truth = 1 - (chance * (1 - chance)).mean() / (share * (1 - share))
    found = [selection_stability(rng.random((200, 50)) < chance) for _ in range(200)]
    assert np.mean([e.value for e in found]) == pytest.approx(truth, abs=0.01)
    covered = np.mean([_both(e.interval)[0] <= truth <= _both(e.interval)[1] for e in found])
    assert 0.91 < covered < 0.985


def test_sample_size_equals_the_published_example() -> None:
    """Riley et al. 2019, section 5.1 (pmsampsize): 24 parameters, prevalence 0.174, R2 of 0.288: 623, 662 and 221 patients."""
    found = minimum_sample_size(24, 0.174, 0.288)
    assert (found.for_shrinkage, found.for_optimism, found.for_overall_risk) == (623, 662, 221)
    assert (found.needed, found.events) == (662, 116)
    assert minimum_sample_size(24, 0.174).needed > found.needed
    assert events_per_variable(30, 90, 10) == 3
    for wrong in ((0, 0.2, 0.1), (5, 1.0, 0.1), (5, 0.2, 0.9)):
        with pytest.raises(CohortError, match="sample size"):
            minimum_sample_size(*wrong)


_TAKES_SCORES: list[Callable[[Any, Any], object]] = [
    area,
    delong,
    roc_curve,
    youden_threshold,
    brier,
    recalibration,
    decision_curve,
    lambda p, y: compare_paired(p, p, y),
    lambda p, y: bootstrap_auc(p, y, seed=1),
    lambda p, y: sensitivity_threshold(p, y, 0.9),
    lambda p, y: hosmer_lemeshow(p, y, external=True),
    lambda p, y: calibration(p, y, external=True, seed=1),
]


@pytest.mark.parametrize("statistic", _TAKES_SCORES)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, np.nan, 0.3, np.inf], [0, 1, 0, 1], r"score is not finite in 2 rows \(counted from 0\), first \[1, 3\]"),
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0], "0 positive and 4 negative rows"),
        ([0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1], "4 positive and 0 negative rows"),
        ([0.1, 0.2, 0.3, 0.4], [0, 1, 2, 1], r"neither 0 nor 1 in 1 rows \(counted from 0\), first \[2\]"),
        ([0.1, 0.2, 0.3], [0, 1, 0, 1], "do not fit"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(
    statistic: Callable[[Any, Any], object], scores: list[float], labels: list[int], message: str
) -> None:
    with pytest.raises(CohortError, match=message):
        statistic(np.array(scores), np.array(labels))


def test_probabilities_outside_0_to_1_and_odd_calls_are_refused() -> None:
    with pytest.raises(CohortError, match=r"within 0 to 1, not 0\.2 to 3"):
        brier([0.2, 3.0], [0, 1])
    with pytest.raises(CohortError, match="call is neither"):
        operating_point([0.2, 1.0], [0, 1])
    with pytest.raises(CohortError, match="between 0 and 1"):
        decision_curve([0.2, 0.3], [0, 1], [0.0])
    with pytest.raises(CohortError, match=r"between 0 and 1, not 1\.5"):
        sensitivity_threshold([0.2, 0.3], [0, 1], 1.5)
    with pytest.raises(CohortError, match="at least 2 of each"):
        delong([0.2, 0.3, 0.1], [0, 1, 0])
