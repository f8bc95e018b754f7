"""From features to calibrated probabilities: standardise in float64, run the classifier, calibrate by hand.

Standardisation runs in float64 outside the graph and is cast to float32 once: a float32 scaler inside the graph moves values across tree
splits. Calibration is applied here because converters get it wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from pipelines.errors import InferenceError, NotFinite
from pipelines.models.manifest import Decision
from pipelines.types import FloatArray

_CLIP = 1e-6  # float32 sums of trees reach 0 and 1 and are off by up to 8e-7; closer in, log-odds would hang on the batch size
_Z95 = 1.959963984540054  # standard normal quantile of a 95 % interval


def logit(probability: FloatArray) -> FloatArray:
    """Return log-odds, with probabilities clipped to 1e-6 from 0 and 1."""
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


def raw_log_odds(session: onnxruntime.InferenceSession | None, decision: Decision, rows: FloatArray) -> FloatArray:
    """Return a binary classifier's log-odds of standardised rows before calibration, shape (m, n) to (m,)."""
    if decision.linear:
        return np.asarray(decision.linear.intercept + rows @ np.array(decision.linear.coefficients), dtype=np.float64)
    return logit(_probabilities(session, rows)[:, 1])


def calibrated_log_odds(session: onnxruntime.InferenceSession | None, decision: Decision, rows: FloatArray) -> FloatArray:
    """Return the calibrated log-odds of standardised rows, shape (m, n) to (m,), of a binary classifier."""
    if decision.platt is None:
        raise InferenceError("a classifier of several classes has no single log-odds")
    return decision.platt.a * raw_log_odds(session, decision, rows) + decision.platt.b


def interval(decision: Decision, raw: float) -> tuple[float, float] | None:
    """Return the bounds at 95 % of the calibrated probability at uncalibrated log-odds ``raw``: the uncertainty of the calibration.

    By the delta method in log-odds from the covariance of Platt's two numbers, where the bundle has it.
    """
    platt = decision.platt
    if platt is None or platt.covariance is None:
        return None
    of_a, of_both, of_b = platt.covariance
    centre, width = platt.a * raw + platt.b, _Z95 * math.sqrt(max(of_a * raw * raw + 2 * of_both * raw + of_b, 0.0))
    return sigmoid(centre - width), sigmoid(centre + width)


def plausible(decision: Decision, probability: float) -> tuple[str, ...]:
    """Return the answers in the conformal set, most probable first; empty where the bundle has none."""
    rule = decision.conformal
    if rule is None:
        return ()
    answers = [("positive", probability >= rule.positive_from), ("negative", probability <= rule.negative_to)]
    return tuple(name for name, inside in sorted(answers, key=lambda a: (a[0] == "positive") != (probability >= 0.5)) if inside)


def plausible_classes(decision: Decision, probabilities: FloatArray) -> tuple[int, ...]:
    """Return the numbers of the classes in the conformal set, most probable first; empty where the bundle has none."""
    rule = decision.class_conformal
    if rule is None:
        return ()
    first, *others = np.argsort(-probabilities, kind="stable")
    return tuple(decision.classes[k] for k in (first, *(k for k in others if probabilities[k] >= rule.plausible_from[k])))


def class_probabilities(session: onnxruntime.InferenceSession | None, decision: Decision, rows: FloatArray) -> FloatArray:
    """Return probabilities (m, classes) of standardised rows, at the true prevalence of the classes."""
    weighted = _probabilities(session, rows) * np.asarray(decision.class_odds or (1.0,) * len(decision.classes))
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))


def project(features: Mapping[str, float], prefix: str, matrix: FloatArray) -> Sequence[float]:
    """Return principal components of the features ``<prefix>0`` and so on; ``matrix`` (1 + k, dim) is the mean, then the components."""
    row = np.array([features[f"{prefix}{i}"] for i in range(matrix.shape[1])])
    return [float(v) for v in matrix[1:] @ (row - matrix[0])]


def _probabilities(session: onnxruntime.InferenceSession | None, rows: FloatArray) -> FloatArray:
    if session is None:
        raise InferenceError("the classifier has no graph")
    name = session.get_inputs()[0].name
    probabilities = np.asarray(session.run(None, {name: np.ascontiguousarray(rows, dtype=np.float32)})[1], dtype=np.float64)
    if not np.isfinite(probabilities).all():
        raise NotFinite("the classifier returned a probability that is not finite")
    return probabilities
