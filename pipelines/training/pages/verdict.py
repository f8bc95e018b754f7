"""The top of a report: what it is, how far to believe it, and the answer in three sentences."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.training.discrimination import Comparison
from pipelines.training.evaluation import Evaluation, Finding
from pipelines.training.intervals import Interval
from pipelines.training.outcome import Outcome
from pipelines.training.pages.markup import Markup, bounds, bullets, count, estimate, join, number, p_value, paragraph, section, tag
from pipelines.training.several import SeveralClasses

_SLOPE = (0.8, 1.2)  # calibration slopes that the sentence calls near 1


def banners(synthetic: bool, statement: str, *, invalid: str = "") -> Markup:
    """Return the bars above everything."""
    bars = []
    if invalid:
        bars.append(tag("div", paragraph(f"INVALID. {invalid}"), class_="banner bad", role="alert"))
    if synthetic:
        bars.append(tag("div", paragraph("SYNTHETIC PHANTOMS, DEMO ONLY. Nothing here is about patients."), class_="banner"))
    else:
        bars.append(tag("div", paragraph(f"RESEARCH. Not a medical device. {statement}"), class_="banner"))
    return join(bars)


def of_training(o: Outcome) -> Markup:
    """Return the verdict of a training run."""
    invalid = o.lie_detector is not None and not o.lie_detector.valid
    said = [_trust(o)] if invalid else [_discrimination(o), _calibration_and_rivals(o), _trust(o)]
    return _verdict(said, o.statement, o.warnings, bad=invalid)


def _verdict(sentences: Iterable[str], statement: str, warnings: tuple[str, ...], *, bad: bool) -> Markup:
    words = tag("div", *(paragraph(s) for s in sentences), class_="verdict bad" if bad else "verdict")
    listed = join([tag("h3", "Warnings"), bullets(warnings)]) if warnings else ""
    return section("Verdict", words, paragraph(statement, kind="dim"), listed)


def _discrimination(o: Outcome) -> str:
    if o.several:
        return (
            f"In nested cross-validation of {o.flow.judged} patients the mean one-against-rest AUC was {number(o.nested_auc)} "
            f"({number(o.apparent_auc)} on the training rows) and {_right(o.several)} of patients were called right, "
            "averaged over classes."
        )
    assert o.performance is not None
    printed = next((f", and {number(x.auc.value)} judged as the papers do" for x in o.printed if x.chosen), "")
    return (
        f"On patients that no step had seen, the AUC was {number(o.nested_auc)} (95 % interval {_plain(o.performance.auc.interval)}; "
        f"{o.flow.judged} patients, {o.flow.events} with the finding); on its own training rows it would read "
        f"{number(o.apparent_auc)}{printed}."
    )


def _right(s: SeveralClasses) -> str:
    share = s.balanced_accuracy
    return "none" if share is None else f"{100 * share.value:.0f} %"


def _plain(interval: Interval | None) -> str:
    return "not defined" if interval is None else f"{number(interval.low)} to {number(interval.high)}"


def _calibration_and_rivals(o: Outcome) -> str:
    if o.several:
        alone = next((x.mean_auc for x in o.class_rows if x.name.startswith("size")), None)
        rival = f" The size of the region alone has a mean AUC of {number(alone)}." if alone is not None else ""
        return f"{_compared_with_prevalence(o.several)}{rival}"
    assert o.performance is not None
    slope = o.performance.calibration.slope
    if slope is None:
        calibrated = "Calibration cannot be judged"
    elif _SLOPE[0] <= slope.value <= _SLOPE[1]:
        calibrated = (
            f"Its probabilities are about as extreme as they should be (slope {number(slope.value, 2)} {bounds(slope.interval, 2)})"
        )
    else:
        how = "too extreme" if slope.value < 1 else "not extreme enough"
        calibrated = f"Its probabilities are {how} (slope {number(slope.value, 2)} {bounds(slope.interval, 2)})"
    size = next((r for r in o.rivals if r.name == "size"), None)
    return f"{calibrated}{'; ' + _against('size of the region alone', size.comparison, size.p_holm) if size else ''}."


def _against(rival: str, test: Comparison, p: float | None) -> str:
    gap = f"AUC difference {number(test.difference, sign=True)} {bounds(test.interval)}, Holm p {p_value(p)}"
    if test.interval is None:
        return f"whether it beats {rival} was not tested"
    if test.interval.low > 0:
        return f"it beats {rival} ({gap})"
    worse = "it is worse than" if test.interval.high < 0 else "it was not shown to beat"
    return f"{worse} {rival} ({gap})"


def _trust(o: Outcome) -> str:
    if o.lie_detector is None:
        checked = "The lie detector was not run"
    elif o.lie_detector.valid:
        checked = f"On shuffled labels the recipe finds nothing (mean AUC {number(o.lie_detector.mean)}), as it should"
    else:
        return (
            f"Nothing in this report can be believed: on shuffled labels the recipe finds an AUC of {number(o.lie_detector.mean)} "
            f"{bounds(o.lie_detector.interval)} where there is nothing to find."
        )
    if o.synthetic:
        return f"{checked}; all of it is about computer-made images and says nothing about patients."
    return f"{checked}; no external cohort has been seen, so nobody knows yet how it does elsewhere."


def of_evaluation(e: Evaluation) -> Markup:
    """Return the verdict of an evaluation."""
    outside = {
        True: "None of the sites gave training cases: this is external validation.",
        False: "A site of this cohort gave training cases: this is not external validation.",
        None: "Whether a site of this cohort gave training cases is not known: it cannot count as external validation.",
    }
    said = _several_evaluated(e, e.several) if e.several else _one_evaluated(e, e.findings[0])
    refused = f"{count(len(e.flow.refused), 'patient')} could not be judged."
    return _verdict([f"{said[0]}; {refused}", said[1], f"{outside[e.external]} {e.tally.sentence}"], e.statement, e.warnings, bad=False)


def _one_evaluated(e: Evaluation, f: Finding) -> tuple[str, str]:
    slope, baseline = f.calibration.slope, next(iter(f.baselines), None)
    first = (
        f"On {e.n} patients of {e.cohort}, {e.events} with the finding, the AUC was {number(e.auc.value)} "
        f"(95 % interval {_plain(e.auc.interval)})"
    )
    calibrated = (
        "Calibration cannot be judged"
        if slope is None
        else f"The calibration slope is {number(slope.value, 2)} {bounds(slope.interval, 2)}"
    )
    shift = f"{number(f.calibration.mean_predicted)} predicted on average, {number(f.calibration.prevalence)} observed"
    rival = f"; {_against(baseline.name + ' alone', baseline.comparison, baseline.p_holm)}" if baseline else ""
    return first, f"{calibrated} ({shift}){rival}."


def _several_evaluated(e: Evaluation, s: SeveralClasses) -> tuple[str, str]:
    first = (
        f"On {e.n} patients of {e.cohort} the mean one-against-rest AUC was {number(e.auc.value)} "
        f"(95 % interval {_plain(e.auc.interval)}) and {_right(s)} of patients were called right, averaged over classes"
    )
    return first, _compared_with_prevalence(s)


def _compared_with_prevalence(s: SeveralClasses) -> str:
    brier = s.scaled_brier
    better = "better" if (brier.interval.low if brier.interval else brier.value) > 0 else "not shown to be better"
    return f"Its probabilities are {better} than knowing how common the classes are: the scaled Brier score is {estimate(brier, 2)}."
