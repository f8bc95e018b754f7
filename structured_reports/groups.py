"""The measurement groups of the main report, in the order in which a radiologist asks.

What does it say, where is the tumour, why does it say so, can I trust it.
"""

from __future__ import annotations

import math

import highdicom.sr as sr
from highdicom.seg import Segmentation

from pipelines.types import Code, Evidence, Outcome, Prediction, RoiOrigin
from structured_reports import codes, wording
from structured_reports.attributes import Run
from structured_reports.content import (
    Group,
    bounds,
    evaluate,
    identify_algorithm,
    measured,
    number,
    percentage,
    probability,
    text,
    threshold,
    track,
    with_notes,
)
from structured_reports.images import key_images
from structured_reports.language import DEFAULT, load_messages
from structured_reports.measure import measure
from structured_reports.quality import judge
from structured_reports.segmentation import TUMOUR_TRACKING, tumour_tracking_uid
from structured_reports.source import frame_numbers

_MAX_CONTRIBUTIONS = 5  # more are no explanation; the capture shows as many as the system declares
_CODED = load_messages(DEFAULT)  # coded meanings stay English


def risk(prediction: Prediction) -> Code | None:
    """Return the risk category: low or high on either side of the threshold, moderate where the interval spans it.

    Without an interval there is none, as it would say no more than the call; nor where there is no call.
    """
    if not prediction.interval or prediction.threshold is None or prediction.call not in ("positive", "negative"):
        return None
    if prediction.interval[0] < prediction.threshold <= prediction.interval[1]:
        return codes.MODERATE_RISK
    return codes.HIGH_RISK if prediction.call == "positive" else codes.LOW_RISK


def prediction_group(prediction: Prediction, evidence: Evidence, run: Run) -> Group:
    """Return the result: probability, bounds, threshold and call, or the most probable class."""
    spec, finding, say = run.context.spec, prediction.finding, run.say
    # A negative call states no finding: readers that skip the numbers would otherwise see a metastasis.
    kind = codes.FINDING_TYPES.get(finding.value) if prediction.call == "positive" else None
    category, others = risk(prediction), [o for o in prediction.outcomes if o.kind in ("alternative", "without")]
    group = Group(
        tracking_identifier=track(codes.stem(finding), run),
        finding_type=codes.concept(kind) if kind else None,
        finding_sites=[sr.FindingSite(codes.concept(spec.site))],
        algorithm_id=identify_algorithm(prediction, run),
        measurements=[
            probability(prediction, name=finding),
            *bounds(prediction),
            *threshold(prediction),
            *_outcome_numbers(prediction, others),
            *_total_points(evidence),
        ],
        qualitative_evaluations=[
            evaluate(codes.USE, codes.RUO),
            _call(prediction, run),
            *([evaluate(codes.RISK, category)] if category else []),
        ],
    )
    title = wording.title(spec.name, prediction.title, say)
    flags = judge(prediction, evidence, run.source, say).flags
    told = (wording.summary(spec, prediction, say), wording.summary_of_input(measure(evidence), evidence.roi, len(flags), say))
    words = " ".join([f"{wording.banner(prediction.bundle_status, say)}. {title}.", *told])
    limits = [text(codes.LIMIT, line, run) for line in wording.limits(prediction, say)]
    images = [
        sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID, frame_numbers(image))
        for image in key_images(evidence).values()
    ]
    return with_notes(group, head=[text(codes.COMMENT, words, run), *limits], tail=images)


def _call(prediction: Prediction, run: Run) -> sr.QualitativeEvaluation:
    top = wording.most_probable(prediction)
    if prediction.call == "class" and top:
        return evaluate(codes.CLASS, codes.ICD_O.get(top.code.value, top.code))
    words = wording.call_words(run.context.spec, prediction, _CODED)
    return evaluate(codes.CALL, codes.call_value(prediction.finding, prediction.call, run.text(words)))


def _outcome_numbers(prediction: Prediction, outcomes: list[Outcome]) -> list[sr.Measurement]:
    return [
        percentage(codes.outcome_probability(prediction.finding, o), (wording.share if o.kind == "class" else _percent)(o.probability))
        for o in outcomes
    ]


def _percent(probability: float) -> float:
    return wording.percent(probability, 1)


def _total_points(evidence: Evidence) -> list[sr.Measurement]:
    return [number(codes.POINTS, sum(row.points for row in evidence.nomogram))] if evidence.nomogram else []


def class_group(prediction: Prediction, run: Run) -> Group | None:
    """Return the probabilities of axes and classes, and which classes the model cannot predict."""
    outcomes = [o for kind in ("axis", "class") for o in prediction.outcomes if o.kind == kind]
    if not outcomes:
        return None
    group = Group(
        tracking_identifier=track(f"{codes.stem(prediction.finding)} classes", run),
        measurements=_outcome_numbers(prediction, outcomes),
    )
    lacking = [text(codes.UNPREDICTABLE, words, run) for words in prediction.unpredictable]
    return with_notes(group, tail=lacking)


def tumour_group(prediction: Prediction, evidence: Evidence, run: Run, *, seg: Segmentation | None) -> Group:
    """Return the tumour's measurements, with the segment that they are of where there is one (TID 1411, else TID 1501)."""
    roi = evidence.roi
    by_model = roi.origin is RoiOrigin.MODEL
    described = {
        "tracking_identifier": sr.TrackingIdentifier(uid=tumour_tracking_uid(run.source.StudyInstanceUID), identifier=TUMOUR_TRACKING),
        "finding_type": codes.concept(codes.NEOPLASM_PRIMARY),
        "finding_category": codes.concept(codes.MORPHOLOGICALLY_ABNORMAL),
        "finding_sites": [sr.FindingSite(codes.concept(codes.CERVIX))],
        "algorithm_id": identify_algorithm(prediction, run, segmenter=evidence.segmenter) if by_model else None,
        "measurements": [measured(m) for m in measure(evidence)],
        "qualitative_evaluations": [evaluate(codes.ROI_ORIGIN, codes.ROI_ORIGINS[roi.origin])],
    }
    if seg is None:
        return Group(**described)
    source = sr.SourceSeriesForSegmentation(evidence.volumes[roi.role].header.series_instance_uid)
    segment = sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, segment_number=1, source_series=source)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **described)


def contribution_group(prediction: Prediction, evidence: Evidence, run: Run) -> Group | None:
    """Return the largest Shapley values."""
    top = [c for c in evidence.contributions if math.isfinite(c.log_odds)][:_MAX_CONTRIBUTIONS]
    if not top:
        return None
    finding = prediction.finding
    names = [codes.contribution(finding, f"{c.group}:{c.feature}", run.text(wording.feature_words(c, _CODED))) for c in top]
    group = Group(
        tracking_identifier=track(f"{codes.stem(finding)} explanation", run),
        measurements=[number(name, c.log_odds) for name, c in zip(names, top, strict=True)],
    )
    words = run.say("why.summary", count=len(top), total=len(evidence.contributions))
    return with_notes(group, head=[text(codes.COMMENT, words, run)])


def quality_group(prediction: Prediction, evidence: Evidence, run: Run) -> Group:
    """Return what stands in the way of relying on the result, what it was made of, and by which model."""
    say = run.say
    quality = judge(prediction, evidence, run.source, say)
    evaluations = [evaluate(codes.SERIES_QUALITY, codes.LIMITED_QUALITY)] if quality.flags else []
    evaluations += [evaluate(codes.QUALITY_FINDING, finding) for finding in quality.findings]
    evaluations.append(evaluate(codes.RUN_STATUS, codes.SOME_WITH_FINDINGS if quality.omitted else codes.ALL_WITH_FINDINGS))
    notes = [(codes.FLAG, flag) for flag in quality.flags]
    notes += [(codes.OMITTED, words) for words in quality.omitted]
    notes += [(codes.series_used(role), wording.series_words(image)) for role, image in evidence.volumes.items()]
    notes.append((codes.ROI_NOTE, f"{wording.region_words(evidence.roi, say)}; {say.translate(evidence.roi.description)}"))
    if evidence.segmenter:
        notes.append((codes.SEGMENTER, evidence.segmenter))
    notes += [(codes.CLINICAL, wording.clinical_words(value, say)) for value in evidence.clinical]
    notes += [
        (
            codes.NOMOGRAM,
            say("nomogram.line", title=wording.row_title(row, say), value=f"{row.value:g} {row.unit}".rstrip(), points=f"{row.points:.0f}"),
        )
        for row in evidence.nomogram
    ]
    notes.append((codes.MODEL, wording.model_identity(prediction, say)))
    group = Group(
        tracking_identifier=track("QC", run),
        finding_sites=[sr.FindingSite(codes.concept(codes.PELVIS))],
        qualitative_evaluations=evaluations,
    )
    return with_notes(group, tail=[text(name, words, run) for name, words in notes])
