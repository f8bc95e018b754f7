"""The pictures: what is drawn lies where it belongs, and nothing runs out of the page."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pipelines.types import Contribution, Drawing, Measurement, Refusal, SeriesRole
from structured_reports import wording
from structured_reports.canvas import AGAINST, BACKGROUND, FOR, OUTLINE, Page, colour_map, drawable
from structured_reports.context import Predecessor
from structured_reports.facts import draw_facts
from structured_reports.heatmap import draw_heatmap
from structured_reports.images import key_slice
from structured_reports.language import load_messages
from structured_reports.summary import draw_summary
from tests.pages import recorded
from tests.results import ADC, CREATED_AT, MM2_S, Result, make_classes, make_context, make_prediction, make_result, make_ultrasound

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
    pixels = draw_heatmap(result.prediction, result.evidence, result.context, role=role, index=index, say=EN)
    rows, columns = np.nonzero(is_colour(pixels, OUTLINE))
    volume, mask = result.evidence.volumes[role].volume, result.evidence.rois[role].array[index]
    bar = np.nonzero((pixels[546:550, 16:300] > 220).all(axis=(0, 2)))[0]
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
    pages = [draw_heatmap(result.prediction, evidence, result.context, role=role, index=8, say=EN) for evidence in (result.evidence, empty)]
    assert (pages[0][566:596] != pages[1][566:596]).any()
    over = pages[1][104:560, 500:950]
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


def rows_of_text(pixels: np.ndarray) -> int:
    """Return how many lines of text the right-hand column of the summary has."""
    written = (pixels[292:706, 640:1000].max(axis=-1) > 90).any(axis=1)
    return int(np.count_nonzero(np.diff(written.astype(int)) == 1))


def test_summary_lists_every_series_whatever_the_flags(result: Result) -> None:
    """Nothing gives way in silence: with long flags the rows are smaller, and what has no room is counted."""
    flag = "not verified, made for patients with: no lymph node of 10 mm or more in short axis, and no necrotic or irregular one on MRI"
    plain, one, many = (
        rows_of_text(draw_summary(result.prediction, result.evidence, make_context(), say=EN, flags=(flag,) * n)) for n in (0, 1, 6)
    )
    assert plain == 1 + 5 + 2 + 1 + 3  # tumour with its measures and whose region it is; series
    assert one == plain + 1 + 3
    assert many >= plain + 1 + 2


class Recorded(Page):
    """A page that remembers what was written on it."""

    def __init__(self) -> None:
        super().__init__(1024, 768)
        self.written: list[str] = []

    def text(self, xy: tuple[float, float], words: str, **style: Any) -> float:
        self.written.append(words)
        return super().text(xy, words, **style)


@pytest.mark.parametrize(("n_flags", "cut"), [(0, False), (2, False), (30, True)])
def test_column_counts_what_it_leaves_out(result: Result, n_flags: int, cut: bool) -> None:
    page = Recorded()
    draw_facts(page, result.evidence, ("a short flag",) * n_flags, EN, left=640, top=292, right=1000, bottom=708)
    told = sum(int(words.split()[1]) for words in page.written if words.startswith("+ "))
    listed = sum(page.written.count(words) for words in ("a short flag", "T1W", "T2W_FS", "DWI"))
    assert listed + told == n_flags + 3
    assert bool(told) == cut


PAGES = {
    "mr": make_result,
    "classes": make_classes,
    "ultrasound": make_ultrasound,
}


@pytest.mark.parametrize("name", PAGES)
def test_corners_stay_free_for_the_viewer_s_own_words(name: str) -> None:
    """OHIF writes date and series to the upper left, window and image number to the lower corners."""
    captures = [d for d in PAGES[name]().build() if d.Modality == "OT"]
    assert len(captures) >= 4
    for pixels in (d.pixel_array for d in captures):
        for corner in (pixels[:92, :110], pixels[:60, :170], pixels[:92, -110:], pixels[-48:, :110], pixels[-48:, -110:]):
            assert is_colour(corner, BACKGROUND).all()


def test_crowded_pages_keep_their_margins(result: Result) -> None:
    crowded = replace(
        result.evidence,
        measurements=tuple(Measurement(ADC, 0.001 + i * 1e-4, MM2_S) for i in range(5)),
        contributions=tuple(Contribution("x" * 90, "T2W_FS:radiomics", 0.0, 5.0 / (i + 1)) for i in range(30)),
    )
    prediction = make_prediction(title="A very long title " * 6, flags=("a flag with many words " * 9,) * 6, threshold=0.999)
    late = make_context(station="A" * 16, version=12, predecessor=Predecessor("2.25.1", "2.25.2", created_at=CREATED_AT))
    pages = [draw_summary(prediction, crowded, late, say=EN, flags=prediction.flags)]
    pages.append(draw_heatmap(prediction, crowded, late, role=SeriesRole.DWI, index=8, say=EN))
    for pixels in pages:
        for edge in (pixels[:4], pixels[-3:], pixels[:, :12], pixels[:, -12:]):
            assert is_colour(edge, BACKGROUND).all()
    assert is_colour(pages[0][709:716], BACKGROUND).all()


def test_page_without_contributions_or_letters_that_the_font_lacks(result: Result) -> None:
    prediction = make_prediction(flags=("盆腔 unreadable",))
    pixels = draw_summary(prediction, replace(result.evidence, contributions=()), make_context(), say=EN, flags=prediction.flags)
    assert pixels.shape == (768, 1024, 3)
    assert not is_colour(pixels[335:700, :600], FOR).any()


FOUND = tuple(f'series {i} "t2_tse_tra" (MR, 19 images): no role, echo time 102 ms' for i in range(40))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("failed", [False, True])
def test_refusal_page_says_state_reasons_and_what_was_found(result: Result, language: str, failed: bool) -> None:
    reasons = ("no T2W_FS series found", "no DWI with b near 800 s/mm2 series found")
    refusal = Refusal(
        "olnm_mri", "Occult lymph node metastasis (MRI)", "BUNDLE" if failed else "MISSING_SEQUENCE", reasons, FOUND[:2], failed
    )
    with recorded() as lines:
        page, _ = replace(result, context=make_context(language=language)).refuse(refusal)
    say = drawable(load_messages(language))
    state, kind = ("failed", "R.FAILURE") if failed else ("refused", "R.SEQUENCE")
    kinds = {"R.FAILURE": "The analysis failed for a technical reason", "R.SEQUENCE": "A required sequence is missing"}
    expected = {say("status.research"), say(f"refusal.{state}"), say("refusal.not_negative"), say.known(f"refusal.{kind}", kinds[kind])}
    expected |= {wording.sentence(say.translate(r)) for r in reasons} | set(FOUND[:2])
    expected.add(say.known("system.olnm_mri.title", refusal.title))
    assert expected <= set(lines)
    assert (page.ImageType[3], page.BurnedInAnnotation, page.InstanceNumber) == ("REFUSAL", "NO", 1)
    assert page.SourceImageSequence[0].ReferencedSOPInstanceUID in {d.SOPInstanceUID for d in result.sources}


def test_crowded_refusal_page_counts_what_it_leaves_out_and_keeps_its_margins(result: Result) -> None:
    reasons = tuple(
        f"series {i} has a gap of 13.5 mm between two slices, {'which is more than between the others, ' * 3}" for i in range(12)
    )
    with recorded() as lines:
        page, _ = result.refuse(Refusal("olnm_mri", "A very long title " * 6, "BAD_GEOMETRY", reasons, FOUND))
    left_out = [int(line.split()[1]) for line in lines if line.startswith("+ ")]
    whole = [sum(line.startswith(start) for line in lines) for start in ("Series ", "series ")]
    assert [a + b for a, b in zip(left_out, whole, strict=True)] == [12, 40]
    assert min(whole) >= 2
    pixels = page.pixel_array
    for edge in (pixels[:4], pixels[-3:], pixels[:, :12], pixels[:, -12:], pixels[:92, :110], pixels[-48:, :110], pixels[-48:, -110:]):
        assert is_colour(edge, BACKGROUND).all()
    assert is_colour(pixels[709:716], BACKGROUND).all()


def test_word_longer_than_a_line_is_broken_at_its_joints() -> None:
    page, name = Page(400, 100), "T2W_FS:radiomics:log-sigma-2-0-mm-3D_glszm_SmallAreaHighGrayLevelEmphasis"
    lines = page.wrap(f"Outside the training range: {name}", size=16, width=300, lines=9)
    assert "".join(lines).endswith(name)
    assert all(page.width(line, size=16) <= 300 for line in lines)
    assert all(line[-1] in ":_-" or following[0].isupper() for line, following in pairwise(lines[1:]))


def _drawn(result: Result, *, marked: bool) -> Refusal:
    image = result.evidence.volumes[SeriesRole.T2W_FS]
    mask = result.evidence.roi.volume if marked else result.evidence.roi.volume.with_array(np.zeros_like(result.evidence.roi.volume.array))
    reason = "no roi was sent and the segmenter found no tumour on T2W_FS"
    return Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_ROI", (reason,), drawing=Drawing(image, mask))


@pytest.mark.parametrize("marked", [True, False])
def test_refused_drawing_is_shown_beside_its_slice(result: Result, marked: bool) -> None:
    _, page, report = result.refuse(_drawn(result, marked=marked))
    areas = np.count_nonzero(result.evidence.roi.volume.array, axis=(1, 2))
    index = int(areas.argmax()) if marked else len(areas) // 2
    source = result.evidence.volumes[SeriesRole.T2W_FS].sources[index]
    assert page.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert page.SeriesDescription == "[RUO] OLNM REFUSED pages"
    outlined = is_colour(page.pixel_array, OUTLINE)
    assert outlined[:, 492:].any() == marked
    assert not outlined[:, :492].any()
    assert page.pixel_array[100:560, 16:480].std() > 20  # the slice itself is there
    referred = {
        item.ReferencedSOPInstanceUID
        for element in report.iterall()
        if element.VR == "SQ"
        for item in element.value
        if "ReferencedSOPInstanceUID" in item
    }
    assert page.SOPInstanceUID in referred
