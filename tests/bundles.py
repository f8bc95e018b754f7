"""Tiny but real model bundles, written as ONNX graphs by hand: no training library is needed to test serving."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipelines.models.golden import make_golden
from pipelines.models.manifest import Manifest
from pipelines.spec import PipelineSpec, Radiomics

_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
_CHANNELS = 4


def write_bundle(
    root: Path,
    spec: PipelineSpec,
    *,
    version: str = "test-1",
    with_segmenter: bool = True,
    with_imaging_only: bool = True,
    sites: tuple[str, ...] = (),
    metrics: dict[str, float] | None = None,
    classes: tuple[int, ...] = (),
    seen: float = 1e6,
) -> Path:
    """Write a bundle for ``spec`` below ``root`` and return its folder.

    The classifier is a logistic regression on one radiomic and, if the system has networks, one deep feature per sequence, and on each
    clinical value that the system declares; the imaging-only one does without these. With ``sites`` it claims to come from patients there;
    with ``classes`` it tells these apart. Its training cases had features from minus ``seen`` to ``seen``.
    """
    folder = root / spec.name / version
    folder.mkdir(parents=True)
    roles = next((b.roles for b in spec.blocks_of(Radiomics)), spec.required)
    names = [f"{role}:radiomics:original_firstorder_Mean" for role in roles]
    cnns = []
    if spec.cnn:
        _save(cnn_graph(spec.cnn.view.size), folder / "cnn.onnx")
        names += [f"{role}:cnn:0" for role in spec.cnn.roles]
        cnns = [_cnn_entry(role, spec.cnn.view.size) for role in spec.cnn.roles]
    segmenter = None
    if with_segmenter:
        _save(segmenter_graph(), folder / "segmenter.onnx")
        segmenter = {"file": "segmenter.onnx", "network": "threshold", "roles": spec.roi.roles, "spacing_mm": 2.0}
        segmenter["input"] = {"name": "image", "shape": [-1, 1, 64, 64], "axes": "ncyx", "range": "z-score"}
    decision = _write_decision(folder, "classifier", [*names, *(f"CLINICAL:value:{one.name}" for one in spec.clinical)], classes, seen=seen)
    imaging_only = _write_decision(folder, "imaging", names) if spec.clinical and with_imaging_only else None
    manifest = {
        "format_version": 1,
        "system": spec.name,
        "version": version,
        "status": "demo",
        "intended_use": "tests",
        "method_digest": spec.method_digest(),
        "segmenter": segmenter,
        "cnns": cnns,
        "decision": decision,
        "training": {"data": "synthetic", "description": "none", "n": 0, "events": 0, "seed": 0, "statement": "not trained"},
        "made_with": {},
        "files": {p.name: _entry(p) for p in sorted(folder.iterdir())},
    }
    manifest["training"]["metrics"] = {"lie_detector_valid": 1.0} if metrics is None else metrics
    if imaging_only:
        manifest["imaging_only"] = imaging_only
    if sites:
        manifest["status"], manifest["training"] = "research", {**manifest["training"], "data": "site", "sites": sites}
    manifest["parity"] = [{"what": f"{p.name} against numpy", "rows": 1, "max_abs_difference": 0.0} for p in sorted(folder.glob("*.onnx"))]
    complete = make_golden(folder, Manifest.model_validate(manifest))
    (folder / "manifest.json").write_text(complete.model_dump_json(indent=1))
    return folder


def _write_decision(folder: Path, name: str, features: list[str], classes: tuple[int, ...] = (), *, seen: float = 1e6) -> dict:
    """Write a classifier and its background; return the manifest's entry."""
    weights = np.linspace(0.5, -0.3, len(features))
    if classes:
        graph = classifier_graph(np.outer(np.linspace(-1, 1, len(classes)), weights), classes)
        kind = {"classes": classes, "class_odds": [1.0] * len(classes), "threshold_rule": "the most probable class"}
    else:
        graph = classifier_graph(weights)
        kind = {"platt": {"a": 1.1, "b": -0.2}, "threshold": 0.4, "threshold_rule": "fixed for tests"}
    _save(graph, folder / f"{name}.onnx")
    np.save(folder / f"{name}_background.npy", np.random.default_rng(0).normal(size=(8, len(features))))
    return {
        "file": f"{name}.onnx",
        "classifier": "logistic regression",
        "features": [{"name": n, "mean": 100.0, "std": 80.0, "low": -seen, "high": seen} for n in features],
        "background": f"{name}_background.npy",
        **kind,
    }


def cnn_graph(size: int) -> onnx.ModelProto:
    """Average pooling, one 1x1x1 convolution, ReLU; features by global average pooling; CAM of a linear head."""
    pool = size // 6
    rng = np.random.default_rng(1)
    head = rng.normal(size=(1, _CHANNELS)).astype(np.float32)
    initializers = [
        numpy_helper.from_array(rng.normal(size=(_CHANNELS, 1, 1, 1, 1)).astype(np.float32), "kernel"),
        numpy_helper.from_array(head, "head"),
        numpy_helper.from_array(head.reshape(1, _CHANNELS, 1, 1, 1), "head_map"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "channel_axis"),
    ]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[pool] * 3, strides=[pool] * 3),
        helper.make_node("Conv", ["pooled", "kernel"], ["convolved"]),
        helper.make_node("Relu", ["convolved"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["averaged"]),
        helper.make_node("Flatten", ["averaged"], ["features"]),
        helper.make_node("Gemm", ["features", "head"], ["logit"], transB=1),
        helper.make_node("Mul", ["maps", "head_map"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "channel_axis"], ["signed"], keepdims=0),
        helper.make_node("Relu", ["signed"], ["cam"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, size, size, size])]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("features", "logit", "cam")]
    return _model(nodes, inputs, outputs, initializers)


def segmenter_graph() -> onnx.ModelProto:
    """Mark what is brighter than two standard deviations."""
    nodes = [helper.make_node("Sub", ["image", "cut"], ["logits"])]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 64, 64])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    return _model(nodes, inputs, outputs, [numpy_helper.from_array(np.array(2.0, dtype=np.float32), "cut")])


def classifier_graph(weights: np.ndarray, classes: tuple[int, ...] = (0, 1)) -> onnx.ModelProto:
    """A logistic regression in the form that converters write: label and probabilities (n, classes).

    ``weights`` are (classes, features), or (features,) of the second of two classes.
    """
    rows = weights if weights.ndim == 2 else np.stack([-weights, weights])
    node = helper.make_node(
        "LinearClassifier",
        ["X"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_ints=list(classes),
        coefficients=rows.ravel().tolist(),
        intercepts=[0.0] * len(classes),
        post_transform="SOFTMAX",
    )
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", rows.shape[1]])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, None),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None),
    ]
    return _model([node], inputs, outputs, [])


def _model(nodes: list, inputs: list, outputs: list, initializers: list) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=_OPSETS, ir_version=8)


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _cnn_entry(role: str, size: int) -> dict:
    tensor = {"name": "image", "shape": [-1, 1, size, size, size], "axes": "nczyx", "range": "0..1"}
    return {"file": "cnn.onnx", "network": "one convolution", "role": role, "input": tensor, "dim": _CHANNELS, "weights": "fixed"}


def _entry(path: Path) -> dict:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
