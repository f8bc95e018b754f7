"""From a prediction and its evidence to the DICOM objects that go back to the archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydicom import Dataset

from pipelines.errors import ResultError
from pipelines.types import Evidence, Prediction, Refusal
from structured_reports.attributes import Run
from structured_reports.capture import build_captures
from structured_reports.check import check_objects
from structured_reports.context import ReportContext
from structured_reports.report import build_refusal_report, build_report
from structured_reports.segmentation import build_segmentation
from structured_reports.source import normalise_source
from structured_reports.uids import ResultKey, digest_arrays


def build_result(sources: Sequence[Dataset], prediction: Prediction, evidence: Evidence, context: ReportContext) -> list[Dataset]:
    """Return the result objects in the order in which to send them: captures, segmentation, report.

    Parameters
    ----------
    sources
        Headers of every instance that the result rests on: at least those of ``evidence.volumes``, and the object that gave the roi.
        They are not altered.

    Raises
    ------
    ResultError
        An object cannot be built, or does not pass :func:`check_objects`.
    """
    roi_sources = evidence.volumes[evidence.roi.role].sources
    run = Run(
        context=context,
        source=normalise_source(roi_sources[0]),
        key=_key(roi_sources[0], sources, context, content=_content(evidence), model=prediction.bundle_digest),
        model=f"{prediction.system} {prediction.bundle_version}"[:64],
    )
    first = list({source.SOPInstanceUID: normalise_source(source) for source in roi_sources}.values())  # frames share their instance
    segmented = {source.SOPInstanceUID for source in first}
    others = [normalise_source(source) for source in sources if source.SOPInstanceUID not in segmented]
    captures = build_captures(prediction, evidence, run)
    seg = build_segmentation(evidence, prediction, run)
    report = build_report([*first, *others], prediction, evidence, run, seg=seg)
    objects = [*captures, seg, report]
    unsegmented = [source for source in sources if source.SOPInstanceUID not in segmented]
    check_objects(objects, [*roi_sources, *unsegmented], identity=roi_sources[0])
    return objects


def build_refusal(sources: Sequence[Dataset], refusal: Refusal, context: ReportContext) -> list[Dataset]:
    """Return the SR that tells the radiologist that, and why, there is no result.

    ``sources`` are the headers of the study's instances. Of a study that mixes patients, only those of the first instance's patient
    are referred to.

    Raises
    ------
    ResultError
        There are no sources, or the object does not pass :func:`check_objects`.
    """
    if not sources:
        raise ResultError("a refusal needs at least one instance of the study")
    anchor = sources[0]
    same = [s for s in sources if all(s.get(k) == anchor.get(k) for k in ("PatientID", "StudyInstanceUID"))]
    words = "\x1f".join([refusal.system, refusal.code, str(refusal.failed), *refusal.reasons, "\x1e", *refusal.found])
    try:
        run = Run(
            context=context,
            source=normalise_source(anchor),
            key=_key(anchor, same, context, content=hashlib.sha256(words.encode()).hexdigest(), model=refusal.system),
            model=refusal.system[:64],
        )
        objects = [build_refusal_report([normalise_source(source) for source in same], refusal, run)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # highdicom's words may quote the patient; their kind does not
        raise ResultError(f"the refusal of {refusal.system} cannot be written: {type(error).__name__}") from error
    check_objects(objects, same, identity=anchor)
    return objects


def _content(evidence: Evidence) -> str:
    """Return a digest of pixels and roi, and of the clinical values where there are some."""
    pixels = digest_arrays([evidence.roi.volume.array, *(image.volume.array for image in evidence.volumes.values())])
    return "\x1f".join([pixels, *sorted(f"{v.name}={v.value!r} {v.source}" for v in evidence.clinical)])


def _key(anchor: Dataset, sources: Sequence[Dataset], context: ReportContext, *, content: str, model: str) -> ResultKey:
    return ResultKey(
        study_instance_uid=str(anchor.StudyInstanceUID),
        source_sop_instance_uids=tuple(sorted(str(source.SOPInstanceUID) for source in sources)),
        content_digest=content,
        model_digest=model,
        software_version=context.software_version,
        station=context.station,
        version=context.version,
    )
