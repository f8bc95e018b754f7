"""An analytic female pelvis: smooth shapes in patient space, painted in order, each with a tissue.

Patient space is LPS in millimetres (PS3.3 C.7.6.2.1.1: x to the left, y to the back, z to the head) with the cervix near the
origin. Shapes are implicit functions of position, so every sequence samples the same patient on a grid of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.phantoms.latents import Latents, draw_latents, draw_short_axis
from pipelines.phantoms.shapes import Array, Ellipsoid, Shape, Texture, Tube, Vector, turn
from pipelines.phantoms.tissues import TISSUES

WARP_MM = 5.0  # largest displacement of the smooth warp that makes ellipses look like organs
EDGE_MM = 1.6  # width over which one tissue gives way to the next
RIM_MM = 4.0  # thickness of the enhancing rim
_BUMPS = np.float32(2.5)  # standard deviations that the tumour's surface lies out or in at most
_GRAIN_MM = 2.2  # of the tumour's texture as it is stored; a patient's own is had by scaling positions

# Both sides of the bony and muscular pelvis: tissue, centre of the left one, semi-axes, turn about z in degrees.
_PAIRED: tuple[tuple[str, tuple[float, float, float], tuple[float, float, float], float], ...] = (
    ("muscle", (78, 82, -5), (66, 24, 130), 24),  # gluteus maximus
    ("muscle", (132, 14, 45), (24, 50, 80), -12),  # gluteus medius and minimus
    ("muscle", (24, -94, 40), (24, 7, 120), 12),  # rectus abdominis
    ("muscle", (86, -46, 25), (24, 19, 110), 20),  # iliopsoas
    ("muscle", (124, -58, -40), (17, 15, 70), 0),  # sartorius and tensor fasciae latae
    ("muscle", (62, -62, -70), (26, 14, 32), 20),  # pectineus
    ("muscle", (64, 58, 38), (38, 13, 26), 22),  # piriformis
    ("cortex", (96, 12, 72), (11, 46, 58), -38),  # wing of the ilium
    ("marrow", (96, 12, 72), (8, 43, 55), -38),
    ("cortex", (88, 4, -14), (19, 36, 40), -14),  # acetabulum
    ("marrow", (88, 4, -14), (16.5, 33.5, 37.5), -14),
    ("cortex", (44, -66, -48), (42, 10, 13), 14),  # pubic ramus
    ("marrow", (44, -66, -48), (40, 8, 11), 14),
    ("cortex", (78, 38, -62), (17, 20, 38), 0),  # ischium
    ("marrow", (78, 38, -62), (14.5, 17.5, 35.5), 0),
    ("fat", (110, 0, -26), (29, 29, 29), 0),  # joint
    ("cortex", (110, 0, -26), (26.5, 26.5, 26.5), 0),  # head of the femur
    ("marrow", (110, 0, -26), (24.5, 24.5, 24.5), 0),
    ("cortex", (142, 12, -48), (21, 19, 27), 0),  # greater trochanter
    ("marrow", (142, 12, -48), (18.5, 16.5, 24.5), 0),
    ("muscle", (67, 9, -22), (9, 40, 50), -10),  # obturator internus
    ("muscle", (31, 34, -62), (4, 34, 22), 28),  # levator ani
)


class Pelvis:
    """One patient: a list of (tissue, shape) in painting order, and the tumour. ``seed`` decides what is not given."""

    def __init__(self, seed: int, latents: Latents | None = None, *, node_short_axis_mm: float | None = None) -> None:
        rng = np.random.default_rng([seed, 1])
        self.latents = latents or draw_latents(seed)
        self.node_short_axis_mm = node_short_axis_mm or draw_short_axis(seed)
        self.texture = Texture(rng, grain_mm=2.0)
        self._tumour_texture = Texture(rng, grain_mm=_GRAIN_MM)
        self._tumour_boundary = Texture(rng, grain_mm=7.0)
        waves = rng.standard_normal((3, 3, 3))
        self._waves = waves / np.linalg.norm(waves, axis=-1, keepdims=True) * rng.uniform(1 / 28, 1 / 16, (3, 3, 1))
        self._phases = rng.uniform(0, 2 * np.pi, (3, 3))
        self.cervix = rng.normal(0, [3.0, 4.0, 3.0])
        diameter = self.latents.diameter_mm
        self.tumour = Ellipsoid(self.cervix + np.array([0, 1, -4]), diameter / 2 * np.array([1.0, 0.9, 1.1]))
        self.layers: list[tuple[str, Shape]] = [
            *_trunk(rng),
            *_midline_bones(rng),
            *_vessels(rng),
            *_rectum(rng),
            *_bladder(rng),
            *_bowel(rng),
            *_uterus(rng, self.cervix),
            *_nodes(rng, self.cervix, self.node_short_axis_mm),
        ]

    def warp(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Return points (mm) moved by the patient's smooth warp, at most :data:`WARP_MM` along each axis."""
        moved: list[Array] = []
        for axis, coordinate in enumerate((x, y, z)):
            shift = np.zeros_like(coordinate)
            for wave, phase in zip(self._waves[axis].astype(np.float32), self._phases[axis], strict=True):
                shift += np.sin(wave[0] * x + wave[1] * y + wave[2] * z + np.float32(phase))
            moved.append(np.asarray(coordinate + np.float32(WARP_MM / 3) * shift, np.float32))
        return moved[0], moved[1], moved[2]

    def tumour_depth(self, x: Array, y: Array, z: Array) -> Array:
        """Return the depth below the tumour's rough surface in mm at warped points.

        How far a point of the surface lies out is that of its direction from the centre, so that the tumour stays one piece.
        """
        radius, centre = self.tumour.radius(x, y, z), self.tumour.centre.astype(np.float32)
        surface = [c + (p - c) / np.maximum(radius, np.float32(1e-3)) for p, c in zip((x, y, z), centre, strict=True)]
        bumps = np.clip(self._tumour_boundary(*surface), -_BUMPS, _BUMPS)
        depth: Array = (1 + np.float32(self.latents.roughness) * bumps - radius) * np.float32(self.tumour.semi_axes.min())
        return depth

    def tumour_variation(self, x: Array, y: Array, z: Array) -> Array:
        """Return the logarithm of T2 relative to its mean within the tumour; ADC varies the other way at 0.6 of it."""
        scale = np.float32(_GRAIN_MM / self.latents.grain_mm)
        return np.float32(self.latents.texture) * self._tumour_texture(scale * x, scale * y, scale * z)

    def tumour_enhancement(self, depth: Array, variation: Array) -> Array:
        """Return what contrast agent adds to R1 within the tumour (1/s), from the depth below its surface (mm) and its variation."""
        rim = np.clip((RIM_MM - depth) / np.float32(EDGE_MM) + np.float32(0.5), 0, 1)
        inner = np.float32(TISSUES["tumour"].enhancement) * np.exp(np.float32(0.8) * variation)
        return np.asarray(inner + np.float32(self.latents.rim_enhancement) * rim, np.float32)


def _tube(levels: Sequence[float], centres: Sequence[tuple[float, float]], semi_axes: Sequence[tuple[float, float]]) -> Tube:
    return Tube(np.asarray(levels, float), np.asarray(centres, float), np.asarray(semi_axes, float))


def _layered(names: str, centre: Vector, outer: Vector, steps: Sequence[float], rotation: Vector) -> list[tuple[str, Shape]]:
    """Nest ellipsoids: ``names`` from outside in, ``steps`` mm taken off the semi-axes for each."""
    return [(name, Ellipsoid(centre, np.maximum(outer - step, 1.0), rotation)) for name, step in zip(names.split(), steps, strict=True)]


def _trunk(rng: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    width, depth = np.array([176.0, 116.0]) * rng.uniform(0.94, 1.06, 2)
    ends = np.array([-400.0, 400.0])
    for name, step in (("skin", 0.0), ("fat", 2.5)):
        axes = np.array([[width - step, depth - step]] * 2)
        yield name, Tube(ends, np.array([[0.0, 4.0]] * 2), axes, power=2.5)
    scale = rng.uniform(0.95, 1.05)
    for tissue, centre, semi_axes, turn_deg in _PAIRED:
        for side in (1, -1):
            where = np.array(centre) * [side * scale, 1, 1] + rng.normal(0, 1.0, 3)
            size = np.array(semi_axes) + (0 if tissue == "marrow" else rng.normal(0, 0.3))
            yield tissue, Ellipsoid(where, size, turn(0, 0, side * turn_deg))


def _midline_bones(rng: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    levels, y = (-55, -30, 10, 60, 120), np.array([70, 84, 90, 80, 60]) + rng.normal(0, 2)
    axes = [(8, 6), (16, 8), (30, 13), (48, 20), (54, 26)]
    for name, step in (("cortex", 0.0), ("marrow", 2.5)):
        yield name, _tube(levels, [(0, v) for v in y], [(a - step, b - step) for a, b in axes])
    for level in (25.0, 58.0, 92.0):  # discs between the sacral vertebrae
        yield "fascia", Ellipsoid(np.array([0, 84 - level / 6, level]), np.array([30.0, 14.0, 2.2]))
    yield "fascia", Ellipsoid(np.array([0.0, -72.0, -52.0]), np.array([3.5, 12.0, 17.0]))  # symphysis


def _vessels(rng: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    levels = (-120, -50, 0, 60, 120)
    for side in (1, -1):
        artery = np.array([(80, -88), (74, -76), (66, -54), (52, -20), (30, 10)]) * [side, 1] + rng.normal(0, 1.5, (5, 2))
        vein = artery + np.array([side * -9, 9]) + rng.normal(0, 1.0, (5, 2))
        for name, path, radius in (("vein", vein, 6.0), ("fascia", artery, 5.6), ("artery", artery, 4.6)):
            yield name, _tube(levels, [(a, b) for a, b in path], [(radius, radius)] * 5)
        for _ in range(4):  # branches of the internal iliac vessels on the side wall
            path = np.array([side * rng.uniform(46, 56), rng.uniform(-5, 45)]) + rng.normal(0, 6, (5, 2)).cumsum(0) / 2
            radius = rng.uniform(1.4, 2.4)
            yield str(rng.choice(["vein", "artery"])), _tube(levels, [(a, b) for a, b in path], [(radius, radius)] * 5)
        for _ in range(6):  # venous plexus beside the cervix
            centre = np.array([side * rng.uniform(24, 40), rng.uniform(-12, 16), rng.uniform(-25, 25)])
            yield "vein", Ellipsoid(centre, rng.uniform([1.6, 1.6, 4], [3.0, 3.0, 14]), turn(*rng.uniform(-40, 40, 3)))


def _rectum(rng: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    levels = (-100, -60, -25, 10, 45, 80)
    path = np.array([(0, 44), (0, 50), (1, 56), (4, 58), (10, 50), (18, 38)], float)
    path[2:, 0] += rng.normal(0, 3)
    calibre = np.array([9, 12, 16, 18, 17, 16]) * rng.uniform(0.85, 1.2)
    for name, extra in (
        ("fascia", 15.0),
        ("fat", 14.0),
        ("wall", 0.0),
        ("stool", -3.6),
    ):  # mesorectal fascia, mesorectum
        yield name, _tube(levels, [(a, b) for a, b in path], [(c + extra, 0.92 * c + 0.6 * extra) for c in calibre])
    for _ in range(int(rng.integers(2, 5))):
        level = rng.uniform(-60, 70)
        x, y, c = (float(np.interp(level, levels, v)) for v in (path[:, 0], path[:, 1], calibre))
        length = rng.uniform(8, 26)
        yield "gas", Ellipsoid(np.array([x, y - 0.35 * c, level]), np.array([0.6 * c, 0.35 * c, length]))  # gas rises


def _bladder(rng: np.random.Generator) -> list[tuple[str, Shape]]:
    outer = np.array([rng.uniform(30, 46), rng.uniform(18, 27), rng.uniform(24, 36)])
    centre = np.array([rng.normal(0, 2), -28 - outer[1], -6.0])
    return _layered("wall urine", centre, outer, (0.0, rng.uniform(2.8, 4.5)), turn(12, 0, 0))


def _bowel(rng: np.random.Generator) -> Iterator[tuple[str, Shape]]:
    for _ in range(9):
        centre = np.array([rng.uniform(-60, 60), rng.uniform(-75, 20), rng.uniform(52, 100)])
        axes, rotation = rng.uniform([10, 10, 16], [15, 15, 30]), turn(*rng.uniform(-60, 60, 3))
        yield from _layered("wall bowel", centre, axes, (0.0, 2.2), rotation)
        if rng.random() < 0.5:
            yield "gas", Ellipsoid(centre - [0, axes[0] * 0.4, 0], axes * [0.55, 0.35, 0.5], rotation)


def _uterus(rng: np.random.Generator, cervix: Vector) -> Iterator[tuple[str, Shape]]:
    tilt, lean = turn(rng.normal(38, 8), 0, 0), rng.normal(0, 4)
    fundus = cervix + tilt @ [lean, 0, 48]
    size = np.array([27.0, 21.0, 36.0]) * rng.uniform(0.88, 1.12)
    for side in (1, -1):
        centre = np.array([side * rng.uniform(38, 48), rng.uniform(-8, 14), rng.uniform(24, 46)])
        yield "ovary", Ellipsoid(centre, rng.uniform([11, 8, 12], [15, 11, 18]), turn(*rng.uniform(-30, 30, 3)))
        for _ in range(5):
            radius = rng.uniform(1.8, 4.2)
            yield "follicle", Ellipsoid(centre + rng.uniform(-6, 6, 3), np.full(3, radius))
        for reach, back, half in (((28, 3, -2), 0.0, (20, 5.5, 13)), ((20, 26, 4), 60.0, (20, 3.5, 6))):  # cardinal, uterosacral
            where = cervix + np.array(reach) * [side, 1, 1] + rng.normal(0, 1.5, 3)
            yield "parametrium", Ellipsoid(where, np.array(half) * rng.uniform(0.85, 1.15), turn(0, 0, side * back))
    vagina = cervix + np.array([0, 0, -52])
    yield "fascia", Ellipsoid(vagina, np.array([21.0, 8.0, 32.0]))
    yield "wall", Ellipsoid(vagina, np.array([20.0, 7.0, 31.0]))
    yield "mucosa", Ellipsoid(vagina, np.array([14.0, 2.0, 29.0]))
    yield from _layered("fascia myometrium junctional mucosa", fundus, size, (-0.8, 0, 11.5, 15.5), tilt)
    if rng.random() < 0.35:  # a small fibroid
        yield "stroma", Ellipsoid(fundus + tilt @ (rng.uniform(-0.55, 0.55, 3) * size), np.full(3, rng.uniform(4, 9)))
    neck = np.array([18.0, 16.0, 27.0]) * rng.uniform(0.92, 1.08)
    yield from _layered("outer_stroma stroma", cervix, neck, (0, 5.0), turn(10, 0, 0))
    yield "mucosa", Ellipsoid(cervix, np.array([5.0, 3.2, 25.0]), turn(10, 0, 0))


def _nodes(rng: np.random.Generator, cervix: Vector, largest_mm: float) -> Iterator[tuple[str, Shape]]:
    """Yield the largest node, of this short axis, and some smaller ones along the side walls."""
    first = int(rng.integers(2))
    for i, side in enumerate((1, -1)):
        for j in range(int(rng.integers(1, 4))):
            reach = (44, 56) if (i, j) != (first, 0) or largest_mm < 10 else (40, 46)
            centre = cervix + np.array([side * rng.uniform(*reach), rng.uniform(-35, 15), rng.uniform(-10, 30)])
            radius = largest_mm / 2 if (i, j) == (first, 0) else rng.uniform(0.4, 0.9) * min(largest_mm, 8.5) / 2
            yield "node", Ellipsoid(centre, np.array([radius, radius, 1.5 * radius]), turn(*rng.uniform(-30, 30, 3)))
