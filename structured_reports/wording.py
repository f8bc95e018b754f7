"""The words that a radiologist reads, in one place: the report and the captures say the same thing the same way."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.spec import PipelineSpec
from pipelines.types import (
    BundleStatus,
    ClinicalValue,
    Code,
    Contribution,
    Evidence,
    ImageVolume,
    Measurement,
    Prediction,
    RoiOrigin,
    SeriesRole,
)
from structured_reports import codes
from structured_reports.context import ReportContext

UNVERIFIED = "Software output, not verified by a physician."
RESEARCH_USE = "RESEARCH USE ONLY"
_BANNERS = {BundleStatus.DEMO: "DEMO MODEL - NOT FOR CLINICAL USE"}
_MAX_WORDS = codes.MAX_MEANING - len("SHAP ")
_MAX_DECIMALS = 4  # of a percentage
_LOG = re.compile(r"log-sigma-(\d+)-(\d+)-mm-3D")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CLASSES = {
    "glcm": "GLCM",
    "glrlm": "GLRLM",
    "glszm": "GLSZM",
    "gldm": "GLDM",
    "ngtdm": "NGTDM",
    "firstorder": "intensity",
    "shape": "shape",
}
_SHORT_NAMES = {"L0JK": "Maximum 3D diameter", "113041": "ADC, mean"}
_UNITS = {"1": ("", 1.0), "mm2/s": ("x 10-3 mm2/s", 1e3), "10-6.mm2/s": ("x 10-3 mm2/s", 1e-3)}  # UCUM unit: as written, factor
_ROI_BY = {
    RoiOrigin.SEG: "received with the study (DICOM SEG)",
    RoiOrigin.RTSTRUCT: "received with the study (RT structure set)",
    RoiOrigin.MODEL: "drawn by a segmentation network, not checked by a person",
}


def banner(status: BundleStatus) -> str:
    """Return what every page begins with."""
    return _BANNERS.get(status, RESEARCH_USE)


def notice(context: ReportContext, status: BundleStatus | None = None) -> str:
    """Return what a report begins with: the banner, what it means, and the version; ``status`` as in :func:`series_description`."""
    first = banner(status) if status else RESEARCH_USE
    words = [first] if first == RESEARCH_USE else [first, RESEARCH_USE]
    version = version_words(context)
    return ". ".join([*words, UNVERIFIED]) + (f" {version}." if version else "")


def mark(status: BundleStatus) -> str:
    """Return what descriptions of the objects begin with: a word for a demo bundle, nothing for others."""
    return "DEMO " if status is BundleStatus.DEMO else ""


def series_description(finding: Code, what: str, *, version: int, status: BundleStatus | None = None) -> str:
    """Return a series description whose first 22 characters, all that viewers show, hold the warning.

    ``status`` is that of the bundle, where one was used. The version is named from the second on.
    """
    words = ["[RUO]", mark(status) if status else "", "AI", codes.stem(finding), f"v{version}" if version > 1 else "", what]
    return " ".join(" ".join(words).split())[: codes.MAX_MEANING]


def version_words(context: ReportContext) -> str:
    """Say which version this is and what it replaces; empty for the first."""
    if context.version == 1:
        return ""
    before = context.predecessor.created_at if context.predecessor else None
    return f"Version {context.version}" + (f", replaces the result of {before:%Y-%m-%d %H:%M:%S}" if before else "")


def decimals(prediction: Prediction) -> int:
    """Return with how many decimals to write percentages: one, or more where probability and threshold would look the same."""
    pair = (prediction.probability, prediction.threshold)
    return next((n for n in range(1, _MAX_DECIMALS + 1) if percent(pair[0], n) != percent(pair[1], n)), 1)


def percent(probability: float, places: int) -> float:
    """Return a probability in percent with so many decimals, never as certainty: with one, 0.1 to 99.9."""
    least = 10.0**-places
    return round(min(max(100.0 * probability, least), 100.0 - least), places)


def percent_words(probability: float, places: int) -> str:
    """Write a probability in percent with so many decimals, never as certainty."""
    value, half = 100.0 * probability, 10.0**-places / 2
    sign = "> " if value >= 100.0 - half else "< " if value < half else ""
    return f"{sign}{percent(probability, places):.{places}f} %"


def call_words(spec: PipelineSpec, prediction: Prediction) -> str:
    """Return the call as the system words it, as the beginning of a sentence."""
    words = spec.positive if prediction.call == "positive" else spec.negative
    return words[:1].upper() + words[1:]


def summary(spec: PipelineSpec, prediction: Prediction) -> str:
    """Return the result in one sentence."""
    places, bounds = decimals(prediction), ""
    if prediction.interval:
        low, high = (percent(bound, places) for bound in prediction.interval)
        bounds = f" ({low:.{places}f} to {high:.{places}f} %)"
    return (
        f"{call_words(spec, prediction)}: probability {percent_words(prediction.probability, places)}{bounds}, "
        f"decision threshold {percent_words(prediction.threshold, places)}."
    )


def model_identity(prediction: Prediction) -> str:
    """Return system, version, status and digest of the bundle."""
    return f"{prediction.system} {prediction.bundle_version}, status {prediction.bundle_status}, sha256 {prediction.bundle_digest}"


def region_words(evidence: Evidence) -> str:
    """Say on which sequence the region was drawn and by whom."""
    return f"on {evidence.roi.role}, {_ROI_BY[evidence.roi.origin]}"


def clinical_words(value: ClinicalValue) -> str:
    """Say what a clinical value is and whose."""
    return f"{value.name.replace('_', ' ')}: {value.words} ({value.source})"


def series_words(image: ImageVolume) -> str:
    """Name a series and say why it was chosen."""
    return f"series {image.header.label()}; {image.reason}"


def used_series(volumes: Mapping[SeriesRole, ImageVolume]) -> list[tuple[str, str]]:
    """Return (role, series) in short, for pages."""
    short = []
    for role, image in volumes.items():
        number = "?" if image.header.series_number is None else str(image.header.series_number)
        short.append((str(role), f'{number} "{image.header.description or "no description"}", {len(image.sources)} images'))
    return short


def measurement_words(measurement: Measurement) -> tuple[str, str]:
    """Return name and value with unit, for pages."""
    name = _SHORT_NAMES.get(measurement.name.value, measurement.name.meaning)
    unit, factor = _UNITS.get(measurement.unit.value, (measurement.unit.value, 1.0))
    value = f"{measurement.value * factor:#.3g}".rstrip(".")
    return name, f"{value} {unit}".strip()


def feature_words(contribution: Contribution) -> str:
    """Name a feature for a person, e.g. ``DWI LoG 2.0 mm GLCM Joint Entropy``, in what a code meaning can hold."""
    role, _, block = contribution.group.partition(":")
    if block == "cnn":
        return f"{role} deep feature {contribution.feature}"
    if block == "value":
        return f"{role.lower()} value {contribution.feature.replace('_', ' ')}"[:_MAX_WORDS]
    image, _, rest = contribution.feature.partition("_")
    kind, _, name = rest.partition("_")
    if not name:
        return f"{role} {contribution.feature}"[:_MAX_WORDS]
    filtered = _LOG.sub(r"LoG \1.\2 mm", image).replace("wavelet-", "wavelet ")
    words = [role, "" if filtered == "original" else filtered, _CLASSES.get(kind, kind)]
    spaced, tight = (" ".join(" ".join([*words, n]).split()) for n in (_CAMEL.sub(" ", name), name))
    return spaced if len(spaced) <= _MAX_WORDS else tight[:_MAX_WORDS]
