"""Whether to believe it: the lie detector, the sample size, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.training.outcome import LieDetector, Outcome
from pipelines.training.pages.markup import (
    Markup,
    bounds,
    bullets,
    count,
    mark,
    number,
    paragraph,
    section,
    side_by_side,
    table,
    tag,
)
from pipelines.training.pages.svg import Axis, Drawing

_CELL = 9.0  # pixels between dots


def lie_detector(o: Outcome) -> Markup:
    """Return the section on shuffled labels."""
    found = o.lie_detector
    if found is None:
        return section("Lie detector", paragraph("Not run: nobody knows whether the recipe finds signals where there are none."))
    verdict = mark("yes", "valid") if found.valid else mark("no", "INVALID")
    words = (
        "The labels were shuffled among the patients and the recipe was run on them, from selection on, twice with all its classifiers, "
        "then with the first; networks that no judged patient took part in training are not trained again. Whatever it finds is not there. "
        "A recipe that finds nothing learns how common the finding is in its training patients; a fold with more cases than its share "
        "leaves fewer to train on, so its patients are given less, and the AUC comes out below 0.5: "
        f"{number(found.explained)} in these folds. INVALID: the interval of the mean lies above 0.5, or below that. A patient who stands "
        "in the table twice is not found like this: what the files say of who is who is compared before anything is trained."
    )
    lines = paragraph(verdict, " ", found.words, f" Mean AUC {number(found.mean)} {bounds(found.interval)}, {found.interval.method}.")
    return section("Lie detector", lines, _draw_dots(found, o.nested_auc), paragraph(words, kind="note"))


def _draw_dots(found: LieDetector, nested: float) -> Markup:
    width, left, right = 900.0, 40.0, 40.0
    axis = Axis.of("AUC", min(0.3, *found.areas), max(0.9, nested, *found.areas), parts=7, digits=1)
    picture = Drawing("AUC on shuffled labels", f"{len(found.areas)} dots, mean {number(found.mean)}.", width, 176)

    def at(value: float) -> float:
        return left + axis.at(value) * (width - left - right)

    for tick, words in zip(axis.ticks, axis.words, strict=True):
        picture.line([(at(tick), 34), (at(tick), 130)], "grid")
        picture.text(at(tick), 144, words, anchor="middle", kind="tick")
    picture.text(width / 2, 167, axis.label, anchor="middle", kind="label")
    picture.line([(at(0.5), 34), (at(0.5), 130)], "reference")
    picture.text(at(0.5), 20, "no signal", anchor="middle", kind="small")
    picture.line([(at(nested), 34), (at(nested), 130)], "model")
    picture.text(at(nested), 20, f"true labels {number(nested)}", anchor="middle", kind="small")
    stacked: dict[int, int] = {}
    for value in sorted(found.areas):
        cell = round(at(value) / _CELL)
        stacked[cell] = stacked.get(cell, 0) + 1
        picture.dot(cell * _CELL, 122 - 10 * (stacked[cell] - 1), "hollow", radius=4.2)
    picture.line([(at(found.interval.low), 46), (at(found.interval.high), 46)], "whisker")
    picture.diamond(at(found.mean), 46, "point")
    return picture.figure(
        f"A dot per shuffling ({len(found.areas)}), the diamond their mean with its interval, the line the true labels.", wide=True
    )


def sample_size(o: Outcome) -> Markup:
    """Return what the cohort's size allows."""
    s, smaller = o.sample_size, min(o.flow.events, o.flow.judged - o.flow.events)
    rows = [
        ("Expected shrinkage of 0.9 or more", s.for_shrinkage),
        ("Optimism in R² of 0.05 or less", s.for_optimism),
        ("Overall risk known to within 0.05", s.for_overall_risk),
        ("Needed", f"{s.needed}, with {s.events} events"),
        ("Here", f"{o.flow.judged}" if o.several else f"{o.flow.judged}, with {o.flow.events} events"),
    ]
    judged = (
        "enough by these criteria"
        if o.flow.judged >= s.needed
        else f"{s.needed - o.flow.judged} patients fewer than these criteria ask for"
    )
    note = (
        f"Riley et al., Stat Med 2019;38:1276. For {count(s.parameters, 'parameter')} of the final model, prevalence "
        f"{number(s.prevalence, 2)}, Cox–Snell R² {number(s.r2_cox_snell)}. "
        "Parameters tried and dropped count too, so the true need is higher."
    )
    variables = (
        ""
        if o.several
        else f"{number(o.events_per_variable)} patients of the smaller class ({smaller}) per candidate variable, counted before selection; "
    )
    lines = paragraph(f"{variables}{judged}.")
    return section("Sample size", lines, table("Patients needed", ("Criterion", "Patients"), rows, note=note))


def reproducibility(rows: Mapping[str, object], versions: Mapping[str, str]) -> Markup:
    """Return what is needed to make the result again."""
    facts = [(name, tag("code", value)) for name, value in rows.items()]
    libraries = [(name, tag("code", version)) for name, version in sorted(versions.items())]
    return section(
        "Reproducibility",
        side_by_side(
            table("What made this", ("Item", "Value"), facts, words=2), table("Versions", ("Library", "Version"), libraries, words=2)
        ),
    )


def how_to_read(*more: str) -> Markup:
    """Return what numbers of this kind can and cannot say."""
    lines = [
        "AUC is the chance that a patient with the finding scores higher than one without it. 0.5 is chance. It says nothing about whether "
        "probabilities are right (see calibration) or useful (see clinical usefulness).",
        "An interval covers the luck of which patients were in the cohort. It does not cover bias, wrong labels or another scanner.",
        "A difference whose interval holds 0 is not shown; it is not shown to be absent either.",
        "Predictive values change with how common the finding is. Sensitivity and specificity change with the case mix.",
        *more,
    ]
    return section("How to read this", bullets(lines))


def leakage(lines: tuple[str, ...]) -> Markup:
    """Return the statement on leakage."""
    return section("Leakage", paragraph("What was done so that no label reached a number that speaks for the model:"), bullets(lines))
