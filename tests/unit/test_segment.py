"""What is done with a network's marks: gaps between slices, strays, and drawings that cannot be used."""

from __future__ import annotations

import numpy as np

from pipelines.models.segment import fill_gaps


def _discs(*radii: float, shift: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    rows, columns = np.mgrid[:40, :40] - 20
    return np.array([rows**2 + (columns - k * shift) ** 2 < r**2 for k, r in enumerate(radii)])


def test_missing_slice_is_filled_halfway_between_its_neighbours() -> None:
    filled, count = fill_gaps(_discs(0, 12, 0, 6, 0))
    assert count == 1
    radius = np.sqrt(filled[2].sum() / np.pi)
    assert abs(radius - 9) < 1
    assert not filled[[0, 4]].any()
    assert (filled[[1, 3]] == _discs(0, 12, 0, 6, 0)[[1, 3]]).all()


def test_gaps_of_two_slices_and_between_things_apart_stay() -> None:
    assert fill_gaps(_discs(12, 0, 0, 12))[1] == 0
    apart = _discs(5, 0, 5, shift=8)  # 16 pixels between the two
    filled, count = fill_gaps(apart)
    assert count == 0
    assert (filled == apart).all()
