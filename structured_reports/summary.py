"""The summary page: every number of the result, taken in within ten seconds, without a word about who the patient is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Contribution, Evidence, Prediction
from structured_reports import wording
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, PANEL, TEXT, WARNING, Page
from structured_reports.context import ReportContext

_WIDTH, _HEIGHT = 1024, 768
_MARGIN = 24
_COLUMN = 640  # x at which the right-hand column begins
_BOTTOM = 708  # y above the foot
_MAX_ROW = 46
_FLAG_LINE = 22  # pixels
_AXIS, _HALF_BAR = 308, 220  # x of log-odds 0, length of the longest bar


def draw_summary(prediction: Prediction, evidence: Evidence, context: ReportContext) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3)."""
    page = Page(_WIDTH, _HEIGHT)
    page.text((_MARGIN, 10), wording.banner(prediction.bundle_status), size=26, colour=WARNING)
    page.text((_WIDTH - _MARGIN, 16), "Research software, unverified", size=17, colour=MUTED, anchor="ra")
    page.box(_MARGIN, 48, _WIDTH - _MARGIN, 49, LINE)
    wide = page.text((_WIDTH - _MARGIN, 66), wording.version_words(context), size=17, anchor="ra")
    page.text((_MARGIN, 60), prediction.title, size=26, width=_WIDTH - 2 * _MARGIN - (wide + 24 if wide else 0))
    _draw_probability(page, prediction, context)
    _draw_contributions(page, evidence, context.spec.top_contributions)
    _write_facts(page, prediction, evidence)
    page.box(_MARGIN, 716, _WIDTH - _MARGIN, 717, LINE)
    page.text((_MARGIN, 726), f"Model {wording.model_identity(prediction)}", size=15, colour=MUTED, width=_WIDTH - 2 * _MARGIN)
    made = f"{context.model_name} {context.software_version} at {context.station}. {wording.UNVERIFIED} Not a medical device."
    page.text((_MARGIN, 746), made, size=15, colour=MUTED, width=_WIDTH - 2 * _MARGIN)
    return page.pixels()


def _draw_probability(page: Page, prediction: Prediction, context: ReportContext) -> None:
    """Write the probability and the call, over a bar from 0 to 100 % with the threshold marked."""
    places = wording.decimals(prediction)
    value, threshold = (wording.percent(p, places) for p in (prediction.probability, prediction.threshold))
    colour = FOR if prediction.call == "positive" else AGAINST
    wide = page.text((_MARGIN, 98), wording.percent_words(prediction.probability, places), size=84, colour=colour)
    x = _MARGIN + wide + 36
    page.text((x, 112), wording.call_words(context.spec, prediction), size=27, width=_WIDTH - _MARGIN - x)
    side = "at or above" if prediction.call == "positive" else "below"
    words = f"Probability {side} the decision threshold of {threshold:.{places}f} %"
    if prediction.interval:
        low, high = (wording.percent(bound, places) for bound in prediction.interval)
        words += f"; interval {low:.{places}f} to {high:.{places}f} %"
    page.paragraph((x, 152), words, size=19, width=_WIDTH - _MARGIN - x, lines=2, colour=MUTED)
    left, right, top, bottom = _MARGIN, _WIDTH - _MARGIN, 212, 236
    scale = (right - left) / 100
    page.box(left, top, right, bottom, PANEL)
    page.box(left, top, left + value * scale, bottom, colour)
    if prediction.interval:
        low, high = (left + wording.percent(bound, places) * scale for bound in prediction.interval)
        page.box(low, bottom + 5, max(high, low + 2), bottom + 8, MUTED)
    mark = left + threshold * scale
    page.box(mark - 3, top - 8, mark + 3, bottom + 8, (0, 0, 0))
    page.box(mark - 1, top - 8, mark + 2, bottom + 8, TEXT)
    _write_bar_labels(page, mark, f"threshold {threshold:.{places}f} %", left, right, bottom + 11)


def _write_bar_labels(page: Page, mark: float, label: str, left: int, right: int, y: int) -> None:
    """Write 0 %, 100 % and the threshold below the bar, where they do not meet."""
    half = 76
    page.text((min(max(mark, left + half), right - half), y), label, size=17, anchor="ma")
    if mark > left + 130:
        page.text((left, y), "0 %", size=17, colour=MUTED)
    if mark < right - 150:
        page.text((right, y), "100 %", size=17, colour=MUTED, anchor="ra")


def _draw_contributions(page: Page, evidence: Evidence, count: int) -> None:
    """Draw the largest Shapley values as signed bars around log-odds 0, each below the name of its feature."""
    top = [c for c in evidence.contributions if math.isfinite(c.log_odds)][:count]
    y = 292
    page.text((_MARGIN, y), "Why", size=22)
    page.text((_AXIS - 10, y + 5), "against", size=17, colour=AGAINST, anchor="ra")
    page.text((_AXIS + 10, y + 5), "for the finding", size=17, colour=FOR)
    y += 34
    if not top:
        page.text((_MARGIN, y), "No contributions were computed.", size=17, colour=MUTED)
        return
    row = min(_MAX_ROW, (_BOTTOM - 26 - y) / len(top))
    largest = max(abs(c.log_odds) for c in top) or 1.0
    for number, contribution in enumerate(top):
        _draw_bar(page, contribution, largest, y + number * row)
    words = f"{len(top)} largest of {len(evidence.contributions)} feature contributions (Shapley values, log-odds)"
    page.text((_MARGIN, y + len(top) * row + 4), words, size=15, colour=MUTED, width=_COLUMN - _MARGIN - 30)


def _draw_bar(page: Page, contribution: Contribution, largest: float, y: float) -> None:
    length = max(_HALF_BAR * abs(contribution.log_odds) / largest, 1)
    page.text((_MARGIN, y), wording.feature_words(contribution), size=15, width=_COLUMN - _MARGIN - 40)
    top, bottom, label = y + 20, y + 32, f"{contribution.log_odds:+.2f}"
    page.box(_AXIS - 1, top - 3, _AXIS + 1, bottom + 3, LINE)
    if contribution.log_odds >= 0:
        page.box(_AXIS + 1, top, _AXIS + 1 + length, bottom, FOR)
        page.text((_AXIS + length + 8, (top + bottom) / 2), label, size=15, anchor="lm")
    else:
        page.box(_AXIS - 1 - length, top, _AXIS - 1, bottom, AGAINST)
        page.text((_AXIS - length - 8, (top + bottom) / 2), label, size=15, anchor="rm")


def _write_facts(page: Page, prediction: Prediction, evidence: Evidence) -> None:
    """Write tumour measures, series, region and flags in the right-hand column."""
    width, right, y = _WIDTH - _MARGIN - _COLUMN, _WIDTH - _MARGIN, 292.0
    page.box(_COLUMN - 22, 296, _COLUMN - 21, _BOTTOM - 6, LINE)
    page.text((_COLUMN, y), "Tumour", size=22)
    y += 36
    for measurement in (m for m in evidence.measurements if math.isfinite(m.value)):
        name, value = wording.measurement_words(measurement)
        wide = page.text((right, y), value, size=19, anchor="ra")
        page.text((_COLUMN, y + 1), name, size=17, colour=MUTED, width=width - wide - 12)
        y += 27
    words = f"Region {wording.region_words(evidence)}"
    y = page.paragraph((_COLUMN, y + 2), words, size=16, width=width, lines=2, colour=MUTED)
    y += 16
    page.text((_COLUMN, y), "Series used", size=22)
    y += 34
    for role, series in wording.used_series(evidence.volumes):
        page.text((_COLUMN, y), role, size=16)
        page.text((_COLUMN + 72, y), series, size=16, colour=MUTED, width=width - 72)
        y += 24
    y += 12
    if prediction.flags:
        count = len(prediction.flags)
        page.text((_COLUMN, y), "Take care" if count == 1 else f"Take care: {count} flags in the report", size=22)
        y += 34
        for flag in prediction.flags:
            lines = min(3, int((_BOTTOM - y) // _FLAG_LINE))
            y = page.paragraph((_COLUMN, y), flag, size=16, width=width, lines=lines)
