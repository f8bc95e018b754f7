"""What a 3D network sees of a sequence, and how its activation map comes back."""

from __future__ import annotations

import highdicom as hd
import numpy as np

from pipelines.imaging.geometry import centroid, regrid, resample
from pipelines.spec import Cnn
from pipelines.types import FloatArray


def crop_cube(image: hd.Volume, mask: hd.Volume, block: Cnn) -> hd.Volume:
    """Return the cube around the roi's centre: float32 in 0..1, (size, size, size), along the image's own axes.

    [OLNM] Deep learning feature extraction: 90 x 90 x 90 mm, intensities normalised to 0..1 within the crop.
    """
    spacing = block.crop_mm / block.size
    grid = regrid(image, spacing_mm=(spacing,) * 3, shape=(block.size,) * 3, centre=centroid(mask))
    cube = resample(image, grid).array
    low, high = float(cube.min()), float(cube.max())
    return grid.with_array(((cube - low) / max(high - low, np.finfo(np.float32).tiny)).astype(np.float32))


def place_map(cam: FloatArray, cube: hd.Volume, like: hd.Volume) -> hd.Volume:
    """Return a coarse activation map (z, y, x) of a cube on the grid of ``like``: float32, its largest value scaled to 1, 0 outside."""
    shape = (int(cam.shape[0]), int(cam.shape[1]), int(cam.shape[2]))
    extent = np.asarray(cube.spacing) * np.asarray(cube.spatial_shape)
    coarse = regrid(cube, spacing_mm=tuple(extent / np.asarray(shape)), shape=shape)
    placed = resample(coarse.with_array(cam.astype(np.float32)), like)
    peak = float(placed.array.max())
    return placed.with_array(placed.array / peak if peak > 0 else placed.array)
