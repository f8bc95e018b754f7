"""The page of a system that gave no result: that there is none, why, and what was there instead."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.types import Refusal
from structured_reports import codes, wording
from structured_reports.canvas import LINE, MUTED, TEXT, Colour, Page
from structured_reports.context import ReportContext
from structured_reports.language import Messages
from structured_reports.layout import BOTTOM, HEIGHT, MARGIN, WIDTH, start_refusal_page

_LISTS = 216  # y at which the reasons begin
_HEADING, _GAP = 38, 16  # pixels
_FOUND = 150  # pixels that are kept for what was found, however many reasons there are
_LINES = 4  # of an entry
_BAR = 14  # pixels from the bar before an entry to its words


def state_words(refusal: Refusal, say: Messages) -> str:
    """Return the state of a job without a result for a person."""
    return say("refusal.failed" if refusal.failed else "refusal.refused")


def refusal_kind(refusal: Refusal, say: Messages) -> str:
    """Say in general why there is no result, as the coded reason does."""
    code = codes.REFUSALS.get(refusal.code, codes.REFUSAL_OTHER)
    return say.known(f"refusal.{code.value}", code.meaning)


def draw_refusal(refusal: Refusal, context: ReportContext, *, say: Messages) -> NDArray[np.uint8]:
    """Draw the page; return RGB pixels, shape (rows, columns, 3)."""
    page = start_refusal_page(refusal, context, say, heading="", height=HEIGHT)
    wide = page.text((MARGIN, 104), state_words(refusal, say), size=64)
    x = MARGIN + wide + 34
    page.paragraph((x, 114), say("refusal.not_negative"), size=26, width=WIDTH - MARGIN - x, lines=1)
    page.paragraph((x, 154), refusal_kind(refusal, say), size=20, width=WIDTH - MARGIN - x, lines=1, colour=MUTED)
    page.box(MARGIN, _LISTS - 14, WIDTH - MARGIN, _LISTS - 13, LINE)
    bottom = BOTTOM - 4
    reasons = [wording.sentence(say.translate(reason)) for reason in refusal.reasons]
    y = _write_list(page, say("refusal.why"), reasons, say, top=_LISTS, bottom=bottom - (_FOUND if refusal.found else 0), size=22)
    _write_list(page, say("refusal.found"), refusal.found, say, top=y + _GAP, bottom=bottom, size=17, colour=MUTED)
    return page.pixels()


def _write_list(
    page: Page, heading: str, entries: Sequence[str], say: Messages, *, top: float, bottom: float, size: int, colour: Colour = TEXT
) -> float:
    """Write entries below a heading as far as there is room, and how many more there are; return the y below them."""
    if not entries:
        return top
    page.text((MARGIN, top), heading, size=24)
    y, step = top + _HEADING, size * 1.35
    for number, entry in enumerate(entries):
        lines = page.wrap(entry, size=size, width=WIDTH - 2 * MARGIN - _BAR, lines=_LINES)
        rest = len(entries) - number
        if number and y + len(lines) * step + (step if rest > 1 else 0) > bottom:
            page.text((MARGIN + _BAR, y), say("page.more", count=rest), size=size, colour=MUTED)
            return y + step
        page.box(MARGIN, y + 2, MARGIN + 3, y + len(lines) * step - 4, LINE)
        for line in lines:
            page.text((MARGIN + _BAR, y), line, size=size, colour=colour, width=WIDTH - 2 * MARGIN - _BAR)
            y += step
        y += size * 0.3
    return y
