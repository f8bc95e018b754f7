"""The summary page: every number of the result, taken in within ten seconds, without a word about who the patient is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Evidence, Outcome, Prediction
from structured_reports import wording
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, PANEL, TEXT, Colour, Page
from structured_reports.classes import draw_outcomes
from structured_reports.context import ReportContext
from structured_reports.contributions import draw_contributions
from structured_reports.facts import draw_facts
from structured_reports.groups import risk
from structured_reports.language import Messages
from structured_reports.layout import BOTTOM, MARGIN, WIDTH, start_page

_COLUMN = 640  # x at which the right-hand column begins
_LEFT_END = _COLUMN - 46  # x at which the left-hand column ends
_BODY, _BODY_OF_CLASSES = 292, 212  # y below the bar of the probability; below the number of a system of classes, which has none
_LIMIT_LINE, _MAX_LIMITS = 25, 5  # pixels; lines
_CLASS_ROW, _AXES = 42, 112  # pixels for a class, and for all axes


def draw_summary(
    prediction: Prediction, evidence: Evidence, context: ReportContext, *, say: Messages, flags: tuple[str, ...]
) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3). ``flags`` are what the reader must take care of."""
    page = start_page(prediction, context, say)
    classes, axes = ([o for o in prediction.outcomes if o.kind == kind] for kind in ("class", "axis"))
    _write_call(page, prediction, context, say)
    if not classes:  # which have a bar each
        _draw_probability(page, prediction, say)
    body = _BODY_OF_CLASSES if classes else _BODY
    top, beside = _write_limits(page, wording.limits(prediction, say), say, top=body)
    if classes:
        _draw_classes(page, classes, axes, say, top)
    else:
        draw_contributions(
            page,
            evidence,
            context.spec.top_contributions,
            say,
            left=MARGIN,
            top=top,
            right=_LEFT_END,
            bottom=BOTTOM,
            finding=say("why.for"),
        )
    page.box(_COLUMN - 22, beside + 4, _COLUMN - 21, BOTTOM - 6, LINE)
    draw_facts(page, evidence, flags, say, left=_COLUMN, top=beside, right=WIDTH - MARGIN, bottom=BOTTOM)
    return page.pixels()


def call_colour(prediction: Prediction) -> Colour:
    """Return the colour of the number: for, against, neither, or not to be relied on."""
    return {"positive": FOR, "negative": AGAINST, "withheld": MUTED}.get(prediction.call, TEXT)


def _write_call(page: Page, prediction: Prediction, context: ReportContext, say: Messages) -> None:
    """Write the probability and the call; below that how it relates to the threshold, its bounds and the risk category."""
    words = wording.percent_words(prediction.probability, wording.decimals(prediction))
    x = MARGIN + page.text((MARGIN, 98), words, size=84, colour=call_colour(prediction)) + 36
    page.paragraph((x, 112), wording.call_words(context.spec, prediction, say), size=27, width=WIDTH - MARGIN - x, lines=1)
    for y, line in zip((150, 176), _beside(prediction, say), strict=False):
        page.text((x, y), line, size=19, width=WIDTH - MARGIN - x, colour=MUTED)


def _draw_probability(page: Page, prediction: Prediction, say: Messages) -> None:
    """Draw a bar from 0 to 100 % with bounds and threshold."""
    places, colour = wording.decimals(prediction), call_colour(prediction)
    left, right, top, bottom = MARGIN, WIDTH - MARGIN, 212, 236
    scale = (right - left) / 100
    page.box(left, top, right, bottom, PANEL)
    page.box(left, top, left + wording.percent(prediction.probability, places) * scale, bottom, colour)
    if prediction.interval:
        low, high = (left + wording.percent(bound, places) * scale for bound in prediction.interval)
        page.box(low, bottom + 5, max(high, low + 2), bottom + 8, MUTED)
    if prediction.threshold is None:
        return _write_bar_labels(page, None, "", bottom + 11)
    mark = left + wording.percent(prediction.threshold, places) * scale
    page.box(mark - 3, top - 8, mark + 3, bottom + 8, (0, 0, 0))
    page.box(mark - 1, top - 8, mark + 2, bottom + 8, TEXT)
    words = say("page.threshold", threshold=f"{wording.percent(prediction.threshold, places):.{places}f} %")
    return _write_bar_labels(page, mark, words, bottom + 11)


def _draw_classes(page: Page, classes: list[Outcome], axes: list[Outcome], say: Messages, top: float) -> None:
    """Draw a bar for each class, and below them the axes as numbers side by side."""
    page.text((MARGIN, top), say("page.classes"), size=22)
    end, width = BOTTOM - (_AXES if axes else 0), _LEFT_END - MARGIN
    y = draw_outcomes(page, classes, say, left=MARGIN, top=top + 36, width=width, row=_CLASS_ROW, bottom=end) + 10
    for number, axis in enumerate(axes):
        cell = width / len(axes)
        x = MARGIN + number * cell
        page.text((x, y + 26), wording.percent_words(axis.probability, 1), size=26)
        page.paragraph((x, y + 60), wording.outcome_words(axis, say), size=15, width=cell - 14, lines=2, colour=MUTED)
    if axes:
        page.text((MARGIN, y), say("page.axes"), size=18)


def _beside(prediction: Prediction, say: Messages) -> list[str]:
    """Return what stands below the call: how the number relates to the threshold; its bounds and the risk category."""
    places = wording.decimals(prediction)
    if prediction.threshold is None:
        lines = [say("result.most_probable", count=sum(o.kind == "class" for o in prediction.outcomes))]
    else:
        key = {"positive": "above", "negative": "below"}.get(prediction.call, "beside")
        lines = [say(f"result.{key}", threshold=f"{wording.percent(prediction.threshold, places):.{places}f} %")]
    if prediction.interval:
        low, high = (wording.percent_figures(bound, places) for bound in prediction.interval)
        category = risk(prediction)
        words = [
            say("result.interval", low=low, high=high),
            *([say("result.risk", risk=wording.risk_words(category, say))] if category else []),
        ]
        lines.append("; ".join(words))
    return lines


def _write_bar_labels(page: Page, mark: float | None, label: str, y: int) -> None:
    """Write 0 %, 100 % and the threshold below the bar, where they do not meet."""
    half, left, right = 76, MARGIN, WIDTH - MARGIN
    if mark is not None:
        page.text((min(max(mark, left + half), right - half), y), label, size=17, anchor="ma")
    if mark is None or mark > left + 130:
        page.text((left, y), "0 %", size=17, colour=MUTED)
    if mark is None or mark < right - 150:
        page.text((right, y), "100 %", size=17, colour=MUTED, anchor="ra")


def _write_limits(page: Page, limits: list[str], say: Messages, *, top: int) -> tuple[int, int]:
    """Write what must be said with the number; return the y of what follows on the left and on the right.

    It is in the left-hand column where it has room there, else across the page.
    """
    narrow, wide = _LEFT_END - MARGIN, WIDTH - 2 * MARGIN
    width = narrow if sum(len(_wrap(page, words, narrow)) for words in limits) <= _MAX_LIMITS else wide
    lines: list[str] = []
    for number, words in enumerate(limits):
        wrapped, rest = _wrap(page, words, width), len(limits) - number
        if len(lines) + len(wrapped) > _MAX_LIMITS - (rest > 1):
            lines.append(say("page.more", count=rest))
            break
        lines += wrapped
    for number, line in enumerate(lines):
        page.text((MARGIN, top + number * _LIMIT_LINE), line, size=17, width=width)
    below = top + len(lines) * _LIMIT_LINE + (10 if lines else 0)
    return below, top if width == narrow else below


def _wrap(page: Page, words: str, width: float) -> list[str]:
    return page.wrap(words, size=17, width=width, lines=_MAX_LIMITS)
