"""Training end to end on small cohorts: tables, the recipe, and a bundle that serves what was trained."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from scipy.special import expit

from pipelines import engine
from pipelines.errors import BundleError, CohortError
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.bundle import load_bundle
from pipelines.phantoms.cohort import write_cohort
from pipelines.systems.olnm_mri import SPEC
from pipelines.training import recipe
from pipelines.training.cohort import CohortRow, SliceGrid, feature_table, read_cohort
from pipelines.training.fit import Schedule
from pipelines.training.learn import Plan
from pipelines.training.train import train
from pipelines.types import BundleStatus, RoiOrigin

pytestmark = pytest.mark.train

_TINY = Plan(
    widths=(2, 2, 4, 4),
    cnn=Schedule(epochs=1, batch=4, rate=1e-3),
    segmenter_widths=(4, 6, 8),
    segmenter_units=8,
    segmenter=Schedule(epochs=2, batch=8, rate=5e-3),
    grid=SliceGrid(spacing_mm=4.0, size=64),
    network_share=0.2,
)


def _silent(line: str) -> None:
    """Report nothing."""


def _table(folder: Path, rows: list[dict[str, object]]) -> Path:
    for row in rows:
        (folder / str(row["study"])).mkdir(exist_ok=True)
    path = folder / "cohort.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _rows(n: int = 30) -> list[dict[str, object]]:
    return [{"patient": f"P{i}", "study": f"s{i}", "label": i % 2} for i in range(n)]


def test_cohort_table_is_read_with_paths_relative_to_it(tmp_path: Path) -> None:
    cohort = read_cohort(_table(tmp_path, _rows()))
    assert len(cohort) == 30
    assert cohort[3] == CohortRow(line=5, patient="P3", study=tmp_path / "s3", roi=None, label=1, site="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({3: {"label": "yes"}}, r"label is not 0 or 1: line 5: 'yes'"),
        ({4: {"patient": "P2"}}, r"same patient more than once: line 4: P2; line 6: P2"),
        ({4: {"study": "s2"}}, r"same study more than once: line 4: .*s2; line 6: .*s2"),
        ({i: {"label": 1} for i in range(30)}, r"label is the same in all 30 rows"),
        ({i: {"label": int(i < 9)} for i in range(30)}, r"9 positive and 21 negative rows are too few"),
    ],
)
def test_cohort_table_that_cannot_be_used_names_its_rows(tmp_path: Path, change: dict[int, dict[str, object]], message: str) -> None:
    rows = [row | change.get(i, {}) for i, row in enumerate(_rows())]
    with pytest.raises(CohortError, match=message):
        read_cohort(_table(tmp_path, rows))


def test_cohort_without_a_column_or_a_folder_is_refused(tmp_path: Path) -> None:
    path = _table(tmp_path, [{"patient": "P1", "study": "s1"}])
    with pytest.raises(CohortError, match="no column label"):
        read_cohort(path)
    path = _table(tmp_path, _rows())
    (tmp_path / "s7").rmdir()
    with pytest.raises(CohortError, match=r"does not exist: line 9: .*s7"):
        read_cohort(path)


def test_part_for_the_classifier_needs_events_too(tmp_path: Path) -> None:
    rows = [row | {"label": int(i < 11)} for i, row in enumerate(_rows())]
    with pytest.raises(CohortError, match=r"the part for the classifier: 9 positive and 15 negative rows are too few"):
        train("olnm_mri", _table(tmp_path, rows), out=tmp_path / "b", plan=_TINY)


def test_unreadable_studies_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"studies that cannot be used: line 2 \(P0\): .* and 25 more"):
        train("olnm_mri", _table(tmp_path, _rows()), out=tmp_path / "b", plan=_TINY)
    assert not (tmp_path / "b").exists()


def test_feature_that_is_not_finite_is_named() -> None:
    rows = [CohortRow(line=i, patient=f"P{i}", study=Path("a/b"), roi=None, label=0, site="") for i in (2, 3)]
    with pytest.raises(CohortError, match=r"not finite: line 3 \(P3\): y"):
        feature_table(rows, [{"x": 1.0, "y": 2.0}, {"x": 1.0, "y": float("nan")}])
    with pytest.raises(CohortError, match=r"other features than the first row: line 3"):
        feature_table(rows, [{"x": 1.0, "y": 2.0}, {"x": 1.0}])


def test_system_without_recipe_and_existing_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no training recipe for 'unknown'"):
        train("unknown", tmp_path / "cohort.csv", out=tmp_path / "b")
    with pytest.raises(BundleError, match="exists already"):
        train("olnm_mri", tmp_path / "cohort.csv", out=tmp_path)


def _planted(n: int, slope: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return 24 radiomic and 8 deep columns, of which three radiomic ones and a deep one make the label."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 32)) * np.exp(rng.normal(0, 2, 32))
    index = (table / table.std(axis=0))[:, [0, 1, 2, 24]].sum(axis=1) / 2
    return table, (rng.random(n) < expit(slope * index)).astype(int), [np.arange(24, 32)]


def test_nested_auc_finds_a_planted_signal_and_nothing_in_noise() -> None:
    table, labels, deep = _planted(120, 5.0, seed=1)
    judged = recipe.nested(table, labels, deep=deep, keep=4, seed=1, progress=_silent)
    assert recipe.auc(judged.probabilities, labels)[0] > 0.75
    shuffled = np.random.default_rng(2).permutation(labels)
    judged = recipe.nested(table, shuffled, deep=deep, keep=4, seed=1, progress=_silent)
    area, error = recipe.auc(judged.probabilities, shuffled)
    assert abs(area - 0.5) < 3 * error


def test_auc_and_its_error_equal_known_ones() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    scores = np.round(labels + rng.normal(size=80), 1)  # with ties
    area, error = recipe.auc(scores, labels)
    assert area == pytest.approx(roc_auc_score(labels, scores))
    again = [roc_auc_score(labels[i], scores[i]) for i in rng.integers(0, 80, (400, 80))]
    assert error == pytest.approx(np.std(again), rel=0.2)


def test_platt_recovers_a_known_distortion() -> None:
    rng = np.random.default_rng(0)
    truth = expit(rng.normal(size=20_000))
    labels = (rng.random(20_000) < truth).astype(int)
    distorted = expit((np.log(truth / (1 - truth)) - 0.7) / 0.4)
    a, b = recipe.fit_platt(distorted, labels)
    assert (a, b) == pytest.approx((0.4, 0.7), abs=0.05)
    a, _ = recipe.fit_platt(1 - truth, labels)  # scores that rank the wrong way are never turned round
    assert a == pytest.approx(1e-3)


def test_youden_threshold_separates_separable_scores() -> None:
    threshold = recipe.youden(np.array([0.1, 0.2, 0.3, 0.6, 0.8]), np.array([0, 0, 0, 1, 1]))
    assert threshold == pytest.approx(0.45)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trained_bundle_serves_what_was_trained(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", "olnm_mri", n=30, auc=0.9, seed=7, workers=2)
    lines: list[str] = []
    out = train("olnm_mri", cohort, out=tmp_path / "bundles" / "t-1", seed=7, plan=_TINY, progress=lines.append)
    bundle = load_bundle(out, SPEC)
    manifest = bundle.manifest
    assert manifest.status is BundleStatus.DEMO and manifest.training.data == "synthetic"
    assert "not clinical performance" in manifest.training.statement
    assert all(p.max_abs_difference <= 1e-5 for p in manifest.parity) and len(manifest.parity) == 5
    assert "not clinical performance" in (out / "MODEL_CARD.md").read_text()
    assert [p.name for p in out.parent.iterdir()] == ["t-1"]
    again = train("olnm_mri", cohort, out=tmp_path / "again" / "t-1", seed=7, plan=replace(_TINY, workers=1))
    row = read_cohort(cohort)[0]
    probabilities = []
    for folder in (out, again):
        loaded = load_bundle(folder, SPEC)
        series = read_series(find_dicom_files(row.study))
        case = engine.load_case(series, choose(series, SPEC), SPEC)
        prediction, evidence = engine.run(SPEC, loaded, case)
        assert evidence.roi.origin is RoiOrigin.SEG
        probabilities.append(prediction.probability)
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-6)
