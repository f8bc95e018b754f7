"""The sections that only an evaluation has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.training.evaluation import Evaluation, Finding
from pipelines.training.pages import curves, performance
from pipelines.training.pages.markup import (
    NONE,
    Markup,
    area,
    bounds,
    count,
    join,
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
    tag,
)


def parts(e: Evaluation, f: Finding) -> Iterator[tuple[str, Markup]]:
    """Yield the judgement of one finding, part by part with its heading; figures are named where there is more than one finding."""
    of = f.name if e.several else ""
    scores, labels = np.array(f.probabilities), np.array(f.labels, dtype=np.int64)
    yield "Performance", _overview(e, f, of)
    point, other = f.operating_point, next(((b.name, b.roc) for b in f.baselines), None)
    at = None
    if point and point.sensitivity.value is not None and point.specificity.value is not None:
        at = point.sensitivity.value, point.specificity.value
    roc = curves.draw_roc(f.roc, f.auc, scores, labels, seed=e.seed, point=at, other=other, of=of)
    yield "Discrimination", side_by_side(roc, curves.draw_probabilities(scores, labels, e.bundle.threshold, of=of))
    yield "Calibration", performance.calibrated(f.calibration, scores, labels, of=of)
    yield "Clinical usefulness", performance.usefulness(f.decision_curve, of=of)
    yield "Operating point", join([_operating(e, f), "" if e.several else sets(e)])
    yield "Sites and scanners", _groups(f)


def each_finding(e: Evaluation) -> Markup:
    """Return each axis and class judged as a finding of its own."""
    intro = paragraph(
        "Each axis, and each class against the rest, judged as a system with that one finding would be. A call is positive where the class "
        "called is that class, or lies on that side of the axis. These are many looks at the same patients: their p values are not "
        "adjusted for one another."
    )
    opened = []
    for f in e.findings:
        content = join(join([tag("h3", title), content]) for title, content in parts(e, f))
        opened.append(tag("details", tag("summary", f"{f.name}: AUC {area(f.auc)}"), content))
    return section("Axes and classes", intro, *opened)


def _overview(e: Evaluation, f: Finding, of: str) -> Markup:
    rows = [
        (named("This cohort", f.auc.interval.method), number(f.auc.value), bounds(f.auc.interval)),
        (named("This cohort", "DeLong, as pROC prints it"), number(f.auc.value), bounds(f.auc.interval_normal)),
        (named("This cohort", "stratified bootstrap"), number(f.auc.value), bounds(f.auc_bootstrap)),
    ]
    trained = None if e.several else e.bundle.training_metrics.get("nested_auc")
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
        for b in f.baselines
    ]
    columns = ("Alone", "AUC", "Model minus that", "Z", "p", "p, Holm", "p, Bonferroni")
    rivals = (
        table("Does the model add anything to size, or clinical values to images?", columns, against, note="Paired DeLong tests.")
        if against
        else ""
    )
    forest = [curves.Row("model", f.auc.value, f.auc.interval)]
    forest += [curves.Row(b.name, b.auc.value, b.auc.interval, kind="rival") for b in f.baselines]
    forest += [
        curves.Row(f"{shorten(f'{g.variable} {g.name}', 28)} (n = {g.n})", g.auc.value, g.auc.interval, kind="dim")
        for g in f.groups
        if g.auc
    ]
    title = curves.titled("Areas beside each other", of)
    picture = curves.draw_forest(title, forest, "Whiskers are 95 % intervals; dashed line: chance.")
    return join([table("Discrimination", heads, rows), rivals, picture])


def _operating(e: Evaluation, f: Finding) -> Markup:
    x = f.operating_point
    if x is None:
        return paragraph("None: the calls of one class were all withheld.")
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
    rule = f"Threshold {number(b.threshold)}, {b.threshold_rule}; frozen in training" if b.threshold else f"The call is {b.threshold_rule}"
    words = f"{rule}. TP {x.tp}, FP {x.fp}, TN {x.tn}, FN {x.fn}.{withheld}"
    heads = ("Measure", "Value (Wilson interval), counts", "Clopper–Pearson")
    return join([paragraph(words), table("The calls as they were made", heads, rows)])


def sets(e: Evaluation) -> Markup:
    """Return what the conformal sets held; empty for a bundle without them."""
    if (c := e.coverage) is None:
        return Markup("")
    named = {0: "Without the finding", 1: "With the finding"} if not e.bundle.classes else {k: f"Class {k}" for k in c.each}
    rows = [("All", share(c.held)), *((named[k], share(held)) for k, held in c.each.items())]
    note = (
        f"Aimed at: {100 * c.aim:.0f} % of each class. A set holds every answer that cannot be excluded, {number(c.mean_size, 2)} on "
        "average here. A class that the bundle does not know is in no set. Coverage holds for patients like those of training; elsewhere "
        "it is what this table says. The bounds of a probability are another thing: they hold the doubt of the calibration's own fit only."
    )
    return table("Conformal sets", ("Patients", "Set holds the truth (Wilson interval), counts"), rows, note=note)


def _groups(f: Finding) -> Markup:
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
        for g in f.groups
    ]
    heads = ("Variable", "Group", "Patients (with finding)", "Mean predicted", "AUC", "p, others", "Sensitivity", "Specificity")
    note = "p, others: unpaired DeLong test against all other patients, not adjusted for the number of groups."
    return table("Groups", heads, rows, words=2, note=note)
