"""What a run finds, from judgement to report, on small tables: of two classes, and of several."""

from __future__ import annotations

import dataclasses
import datetime
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="training needs the [train] extra")
pytest.importorskip("shap", reason="training needs the [train] extra")

from pipelines.models.manifest import Manifest
from pipelines.recipe import Lasso, Recipe
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.training import findings
from pipelines.training.cohort import CohortRow
from pipelines.training.extract import ExtractedFile
from pipelines.training.nested import Judge, Static
from pipelines.training.outcome import CohortFlow, Outcome
from pipelines.training.plan import Plan
from pipelines.training.recipe import fit
from pipelines.training.report import write_report
from pipelines.training.select import Labels
from pipelines.training.statement import recipe_words
from pipelines.training.table import Table

pytestmark = pytest.mark.train

N = 120
NAMES = tuple(f"T2W:radiomics:original_firstorder_{name}" for name in ("Mean", "Median", "Skewness", "Kurtosis", "Energy", "Range"))


def _outcome(folder: Path, spec: PipelineSpec, labels: Labels, values: np.ndarray) -> Outcome:
    """Train and judge on features ``values`` (n, features); the size of the region follows the label a little."""
    table, sites = Table(NAMES[: values.shape[1]], values), ["North" if i % 2 else "South" for i in range(len(labels))]
    sizes = 5 + labels + np.random.default_rng(1).gamma(4, 1, len(labels))
    files = [ExtractedFile(folder / f"{i}.npz") for i in range(len(labels))]
    for file, size in zip(files, sizes, strict=True):
        np.savez(file.path, size=np.array(size), clinical=np.array("[]"))
    rows = [CohortRow(i, f"P{i}", folder, None, int(y), sites[i]) for i, y in enumerate(labels)]
    judge, system = Judge(spec.recipe, Static(table), labels, 0), fit(spec.recipe, table, labels, seed=0)
    found = findings.judge_all(
        judge, system=system, table=table, rows=rows, files=files, spec=spec, plan=Plan(repeats=2, permutations=2, resamples=60)
    )
    decision = {"linear": {"intercept": 0.0, "coefficients": [1.0]}, "classifier": "LR", "threshold_rule": "rule", "background": "b.npy"}
    decision |= {"features": [{"name": NAMES[0], "mean": 0.0, "std": 1.0, "low": -3.0, "high": 3.0}]}
    kind = {"classes": (4, 6, 7)} if spec.classes else {"platt": {"a": 1.0, "b": 0.0}, "threshold": system.decision.threshold}
    training = {"data": "site", "description": "", "n": N, "events": 0, "seed": 0, "statement": "made up", "metrics": found.metrics}
    manifest = Manifest.model_validate(
        {
            **{"system": spec.name, "version": "t-1", "status": "research", "intended_use": "tests", "segmenter": None, "golden": ()},
            **{"method_digest": spec.method_digest(), "decision": decision | kind, "training": training, "recipe": recipe_words(spec)},
            **{"made_with": {}, "files": {"b.npy": {"sha256": "0" * 64, "size": 1}}},
        }
    )
    counts = {int(c): int((labels == c).sum()) for c in np.unique(labels)}
    flow = CohortFlow("cohort.csv", N, 0, 0, N, int((labels == 1).sum()), ("North", "South"), {"SIEMENS Vida 3": N}, 0, counts)
    return findings.write_up(found, manifest=manifest, digest="a" * 64, date=datetime.date(2026, 3, 1), flow=flow, leakage=("by patient",))


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of three classes: one feature tells keratinization, one the histology."""
    rng = np.random.default_rng(6)
    labels = rng.choice([4, 6, 7], size=N, p=[0.25, 0.5, 0.25])
    values = rng.standard_normal((N, 6))
    values[:, 0] += 1.5 * (labels >= 6)
    values[:, 1] += 1.5 * (labels == 7)
    spec = dataclasses.replace(catalogue()["histotype_mri"], recipe=Recipe(classifiers=("LR", "KNN"), smote=True))
    return _outcome(tmp_path_factory.mktemp("typed"), spec, labels, values)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of two classes, by a LASSO."""
    rng = np.random.default_rng(7)
    labels = (rng.random(N) < 0.4).astype(np.int64)
    values = rng.standard_normal((N, 6))
    values[:, :2] += 1.2 * labels[:, None]
    spec = dataclasses.replace(catalogue()["olnm_mri"], recipe=Recipe(steps=(Lasso(folds=5),), classifiers=("LR", "KNN")))
    return _outcome(tmp_path_factory.mktemp("binary"), spec, labels, values)


def _page(outcome: Outcome, folder: Path) -> str:
    return write_report(outcome, folder).read_text(encoding="utf-8")


def test_report_of_two_classes_has_every_figure_and_table(binary: Outcome, tmp_path: Path) -> None:
    page = _page(binary, tmp_path)
    figures = re.findall(r"<title[^>]*>([^<]*)</title>", page)
    for figure in ("LASSO", "Beeswarm of Shapley values", "A patient with the finding", "A patient without it", "ROC", "Calibration"):
        assert any(title.startswith(figure) for title in figures), (figure, figures)
    for caption in ("Models in the form of the papers", "Does the model add anything?", "One site left out at a time"):
        assert f"<caption>{caption}</caption>" in page
    assert 'id="radiomics-profile"' in page
    assert "p, Bonferroni" in page


def test_thresholds_for_a_sensitivity_are_judged_on_patients_who_did_not_choose_them(binary: Outcome) -> None:
    assert list(binary.sensitive_points) == ["sensitivity 0.90", "sensitivity 0.95"]
    lower, higher = binary.sensitive_points.values()
    assert lower.tp <= higher.tp
    assert lower.fp <= higher.fp
    assert binary.thresholds["sensitivity 0.95"] <= binary.thresholds["sensitivity 0.90"]
    assert 0.75 < (lower.sensitivity.value or 0.0) < 1.0


def test_several_classes_are_reported_as_fully_as_two(typed: Outcome, tmp_path: Path) -> None:
    names = [x.name for x in typed.class_rows]
    assert names == ["nested", "size of the roi alone, nested", "training rows"]
    nested, size, apparent = typed.class_rows
    assert apparent.mean_auc >= nested.mean_auc > size.mean_auc
    assert nested.mean_auc == pytest.approx(typed.nested_auc, abs=0.03)
    assert [(x.name, x.n) for x in typed.class_printed] == [("LR", 36), ("KNN", 36)]
    assert sum(x.chosen for x in typed.class_printed) == 1
    assert {x.name: x.n for x in typed.class_sites} == {"North": 60, "South": 60}
    assert [q.name.split(":")[0] for q in typed.questions[-3:]] == ["4", "6", "7"]
    for q in typed.questions:
        assert len(q.sites_left_out) == 2
        assert q.rivals[0].p_bonferroni is not None and q.rivals[0].p_holm is not None
        assert q.rivals[0].p_holm <= q.rivals[0].p_bonferroni
    page = _page(typed, tmp_path)
    assert page.count("<details><summary>") >= len(typed.questions)
    for q in typed.questions:
        assert f"Decision curve: {q.name}" in page
        assert f"Calibration: {q.name}" in page
    for caption in ("The classes in the paper&#x27;s form", "Models in the form of the papers", "One site left out at a time"):
        assert f"<caption>{caption}</caption>" in page or f"<caption>{caption.replace('&#x27;', chr(39))}</caption>" in page
    assert "speaks for class 6" in page


def test_shapley_values_are_those_of_shap(binary: Outcome, typed: Outcome) -> None:
    for outcome in (binary, typed):
        assert outcome.beeswarm is not None and outcome.beeswarm.check is not None
        check = outcome.beeswarm.check
        assert check.patients == 5
        assert check.features == len(outcome.beeswarm.features)
        assert check.difference <= 4.5 * check.standard_error + 1e-6
    assert typed.beeswarm is not None
    assert typed.beeswarm.target == 6
