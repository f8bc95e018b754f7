"""The right-hand column of the summary page: what was measured, what to take care of, what it was made of.

Nothing vanishes from it unsaid: a full column is written smaller, then shorter, and says how much more the report has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pipelines.types import Evidence
from structured_reports import wording
from structured_reports.canvas import MUTED, Page
from structured_reports.language import Messages
from structured_reports.measure import measure

_HEADING, _ROW, _LINE, _BETWEEN, _GAP = 32, 25, 22, 5, 12  # pixels at full size
_LABEL = 72  # pixels from the role of a series to its words
_SIZES = (1.0, 0.92, 0.85, 0.8, 0.78)  # of type: the first at which everything has room is taken
_FLAG_LINES = 7  # of one flag: more than any has


class _Row(NamedTuple):
    """A name with its value, a series with its role, or lines of text."""

    kind: Literal["pair", "series", "text", "note"]
    words: tuple[str, ...]

    @property
    def height(self) -> float:
        if self.kind in ("text", "note"):
            return _LINE * len(self.words) + (_BETWEEN if self.kind == "text" else 0)
        return _ROW


@dataclass(frozen=True)
class _Section:
    """Rows below a heading, of which the first ``shown`` are written. Those of ``rank`` 0 give way first."""

    heading: str
    rows: tuple[_Row, ...]
    shown: int
    rank: int

    @property
    def height(self) -> float:
        more = _LINE if self.shown < len(self.rows) else 0
        return _HEADING + sum(row.height for row in self.rows[: self.shown]) + more + _GAP


class _Column(NamedTuple):
    """Where the column stands on the page, and how large its type is."""

    page: Page
    left: float
    right: float
    scale: float


def draw_facts(
    page: Page, evidence: Evidence, flags: tuple[str, ...], say: Messages, *, left: float, top: float, right: float, bottom: float
) -> None:
    """Write tumour measures, region, clinical values, flags and series into a column of the page."""
    for scale in _SIZES:
        column = _Column(page, left, right, scale)
        sections = _arrange(column, evidence, flags, say)
        if _height(sections) * scale <= bottom - top:
            break
    y = top
    for section in _shorten(sections, (bottom - top) / scale):
        y = _write(column, section, say, y)


def _arrange(column: _Column, evidence: Evidence, flags: tuple[str, ...], say: Messages) -> list[_Section]:
    """Return everything that there is to say."""
    tumour = [_Row("pair", wording.measurement_words(m, say)) for m in measure(evidence)]
    tumour.append(_Row("note", _wrap(column, wording.region_words(evidence.roi, say), 2)))
    clinical = [_Row("pair", (wording.clinical_title(v.name, say), v.words)) for v in evidence.clinical]
    points = [_Row("pair", (say("nomogram.total_points"), wording.points_words(evidence.nomogram)))] if evidence.nomogram else []
    care = say("page.care") if len(flags) == 1 else say("page.care_many", count=len(flags))
    found = (
        (say("page.tumour"), tumour, 2),
        (say("page.clinical" if clinical else "nomogram.title"), [*points, *clinical], 1),
        (care, [_Row("text", _wrap(column, flag, _FLAG_LINES)) for flag in flags], 0),
        (say("page.series"), [_Row("series", words) for words in wording.used_series(evidence.volumes, say)], 0),
    )
    return [_Section(heading, tuple(rows), len(rows), rank) for heading, rows, rank in found if rows]


def _wrap(column: _Column, words: str, lines: int) -> tuple[str, ...]:
    return tuple(column.page.wrap(words, size=_size(column, 16), width=column.right - column.left, lines=lines))


def _size(column: _Column, full: int) -> int:
    return round(full * column.scale)


def _height(sections: Sequence[_Section]) -> float:
    return sum(section.height for section in sections) - _GAP


def _shorten(sections: Sequence[_Section], room: float) -> list[_Section]:
    """Return the sections with fewer rows, as far as it needs: of the lowest rank first, of those the tallest."""
    left = list(sections)
    while _height(left) > room and (longer := [s for s in left if s.shown > 1]):
        victim = min(longer, key=lambda s: (s.rank, -s.height))
        left[left.index(victim)] = replace(victim, shown=victim.shown - 1)
    return left


def _write(column: _Column, section: _Section, say: Messages, y: float) -> float:
    """Write a section; return the y below it."""
    page, left, scale = column.page, column.left, column.scale
    page.text((left, y), section.heading, size=_size(column, 22), width=column.right - left)
    y += _HEADING * scale
    for row in section.rows[: section.shown]:
        _write_row(column, row, y)
        y += row.height * scale
    if more := len(section.rows) - section.shown:
        page.text((left, y), say("page.more", count=more), size=_size(column, 16), colour=MUTED)
        y += _LINE * scale
    return y + _GAP * scale


def _write_row(column: _Column, row: _Row, y: float) -> None:
    page, left, right, scale = column
    if row.kind == "pair":
        name, value = row.words
        wide = page.text((right, y), value, size=_size(column, 18), anchor="ra")
        page.text((left, y + 1), name, size=_size(column, 17), colour=MUTED, width=right - left - wide - 12)
    elif row.kind == "series":
        role, words = row.words
        page.text((left, y), role, size=_size(column, 16))
        page.text((left + _LABEL, y), words, size=_size(column, 16), colour=MUTED, width=right - left - _LABEL)
    else:
        for number, line in enumerate(row.words):
            place = (left, y + number * _LINE * scale)
            if row.kind == "note":
                page.text(place, line, size=_size(column, 16), colour=MUTED, width=right - left)
            else:
                page.text(place, line, size=_size(column, 16), width=right - left)
