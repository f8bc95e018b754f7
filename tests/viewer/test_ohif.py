"""What a radiologist sees of our results in OHIF."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from tests.e2e.servers import wait_until
from tests.viewer.browser import PATIENCE_S, Ohif, Shown
from tests.viewer.cases import ULTRASOUND, Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # software rendering on a busy machine

Studies = dict[str, Case]
WITHOUT_RESULT = ("refused", "failed", "refused_ultrasound")
_DARK = 40  # brightest level of the background of a page and of what lies around it


def _has(text: str, *lines: str) -> None:
    for line in lines:
        assert line in text, f"{line!r} is not in\n{text}"


def _number(report: Dataset, code: str) -> str:
    """Return the value of a NUM item as OHIF writes it."""
    numbers = (c for c in _items(report) if c.ValueType == "NUM" and c.ConceptNameCodeSequence[0].CodeValue == code)
    return f"{float(next(numbers).MeasuredValueSequence[0].NumericValue):g}"


def _region(report: Dataset) -> Dataset:
    """Return the only SCOORD item."""
    (region,) = (c for c in _items(report) if c.ValueType == "SCOORD")
    return region


def _items(report: Dataset) -> Iterator[Dataset]:
    for element in report.iterall():
        if element.keyword == "ContentSequence":
            yield from element.value


def _masks(seg: Dataset) -> dict[str, NDArray[np.bool_]]:
    """Return the segmented pixels by SOP Instance UID of the image they were drawn on."""
    frames = np.asarray(seg.pixel_array).reshape(-1, seg.Rows, seg.Columns)
    groups = seg.PerFrameFunctionalGroupsSequence
    sources = [g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID for g in groups]
    return {str(uid): frame > 0 for uid, frame in zip(sources, frames, strict=True)}


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def _overlap(shown: Shown, masks: dict[str, NDArray[np.bool_]], case: Case) -> float:
    """Return how well the coloured pixels of the canvas agree with our segmentation of the image that is shown."""
    return _dice(shown.coloured, shown.sample(masks[shown.sop_instance_uid], case.sources[shown.sop_instance_uid]))


def _distance(shown: Shown, points: NDArray[np.float64], report: Dataset, source: Dataset) -> float:
    """Return the largest distance, in pixels of the source, of the points drawn from those in the report."""
    stated = np.array(_region(report).GraphicData, dtype=float).reshape(-1, 2) - 0.5  # PS3.3 C.18.6.1.2: 0.5 is the first pixel's centre
    indices = shown.indices(source)
    x, y = np.round(points - 0.5).astype(int).T
    drawn = indices[y, x]
    return float(np.linalg.norm(drawn[:, None] - stated[None], axis=-1).min(axis=1).max())


def test_study_list_names_the_patients(ohif: Ohif, studies: Studies) -> None:
    ohif.open_list()
    ohif.page.get_by_text("王, 小东").wait_for()
    text = ohif.page.locator("table").last.inner_text()
    _has(text, "PHANTOM, SYNTHETIC", "盆腔MR", "US transvaginal")
    ohif.keep("study-list")


@pytest.mark.parametrize("name", ["phantom", "chinese", *WITHOUT_RESULT, *ULTRASOUND])
def test_series_list_has_every_result(ohif: Ohif, studies: Studies, name: str) -> None:
    case = studies[name]
    ohif.open_study(case.study_instance_uid)
    listed = ohif.series()
    for result in case.objects.values():
        assert (result.Modality, result.SeriesDescription) in listed
    assert {modality for modality, _ in listed} >= {next(iter(case.sources.values())).Modality, "SR"}
    ohif.keep(f"{name}-series")


def test_report_is_read_as_lines(ohif: Ohif, studies: Studies) -> None:
    case = studies["phantom"]
    ohif.open_study(case.study_instance_uid)
    text = ohif.open_report(case.description("sr"))
    report = case.objects["sr"]
    _has(
        text,
        "DEMO MODEL - NOT FOR CLINICAL USE",
        "RESEARCH USE ONLY",
        f"Probability of occult lymph node metastasis: {_number(report, 'P.OLNM')} %",
        "Decision threshold of the probability: ",
        "Call of the model at its threshold: Occult lymph node metastasis ",
        f"Volume: {_number(report, '118565006')} ml",
        "SHAP ",
        "Series used as T2W_FS: series ",
        "Region of interest: Region on T2W_FS, drawn by a segmentation network, not checked by a person",
        "Model: Model olnm_mri ",
    )
    ohif.keep("phantom-report")


def test_report_in_chinese(ohif: Ohif, studies: Studies) -> None:
    case = studies["chinese"]
    ohif.open_study(case.study_instance_uid)
    text = ohif.open_report(case.description("sr"))
    _has(text, "仅供研究使用", "疑有隐匿性淋巴结转移：概率 71.3 %", "Probability of occult lymph node metastasis: 71.3 %")
    ohif.keep("chinese-report")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "refused",
            (
                "NO RESULT - REFUSED",
                "Reason: no T2W_FS series found",
                "Why there is no result: A required sequence is missing",
                'Found in the study: series 2 "t1_tse_tra"',
            ),
        ),
        (
            "failed",
            (
                "NO RESULT - FAILED",
                "Reason: internal error: MemoryError",
                "Why there is no result: The analysis failed for a technical reason",
            ),
        ),
        ("refused_ultrasound", ("NO RESULT - REFUSED", "Reason: the largest region is 3 mm across", 'series 1 "US transvaginal"')),
    ],
)
def test_report_without_a_result_says_why_and_that_it_is_no_negative_one(
    ohif: Ohif, studies: Studies, name: str, lines: tuple[str, ...]
) -> None:
    case = studies[name]
    ohif.open_study(case.study_instance_uid)
    text = ohif.open_report(case.description("sr"))
    _has(text, "RESEARCH USE ONLY", "This is not a negative result", *lines)
    assert "%" not in text
    ohif.keep(f"{name}-report")


@pytest.mark.parametrize("name", ["phantom", "chinese"])
def test_segmentation_is_drawn_on_the_tumour(ohif: Ohif, studies: Studies, name: str) -> None:
    case = studies[name]
    masks = _masks(case.objects["seg"])
    largest = max(masks, key=lambda uid: np.count_nonzero(masks[uid]))
    source = case.sources[largest]
    ohif.open_study(case.study_instance_uid)
    ohif.open_series(source.SeriesDescription)
    ohif.wait_for(lambda shown: shown.sop_instance_uid in case.sources and shown.pixels.any(), what="the images")
    ordered = _slices(case, source)
    ohif.scroll_to(ordered.index(largest))
    without = ohif.wait_for(lambda shown: shown.sop_instance_uid == largest, what="the key slice")
    assert not without.coloured.any()
    ohif.keep(f"{name}-without-segmentation")
    first = ohif.open_segmentation(case.description("seg"))
    assert _overlap(first, masks, case) > 0.9
    ohif.scroll_to(ordered.index(largest))
    ohif.wait_for(lambda shown: shown.sop_instance_uid == largest and _overlap(shown, masks, case) > 0.9, what="the overlay fits")
    ohif.keep(f"{name}-segmentation")


def _slices(case: Case, source: Dataset) -> list[str]:
    """Return the SOP Instance UIDs of a series in OHIF's order: along the normal, from head to feet."""
    normal = np.cross(source.ImageOrientationPatient[:3], source.ImageOrientationPatient[3:])
    series = [d for d in case.sources.values() if d.SeriesInstanceUID == source.SeriesInstanceUID]
    return [str(d.SOPInstanceUID) for d in sorted(series, key=lambda d: -float(np.dot(d.ImagePositionPatient, normal)))]


@pytest.mark.parametrize("name", ["phantom", "chinese", *ULTRASOUND])
def test_contour_is_drawn_with_its_numbers(ohif: Ohif, studies: Studies, name: str) -> None:
    case = studies[name]
    report = case.objects["gfx"]
    ohif.open_study(case.study_instance_uid)
    shown, points, lines = ohif.open_contour(case.description("gfx"))
    ohif.keep(f"{name}-contour")
    image = _region(report).ContentSequence[0].ReferencedSOPSequence[0]
    assert shown.sop_instance_uid == image.ReferencedSOPInstanceUID
    assert shown.pixels.any(), "a black viewport"
    assert shown.frame == (image.get("ReferencedFrameNumber") or 1)
    assert _distance(shown, points, report, case.sources[shown.sop_instance_uid]) < 1
    expected = ["DEMO, RESEARCH ONLY: ", "Decision threshold of the probability: ", "Long axis: ", "Short axis: "]
    expected += [] if name in ULTRASOUND else ["Volume: "]
    for line, words in zip(lines, expected, strict=False):
        assert line.startswith(words), lines
    assert len(lines) == (4 if name == "uncalibrated" else 5), "OHIF shows as many"
    assert ohif.cut_lines() == [], "no line runs out of the viewport"
    units = ["%", "%", *["{pixels}" if name == "uncalibrated" else "mm"] * 2, *([] if name in ULTRASOUND else ["ml"])]
    assert [line.split()[-1] for line in lines[: len(units)]] == units


def test_outline_of_each_version_has_its_own_numbers_and_says_which_it_is(ohif: Ohif, studies: Studies) -> None:
    case = studies["versions"]
    mr_series = next(iter(case.sources.values()))
    wanted = {
        name: f"DEMO, RESEARCH ONLY: OLNM{said} probability: {first_number(case.objects[name]):.2f} %"
        for name, said in (("gfx", ""), ("gfx 2", " v2"))
    }
    ohif.open_study(case.study_instance_uid)
    for name in ("gfx", "gfx 2", "gfx"):
        ohif.open_series(mr_series.SeriesDescription)  # OHIF keeps the outline before where reports are opened one after the other
        ohif.wait_for(lambda shown: shown.sop_instance_uid in case.sources and not ohif.contour_lines(), what="images without an outline")
        ohif.open_series(case.description(name))
        wait_until(ohif.contour_lines, seconds=PATIENCE_S, what=f"{name}: the numbers are drawn")
        ohif.keep(f"versions-contour{name[3:].replace(' ', '-')}")
        assert [line for line in ohif.contour_lines() if line.startswith("DEMO")] == [wanted[name]]


def first_number(report: Dataset) -> float:
    first = next(c for c in _items(report) if c.ValueType == "NUM")
    return float(first.MeasuredValueSequence[0].NumericValue)


@pytest.mark.parametrize("name", ["phantom", "chinese", *WITHOUT_RESULT, *ULTRASOUND])
def test_captures_are_displayed(ohif: Ohif, studies: Studies, name: str) -> None:
    case = studies[name]
    ohif.open_study(case.study_instance_uid)
    ohif.open_captures(case.description("sc1"), case.captures[0])
    for i, capture in enumerate(case.captures):
        ohif.scroll_to(i)
        picture = capture.pixel_array
        ohif.wait_for(
            lambda shown, d=capture, p=picture: shown.sop_instance_uid == d.SOPInstanceUID and agrees(shown, p, d),
            what=f"capture {i + 1}",
        )
        ohif.keep(f"{name}-capture-{i + 1}")
        assert hidden(ohif) == []


@pytest.mark.parametrize("size", [(1366, 768), (1280, 1024), (1920, 1080)])
def test_captures_keep_out_of_the_corners_on_every_screen(ohif: Ohif, studies: Studies, size: tuple[int, int]) -> None:
    case = studies["phantom"]
    ohif.page.set_viewport_size({"width": size[0], "height": size[1]})
    ohif.open_study(case.study_instance_uid)
    ohif.open_captures(case.description("sc1"), case.captures[0])
    for i in (0, len(case.captures) - 1):
        ohif.scroll_to(i)
        capture = case.captures[i]
        ohif.wait_for(
            lambda shown, d=capture: shown.sop_instance_uid == d.SOPInstanceUID and agrees(shown, d.pixel_array, d),
            what=f"capture {i + 1}",
        )
        ohif.keep(f"phantom-capture-{i + 1}-at-{size[0]}x{size[1]}")
        assert hidden(ohif) == []


def hidden(ohif: Ohif) -> list[tuple[int, int, int, int]]:
    """Return the places where OHIF writes over something that a page shows."""
    boxes, pixels = ohif.overlays(), ohif.shown().pixels
    assert len(boxes) >= 4, "date, series, window and number of the image"
    return [b for b in boxes if pixels[max(b[1], 0) : b[3], max(b[0], 0) : b[2]].max(initial=0) > _DARK]


def agrees(shown: Shown, picture: NDArray[np.uint8], capture: Dataset) -> bool:
    """Return whether the canvas is the capture, up to interpolation."""
    expected = shown.sample(picture, capture).astype(float)
    return bool(shown.pixels.any() and np.corrcoef(expected.ravel(), shown.pixels.astype(float).ravel())[0, 1] > 0.95)


@pytest.mark.parametrize("name", list(ULTRASOUND))
def test_ultrasound_report_is_read_as_lines(ohif: Ohif, studies: Studies, name: str) -> None:
    case = studies[name]
    ohif.open_study(case.study_instance_uid)
    text = ohif.open_report(case.description("sr"))
    _has(text, "RESEARCH USE ONLY", "Probability of pelvic lymph node metastasis: 69.2 %", "Finding Site: Pelvic lymph node")
    assert ("The image is not calibrated: sizes are in pixels, not millimetres" in text) == (name == "uncalibrated")
    assert "seg" not in case.objects  # without patient coordinates it would leave the page blank
    ohif.keep(f"{name}-report")
