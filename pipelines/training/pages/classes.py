"""How good a model of several classes is as a whole: confusion matrix, shares right, areas of one against the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipelines.training.evaluation import Evaluation
from pipelines.training.outcome import JudgedClasses, JudgedPatient, JudgedQuestion, Outcome
from pipelines.training.pages import curves, evaluated, performance
from pipelines.training.pages.markup import (
    NONE,
    Markup,
    area,
    count,
    estimate,
    join,
    number,
    paragraph,
    section,
    share,
    shorten,
    side_by_side,
    table,
    tag,
)
from pipelines.training.several import SeveralClasses


def sections(o: Outcome, s: SeveralClasses) -> Iterator[Markup]:
    """Yield the sections of a training run of several classes: as a whole, in the papers' form, by site, and question by question."""
    yield _of_training(o, s)
    yield section("Comparison", _in_print(o))
    yield section("Sites", _sites(o))
    yield _each_question(o)


def _of_training(o: Outcome, s: SeveralClasses) -> Markup:
    """Return the whole, with the honest numbers beside the optimistic ones."""
    beside = [
        ("Mean one-against-rest AUC, nested, mean over repeats", number(o.nested_auc)),
        ("The same on the training rows (optimistic)", number(o.apparent_auc)),
        ("Optimism", number(o.optimism, sign=True)),
    ]
    how = "Each patient by models that had not seen the patient, whose probabilities are averaged over the repeats."
    return _judged(s, beside, how, _each_class(o, s), performance.conformal(o))


def _each_class(o: Outcome, s: SeveralClasses) -> Markup:
    nested = next((x.macro for x in o.class_rows if x.name == "nested"), None)
    if nested is None:
        return Markup("")
    rows = [(f"{c}: {w}", *map(number, each)) for c, w, each in zip(s.classes, s.words, nested.each, strict=True)]
    rows.append(("Mean over classes", number(nested.precision), number(nested.recall), number(nested.f1)))
    note = "Precision: share right of those called so. Recall: share called so of those who are. F1: their harmonic mean. Never called: 0."
    return table("The classes in the paper's form", ("True class", "Precision", "Recall", "F1"), rows, note=note)


def _in_print(o: Outcome) -> Markup:
    """Return the table in the form of [CRFE], with the papers' way of judging beside the honest one."""
    n = o.flow.judged
    named = {"nested": (o.title, f"nested, n = {n}"), "training rows": (o.title, "training rows (optimistic)")}
    rows = [_row(*named.get(x.name, (x.name, f"same patients, n = {n}")), x) for x in o.class_rows]
    rows += [_row(f"{x.name}{' (chosen)' if x.chosen else ''}", f"one 30 % part, n = {x.n} (optimistic)", x) for x in o.class_printed]
    heads = ("Model", "Cohort", "Mean AUC", "Accuracy", "Precision", "Recall", "F1")
    note = (
        "Precision, recall and F1 are means over the true classes. Chosen: the best of these by the part that judges it, as papers choose."
    )
    return table("Models in the form of the papers", heads, rows, words=2, note=note)


def _row(model: str, cohort: str, x: JudgedClasses) -> tuple[object, ...]:
    return model, cohort, *map(number, (x.mean_auc, x.macro.accuracy, x.macro.precision, x.macro.recall, x.macro.f1))


def _sites(o: Outcome) -> Markup:
    if not o.class_sites:
        return performance.no_sites(o)
    rows = [(x.name, x.n, number(x.mean_auc), number(x.macro.accuracy), number(x.macro.f1)) for x in o.class_sites]
    note = "Each site judged by a model of all the others; areas with intervals stand below, with each axis and class."
    return table("One site left out at a time", ("Site", "Patients", "Mean AUC", "Accuracy", "F1"), rows, note=note)


def _each_question(o: Outcome) -> Markup:
    """Return each axis and class as a system with that one finding would be reported."""
    intro = paragraph(
        "Each axis, and each class against the rest, judged as a system with that one finding would be. A call is positive where the class "
        "called is that class, or lies on that side of the axis. These are many looks at the same patients."
    )
    opened = []
    for q in o.questions:
        parts = performance.parts(_alone(o, q), q.performance, of=q.name)
        content = join(join([tag("h3", title), content]) for title, content in parts)
        opened.append(tag("details", tag("summary", f"{q.name}: AUC {area(q.performance.auc)}"), content))
    return section("Axes and classes", intro, *opened)


def _alone(o: Outcome, q: JudgedQuestion) -> Outcome:
    """Return the outcome of a question alone, as binary ones are."""
    answers = zip(o.patients, q.labels, q.probabilities, q.calls, strict=True)
    nested = float(np.mean(q.nested_auc_by_repeat))
    return replace(
        o,
        title=q.name,
        performance=q.performance,
        nested_auc=nested,
        nested_auc_by_repeat=q.nested_auc_by_repeat,
        apparent_auc=q.apparent_auc,
        apparent_point=q.apparent_point,
        optimism=q.apparent_auc - nested,
        rivals=q.rivals,
        sites_left_out=q.sites_left_out,
        patients=tuple(JudgedPatient(x.patient, x.site, y, (p,), c) for x, y, p, c in answers),
        conformal_coverage=None,
        known={},
    )


def of_evaluation(e: Evaluation, s: SeveralClasses) -> Markup:
    """Return the section of an evaluation, with what training promised."""
    trained = e.bundle.training_metrics.get("nested_auc")
    beside = [] if trained is None else [("In training: mean one-against-rest AUC, nested", number(trained))]
    how = "Calls as they were made, without those withheld; areas and Brier scores of all patients."
    return _judged(s, beside, how, evaluated.sets(e))


def _judged(s: SeveralClasses, beside: Sequence[tuple[str, str]], how: str, *more: Markup) -> Markup:
    most = max((n for row in s.confusion for n in row), default=0) or 1
    rows: list[tuple[object, ...]] = []
    for true, words, row in zip(s.classes, s.words, s.confusion, strict=True):
        cells = [tag("div", n, class_="heat", style=f"--share:{n / most:.2f}") for n in row]
        right = row[s.called.index(true)] if true in s.called else 0
        rows.append((f"{true}: {words}", *cells, number(right / sum(row)) if sum(row) else NONE))
    heads = ("True class", *(f"called {c}" for c in s.called), "Share right")
    matrix = table("Confusion matrix", heads, rows, note=f"A row per true class, a column per call. {how}")
    numbers = [
        (f"Mean one-against-rest AUC of {count(len(s.one_against_rest), 'class', 'classes')}", estimate(s.mean_auc)),
        *beside,
        ("Accuracy", share(s.accuracy)),
        ("Balanced accuracy", estimate(s.balanced_accuracy)),
        ("Brier score, over all classes (0 to 2)", estimate(s.brier)),
        ("Scaled Brier score", estimate(s.scaled_brier)),
    ]
    note = "Stratified bootstrap; accuracy: Wilson. Balanced accuracy is the mean of the shares right. Scaled Brier: 0 for knowing how "
    absent = [f"The model does not know, and never predicts: {', '.join(s.absent)}."] if s.absent else []
    if s.unjudged:
        absent.append(f"No area, for want of patients on either side or of a model that knows both: {', '.join(s.unjudged)}.")
    forest = [curves.Row(shorten(words, 40), auc.value, auc.interval) for words, auc in s.one_against_rest]
    forest += [curves.Row(shorten(words, 40), auc.value, auc.interval, kind="rival") for words, auc in s.axes]
    areas = curves.draw_forest("One class against the rest", forest, "Blue: classes. Orange: the binary axes that classes share.")
    listed = [(words, area(auc)) for words, auc in (*s.one_against_rest, *s.axes)]
    tables = side_by_side(
        table("In numbers", ("Measure", "Value (95 % interval)"), numbers, note=f"{note}common the classes are, 1 for perfect."),
        table("Areas", ("Class or axis", "AUC (95 % interval)"), listed),
    )
    return section("Performance", matrix, *more, *map(paragraph, absent), tables, areas)
