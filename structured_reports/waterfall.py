"""The waterfall page: from the average of the reference cases to this case, one feature at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Evidence, Prediction
from structured_reports import wording
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, PANEL, TEXT, Page
from structured_reports.context import ReportContext
from structured_reports.language import Messages
from structured_reports.layout import BOTTOM, MARGIN, TOP, WIDTH, start_page

_LABELS = 472  # x up to which the features are named
_LEFT, _RIGHT = 490, WIDTH - MARGIN - 66  # of the chart
_NOTE = BOTTOM - 46
_AXIS_Y = _NOTE - 44
_MAX_ROW = 46
_TICKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
_TICK_ROOM = 52  # pixels between the labels of two ticks
_MIN_SPAN = 1.0  # log-odds: a flat explanation is not blown up


class _Scale:
    """Log-odds to x, with room at both ends."""

    def __init__(self, values: list[float]) -> None:
        centre, span = (min(values) + max(values)) / 2, max(max(values) - min(values), _MIN_SPAN) * 1.12
        self.low, self.high = centre - span / 2, centre + span / 2

    def x(self, log_odds: float) -> float:
        return _LEFT + (log_odds - self.low) / (self.high - self.low) * (_RIGHT - _LEFT)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yield x and words of the probabilities to mark, those nearest to 50 % first, none too near to another."""
        taken: list[float] = []
        for p in sorted(_TICKS, key=lambda p: abs(p - 0.5)):
            log_odds = math.log(p / (1 - p))
            x = self.x(log_odds)
            if self.low <= log_odds <= self.high and all(abs(x - other) >= _TICK_ROOM for other in taken):
                taken.append(x)
                yield x, f"{100 * p:g} %"


def draw_waterfall(prediction: Prediction, evidence: Evidence, context: ReportContext, *, say: Messages) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3). Every contribution must be finite."""
    page = start_page(prediction, context, say, heading=say("why.waterfall"))
    steps = [(wording.feature_words(c, say), c.log_odds) for c in evidence.contributions[: context.spec.top_contributions]]
    if rest := evidence.contributions[len(steps) :]:
        steps.append((say("why.rest", count=len(rest)), sum(c.log_odds for c in rest)))
    levels = [evidence.base_log_odds]
    for _, step in steps:
        levels.append(levels[-1] + step)
    scale = _Scale(levels)
    row = min(_MAX_ROW, (_AXIS_Y - 12 - TOP) / (len(steps) + 2))
    _draw_axis(page, scale, say, top=TOP, bottom=TOP + (len(steps) + 2) * row)
    _draw_end(page, scale, say("why.base"), levels[0], TOP, row)
    for number, (name, step) in enumerate(steps, start=1):
        _draw_step(page, scale, name, (levels[number - 1], step), TOP + number * row, row)
    _draw_end(page, scale, say("why.result"), levels[-1], TOP + (len(steps) + 1) * row, row, strong=True)
    page.paragraph((MARGIN, _NOTE), say("why.waterfall_note"), size=16, width=WIDTH - 2 * MARGIN, lines=2, colour=MUTED)
    return page.pixels()


def _draw_axis(page: Page, scale: _Scale, say: Messages, *, top: float, bottom: float) -> None:
    for x, words in scale.ticks():
        page.box(x, top, x + 1, bottom + 4, PANEL)
        page.text((x, bottom + 8), words, size=15, colour=MUTED, anchor="ma")
    page.text((MARGIN, bottom + 8), say("why.axis"), size=15, colour=MUTED, width=_LABELS - MARGIN)


def _draw_end(page: Page, scale: _Scale, name: str, level: float, y: float, row: float, *, strong: bool = False) -> None:
    """Draw where the way begins or ends: a mark with its probability."""
    x, middle, half = scale.x(level), y + row / 2, min(row / 2 - 4, 14)
    page.text((_LABELS, middle), name, size=18 if strong else 16, colour=TEXT if strong else MUTED, anchor="rm", width=_LABELS - MARGIN)
    page.box(x - 2, middle - half, x + 2, middle + half, TEXT if strong else MUTED)
    words = wording.percent_words(1 / (1 + math.exp(-level)), 1)
    page.text((x + 10, middle), words, size=20 if strong else 16, anchor="lm")


def _draw_step(page: Page, scale: _Scale, name: str, step: tuple[float, float], y: float, row: float) -> None:
    (start, change), middle, half = step, y + row / 2, min(row / 2 - 4, 11)
    low, high = sorted((scale.x(start), scale.x(start + change)))
    page.text((_LABELS, middle), name, size=15, anchor="rm", width=_LABELS - MARGIN)
    page.box(scale.x(start), middle - row / 2 - half + 4, scale.x(start) + 1, middle, LINE)
    page.box(low, middle - half, max(high, low + 1), middle + half, FOR if change >= 0 else AGAINST)
    if change >= 0:
        page.text((high + 8, middle), wording.log_odds_words(change), size=15, anchor="lm")
    else:
        page.text((low - 8, middle), wording.log_odds_words(change), size=15, anchor="rm")
