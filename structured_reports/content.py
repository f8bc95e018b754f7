"""The content items that the measurement groups of the reports are made of (PS3.16 TID 1501, 1411, 300, 4019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import highdicom.sr as sr

from pipelines.spec import Radiomics
from pipelines.types import Code, Measurement, Prediction
from structured_reports import codes, wording
from structured_reports.attributes import Run
from structured_reports.uids import derive_uid

Group: TypeAlias = sr.MeasurementsAndQualitativeEvaluations
_SIGNIFICANT_DIGITS = 4
_DEFAULT_BIN_WIDTH = 25  # of pyradiomics, where a block sets none
_AFTER_TRACKING = 2  # content items: Tracking Identifier and Tracking Unique Identifier come first in every group


def track(name: str, run: Run) -> sr.TrackingIdentifier:
    """Name a group; OHIF throws on groups without a tracking UID."""
    uid = derive_uid("tracking", run.source.StudyInstanceUID, run.context.spec.name, name)
    return sr.TrackingIdentifier(uid=uid, identifier=name)


def identify_algorithm(prediction: Prediction, run: Run, *, segmenter: str | None = None) -> sr.AlgorithmIdentification:
    """Return TID 4019; the status comes first, because some readers keep only the first parameter."""
    parameters = [f"status={prediction.bundle_status}", *([] if segmenter else _parameters(prediction, run))]
    return sr.AlgorithmIdentification(
        name=segmenter or prediction.system,
        version=f"{prediction.bundle_version} {prediction.bundle_digest[:16]}",
        parameters=parameters,
        family=codes.concept(codes.AI),
        manufacturer=run.context.manufacturer,
    )


def _parameters(prediction: Prediction, run: Run) -> list[str]:
    """Return by what a prediction came about: operating point, calibration, interval, and how radiomics were measured."""
    parameters = []
    if prediction.threshold is not None:  # a binary decision, which has Platt scaling (pipelines.models.manifest.Decision)
        operating = f"{100 * prediction.threshold:.4g} %, {prediction.threshold_rule}"
        parameters += [f"operating point={run.text(operating)}", "calibration=Platt"]
    if prediction.interval:
        parameters.append("ci=95 %")
    if blocks := run.context.spec.blocks_of(Radiomics):
        parameters.append(f"pyradiomics={run.context.pyradiomics_version}")
        parameters += dict.fromkeys(words for block in blocks for words in _discretisation(block))
    return parameters


def _discretisation(block: Radiomics) -> list[str]:
    """Return bin width and resampling of a block; the one does not matter to shape, and without the other the grid is the image's."""
    spacing = block.settings.get("resampledPixelSpacing")
    resampling = " x ".join(f"{mm:g}" if mm else "native" for mm in spacing) + " mm" if spacing else "none"  # 0 leaves an axis as it is
    if set(block.classes) == {"shape"}:
        return [f"resampling={resampling}"]
    return [f"binWidth={block.settings.get('binWidth', _DEFAULT_BIN_WIDTH):g}", f"resampling={resampling}"]


def percentage(name: Code, value: float, *, properties: sr.MeasurementProperties | None = None) -> sr.Measurement:
    """Return a NUM in percent."""
    return sr.Measurement(codes.concept(name), value, codes.concept(codes.PERCENT), properties=properties)


def number(name: Code, value: float) -> sr.Measurement:
    """Return a NUM with four significant digits in its usual unit."""
    return sr.Measurement(codes.concept(name), float(f"{value:.{_SIGNIFICANT_DIGITS}g}"), codes.concept(codes.units(name)[0]))


def measured(measurement: Measurement) -> sr.Measurement:
    """Return the NUM of a measurement with its method and derivation."""
    method, derivation = codes.METHODS.get(measurement.name.value), codes.DERIVATIONS.get(measurement.name.value)
    return sr.Measurement(
        codes.concept(measurement.name),
        float(f"{measurement.value:.{_SIGNIFICANT_DIGITS}g}"),
        codes.concept(measurement.unit),
        method=codes.concept(method) if method else None,
        derivation=codes.concept(derivation) if derivation else None,
    )


def probability(prediction: Prediction, *, name: Code) -> sr.Measurement:
    """Return the probability with its bounds as the widths of TID 310."""
    places, widths = wording.decimals(prediction), None
    value = wording.percent(prediction.probability, places)
    if prediction.interval:
        low, high = (wording.percent(bound, places) for bound in prediction.interval)
        widths = sr.MeasurementProperties(
            upper_measurement_uncertainty=round(high - value, places), lower_measurement_uncertainty=round(value - low, places)
        )
        for width in widths:  # highdicom gives them no unit; they have their number's
            width.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [codes.concept(codes.PERCENT)]
    return percentage(name, value, properties=widths)


def bounds(prediction: Prediction) -> list[sr.Measurement]:
    """Return the bounds of the probability as numbers of their own: viewers do not show widths."""
    finding, places = prediction.finding, wording.decimals(prediction)
    names = (codes.lower_bound(finding), codes.upper_bound(finding))
    return [percentage(n, wording.percent(b, places)) for n, b in zip(names, prediction.interval or (), strict=False)]


def threshold(prediction: Prediction, *, name: Code = codes.THRESHOLD) -> list[sr.Measurement]:
    """Return the decision threshold, where there is one."""
    places = wording.decimals(prediction)
    return [] if prediction.threshold is None else [percentage(name, wording.percent(prediction.threshold, places))]


def evaluate(name: Code, value: Code) -> sr.QualitativeEvaluation:
    """Return a question and its coded answer."""
    return sr.QualitativeEvaluation(codes.concept(name), codes.concept(value))


def text(name: Code, words: str, run: Run) -> sr.TextContentItem:
    """Return a note in words, as far as the character set has the letters."""
    return sr.TextContentItem(codes.concept(name), run.text(words), sr.RelationshipTypeValues.CONTAINS)


def with_notes(group: Group, *, head: Sequence[sr.ContentItem] = (), tail: Sequence[sr.ContentItem] = ()) -> Group:
    """Put notes after the tracking items and at the end of a measurement group."""
    content = group[0].ContentSequence
    for offset, item in enumerate(head):
        content.insert(_AFTER_TRACKING + offset, item)
    content.extend(tail)
    return group
