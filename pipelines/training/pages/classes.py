"""How good a model of several classes is as a whole: confusion matrix, shares right, areas of one against the rest."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.training.evaluation import Evaluation
from pipelines.training.outcome import Outcome
from pipelines.training.pages import curves
from pipelines.training.pages.markup import (
    NONE,
    Markup,
    area,
    count,
    estimate,
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


def of_training(o: Outcome, s: SeveralClasses) -> Markup:
    """Return the section of a training run, with the honest numbers beside the optimistic ones."""
    beside = [
        ("Mean one-against-rest AUC, nested, mean over repeats", number(o.nested_auc)),
        ("The same on the training rows (optimistic)", number(o.apparent_auc)),
        ("Optimism", number(o.optimism, sign=True)),
    ]
    how = "Each patient by models that had not seen the patient, whose probabilities are averaged over the repeats."
    return _judged(s, beside, how)


def of_evaluation(e: Evaluation, s: SeveralClasses) -> Markup:
    """Return the section of an evaluation, with what training promised."""
    trained = e.bundle.training_metrics.get("nested_auc")
    beside = [] if trained is None else [("In training: mean one-against-rest AUC, nested", number(trained))]
    return _judged(s, beside, "Calls as they were made, without those withheld; areas and Brier scores of all patients.")


def _judged(s: SeveralClasses, beside: Sequence[tuple[str, str]], how: str) -> Markup:
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
    return section("Performance", matrix, *map(paragraph, absent), tables, areas)
