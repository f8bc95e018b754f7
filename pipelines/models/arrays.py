"""``.npy`` arrays of a bundle: numbers only, never objects, so that reading one cannot run anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.errors import BundleError
from pipelines.types import FloatArray


def read_array(path: Path) -> FloatArray:
    """Return the numbers in a file as float64.

    Raises
    ------
    BundleError
        The file is missing, is no ``.npy`` array of numbers, or holds a pickled object.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path.name} cannot be read as an array of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise BundleError(f"{path.name} holds no plain numbers")
    return array.astype(np.float64)
