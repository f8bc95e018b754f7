"""The overview of a study: one page with the results of all its systems, and what each page of a system would repeat only once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.spec import PipelineSpec
from pipelines.types import BundleStatus, Evidence, Prediction
from structured_reports import wording
from structured_reports.brief import Brief, Entry, RegionBrief
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, PANEL, TEXT, Colour, Page
from structured_reports.context import ReportContext
from structured_reports.groups import risk
from structured_reports.images import key_image
from structured_reports.language import Messages
from structured_reports.layout import FOOT, HEIGHT, MARGIN, WIDTH, start_overview_page
from structured_reports.measure import measure
from structured_reports.quality import judge
from structured_reports.uids import digest_arrays

_COLOURS = {"positive": FOR, "negative": AGAINST, "withheld": MUTED}  # others: neither for nor against
_FIRST = 100  # y of the first row
_ROW, _LIMIT, _GAP = 68, 19, 14  # pixels: a system, a line below it, above the facts
_NUMBER, _BAR = 640, 664  # x of the right edge of the number, and of the left edge of the bar
_INDENT = 28  # pixels from the number of a row to its words
_TITLES = (20, 18, 16, 15, 14)  # sizes of a title: the first that has room
_MAX_REASON, _MAX_LIMIT = 5, 3  # lines
_HEADING, _LINE, _SMALL = 30, 22, 16  # pixels in the lower part
_COLUMN = 590  # x at which series and clinical values begin
_NAME, _MAX_REGION = 200, 112  # pixels for the names of measures, and at most for a region's values
_ROLE = 76  # pixels from the role of a series to its words


def make_brief(spec: PipelineSpec, prediction: Prediction, evidence: Evidence, *, say: Messages) -> Brief:
    """Return what the overview of the study will say of a result."""
    category, roi, image = risk(prediction), evidence.roi, key_image(evidence, evidence.roi.role)
    region = RegionBrief(
        key=digest_arrays([roi.volume.array, roi.volume.affine, evidence.volumes[roi.role].volume.array]),
        role=str(roi.role),
        origin=say(f"overview.{roi.origin}"),
        measurements=tuple(_split(*wording.measurement_words(m, say)) for m in measure(evidence)),
    )
    return Brief(
        kind=prediction.call,
        call=wording.call_words(spec, prediction, say),
        probability=prediction.probability,
        threshold=prediction.threshold,
        interval=prediction.interval,
        places=wording.decimals(prediction),
        risk=say.known(f"overview.{category.value}", category.meaning) if category else "",
        model=say("overview.model", system=prediction.system, version=prediction.bundle_version, status=prediction.bundle_status),
        limits=tuple(wording.limits(prediction, say)),
        flags=len(judge(prediction, evidence, image, say).flags),
        clinical=tuple((wording.clinical_name(v.name), v.words) for v in evidence.clinical),
        series=tuple(wording.used_series(evidence.volumes, say)),
        region=region,
        key_image=str(image.SOPInstanceUID),
    )


def _split(name: str, value: str) -> tuple[str, str]:
    """Return a measurement with its unit at the name, for a table of several regions."""
    number, _, unit = value.partition(" ")
    return (f"{name}, {unit}" if unit else name), number


def draw_overview(entries: Sequence[Entry], context: ReportContext, *, status: BundleStatus | None, say: Messages) -> NDArray[np.uint8]:
    """Draw the page, as high as it needs; return RGB pixels, shape (rows, columns, 3)."""
    briefs = [(number, entry.brief) for number, entry in enumerate(entries, start=1) if entry.brief]
    heights = [_height(entry, say) for entry in entries]
    facts = max(_tumour_height(briefs), _list_height(briefs))
    page = start_overview_page(context, say, status=status, height=max(HEIGHT, _FIRST + sum(heights) + _GAP + facts + FOOT))
    y = _FIRST
    for number, (entry, height) in enumerate(zip(entries, heights, strict=True), start=1):
        page.text((MARGIN, y + 7), str(number), size=20, colour=MUTED)
        if entry.brief:
            _draw_result(page, entry, entry.brief, y, say)
        else:
            _draw_state(page, entry, y, height, say)
        y += height
        page.box(MARGIN, y - 1, WIDTH - MARGIN, y, PANEL)
    if briefs:
        _draw_tumour(page, briefs, y + _GAP, say)
        _draw_lists(page, briefs, y + _GAP, say)
    return page.pixels()


def _height(entry: Entry, say: Messages) -> int:
    """Return how high the row of a system is."""
    unused = Page(1, 1, say.language)
    if entry.brief:
        lines = _limit_lines(unused, entry.brief)
        return _ROW + (_LIMIT * len(lines) + 4 if lines else 0)
    return max(_ROW, 20 + 20 * len(_reason_lines(unused, entry, say)))


def _limit_lines(page: Page, brief: Brief) -> list[str]:
    """Return what must be said with the number, broken into lines."""
    width = WIDTH - 2 * MARGIN - _INDENT
    return [line for limit in brief.limits for line in page.wrap(limit, size=15, width=width, lines=_MAX_LIMIT)]


def _reason_lines(page: Page, entry: Entry, say: Messages) -> list[str]:
    """Return the first reason, and how many others there are."""
    if not entry.reasons:
        return []
    lines = page.wrap(say.translate(entry.reasons[0]), size=15, width=WIDTH - MARGIN - _BAR, lines=_MAX_REASON)
    more = len(entry.reasons) - 1
    return [*lines, *([say("page.more", count=more)] if more else [])]


def _draw_state(page: Page, entry: Entry, y: int, height: int, say: Messages) -> None:
    """Write that there is no result, and why."""
    left, waits = MARGIN + _INDENT, entry.state == "WAITING"
    wide = page.text((_NUMBER, y + 34), say(f"overview.{entry.state}"), size=24, colour=MUTED if waits else TEXT, anchor="rm")
    room = _NUMBER - wide - 24 - left
    _write(page, (left, y + 7), wording.title(entry.system, entry.title, say), _TITLES, room)
    page.text((left, y + 33), say("overview.pending" if waits else "overview.none"), size=16, colour=MUTED, width=room)
    lines = _reason_lines(page, entry, say)
    for index, line in enumerate(lines):
        page.text((_BAR, y + height / 2 + 20 * (index - len(lines) / 2)), line, size=15, width=WIDTH - MARGIN - _BAR)


def _draw_result(page: Page, entry: Entry, brief: Brief, y: int, say: Messages) -> None:
    """Write call, number and bar; below them what must be said with the number."""
    left, colour = MARGIN + _INDENT, _COLOURS.get(brief.kind, TEXT)
    wide = page.text((_NUMBER, y + 25), wording.percent_words(brief.probability, brief.places), size=36, colour=colour, anchor="rm")
    page.text((_NUMBER, y + 47), brief.risk, size=15, colour=colour, anchor="ra")
    room = _NUMBER - wide - 24 - left
    _write(page, (left, y + 7), wording.title(entry.system, entry.title, say), _TITLES, room)
    _write(page, (left, y + 31), brief.call, (17, 15), room, colour=colour)
    flags = say("overview.flags", count=brief.flags) if brief.flags > 1 else say("overview.flag") if brief.flags else ""
    page.text((left, y + 51), ". ".join(filter(None, (brief.model, flags))), size=13, colour=MUTED, width=room)
    _draw_bar(page, brief, colour, y + 14, say)
    for index, line in enumerate(_limit_lines(page, brief)):
        page.text((left, y + _ROW - 1 + index * _LIMIT), line, size=15, width=WIDTH - MARGIN - left)


def _write(
    page: Page, xy: tuple[float, float], words: str, sizes: Sequence[int], width: float, *, colour: Colour = TEXT, anchor: str = "la"
) -> None:
    """Write a line in the first of ``sizes`` in which it has room, else shortened in the last."""
    size = next((size for size in sizes if page.width(words, size=size) <= width), sizes[-1])
    page.text(xy, words, size=size, width=width, colour=colour, anchor=anchor)


def _draw_bar(page: Page, brief: Brief, colour: Colour, top: int, say: Messages) -> None:
    """Draw the probability from 0 to 100 % with its bounds below and the threshold marked; write both below."""
    right, bottom, places = WIDTH - MARGIN, top + 16, brief.places
    scale = (right - _BAR) / 100
    page.box(_BAR, top, right, bottom, PANEL)
    page.box(_BAR, top, _BAR + wording.percent(brief.probability, places) * scale, bottom, colour)
    if brief.interval:
        low, high = (wording.percent(bound, places) for bound in brief.interval)
        page.box(_BAR + low * scale, bottom + 4, _BAR + max(high * scale, low * scale + 2), bottom + 7, MUTED)
        figures = [wording.percent_figures(bound, places) for bound in brief.interval]
        page.text((_BAR, bottom + 12), say("overview.interval", low=figures[0], high=figures[1]), size=15, colour=MUTED)
    if brief.threshold is not None:
        percent = wording.percent(brief.threshold, places)
        mark = _BAR + percent * scale
        page.box(mark - 3, top - 5, mark + 3, bottom + 5, (0, 0, 0))
        page.box(mark - 1, top - 5, mark + 2, bottom + 5, TEXT)
        page.text((right, bottom + 12), say("page.threshold", threshold=f"{percent:.{places}f} %"), size=15, anchor="ra")


_Briefs = Sequence[tuple[int, Brief]]  # with the numbers of their rows


def _regions(briefs: _Briefs) -> list[tuple[RegionBrief, list[int], dict[str, str]]]:
    """Return each region once, with the rows that rest on it and all that they measured of it."""
    found: dict[str, tuple[RegionBrief, list[int], dict[str, str]]] = {}
    for number, region in ((n, b.region) for n, b in briefs if b.region):
        _, rows, values = found.setdefault(region.key, (region, [], {}))
        rows.append(number)
        values.update(region.measurements)
    return list(found.values())


def _names(briefs: _Briefs) -> list[str]:
    return list(dict.fromkeys(name for _, _, values in _regions(briefs) for name in values))


def _tumour_height(briefs: _Briefs) -> int:
    return _HEADING + 2 * _SMALL + _LINE * len(_names(briefs)) + _GAP if briefs else 0


def _draw_tumour(page: Page, briefs: _Briefs, y: int, say: Messages) -> None:
    """Write the measures of the tumour as a table with a column for each region."""
    regions, names = _regions(briefs), _names(briefs)
    page.text((MARGIN, y), say("page.tumour"), size=20)
    width = min((_COLUMN - 30 - MARGIN - _NAME) / max(len(regions), 1), _MAX_REGION)
    first = y + _HEADING + 2 * _SMALL
    for index, (region, rows, values) in enumerate(regions):
        right, room = MARGIN + _NAME + (index + 1) * width, width - 8
        _write(page, (right, y + 3), region.role, (16, 14, 12), room, anchor="ra")
        heads = (region.origin, say("overview.rows" if len(rows) > 1 else "overview.row", numbers=", ".join(map(str, rows))))
        for line, words in enumerate(heads):
            _write(page, (right, y + 24 + line * _SMALL), words, (13, 12, 11), room, colour=MUTED, anchor="ra")
        for line, name in enumerate(names):
            page.text((right, first + line * _LINE), values.get(name, "-"), size=16, anchor="ra")
    for line, name in enumerate(names):
        _write(page, (MARGIN, first + line * _LINE), name, (15, 13), _NAME - 8, colour=MUTED)


def _lists(briefs: _Briefs) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return clinical values and series, each once."""
    clinical = dict.fromkeys(pair for _, brief in briefs for pair in brief.clinical)
    return list(clinical), list(dict.fromkeys(pair for _, brief in briefs for pair in brief.series))


def _list_height(briefs: _Briefs) -> int:
    return sum(_HEADING + _LINE * len(rows) + _GAP for rows in _lists(briefs) if rows)


def _draw_lists(page: Page, briefs: _Briefs, y: int, say: Messages) -> None:
    """Write clinical values and series into the right-hand column."""
    (clinical, series), right = _lists(briefs), WIDTH - MARGIN
    page.box(_COLUMN - 16, y + 4, _COLUMN - 15, y + max(_tumour_height(briefs), _list_height(briefs)) - _GAP, LINE)
    if clinical:
        page.text((_COLUMN, y), say("page.clinical"), size=20)
        y += _HEADING
        for name, value in clinical:
            wide = page.text((right, y), value, size=16, anchor="ra")
            _write(page, (_COLUMN, y + 1), name, (15, 13), right - _COLUMN - wide - 12, colour=MUTED)
            y += _LINE
        y += _GAP
    if series:
        page.text((_COLUMN, y), say("page.series"), size=20)
        y += _HEADING
        for role, words in series:
            page.text((_COLUMN, y), role, size=15)
            _write(page, (_COLUMN + _ROLE, y), words, (15, 13, 12), right - _COLUMN - _ROLE, colour=MUTED)
            y += _LINE
