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

_UNUSABLE = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile, state.NotImplemented)
_ERRORS_ONLY = 3  # onnxruntime log severity; LightGBM graphs declare an output shape that would warn at each call


class CnnOutput(NamedTuple):
    """Features (dim,), the network's own logit, and its class activation map (z, y, x), not negative."""

    features: FloatArray
    logit: float
    cam: FloatArray


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


def run_cnn(session: onnxruntime.InferenceSession, cube: Float32Array) -> CnnOutput:
    """Run a feature extractor on one cube (z, y, x) of float32 in 0..1."""
    features, logit, cam = session.run(["features", "logit", "cam"], {"image": cube[None, None].astype(np.float32)})
    if not np.isfinite(features).all() or not np.isfinite(cam).all():
        raise NotFinite("a network returned features that are not finite")
    return CnnOutput(features[0].astype(np.float64), float(logit[0, 0]), np.maximum(cam[0], 0).astype(np.float64))


def run_segmenter(session: onnxruntime.InferenceSession, slices: Float32Array, *, batch: int = 4) -> Float32Array:
    """Run a segmenter on slices (n, y, x), ``batch`` at a time; returns logits (n, y, x)."""
    parts = [session.run(["logits"], {"image": slices[i : i + batch, None]})[0][:, 0] for i in range(0, len(slices), batch)]
    logits: Float32Array = np.concatenate(parts)
    if logits.shape != slices.shape:
        raise InferenceError(f"the segmenter returned shape {logits.shape} for {slices.shape}")
    return logits
