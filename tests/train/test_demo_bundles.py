"""Demo bundles out of seeds alone, on a small scale."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("sklearn", reason="training needs the [train] extra")

from pipelines.models.bundle import load_bundle
from pipelines.systems import catalogue
from pipelines.training import demo
from pipelines.types import BundleStatus, SeriesRole
from tests.train.cohorts import TINY

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(1200)]

SYSTEM = "lnm_hybrid"


def test_same_seeds_give_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEMOS", {SYSTEM: demo.Demo(60, 0.9, 21, replace(TINY, workers=2))})
    digests, said = [], list[str]()
    for words in ("there was no bundle before", "differ from those of the bundle before by 0.0e+00 at most"):
        (folder,) = demo.build_demo_bundles(tmp_path, systems=(SYSTEM,), progress=said.append)
        assert any(words in line for line in said)
        assert re.match("1 bundles in [0-9]+ min", said[-1])
        bundle = load_bundle(folder, catalogue()[SYSTEM])
        digests.append(bundle.digest)
        assert bundle.manifest.status is BundleStatus.DEMO and bundle.manifest.training.data == "synthetic"
        assert "bayes_auc" in bundle.manifest.training.metrics
        assert bundle.manifest.training.acquisition[SeriesRole.CE_T1W]["RepetitionTime"][0] > 0
    assert digests[0] == digests[1]
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    golden = next(one for one in bundle.manifest.golden if one.part == "decision")
    np.save(other / golden.expected, np.load(other / golden.expected) + np.float32(0.25))
    assert "by 2.5e-01 at most" in demo._compare(other, folder)
