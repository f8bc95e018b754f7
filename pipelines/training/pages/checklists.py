"""Reporting guidelines, filled from what a run knows and from nothing else.

The items stand in JSON files; an item that names a fact is filled when the run has that fact, any other one is the site's to complete.
Nothing is claimed that the data do not hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from pipelines.training.pages.markup import Markup, anchor, count, join, mark, paragraph, table, tag

Status = Literal["yes", "partly", "no", "none", "site"]
_WORDS: Mapping[Status, str] = {
    "yes": "filled",
    "partly": "partly, site to complete",
    "no": "no",
    "none": "not applicable",
    "site": "to be completed by the site",
}
_FILES = ("tripod_ai.json", "claim_2024.json", "metrics.json")


class Fact(NamedTuple):
    """What a run says of an item; ``section`` is the heading under which the report shows it."""

    status: Status
    words: str
    section: str = ""


class Item(BaseModel):
    """One item of a guideline, in our own short words; ``fact`` names what fills it, ``weight`` counts in a score."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    part: str
    asks: str
    fact: str = ""
    weight: float = 0.0


class Checklist(BaseModel):
    """A guideline."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    source: str
    items: tuple[Item, ...]


class Score(NamedTuple):
    """Weights of applicable items, as shares: answered yes, answered no, left open. They add up to 1."""

    yes: float
    no: float
    open: float


_OPEN = Fact("site", "")


def read_checklists() -> tuple[Checklist, ...]:
    """Return all guidelines."""
    folder = Path(__file__).parent
    return tuple(Checklist.model_validate(json.loads((folder / name).read_text(encoding="utf-8"))) for name in _FILES)


def score(items: Iterable[Item], facts: Mapping[str, Fact]) -> Score:
    """Return how the weights of a scored guideline are answered; items that are not applicable do not count (as in METRICS)."""
    weights = dict.fromkeys(("yes", "no", "site"), 0.0)
    for item in items:
        status = facts.get(item.fact, _OPEN).status
        if status != "none":
            weights["site" if status == "partly" else status] += item.weight
    total = sum(weights.values())
    return Score(weights["yes"] / total, weights["no"] / total, weights["site"] / total)


def show(one: Checklist, facts: Mapping[str, Fact]) -> Markup:
    """Return a guideline as a table that opens."""
    given = [facts.get(item.fact, _OPEN) for item in one.items]
    rows = [_show_item(item, fact) for item, fact in zip(one.items, given, strict=True)]
    scored = any(item.weight for item in one.items)
    heads = ("Item", "Part", "Asks for", "Status", "From this run", *(("Weight",) if scored else ()))
    numbers = Counter(fact.status for fact in given)
    said = ", ".join(f"{numbers[status]} {words}" for status, words in _WORDS.items() if numbers[status])
    body = [_show_score(one, facts)] if scored else []
    summary = tag("summary", f"{one.title}, {count(len(one.items), 'item')}: {said}")
    return tag("details", summary, *body, table(one.title, heads, rows, words=5, note=one.source))


def _show_item(item: Item, fact: Fact) -> tuple[object, ...]:
    words = "yes" if item.weight and fact.status == "yes" else _WORDS[fact.status]
    said: object = fact.words
    if fact.section:
        said = join([fact.words, " ", tag("a", f"({fact.section})", href=f"#{anchor(fact.section)}")])
    cells = (item.id, item.part, item.asks, mark(fact.status, words), said)
    return (*cells, f"{item.weight:.4f}") if item.weight else cells


def _show_score(one: Checklist, facts: Mapping[str, Fact]) -> Markup:
    s = score(one.items, facts)
    return paragraph(
        f"This run alone answers {100 * (s.yes + s.no):.0f} % of the applicable weight: {100 * s.yes:.1f} % yes, {100 * s.no:.1f} % no. "
        f"The rest is the site's to answer, so the score lies between {100 * s.yes:.1f} % and {100 * (s.yes + s.open):.1f} %: "
        "no final score."
    )
