"""The figures that judge a binary score: ROC, calibration, decision curve, distribution of probabilities, areas beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.training.calibration import Calibration
from pipelines.training.decision_curve import DecisionCurve
from pipelines.training.discrimination import Auc, RocCurve, cumulative_counts
from pipelines.training.intervals import Interval, Labels, stratified_resamples
from pipelines.training.pages.markup import Markup, area, bounds, estimate, number
from pipelines.training.pages.svg import Axis, Chart, Drawing
from pipelines.types import FloatArray

_RESAMPLES = 1000  # of the band about the ROC curve
_GRID = np.linspace(0, 1, 101)  # false positive rates
_UNIT = Axis.of("", 0, 1)
_BINS = 25  # of the histogram of probabilities


class Row(NamedTuple):
    """One line of a forest: a value with its interval; ``kind`` is the page's name of its colour."""

    words: str
    value: float
    interval: Interval | None
    note: str = ""
    kind: str = "model"


def roc_band(scores: FloatArray, labels: Labels, *, seed: int, resamples: int = _RESAMPLES) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return false positive rates and the bounds at 95 % of the sensitivity there, by a stratified bootstrap."""
    curves = np.empty((resamples, len(_GRID)))
    cases = int(labels.sum())
    for i, rows in enumerate(stratified_resamples(labels, resamples=resamples, seed=seed)):
        _, true, false = cumulative_counts(scores[rows], labels[rows])
        curves[i] = np.interp(_GRID, np.r_[0, false / (len(labels) - cases)], np.r_[0, true / cases])
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    return _GRID, low, high


def draw_roc(
    curve: RocCurve,
    auc: Auc,
    scores: FloatArray,
    labels: Labels,
    *,
    seed: int,
    point: tuple[float, float] | None,
    other: tuple[str, RocCurve] | None = None,
    of: str = "",
) -> Markup:
    """Draw the ROC curve with its band; ``point`` is (sensitivity, specificity) where calls are made.

    ``of`` names what is judged, here and in the other figures, where a page has several of the same.
    """
    x, y = (Axis(label, 0, 1, _UNIT.ticks, _UNIT.words) for label in ("1 − specificity", "Sensitivity"))
    words = f"ROC curve from (0, 0) to (1, 1), area {area(auc)}."
    chart = Chart(titled("ROC curve", of), words, x, y)
    rates, low, high = (v.tolist() for v in roc_band(scores, labels, seed=seed))
    chart.band(rates, low, high, "model")
    chart.plot((0, 1), (0, 1), "reference")
    legend = [("model", "model"), ("chance", "reference")]
    if other:
        chart.plot([1 - s for s in other[1].specificity], other[1].sensitivity, "rival")
        legend.insert(1, (other[0], "rival"))
    chart.plot([1 - s for s in curve.specificity], curve.sensitivity, "model")
    if point:
        chart.diamond(*chart.place(1 - point[1], point[0]), "point")
    chart.legend(legend, x=0.56, y=0.3)
    at = f" The diamond is the operating point: sensitivity {number(point[0])}, specificity {number(point[1])}." if point else ""
    band = f"AUC {area(auc)}. The band holds 95 % of {_RESAMPLES} stratified bootstrap curves at each specificity."
    return chart.figure(band + at)


def titled(title: str, of: str) -> str:
    """Return a figure's title with the name of what it is about."""
    return f"{title}: {of}" if of else title


def draw_calibration(c: Calibration, scores: FloatArray, labels: Labels, *, of: str = "") -> Markup:
    """Draw the smooth calibration curve, groups with Wilson intervals, and where the patients are."""
    x = Axis("Predicted probability", 0, 1, _UNIT.ticks, _UNIT.words)
    y = Axis("Observed share with the finding", -0.16, 1, _UNIT.ticks, _UNIT.words)
    words = f"Observed against predicted risk; slope {estimate(c.slope)}, ICI {estimate(c.ici)}."
    chart = Chart(titled("Calibration", of), words, x, y)
    chart.plot((0, 1), (0, 1), "reference")
    for b in c.hosmer_lemeshow.groups:
        if b.observed.wilson and b.observed.value is not None:
            middle = b.expected / b.observed.of
            chart.plot((middle, middle), (b.observed.wilson.low, b.observed.wilson.high), "whisker")
            chart.dot(*chart.place(middle, b.observed.value), "group")
    chart.plot(c.curve.predicted, c.curve.observed, "model")
    _draw_rug(chart, scores, labels)
    chart.legend([("loess", "model"), ("ideal", "reference")], x=0.04, y=0.94)
    slope, intercept = estimate(c.slope, 2), estimate(c.intercept, 2)
    return chart.figure(
        f"Intercept {intercept}, slope {slope}, ICI {estimate(c.ici)}. Dots: {len(c.hosmer_lemeshow.groups)} groups of similar "
        "probability with Wilson intervals. Ticks below: patients, those with the finding above the line, those without below it."
    )


def _draw_rug(chart: Chart, scores: FloatArray, labels: Labels) -> None:
    chart.plot((0, 1), (-0.08, -0.08), "axis")
    for p, label in zip(scores, labels, strict=True):
        low, high = (-0.07, -0.02) if label else (-0.14, -0.09)
        chart.plot((p, p), (low, high), "rug event" if label else "rug rest")


def draw_decision_curve(curve: DecisionCurve, *, of: str = "") -> Markup:
    """Draw net benefit of the model, of treating all and of treating none."""
    top = max(max(curve.model), max(curve.treat_all), 0.05) * 1.08
    low, high = curve.thresholds[0], curve.thresholds[-1]
    x, y = Axis.of("Threshold probability", low, high, digits=2), Axis.of("Net benefit", -top / 5, top)
    better = [t for t, m, a in zip(curve.thresholds, curve.model, curve.treat_all, strict=True) if m > max(a, 0.0)]
    said = f"The model has the highest net benefit at {len(better)} of {len(curve.thresholds)} thresholds."
    chart = Chart(titled("Decision curve", of), said, x, y)
    chart.plot(curve.thresholds, curve.treat_none, "reference")
    chart.plot(curve.thresholds, curve.treat_all, "rival")
    chart.plot(curve.thresholds, curve.model, "model")
    free = top * (0.4 if min(curve.model) > top / 2 else 0.95)  # below the lines where the finding is common, else above them
    chart.legend([("model", "model"), ("treat all", "rival"), ("treat none", "reference")], x=low + 0.68 * (high - low), y=free)
    return chart.figure(
        f"Net benefit per patient, in true positives, at threshold probabilities of {low:.2f} to {high:.2f}. {said} No interval is drawn: "
        "differences of a few thousandths are noise at this number of patients."
    )


def draw_probabilities(scores: FloatArray, labels: Labels, threshold: float | None, *, of: str = "") -> Markup:
    """Draw how the probabilities of patients with and without the finding are spread."""
    edges = np.linspace(0, 1, _BINS + 1)
    shares = [np.histogram(scores[labels == k], edges)[0] / max(int((labels == k).sum()), 1) for k in (1, 0)]
    most = max(float(s.max()) for s in shares) * 1.25
    ticks = Axis.of("", -most, most, parts=4)
    y = Axis("Share of the class", -most, most, ticks.ticks, tuple(w.lstrip("−") for w in ticks.words))
    words = "Histograms, with the finding upwards, without it downwards."
    chart = Chart(titled("Probabilities by class", of), words, Axis.of("Probability", 0, 1), y)
    for direction, kind, values in ((1, "event", shares[0]), (-1, "rest", shares[1])):
        for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
            (x0, y0), (x1, y1) = chart.place(left, max(direction * value, 0)), chart.place(right, min(direction * value, 0))
            if value:
                chart.box(x0 + 0.5, y0, x1 - x0 - 1, y1 - y0, f"bar {kind}")
    chart.plot((0, 1), (0, 0), "axis")
    if threshold is not None:
        chart.plot((threshold, threshold), (-most, most), "threshold")
    chart.text(chart.width - 24, 28, "with the finding", anchor="end", kind="event")
    chart.text(chart.width - 24, chart.height - 66, "without", anchor="end", kind="rest")
    marked = f" Dashed: the threshold {number(threshold)}." if threshold is not None else ""
    return chart.figure(f"{int(labels.sum())} patients with the finding upwards, {int((labels == 0).sum())} without it downwards.{marked}")


def draw_forest(title: str, rows: Sequence[Row], caption: str, *, label: str = "AUC", reference: float = 0.5) -> Markup:
    """Draw values with their intervals beneath each other, between 0.3 and 1 or wider where they are."""
    lows = [r.interval.low if r.interval else r.value for r in rows]
    left, right, step, top = 300.0, 210.0, 26.0, 14.0
    width, height = 900.0, top + step * len(rows) + 44
    axis = Axis.of(label, min(0.3, *lows), 1.0, parts=7, digits=1)
    picture = Drawing(title, "; ".join(f"{r.words}: {number(r.value)} {bounds(r.interval)}" for r in rows), width, height)

    def at(value: float) -> float:
        return left + axis.at(value) * (width - left - right)

    base = height - 40
    for tick, words in zip(axis.ticks, axis.words, strict=True):
        picture.line([(at(tick), top), (at(tick), base)], "grid")
        picture.text(at(tick), base + 14, words, anchor="middle", kind="tick")
    picture.line([(at(reference), top), (at(reference), base)], "reference")
    picture.text((left + width - right) / 2, height - 8, label, anchor="middle", kind="label")
    for i, row in enumerate(rows):
        y = top + step * (i + 0.5)
        picture.text(left - 12, y, row.words, anchor="end")
        if row.interval:
            picture.line([(at(row.interval.low), y), (at(row.interval.high), y)], f"whisker {row.kind}")
        picture.diamond(at(row.value), y, f"point {row.kind}", radius=5.5)
        picture.text(width - right + 12, y, f"{number(row.value)} {bounds(row.interval) if row.interval else row.note}", kind="tick")
    return picture.figure(caption, wide=True)
