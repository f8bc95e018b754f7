"""First-order numbers of a roi's 8-bit histogram on one slice ([CRFE], feature extraction; only the median is named there)."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from scipy import stats

from pipelines.errors import MissingRoi
from pipelines.features.cnn import largest_slice

NAMES = ("Mean", "Median", "Mode", "StandardDeviation", "Skewness", "Kurtosis", "Entropy", "10Percentile", "90Percentile")
_LEVELS = 256  # 8 bits


def extract(image: hd.Volume, mask: hd.Volume) -> dict[str, float]:
    """Return the nine numbers as ``histogram_<name>``, in the order of :data:`NAMES`.

    The slice is scaled linearly from its lowest to its highest value to 0..255, as an 8-bit picture of it would be; kurtosis is not excess
    kurtosis, entropy is in bits.

    Raises
    ------
    MissingRoi
        The roi is empty.
    """
    if not mask.array.any():
        raise MissingRoi()
    k = largest_slice(mask)
    pixels = image.array[k].astype(np.float64)
    low, high = pixels.min(), pixels.max()
    levels = np.floor((pixels - low) / max(high - low, np.finfo(np.float64).tiny) * (_LEVELS - 1) + 0.5)[mask.array[k] > 0]
    counts = np.bincount(levels.astype(int), minlength=_LEVELS)
    shares = counts[counts > 0] / len(levels)
    flat = levels.std() == 0
    values = (
        levels.mean(),
        np.median(levels),
        counts.argmax(),
        levels.std(),
        0.0 if flat else stats.skew(levels),
        0.0 if flat else stats.kurtosis(levels, fisher=False),
        -(shares * np.log2(shares)).sum(),
        np.percentile(levels, 10),
        np.percentile(levels, 90),
    )
    return {f"histogram_{name}": float(value) for name, value in zip(NAMES, values, strict=True)}
