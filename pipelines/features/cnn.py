"""What a network sees of a sequence, and how its activation maps come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import singledispatch

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.errors import InferenceError, MissingRoi
from pipelines.imaging.geometry import centroid, regrid, resample
from pipelines.spec import Cube, SliceCrop, Triplets
from pipelines.types import FloatArray

_TINY = float(np.finfo(np.float32).tiny)
_CELLS = 16  # of an occlusion map, along each side; ours
_HIDDEN_CELLS = 2  # side of the square that is hidden at a time; squares overlap by half


@dataclass(frozen=True, eq=False)
class Views:
    """A network's input: ``array`` float32 of shape (n, channels, ...spatial), and the grid that each of the n lies on."""

    array: NDArray[np.float32]
    grids: tuple[hd.Volume, ...]


@singledispatch
def crop(view: Cube | SliceCrop | Triplets, image: hd.Volume, mask: hd.Volume) -> Views:
    """Return what a network sees of ``image`` about the roi; ``mask`` (0/1) shares its grid.

    Raises
    ------
    MissingRoi
        No slice of the roi can be shown in the way that the system declares.
    """
    raise TypeError(f"no way to crop {type(view).__name__}")


@crop.register
def _(view: Cube, image: hd.Volume, mask: hd.Volume) -> Views:
    """Along the image's own axes ([OLNM] Deep learning feature extraction: 90 x 90 x 90 mm, intensities 0..1 within the crop)."""
    grid = regrid(image, spacing_mm=(view.side_mm / view.size,) * 3, shape=(view.size,) * 3, centre=centroid(mask))
    cube = resample(image, grid).array
    low, high = float(cube.min()), float(cube.max())
    return Views(((cube - low) / max(high - low, _TINY)).astype(np.float32)[None, None], (grid,))


@crop.register
def _(view: SliceCrop, image: hd.Volume, mask: hd.Volume) -> Views:
    """[LVSI] and [PLNM]: the slice of the largest roi, its bounding box with a margin."""
    grid = _box_grid(image, mask, largest_slice(mask), margin=view.margin, margin_px=0, slices=1, size=view.size)
    return Views(_standardise(resample(image, grid).array)[None], (grid,))


@crop.register
def _(view: Triplets, image: hd.Volume, mask: hd.Volume) -> Views:
    """[HSCORE] Input: every three adjacent sections as channels, the roi's box 5 pixels larger, scaled to 64 x 64."""
    last = image.spatial_shape[0] - 1
    slices = [int(k) for k in np.flatnonzero(mask.array.any(axis=(1, 2))) if 0 < k < last]
    if not slices:
        raise MissingRoi("the roi has no slice with a neighbour on both sides")
    wide = [_box_grid(image, mask, k, margin=0.0, margin_px=view.margin_px, slices=3, size=view.size) for k in slices]
    array = np.stack([_standardise(resample(image, grid).array) for grid in wide])
    middle = [_box_grid(image, mask, k, margin=0.0, margin_px=view.margin_px, slices=1, size=view.size) for k in slices]
    return Views(array, tuple(middle))


def largest_slice(mask: hd.Volume) -> int:
    """Return the index of the slice with the largest roi, of several the first."""
    return int(np.argmax(np.count_nonzero(mask.array, axis=(1, 2))))


def occlusion_maps(logits_of: Callable[[NDArray[np.float32]], FloatArray], views: NDArray[np.float32]) -> FloatArray:
    """Return for each z-scored view (n, channels, y, x) how much its logit falls where a part of it is hidden, (n, 16, 16), not negative.

    For networks whose class activation map has no closed form: a square of an eighth of the side is set to the view's mean, at every
    sixteenth (Zeiler and Fergus 2014, section 4.2). A cell has the mean of the squares that cover it.

    Raises
    ------
    InferenceError
        The views have three dimensions.
    """
    if views.ndim != 4:
        raise InferenceError("a map by occlusion can be made only of a two-dimensional view, and the network has no map of its own")
    edges = np.linspace(0, views.shape[-1], _CELLS + 1).round().astype(int)
    places = range(_CELLS - _HIDDEN_CELLS + 1)
    fall, covered = np.zeros((len(views), _CELLS, _CELLS)), np.zeros((_CELLS, _CELLS))
    whole = logits_of(views)
    for row in places:
        hidden = np.repeat(views[:, None], len(places), axis=1)  # (n, places, channels, y, x)
        for column in places:
            hidden[:, column, :, edges[row] : edges[row + _HIDDEN_CELLS], edges[column] : edges[column + _HIDDEN_CELLS]] = 0.0
        logits = logits_of(hidden.reshape(-1, *views.shape[1:])).reshape(len(views), len(places))
        for column in places:
            square = np.s_[row : row + _HIDDEN_CELLS, column : column + _HIDDEN_CELLS]
            covered[square] += 1
            fall[:, *square] += (whole - logits[:, column])[:, None, None]
    return np.maximum(fall / covered, 0.0)


def place_maps(cams: FloatArray, views: Views, like: hd.Volume) -> hd.Volume:
    """Return coarse activation maps, one per view, on the grid of ``like``: float32, the largest value scaled to 1, 0 outside."""
    placed = np.zeros(like.spatial_shape, dtype=np.float32)
    for coarse in _coarse(cams, views):
        placed = np.maximum(placed, resample(coarse, like).array)
    peak = float(placed.max())
    return like.with_array(placed / peak if peak > 0 else placed)


def _coarse(cams: FloatArray, views: Views) -> Iterator[hd.Volume]:
    for cam, grid in zip(cams, views.grids, strict=True):
        spatial = cam if cam.ndim == 3 else cam[None]
        shape = (int(spatial.shape[0]), int(spatial.shape[1]), int(spatial.shape[2]))
        extent = np.asarray(grid.spacing) * np.asarray(grid.spatial_shape)
        coarse = regrid(grid, spacing_mm=tuple(extent / np.asarray(shape)), shape=shape)
        yield coarse.with_array(spatial.astype(np.float32))


def _box_grid(image: hd.Volume, mask: hd.Volume, k: int, *, margin: float, margin_px: int, slices: int, size: int) -> hd.Volume:
    """Return a grid of ``slices`` by ``size`` by ``size`` over the roi's box on slice ``k``; both sides of it become ``size``."""
    rows, columns = (np.flatnonzero(mask.array[k].any(axis=1 - axis)) for axis in (0, 1))
    low = np.array([rows[0], columns[0]], dtype=float)
    extent = np.array([rows[-1], columns[-1]], dtype=float) + 1 - low
    wide = extent * (1 + 2 * margin) + 2 * margin_px
    index = np.array([[k, *(low + (extent - 1) / 2)]])
    centre = np.asarray(image.map_indices_to_reference(index)[0], dtype=float)
    in_plane = wide * np.asarray(image.spacing[1:]) / size
    spacing = (float(image.spacing[0]), float(in_plane[0]), float(in_plane[1]))
    return regrid(image, spacing_mm=spacing, shape=(slices, size, size), centre=centre)


def _standardise(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((pixels - pixels.mean()) / max(float(pixels.std()), _TINY), dtype=np.float32)
