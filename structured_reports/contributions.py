"""The largest Shapley values as signed bars around log-odds 0: part of the summary, and of the page of classes."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipelines.types import Contribution, Evidence
from structured_reports import wording
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, Page
from structured_reports.language import Messages

_HEADING, _FOOTER = 34, 26  # pixels
_MIN_ROW, _MAX_ROW = 35, 46  # pixels for a contribution
_LABEL = 64  # pixels for the number beyond the longest bar


class _Chart(NamedTuple):
    """Where the bars stand: x of log-odds 0, length of the longest bar and its log-odds."""

    left: float
    right: float
    largest: float

    @property
    def axis(self) -> float:
        return (self.left + self.right) / 2

    @property
    def half(self) -> float:
        return (self.right - self.left) / 2 - _LABEL


def draw_contributions(
    page: Page, evidence: Evidence, count: int, say: Messages, *, left: float, top: float, right: float, bottom: float, finding: str
) -> None:
    """Draw at most ``count`` of the largest Shapley values, each bar below the name of its feature; ``finding`` is what they speak for."""
    found = [c for c in evidence.contributions if math.isfinite(c.log_odds)][:count]
    chart = _Chart(left, right, max((abs(c.log_odds) for c in found), default=0.0) or 1.0)
    page.text((left, top), say("why.title"), size=22)
    page.text((chart.axis - 10, top + 5), say("why.against"), size=17, colour=AGAINST, anchor="ra")
    page.text((chart.axis + 10, top + 5), finding, size=17, colour=FOR, width=right - chart.axis - 10)
    y = top + _HEADING
    if not found:
        page.text((left, y), say("why.none"), size=17, colour=MUTED)
        return
    room = bottom - _FOOTER - y
    shown = found[: max(int(room / _MIN_ROW), 1)]
    row = min(_MAX_ROW, room / len(shown))
    for number, contribution in enumerate(shown):
        _draw_bar(page, chart, contribution, y + number * row, say)
    words = say("why.footer", count=len(shown), total=len(evidence.contributions))
    page.text((left, y + len(shown) * row + 4), words, size=15, colour=MUTED, width=right - left)


def _draw_bar(page: Page, chart: _Chart, contribution: Contribution, y: float, say: Messages) -> None:
    length = max(chart.half * abs(contribution.log_odds) / chart.largest, 1)
    page.text((chart.left, y), wording.feature_words(contribution, say), size=15, width=chart.right - chart.left)
    top, bottom, label, axis = y + 20, y + 32, wording.log_odds_words(contribution.log_odds), chart.axis
    page.box(axis - 1, top - 3, axis + 1, bottom + 3, LINE)
    if contribution.log_odds >= 0:
        page.box(axis + 1, top, axis + 1 + length, bottom, FOR)
        page.text((axis + length + 8, (top + bottom) / 2), label, size=15, anchor="lm")
    else:
        page.box(axis - 1 - length, top, axis - 1, bottom, AGAINST)
        page.text((axis - length - 8, (top + bottom) / 2), label, size=15, anchor="rm")
