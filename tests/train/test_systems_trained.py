"""Shipped systems from phantoms to bundles that serve: one of several classes, and one with a reduced model.

They have the fewest patients that the recipes' folds can do with, and their labels mean nothing.
"""

from __future__ import annotations

import csv
import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from pipelines import engine
from pipelines.models.bundle import Bundle, load_bundle
from pipelines.models.verify import find_problems
from pipelines.phantoms.cohort import write_cohort
from pipelines.systems import catalogue
from pipelines.training.cohort import CohortRow, read_cohort
from pipelines.training.extract import read_case, study_files
from pipelines.training.train import train
from pipelines.types import SeriesRole
from tests.train.cohorts import TINY, write_table

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(1800)]

DATE, SEED, PATIENTS = datetime.date(2026, 11, 21), 3, 48
PLAN = replace(TINY, network_share=0.2, workers=2)


def _train(system: str, labels: Sequence[int], folder: Path) -> tuple[Bundle, CohortRow]:
    """Train on phantoms with the labels in turn; return the bundle and the first patient."""
    path = write_cohort(folder / "cohort", system, n=PATIENTS, auc=0.5, seed=41, workers=2)
    with path.open(encoding="utf-8") as file:
        rows = [{**row, "label": labels[i % len(labels)]} for i, row in enumerate(csv.DictReader(file))]
    write_table(path.parent, rows)
    trained = train(system, path, out=folder / "site-1", date=DATE, seed=SEED, plan=PLAN)
    assert find_problems(trained.bundle, catalogue()) == []
    return load_bundle(trained.bundle, catalogue()[system]), read_cohort(path, classes=labels, each=1)[0]


def test_system_of_several_classes(tmp_path: Path) -> None:
    spec = catalogue()["histotype_mri"]
    bundle, row = _train(spec.name, (4, 6, 7), tmp_path)
    assert bundle.manifest.decision.classes == (4, 6, 7)
    assert bundle.manifest.recipe["smote"] and bundle.manifest.decision.class_conformal
    prediction, evidence = engine.run(spec, bundle, replace(read_case(study_files(row), spec), clinical=row.clinical))
    classes = [outcome for outcome in prediction.outcomes if outcome.kind == "class"]
    assert len(classes) == 3 and sum(outcome.probability for outcome in classes) == pytest.approx(1)
    assert len(prediction.unpredictable) == 5
    assert evidence.contributions


def test_system_with_a_reduced_model(tmp_path: Path) -> None:
    spec = catalogue()["lvsi_mri"]
    bundle, row = _train(spec.name, (0, 1), tmp_path)
    assert [reduced.roles for reduced in bundle.manifest.reduced] == [(SeriesRole.T2W, SeriesRole.ADC)]
    case = replace(read_case(study_files(row), spec), clinical=row.clinical)
    whole, _ = engine.run(spec, bundle, case)
    assert not any("reduced model" in flag for flag in whole.flags)
    left = {role: image for role, image in case.volumes.items() if role is not SeriesRole.CE_T1W}
    reduced, evidence = engine.run(spec, bundle, replace(case, volumes=left))
    assert any("reduced model" in flag and "CE_T1W" in flag for flag in reduced.flags)
    assert {c.group.split(":")[0] for c in evidence.contributions} <= {"T2W", "ADC"}
