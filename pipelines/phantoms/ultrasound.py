"""From tissue to B-mode: speckle on a polar beam grid, attenuation, log compression, and the fan that a screen shows.

Scatterers are K-distributed (a complex Gaussian whose power is itself gamma distributed), so that the picture has both the granularity of
an interfering beam and the clumps of tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, map_coordinates

from pipelines.phantoms.shapes import Array
from pipelines.phantoms.ultrasound_anatomy import Outline, Plane

Grey = NDArray[np.uint8]

_SOUND_MM_PER_US = 1.54
_COMPENSATED = 0.5  # dB/cm/MHz that the time gain compensation takes out
_ZONES = 8  # of depth, each with a beam width of its own
_FOCUS_MM = 32.0
_TOP_DB = 23.0  # echo that is shown white
_HEADER = 0.06  # share of the picture's height above the fan


@dataclass(frozen=True)
class Transducer:
    """A curved endocavity array and the picture that its scanner makes of it."""

    manufacturer: str
    model: str
    probe: str
    planar: int  # planar configuration of its RGB pictures
    frequency_mhz: float
    radius_mm: float
    depth_mm: float
    sector_deg: float
    dynamic_range_db: float
    gamma: float
    noise_db: float
    beam: float  # width relative to the best that the aperture allows


TRANSDUCERS = {
    "VOLUSON": Transducer("GE Healthcare", "Voluson E10", "RIC5-9-D", 0, 7.0, 11.0, 64.0, 100.0, 54.0, 1.0, -42.0, 1.0),
    "LOGIQ": Transducer("GE Healthcare", "LOGIQ E9", "IC5-9-D", 1, 6.0, 10.0, 68.0, 108.0, 60.0, 1.15, -38.0, 1.25),
}


@dataclass(frozen=True)
class Sampling:
    """How finely a picture is made: samples in depth, beams, and pixels (rows, columns)."""

    depths: int
    beams: int
    rows: int
    columns: int


SAMPLINGS = {"fast": Sampling(640, 192, 480, 640), "full": Sampling(1200, 288, 720, 960)}


def shift(transducer: Transducer, strength: float) -> Transducer:
    """Return a transducer further off from the others: 0 is as declared, 1 clearly blurrier, noisier and flatter in contrast."""
    return replace(
        transducer,
        beam=transducer.beam * (1 + 0.5 * strength),
        noise_db=transducer.noise_db + 8 * strength,
        dynamic_range_db=transducer.dynamic_range_db + 8 * strength,
        gamma=transducer.gamma * (1 + 0.2 * strength),
    )


@dataclass(frozen=True, eq=False)
class Screen:
    """Where the fan lies on the picture: pixel of the point x = z = 0, the pixel's size, and the polar place of every pixel."""

    origin: tuple[float, float]  # row, column
    pixel_mm: float
    box: tuple[int, int, int, int]  # top, left, bottom, right of the fan, all inclusive
    polar: NDArray[np.float32]  # (2, rows, columns): indices of depth and beam
    inside: NDArray[np.bool_]

    def to_pixels(self, outline: Outline) -> Outline:
        """Return (x, z) in mm as (row, column) pixel indices."""
        return np.asarray(outline[:, ::-1] / self.pixel_mm + np.array(self.origin))


@lru_cache(maxsize=4)
def lay_out(transducer: Transducer, sampling: Sampling) -> Screen:
    """Place a transducer's fan on the picture, as large as it fits."""
    half, reach = np.deg2rad(transducer.sector_deg / 2), transducer.radius_mm + transducer.depth_mm
    sagitta = transducer.radius_mm * (1 - np.cos(half))  # the curved surface rises above its middle towards the sides: z is negative there
    rows, columns = sampling.rows, sampling.columns
    pixel_mm = max((transducer.depth_mm + sagitta) / (rows * (1 - 1.5 * _HEADER)), 2.05 * reach * np.sin(half) / columns)
    pixel_mm = float(np.ceil(pixel_mm * 1e4) / 1e4)  # as many digits as calibrations have
    origin = (_HEADER * rows + sagitta / pixel_mm, columns / 2)
    x = (np.arange(columns) - origin[1]) * pixel_mm
    z = (np.arange(rows) - origin[0])[:, None] * pixel_mm + transducer.radius_mm
    radius, angle = np.hypot(x, z), np.arctan2(x, z)
    inside = (radius >= transducer.radius_mm) & (radius <= reach) & (np.abs(angle) <= half)
    depth = (radius - transducer.radius_mm) / transducer.depth_mm * (sampling.depths - 1)
    beam = (angle + half) / (2 * half) * (sampling.beams - 1)
    where = np.argwhere(inside)
    (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0)
    return Screen(origin, pixel_mm, (int(top), int(left), int(bottom), int(right)), np.stack([depth, beam]).astype(np.float32), inside)


def image(plane: Plane, transducer: Transducer, sampling: Sampling, *, rng: np.random.Generator) -> Grey:
    """Return the picture (rows, columns) of a plane, black outside the fan."""
    screen = lay_out(transducer, sampling)
    half = np.deg2rad(transducer.sector_deg / 2)
    depth = np.linspace(0, transducer.depth_mm, sampling.depths, dtype=np.float32)[:, None]
    angle = np.linspace(-half, half, sampling.beams, dtype=np.float32)[None]
    x = (depth + np.float32(transducer.radius_mm)) * np.sin(angle)
    z = (depth + np.float32(transducer.radius_mm)) * np.cos(angle) - np.float32(transducer.radius_mm)
    tissue = plane.tissue(x, z)
    amplitude = np.sqrt(rng.standard_gamma(tissue.clumping) / tissue.clumping) * 10 ** (tissue.echo_db / 20)
    parts = [_beamform((rng.standard_normal(x.shape) * amplitude).astype(np.float32), transducer) for _ in range(2)]
    step_cm = transducer.depth_mm / (sampling.depths - 1) / 10
    loss_db = 2 * transducer.frequency_mhz * step_cm * np.cumsum(tissue.attenuation - _COMPENSATED, axis=0)
    noise_db = transducer.noise_db + 20 * depth / transducer.depth_mm  # the compensation raises the receiver's noise with depth
    power = (parts[0] ** 2 + parts[1] ** 2) / 2 * 10 ** (-loss_db / 10) + 10 ** (noise_db / 10) * rng.standard_exponential(x.shape)
    shown = np.clip((10 * np.log10(power + 1e-12) - _TOP_DB) / transducer.dynamic_range_db + 1, 0, 1) ** transducer.gamma
    fan = map_coordinates(shown.astype(np.float32), screen.polar, order=1, mode="nearest", output=np.float32)
    return np.asarray(np.where(screen.inside, np.maximum(np.round(255 * fan), 1), 0), np.uint8)


def _beamform(scatterers: Array, transducer: Transducer) -> Array:
    """Blur by pulse and beam; power is kept. The beam is narrowest at the focus, and its width in angle falls with depth."""
    depths, beams = scatterers.shape
    wavelength = _SOUND_MM_PER_US / transducer.frequency_mhz
    step_mm, step_rad = transducer.depth_mm / (depths - 1), np.deg2rad(transducer.sector_deg) / (beams - 1)
    pulse = gaussian_filter1d(scatterers, 0.75 * wavelength / step_mm, axis=0, mode="nearest")
    pulse *= np.float32(np.sqrt(2 * np.sqrt(np.pi) * 0.75 * wavelength / step_mm))
    out = np.zeros(scatterers.shape, np.float32)
    centres = np.linspace(0, depths - 1, _ZONES + 1)
    for centre in centres:
        share = np.clip(1 - np.abs(np.arange(depths) - centre) / centres[1], 0, 1).astype(np.float32)
        rows = np.flatnonzero(share)
        zone = slice(rows[0], rows[-1] + 1)
        mm = centre * step_mm
        width_mm = transducer.beam * np.hypot(1.3 * wavelength, 0.030 * abs(mm - _FOCUS_MM))
        sigma = max(width_mm / ((transducer.radius_mm + mm) * step_rad), 0.4)
        blurred = gaussian_filter1d(pulse[zone], sigma, axis=1, mode="nearest") * np.float32(np.sqrt(2 * np.sqrt(np.pi) * max(sigma, 0.56)))
        out[zone] += share[zone, None] * blurred
    return out
