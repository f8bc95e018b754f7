"""The nomogram page: a line per variable with this patient's value and points, and what their sum means."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Evidence, NomogramRow, Prediction
from structured_reports import wording
from structured_reports.canvas import FOR, LINE, MUTED, TEXT, Page
from structured_reports.context import ReportContext
from structured_reports.language import Messages
from structured_reports.layout import BOTTOM, MARGIN, TOP, WIDTH, start_page

_LEFT, _RIGHT = 300, WIDTH - MARGIN - 110  # of the scales
_POINTS = 100.0  # of the most influential line's range
_NOTE = BOTTOM - 34
_TICKS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_AGREEMENT = 0.01  # by how much lines may differ in what a point is worth
_MARK_ROOM = 20  # pixels from the mark of the total to the label of a tick, which it would cover
_TICK_ROOM = 50  # pixels between the labels of two ticks


def draw_nomogram(prediction: Prediction, evidence: Evidence, context: ReportContext, *, say: Messages) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3)."""
    page, rows = start_page(prediction, context, say, heading=say("nomogram.title")), evidence.nomogram
    row = min(92.0, (_NOTE - 14 - TOP) / (len(rows) + 3))
    _draw_points(page, say, TOP + 28, row * (len(rows) + 0.6))
    for number, line in enumerate(rows, start=1):
        _draw_line(page, line, say, TOP + 28 + number * row)
    _draw_total(page, prediction, rows, say, TOP + 28 + (len(rows) + 1) * row, row)
    page.text((MARGIN, _NOTE), say("nomogram.note"), size=16, colour=MUTED, width=WIDTH - 2 * MARGIN)
    return page.pixels()


def _x(points: float, span: float = _POINTS) -> float:
    return _LEFT + points / span * (_RIGHT - _LEFT)


def _draw_points(page: Page, say: Messages, y: float, height: float) -> None:
    page.text((MARGIN, y), say("nomogram.points"), size=19, anchor="lm")
    page.box(_LEFT, y, _RIGHT, y + 1, MUTED)
    for points in range(0, 101, 10):
        x = _x(points)
        page.box(x, y - 6, x + 1, y + 7, MUTED)
        page.box(x, y + 7, x + 1, y + height, (24, 28, 34))
        page.text((x, y - 10), str(points), size=15, colour=MUTED, anchor="md")


def _draw_line(page: Page, line: NomogramRow, say: Messages, y: float) -> None:
    """Draw one variable: its range where its points are, and the patient's value as a mark."""
    ends = sorted(((line.low_points, line.low), (line.high_points, line.high)))
    page.text((MARGIN, y), wording.row_title(line, say), size=17, anchor="lm", width=_LEFT - MARGIN - 24)
    page.box(_x(ends[0][0]), y, max(_x(ends[1][0]), _x(ends[0][0]) + 2), y + 2, MUTED)
    for points, value in ends:
        page.box(_x(points), y - 6, _x(points) + 2, y + 8, MUTED)
        page.text((_x(points), y + 12), f"{value:.3g}", size=15, colour=MUTED, anchor="ma")
    x = _x(min(max(line.points, 0.0), _POINTS))
    page.box(x - 3, y - 13, x + 4, y + 15, FOR)
    page.text((x, y - 17), f"{line.value:.3g} {line.unit}".strip(), size=17, anchor="md", halo=3)
    page.text((WIDTH - MARGIN, y), f"{line.points:.0f}", size=24, anchor="rm")


def _draw_total(page: Page, prediction: Prediction, rows: tuple[NomogramRow, ...], say: Messages, y: float, row: float) -> None:
    """Draw the scale of total points and below it the probability that each total stands for."""
    total = sum(line.points for line in rows)
    span = max(sum(max(line.low_points, line.high_points) for line in rows), total, 1.0)
    page.box(MARGIN, y - row / 2, WIDTH - MARGIN, y - row / 2 + 1, LINE)
    page.text((MARGIN, y), say("nomogram.total", total=wording.points_words(rows)), size=19, anchor="lm", width=_LEFT - MARGIN - 16)
    page.box(_LEFT, y, _RIGHT, y + 2, MUTED)
    for points in range(0, int(span) + 1, 20 if span <= 240 else 50):
        page.box(_x(points, span), y - 5, _x(points, span) + 1, y + 7, MUTED)
        if abs(_x(points, span) - _x(total, span)) > _MARK_ROOM:
            page.text((_x(points, span), y - 9), str(points), size=15, colour=MUTED, anchor="md")
    below = y + row * 0.72
    page.text((MARGIN, below), say("nomogram.probability"), size=19, anchor="lm")
    page.box(_LEFT, below, _RIGHT, below + 2, MUTED)
    _draw_probabilities(page, prediction, rows, total, span, below)
    x = _x(total, span)
    page.box(x - 1, y - 14, x + 2, below + 14, FOR)
    page.box(x - 3, y - 14, x + 4, y + 15, FOR)
    page.text((WIDTH - MARGIN, y), f"{total:.0f}", size=24, anchor="rm")
    words = wording.percent_words(prediction.probability, wording.decimals(prediction))
    page.text((WIDTH - MARGIN, below), words, size=24, anchor="rm", colour=FOR)


def _draw_probabilities(page: Page, prediction: Prediction, rows: tuple[NomogramRow, ...], total: float, span: float, y: float) -> None:
    """Mark probabilities on the scale of total points: log-odds are linear in points, and this patient's are known."""
    per_point = _log_odds_per_point(rows)
    if per_point is None or not 0 < prediction.probability < 1:
        return
    here, taken = math.log(prediction.probability / (1 - prediction.probability)), [_x(total, span)]
    for p in sorted(_TICKS, key=lambda p: abs(p - 0.5)):
        x = _x(total + (math.log(p / (1 - p)) - here) / per_point, span)
        if _LEFT <= x <= _RIGHT and all(abs(x - other) >= _TICK_ROOM for other in taken):
            taken.append(x)
            page.box(x, y - 5, x + 1, y + 7, TEXT)
            page.text((x, y + 12), f"{100 * p:g} %", size=15, colour=MUTED, anchor="ma")


def _log_odds_per_point(rows: tuple[NomogramRow, ...]) -> float | None:
    """Return what one point adds to the log-odds, or ``None`` where the lines do not say it with one voice.

    ``log_odds`` is coefficient times value, and a line's points are linear in its value: every line gives the same.
    """
    known = [r for r in rows if r.value and r.high != r.low and r.high_points != r.low_points]
    found = [r.log_odds / r.value * (r.high - r.low) / (r.high_points - r.low_points) for r in known]
    if not found or max(found) <= 0 or min(found) < (1 - _AGREEMENT) * max(found):
        return None
    return max(found)
