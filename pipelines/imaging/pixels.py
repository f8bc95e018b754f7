"""Stored pixels of chosen images in modality units.

Units are those of Rescale Slope and Intercept (PS3.3 C.11.1). Philips also sends a scale slope (2005,100E): display values divided by
(rescale slope x scale slope) are the same multiple of the signal in every image. Within one volume that quotient is a constant that no
z-score or ratio sees, so display values are kept; only where the product differs between the images of one volume or one fit, where
display values are not comparable, all of them are divided by it. Maps that the scanner made (ADC) carry their unit in display values and
are never divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import RLELossless

from pipelines.errors import UndecodablePixels
from pipelines.imaging.adc import map_scale
from pipelines.imaging.elements import UNREADABLE, integer, number, private, text
from pipelines.imaging.multiframe import Frame, name_image, rescale
from pipelines.types import as_float

FloatPixels = NDArray[np.float32]


def read_slices(headers: Sequence[Dataset], label: str, *, is_map: bool = False) -> list[FloatPixels]:
    """Return one float32 array (rows, columns) per image or frame, in modality units, in the given order.

    ``label`` names the series in errors. ``is_map``: the scanner's own ADC map, in the unit in which it was sent.

    Raises
    ------
    UndecodablePixels
        Pixel data is absent, truncated, not grey-level, or in a form that cannot be decoded; the message names series and image.
    """
    stored: dict[int, NDArray[Any]] = {}
    for indices in _by_file(headers).values():
        first = headers[indices[0]]
        where = f"{label}, {name_image(first)}"
        try:
            full = pydicom.dcmread(first.filename)
            arrays = _decode(full, [headers[i] for i in indices])
        except UNREADABLE as error:
            raise UndecodablePixels(f"{where}: {error}") from error
        for i, array in zip(indices, arrays, strict=True):
            stored[i] = _stored_values(array, full, f"{label}, {name_image(headers[i])}")
    scales = None if is_map else _scales(headers)
    slices = []
    for i, header in enumerate(headers):
        slope, intercept = map_scale(header)[:2] if is_map else rescale(header)
        scaled = stored[i].astype(np.float32) * np.float32(slope)
        displayed = np.asarray(scaled + np.float32(intercept), dtype=np.float32)
        slices.append(displayed if scales is None else displayed / np.float32(scales[i]))
    return slices


def _by_file(headers: Sequence[Dataset]) -> dict[str, list[int]]:
    """Group the frames of one file, so that each file is read once."""
    groups: dict[str, list[int]] = {}
    for i, header in enumerate(headers):
        groups.setdefault(header.filename if isinstance(header, Frame) else str(i), []).append(i)
    return groups


def _decode(full: Dataset, headers: Sequence[Dataset]) -> list[NDArray[Any]]:
    if not text(full, "PhotometricInterpretation").startswith("MONOCHROME"):
        raise ValueError(f"grey levels expected, got {text(full, 'PhotometricInterpretation') or 'no Photometric Interpretation'}")
    if "ModalityLUTSequence" in full:
        raise NotImplementedError("a Modality LUT instead of a rescale slope")
    if not isinstance(headers[0], Frame):
        return [full.pixel_array]
    if number(full, "NumberOfFrames") == 1:
        return [full.pixel_array]
    indices = [header.frame_number - 1 for header in headers]
    unique = sorted(set(indices))
    decoded = dict(zip(unique, (np.array(a) for a in iter_pixels(full, indices=unique)), strict=True))
    return [decoded[i] for i in indices]


def _stored_values(array: NDArray[Any], full: Dataset, where: str) -> NDArray[Any]:
    """Return the values within Bits Stored below High Bit (PS3.5 8.1.1); bits outside may hold overlays."""
    if array.ndim != 2:
        raise UndecodablePixels(f"{where}: one grey-level slice expected, got an array of shape {array.shape}")
    allocated, bits, high = (integer(full, k) or 0 for k in ("BitsAllocated", "BitsStored", "HighBit"))
    syntax = full.file_meta.TransferSyntaxUID
    if not 0 < bits < allocated or array.dtype.kind not in "iu" or (syntax.is_compressed and syntax != RLELossless):
        return array
    if not bits - 1 <= high < allocated:
        raise UndecodablePixels(f"{where}: High Bit {high} does not fit {bits} of {allocated} bits")
    up = array.dtype.itemsize * 8 - 1 - high
    return np.asarray((array << up) >> (array.dtype.itemsize * 8 - bits))  # an arithmetic shift where the type is signed


def _scales(headers: Sequence[Dataset]) -> list[float] | None:
    """Return Philips' rescale slope x scale slope per image, or ``None`` where it is absent or the same for all."""
    products = [rescale(header)[0] * scale for header in headers if (scale := _scale_slope(header))]
    if len(products) < len(headers) or not all(products) or np.allclose(products, products[0], rtol=1e-6, atol=0):
        return None
    return products


def _scale_slope(header: Dataset) -> float | None:
    found = private(header, "Philips MR Imaging DD 001", 0x2005, 0x0E)
    raw = None if found is None else found.value
    if isinstance(raw, bytes):
        return float(np.frombuffer(raw[:4], "<f4")[0]) if len(raw) >= 4 else None
    return as_float(raw)
