"""The report of a training run and of an evaluation: one HTML file each, with everything in it, in the order in which one would ask.

Needs no script, no network and no training library: it is drawn from ``training.json`` or ``evaluation.json`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.training.evaluation import Evaluation
from pipelines.training.outcome import Outcome
from pipelines.training.pages import checklists, checks, classes, evaluated, explanation, facts, features, flow, performance, verdict
from pipelines.training.pages.checklists import Fact
from pipelines.training.pages.markup import Markup, join, paragraph, section, tag

FILE_NAME = "report.html"
_HEADING = re.compile(r'<section id="([^"]+)"><h2>(.*?)</h2>')
_STYLE = Path(__file__).parent / "pages" / "report.css"
_TRAINING_NOTES = (
    "The bundle serves a final fit on all patients. The nested number judges the recipe that made it, which is as close as one can get "
    "without new patients.",
    "Only a cohort of other sites, looked at once, tells how the model does elsewhere (cervinode evaluate).",
)
_EVALUATION_NOTES = ("Nothing was fitted to this cohort. Changing anything after seeing these numbers turns it into training data.",)


def write_report(outcome: Outcome, folder: Path) -> Path:
    """Write the report of a training run beside its ``training.json`` and return its path."""
    invalid = outcome.lie_detector.words if outcome.lie_detector and not outcome.lie_detector.valid else ""
    return _write(
        folder,
        f"{outcome.title}: training of {outcome.version}",
        f"System {outcome.system}, {outcome.date.isoformat()}, seed {outcome.seed}",
        verdict.banners(outcome.synthetic, outcome.statement, invalid=invalid),
        _training_sections(outcome),
    )


def write_evaluation_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write the report of an evaluation beside its ``evaluation.json`` and return its path."""
    bundle = evaluation.bundle
    return _write(
        folder,
        f"{bundle.title}: evaluation of {bundle.version}",
        f"System {bundle.system}, bundle status {bundle.status}, cohort {evaluation.cohort}, {evaluation.date.isoformat()}",
        verdict.banners(evaluation.synthetic, evaluation.statement),
        _evaluation_sections(evaluation),
    )


def _training_sections(o: Outcome) -> Iterable[Markup]:
    yield verdict.of_training(o)
    yield flow.training_cohort(o)
    yield checks.leakage(o.leakage)
    if p := o.performance:
        yield from (section(title, content) for title, content in performance.parts(o, p))
    if o.several:
        yield from classes.sections(o, o.several)
    yield features.recipe(o)
    yield features.selection(o)
    yield explanation.explanation(o)
    yield explanation.nomogram(o)
    yield features.profile(o)
    yield checks.sample_size(o)
    yield checks.lie_detector(o)
    made = {"System": o.system, "Version": o.version, "Bundle SHA-256": o.bundle_digest, "Method digest": o.method_digest, "Seed": o.seed}
    yield checks.reproducibility(made | {"Date": o.date.isoformat(), "Cohort table": o.flow.file}, o.made_with)
    yield _guidelines(facts.of_training(o))
    yield checks.how_to_read(*_TRAINING_NOTES)


def _evaluation_sections(e: Evaluation) -> Iterable[Markup]:
    yield verdict.of_evaluation(e)
    yield flow.evaluation_cohort(e)
    if e.several:
        yield classes.of_evaluation(e, e.several)
        yield evaluated.each_finding(e)
    else:
        yield from (section(title, content) for title, content in evaluated.parts(e, e.findings[0]))
    made = {"System": e.bundle.system, "Version": e.bundle.version, "Bundle SHA-256": e.bundle_digest, "Cohort SHA-256": e.cohort_digest}
    yield checks.reproducibility(made | {"Seed": e.seed, "Date": e.date.isoformat()}, e.made_with)
    yield _guidelines(facts.of_evaluation(e), only=("TRIPOD+AI", "CLAIM 2024"))
    yield checks.how_to_read(*_EVALUATION_NOTES)


def _guidelines(known: Mapping[str, Fact], *, only: tuple[str, ...] = ()) -> Markup:
    intro = paragraph(
        "Filled from what this run knows and from nothing else. What it cannot know is the site's to complete; nothing is claimed for it."
    )
    shown = [checklists.show(one, known) for one in checklists.read_checklists() if not only or one.title in only]
    return section("Reporting guidelines", intro, *shown)


def _write(folder: Path, title: str, subtitle: str, banners: Markup, sections: Iterable[Markup]) -> Path:
    body = "".join(sections)
    links = [tag("li", tag("a", Markup(words), href=f"#{name}")) for name, words in _HEADING.findall(body)]
    head = join(
        [
            Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
        ]
    )
    top = join([tag("h1", title), paragraph(subtitle, kind="dim"), tag("nav", tag("ol", *links), aria_label="Contents")])
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{banners}<main>{top}{body}</main></body></html>\n'
    path = folder / FILE_NAME
    partial_file = path.with_suffix(".partial")
    partial_file.write_text(page, encoding="utf-8")
    partial_file.replace(path)
    return path
