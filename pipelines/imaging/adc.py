"""The apparent diffusion coefficient, always in 1e-6 mm2/s: maps of scanners, and maps fitted here where none was sent.

Scanners send whole numbers of 1e-6 mm2/s, decimals of 1e-3 mm2/s, or mm2/s. Features with a fixed bin width need one unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import InputError
from pipelines.imaging.elements import items, number, text
from pipelines.imaging.multiframe import rescale

MAX_B = 1000.0  # s/mm2: above it the decay in tissue is no longer mono-exponential (kurtosis)
_UNIT = 1e6  # 1e-6 mm2/s per mm2/s
_NAMES = {1.0: "1e-6 mm2/s", 1e3: "1e-3 mm2/s", 1e6: "mm2/s"}  # by their factor to 1e-6 mm2/s
# 1e-6 mm2/s; solid tumour has some 700 to 1100, muscle 1500, urine 3000: no two units can be mistaken for one another.
_TISSUE = (100.0, 5000.0)
_WRITTEN = re.compile(r"^x?(?:1(?:\.0*)?e|10)?(?P<exponent>[+-]?\d+)?[.x]?(?P<area>mm|um|m)2/(?P<time>ms|s|sec)$")
_AREAS = {"mm": 0, "um": -6, "m": 6}  # powers of ten of a mm2
_TIMES = {"s": 0, "sec": 0, "ms": 3}  # of one per second


class MapScale(NamedTuple):
    """Stored values times ``slope`` plus ``intercept``, times ``factor``, are 1e-6 mm2/s; the header may not say the last one."""

    slope: float
    intercept: float
    factor: float | None


def map_scale(header: Dataset) -> MapScale:
    """Return how the values of a scanner's ADC map are to be read.

    A Real World Value Mapping in a unit of diffusion (PS3.3 C.7.6.16.2.11, PS3.16 CID 7277) wins over Rescale Slope and Rescale Type
    (C.11.1).
    """
    for item in items(header, "RealWorldValueMappingSequence"):
        slope = number(item, "RealWorldValueSlope")
        for unit in items(item, "MeasurementUnitsCodeSequence"):
            factor = read_unit(text(unit, "CodeValue"))
            if slope and factor:
                return MapScale(slope, number(item, "RealWorldValueIntercept") or 0.0, factor)
    return MapScale(*rescale(header), read_unit(text(header, "RescaleType")))


def read_unit(written: str) -> float | None:
    """Return the factor from a written unit to 1e-6 mm2/s, or ``None`` where it is no unit of diffusion.

    Understood are UCUM (``mm2/s``, ``10*-6.mm2/s``, ``um2/s``, ``um2/ms``) and usual spellings (``10^-3 mm^2/s``, ``1e-6 mm²/s``).
    """
    plain = written.lower().replace("²", "2").replace("µ", "u").replace("μ", "u").replace("×", "x")
    match = _WRITTEN.match(re.sub(r"[\s^*_()\[\]{}]", "", plain))
    if match is None:
        return None
    power = int(match["exponent"] or 0) + _AREAS[match["area"]] + _TIMES[match["time"]]
    return float(10.0 ** (power + 6)) if abs(power) <= 12 else None


def bring_to_unit(values: NDArray[np.float32], headers: Sequence[Dataset], label: str) -> tuple[NDArray[np.float32], str]:
    """Return a scanner's map in 1e-6 mm2/s, and how its unit was told, in words.

    ``values`` are stored values by slope and intercept of :func:`map_scale`. The unit that the header names counts where it makes the
    median of all voxels with a value one that tissue can have; else the unit is the one that does.

    Raises
    ------
    InputError
        The values are plausible in no unit.
    """
    declared = {map_scale(d).factor for d in headers}
    named = declared.pop() if len(declared) == 1 else None
    positive = values[values > 0]
    median = float(np.median(positive)) if positive.size else 0.0
    plausible = [f for f in ([named] if named else []) + list(_NAMES) if _TISSUE[0] <= median * f <= _TISSUE[1]]
    if not plausible:
        raise InputError(f"{label}: an ADC map whose median is {median:.3g} has no unit that tissue can have it in")
    factor = plausible[0]
    how = "by its header" if factor == named else "by its values" + (", whatever its header says" if named else "")
    unit = _NAMES.get(factor, f"{factor:g} x 1e-6 mm2/s")
    words = f"ADC sent in {unit} {how}" + ("" if factor == 1.0 else ", brought to 1e-6 mm2/s")
    return np.asarray(values * np.float32(factor), dtype=np.float32), words


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
