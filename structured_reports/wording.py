"""The words that a radiologist reads, in one place: the report and the captures say the same thing the same way, in one language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipelines.features import clinical
from pipelines.spec import PipelineSpec
from pipelines.types import (
    BundleStatus,
    ClinicalValue,
    Code,
    Contribution,
    ImageVolume,
    Measurement,
    NomogramRow,
    Outcome,
    Prediction,
    Refusal,
    Roi,
    RoiOrigin,
    SeriesRole,
)
from structured_reports import codes
from structured_reports.context import ReportContext
from structured_reports.language import Messages

_MAX_WORDS = codes.MAX_MEANING - len("SHAP ")
_MAX_DECIMALS = 4  # of a percentage
_SIZES = (codes.VOLUME.value, codes.LONG_AXIS.value, codes.SHORT_AXIS.value)  # of the tumour, in the summary
_LOG = re.compile(r"log-sigma-(\d+)-(\d+)-mm-3D")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NUMBERED = {"cnn": "term.deep_feature", "pca": "term.component"}  # blocks whose features are numbers
_CLASSES = {
    "glcm": "GLCM",
    "glrlm": "GLRLM",
    "glszm": "GLSZM",
    "gldm": "GLDM",
    "ngtdm": "NGTDM",
    "firstorder": "intensity",
    "shape": "shape",
}
_UNITS = {"1": ("", 1.0), "mm2/s": ("x 10-3 mm2/s", 1e3), "10-6.mm2/s": ("x 10-3 mm2/s", 1e-3)}  # UCUM unit: as written, factor


def banner(status: BundleStatus | None, say: Messages) -> str:
    """Return what every page begins with."""
    return say("status.demo" if status is BundleStatus.DEMO else "status.research")


def refusal_word(refusal: Refusal) -> str:
    """Return the state of a job without a result, as descriptions of the objects name it: they are English."""
    return "FAILED" if refusal.failed else "REFUSED"


def sentence(words: str) -> str:
    """Return words as the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def notice(context: ReportContext, status: BundleStatus | None, say: Messages) -> str:
    """Return what a report begins with: the banner, what it means, and the version; ``status`` as in :func:`series_description`."""
    words = list(dict.fromkeys((banner(status, say), say("status.research"))))
    version = version_words(context, say)
    return ". ".join([*words, say("status.unverified")]) + (f" {version}." if version else "")


def mark(status: BundleStatus | None) -> str:
    """Return what descriptions of the objects begin with: a word for a demo bundle, nothing for others."""
    return "DEMO " if status is BundleStatus.DEMO else ""


def series_description(finding: Code, what: str, *, version: int, status: BundleStatus | None = None) -> str:
    """Return a series description that is told apart from others by its first 16 to 22 characters, which are all that lists show.

    The warning comes first, then the finding, the version from the second on, and ``what`` the series holds. ``status`` is that of the
    bundle, where one was used.
    """
    words = ["[RUO]", mark(status), codes.stem(finding), f"v{version}" if version > 1 else "", what]
    return " ".join(" ".join(words).split())[: codes.MAX_MEANING]


def version_words(context: ReportContext, say: Messages) -> str:
    """Say which version this is and what it replaces; empty for the first."""
    if context.version == 1:
        return ""
    before = context.predecessor.created_at if context.predecessor else None
    if before is None:
        return say("status.version", number=context.version)
    return say("status.replaces", number=context.version, when=f"{before:%Y-%m-%d %H:%M:%S}")


def title(name: str, default: str, say: Messages) -> str:
    """Return the title of a system by its name."""
    return say.known(f"system.{name}.title", default)


def decimals(prediction: Prediction) -> int:
    """Return with how many decimals to write percentages: one, or more where probability and threshold would look the same."""
    if prediction.threshold is None:
        return 1
    pair = (prediction.probability, prediction.threshold)
    return next((n for n in range(1, _MAX_DECIMALS + 1) if percent(pair[0], n) != percent(pair[1], n)), 1)


def percent(probability: float, places: int) -> float:
    """Return a probability in percent with so many decimals, never as certainty: with one, 0.1 to 99.9."""
    least = 10.0**-places
    return round(min(max(100.0 * probability, least), 100.0 - least), places)


def share(probability: float) -> float:
    """Return the probability of one of several classes in percent with one decimal: they sum to about 100, and none is certain."""
    return min(round(100.0 * probability, 1), 99.9)


def percent_words(probability: float, places: int) -> str:
    """Write a probability in percent with so many decimals, never as certainty."""
    return f"{percent_figures(probability, places)} %"


def percent_figures(probability: float, places: int) -> str:
    """Write the same without the sign of percent, as two bounds share one."""
    value, half = 100.0 * probability, 10.0**-places / 2
    sign = "> " if value >= 100.0 - half else "< " if value < half else ""
    return f"{sign}{percent(probability, places):.{places}f}"


def call_words(spec: PipelineSpec, prediction: Prediction, say: Messages) -> str:
    """Return the call as the system words it, as the beginning of a sentence; of several classes, the most probable one."""
    if prediction.call == "withheld":
        return say("result.withheld")
    if prediction.call == "class":
        top = most_probable(prediction)
        return outcome_words(top, say) if top else title(prediction.system, prediction.title, say)
    words = spec.positive if prediction.call == "positive" else spec.negative
    return sentence(say.known(f"system.{spec.name}.{prediction.call}", words))


def most_probable(prediction: Prediction) -> Outcome | None:
    """Return the class with the highest probability, where the system tells classes apart."""
    return max((o for o in prediction.outcomes if o.kind == "class"), key=lambda o: o.probability, default=None)


def outcome_words(outcome: Outcome, say: Messages) -> str:
    """Name a class, an axis or an assumption."""
    return sentence(answer_words(outcome.words, say))


def answer_words(words: str, say: Messages) -> str:
    """Name an answer that a system can give, by its English words."""
    return say.known(f"answer.{words}", words)


def risk_words(category: Code, say: Messages) -> str:
    """Name a risk category."""
    return say.known(f"risk.{category.value}", category.meaning)


def log_odds_words(value: float) -> str:
    """Write a Shapley value with two decimals; a smaller one with two digits."""
    return f"{value:+.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:+.1g}"


def points_words(rows: Sequence[NomogramRow]) -> str:
    """Write the sum of a nomogram's points."""
    return f"{sum(row.points for row in rows):.0f}"


def row_title(row: NomogramRow, say: Messages) -> str:
    """Name a line of a nomogram."""
    return sentence(say.known(f"clinical.{row.name.removeprefix(clinical.FEATURE_PREFIX)}", say.known(f"answer.{row.words}", row.words)))


def summary(spec: PipelineSpec, prediction: Prediction, say: Messages) -> str:
    """Return the result in one or two sentences."""
    places, bounds = decimals(prediction), ""
    if prediction.interval:
        low, high = (percent_figures(bound, places) for bound in prediction.interval)
        bounds = say("result.bounds", low=low, high=high)
    if prediction.call == "withheld":
        words = percent_words(prediction.probability, places)
        return say("result.summary_withheld", call=call_words(spec, prediction, say), probability=words, bounds=bounds)
    values = {"call": call_words(spec, prediction, say), "bounds": bounds, "probability": percent_words(prediction.probability, places)}
    if prediction.threshold is None:
        return say("result.summary_class", **values)
    return say("result.summary", threshold=percent_words(prediction.threshold, places), **values)


def summary_of_input(measurements: Sequence[Measurement], roi: Roi, n_flags: int, say: Messages) -> str:
    """Return, in a short sentence each, how large the tumour is, whose region it is, and whether something about the input is flagged."""
    sizes = [
        say("result.size", name=name, value=value)
        for name, value in (measurement_words(m, say) for m in measurements if m.name.value in _SIZES)
    ]
    quality = say("result.flagged", count=n_flags) if n_flags else say("result.unflagged")
    told = [say("result.sizes", sizes=", ".join(sizes))] if sizes else []
    return " ".join([*told, say("result.region", region=region_words(roi, say)), quality])


def limits(prediction: Prediction, say: Messages) -> list[str]:
    """Return what else must be said with the probability: answers that are not excluded, classes that are, other assumptions."""
    words = []
    if prediction.plausible and prediction.coverage is not None:
        coverage = f"{100 * prediction.coverage:.0f} %"
        words.append(say("result.plausible", coverage=coverage, answers=", ".join(answer_words(a, say) for a in prediction.plausible)))
    if prediction.unpredictable:
        words.append(say("result.unpredictable", classes=", ".join(answer_words(c, say) for c in prediction.unpredictable)))
    if (threshold := prediction.threshold) is not None and _status_decides(prediction, threshold):
        words.append(say("result.straddle", threshold=percent_words(threshold, decimals(prediction))))
    others = (o for o in prediction.outcomes if o.kind in ("alternative", "without"))
    words += [say("result.alternative", words=outcome_words(o, say), probability=percent_words(o.probability, 1)) for o in others]
    return words


def _status_decides(prediction: Prediction, threshold: float) -> bool:
    """Return whether the call would be another in the other state; not where the model that was used does not know the status."""
    states = [o.probability for o in prediction.outcomes if o.kind == "alternative"]
    called = prediction.call in ("positive", "negative") and prediction.probability in states
    return called and min(states) < threshold <= max(states)


def model_identity(prediction: Prediction, say: Messages, *, digits: int | None = None) -> str:
    """Return system, version, status and digest of the bundle, of the digest its first ``digits`` only."""
    return say(
        "result.model",
        system=prediction.system,
        version=prediction.bundle_version,
        status=prediction.bundle_status,
        digest=prediction.bundle_digest[:digits],
    )


def region_words(roi: Roi, say: Messages) -> str:
    """Say on which sequence the region was drawn and by whom."""
    by_software = roi.origin is RoiOrigin.SEG and roi.segment_algorithm_type in ("AUTOMATIC", "SEMIAUTOMATIC")
    return say("region.on", role=roi.role, origin=say("region.SEG_AUTOMATIC" if by_software else f"region.{roi.origin}"))


def clinical_name(name: str) -> str:
    """Name a clinical value for a person."""
    known = name in clinical.KNOWN or name in clinical.DERIVED_TITLES
    return clinical.title_of(name) if known else name.replace("_", " ")


def clinical_title(name: str, say: Messages) -> str:
    """Name a clinical value for a person, in the language of the page."""
    return say.known(f"clinical.{name}", clinical_name(name))


def clinical_words(value: ClinicalValue, say: Messages) -> str:
    """Say what a clinical value is and whose."""
    return f"{clinical_title(value.name, say)}: {value.words} ({value.source})"


def series_words(image: ImageVolume) -> str:
    """Name a series and say why it was chosen."""
    return f"series {image.header.label()}; {image.reason}"


def used_series(volumes: Mapping[SeriesRole, ImageVolume], say: Messages) -> list[tuple[str, str]]:
    """Return (role, series) in short, for pages."""
    short = []
    for role, image in volumes.items():
        number = "?" if image.header.series_number is None else str(image.header.series_number)
        description = image.header.description or say("page.no_description")
        short.append((str(role), say("page.series_short", number=number, description=description, count=len(image.sources))))
    return short


def measurement_words(measurement: Measurement, say: Messages) -> tuple[str, str]:
    """Return name and value with unit, for pages."""
    name = say.known(f"term.{measurement.name.value}", measurement.name.meaning)
    unit, factor = _UNITS.get(measurement.unit.value, (measurement.unit.value, 1.0))
    if measurement.unit == codes.PIXELS:
        unit = say("term.pixels")
    value = f"{measurement.value * factor:#.3g}".rstrip(".")
    return name, f"{value} {unit}".strip()


def feature_words(contribution: Contribution, say: Messages) -> str:
    """Name a feature for a person, e.g. ``DWI LoG 2.0 mm GLCM Joint Entropy``, in what a code meaning can hold."""
    role, _, block = contribution.group.partition(":")
    if block in _NUMBERED:
        kind = _NUMBERED[block] if contribution.feature.isdigit() else "term.network"
        return say(kind, role=role, number=contribution.feature)[:_MAX_WORDS]
    if block == "value":
        return clinical_title(contribution.feature, say)[:_MAX_WORDS]
    if block == "model":
        return say("term.image_score")[:_MAX_WORDS]
    image, _, rest = contribution.feature.partition("_")
    kind, _, name = rest.partition("_")
    if not name:
        return f"{role} {contribution.feature}"[:_MAX_WORDS]
    filtered = _LOG.sub(r"LoG \1.\2 mm", image).replace("wavelet-", "wavelet ")
    words = [role, "" if filtered == "original" else filtered, _CLASSES.get(kind, kind)]
    spaced, tight = (" ".join(" ".join([*words, n]).split()) for n in (_CAMEL.sub(" ", name), name))
    return spaced if len(spaced) <= _MAX_WORDS else tight[:_MAX_WORDS]
