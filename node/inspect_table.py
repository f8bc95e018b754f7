"""The inspection of a folder as a table for people: aligned, wrapped to the terminal, coloured only on one."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from pipelines.types import SeriesRole

_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"  # ECMA-48 SGR
_ROLE, _SCORE = 8, 5  # columns of the terminal
_NARROWEST, _WIDEST = 40, 180
_SERIES = (26, 44)  # narrowest and widest
_STACKED = 84  # a narrower terminal gets the reason below the series, not beside it
_GAP = "  "
_NO_BREAK = "\N{NO-BREAK SPACE}"

_Text = tuple[str, str]  # with its style
_Line = list[_Text]


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series. ``facts`` are what it consists of, in words; a file that cannot be read has neither UID nor number."""

    series_instance_uid: str | None
    series_number: int | None
    description: str
    facts: str
    role: SeriesRole | None
    score: float
    reason: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SystemRow:
    """What one system would do: ``reasons`` say what it takes, or what it lacks; ``chosen`` maps roles to Series Instance UIDs."""

    system: str
    title: str
    runnable: bool
    reasons: tuple[str, ...]
    chosen: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StudyTable:
    """One study, or the files that belong to none."""

    study_instance_uid: str | None
    title: str
    series: tuple[SeriesRow, ...]
    systems: tuple[SystemRow, ...]

    def as_json(self) -> dict[str, object]:
        """Return JSON-ready data with the keys of docs/inspect.md."""
        keys = ("series_instance_uid", "series_number", "description", "role", "score", "reason", "problems")
        return {
            "study_instance_uid": self.study_instance_uid,
            "series": [{key: getattr(row, key) for key in keys} for row in self.series],
            "systems": [{key: getattr(row, key) for key in ("system", "runnable", "reasons", "chosen")} for row in self.systems],
        }


@dataclass(frozen=True, slots=True)
class _Column:
    """Text lines of one table cell, ``width`` wide."""

    lines: list[_Text]
    width: int
    right: bool = False


def render(studies: Sequence[StudyTable], *, width: int, colour: bool) -> str:
    """Return the tables as text; lines keep to ``width`` columns where that is at least 40."""
    width = min(max(width, _NARROWEST), _WIDEST)
    lines: list[_Line] = []
    for study in studies:
        lines += [[("", "")], [("", "")]] if lines else []
        lines += _render_study(study, width)
    return "".join("".join(_paint(text, style, colour) for text, style in line).rstrip() + "\n" for line in lines)


def _paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style and text.strip() else text


def _render_study(study: StudyTable, width: int) -> list[_Line]:
    lines: list[_Line] = [[line] for line in _wrap(study.title, width, _BOLD)]
    if study.study_instance_uid:
        lines += [[line] for line in _wrap(f"Study {study.study_instance_uid}, {len(study.series)} series", width, _DIM)]
    widths = _series_widths(study, width)
    head = [
        _Column([(name, _DIM)], w, name in ("No.", "Score"))
        for name, w in zip(("No.", "Series", "Role", "Score", "Why"), widths, strict=True)
    ]
    lines += [[("", "")], *_beside(head if widths[4] else head[:4]), [("-" * width, _DIM)]]
    for row in study.series:
        lines += _render_series(row, widths, width)
    for system in study.systems:
        lines += [[("", "")], *_render_system(system, width)]
    return lines


def _series_widths(study: StudyTable, width: int) -> tuple[int, int, int, int, int]:
    """Return the widths of number, series, role, score and reason; the last is 0 where it goes below."""
    number = max([3, *(len(str(row.series_number)) for row in study.series if row.series_number is not None)])
    rest = width - number - _ROLE - _SCORE - 4 * len(_GAP)
    if width < _STACKED:
        return number, rest + len(_GAP), _ROLE, _SCORE, 0
    series = min(max(rest // 2, _SERIES[0]), _SERIES[1])
    return number, series, _ROLE, _SCORE, rest - series


def _render_series(row: SeriesRow, widths: tuple[int, int, int, int, int], width: int) -> list[_Line]:
    number_w, series_w, role_w, score_w, reason_w = widths
    plain = "" if row.role else _DIM
    name = _wrap(row.description or "(no description)", series_w, plain) + _wrap(row.facts, series_w, _DIM)
    why = _wrap(row.reason, reason_w or width - number_w - len(_GAP), plain)
    for problem in row.problems:
        why += _wrap(f"! {problem}", reason_w or width - number_w - len(_GAP), _YELLOW, hang="  ")
    columns = [
        _Column([("" if row.series_number is None else str(row.series_number), plain)], number_w, right=True),
        _Column(name, series_w),
        _Column([(str(row.role or "-"), _GREEN if row.role else _DIM)], role_w),
        _Column([(f"{row.score:.0f}" if row.role else "", "")], score_w, right=True),
    ]
    if reason_w:
        return _beside([*columns, _Column(why, reason_w)])
    return _beside(columns) + _beside([_Column([], number_w), _Column(why, width - number_w - len(_GAP))])


def _render_system(row: SystemRow, width: int) -> list[_Line]:
    verdict = ("can run", _GREEN) if row.runnable else ("cannot run", _RED)
    head: _Line = [(_safe(row.system), _BOLD), (_GAP, ""), verdict]
    title = _safe(row.title)
    beside = sum(_display_width(text) for text, _ in head) + len(_GAP) + _display_width(title) <= width
    lines = [[*head, (_GAP, ""), (title, _DIM)]] if beside else [head, *([line] for line in _wrap(title, width, _DIM))]
    for reason in row.reasons:
        mark = "" if row.runnable else _RED
        lines += _beside([_Column([("-", mark)], 3, right=True), _Column(_wrap(reason, width - 3 - len(_GAP), ""), width - 3 - len(_GAP))])
    return lines


def _beside(columns: Sequence[_Column]) -> list[_Line]:
    """Set columns beside each other, the shorter ones filled with blanks."""
    lines: list[_Line] = []
    for cells in zip_longest(*(c.lines for c in columns), fillvalue=("", "")):
        line: _Line = []
        for column, (text, style) in zip(columns, cells, strict=True):
            blanks = " " * max(0, column.width - _display_width(text))
            line += [(_GAP, "")] if line else []
            line += [(blanks, ""), (text, style)] if column.right else [(text, style), (blanks, "")]
        lines.append(line)
    return lines


def _wrap(text: str, width: int, style: str, *, hang: str = "") -> list[_Text]:
    lines = textwrap.wrap(_safe(text), width, subsequent_indent=hang)
    return [(line.replace(_NO_BREAK, " "), style) for line in lines]


def _safe(text: str) -> str:
    """Return text without control characters: a header must not steer the terminal."""
    return "".join(c if c.isprintable() or c == _NO_BREAK else " " if c.isspace() else "?" for c in text)


def _display_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
