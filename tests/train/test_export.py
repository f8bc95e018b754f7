"""Exported graphs compute what their libraries compute."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

import torch
from lightgbm import LGBMClassifier

from pipelines.errors import BundleError
from pipelines.models.session import open_session, run_cnn, run_segmenter
from pipelines.training.export import export_lightgbm, export_network
from pipelines.training.networks import Crfe, FeatureNet

pytestmark = pytest.mark.train


def test_feature_net_graph_equals_torch_at_any_batch_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FeatureNet((4, 6, 8, 12), pool=False)
    cubes = np.random.default_rng(0).random((3, 1, 32, 32, 32), dtype=np.float32)
    parity = export_network(net, tmp_path / "cnn.onnx", cubes, outputs=("features", "logit", "cam"))
    assert parity.rows == 3 and parity.max_abs_difference <= 1e-5
    single = run_cnn(open_session(tmp_path / "cnn.onnx"), cubes[1, 0])
    with torch.no_grad():
        features, logit, cam = net(torch.from_numpy(cubes[1:2]))
    assert np.abs(single.features - features[0].numpy()).max() <= 1e-5
    assert single.logit == pytest.approx(float(logit[0, 0]), abs=1e-5)
    assert np.abs(single.cam - cam[0].numpy()).max() <= 1e-5


@pytest.mark.parametrize("pools", [2, 3])
def test_segmenter_graph_equals_torch_with_attention_at_work(tmp_path: Path, pools: Literal[2, 3]) -> None:
    torch.manual_seed(0)
    net = Crfe((4, 6, 8), units=8, pools=pools)
    with torch.no_grad():
        net.attend.gamma.fill_(0.3)  # at 0, where it starts, attention would go untested
    slices = np.random.default_rng(0).normal(size=(5, 1, 32, 32)).astype(np.float32)
    assert export_network(net, tmp_path / "s.onnx", slices, outputs=("logits",)).max_abs_difference <= 1e-5
    with torch.no_grad():
        expected = net(torch.from_numpy(slices))[:, 0].numpy()
    assert np.abs(run_segmenter(open_session(tmp_path / "s.onnx"), slices[:, 0]) - expected).max() <= 1e-5


def test_graph_that_differs_is_refused(tmp_path: Path) -> None:
    class Counter(torch.nn.Module):  # type: ignore[misc]
        calls = 0.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x + self.calls

    with pytest.raises(BundleError, match=r"r\.onnx differs from torch"):
        export_network(Counter(), tmp_path / "r.onnx", np.zeros((2, 3), np.float32), outputs=("y",))


def test_lightgbm_graph_equals_lightgbm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.logistic(size=300) > 0).astype(int)
    model = LGBMClassifier(n_estimators=50, verbose=-1, n_jobs=1, random_state=0).fit(rows[:200], labels[:200])
    parity = export_lightgbm(model, tmp_path / "c.onnx", rows)
    assert parity.rows == 300 and parity.max_abs_difference <= 1e-5
    graph = onnx.load(tmp_path / "c.onnx")
    assert {o.domain: o.version for o in graph.opset_import}["ai.onnx.ml"] <= 3
    assert graph.ir_version <= 10


def test_lightgbm_graph_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 3)).astype(np.float32)
    model = LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(rows, (rows[:, 0] > 0).astype(int))
    for name in ("a.onnx", "b.onnx"):
        export_lightgbm(model, tmp_path / name, rows)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
