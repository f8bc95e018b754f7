"""The sections that only an evaluation has."""

from __future__ import annotations

from pipelines.training.evaluation import Evaluation
from pipelines.training.intervals import Labels
from pipelines.training.pages import curves
from pipelines.training.pages.markup import (
    NONE,
    Markup,
    area,
    bounds,
    count,
    named,
    number,
    p_value,
    paragraph,
    section,
    share,
    shorten,
    side_by_side,
    stacked,
    table,
)
from pipelines.types import FloatArray


def overview(e: Evaluation) -> Markup:
    """Return the area under the curve beside what training promised and what size alone does."""
    rows = [
        (named("This cohort", e.auc.interval.method), number(e.auc.value), bounds(e.auc.interval)),
        (named("This cohort", "DeLong, as pROC prints it"), number(e.auc.value), bounds(e.auc.interval_normal)),
        (named("This cohort", "stratified bootstrap"), number(e.auc.value), bounds(e.auc_bootstrap)),
    ]
    trained = e.bundle.training_metrics.get("nested_auc")
    rows += [(named("In training, nested", e.bundle.training_statement), number(trained), NONE)] if trained is not None else []
    heads = ("Area under the ROC curve", "AUC", "95 % interval")
    against = [
        (
            b.name,
            area(b.auc),
            f"{number(b.comparison.difference, sign=True)} {bounds(b.comparison.interval)}",
            number(b.comparison.statistic, 2),
            p_value(b.comparison.p),
            p_value(b.p_holm),
            p_value(b.p_bonferroni),
        )
        for b in e.baselines
    ]
    columns = ("Size alone", "AUC", "Model minus size", "Z", "p", "p, Holm", "p, Bonferroni")
    rivals = table("Does the model add anything to size?", columns, against, note="Paired DeLong tests.") if against else ""
    forest = [curves.Row("model", e.auc.value, e.auc.interval)]
    forest += [curves.Row(b.name, b.auc.value, b.auc.interval, kind="rival") for b in e.baselines]
    forest += [
        curves.Row(shorten(f"{g.variable} {g.name} (n = {g.n})", 40), g.auc.value, g.auc.interval, kind="dim") for g in e.groups if g.auc
    ]
    picture = curves.draw_forest("Areas beside each other", forest, "Whiskers are 95 % intervals; dashed line: chance.")
    return section("Performance", table("Discrimination", heads, rows), rivals, picture)


def discrimination(e: Evaluation, scores: FloatArray, labels: Labels) -> Markup:
    """Return the ROC curve, with that of size alone, and the spread of the probabilities."""
    point, other = e.operating_point, next(((b.name, b.roc) for b in e.baselines), None)
    at = None
    if point and point.sensitivity.value is not None and point.specificity.value is not None:
        at = point.sensitivity.value, point.specificity.value
    roc = curves.draw_roc(e.roc, e.auc, scores, labels, seed=e.seed, point=at, other=other)
    return section("Discrimination", side_by_side(roc, curves.draw_probabilities(scores, labels, e.bundle.threshold)))


def operating(e: Evaluation) -> Markup:
    """Return what the calls were worth."""
    x = e.operating_point
    if x is None:
        return section("Operating point", paragraph("None: the calls of one class were all withheld."))
    rows = [
        ("Sensitivity", share(x.sensitivity), bounds(x.sensitivity.clopper_pearson)),
        ("Specificity", share(x.specificity), bounds(x.specificity.clopper_pearson)),
        ("Positive predictive value", share(x.ppv), bounds(x.ppv.clopper_pearson)),
        ("Negative predictive value", share(x.npv), bounds(x.npv.clopper_pearson)),
        ("Accuracy", share(x.accuracy), bounds(x.accuracy.clopper_pearson)),
        ("Balanced accuracy", number(x.balanced_accuracy), NONE),
        ("F1", number(x.f1), NONE),
    ]
    b, withheld = e.bundle, f" {count(e.flow.withheld, 'patient')} without a call are left out." if e.flow.withheld else ""
    words = (
        f"Threshold {number(b.threshold)}, {b.threshold_rule}; frozen in training. TP {x.tp}, FP {x.fp}, TN {x.tn}, FN {x.fn}.{withheld}"
    )
    heads = ("Measure", "Value (Wilson interval), counts", "Clopper–Pearson")
    return section("Operating point", paragraph(words), table("The calls as they were made", heads, rows))


def groups(e: Evaluation) -> Markup:
    """Return what the bundle did at each site and on each scanner."""
    rows = [
        (
            g.variable,
            g.name,
            f"{g.n} ({g.events})",
            number(g.mean_predicted),
            "too few" if g.auc is None else area(g.auc),
            p_value(g.against_others.p) if g.against_others else NONE,
            stacked(g.sensitivity),
            stacked(g.specificity),
        )
        for g in e.groups
    ]
    heads = ("Variable", "Group", "Patients (with finding)", "Mean predicted", "AUC", "p, others", "Sensitivity", "Specificity")
    note = "p, others: unpaired DeLong test against all other patients, not adjusted for the number of groups."
    return section("Sites and scanners", table("Groups", heads, rows, words=2, note=note))
