"""Shapley values of one prediction, from the ONNX graph alone.

Interventional values against the bundle's background rows, in log-odds, by antithetic permutations: each permutation is walked forwards
and backwards, which makes the values exact for additive models and halves the error for the others. They always add up to the
prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.types import FloatArray

PERMUTATIONS = 20
_SEED = 7  # the same case always gets the same values


class Shapley(NamedTuple):
    """``base`` + sum of ``values`` is the prediction; ``standard_errors`` are those of the sampling of permutations."""

    base: float
    values: FloatArray
    standard_errors: FloatArray


def explain(
    predict: Callable[[FloatArray], FloatArray],
    row: FloatArray,
    *,
    background: FloatArray,
    permutations: int = PERMUTATIONS,
) -> Shapley:
    """Explain ``predict`` at ``row``, shape (n,), against ``background``, shape (m, n).

    ``predict`` maps (k, n) to (k,); it is called once per walk with all m x (n + 1) mixtures.
    """
    rng = np.random.default_rng(_SEED)
    n = len(row)
    walks = np.empty((permutations, 2, n))
    for i in range(permutations):
        order = rng.permutation(n)
        for direction, path in enumerate((order, order[::-1])):
            walks[i, direction] = _walk(predict, row, background, path)
    pairs = walks.mean(axis=1)
    values = pairs.mean(axis=0)
    errors = pairs.std(axis=0, ddof=1) / np.sqrt(permutations) if permutations > 1 else np.full(n, np.nan)
    # The base is taken from the prediction so that the sum is exact to the last bit that floats allow.
    base = float(predict(row[None])[0] - values.sum())
    return Shapley(base, values, errors)


def _walk(predict: Callable[[FloatArray], FloatArray], row: FloatArray, background: FloatArray, path: NDArray[np.int64]) -> FloatArray:
    """Switch features from the background to the row one by one; return what each switch changed on average."""
    m, n = background.shape
    mixtures = np.repeat(background[None], n + 1, axis=0)
    for step, feature in enumerate(path):
        mixtures[step + 1 :, :, feature] = row[feature]
    means = predict(mixtures.reshape(-1, n)).reshape(n + 1, m).mean(axis=1)
    change = np.empty(n)
    change[path] = np.diff(means)
    return change
