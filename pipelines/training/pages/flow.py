"""The cohort: a diagram from the table's rows to the patients that the numbers are about, and who they were."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipelines.imaging.acquisition import UNITS
from pipelines.training.evaluation import Evaluation, tell_labels
from pipelines.training.outcome import Outcome
from pipelines.training.pages.markup import Markup, bullets, count, join, number, section, side_by_side, table
from pipelines.training.pages.svg import Drawing

_WIDE, _LINE, _PAD, _GAP = 330.0, 20.0, 12.0, 34.0  # of a box, a line of text, its margin, between boxes; pixels
_LETTERS = 46  # of a line of text
_MOST_REFUSED = 40  # rows shown


class Box(NamedTuple):
    """A stage of the flow, and what left it on the way to the next."""

    lines: tuple[str, ...]
    left: tuple[str, ...] = ()


def draw_flow(boxes: Sequence[Box], caption: str) -> Markup:
    """Draw stages downwards, those who leave to the right."""
    heights = [2 * _PAD + _LINE * len(b.lines) for b in boxes]
    beside = [2 * _PAD + _LINE * len(b.left) if b.left else 0.0 for b in boxes]
    gaps = [max(_GAP, h + 16) for h in beside[:-1]] + [0.0]
    picture = Drawing("Cohort flow", "; ".join(", ".join(b.lines + b.left) for b in boxes), 720, sum(heights) + sum(gaps) + 8)
    y = 4.0
    for i, (one, height, gap) in enumerate(zip(boxes, heights, gaps, strict=True)):
        last = i + 1 == len(boxes)
        _draw_box(picture, 4, y, one.lines, "card main" if last else "card")
        if not last:
            _draw_arrow(picture, (4 + _WIDE / 2, y + height), (4 + _WIDE / 2, y + height + gap))
        if one.left:
            middle = y + height + gap / 2
            _draw_arrow(picture, (4 + _WIDE / 2, middle), (380, middle))
            _draw_box(picture, 380, middle - beside[i] / 2, one.left, "card")
        y += height + gap
    return picture.figure(caption, wide=True)


def _draw_box(picture: Drawing, x: float, y: float, lines: Sequence[str], kind: str) -> None:
    picture.box(x, y, _WIDE, 2 * _PAD + _LINE * len(lines), kind, radius=6)
    for i, line in enumerate(lines):
        picture.text(x + 14, y + _PAD + _LINE * (i + 0.5), line, kind="strong" if i == 0 else "")


def _draw_arrow(picture: Drawing, start: tuple[float, float], end: tuple[float, float]) -> None:
    picture.line([start, end], "axis")
    (x, y), down = end, start[0] == end[0]
    picture.line([(x - 5, y - 7), end, (x + 5, y - 7)] if down else [(x - 7, y - 5), end, (x - 7, y + 5)], "axis")


def training_cohort(o: Outcome) -> Markup:
    """Return the section on the patients of a training run."""
    f, several = o.flow, o.several is not None
    first = () if several else (f"{f.row_events} with the finding, {f.rows - f.row_events} without",)
    outside = sum(map(len, f.excluded.values()))
    others = f.rows - f.network_rows - f.judged - outside
    left = [f"{count(f.network_rows, 'patient')} trained only segmenter or networks"] if f.network_rows else []
    left += [f"{count(others, 'patient')} kept for evaluation"] if others > 0 else []
    for rule, broken in f.excluded.items():
        left += textwrap.wrap(f"{len(broken)} outside the rule: {rule}", _LETTERS)
    last = _lines(f.class_counts, list(f.class_counts)) if several else [f"{f.events} with the finding, {f.judged - f.events} without"]
    boxes = (
        Box((f"{count(f.rows, 'patient')} in {f.file}", *first), tuple(left)),
        Box((f"{count(f.judged, 'patient')} fitted and judged", *last)),
    )
    lines = [
        f"Sites: {', '.join(f.sites) or 'not stated'}.",
        f"{count(f.second_reader, 'patient')} with a second reader's region."
        if f.second_reader
        else "No second reader's regions: nobody knows how far features depend on who drew.",
        *(
            [f"Mean Dice of the segmenter on unseen cases: {number(o.segmenter_dice)}; features are of the regions given."]
            if o.segmenter_dice
            else []
        ),
        "A row that cannot be used stops the run with its line number; rows that break a rule of inclusion are left out and named by "
        "their lines. Nobody is left out silently, and no value is imputed.",
    ]
    scanners = table("Scanners of the patients judged", ("Scanner", "Patients"), [(name, n) for name, n in f.scanners.items()])
    diagram = draw_flow(
        boxes, "Every row of the cohort table. Nested cross-validation reuses the judged patients; each is judged by models without it."
    )
    acquired = table(
        "How they were acquired",
        ("Sequence", "What", "Least", "Largest"),
        [
            (role, f"{what}, {UNITS[what]}", f"{low:g}", f"{high:g}")
            for role, limits in f.acquisition.items()
            for what, (low, high) in limits.items()
        ],
        words=2,
        note="A study outside of these by more than a tenth is told so in its report.",
    )
    return section("Cohort", diagram, side_by_side(bullets(lines), scanners), acquired)


def evaluation_cohort(e: Evaluation) -> Markup:
    """Return the section on the patients of an evaluation."""
    f, known = e.flow, e.bundle.classes
    left = [f"{count(f.training_rows, 'row')} of the training split left out"] if f.training_rows else []
    left += [f"{count(len(f.refused), 'patient')} refused", *_lines(f.refused_labels, known)] if f.refused else []
    without = [] if known else [f"{f.labels.get(0, 0)} without"]
    boxes = [
        Box((f"{count(f.rows, 'patient')} in {e.cohort}", *_lines(f.row_labels, known)), tuple(left)),
        Box(
            (f"{count(f.evaluated, 'patient')} evaluated", *_lines(f.labels, known), *without),
            (f"{f.withheld} without a call: unlike the training cases",) if f.withheld else (),
        ),
    ]
    boxes += [Box((f"{count(f.evaluated - f.withheld, 'patient')} with a call",))] if f.withheld else []
    origins = ", ".join(f"{n} {origin}" for origin, n in f.roi_origins.items())
    refused = [(f"line {r.line}", r.site or "–", r.code, r.reason, r.label) for r in f.refused[:_MOST_REFUSED]]
    heads = ("Row", "Site", "Code", "Reason", "Label")
    listed = table("Patients that the bundle could not judge", heads, refused, words=4) if refused else ""
    more = len(f.refused) - _MOST_REFUSED
    lines = [f"Regions: {origins}.", e.tally.sentence, *([f"{more} more refusals are in evaluation.json."] if more > 0 else [])]
    return section("Cohort", draw_flow(boxes, "Every row of the cohort table."), bullets(lines), join([listed]))


def _lines(labels: Mapping[int, int], classes: Sequence[int]) -> list[str]:
    """Return how many patients have which label, in lines that fit into a box."""
    return textwrap.wrap(tell_labels(labels, classes=classes), _LETTERS)
