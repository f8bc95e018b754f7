"""The pictures: what is drawn lies where it belongs, and nothing runs out of the page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.types import Contribution, Measurement, SeriesRole
from structured_reports.canvas import AGAINST, BACKGROUND, FOR, OUTLINE, colour_map
from structured_reports.context import Predecessor
from structured_reports.heatmap import draw_heatmap
from structured_reports.images import key_slice
from structured_reports.language import load_messages
from structured_reports.summary import draw_summary
from tests.results import ADC, CREATED_AT, MM2_S, Result, make_context, make_prediction, make_result

EN = load_messages("en")


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


def is_colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels == np.array(colour)).all(axis=-1)


def test_colour_map_is_monotone_in_lightness() -> None:
    lightness = colour_map(np.linspace(0, 1, 50)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("role", [SeriesRole.T1W, SeriesRole.T2W_FS, SeriesRole.DWI])
def test_outline_has_the_size_of_the_region_at_the_scale_of_the_bar(result: Result, role: SeriesRole) -> None:
    index = key_slice(result.evidence, role)
    pixels = draw_heatmap(result.prediction, result.evidence, role=role, index=index, say=EN)
    rows, columns = np.nonzero(is_colour(pixels, OUTLINE))
    volume, mask = result.evidence.volumes[role].volume, result.evidence.rois[role].array[index]
    bar = np.nonzero((pixels[542:546, 16:300] > 220).all(axis=(0, 2)))[0]
    mm_per_pixel = 20.0 / len(bar)
    height_mm, width_mm = np.ptp(np.nonzero(mask), axis=1) * volume.spacing[1:]
    tolerance = max(volume.spacing[1:]) + 2 * mm_per_pixel
    assert np.ptp(rows) * mm_per_pixel == pytest.approx(height_mm + volume.spacing[1], abs=tolerance)
    assert np.ptp(columns) * mm_per_pixel == pytest.approx(width_mm + volume.spacing[2], abs=tolerance)
    assert columns.min() > 512  # the source image stays clean


def test_page_says_so_where_the_map_is_empty(result: Result) -> None:
    role = SeriesRole.DWI
    flat = result.evidence.activation_maps[role].with_array(np.zeros_like(result.evidence.activation_maps[role].array))
    empty = replace(result.evidence, activation_maps={role: flat})
    pages = [draw_heatmap(result.prediction, evidence, role=role, index=8, say=EN) for evidence in (result.evidence, empty)]
    assert (pages[0][560:600] != pages[1][560:600]).any()
    over = pages[1][100:556, 500:950]
    coloured = np.ptp(over.astype(int), axis=-1) > 8
    assert not (coloured & ~is_colour(over, OUTLINE)).any()


def test_summary_draws_each_contribution_on_its_side(result: Result) -> None:
    signed = tuple(Contribution(f"original_firstorder_F{i}", "DWI:radiomics", 0.0, v) for i, v in enumerate((2.0, -1.0)))
    pixels = draw_summary(
        make_prediction(call="positive"), replace(result.evidence, contributions=signed), make_context(), say=EN, flags=()
    )
    chart = pixels[335:700, :600]
    positive, negative = np.nonzero(is_colour(chart, FOR)), np.nonzero(is_colour(chart, AGAINST))
    assert positive[1].min() > negative[1].max()
    assert np.ptp(positive[1]) == pytest.approx(2 * np.ptp(negative[1]), abs=4)
    assert positive[0].max() < negative[0].min()


def test_summary_bar_is_as_long_as_the_probability(result: Result) -> None:
    for probability in (0.0, 0.25, 1.0):
        prediction = make_prediction(probability=probability, threshold=0.5, call="negative", interval=None)
        pixels = draw_summary(prediction, result.evidence, make_context(), say=EN, flags=())
        assert is_colour(pixels[222], AGAINST).sum() == pytest.approx(976 * probability, abs=8)


def test_summary_names_the_version_from_the_second_on(result: Result) -> None:
    contexts = [
        make_context(),
        *(make_context(version=2, predecessor=Predecessor("2.25.1", "2.25.2", created_at=at)) for at in (None, CREATED_AT)),
    ]
    right = [draw_summary(result.prediction, result.evidence, c, say=EN, flags=())[60:92, 640:1000].astype(int).sum() for c in contexts]
    assert right[0] < right[1] < right[2]


def test_crowded_pages_keep_their_margins(result: Result) -> None:
    crowded = replace(
        result.evidence,
        measurements=tuple(Measurement(ADC, 0.001 + i * 1e-4, MM2_S) for i in range(5)),
        contributions=tuple(Contribution("x" * 90, "T2W_FS:radiomics", 0.0, 5.0 / (i + 1)) for i in range(30)),
    )
    prediction = make_prediction(title="A very long title " * 6, flags=("a flag with many words " * 9,) * 6, threshold=0.999)
    late = make_context(station="A" * 16, version=12, predecessor=Predecessor("2.25.1", "2.25.2", created_at=CREATED_AT))
    pages = [draw_summary(prediction, crowded, late, say=EN, flags=prediction.flags)]
    pages.append(draw_heatmap(prediction, crowded, role=SeriesRole.DWI, index=8, say=EN))
    for pixels in pages:
        for edge in (pixels[:4], pixels[-3:], pixels[:, :12], pixels[:, -12:]):
            assert is_colour(edge, BACKGROUND).all()
    assert is_colour(pages[0][709:716], BACKGROUND).all()


def test_page_without_contributions_or_letters_that_the_font_lacks(result: Result) -> None:
    prediction = make_prediction(flags=("盆腔 unreadable",))
    pixels = draw_summary(prediction, replace(result.evidence, contributions=()), make_context(), say=EN, flags=prediction.flags)
    assert pixels.shape == (768, 1024, 3)
    assert not is_colour(pixels[335:700, :600], FOR).any()
