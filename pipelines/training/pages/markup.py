"""The few pieces of HTML that a report is made of, and numbers as it prints them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from pipelines.training.discrimination import Auc
from pipelines.training.intervals import Estimate, Interval, Proportion

NONE = "\u2013"  # where there is no number
_VOID = ("br", "wbr")  # elements without content


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put in."""

    __slots__ = ()


def escape(content: object) -> str:
    """Return content as HTML."""
    return content if isinstance(content, Markup) else html.escape(str(content))


def join(parts: Iterable[object]) -> Markup:
    """Return parts one after another."""
    return Markup("".join(escape(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """Return an element; ``class_`` is the attribute class, other underscores become hyphens."""
    if name in _VOID:
        return Markup(f"<{name}>")
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{join(content)}</{name}>")


def paragraph(*content: object, kind: str = "") -> Markup:
    """Return a paragraph."""
    return tag("p", *content, **({"class_": kind} if kind else {}))


def bullets(items: Iterable[object]) -> Markup:
    """Return a list."""
    return tag("ul", *(tag("li", item) for item in items))


def anchor(title: str) -> str:
    """Return the identifier of a section or figure with this title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def section(title: str, *content: object) -> Markup:
    """Return a section with its heading."""
    return tag("section", tag("h2", title), *content, id=anchor(title))


def side_by_side(*content: object) -> Markup:
    """Return pieces in as many columns as the page has room for."""
    return tag("div", *content, class_="columns")


def table(caption: str, heads: Sequence[object], rows: Iterable[Sequence[object]], *, words: int = 1, note: str = "") -> Markup:
    """Return a table whose first ``words`` columns are text and whose others are numbers; the first heads its row."""
    kinds = ["" if i < words else "n" for i in range(len(heads))]
    top = join(tag("th", head, scope="col", class_=kind) for head, kind in zip(heads, kinds, strict=True))
    body = []
    for row in rows:
        first, *others = row
        cells = [tag("td", cell, class_=kind) for cell, kind in zip(others, kinds[1:], strict=True)]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", top)), tag("tbody", *body))
    under = paragraph(note, kind="note") if note else ""
    return tag("div", tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption), under, class_="tabled")


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Return a number with a real minus sign."""
    if value is None:
        return NONE
    written = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return written.replace("-", "\u2212")


def bounds(interval: Interval | None, digits: int = 3) -> str:
    """Return an interval in brackets."""
    return NONE if interval is None else f"({number(interval.low, digits)} to {number(interval.high, digits)})"


def estimate(one: Estimate | None, digits: int = 3) -> str:
    """Return a value with its interval."""
    return "not defined" if one is None else f"{number(one.value, digits)} {bounds(one.interval, digits) if one.interval else ''}".strip()


def area(auc: Auc | None) -> str:
    """Return an AUC with its interval."""
    return NONE if auc is None else f"{number(auc.value)} {bounds(auc.interval)}"


def share(one: Proportion) -> str:
    """Return a proportion with its Wilson interval and its counts."""
    return NONE if one.value is None else f"{number(one.value)} {bounds(one.wilson)}, {one.count}/{one.of}"


def stacked(one: Proportion) -> Markup:
    """Return a proportion above its Wilson interval and its counts."""
    return join([number(one.value), tag("br"), tag("small", bounds(one.wilson)), tag("br"), tag("small", f"{one.count}/{one.of}")])


def named(name: str, words: str) -> Markup:
    """Return a name above what it is."""
    return join([name, tag("br"), tag("small", words)])


def shorten(words: str, most: int) -> str:
    """Return words of at most so many characters."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def p_value(p: float | None) -> str:
    """Return a p-value."""
    return NONE if p is None else "< 0.001" if p < 0.001 else number(p)


def count(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def mark(status: str, words: str) -> Markup:
    """Return a status as a small label."""
    return tag("span", words, class_=f"mark {status}")
