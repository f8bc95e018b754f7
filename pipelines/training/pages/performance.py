"""How good the model is, beside everything that it has to be better than."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.training.calibration import Calibration
from pipelines.training.decision_curve import DecisionCurve
from pipelines.training.intervals import Labels
from pipelines.training.operating_point import OperatingPoint, operating_point
from pipelines.training.outcome import Outcome, Performance
from pipelines.training.pages import curves
from pipelines.training.pages.markup import (
    NONE,
    Markup,
    area,
    bounds,
    count,
    estimate,
    join,
    named,
    number,
    p_value,
    paragraph,
    shorten,
    side_by_side,
    stacked,
    table,
    tag,
)
from pipelines.types import FloatArray

_SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5)  # threshold probabilities printed of the decision curve
_SAME_REPEAT = {"combat", "transformer"}  # rivals that are compared with the model's first repeat


def parts(o: Outcome, p: Performance, *, of: str = "") -> Iterator[tuple[str, Markup]]:
    """Yield the judgement of a binary score, part by part with its heading; ``of`` names it in figures where there are several."""
    scores, labels = scores_of(o)
    yield "Performance", _overview(o, p, of)
    yield "Discrimination", _discrimination(o, p, of)
    yield "Calibration", calibrated(p.calibration, scores, labels, of=of)
    yield "Clinical usefulness", usefulness(p.decision_curve, of=of)
    yield "Operating points", _operating_points(o, p)
    yield "Comparison", _comparison(o, p)
    yield "Sites", _sites(o)


def _overview(o: Outcome, p: Performance, of: str) -> Markup:
    """Set the honest number beside the optimistic ones."""
    repeats = o.nested_auc_by_repeat
    apart = f"range over {count(len(repeats), 'repeat')} {number(min(repeats))} to {number(max(repeats))}"
    both = join([f"{bounds(p.auc.interval)} DeLong", tag("br"), f"{bounds(p.bootstrap)} bootstrap"])
    chosen = next((x for x in o.printed if x.chosen), None)
    rows: list[tuple[object, ...]] = [
        (named("Nested, mean over repeats", "the number to quote"), number(o.nested_auc), apart, NONE),
        (named("Nested, averaged probabilities", "what the curves below show"), number(p.auc.value), both, _less(p.auc.value, o)),
        (named("Apparent", "optimistic: the training rows themselves"), number(o.apparent_auc), NONE, _less(o.apparent_auc, o)),
    ]
    if chosen:
        best = f"best of {len(o.printed)} by " if len(o.printed) > 1 else ""
        n, value = chosen.auc.events + chosen.auc.non_events, chosen.auc.value
        name = named(f"As printed: {chosen.classifier}", f"optimistic: {best}one 30 % part, n = {n}")
        rows.append((name, number(value), bounds(chosen.auc.interval), _less(value, o)))
    if (bayes := o.known.get("bayes_auc")) is not None:
        rows.append((named("Best possible", "of the planted signal, analytic"), number(bayes), NONE, _less(bayes, o)))
    heads = ("Area under the ROC curve", "AUC", "95 % interval", "minus nested")
    summary = table("The same recipe, judged in three ways", heads, rows, note=_HOW_NESTED)
    title = curves.titled("Areas beside each other", of)
    return join([summary, curves.draw_forest(title, list(_forest(o, p)), "Whiskers are 95 % intervals; dashed line: chance.")])


_HOW_NESTED = (
    "Nested: for each outer fold, everything that looks at data (selection, scaling, choice of classifier, calibration, threshold) is made "
    "anew from the other folds. Averaging probabilities over repeats makes a small ensemble, so its AUC may lie a little above the mean "
    "of the repeats. DeLong and bootstrap intervals cover the sampling of patients, not the variation of training."
)


def _less(value: float, o: Outcome) -> str:
    return number(value - o.nested_auc, sign=True)


def _forest(o: Outcome, p: Performance) -> Iterator[curves.Row]:
    yield curves.Row("nested (averaged)", p.auc.value, p.auc.interval)
    yield from (curves.Row(shorten(r.words, 40), r.auc.value, r.auc.interval, kind="rival") for r in o.rivals)
    yield from (curves.Row(f"site {s.site} left out (n = {s.n})", s.auc.value, s.auc.interval) for s in o.sites_left_out)
    yield curves.Row("apparent (optimistic)", o.apparent_auc, None, "no honest interval", "dim")
    for x in o.printed:
        chosen = ", chosen" if x.chosen else ""
        yield curves.Row(f"as printed: {x.classifier}{chosen}", x.auc.value, x.auc.interval, kind="dim")


def _discrimination(o: Outcome, p: Performance, of: str) -> Markup:
    scores, labels = scores_of(o)
    at = p.operating_point.sensitivity.value, p.operating_point.specificity.value
    point = (at[0], at[1]) if at[0] is not None and at[1] is not None else None
    roc = curves.draw_roc(p.roc, p.auc, scores, labels, seed=o.seed, point=point, of=of)
    return side_by_side(roc, curves.draw_probabilities(scores, labels, o.thresholds.get("Youden"), of=of))


def calibrated(c: Calibration, scores: FloatArray, labels: Labels, *, of: str = "") -> Markup:
    """Return the calibration plot with its numbers; ``of`` as for :func:`pipelines.training.pages.curves.draw_roc`."""
    test = c.hosmer_lemeshow
    rows = [
        ("Observed share with the finding", number(c.prevalence), NONE),
        ("Mean predicted probability", number(c.mean_predicted), NONE),
        ("In the large (intercept at slope 1)", estimate(c.in_the_large), "0"),
        ("Intercept", estimate(c.intercept), "0"),
        ("Slope", estimate(c.slope), "1"),
        ("Integrated calibration index (ICI)", estimate(c.ici), "0"),
        ("E50, E90", f"{number(c.e50)}, {number(c.e90)}", "0"),
        ("Brier score", estimate(c.brier), "0"),
        ("Scaled Brier score", estimate(c.scaled_brier), "1"),
        ("Hosmer–Lemeshow, because papers print it", f"χ² {number(test.statistic, 2)}, df {test.df}, p {p_value(test.p)}", NONE),
    ]
    note = (
        "A slope below 1 means probabilities that are too extreme. Hosmer–Lemeshow depends on the grouping and on n: a high p is no proof."
    )
    numbers = table("Calibration in numbers", ("Measure", "Value (95 % interval)", "Ideal"), rows, note=note)
    return side_by_side(curves.draw_calibration(c, scores, labels, of=of), numbers)


def usefulness(curve: DecisionCurve, *, of: str = "") -> Markup:
    """Return the decision curve with its numbers."""
    shown = [i for i, t in enumerate(curve.thresholds) if round(t, 2) in _SHOWN]
    rows = [
        (
            f"{curve.thresholds[i]:.2f}",
            number(curve.model[i]),
            number(curve.treat_all[i]),
            number(100 * curve.interventions_avoided[i], 1),
        )
        for i in shown
    ]
    heads = ("Threshold probability", "Model", "Treat all", "Avoided per 100")
    note = "Avoided: net interventions fewer per 100 patients than treating all, no true positive lost. Treating none has net benefit 0."
    return side_by_side(curves.draw_decision_curve(curve, of=of), table("Net benefit", heads, rows, note=note))


def _operating_points(o: Outcome, p: Performance) -> Markup:
    """Return what calling at the thresholds does."""
    scores, labels = scores_of(o)
    first = ("Each fold's own Youden threshold", "honest") if o.thresholds else ("The class called, or its side", o.threshold_rule)
    rows = [_point_row(*first, NONE, p.operating_point)]
    for name, point in o.sensitive_points.items():
        words = f"honest; aimed at in the training patients of each fold, {number(o.thresholds.get(name))} in all"
        rows.append(_point_row(f"Each fold's own threshold for {name.replace(' ', ' ≥ ')}", words, NONE, point))
    if (youden := o.thresholds.get("Youden")) is not None:
        point = operating_point(scores >= youden, labels)
        rows.append(_point_row("Youden, final model", "the bundle's threshold, chosen with these patients", number(youden), point))
    heads = ("Operating point", "Threshold", "Sensitivity", "Specificity", "PPV", "NPV", "TP / FP / TN / FN")
    note = (
        f"Rule of the bundle: {o.threshold_rule}. Proportions with Wilson intervals and counts. PPV and NPV hold at this cohort's share of "
        "the finding only. Honest: the patients had no part in choosing the threshold at which they were called."
    )
    return join([table("What calling does", heads, rows, note=note), conformal(o)])


def _point_row(name: str, words: str, threshold: str, x: OperatingPoint) -> tuple[object, ...]:
    shares = [stacked(s) for s in (x.sensitivity, x.specificity, x.ppv, x.npv)]
    return named(name, words), threshold, *shares, f"{x.tp} / {x.fp} / {x.tn} / {x.fn}"


def conformal(o: Outcome) -> Markup:
    """Say what the conformal sets held of unseen patients."""
    if o.conformal_coverage is None:
        return Markup("")
    aim = f" (aimed at: {100 * o.conformal_aim:.0f} %)" if o.conformal_aim is not None else ""
    return paragraph(
        "Conformal sets, which hold more than one answer where the model does not know, held the true one for "
        f"{100 * o.conformal_coverage:.1f} % of unseen patients{aim}."
    )


def _comparison(o: Outcome, p: Performance) -> Markup:
    """Return the table in the papers' form, and the tests against rivals."""
    n, total = o.flow.judged, p.operating_point
    rows = [_paper_row(o.title, f"nested, n = {n}", area(p.auc), total)]
    rows += [_paper_row(r.words, f"same patients, n = {n}", area(r.auc), r.operating_point) for r in o.rivals]
    rows.append(_paper_row(o.title, "training rows (optimistic)", number(o.apparent_auc), o.apparent_point))
    for x in o.printed:
        chosen = " (chosen)" if x.chosen else ""
        part = f"one 30 % part, n = {x.auc.events + x.auc.non_events} (optimistic)"
        rows.append(_paper_row(f"{x.classifier}{chosen}", part, area(x.auc), x.operating_point))
    heads = ("Model", "Cohort", "AUC (95 % CI)", "ACC", "SEN", "SPE", "PPV", "NPV", "F1")
    note = "ACC accuracy, SEN sensitivity, SPE specificity, PPV and NPV predictive values. A dash: the score has no threshold of its own."
    return join([table("Models in the form of the papers", heads, rows, words=2, note=note), _rivals(o)])


def _paper_row(model: str, cohort: str, auc: str, x: OperatingPoint | None) -> tuple[object, ...]:
    if x is None:
        return model, cohort, auc, *[NONE] * 6
    shares = [number(s.value) for s in (x.accuracy, x.sensitivity, x.specificity, x.ppv, x.npv)]
    return model, cohort, auc, *shares, number(x.f1)


def _rivals(o: Outcome) -> Markup:
    if not o.rivals:
        return Markup("")
    rows = [
        (
            r.words,
            area(r.auc),
            f"{number(r.comparison.difference, sign=True)} {bounds(r.comparison.interval)}",
            number(r.comparison.statistic, 2),
            p_value(r.comparison.p),
            p_value(r.p_holm),
            p_value(r.p_bonferroni),
        )
        for r in o.rivals
    ]
    heads = ("Rival", "AUC", "Model minus rival", "Z", "p", "p, Holm", "p, Bonferroni")
    over = "the axes and classes that are judged" if o.several else "the rivals of this table"
    note = f"Paired DeLong tests of out-of-fold probabilities. Holm's and Bonferroni's adjustments are over {over}. {_how_compared(o)}"
    return table("Does the model add anything?", heads, rows, note=note.strip())


def _how_compared(o: Outcome) -> str:
    """Say what a comparison of one repeat with the average of several leaves in the model's favour."""
    repeats, names = o.nested_auc_by_repeat, {r.name for r in o.rivals}
    if len(repeats) < 2 or (names == {"size"} and not o.several):
        return ""
    same = " Harmonised features and the Transformer fusion are compared with that one." if names & _SAME_REPEAT else ""
    return (
        f"Rivals that are fitted are judged on the folds of one repeat. The model's probabilities are averaged over {len(repeats)} "
        f"repeats, which can raise its area a little and no rival's; in the first repeat alone it was {number(repeats[0])}.{same}"
    )


def _sites(o: Outcome) -> Markup:
    """Return the judgement of each site by a model of the others."""
    if not o.sites_left_out:
        return no_sites(o)
    rows = [(s.site, s.n, s.events, area(s.auc)) for s in o.sites_left_out]
    note = "Each site judged by a model of all the others. Where site and scanner are one and the same, their effects cannot be told apart."
    return table("One site left out at a time", ("Site", "Patients", "With the finding", "AUC"), rows, note=note)


def no_sites(o: Outcome) -> Markup:
    """Say why no site was left out."""
    why = "one site only" if len(o.flow.sites) < 2 else "no site with enough patients of every class could be left out"
    return paragraph(f"Not done: {why}. Nobody knows how the model does elsewhere.")


def scores_of(o: Outcome) -> tuple[FloatArray, Labels]:
    """Return the averaged out-of-fold probabilities and the labels."""
    return np.array([x.probabilities[0] for x in o.patients]), np.array([x.label for x in o.patients], dtype=np.int64)
