"""From anatomy to MR magnitude images: spin-echo, diffusion and gradient-echo signal, coil sensitivity, blur and Rician noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from pipelines.phantoms.anatomy import EDGE_MM, WARP_MM, Pelvis
from pipelines.phantoms.shapes import Array, Ellipsoid, Shape, Vector, turn
from pipelines.phantoms.tissues import TISSUES, Tissue
from pipelines.types import SeriesRole

Box = tuple[slice, slice, slice]
Points = tuple[Array, Array, Array]
_SAGITTAL = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # columns to the back, rows down, slices to the right
_GRE_SCALE = 5.0  # receiver gain of a gradient echo relative to that of a spin echo
_NOISE_FLOOR = 6.0  # times the noise: below it at b = 0 the scanner leaves the ADC at 0
_MAX_ADC = 4000.0  # 1e-6 mm2/s, about twice that of water at room temperature


@dataclass(frozen=True, eq=False)
class Grid:
    """A sampling grid in LPS mm. ``shape`` and ``spacing_mm`` are (slice, row, column).

    The columns of ``direction`` are the unit vectors of increasing column index, increasing row index and increasing slice index.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    direction: Vector
    origin: Vector
    thickness_mm: float

    def points(self, offset_mm: float = 0.0) -> Points:
        """Return the x, y, z (each float32 of ``shape``) of the voxel centres, moved along the slice normal by ``offset_mm``."""
        slices, rows, columns = (np.arange(n) * step for n, step in zip(self.shape, self.spacing_mm, strict=True))
        x, y, z = (
            self.origin[a]
            + self.direction[a, 0] * columns[None, None, :]
            + self.direction[a, 1] * rows[None, :, None]
            + self.direction[a, 2] * (slices[:, None, None] + offset_mm)
            for a in range(3)
        )
        return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)

    def box(self, low: Vector, high: Vector) -> Box | None:
        """Return the index box that holds the patient-space box from ``low`` to ``high`` (mm), or ``None`` outside the grid."""
        corners = np.array([[a, b, c] for a in (low[0], high[0]) for b in (low[1], high[1]) for c in (low[2], high[2])])
        index = ((corners - self.origin) @ self.direction)[:, ::-1] / self.spacing_mm
        start = np.maximum(np.floor(index.min(axis=0)), 0).astype(int)
        stop = np.minimum(np.ceil(index.max(axis=0)) + 1, self.shape).astype(int)
        if (start >= stop).any():
            return None
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])


@dataclass(frozen=True)
class Protocol:
    """How one sequence is acquired: grid and contrast. ``fat_left`` is the share of fat signal that suppression leaves."""

    role: SeriesRole
    columns: int
    slices: int
    pixel_mm: float
    repetition_ms: float
    echo_ms: float
    display: float  # full white of the viewing window, relative to the scanner's gain
    fat_left: float = 1.0
    b_values: tuple[int, ...] = (0,)  # s/mm2
    thickness_mm: float = 5.0
    spacing_mm: float = 6.0
    flip_deg: float | None = None  # of a spoiled gradient echo after contrast agent; without one it is a spin echo before
    sagittal: bool = False
    averages: int = 1  # noise falls with their root


@dataclass(frozen=True)
class Scanner:
    """What differs between scanners apart from the protocol. ``noise`` is relative to full signal, ``blur`` in pixels."""

    gain: float
    noise: float
    inhomogeneity: float
    blur: float


def place(protocol: Protocol, rng: np.random.Generator, centre: Vector) -> Grid:
    """Return a slightly oblique axial or sagittal grid whose middle is ``centre`` (mm)."""
    shape = (protocol.slices, protocol.columns, protocol.columns)
    spacing = (protocol.spacing_mm, protocol.pixel_mm, protocol.pixel_mm)
    direction = turn(*rng.normal(0, 3.0, 3)) @ (_SAGITTAL if protocol.sagittal else np.eye(3))
    middle = direction @ [(n - 1) * step / 2 for n, step in zip(shape[::-1], spacing[::-1], strict=True)]
    return Grid(shape, spacing, direction, centre - middle, protocol.thickness_mm)


def acquire(
    pelvis: Pelvis,
    protocol: Protocol,
    *,
    scanner: Scanner,
    grid: Grid,
    shift_mm: Vector,
    supersample: int,
    rng: np.random.Generator,
) -> tuple[dict[int, Array], Array]:
    """Image a patient.

    Parameters
    ----------
    shift_mm : the patient's movement (LPS) since the first sequence.
    supersample : sampling planes per slice; more give truer partial volume.

    Returns
    -------
    Magnitude images (slice, row, column) by b-value, and the tumour's share of each voxel, 0 to 1.
    """
    clean = {b: np.zeros(grid.shape, np.float32) for b in protocol.b_values}
    share = np.zeros(grid.shape, np.float32)
    for plane in (np.arange(supersample) - (supersample - 1) / 2) * grid.thickness_mm / supersample:
        points = grid.points(float(plane))
        still = pelvis.warp(*(p - np.float32(s) for p, s in zip(points, shift_mm, strict=True)))
        signals, tumour = _paint(pelvis, protocol, grid, still, shift_mm)
        share += tumour / supersample
        for b, signal in signals.items():
            clean[b] += signal / supersample
    field = _sensitivity(grid.shape, scanner.inhomogeneity, rng)
    images = {}
    for b, signal in clean.items():
        seen = gaussian_filter(signal, (0, scanner.blur, scanner.blur)) * field
        real, imaginary = rng.standard_normal((2, *grid.shape), dtype=np.float32) * np.float32(scanner.noise / np.sqrt(protocol.averages))
        images[b] = np.float32(scanner.gain) * np.hypot(seen + real, imaginary)
    return images, share


def _paint(pelvis: Pelvis, protocol: Protocol, grid: Grid, points: Points, shift_mm: Vector) -> tuple[dict[int, Array], Array]:
    """Paint every layer's signal over the one before, by its share of the voxel: partial volume mixes signals, not times."""
    signals = {b: np.zeros(grid.shape, np.float32) for b in protocol.b_values}
    texture = pelvis.texture(*points)
    x, y, z = points
    fibres = pelvis.texture(np.float32(1.5) * (x + y), np.float32(0.5) * (y - x), np.float32(0.15) * z)
    margin = np.full(3, WARP_MM + EDGE_MM)

    def find(shape: Shape) -> Box | None:
        low, high = shape.bounds
        return grid.box(low - margin + shift_mm, high + margin + shift_mm)

    for name, shape in pelvis.layers:
        if (box := find(shape)) is None:
            continue
        weight = _weight(shape.depth(x[box], y[box], z[box]))
        tissue = TISSUES[name]
        grain = 1 + np.float32(tissue.texture) * texture[box] + np.float32(tissue.fibres) * fibres[box]
        for b, image in signals.items():
            image[box] += weight * (np.float32(_signal(tissue, protocol, b)) * grain - image[box])

    share = np.zeros(grid.shape, np.float32)
    if (box := find(Ellipsoid(pelvis.tumour.centre, pelvis.tumour.semi_axes * 1.8))) is not None:
        inside = x[box], y[box], z[box]
        depth = pelvis.tumour_depth(*inside)
        share[box] = _weight(depth)
        variation = pelvis.tumour_variation(*inside)
        mean = TISSUES["tumour"]._replace(adc=pelvis.latents.mean_adc, t2_ms=pelvis.latents.mean_t2_ms)
        enhancement = pelvis.tumour_enhancement(depth, variation)
        for b, image in signals.items():
            image[box] += share[box] * (_signal(mean, protocol, b, variation, enhancement) - image[box])
    return signals, share


def _weight(depth_mm: Array) -> Array:
    weight: Array = np.clip(depth_mm / np.float32(EDGE_MM) + np.float32(0.5), 0, 1)
    return weight


def _signal(tissue: Tissue, protocol: Protocol, b: int, variation: Array | float = 0.0, enhancement: Array | None = None) -> Array:
    """Return the signal of a tissue; ``variation`` is log T2 relative to the tissue's, ``enhancement`` replaces its own (1/s).

    Spin echo: PD (1 - e^-TR/T1) e^-TE/T2 e^-bD. Spoiled gradient echo (Ernst) with R1 raised by the contrast agent, b being 0.
    """
    t2 = tissue.t2_ms * np.exp(variation)
    fat = 1 - tissue.fat * (1 - protocol.fat_left)
    if protocol.flip_deg is None:
        adc = tissue.adc * np.exp(-0.6 * np.asarray(variation)) * 1e-3
        magnetisation = (1 - np.exp(-protocol.repetition_ms / tissue.t1_ms)) * np.exp(-b * adc)
    else:
        flip, added = np.deg2rad(protocol.flip_deg), tissue.enhancement if enhancement is None else enhancement
        decay = np.exp(-protocol.repetition_ms * (1 / tissue.t1_ms + 1e-3 * np.asarray(added)))
        magnetisation = _GRE_SCALE * np.sin(flip) * (1 - decay) / (1 - decay * np.cos(flip))
    return np.asarray(tissue.density * magnetisation * np.exp(-protocol.echo_ms / t2) * fat, np.float32)


def map_adc(images: dict[int, Array], noise: float) -> Array:
    """Return the ADC map (1e-6 mm2/s) that a scanner makes of magnitude images at b = 0 and one other b-value, of this ``noise``."""
    b = max(images)
    low, high = images[0], np.maximum(images[b], np.float32(0.01 * noise))
    ratio = np.log(np.maximum(low, high * np.float32(1e-3)) / high) * np.float32(1e6 / b)
    adc = np.where(low > _NOISE_FLOOR * noise, np.clip(ratio, 0, _MAX_ADC), 0)
    return np.asarray(adc, np.float32)


def _sensitivity(shape: tuple[int, int, int], strength: float, rng: np.random.Generator) -> Array:
    """Return the smooth coil sensitivity: brighter at the surface, tilted at random."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    a, b, c, d = rng.standard_normal(4)
    log = 0.4 * a * x + 0.4 * b * y + 0.2 * c * z + (0.3 + 0.1 * abs(d)) * (x * x + y * y - 0.6)
    sensitivity: Array = np.exp(np.float32(strength) * log).astype(np.float32)
    return sensitivity
