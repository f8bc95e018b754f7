"""Pixels of an ultrasound frame: display values, the sector that holds the tissue, and what was drawn over it.

What is recognised: anything outside the sector's convex hull (text, rulers, grey bars, traces), and within it coloured graphics and those
of one level that is far above all tissue. What is not: other white or grey text and calipers on the tissue itself, above all after lossy
compression; nothing sets their pixels apart from bright tissue with certainty.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.pixels import apply_color_lut, pixel_array
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from pipelines.errors import UndecodablePixels
from pipelines.imaging.elements import UNREADABLE

Mask = NDArray[np.bool_]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as PS3.3 C.7.6.3.1.2 defines Y
_COLOUR = 32  # of 255 between the channels; chroma of lossy JPEG stays below on grey tissue
_BLACK = 6  # of 255; background noise of lossy compression stays below
_WINDOW = 9  # pixels; wider than a stroke of text, narrower than a line of text is long
_DENSE = 0.5  # share of a window that is not black, within tissue
_GAP = 8  # of 255; tissue has a level in any window of this width below its brightest
_ONE_LEVEL = 4  # of 255; conversion of colours spreads one level so far
_MIN_GRAPHICS = 20  # pixels; the brightest speckles of a frame are fewer
_DOMINANT = 0.5  # share of all non-black pixels that the sector holds, or there is no single sector


class Tissue(NamedTuple):
    """Grey levels (float32, 0..255) with everything hidden that is not tissue; shares are of the sector's non-black pixels."""

    grey: NDArray[np.float32]
    hidden: Mask
    colour_share: float


def read_rgb(source: Dataset, frame_number: int, where: str) -> NDArray[np.uint8]:
    """Decode one frame, counted from 1, to display values: shape (rows, columns, 3), 0..255.

    Only the wanted frame is decoded. YBR, palette, planar and inverted images come out as RGB.

    Raises
    ------
    UndecodablePixels
        Pixel data are absent, truncated, or in a form that cannot be decoded.
    """
    try:
        stored = pixel_array(source.filename, index=frame_number - 1)
        rgb = _to_rgb(stored, source)
    except UNREADABLE as error:
        raise UndecodablePixels(f"{where}: {error}") from error
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise UndecodablePixels(f"{where}: a grey or RGB frame expected, got an array of shape {rgb.shape}")
    return rgb


def _to_rgb(stored: NDArray[Any], source: Dataset) -> NDArray[np.uint8]:
    if stored.ndim == 3:
        if stored.dtype != np.uint8:
            raise ValueError(f"colour samples of type {stored.dtype}")
        return stored
    if stored.min() < 0:
        raise ValueError("negative pixel values")
    if source.PhotometricInterpretation == "PALETTE COLOR":
        return np.asarray(_palette(source)[stored])
    top = 2 ** int(source.BitsStored) - 1
    grey = np.round(np.minimum(stored, top) * (255.0 / top)).astype(np.uint8)
    if source.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return np.repeat(grey[..., None], 3, axis=2)


def _palette(source: Dataset) -> NDArray[np.uint8]:
    """Return the colours of all stored values (PS3.3 C.7.6.3.1.5), shape (n, 3)."""
    tables = Dataset()
    tables.file_meta = source.file_meta
    for element in source.group_dataset(0x0028):
        swapped = element.keyword.endswith("PaletteColorLookupTableData") and element.VR == "OW"
        if swapped and not source.file_meta.TransferSyntaxUID.is_little_endian and not element.keyword.startswith("Segmented"):
            # pydicom keeps OW in the file's byte order and applies it in the machine's
            words = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
            tables.add_new(element.tag, element.VR, words)
        else:
            tables.add(element)
    table = apply_color_lut(np.arange(2 ** int(source.BitsAllocated)), tables)[:, :3]
    return np.asarray(table >> 8 if table.max() > 255 else table, dtype=np.uint8)


def to_grey(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the luminance, 0..255."""
    return np.asarray(rgb @ _LUMA, dtype=np.float32)


def find_sector(grey: NDArray[np.float32]) -> Mask | None:
    """Return the convex hull of the largest densely lit area, or ``None`` where no single one stands out.

    Text and rulers are thin or apart, tissue is dense and connected; a sector, a rectangle and a trapezoid are convex, and dark parts
    within (a bladder, a shadow) belong to them.
    """
    lit = grey > _BLACK
    areas, n = ndimage.label(ndimage.uniform_filter(lit.astype(np.float32), _WINDOW) > _DENSE)
    if n == 0:
        return None
    largest = areas == 1 + int(np.bincount(areas.ravel())[1:].argmax())
    corners = np.argwhere(largest & ~ndimage.binary_erosion(largest))
    try:
        hull = corners[ConvexHull(corners).vertices]
    except QhullError:  # a line
        return None
    canvas = Image.new("1", (grey.shape[1], grey.shape[0]))
    ImageDraw.Draw(canvas).polygon([(float(c), float(r)) for r, c in hull], fill=1)
    sector = np.array(canvas, dtype=bool)
    return sector if np.count_nonzero(lit & sector) >= _DOMINANT * np.count_nonzero(lit) else None


def clean(rgb: NDArray[np.uint8], sector: Mask) -> Tissue:
    """Set what lies outside the sector to 0 and give pixels under graphics the value of the nearest tissue."""
    grey = to_grey(rgb)
    lit = max(int(np.count_nonzero(sector & (grey > _BLACK))), 1)
    coloured = sector & (np.ptp(rgb, axis=2) > _COLOUR)
    covered = (
        ndimage.binary_dilation(coloured | _find_white(grey, sector), np.ones((3, 3))) & sector
    )  # their anti-aliased or blurred edges too
    hidden = covered | ~sector
    if covered.any() and not hidden.all():
        nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
        grey[covered] = grey[tuple(nearest)][covered]
    grey[~sector] = 0.0
    return Tissue(grey=grey, hidden=hidden, colour_share=np.count_nonzero(coloured) / lit)


def _find_white(grey: NDArray[np.float32], sector: Mask) -> Mask:
    """Return the pixels of one level that a gap parts from all darker ones: graphics have one level, tissue any up to its brightest."""
    counts = np.bincount(np.round(grey[sector]).astype(np.int64), minlength=256)
    levels = np.flatnonzero(counts)
    white = levels[levels > levels[-1] - _ONE_LEVEL] if levels.size else levels
    darker = levels[: levels.size - white.size]
    if (
        not darker.size
        or white[0] - darker[-1] <= max(_GAP, 4 * np.median(np.diff(darker, prepend=-1)))
        or counts[white].sum() < _MIN_GRAPHICS
    ):
        return np.zeros_like(sector)
    return np.asarray(sector & (grey > white[0] - 1))
