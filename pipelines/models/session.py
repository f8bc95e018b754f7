"""ONNX graphs in onnxruntime: opened one way, so that every host computes the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from pipelines.errors import BundleError, InferenceError, NotFinite
from pipelines.types import FloatArray

Float32Array = NDArray[np.float32]

STATUS = "status"  # name of a network's input for a clinical status, shape (n, 1)
_UNUSABLE = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile, state.NotImplemented)
_ERRORS_ONLY = 3  # onnxruntime log severity; LightGBM graphs declare an output shape that would warn at each call


class CnnOutput(NamedTuple):
    """Of n views: features (n, dim), the network's own logits (n,), and its class activation maps (n, ...spatial), not negative.

    ``cams`` are empty for a network that has no map of its own (:func:`has_map`). ``joint_logits`` (n,) are those of a network that was
    told a clinical status, empty for others.
    """

    features: FloatArray
    logits: FloatArray
    cams: FloatArray
    joint_logits: FloatArray


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU in float32.

    Raises
    ------
    BundleError
        The file is no graph that this onnxruntime can run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.use_deterministic_compute = True
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _UNUSABLE as error:
        raise BundleError(f"{path.name} cannot be opened: {error}") from error


def takes_status(session: onnxruntime.InferenceSession) -> bool:
    """Tell whether a network has a second input, for a clinical status (0 or 1)."""
    return any(one.name == STATUS for one in session.get_inputs())


def has_map(session: onnxruntime.InferenceSession) -> bool:
    """Tell whether a network gives a class activation map of its own."""
    return any(one.name == "cam" for one in session.get_outputs())


def run_cnn(session: onnxruntime.InferenceSession, views: Float32Array, *, status: float | None = None) -> CnnOutput:
    """Run a feature extractor on views (n, channels, ...spatial), for networks with a second input with ``status`` for all of them."""
    names, inputs = ["features", "logit", *(["cam"] if has_map(session) else [])], {"image": views.astype(np.float32)}
    if status is not None:
        names, inputs = [*names, "joint_logit"], inputs | {STATUS: np.full((len(views), 1), status, dtype=np.float32)}
    elif takes_status(session):
        inputs = inputs | {STATUS: np.zeros((len(views), 1), dtype=np.float32)}
    outputs = session.run(names, inputs)
    if not all(np.isfinite(one).all() for one in outputs):
        raise NotFinite("a network returned features that are not finite")
    of = {name: one.astype(np.float64) for name, one in zip(names, outputs, strict=True)}
    cams = np.maximum(of["cam"], 0) if "cam" in of else np.empty(0)
    return CnnOutput(of["features"], of["logit"][:, 0], cams, of["joint_logit"][:, 0] if "joint_logit" in of else np.empty(0))


def run_segmenter(session: onnxruntime.InferenceSession, slices: Float32Array, *, batch: int = 4) -> Float32Array:
    """Run a segmenter on slices (n, y, x), ``batch`` at a time; returns logits (n, y, x)."""
    parts = [session.run(["logits"], {"image": slices[i : i + batch, None]})[0][:, 0] for i in range(0, len(slices), batch)]
    logits: Float32Array = np.concatenate(parts)
    if logits.shape != slices.shape:
        raise InferenceError(f"the segmenter returned shape {logits.shape} for {slices.shape}")
    return logits
