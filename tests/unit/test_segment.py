"""What is done with a network's marks: gaps between slices, strays, and drawings that cannot be used."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import onnxruntime
import pytest
from pydicom.uid import MRImageStorage

from pipelines.errors import UnusableDrawing
from pipelines.models.manifest import Segmenter, TensorSpec
from pipelines.models.segment import fill_gaps, segment
from pipelines.spec import RoiRule
from pipelines.types import ImageVolume, Roi, RoiOrigin, SeriesHeader, SeriesRole
from tests.bundles import segmenter_graph

SEGMENTER = Segmenter(
    file="segmenter.onnx",
    network="threshold",
    roles=(SeriesRole.T2W,),
    input=TensorSpec(name="image", shape=(-1, 1, 64, 64), axes="ncyx", range="z-score"),
    spacing_mm=2.0,
)
SESSION = onnxruntime.InferenceSession(segmenter_graph().SerializeToString(), providers=["CPUExecutionProvider"])  # marks what is bright
SLICES = 9


def _discs(*radii: float, shift: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    rows, columns = np.mgrid[:40, :40] - 20
    return np.array([rows**2 + (columns - k * shift) ** 2 < r**2 for k, r in enumerate(radii)])


def test_missing_slice_is_filled_halfway_between_its_neighbours() -> None:
    filled = fill_gaps(_discs(0, 12, 0, 6, 0))
    radius = np.sqrt(filled[2].sum() / np.pi)
    assert abs(radius - 9) < 1
    assert not filled[[0, 4]].any()
    assert (filled[[1, 3]] == _discs(0, 12, 0, 6, 0)[[1, 3]]).all()


def test_gaps_of_two_slices_and_between_things_apart_stay() -> None:
    assert (fill_gaps(_discs(12, 0, 0, 12)) == _discs(12, 0, 0, 12)).all()
    apart = _discs(5, 0, 5, shift=8)  # 16 pixels between the two
    assert (fill_gaps(apart) == apart).all()


def _draw(*discs: tuple[int, int, float], **rule: float) -> Roi:
    """Draw on a dark volume of 4 x 2 x 2 mm voxels with bright discs: (slice, column, radius in pixels)."""
    array = np.zeros((SLICES, 64, 64), dtype=np.float32)
    rows, columns = np.mgrid[:64, :64]
    for k, column, radius in discs:
        array[k][(rows - 32) ** 2 + (columns - column) ** 2 < radius**2] = 100
    volume = hd.Volume(array, np.diag([4.0, 2.0, 2.0, 1.0]), "PATIENT")
    header = SeriesHeader("1.2", "1.2.3", "MR", series_number=4, description="t2", sop_class_uid=MRImageStorage, n_instances=SLICES)
    image = ImageVolume(role=SeriesRole.T2W, header=header, volume=volume, sources=(), reason="test")
    return segment(image, SEGMENTER, session=SESSION, rule=RoiRule((SeriesRole.T2W,), **rule))


def test_description_says_what_was_kept_filled_and_how_wide_it_is() -> None:
    roi = _draw(*((k, 32, 8.0) for k in (2, 3, 4, 5)))
    assert roi.origin is RoiOrigin.MODEL
    assert roi.notes == ()
    assert "largest part, 100% of what it marked; slices filled: 0; 31 mm across (usual: 10 to 40 mm)" in roi.description


def test_slice_that_lacks_a_mark_is_filled_and_said() -> None:
    roi = _draw(*((k, 32, 8.0) for k in (2, 3, 5, 6)))
    assert roi.volume.array[4].sum() == roi.volume.array[3].sum()
    assert roi.notes == ("the drawn region lacked 1 slice between others, which were filled in",)
    assert "slices filled: 1" in roi.description


def test_stray_on_the_slice_that_lacks_a_mark_does_not_cut_the_lesion_in_half() -> None:
    roi = _draw(*((k, 24, 8.0) for k in (1, 2, 4, 5)), (3, 52, 2.5))
    assert roi.volume.array.any(axis=(1, 2)).tolist() == [1 <= k <= 5 for k in range(SLICES)]
    assert roi.volume.array[:, :, 40:].sum() == 0
    assert roi.notes == ("the drawn region lacked 1 slice between others, which were filled in",)


def test_slices_filled_in_what_is_not_kept_are_not_counted() -> None:
    roi = _draw(*((k, 20, 9.0) for k in (2, 3, 4)), (1, 52, 2.5), (3, 52, 2.5))
    assert "slices filled: 0" in roi.description
    assert roi.notes == ()


def test_largest_component_is_taken_and_a_reader_told_what_lay_elsewhere() -> None:
    roi = _draw((3, 20, 8.0), (4, 20, 8.0), (3, 48, 5.0))
    assert roi.volume.array[:, :, 40:].sum() == 0
    assert roi.volume.array[:, :, :40].any(axis=(1, 2)).tolist() == [k in (3, 4) for k in range(SLICES)]
    (note,) = roi.notes
    assert note.startswith("the network marked several regions; the largest, with 8")
    assert "8" in roi.description.split("largest part, ")[1][:1]


def test_stray_below_a_tenth_is_dropped_and_stands_in_the_description_only() -> None:
    roi = _draw(*((k, 20, 9.0) for k in (2, 3, 4)), (3, 52, 3.0))
    assert roi.volume.array[:, :, 44:].sum() == 0
    assert roi.notes == ()
    assert "largest part, 9" in roi.description


def test_nothing_marked_is_unusable_and_shown() -> None:
    with pytest.raises(UnusableDrawing, match="found no tumour on T2W") as caught:
        _draw()
    assert caught.value.drawing is not None
    assert not caught.value.drawing.mask.array.any()


@pytest.mark.parametrize("rule", [{"max_volume_ml": 1.0}, {"min_volume_ml": 90.0}])
def test_implausible_size_is_unusable_and_shown(rule: dict[str, float]) -> None:
    with pytest.raises(UnusableDrawing, match=r"ml on T2W are implausible \(expected") as caught:
        _draw((3, 32, 8.0), (4, 32, 8.0), **rule)
    assert caught.value.drawing is not None
    assert caught.value.drawing.mask.array.any()
