"""From a prediction and its evidence to the DICOM objects that go back to the archive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydicom import Dataset

from pipelines.errors import ResultError
from pipelines.types import Evidence, Prediction, Refusal, RoiOrigin
from structured_reports import canvas
from structured_reports.attributes import Run
from structured_reports.brief import Brief, Entry
from structured_reports.capture import build_captures, build_overview_page, build_refusal_captures
from structured_reports.check import check_objects
from structured_reports.context import ReportContext
from structured_reports.graphic import build_graphic
from structured_reports.language import DEFAULT, Messages, load_messages
from structured_reports.overview import make_brief
from structured_reports.report import build_refusal_report, build_report
from structured_reports.segmentation import build_segmentation
from structured_reports.source import (
    declare_utf_8,
    declared_character_set,
    fit_text,
    has_plain_identity,
    identity_digest,
    newest_time,
    normalise_source,
)
from structured_reports.uids import ResultKey, digest_arrays


def build_result(sources: Sequence[Dataset], prediction: Prediction, evidence: Evidence, context: ReportContext) -> list[Dataset]:
    """Return the result objects in the order in which to send them: captures, segmentation, graphic report, main report.

    Ultrasound has no segmentation: without patient coordinates it would break viewers.

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
    run = _make_run(
        roi_sources[0],
        sources,
        context,
        content=_content(evidence),
        model=(f"{prediction.system} {prediction.bundle_version}"[:64], prediction.bundle_digest),
        segmenter=evidence.segmenter,
    )
    first = list({source.SOPInstanceUID: normalise_source(source) for source in roi_sources}.values())  # frames share their instance
    segmented = {source.SOPInstanceUID for source in first}
    unsegmented = _in_order(source for source in sources if source.SOPInstanceUID not in segmented)
    references = [*first, *(normalise_source(source) for source in unsegmented)]
    captures = build_captures(prediction, evidence, run)
    seg = None if evidence.frame else build_segmentation(evidence, prediction, _run_of_region(run, evidence, prediction))
    graphic = [build_graphic(references, prediction, evidence, run)] if context.graphic else []
    report = build_report(references, prediction, evidence, run, seg=seg, others=[*graphic, *captures])
    objects = [*captures, *([seg] if seg else []), *graphic, report]
    check_objects(objects, [*roi_sources, *unsegmented], identity=roi_sources[0])
    return objects


def _run_of_region(run: Run, evidence: Evidence, prediction: Prediction) -> Run:
    """Return what the segmentation's identity rests on: the same region is the same object, whichever systems, versions and jobs use it.

    A region that was sent depends on no model of ours; one that a network drew, on that network, which several bundles may have. Its dates
    are those of its images.
    """
    roi, drawn = evidence.roi, evidence.roi.origin is RoiOrigin.MODEL
    image = evidence.volumes[roi.role]
    pixels = digest_arrays([roi.volume.array, image.volume.array])
    made_at = newest_time(image.sources)
    key = replace(
        run.key,
        source_sop_instance_uids=tuple(sorted({str(source.SOPInstanceUID) for source in image.sources})),
        content_digest="\x1f".join([pixels, roi.role, roi.origin, roi.description, roi.segment_algorithm_type]),
        model_digest=evidence.segmenter or "" if drawn else "",
        version=1,
        created_at="" if made_at else run.key.created_at,
        variant=f"{prediction.bundle_status} {identity_digest(run.source)}",
    )
    context = replace(run.context, created_at=made_at or run.context.created_at)
    return replace(run, context=context, key=key, model="", segmenter=run.segmenter if drawn else None)


def build_refusal(sources: Sequence[Dataset], refusal: Refusal, context: ReportContext) -> list[Dataset]:
    """Return what tells the radiologist that, and why, there is no result: a page, the drawing where one was refused, and the SR.

    ``sources`` are the headers of the study's instances. Of a study that mixes patients, only those of the first instance's patient
    are referred to.

    Raises
    ------
    ResultError
        There are no sources, or an object does not pass :func:`check_objects`.
    """
    if not sources:
        raise ResultError("a refusal needs at least one instance of the study")
    anchor = sources[0]
    same = [s for s in sources if all(s.get(k) == anchor.get(k) for k in ("PatientID", "StudyInstanceUID"))]
    words = "\x1f".join([refusal.system, refusal.code, str(refusal.failed), *refusal.reasons, "\x1e", *refusal.found])
    try:
        content = hashlib.sha256(words.encode()).hexdigest()
        run = _make_run(anchor, same, context, content=content, model=(refusal.system[:64], refusal.system))
        others = _in_order(source for source in same if source is not anchor)
        references = [normalise_source(source) for source in (anchor, *others)]
        image = next((source for source in references if "Rows" in source), references[0])
        pages = build_refusal_captures(refusal, image, run)
        objects = [*pages, build_refusal_report(references, refusal, run, others=pages)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # highdicom's words may quote the patient; their kind does not
        raise ResultError(f"the refusal of {refusal.system} cannot be written: {type(error).__name__}") from error
    check_objects(objects, same, identity=anchor)
    return objects


def brief_result(prediction: Prediction, evidence: Evidence, context: ReportContext) -> Brief:
    """Return what the overview of the study will say of a result, in the words of its pages."""
    source = normalise_source(evidence.volumes[evidence.roi.role].sources[0])
    return make_brief(context.spec, prediction, evidence, say=canvas.drawable(_choose_words(source, context)))


def build_overview(sources: Sequence[Dataset], entries: Sequence[Entry], context: ReportContext) -> list[Dataset]:
    """Return the page that shows the results of all systems of a study.

    ``sources`` are headers of the study's instances. The page refers to the first image, and carries its patient and study.

    Raises
    ------
    ResultError
        There are no sources, or the object does not pass :func:`check_objects`.
    """
    if not sources:
        raise ResultError("an overview needs at least one instance of the study")
    anchor = next((source for source in sources if "Rows" in source), sources[0])
    content = hashlib.sha256("\x1f".join(repr(entry) for entry in entries).encode()).hexdigest()
    run = _make_run(anchor, [anchor], context, content=content, model=("", ""))
    objects = [build_overview_page(entries, run)]
    check_objects(objects, [anchor], identity=anchor)
    return objects


def _make_run(
    anchor: Dataset,
    sources: Sequence[Dataset],
    context: ReportContext,
    *,
    content: str,
    model: tuple[str, str],
    segmenter: str | None = None,
) -> Run:
    """Return what the objects of one run have in common; ``model`` is its name and its digest."""
    source = normalise_source(anchor)
    say = _choose_words(source, context)
    key = ResultKey(
        study_instance_uid=str(anchor.StudyInstanceUID),
        source_sop_instance_uids=tuple(sorted(str(source.SOPInstanceUID) for source in sources)),
        content_digest=content,
        model_digest=model[1],
        software_version=context.software_version,
        station=context.station,
        version=context.version,
        created_at=context.created_at.isoformat(),
        variant=" ".join(
            [
                say.language,
                canvas.identify_font(say.language),
                str(context.graphic),
                str(context.bundle_status or ""),
                context.pyradiomics_version,
                identity_digest(source),
            ]
        ),
    )
    return Run(context=context, source=source, key=key, model=model[0], say=say, segmenter=segmenter)


def _choose_words(source: Dataset, context: ReportContext) -> Messages:
    """Return the words asked for where the character set has their letters, or can be UTF-8 without a byte of the identity changing."""
    say = load_messages(context.language)
    letters = "".join(sorted(set("".join(say.table.values()))))
    if fit_text(letters, declared_character_set(source)) == letters:
        return say
    if has_plain_identity(source):
        declare_utf_8(source)
        return say
    return load_messages(DEFAULT)


def _in_order(sources: Iterable[Dataset]) -> list[Dataset]:
    """Return the sources in an order that does not depend on how they arrived: equal UIDs must mean equal bytes."""
    return sorted(sources, key=lambda source: str(source.SOPInstanceUID))


def _content(evidence: Evidence) -> str:
    """Return a digest of pixels and roi, and of the clinical values where there are some."""
    pixels = digest_arrays([evidence.roi.volume.array, *(image.volume.array for image in evidence.volumes.values())])
    return "\x1f".join([pixels, *sorted(f"{v.name}={v.value!r} {v.source}" for v in evidence.clinical)])
