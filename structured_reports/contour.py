"""The outline of a region on one slice, and its axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.types import FloatArray

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) along the upper, right, lower and left edge of a pixel: clockwise


def trace_outline(mask: NDArray[np.generic]) -> FloatArray:
    """Return the outer outline of the mask's largest part as a closed polygon, shape (n, 2).

    Points are (column, row) from the upper left corner of the upper left pixel, whose centre is (0.5, 0.5): the coordinates of SCOORD
    (PS3.3 C.18.6.1.2). The polygon runs along the pixels' edges, so that it holds exactly the pixels of that part; holes are not drawn.
    Pixels that touch at a corner only are two parts. The first point is the last.
    """
    inside = np.pad(np.asarray(mask) > 0, 1)
    starts: dict[tuple[int, int], list[int]] = {}
    for direction, (rows, columns) in enumerate(_free_edges(inside)):
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            starts.setdefault((row, column), []).append(direction)
    outlines = []
    while starts:
        outlines.append(_follow(starts))
    largest = max(outlines, key=_signed_area)
    return np.asarray([(column, row) for row, column in largest], dtype=np.float64)


def measure_axes(mask: NDArray[np.generic], spacing: tuple[float, float]) -> tuple[float, float]:
    """Return the longest diameter of a mask on one slice and its extent across it, in the unit of ``spacing`` (row, column)."""
    outline = trace_outline(mask)[:, ::-1] * np.asarray(spacing)
    between = outline[:, None] - outline[None]
    lengths = np.hypot(between[..., 0], between[..., 1])
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    along = (outline[second] - outline[first]) / lengths[first, second]
    across = outline @ np.array([-along[1], along[0]])
    return float(lengths.max()), float(np.ptp(across))


def _free_edges(inside: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return, per direction of ``_STEPS``, where edges between inside and outside begin, as corner indices of the unpadded mask."""
    edges = []
    for (row_shift, column_shift), (row_corner, column_corner) in zip(
        ((-1, 0), (0, 1), (1, 0), (0, -1)), ((0, 0), (0, 1), (1, 1), (1, 0)), strict=True
    ):
        neighbour = np.roll(inside, (-row_shift, -column_shift), axis=(0, 1))
        rows, columns = np.nonzero(inside & ~neighbour)
        edges.append((rows - 1 + row_corner, columns - 1 + column_corner))
    return edges


def _follow(starts: dict[tuple[int, int], list[int]]) -> list[tuple[int, int]]:
    """Take the edges of one closed outline out of ``starts``; return its corners, the first again at the end."""
    origin = min(starts)
    at, direction, corners = origin, starts[origin][0], [origin]
    while True:
        here = starts[at]
        # Where two parts touch at a corner, a right turn stays on this one.
        turn = next(t for t in ((direction + 1) % 4, direction, (direction - 1) % 4, (direction + 2) % 4) if t in here)
        here.remove(turn)
        if not here:
            del starts[at]
        if turn != direction and at != origin:
            corners.append(at)
        direction = turn
        at = (at[0] + _STEPS[turn][0], at[1] + _STEPS[turn][1])
        if at == origin:
            return [*corners, origin]


def _signed_area(corners: list[tuple[int, int]]) -> float:
    """Return twice the area within an outline: positive for outer ones, negative for holes."""
    points = np.asarray(corners, dtype=float)
    (y, x), (next_y, next_x) = points[:-1].T, points[1:].T
    return float(np.sum(x * next_y - next_x * y))
