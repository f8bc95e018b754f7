"""The page of a system that tells classes apart: each class's probability, the binary axes that they are made of, and why the first one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Evidence, Outcome, Prediction
from structured_reports import wording
from structured_reports.canvas import AGAINST, FOR, LINE, MUTED, PANEL, TEXT, Page
from structured_reports.context import ReportContext
from structured_reports.contributions import draw_contributions
from structured_reports.language import Messages
from structured_reports.layout import BOTTOM, MARGIN, TOP, WIDTH, start_page

_ROW, _AXIS_ROW = 60, 50  # pixels from one bar to the next
_NUMBER = 76  # pixels for a percentage
_END = BOTTOM - 62  # y at which both columns end


def draw_classes(prediction: Prediction, evidence: Evidence, context: ReportContext, *, say: Messages) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3)."""
    page = start_page(prediction, context, say)
    axes, classes = ([o for o in prediction.outcomes if o.kind == kind] for kind in ("axis", "class"))
    width, middle = (WIDTH - 2 * MARGIN - 44) // 2, WIDTH // 2
    page.text((MARGIN, TOP + 8), say("page.classes"), size=24)
    y = draw_outcomes(page, classes, say, left=MARGIN, top=TOP + 52, width=width, row=_ROW, bottom=_END)
    for words in wording.limits(prediction, say):
        y = page.paragraph((MARGIN, y + 6), words, size=17, width=width, lines=5)
    page.box(middle, TOP + 12, middle + 1, _END, LINE)
    right, y = middle + 22, TOP + 8
    if axes:
        page.text((right, y), say("page.axes"), size=24)
        y = draw_outcomes(page, axes, say, left=right, top=y + 44, width=width, row=_AXIS_ROW, bottom=_END, highlight=False) + 16
    finding = say("why.for_class")
    count = context.spec.top_contributions
    draw_contributions(page, evidence, count, say, left=right, top=y, right=right + width, bottom=_END, finding=finding)
    page.paragraph((MARGIN, BOTTOM - 50), say("page.class_note"), size=16, width=WIDTH - 2 * MARGIN, lines=2, colour=MUTED)
    return page.pixels()


def draw_outcomes(
    page: Page,
    outcomes: Sequence[Outcome],
    say: Messages,
    *,
    left: float,
    top: float,
    width: float,
    row: float,
    bottom: float,
    highlight: bool = True,
) -> float:
    """Draw a bar from 0 to 100 % for each outcome below its words, the highest in another colour; return the y below."""
    if not outcomes:
        return top
    row = min(row, (bottom - top) / len(outcomes))
    best = max(o.probability for o in outcomes)
    scale = (width - _NUMBER) / 100
    for number, outcome in enumerate(outcomes):
        y, value = top + number * row, wording.share(outcome.probability)
        first = highlight and outcome.probability == best
        page.text((left, y), wording.outcome_words(outcome, say), size=17, colour=TEXT if first or not highlight else MUTED, width=width)
        page.box(left, y + 22, left + 100 * scale, y + 34, PANEL)
        page.box(left, y + 22, left + value * scale, y + 34, FOR if first else AGAINST)
        page.text((left + width, y + 28), wording.percent_words(outcome.probability, 1), size=17, anchor="rm")
        if not highlight:
            page.box(left + 50 * scale - 1, y + 19, left + 50 * scale + 1, y + 37, TEXT)
    return top + len(outcomes) * row
