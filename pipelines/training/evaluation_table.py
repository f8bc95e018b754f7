"""An evaluation as lines of text that a statistician can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.training.calibration import Calibration
from pipelines.training.decision_curve import DecisionCurve
from pipelines.training.evaluation import Baseline, Coverage, Evaluation, Finding, Group, tell_labels
from pipelines.training.intervals import Estimate, Interval, Proportion
from pipelines.training.operating_point import OperatingPoint
from pipelines.training.several import SeveralClasses

_SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5)  # threshold probabilities of the decision curve
_WIDE = 24  # characters of a group's name


def describe(evaluation: Evaluation) -> Iterator[str]:
    """Yield the lines: what was judged on what, how far to believe it, then the numbers. Intervals are 95 %."""
    e, bundle = evaluation, evaluation.bundle
    yield f"{bundle.system} {bundle.version} ({bundle.status}, sha256 {e.bundle_digest[:12]}): {bundle.title}"
    yield f"on {e.cohort} (sha256 {e.cohort_digest[:12]}), {e.date.isoformat()}"
    yield ""
    yield e.statement
    yield from (f"! {warning}" for warning in e.warnings)
    yield ""
    yield from _flow(e)
    if e.several:
        yield ""
        yield from _several(e.several)
    if e.coverage:
        yield ""
        yield from _coverage(e.coverage, several=bool(e.bundle.classes))
    for f in e.findings:
        yield ""
        if e.several:
            yield f"-- {f.name}: {sum(f.labels)} of {e.n} (all numbers are in the report)"
        yield from _finding(f, f"threshold {bundle.threshold:.3f}" if bundle.threshold else "most probable", whole=not e.several)


def _several(s: SeveralClasses) -> Iterator[str]:
    yield f"mean AUC           {_estimate(s.mean_auc)} of one class against the rest, bootstrap"
    yield f"accuracy           {_share(s.accuracy)}  {s.accuracy.count}/{s.accuracy.of}"
    yield f"balanced accuracy  {_estimate(s.balanced_accuracy)}" if s.balanced_accuracy else "balanced accuracy  -"
    yield f"Brier score        {_estimate(s.brier)}   ideal 0, all classes together"
    yield f"scaled Brier score {_estimate(s.scaled_brier)}   ideal 1"
    yield f"called             {''.join(f'{c:>6}' for c in s.called)}"
    for true, words, row in zip(s.classes, s.words, s.confusion, strict=True):
        yield f"true class {true:<8}{''.join(f'{n:>6}' for n in row)}   {words}"
    yield from (f"never predicted    {words}" for words in s.absent)


def _coverage(c: Coverage, *, several: bool) -> Iterator[str]:
    yield f"conformal sets     {_share(c.held)}  {c.held.count}/{c.held.of} held the truth, {100 * c.aim:.0f} % aimed at in each class"
    for label, held in c.each.items():
        words = f"class {label}" if several else ("with the finding" if label else "without it")
        yield f"  {words:<17}{_share(held)}  {held.count}/{held.of}"
    yield f"  mean size        {c.mean_size:.2f} answers"


def _finding(f: Finding, rule: str, *, whole: bool) -> Iterator[str]:
    yield f"AUC                {f.auc.value:.3f} {_interval(f.auc.interval)} DeLong, logit scale"
    yield f"                         {_interval(f.auc.interval_normal)} DeLong, plain"
    yield f"                         {_interval(f.auc_bootstrap)} bootstrap"
    yield from (line for b in f.baselines for line in _baseline(b))
    yield ""
    yield from _calls(f.operating_point, rule)
    if not whole:
        return
    yield ""
    yield from _calibration(f.calibration)
    yield ""
    yield from _net_benefit(f.decision_curve)
    yield ""
    yield from _groups(f.groups)


def _flow(e: Evaluation) -> Iterator[str]:
    flow, known = e.flow, e.bundle.classes
    yield f"cohort             {flow.rows} patients, {tell_labels(flow.row_labels, classes=known)} ({e.bundle.finding})"
    if flow.training_rows:
        yield f"training split     {flow.training_rows}, left out"
    yield f"refused            {len(flow.refused)}, {tell_labels(flow.refused_labels, classes=known)}"
    yield from (f"                   line {r.line} ({r.patient}): {r.code}: {r.reason}" for r in flow.refused)
    origins = ", ".join(f"{count} {origin}" for origin, count in flow.roi_origins.items())
    yield f"evaluated          {flow.evaluated}, {tell_labels(flow.labels, classes=known)}; region from {origins}"


def _baseline(b: Baseline) -> Iterator[str]:
    test = b.comparison
    yield f"alone              {b.auc.value:.3f} {_interval(b.auc.interval)} {b.name}"
    if test.p is None or test.statistic is None or b.p_holm is None:
        yield f"  model minus that {test.difference:+.3f}; no test, an area is 0 or 1"
    else:
        p = f"p {_p(test.p)}, Holm {_p(b.p_holm)}"
        yield f"  model minus that {test.difference:+.3f} {_interval(test.interval)}, Z {test.statistic:.2f}, {p} (paired DeLong)"


def _calls(point: OperatingPoint | None, rule: str) -> Iterator[str]:
    if point is None:
        yield "no operating point: the calls of one class were all withheld"
        return
    yield f"{rule:<19}TP {point.tp}  FP {point.fp}  TN {point.tn}  FN {point.fn}   (frozen in training)"
    for name in ("sensitivity", "specificity", "ppv", "npv", "accuracy"):
        share: Proportion = getattr(point, name)
        yield f"{name if len(name) > 3 else name.upper():<19}{_share(share)}  {share.count}/{share.of}"
    yield f"balanced accuracy  {point.balanced_accuracy:.3f}    F1 {point.f1:.3f}"


def _calibration(c: Calibration) -> Iterator[str]:
    test = c.hosmer_lemeshow
    yield f"calibration        {c.prevalence:.3f} observed, {c.mean_predicted:.3f} predicted on average"
    rows: tuple[tuple[str, Estimate | None, str], ...] = (
        ("in the large", c.in_the_large, "0"),
        ("intercept", c.intercept, "0"),
        ("slope", c.slope, "1"),
        ("ICI", c.ici, "0"),
        ("Brier score", c.brier, "0"),
        ("scaled Brier score", c.scaled_brier, "1"),
    )
    for name, estimate, ideal in rows:
        number = "not defined: the probabilities separate the classes or do not vary" if estimate is None else _estimate(estimate)
        yield f"{name:<19}{number}   ideal {ideal}"
    yield f"E50, E90           {c.e50:.3f}, {c.e90:.3f}"
    p = "not defined" if test.p is None else _p(test.p)
    yield f"Hosmer-Lemeshow    chi2 {test.statistic:.2f}, df {test.df}, p {p}"


def _net_benefit(curve: DecisionCurve) -> Iterator[str]:
    shown = [i for i, t in enumerate(curve.thresholds) if round(t, 2) in _SHOWN]
    for name, values in (
        ("risk threshold", curve.thresholds),
        ("net benefit: model", curve.model),
        ("  treat all", curve.treat_all),
        ("  avoided per 100", tuple(100 * v for v in curve.interventions_avoided)),
    ):
        digits = 1 if "100" in name else 2 if name == "risk threshold" else 3
        yield f"{name:<19}" + "".join(f"{values[i]:>9.{digits}f}" for i in shown)


def _groups(groups: Sequence[Group]) -> Iterator[str]:
    yield f"{'':<15} {'':<{_WIDE}} {'n':>5} {'events':>6}  {'AUC':<22}{'sensitivity':<24}specificity"
    for g in groups:
        name = g.name if len(g.name) <= _WIDE else f"{g.name[: _WIDE - 1]}…"
        yield f"{g.variable:<15} {name:<{_WIDE}} {g.n:>5} {g.events:>6}  {_area(g):<22}{_share(g.sensitivity):<24}{_share(g.specificity)}"


def _area(g: Group) -> str:
    return "too few" if g.auc is None else f"{g.auc.value:.3f} {_interval(g.auc.interval)}"


def _share(share: Proportion) -> str:
    return "-" if share.value is None else f"{share.value:.3f} {_interval(share.wilson)}"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} {_interval(estimate.interval)}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"({interval.low:.3f}, {interval.high:.3f})"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
