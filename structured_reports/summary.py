"""The summary page: every number of the result, taken in within ten seconds, without a word about who the patient is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Contribution, Evidence, Prediction
from structured_reports import wording
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, PANEL, TEXT, Colour, Page
from structured_reports.classes import draw_outcomes
from structured_reports.context import ReportContext
from structured_reports.facts import draw_facts
from structured_reports.language import Messages
from structured_reports.layout import BOTTOM, MARGIN, WIDTH, start_page

_COLUMN = 640  # x at which the right-hand column begins
_BODY = 292  # y below the bar of the probability
_LIMIT_LINE, _MAX_LIMITS = 25, 5  # pixels; lines
_MIN_ROW, _MAX_ROW = 35, 46  # pixels for a contribution
_AXIS, _HALF_BAR = 308, 220  # x of log-odds 0, length of the longest bar


def draw_summary(
    prediction: Prediction, evidence: Evidence, context: ReportContext, *, say: Messages, flags: tuple[str, ...]
) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3). ``flags`` are what the reader must take care of."""
    page = start_page(prediction, context, say)
    _draw_probability(page, prediction, context, say)
    top = _write_limits(page, wording.limits(prediction, say), say)
    if any(o.kind == "class" for o in prediction.outcomes):
        page.text((MARGIN, top), say("page.classes"), size=22)
        outcomes = [o for o in prediction.outcomes if o.kind == "class"]
        draw_outcomes(page, outcomes, say, left=MARGIN, top=top + 36, width=_COLUMN - MARGIN - 46, row=42, bottom=BOTTOM)
    else:
        _draw_contributions(page, evidence, context.spec.top_contributions, say, top)
    page.box(_COLUMN - 22, top + 4, _COLUMN - 21, BOTTOM - 6, LINE)
    draw_facts(page, evidence, flags, say, left=_COLUMN, top=top, right=WIDTH - MARGIN, bottom=BOTTOM)
    return page.pixels()


def call_colour(prediction: Prediction) -> Colour:
    """Return the colour of the number: for, against, neither, or not to be relied on."""
    return {"positive": FOR, "negative": AGAINST, "withheld": MUTED}.get(prediction.call, TEXT)


def _draw_probability(page: Page, prediction: Prediction, context: ReportContext, say: Messages) -> None:
    """Write the probability and the call, over a bar from 0 to 100 % with the threshold marked."""
    places, colour = wording.decimals(prediction), call_colour(prediction)
    wide = page.text((MARGIN, 98), wording.percent_words(prediction.probability, places), size=84, colour=colour)
    x = MARGIN + wide + 36
    page.paragraph((x, 112), wording.call_words(context.spec, prediction, say), size=27, width=WIDTH - MARGIN - x, lines=1)
    page.paragraph((x, 152), _beside(prediction, say), size=19, width=WIDTH - MARGIN - x, lines=2, colour=MUTED)
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


def _beside(prediction: Prediction, say: Messages) -> str:
    """Return what stands below the call: how the number relates to the threshold, and its bounds."""
    places = wording.decimals(prediction)
    if prediction.threshold is None:
        words = say("result.most_probable", count=sum(o.kind == "class" for o in prediction.outcomes))
    else:
        key = {"positive": "above", "negative": "below"}.get(prediction.call, "beside")
        words = say(f"result.{key}", threshold=f"{wording.percent(prediction.threshold, places):.{places}f} %")
    if prediction.interval:
        low, high = (f"{wording.percent(bound, places):.{places}f}" for bound in prediction.interval)
        words += f"; {say('result.interval', low=low, high=high)}"
    return words


def _write_bar_labels(page: Page, mark: float | None, label: str, y: int) -> None:
    """Write 0 %, 100 % and the threshold below the bar, where they do not meet."""
    half, left, right = 76, MARGIN, WIDTH - MARGIN
    if mark is not None:
        page.text((min(max(mark, left + half), right - half), y), label, size=17, anchor="ma")
    if mark is None or mark > left + 130:
        page.text((left, y), "0 %", size=17, colour=MUTED)
    if mark is None or mark < right - 150:
        page.text((right, y), "100 %", size=17, colour=MUTED, anchor="ra")


def _write_limits(page: Page, limits: list[str], say: Messages) -> int:
    """Write what must be said with the number; return the y of what follows."""
    lines = limits if len(limits) <= _MAX_LIMITS else limits[: _MAX_LIMITS - 1]
    if more := len(limits) - len(lines):
        lines = [*lines, say("page.more", count=more)]
    for number, words in enumerate(lines):
        page.text((MARGIN, _BODY + number * _LIMIT_LINE), words, size=17, width=WIDTH - 2 * MARGIN)
    return _BODY + len(lines) * _LIMIT_LINE + (10 if lines else 0)


def _draw_contributions(page: Page, evidence: Evidence, count: int, say: Messages, y: float) -> None:
    """Draw the largest Shapley values as signed bars around log-odds 0, each below the name of its feature."""
    top = [c for c in evidence.contributions if math.isfinite(c.log_odds)][:count]
    page.text((MARGIN, y), say("why.title"), size=22)
    page.text((_AXIS - 10, y + 5), say("why.against"), size=17, colour=AGAINST, anchor="ra")
    page.text((_AXIS + 10, y + 5), say("why.for"), size=17, colour=FOR)
    y += 34
    if not top:
        page.text((MARGIN, y), say("why.none"), size=17, colour=MUTED)
        return
    top = top[: int((BOTTOM - 26 - y) / _MIN_ROW)]
    row = min(_MAX_ROW, (BOTTOM - 26 - y) / len(top))
    largest = max(abs(c.log_odds) for c in top) or 1.0
    for number, contribution in enumerate(top):
        _draw_bar(page, contribution, largest, y + number * row, say)
    words = say("why.footer", count=len(top), total=len(evidence.contributions))
    page.text((MARGIN, y + len(top) * row + 4), words, size=15, colour=MUTED, width=_COLUMN - MARGIN - 30)


def _draw_bar(page: Page, contribution: Contribution, largest: float, y: float, say: Messages) -> None:
    length = max(_HALF_BAR * abs(contribution.log_odds) / largest, 1)
    page.text((MARGIN, y), wording.feature_words(contribution, say), size=15, width=_COLUMN - MARGIN - 40)
    top, bottom, label = y + 20, y + 32, f"{contribution.log_odds:+.2f}"
    page.box(_AXIS - 1, top - 3, _AXIS + 1, bottom + 3, LINE)
    if contribution.log_odds >= 0:
        page.box(_AXIS + 1, top, _AXIS + 1 + length, bottom, FOR)
        page.text((_AXIS + length + 8, (top + bottom) / 2), label, size=15, anchor="lm")
    else:
        page.box(_AXIS - 1 - length, top, _AXIS - 1, bottom, AGAINST)
        page.text((_AXIS - length - 8, (top + bottom) / 2), label, size=15, anchor="rm")
