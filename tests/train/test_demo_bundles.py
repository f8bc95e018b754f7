"""Demo bundles out of seeds alone, on a small scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("sklearn", reason="training needs the [train] extra")

from pipelines.models.bundle import load_bundle
from pipelines.systems import catalogue
from pipelines.training import demo
from pipelines.types import BundleStatus, SeriesRole
from tests.train.cohorts import TINY

pytestmark = [pytest.mark.train, pytest.mark.slow]

SYSTEM = "lnm_hybrid"


def test_same_seeds_give_the_same_bundle_and_another_seed_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = demo.Demo(72, 0.9, 21, replace(TINY, workers=2))
    digests, said = [], list[list[str]]()
    for one in (small, small, replace(small, seed=22)):
        monkeypatch.setattr(demo, "DEMOS", {SYSTEM: one})
        said.append([])
        (folder,) = demo.build_demo_bundles(tmp_path, systems=(SYSTEM,), progress=said[-1].append)
        bundle = load_bundle(folder, catalogue()[SYSTEM])
        assert bundle.manifest.status is BundleStatus.DEMO and bundle.manifest.training.data == "synthetic"
        assert "bayes_auc" in bundle.manifest.training.metrics
        assert bundle.manifest.training.acquisition[SeriesRole.CE_T1W]["RepetitionTime"][0] > 0
        digests.append(bundle.digest)
    assert digests[0] == digests[1] != digests[2]
    compared = [next(line for line in lines if "bundle before" in line) for lines in said]
    assert "there was no bundle before" in compared[0]
    assert "differ from those of the bundle before by 0.0e+00 at most" in compared[1]
    assert "by 0.0e+00" not in compared[2]
    assert said[1][-1].startswith("1 bundles in ")
