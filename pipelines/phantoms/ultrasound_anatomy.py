"""What a transvaginal probe sees of a cervix: one plane, x to the right and depth z below the probe's surface in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from pipelines.phantoms.latents import UltrasoundLatents
from pipelines.phantoms.shapes import Array

Outline = NDArray[np.float64]

_EDGE_MM = 0.5  # width over which one tissue gives way to the next
_LOBES = np.arange(2, 10)  # angular frequencies of the margin
_FLATTENING = 0.80  # height of the section to its width
_OUTLINE_POINTS = 96
_STROMA_DB = -5.0
_SILENT_DB = -75.0
_LATTICE_MM = 0.5


@dataclass(eq=False)
class Tissue:
    """Maps over the plane: echogenicity in dB, attenuation in dB/cm/MHz, and the K-distribution's shape (small: clumped)."""

    echo_db: Array
    attenuation: Array
    clumping: Array

    def paint(self, weight: Array, echo_db: Array | float, attenuation: float, clumping: float) -> None:
        """Lay a tissue over what is there, by its share of each point."""
        for there, value in ((self.echo_db, echo_db), (self.attenuation, attenuation), (self.clumping, clumping)):
            there += weight * (value - there)


class Plane:
    """One section of one patient: ``scale`` is its tumour's diameter relative to the maximal section's; ``number`` names the section."""

    def __init__(self, seed: int, latents: UltrasoundLatents, *, scale: float = 1.0, number: int = 0) -> None:
        patient, section = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2, number])
        self.latents = latents
        self.side = 1 if patient.random() < 0.7 else -1  # anteverted uteri lie to the left of the picture
        self.amplitudes = latents.roughness / np.sqrt(_LOBES)
        self.phases = patient.uniform(0, 2 * np.pi, len(_LOBES)) + section.normal(0, 0.25 if scale < 1 else 0.0, len(_LOBES))
        self.tilt = np.deg2rad(patient.normal(0, 10) + section.normal(0, 4))
        height = latents.diameter_mm * _FLATTENING / 2
        self.cervix = np.array([patient.normal(0, 3), max(patient.normal(29, 2), height * 1.2 + 5)])
        self.centre = self.cervix + section.normal(0, 1.0, 2)
        self._bends = patient.uniform(0, 2 * np.pi, 2).astype(np.float32)
        self.width = 1.0
        self.width = latents.diameter_mm * scale / _largest_distance(self.outline())
        self._patient, self._section = patient, section

    def outline(self) -> Outline:
        """Return the tumour's margin as (x, z) in mm, shape (points, 2), not closed."""
        angles = np.linspace(0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)
        radius = 0.5 * self.width * self._margin(angles)
        local = np.column_stack([radius * np.cos(angles), _FLATTENING * radius * np.sin(angles)])
        return np.asarray(local @ self._rotation().T + self.centre, float)

    def tissue(self, x: Array, z: Array) -> Tissue:
        """Return the plane's tissue at points in mm; call it once, as it draws the textures."""
        found = Tissue(np.full_like(x, -8.0), np.full_like(x, 0.5), np.full_like(x, 5.0))
        # Layers of fat and connective tissue, and patches of them.
        found.echo_db += 3.5 * self._texture(x, z, (8.0, 0.8)) + 3.0 * self._texture(x, z, (9.0, 6.0))
        found.paint(_step(2.2 - z), 2.0, 0.5, 6.0)  # vaginal wall against the probe
        bent = x + np.float32(1.6) * np.sin(z / 7 + self._bends[0]), z + np.float32(1.3) * np.sin(x / 8 + self._bends[1])
        self._uterus(found, *bent)
        self._bladder(found, *bent)
        self._bowel(found, *bent)
        self._tumour(found, x, z)
        return found

    def _margin(self, angles: NDArray[np.floating]) -> NDArray[np.float64]:
        waves = np.cos(angles[..., None] * _LOBES + self.phases)
        return np.asarray(1 + waves @ self.amplitudes)

    def _rotation(self) -> NDArray[np.float64]:
        return np.array([[np.cos(self.tilt), -np.sin(self.tilt)], [np.sin(self.tilt), np.cos(self.tilt)]])

    def _texture(self, x: Array, z: Array, grain_mm: tuple[float, float]) -> Array:
        noise = self._section.standard_normal((256, 256), dtype=np.float32)
        smooth = gaussian_filter(noise, [g / _LATTICE_MM for g in grain_mm], mode="wrap")
        lattice = (smooth - smooth.mean()) / smooth.std()
        at = np.stack([x, z]) / np.float32(_LATTICE_MM)
        return np.asarray(map_coordinates(lattice, at, order=1, mode="grid-wrap", output=np.float32))

    def _uterus(self, found: Tissue, x: Array, z: Array) -> None:
        side, (cx, cz) = -self.side, self.cervix
        myometrium = 2.5 * self._texture(x, z, (3.5, 1.5))
        body = (cx + side * 34, cz + 4, 27, 17, side * -12)
        found.paint(_ellipse(x, z, body, grow=0.7), 5.0, 0.5, 8.0)  # serosa
        found.paint(_ellipse(x, z, body), -11.0 + myometrium, 0.55, 5.0)
        lining = (cx + side * 36, cz + 4, 17, 3.2, side * -12)
        found.paint(_ellipse(x, z, lining, grow=1.5), -12.0, 0.5, 6.0)
        found.paint(_ellipse(x, z, lining), 1.0, 0.5, 6.0)
        neck = (cx, cz, 23, 16, 0)
        found.paint(_ellipse(x, z, neck, grow=0.8), 4.0, 0.5, 8.0)
        found.paint(_ellipse(x, z, neck), _STROMA_DB + 1.8 * self._texture(x, z, (4.0, 1.5)), 0.55, 6.0)
        canal = (cx + side * 6, cz + 1, 19, 0.7, side * -6)
        found.paint(_ellipse(x, z, canal, grow=1.6), -10.0, 0.5, 6.0)
        found.paint(_ellipse(x, z, canal), 3.0, 0.5, 4.0)

    def _bladder(self, found: Tissue, x: Array, z: Array) -> None:
        where = (self.side * self._patient.uniform(24, 31), self._patient.uniform(12, 16), *self._patient.uniform([8, 4], [13, 7]))
        lumen = (*where, self.side * 20)
        found.paint(_ellipse(x, z, lumen, grow=1.4), 2.0, 0.5, 8.0)
        found.paint(_ellipse(x, z, lumen), _SILENT_DB, 0.05, 8.0)

    def _bowel(self, found: Tissue, x: Array, z: Array) -> None:
        """Gas reflects nearly everything: a bright arc and a shadow below it."""
        for _ in range(int(self._patient.integers(1, 4))):
            where = (self._patient.uniform(-45, 45), self._patient.uniform(56, 62), self._patient.uniform(5, 11), 2.0, 0)
            arc = _ellipse(x, z, where)
            found.paint(arc, 9.0, 0.5, 3.0)
            shadow = (np.abs(x - np.float32(where[0])) < where[2] * 0.9) & (z > where[1])
            found.echo_db[shadow] -= 14.0

    def _tumour(self, found: Tissue, x: Array, z: Array) -> None:
        dx, dz = x - np.float32(self.centre[0]), z - np.float32(self.centre[1])
        c, s = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        u, v = c * dx + s * dz, (c * dz - s * dx) / np.float32(_FLATTENING)
        near = np.hypot(u, v) < self.width  # twice the mean radius
        inside = np.zeros_like(x)
        radius, margin = np.hypot(u[near], v[near]), self._margin(np.arctan2(v[near], u[near]))
        inside[near] = _step((0.5 * self.width * margin - radius).astype(np.float32))
        texture = np.float32(self.latents.texture_db) * self._texture(x, z, (2.0, 1.5))
        clumping = float(np.clip(4.0 * np.exp(-0.35 * self.latents.heterogeneity), 1.0, 12.0))
        found.paint(inside, _STROMA_DB + self.latents.mean_db + texture, 0.60, clumping)


def _ellipse(x: Array, z: Array, shape: tuple[float, ...], *, grow: float = 0.0) -> Array:
    """Return the share of an ellipse (centre x and z, semi-axes, turn in degrees) at each point."""
    cx, cz, a, b, turn_deg = shape
    a, b, angle = a + grow, b + grow, np.deg2rad(turn_deg)
    dx, dz = x - np.float32(cx), z - np.float32(cz)
    u, v = np.cos(angle) * dx + np.sin(angle) * dz, np.cos(angle) * dz - np.sin(angle) * dx
    return _step(np.asarray((1 - np.hypot(u / a, v / b)) * min(a, b), np.float32))


def _step(depth_mm: Array) -> Array:
    return np.asarray(np.clip(depth_mm / np.float32(_EDGE_MM) + np.float32(0.5), 0, 1), np.float32)


def _largest_distance(points: Outline) -> float:
    return float(np.linalg.norm(points[:, None] - points[None], axis=-1).max())
