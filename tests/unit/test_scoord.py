"""Outlines that people drew on ultrasound frames, as structured reports carry them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from pipelines.errors import MissingRoi
from pipelines.imaging.series import read_series
from pipelines.imaging.ultrasound import choose_ultrasound
from pipelines.types import UltrasoundFrame
from tests.us import LESION, REGION, Outline, Picture, make, make_report, rectangle, write

ELLIPSE = [
    (LESION[0], LESION[1] - LESION[3]),
    (LESION[0], LESION[1] + LESION[3]),
    (LESION[0] - LESION[2], LESION[1]),
    (LESION[0] + LESION[2], LESION[1]),
]
NEOPLASM = ("108369006", "Neoplasm")


def _read(tmp_path: Path, *images: Dataset) -> UltrasoundFrame:
    return choose_ultrasound(read_series(write(tmp_path, *images)))


@pytest.mark.parametrize(
    ("kind", "points", "area"),
    [
        ("POLYLINE", rectangle(100, 120, 160, 200), 60 * 80),
        ("ELLIPSE", ELLIPSE, np.pi * LESION[2] * LESION[3]),
        ("CIRCLE", [(140, 165), (140, 190)], np.pi * 25**2),
    ],
)
def test_scoord_shapes_become_masks_on_the_image(tmp_path: Path, kind: str, points: list[tuple[float, float]], area: float) -> None:
    image = make()
    frame = _read(tmp_path, image, make_report(Outline(image, points, kind=kind)))
    assert frame.roi is not None and frame.roi.shape == frame.grey.shape
    assert frame.roi.sum() == pytest.approx(area, rel=0.015)  # whole pixels
    rows, columns = np.nonzero(frame.roi)
    centre = np.mean(points[:-1] if kind == "POLYLINE" else points[:1] if kind == "CIRCLE" else points, axis=0)
    assert (rows.mean() + REGION[0], columns.mean() + REGION[1]) == pytest.approx(tuple(centre), abs=0.6)
    assert 'SR outline "Lesion 1", drawn by READER^ONE' in frame.reasons


def test_outlined_image_beats_a_better_one_without(tmp_path: Path) -> None:
    marked = make(Picture(number=1, colour="caliper"))
    frame = _read(tmp_path, marked, make(Picture(number=2)), make_report(Outline(marked, ELLIPSE, kind="ELLIPSE")))
    assert int(frame.source.InstanceNumber) == 1
    assert frame.region is not None and frame.region.drawn_by == "READER^ONE"


def test_outline_is_chosen_by_code_then_by_name(tmp_path: Path) -> None:
    image = make()
    ovary = Outline(image, rectangle(80, 150, 90, 160), label="Ovary")
    named = Outline(image, rectangle(120, 150, 140, 170), label="Tumour")
    coded = Outline(image, rectangle(120, 150, 150, 180), label="A", finding=NEOPLASM)
    alone = Outline(image, rectangle(80, 150, 90, 160), label="Outline 1")
    for outlines, area in (((ovary, named, coded), 900), ((ovary, named), 400), ((alone,), 100)):
        frame = _read(tmp_path / str(area), image, make_report(*outlines))
        assert frame.roi is not None and frame.roi.sum() == area


def test_several_outlines_that_name_no_tumour_are_refused(tmp_path: Path) -> None:
    image = make()
    outlines = [Outline(image, rectangle(80, 150, 90, 160), label=name) for name in ("Ovary", "Bladder")]
    with pytest.raises(MissingRoi, match='"Ovary", "Bladder"'):
        _read(tmp_path, image, make_report(*outlines))


def test_newest_report_wins_and_our_own_never_counts(tmp_path: Path) -> None:
    image = make()
    older = make_report(Outline(image, rectangle(100, 120, 160, 200)), number=1, time="110000")
    newer = make_report(Outline(image, rectangle(100, 120, 110, 130)), number=2, observer="READER^TWO", time="120000")
    ours = make_report(Outline(image, rectangle(100, 120, 140, 160)), number=3, model="Cervinode", time="130000")
    frame = _read(tmp_path, image, older, newer, ours)
    assert frame.roi is not None and frame.roi.sum() == 100
    assert frame.region is not None and frame.region.drawn_by == "READER^TWO"


def test_lines_and_points_are_no_regions(tmp_path: Path) -> None:
    image = make()
    line = Outline(image, [(100, 120), (140, 160)], label="Diameter")
    angle = Outline(image, [(100, 120), (140, 160), (150, 120), (90, 110)], label="Angle")
    point = Outline(image, [(100, 120)], kind="POINT")
    frame = _read(tmp_path, image, make_report(line, angle, point))
    assert frame.roi is None and frame.region is None


def test_outline_outside_the_bmode_region_is_refused_or_reported(tmp_path: Path) -> None:
    image = make()
    with pytest.raises(MissingRoi, match="marks nothing within the B-mode region"):
        _read(tmp_path / "out", image, make_report(Outline(image, rectangle(2, 2, 20, 30))))
    frame = _read(tmp_path / "half", image, make_report(Outline(image, rectangle(20, 150, 40, 170))))
    assert "50% of the outlined area lies outside the B-mode region" in frame.problems


def test_outline_on_an_unusable_image_is_not_silently_dropped(tmp_path: Path) -> None:
    doppler = make(Picture(number=1, colour="doppler"))
    with pytest.raises(MissingRoi, match=r"cannot be used: image 1: .* coloured"):
        _read(tmp_path, doppler, make(Picture(number=2)), make_report(Outline(doppler, ELLIPSE, kind="ELLIPSE")))
