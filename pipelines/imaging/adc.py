"""The apparent diffusion coefficient from diffusion images, for studies whose scanner sent no map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_B = 1000.0  # s/mm2: above it the decay in tissue is no longer mono-exponential (kurtosis)
_UNIT = 1e6  # 1e-6 mm2/s per mm2/s


def usable_b_values(b_values: Iterable[float]) -> tuple[float, ...]:
    """Return the nominal b-values that a fit uses: all up to ``MAX_B``, or the lowest two where fewer than two are; empty for one."""
    found = sorted(set(b_values))
    below = [b for b in found if b <= MAX_B]
    return tuple(below if len(below) > 1 else found[:2] if len(found) > 1 else ())


def fit_adc(images: Mapping[float, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the ADC in 1e-6 mm2/s from images by nominal b-value (s/mm2), all of one shape.

    Least squares of ln S(b) = ln S(0) - b ADC, every b-value with the same weight. A voxel without signal in any image is 0, and so is
    one whose signal rises with b.
    """
    b_values = np.array(sorted(images))
    signals = np.stack([images[b] for b in b_values]).astype(np.float64)
    positive = (signals > 0).all(axis=0)
    logarithms = np.log(np.where(positive, signals, 1.0))
    centred = b_values - b_values.mean()
    slope = np.tensordot(centred, logarithms, axes=1) / (centred**2).sum()
    return np.asarray(np.where(positive, np.maximum(-slope, 0.0), 0.0) * _UNIT, dtype=np.float32)


def geometric_mean(images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the geometric mean of images of one shape: of diffusion directions it is the trace image. A single image stays as it is."""
    if len(images) == 1:
        return images[0]
    stacked = np.stack(images).astype(np.float64)
    positive = (stacked > 0).all(axis=0)
    return np.asarray(np.where(positive, np.exp(np.log(np.where(positive, stacked, 1.0)).mean(axis=0)), 0.0), dtype=np.float32)
