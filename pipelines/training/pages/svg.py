"""Charts as inline SVG: axes, lines, bands and points in data coordinates. Colours are the page's (report.css), by kind.

Every chart has a title and a description for those who do not see it. Kinds differ in dash or shape as well as in colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.training.pages.markup import Markup, anchor, escape, number, tag

_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 16.0, 14.0, 50.0  # margins, pixels
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, from where to where (``low`` above ``high`` turns it round), and its ticks with their words."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, label: str, low: float, high: float, *, parts: int = 5, digits: int | None = None) -> Axis:
        """Return an axis with about so many round ticks."""
        step = round_step(abs(high - low) / parts)
        first, last = math.ceil(min(low, high) / step - 1e-9), math.floor(max(low, high) / step + 1e-9)
        places = next(d for d in range(12) if math.isclose(step, round(step, d), rel_tol=1e-6)) if digits is None else digits
        ticks = tuple(i * step for i in range(first, last + 1))
        return cls(label, low, high, ticks, tuple(number(t, places) for t in ticks))

    def at(self, value: float) -> float:
        """Return where a value lies, 0 to 1 from ``low`` to ``high``."""
        return (value - self.low) / (self.high - self.low) if self.high != self.low else 0.5


def round_step(wanted: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is at least the step wanted."""
    if wanted <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(wanted))
    return next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= wanted * (1 - 1e-9))


class Drawing:
    """An SVG picture in pixels."""

    def __init__(self, title: str, description: str, width: float, height: float) -> None:
        self.title, self.description = title, description
        self.width, self.height = width, height
        self.parts: list[str] = []

    def line(self, points: Iterable[Point], kind: str) -> None:
        """Draw a line through points."""
        path = "L".join(f"{_px(x)} {_px(y)}" for x, y in points)
        self.parts.append(f'<path class="line {kind}" d="M{path}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, *, radius: float = 0) -> None:
        """Draw a rectangle."""
        corner = f' rx="{_px(radius)}"' if radius else ""
        self.parts.append(f'<rect class="{kind}" x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}"{corner}/>')

    def dot(self, x: float, y: float, kind: str, *, radius: float = 4) -> None:
        """Draw a disc."""
        self.parts.append(f'<circle class="{kind}" cx="{_px(x)}" cy="{_px(y)}" r="{_px(radius)}"/>')

    def swarm(self, points: Iterable[Point], kind: str) -> None:
        """Draw many small discs as one element."""
        path = "".join(f"M{_px(x)} {_px(y)}h0" for x, y in points)
        if path:
            self.parts.append(f'<path class="swarm {kind}" d="{path}"/>')

    def diamond(self, x: float, y: float, kind: str, *, radius: float = 6) -> None:
        """Draw a square on its tip."""
        corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
        self.parts.append(f'<polygon class="{kind}" points="{" ".join(f"{_px(a)},{_px(b)}" for a, b in corners)}"/>')

    def text(self, x: float, y: float, words: object, *, anchor: str = "start", kind: str = "") -> None:
        """Write a line of text; ``y`` is its middle."""
        named = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{named} x="{_px(x)}" y="{_px(y)}" dy=".35em" text-anchor="{anchor}">{escape(words)}</text>')

    def svg(self) -> Markup:
        """Return the picture."""
        name = anchor(self.title)
        head = f"{tag('title', self.title, id=f't-{name}')}{tag('desc', self.description, id=f'd-{name}')}"
        view = f'viewBox="0 0 {_px(self.width)} {_px(self.height)}" style="max-width:{_px(self.width)}px"'
        return Markup(f'<svg role="img" aria-labelledby="t-{name} d-{name}" {view}>{head}{"".join(self.parts)}</svg>')

    def figure(self, caption: object, *, wide: bool = False) -> Markup:
        """Return the picture with its caption."""
        words = tag("figcaption", tag("strong", f"{self.title}. "), caption)
        return tag("figure", self.svg(), words, class_="wide" if wide else "")


class Chart(Drawing):
    """A drawing with two axes."""

    def __init__(self, title: str, description: str, x: Axis, y: Axis, *, width: float = 480, height: float = 400) -> None:
        super().__init__(title, description, width, height)
        self.x, self.y = x, y
        self._draw_axes()

    def place(self, x: float, y: float) -> Point:
        """Return the pixels of a point."""
        inner, tall = self.width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM
        return _LEFT + self.x.at(x) * inner, _TOP + (1 - self.y.at(y)) * tall

    def plot(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> None:
        """Draw a line through data points, as far as they lie between the ends of the vertical axis."""
        low, high = sorted((self.y.low, self.y.high))
        inside: list[Point] = []
        for x, y in (*zip(xs, ys, strict=True), (0.0, math.inf)):
            if low - 1e-9 <= y <= high + 1e-9:
                inside.append(self.place(x, y))
                continue
            if len(inside) > 1:
                self.line(inside, kind)
            inside = []

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str) -> None:
        """Fill between two lines."""
        upper = [self.place(x, y) for x, y in zip(xs, high, strict=True)]
        lower = [self.place(x, y) for x, y in zip(xs, low, strict=True)]
        corners = " ".join(f"{_px(x)},{_px(y)}" for x, y in (*upper, *reversed(lower)))
        self.parts.append(f'<polygon class="band {kind}" points="{corners}"/>')

    def legend(self, entries: Sequence[tuple[str, str]], *, x: float, y: float) -> None:
        """Name kinds of lines from a data point downwards."""
        left, top = self.place(x, y)
        for i, (words, kind) in enumerate(entries):
            here = top + 18 * i
            self.line([(left, here), (left + 26, here)], kind)
            self.text(left + 32, here, words)

    def _draw_axes(self) -> None:
        bottom, top = self.y.low, self.y.high
        for value, words in zip(self.x.ticks, self.x.words, strict=True):
            x, base = self.place(value, bottom)
            self.line([(x, base), (x, self.place(value, top)[1])], "grid")
            self.text(x, base + 15, words, anchor="middle", kind="tick")
        for value, words in zip(self.y.ticks, self.y.words, strict=True):
            left, y = self.place(self.x.low, value)
            self.line([(left, y), (self.place(self.x.high, value)[0], y)], "grid")
            self.text(left - 8, y, words, anchor="end", kind="tick")
        corner = self.place(self.x.low, bottom)
        self.line([self.place(self.x.low, top), corner, self.place(self.x.high, bottom)], "axis")
        middle = _LEFT + (self.width - _LEFT - _RIGHT) / 2
        self.text(middle, self.height - 12, self.x.label, anchor="middle", kind="label")
        tall = _TOP + (self.height - _TOP - _BOTTOM) / 2
        turned = f'transform="rotate(-90 14 {_px(tall)})"'
        words = escape(self.y.label)
        self.parts.append(f'<text class="label" x="14" y="{_px(tall)}" dy=".35em" text-anchor="middle" {turned}>{words}</text>')


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
