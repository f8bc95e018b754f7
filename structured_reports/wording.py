"""The words that a radiologist reads, in one place: the report and the captures say the same thing the same way."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipelines.spec import PipelineSpec
from pipelines.types import BundleStatus, Contribution, Evidence, ImageVolume, Measurement, Prediction, RoiOrigin, SeriesRole
from structured_reports import codes

UNVERIFIED = "Software output, not verified by a physician."
RESEARCH_USE = "RESEARCH USE ONLY"
_BANNERS = {BundleStatus.DEMO: "DEMO MODEL - NOT FOR CLINICAL USE"}
_MAX_WORDS = codes.MAX_MEANING - len("SHAP ")
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
    """Return what every page and report begins with."""
    return _BANNERS.get(status, RESEARCH_USE)


def notice(status: BundleStatus) -> str:
    """Return the banner with what it means."""
    words = [banner(status)] if banner(status) == RESEARCH_USE else [banner(status), RESEARCH_USE]
    return ". ".join([*words, UNVERIFIED])


def series_description(prediction: Prediction, what: str) -> str:
    """Return a series description whose first 22 characters, all that viewers show, hold the warning."""
    demo = "DEMO " if prediction.bundle_status is BundleStatus.DEMO else ""
    return " ".join(f"[RUO] {demo}AI {codes.stem(prediction.finding)} {what}".split())[: codes.MAX_MEANING]


def percent(probability: float) -> float:
    """Return a probability in percent with one decimal."""
    return round(100.0 * probability, 1)


def percent_words(probability: float) -> str:
    """Write a probability in percent, never as certainty."""
    if 0.9995 <= probability < 1.0:
        return "> 99.9 %"
    if 0.0 < probability < 0.0005:
        return "< 0.1 %"
    return f"{percent(probability):.1f} %"


def call_words(spec: PipelineSpec, prediction: Prediction) -> str:
    """Return the call as the system words it, as the beginning of a sentence."""
    words = spec.positive if prediction.call == "positive" else spec.negative
    return words[:1].upper() + words[1:]


def summary(spec: PipelineSpec, prediction: Prediction) -> str:
    """Return the result in one sentence."""
    bounds = ""
    if prediction.interval:
        low, high = (percent(bound) for bound in prediction.interval)
        bounds = f" ({low:.1f} to {high:.1f} %)"
    return (
        f"{call_words(spec, prediction)}: probability {percent_words(prediction.probability)}{bounds}, "
        f"decision threshold {percent_words(prediction.threshold)}."
    )


def model_identity(prediction: Prediction) -> str:
    """Return system, version, status and digest of the bundle."""
    return f"{prediction.system} {prediction.bundle_version}, status {prediction.bundle_status}, sha256 {prediction.bundle_digest}"


def region_words(evidence: Evidence) -> str:
    """Say on which sequence the region was drawn and by whom."""
    return f"on {evidence.roi.role}, {_ROI_BY[evidence.roi.origin]}"


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
    image, _, rest = contribution.feature.partition("_")
    kind, _, name = rest.partition("_")
    if not name:
        return f"{role} {contribution.feature}"[:_MAX_WORDS]
    filtered = _LOG.sub(r"LoG \1.\2 mm", image).replace("wavelet-", "wavelet ")
    words = [role, "" if filtered == "original" else filtered, _CLASSES.get(kind, kind)]
    spaced, tight = (" ".join(" ".join([*words, n]).split()) for n in (_CAMEL.sub(" ", name), name))
    return spaced if len(spaced) <= _MAX_WORDS else tight[:_MAX_WORDS]
