"""The main structured report: PS3.16 TID 1500, in the order in which a radiologist asks.

What does it say, where is the tumour, why does it say so, can I trust it. Every container is SEPARATE, because viewers drop the concept
names of CONTINUOUS ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import highdicom.sr as sr
import numpy as np
from highdicom.seg import Segmentation
from pydicom import Dataset

from pipelines.types import Code, Evidence, Measurement, Prediction, Refusal, RoiOrigin, SeriesRole
from structured_reports import codes, wording
from structured_reports.attributes import Run
from structured_reports.document import build_document, build_root
from structured_reports.segmentation import TUMOUR_TRACKING, tumour_tracking_uid
from structured_reports.source import frame_numbers, has_undeclared_text, normalise_source
from structured_reports.uids import derive_uid

_CONTAINS = sr.RelationshipTypeValues.CONTAINS
_CONTEXT = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
_SIGNIFICANT_DIGITS = 4
_AFTER_TRACKING = 2  # content items: Tracking Identifier and Tracking Unique Identifier come first in TID 1501 and 1411


def build_report(sources: Sequence[Dataset], prediction: Prediction, evidence: Evidence, run: Run, *, seg: Segmentation) -> Dataset:
    """Return ``sr_main`` of a finished run.

    Parameters
    ----------
    sources
        Every source instance, normalised, those of the series that carries the roi first.
    seg
        The segmentation that the tumour's measurements refer to.
    """
    usable = [m for m in evidence.measurements if math.isfinite(m.value)]
    groups = [
        _prediction_group(prediction, evidence, run),
        _tumour_group(usable, prediction, evidence, run, seg),
        _contribution_group(prediction, evidence, run),
        _quality_group(prediction, evidence, run),
    ]
    notice = wording.notice(run.context, prediction.bundle_status)
    root = build_root(run, [g for g in groups if g is not None], notice=notice, library=_image_library(evidence))
    description = wording.series_description(prediction.finding, "", version=run.context.version, status=prediction.bundle_status)
    return build_document(root, [*sources, seg], run, description=description)


def build_refusal_report(sources: Sequence[Dataset], refusal: Refusal, run: Run) -> Dataset:
    """Return the short SR that says that, and why, there is no result."""
    word = "FAILED" if refusal.failed else "REFUSED"
    name = codes.stem(run.context.spec.finding)
    head = [
        _text(codes.COMMENT, f"NO RESULT - {word}. {refusal.title} was not computed. This is not a negative result.", run),
        *(_text(codes.REASON, reason, run) for reason in refusal.reasons),
    ]
    tail = [_text(codes.FOUND, line, run) for line in refusal.found]
    evaluations = [
        _evaluate(codes.REFUSAL, codes.REFUSALS.get(refusal.code, codes.REFUSAL_OTHER)),
        _evaluate(codes.RUN_STATUS, codes.NONE_SUCCEEDED),
    ]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(f"{name} {word}", run),
        finding_sites=[sr.FindingSite(codes.concept(run.context.spec.site))],
        qualitative_evaluations=evaluations,
    )
    root = build_root(run, [_with_notes(group, head=head, tail=tail)], notice=wording.notice(run.context), library=None)
    description = wording.series_description(run.context.spec.finding, word, version=run.context.version)
    return build_document(root, sources, run, description=description)


def key_slice(evidence: Evidence, role: SeriesRole) -> int:
    """Return the index of the slice on which the roi is largest."""
    return int(np.argmax(np.count_nonzero(evidence.rois[role].array, axis=(1, 2))))


def risk(prediction: Prediction) -> Code | None:
    """Return the risk category: low or high on either side of the threshold, moderate where the interval spans it.

    Without an interval there is none, as it would say no more than the call.
    """
    if not prediction.interval:
        return None
    if prediction.interval[0] < prediction.threshold <= prediction.interval[1]:
        return codes.MODERATE_RISK
    return codes.HIGH_RISK if prediction.call == "positive" else codes.LOW_RISK


def _prediction_group(prediction: Prediction, evidence: Evidence, run: Run) -> sr.MeasurementsAndQualitativeEvaluations:
    spec, finding = run.context.spec, prediction.finding
    # A negative call states no finding: readers that skip the numbers would otherwise see a metastasis.
    kind = codes.FINDING_TYPES.get(finding.value) if prediction.call == "positive" else None
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(codes.stem(finding), run),
        finding_type=codes.concept(kind) if kind else None,
        finding_sites=[sr.FindingSite(codes.concept(spec.site))],
        algorithm_id=_algorithm(prediction, run),
        measurements=_probabilities(prediction),
        qualitative_evaluations=[
            _evaluate(codes.CALL, codes.call_value(finding, prediction.call, run.text(wording.call_words(spec, prediction)))),
            *([_evaluate(codes.RISK, category)] if (category := risk(prediction)) else []),
        ],
    )
    words = f"{wording.banner(prediction.bundle_status)}. {prediction.title}. {wording.summary(spec, prediction)}"
    images = [
        sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID, frame_numbers(image))
        for image in _key_images(evidence).values()
    ]
    return _with_notes(group, head=[_text(codes.COMMENT, words, run)], tail=images)


def _probabilities(prediction: Prediction) -> list[sr.Measurement]:
    """Return probability and threshold, and the bounds as the widths of TID 310 and as numbers of their own, which viewers show."""
    finding, places = prediction.finding, wording.decimals(prediction)
    value, threshold = (wording.percent(p, places) for p in (prediction.probability, prediction.threshold))
    if not prediction.interval:
        return [_percentage(finding, value), _percentage(codes.THRESHOLD, threshold)]
    low, high = (wording.percent(bound, places) for bound in prediction.interval)
    widths = sr.MeasurementProperties(
        upper_measurement_uncertainty=round(high - value, places), lower_measurement_uncertainty=round(value - low, places)
    )
    return [
        _percentage(finding, value, properties=widths),
        _percentage(codes.lower_bound(finding), low),
        _percentage(codes.upper_bound(finding), high),
        _percentage(codes.THRESHOLD, threshold),
    ]


def _tumour_group(
    measurements: Iterable[Measurement], prediction: Prediction, evidence: Evidence, run: Run, seg: Segmentation
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    by_model = evidence.roi.origin is RoiOrigin.MODEL
    series = evidence.volumes[evidence.roi.role].header.series_instance_uid
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tumour_tracking_uid(run.source.StudyInstanceUID), identifier=TUMOUR_TRACKING),
        referenced_segment=sr.ReferencedSegment(
            seg.SOPClassUID, seg.SOPInstanceUID, segment_number=1, source_series=sr.SourceSeriesForSegmentation(series)
        ),
        finding_type=codes.concept(codes.NEOPLASM_PRIMARY),
        finding_category=codes.concept(codes.MORPHOLOGICALLY_ABNORMAL),
        finding_sites=[sr.FindingSite(codes.concept(codes.CERVIX))],
        algorithm_id=_algorithm(prediction, run, segmenter=evidence.segmenter) if by_model else None,
        measurements=[_measured(m) for m in measurements],
        qualitative_evaluations=[_evaluate(codes.ROI_ORIGIN, codes.ROI_ORIGINS[evidence.roi.origin])],
    )


def _contribution_group(prediction: Prediction, evidence: Evidence, run: Run) -> sr.MeasurementsAndQualitativeEvaluations | None:
    top = [c for c in evidence.contributions if math.isfinite(c.log_odds)][: run.context.spec.top_contributions]
    if not top:
        return None
    finding = prediction.finding
    numbers = [
        _number(codes.contribution(finding, f"{c.group}:{c.feature}", run.text(wording.feature_words(c))), c.log_odds, codes.NO_UNITS)
        for c in top
    ]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(f"{codes.stem(finding)} explanation", run), measurements=numbers
    )
    words = (
        f"Why: the {len(top)} largest of {len(evidence.contributions)} feature contributions (Shapley values, log-odds). "
        "Positive speaks for the finding, negative against it."
    )
    return _with_notes(group, head=[_text(codes.COMMENT, words, run)])


def _quality_group(prediction: Prediction, evidence: Evidence, run: Run) -> sr.MeasurementsAndQualitativeEvaluations:
    omitted = [m.name.meaning for m in evidence.measurements if not math.isfinite(m.value)]
    omitted += [wording.feature_words(c) for c in evidence.contributions if not math.isfinite(c.log_odds)]
    flags = list(prediction.flags)
    if has_undeclared_text(run.source):
        flags.append("The patient's name has characters that the source does not declare; it was passed on byte by byte.")
    evaluations = [_evaluate(codes.SERIES_QUALITY, codes.LIMITED_QUALITY)] if flags else []
    evaluations.append(_evaluate(codes.RUN_STATUS, codes.SOME_WITH_FINDINGS if omitted else codes.ALL_WITH_FINDINGS))
    notes = [(codes.FLAG, flag) for flag in flags]
    notes += [(codes.OMITTED, f"{name}: not a finite number") for name in omitted]
    notes += [(codes.series_used(role), wording.series_words(image)) for role, image in evidence.volumes.items()]
    notes.append((codes.ROI_NOTE, f"{wording.region_words(evidence)}; {evidence.roi.description}"))
    if evidence.segmenter:
        notes.append((codes.SEGMENTER, evidence.segmenter))
    notes += [(codes.CLINICAL, wording.clinical_words(value)) for value in evidence.clinical]
    notes.append((codes.MODEL, wording.model_identity(prediction)))
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("QC", run),
        finding_sites=[sr.FindingSite(codes.concept(codes.PELVIS))],
        qualitative_evaluations=evaluations,
    )
    return _with_notes(group, tail=[_text(name, words, run) for name, words in notes])


def _image_library(evidence: Evidence) -> sr.ContainerContentItem:
    """Return TID 1600 with one key image per used series, by modality and role only: a radiologist has the images themselves."""
    group = sr.ContainerContentItem(codes.concept(codes.IMAGE_LIBRARY_GROUP), relationship_type=_CONTAINS)
    group.ContentSequence = sr.ContentSequence()
    for role, image in _key_images(evidence).items():
        item = sr.ImageContentItem(
            codes.concept(codes.SOURCE), image.SOPClassUID, image.SOPInstanceUID, frame_numbers(image), relationship_type=_CONTAINS
        )
        item.ContentSequence = sr.ContentSequence()
        modality = codes.MODALITIES.get(image.Modality)
        described = [(codes.MODALITY, modality), (codes.SERIES_ROLE, codes.ROLES.get(role))]
        for name, value in described:
            if value:
                item.ContentSequence.append(sr.CodeContentItem(codes.concept(name), codes.concept(value), _CONTEXT))
        group.ContentSequence.append(item)
    library = sr.ContainerContentItem(codes.concept(codes.IMAGE_LIBRARY), relationship_type=_CONTAINS)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _key_images(evidence: Evidence) -> dict[SeriesRole, Dataset]:
    return {role: normalise_source(image.sources[key_slice(evidence, role)]) for role, image in evidence.volumes.items()}


def _algorithm(prediction: Prediction, run: Run, *, segmenter: str | None = None) -> sr.AlgorithmIdentification:
    """Return TID 4019; the status comes first, because some readers keep only the first parameter."""
    return sr.AlgorithmIdentification(
        name=segmenter or prediction.system,
        version=f"{prediction.bundle_version} {prediction.bundle_digest[:16]}",
        parameters=[
            f"status={prediction.bundle_status}",
            *([] if segmenter else [f"threshold rule={run.text(prediction.threshold_rule)}"]),
        ],
        family=codes.concept(codes.AI),
        manufacturer=run.context.manufacturer,
    )


def _tracking(name: str, run: Run) -> sr.TrackingIdentifier:
    """Name a group; OHIF throws on groups without a tracking UID."""
    uid = derive_uid("tracking", run.source.StudyInstanceUID, run.context.spec.name, name)
    return sr.TrackingIdentifier(uid=uid, identifier=name)


def _percentage(name: Code, value: float, *, properties: sr.MeasurementProperties | None = None) -> sr.Measurement:
    return sr.Measurement(codes.concept(name), value, codes.concept(codes.PERCENT), properties=properties)


def _number(name: Code, value: float, unit: Code) -> sr.Measurement:
    return sr.Measurement(codes.concept(name), float(f"{value:.{_SIGNIFICANT_DIGITS}g}"), codes.concept(unit))


def _measured(measurement: Measurement) -> sr.Measurement:
    method, derivation = codes.METHODS.get(measurement.name.value), codes.DERIVATIONS.get(measurement.name.value)
    return sr.Measurement(
        codes.concept(measurement.name),
        float(f"{measurement.value:.{_SIGNIFICANT_DIGITS}g}"),
        codes.concept(measurement.unit),
        method=codes.concept(method) if method else None,
        derivation=codes.concept(derivation) if derivation else None,
    )


def _evaluate(name: Code, value: Code) -> sr.QualitativeEvaluation:
    return sr.QualitativeEvaluation(codes.concept(name), codes.concept(value))


def _text(name: Code, words: str, run: Run) -> sr.TextContentItem:
    return sr.TextContentItem(codes.concept(name), run.text(words), _CONTAINS)


def _with_notes(
    group: sr.MeasurementsAndQualitativeEvaluations,
    *,
    head: Sequence[sr.ContentItem] = (),
    tail: Sequence[sr.ContentItem] = (),
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Put notes after the tracking items and at the end of a measurement group."""
    content = group[0].ContentSequence
    for offset, item in enumerate(head):
        content.insert(_AFTER_TRACKING + offset, item)
    content.extend(tail)
    return group
