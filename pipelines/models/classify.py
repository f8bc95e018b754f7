"""From features to a calibrated probability: standardise, classify in ONNX, calibrate by hand.

Standardisation runs in float64 outside the graph and is cast to float32 once: a float32 scaler inside the graph moves values across tree
splits. Platt scaling is applied here because converters get calibration wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime

from pipelines.errors import InferenceError, NotFinite
from pipelines.models.manifest import Decision
from pipelines.types import FloatArray

_CLIP = 1e-7  # float32 probabilities of trees reach 0 and 1; their log-odds must stay finite


def logit(probability: FloatArray) -> FloatArray:
    """Return log-odds, with probabilities clipped to 1e-7 from 0 and 1."""
    p = np.clip(probability, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)


def sigmoid(log_odds: float) -> float:
    """Return the probability of log-odds."""
    return float(1.0 / (1.0 + np.exp(-log_odds)))


def select(features: Mapping[str, float], decision: Decision) -> FloatArray:
    """Return the classifier's raw inputs in order, shape (n,).

    Raises
    ------
    InferenceError
        A feature that the classifier needs was not extracted.
    """
    missing = [f.name for f in decision.features if f.name not in features]
    if missing:
        raise InferenceError(f"{len(missing)} features of the classifier were not extracted, first {missing[0]}")
    return np.array([features[f.name] for f in decision.features], dtype=np.float64)


def standardise(raw: FloatArray, decision: Decision) -> FloatArray:
    """Return (raw - mean) / std per feature, float64."""
    mean = np.array([f.mean for f in decision.features])
    std = np.array([f.std for f in decision.features])
    return np.asarray((raw - mean) / std, dtype=np.float64)


def calibrated_log_odds(session: onnxruntime.InferenceSession, decision: Decision, rows: FloatArray) -> FloatArray:
    """Return the calibrated log-odds of standardised rows, shape (m, n) to (m,)."""
    name = session.get_inputs()[0].name
    probabilities = session.run(None, {name: np.ascontiguousarray(rows, dtype=np.float32)})[1]
    raw = np.asarray(probabilities, dtype=np.float64)[:, 1]
    if not np.isfinite(raw).all():
        raise NotFinite("the classifier returned a probability that is not finite")
    return decision.platt.a * logit(raw) + decision.platt.b
