"""What moves the model's answers: Shapley values of all patients, of two single ones, and the nomogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.training.nomogram import Nomogram, NomogramLine
from pipelines.training.outcome import Beeswarm, Outcome
from pipelines.training.pages.features import short
from pipelines.training.pages.markup import Markup, count, number, paragraph, section, side_by_side
from pipelines.training.pages.svg import Axis, Drawing
from pipelines.types import FloatArray

_MOST = 20  # features of the beeswarm
_MOST_BARS = 8  # of a single case
_ROW = 30.0  # pixels
_LEVELS = (-0.5, 0.5)  # z-scores between which a value is neither low nor high
_PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def explanation(o: Outcome) -> Markup:
    """Return the section on Shapley values; empty where the model has no features."""
    if o.beeswarm is None or not o.beeswarm.features:
        return Markup("")
    lines = paragraph(
        f"Shapley values of the final model, in log-odds of {o.beeswarm.words}, against up to 50 of its own patients. They tell what the "
        "model does with these patients, not what causes anything, and they are made on the rows that the model was fitted on. Between "
        "features that correlate they are arbitrary."
    )
    if check := o.beeswarm.check:
        lines = Markup(
            lines
            + paragraph(
                f"Checked: on {count(check.patients, 'patient')} and the {check.features} most important features, the others held, the "
                f"exact explainer of shap {check.version} differs by at most {number(check.difference, 4)}; the largest standard error "
                f"that the node's values state there is {number(check.standard_error, 4)}."
            )
        )
    if o.nomogram:
        lines = Markup(lines + paragraph("They are those of the imaging score, the first stage; the nomogram shows the second."))
    cases = [_draw_case(o.beeswarm, i, words) for i, words in _two_cases(o)]
    return section("What moves the model", lines, _draw_beeswarm(o.beeswarm), side_by_side(*cases))


def _draw_beeswarm(b: Beeswarm) -> Markup:
    shapley, values = np.array(b.shapley), np.array(b.values)
    order = np.argsort(-np.abs(shapley).mean(axis=0), kind="stable")[:_MOST]
    width, left, right, top = 900.0, 330.0, 30.0, 34.0
    reach = max(float(np.abs(shapley[:, order]).max()), 0.05) * 1.05
    axis = Axis.of("Shapley value (log-odds)", -reach, reach, parts=6)
    height = top + _ROW * len(order) + 46
    picture = Drawing("Beeswarm of Shapley values", "One dot per patient and feature, most important first.", width, height)

    def at(value: float) -> float:
        return left + axis.at(value) * (width - left - right)

    _draw_scale(picture, axis, at, top, height - 44)
    for row, feature in enumerate(order):
        y = top + _ROW * (row + 0.5)
        picture.text(left - 12, y, short(b.features[feature]), anchor="end")
        spread = _swarm([at(v) for v in shapley[:, feature]])
        for kind, inside in _by_level(values[:, feature]).items():
            picture.swarm([(at(shapley[i, feature]), y + spread[i]) for i in inside], kind)
    for i, (words, kind) in enumerate((("low value", "low"), ("middle", "mid"), ("high value", "high"))):
        picture.swarm([(left + 110 * i, 14)], kind)
        picture.text(left + 10 + 110 * i, 14, words, kind="small")
    rest = f" The {_MOST} most important of {len(b.features)} are shown." if len(b.features) > _MOST else ""
    caption = f"A dot per patient; to the right it speaks for {b.words}. Low: more than {_LEVELS[1]} SD below the mean; high: above.{rest}"
    return picture.figure(caption, wide=True)


def _draw_scale(picture: Drawing, axis: Axis, at: Callable[[float], float], top: float, base: float) -> None:
    for tick, words in zip(axis.ticks, axis.words, strict=True):
        picture.line([(at(tick), top), (at(tick), base)], "grid")
        picture.text(at(tick), base + 14, words, anchor="middle", kind="tick")
    picture.line([(at(0), top), (at(0), base)], "axis")
    picture.text((at(axis.low) + at(axis.high)) / 2, picture.height - 8, axis.label, anchor="middle", kind="label")


def _swarm(places: Sequence[float], *, radius: float = 2.6) -> list[float]:
    """Return how far each dot is moved up or down so that dots of one row do not cover each other, as far as there is room."""
    counts: dict[int, int] = {}
    moved = []
    for x in places:
        cell = round(x / (2 * radius))
        k = counts.get(cell, 0)
        counts[cell] = k + 1
        step = (k + 1) // 2 * (1 if k % 2 else -1) * radius * 1.5
        moved.append(math.copysign(min(abs(step), _ROW / 2 - 3), step))
    return moved


def _by_level(values: FloatArray) -> dict[str, list[int]]:
    low, high = _LEVELS
    middle = (values >= low) & (values <= high)
    return {name: np.flatnonzero(m).tolist() for name, m in (("low", values < low), ("mid", middle), ("high", values > high))}


def _two_cases(o: Outcome) -> list[tuple[int, str]]:
    """Return the patient with the finding whom the model is surest of, and the one without it, with words for each."""
    b, labels = o.beeswarm, np.array([p.label for p in o.patients])
    if b is None or len(labels) != len(b.base):
        return []
    log_odds = np.array(b.base) + np.array(b.shapley).sum(axis=1)
    with_it, without = np.where(labels == b.target, log_odds, -np.inf), np.where(labels != b.target, log_odds, np.inf)
    named = "with the finding" if o.several is None else f"of {b.words}"
    return [
        (int(with_it.argmax()), f"A patient {named}"),
        (int(without.argmin()), "A patient without it" if o.several is None else "Another one"),
    ]


def _draw_case(b: Beeswarm, index: int, words: str) -> Markup:
    """Draw one patient's answer as a waterfall from the base value to the log-odds."""
    shares = np.array(b.shapley[index])
    order = np.argsort(-np.abs(shares), kind="stable")
    bars = [(f"{short(b.features[i])}", float(shares[i]), f"z {number(b.values[index][i], 1, sign=True)}") for i in order[:_MOST_BARS]]
    if len(order) > _MOST_BARS:
        bars.append((f"{len(order) - _MOST_BARS} others", float(shares[order[_MOST_BARS:]].sum()), ""))
    base, total = b.base[index], b.base[index] + float(shares.sum())
    ends = base + np.cumsum([0.0, *(v for _, v, _ in bars)])
    pad = 0.12 * (float(ends.max() - ends.min()) or 1.0)
    axis = Axis.of("Log-odds", float(ends.min()) - pad, float(ends.max()) + pad, parts=4)
    left, top, row = 250.0, 30.0, 40.0
    picture = Drawing(words, f"From the base {number(base, 2)} to {number(total, 2)} log-odds.", 560, top + row * len(bars) + 48)

    def at(value: float) -> float:
        return left + axis.at(value) * (560 - left - 24)

    low = picture.height - 46
    for tick, said in zip(axis.ticks, axis.words, strict=True):
        picture.line([(at(tick), top), (at(tick), low)], "grid")
        picture.text(at(tick), low + 14, said, anchor="middle", kind="tick")
    picture.text((left + 536) / 2, picture.height - 8, axis.label, anchor="middle", kind="label")
    for i, (name, value, note) in enumerate(bars):
        y, (x0, x1) = top + row * (i + 0.5), sorted((at(ends[i]), at(ends[i + 1])))
        picture.text(left - 10, y - 7, name if len(name) < 35 else f"{name[:34]}…", anchor="end", kind="small")
        picture.text(left - 10, y + 7, note, anchor="end", kind="small")
        picture.box(x0, y - 8, max(x1 - x0, 1), 16, "bar for" if value > 0 else "bar against")
        beyond = x1 + 5 if x1 < 500 else x0 - 5
        picture.text(beyond, y, number(value, 2, sign=True), anchor="start" if x1 < 500 else "end", kind="small")
    picture.line([(at(base), top - 8), (at(base), low)], "reference")
    picture.text(at(base), 12, f"base {number(base, 2)}", anchor="middle", kind="small")
    probability = 1 / (1 + math.exp(-total))
    return picture.figure(f"From the base {number(base, 2)} to {number(total, 2)} log-odds, a probability of {100 * probability:.1f} %.")


def nomogram(o: Outcome) -> Markup:
    """Return the nomogram for nobody in particular; empty for systems without one."""
    if o.nomogram is None:
        return Markup("")
    terms = " ".join(
        f"{number(line.slope, 4, sign=True)} × {line.words}{f' [{line.unit}]' if line.unit else ''}" for line in o.nomogram.lines
    )
    formula = paragraph(f"Log-odds = {number(o.nomogram.intercept, 4)} {terms}.")
    return section("Nomogram", _draw_nomogram(o.nomogram), formula)


def _draw_nomogram(n: Nomogram) -> Markup:
    widest = max(abs(line.slope) * (line.high - line.low) for line in n.lines) or 1.0
    worth = 100 / widest  # points per unit of log-odds
    span = sum(abs(line.slope) * (line.high - line.low) for line in n.lines) * worth
    bottom = n.intercept + sum(line.slope * (line.low if line.slope >= 0 else line.high) for line in n.lines)
    width, left, row = 900.0, 290.0, 52.0
    picture = Drawing(
        "Nomogram", "; ".join(f"{x.words} {x.low:.3g} to {x.high:.3g}" for x in n.lines), width, row * (len(n.lines) + 3) + 20
    )

    def at(share: float) -> float:
        return left + share * (width - left - 40)

    _draw_line(picture, 26, "Points", [(at(p / 100), str(p)) for p in range(0, 101, 10)])
    for i, line in enumerate(n.lines, start=1):
        unit = f" [{line.unit}]" if line.unit else ""
        words, reach = line.words[:1].upper() + line.words[1:] + unit, worth * abs(line.slope) * (line.high - line.low)
        _draw_line(picture, 26 + row * i, words, [(at(p / 100), w) for p, w in _marks(line, worth)], ends=(at(0), at(reach / 100)))
    y = 26 + row * (len(n.lines) + 1)
    step = 20 if span <= 240 else 50
    _draw_line(picture, y, "Total points", [(at(p / span), str(p)) for p in range(0, int(span) + 1, step)], ends=(at(0), at(1)))
    chances = [(at((math.log(p / (1 - p)) - bottom) * worth / span), f"{100 * p:.0f} %") for p in _PROBABILITIES]
    shown: list[tuple[float, str]] = []
    for x, words in chances:
        if at(0) <= x <= at(1) and (not shown or x - shown[-1][0] > 40):
            shown.append((x, words))
    _draw_line(picture, y + row, "Probability", shown, ends=(at(0), at(1)))
    return picture.figure(
        "Read off the points of each value above it, add them, and read the probability below the total. "
        "Ranges are the 1st to 99th percentile in training.",
        wide=True,
    )


def _marks(line: NomogramLine, worth: float) -> list[tuple[float, str]]:
    axis = Axis.of("", line.low, line.high, parts=5)
    start = line.low if line.slope >= 0 else line.high
    return sorted((worth * line.slope * (v - start), w) for v, w in zip(axis.ticks, axis.words, strict=True))


def _draw_line(
    picture: Drawing, y: float, words: str, marks: Sequence[tuple[float, str]], *, ends: tuple[float, float] | None = None
) -> None:
    picture.text(276, y, words, anchor="end", kind="strong")
    if marks or ends:
        first, last = ends or (min(x for x, _ in marks), max(x for x, _ in marks))
        picture.line([(first, y), (last, y)], "axis")
    for x, said in marks:
        picture.line([(x, y - 5), (x, y + 5)], "axis")
        picture.text(x, y + 16, said, anchor="middle", kind="tick")
