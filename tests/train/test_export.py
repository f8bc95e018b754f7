"""Exported graphs compute what their libraries compute."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

import torch

from pipelines.errors import BundleError
from pipelines.models.graph import foreign_parts
from pipelines.models.session import open_session, run_cnn, run_segmenter
from pipelines.training.classifiers import FAMILIES, Fitted
from pipelines.training.crfe import Crfe
from pipelines.training.export import export_classifier, export_network
from pipelines.training.networks import FeatureNet, JointNet
from pipelines.training.select import apply_scaling, fit_scaling

pytestmark = pytest.mark.train


def test_feature_net_graph_equals_torch_at_any_batch_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FeatureNet(torch.nn.Sequential(torch.nn.Conv3d(1, 6, 3, stride=2), torch.nn.ReLU()), 6)
    cubes = np.random.default_rng(0).random((3, 1, 16, 16, 16), dtype=np.float32)
    parity = export_network(net, tmp_path / "cnn.onnx", cubes, outputs=("features", "logit", "cam"))
    assert parity.rows == 3 and parity.max_abs_difference <= 1e-5
    found = run_cnn(open_session(tmp_path / "cnn.onnx"), cubes[1:])
    with torch.no_grad():
        features, logit, cam = net(torch.from_numpy(cubes[1:]))
    assert np.abs(found.features - features.numpy()).max() <= 1e-5
    assert np.abs(found.logits - logit[:, 0].numpy()).max() <= 1e-5
    assert np.abs(found.cams - cam.numpy()).max() <= 1e-5


def test_network_with_a_second_input_is_exported_with_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = JointNet(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.ReLU()), 5)
    images = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    status = np.array([[0], [1], [1], [0]], np.float32)
    outputs = ("features", "logit", "cam", "joint_logit")
    parity = export_network(net, tmp_path / "cnn.onnx", images, outputs=outputs, more_inputs={"status": status})
    assert parity.max_abs_difference <= 1e-5
    session = open_session(tmp_path / "cnn.onnx")
    without, given = (run_cnn(session, images, status=value).joint_logits for value in (0.0, 1.0))
    assert np.abs(without - given).min() > 0
    with torch.no_grad():
        assert np.abs(net(torch.from_numpy(images), torch.ones(4, 1))[3][:, 0].numpy() - given).max() <= 1e-5


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


def test_segmenter_of_the_papers_size_serves_what_torch_computes(tmp_path: Path) -> None:
    """[CRFE]: 256 x 256 pixels, 256 units; attention among all 64 x 64 places of its bottom."""
    torch.manual_seed(0)
    net = Crfe().eval()
    with torch.no_grad():
        net.attend.gamma.fill_(0.3)
    slices = np.random.default_rng(0).normal(size=(2, 1, 256, 256)).astype(np.float32)
    assert export_network(net, tmp_path / "s.onnx", slices, outputs=("logits",)).max_abs_difference <= 1e-5
    with torch.no_grad():
        expected = net(torch.from_numpy(slices))[:, 0].numpy()
    found = run_segmenter(open_session(tmp_path / "s.onnx"), slices[:, 0])
    assert found.shape == (2, 256, 256) and np.abs(found - expected).max() <= 1e-5


def test_graph_that_differs_is_refused(tmp_path: Path) -> None:
    class Counter(torch.nn.Module):  # type: ignore[misc]
        calls = 0.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x + self.calls

    with pytest.raises(BundleError, match=r"r\.onnx differs from torch"):
        export_network(Counter(), tmp_path / "r.onnx", np.zeros((2, 3), np.float32), outputs=("y",))


def _cohort(seed: int, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training rows, labels, and 1100 rows to compare on: features of very different scales, standardised as for a bundle."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(1100, 8)) * np.exp(rng.normal(0, 3, 8)) + rng.normal(size=8)
    rows = apply_scaling(raw, fit_scaling(raw[:100])).astype(np.float32)
    level = (rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.logistic(size=1100) * 0.4 > 0).astype(int)
    level += (rows[:, 3] > 0.5).astype(int) if len(classes) > 2 else 0
    return rows[:100], np.array(classes)[level[:100]], rows


@pytest.mark.parametrize("classes", [(0, 1), (4, 6, 7)], ids=["two", "three"])
@pytest.mark.parametrize("name", FAMILIES)
def test_classifier_graph_equals_its_library(tmp_path: Path, name: str, classes: tuple[int, ...]) -> None:
    for seed in range(3):
        rows, labels, every = _cohort(seed, classes)
        for settings in FAMILIES[name].grid if seed == 0 else FAMILIES[name].grid[:1]:
            fitted = FAMILIES[name].fit(rows, labels, settings, seed)
            parity = export_classifier(fitted, tmp_path / "c.onnx", every)
            assert parity.rows == 1100 and parity.max_abs_difference <= 1e-5
    label, probabilities = open_session(tmp_path / "c.onnx").run(None, {"rows": every})
    assert probabilities.shape == (1100, len(classes)) and np.abs(probabilities.sum(axis=1) - 1).max() < 1e-5
    assert np.array_equal(label, np.array(classes)[probabilities.argmax(axis=1)]) and len(set(label.tolist())) > 1
    graph = onnx.load(tmp_path / "c.onnx")
    assert {o.domain: o.version for o in graph.opset_import} == {"": 17, "ai.onnx.ml": 3}
    assert graph.ir_version <= 10 and foreign_parts(tmp_path / "c.onnx") == []


def test_classifier_graph_that_differs_is_refused(tmp_path: Path) -> None:
    rows, labels, every = _cohort(0, (0, 1))
    fitted = FAMILIES["LR"].fit(rows, labels, {"C": 1.0}, 0)

    class Shifted:
        coef_, intercept_ = fitted.model.coef_, fitted.model.intercept_ + 1e-3

        def predict_proba(self, given: np.ndarray) -> np.ndarray:
            return fitted.model.predict_proba(given)

    with pytest.raises(BundleError, match=r"c\.onnx differs from LR by"):
        export_classifier(Fitted("LR", Shifted(), fitted.classes), tmp_path / "c.onnx", every)


def _hashes(folder: Path) -> dict[str, str]:
    """Fit and export every family; return the hashes of the graphs."""
    rows, labels, every = _cohort(5, (4, 6, 7))
    found = {}
    for name, family in FAMILIES.items():
        export_classifier(family.fit(rows, labels, family.grid[0], 1), folder / "c.onnx", every[:50])
        found[name] = hashlib.sha256((folder / "c.onnx").read_bytes()).hexdigest()
    return found


def test_classifier_graphs_are_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tests.train.test_export import Path, _hashes; print(_hashes(Path(sys.argv[1])))",
            str(tmp_path),
        ],
        env={**os.environ, "PYTHONHASHSEED": "1"},  # converters keep sets, whose order it decides
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(run.stdout) == _hashes(tmp_path)
