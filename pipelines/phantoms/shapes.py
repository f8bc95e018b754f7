"""Shapes and textures in patient space (LPS, mm) as functions of position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Array = NDArray[np.float32]
Vector = NDArray[np.float64]


class Shape(Protocol):
    """A closed surface: ``depth`` is about the distance to it in mm, positive inside; ``bounds`` its box."""

    @property
    def bounds(self) -> tuple[Vector, Vector]: ...

    def depth(self, x: Array, y: Array, z: Array) -> Array: ...


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """An ellipsoid; ``rotation`` has its axes as columns."""

    centre: Vector
    semi_axes: Vector
    rotation: Vector = field(default_factory=lambda: np.eye(3))

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        half = np.sqrt(((self.rotation * self.semi_axes) ** 2).sum(axis=1))
        return self.centre - half, self.centre + half

    def radius(self, x: Array, y: Array, z: Array) -> Array:
        """Return the distance from the centre in units of the surface."""
        inward = (self.rotation / self.semi_axes).T.astype(np.float32)
        offsets = [p - np.float32(c) for p, c in zip((x, y, z), self.centre, strict=True)]
        rows = (row[0] * offsets[0] + row[1] * offsets[1] + row[2] * offsets[2] for row in inward)
        squared: Array = np.sum([row * row for row in rows], axis=0, dtype=np.float32)
        return np.sqrt(squared)

    def depth(self, x: Array, y: Array, z: Array) -> Array:
        depth: Array = (1 - self.radius(x, y, z)) * np.float32(self.semi_axes.min())
        return depth


@dataclass(frozen=True, eq=False)
class Tube:
    """A tube along z: at each of the ``levels`` (k,) an ellipse with ``centres`` (k, 2) and ``semi_axes`` (k, 2)."""

    levels: Vector
    centres: Vector
    semi_axes: Vector
    power: float = 2.0  # above 2 the cross-section is squarer than an ellipse

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        low, high = (self.centres - self.semi_axes).min(axis=0), (self.centres + self.semi_axes).max(axis=0)
        return np.array([*low, self.levels[0]]), np.array([*high, self.levels[-1]])

    def depth(self, x: Array, y: Array, z: Array) -> Array:
        at = [
            np.interp(z, self.levels, column).astype(np.float32)
            for column in (self.centres[:, 0], self.centres[:, 1], self.semi_axes[:, 0], self.semi_axes[:, 1])
        ]
        u, v = np.abs((x - at[0]) / at[2]), np.abs((y - at[1]) / at[3])
        radius = np.sqrt(u * u + v * v) if self.power == 2.0 else (u**self.power + v**self.power) ** (1 / self.power)
        ends = np.minimum(z - np.float32(self.levels[0]), np.float32(self.levels[-1]) - z)
        depth: Array = np.minimum((1 - radius) * np.minimum(at[2], at[3]), ends)
        return depth


class Texture:
    """A smooth random field of zero mean and unit variance that repeats every ``period_mm``."""

    def __init__(self, rng: np.random.Generator, *, grain_mm: float, step_mm: float = 1.5, period_mm: float = 120.0):
        n = round(period_mm / step_mm)
        noise = rng.standard_normal((n, n, n), dtype=np.float32)
        smooth = gaussian_filter(noise, grain_mm / step_mm, mode="wrap")
        self._lattice = (smooth - smooth.mean()) / smooth.std()
        self._step = np.float32(step_mm)

    def __call__(self, x: Array, y: Array, z: Array) -> Array:
        """Return the field at points in mm."""
        at = np.stack([x, y, z]) / self._step
        values: Array = map_coordinates(self._lattice, at, order=1, mode="grid-wrap", output=np.float32)
        return values


def turn(x_deg: float, y_deg: float, z_deg: float) -> Vector:
    """Return the rotation matrix about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad([x_deg, y_deg, z_deg])):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix
