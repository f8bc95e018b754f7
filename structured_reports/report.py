"""The main structured report (PS3.16 TID 1500), and the short one that says why there is no result.

Every container is SEPARATE, because viewers drop the concept names of CONTINUOUS ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom.sr as sr
from highdicom.seg import Segmentation
from pydicom import Dataset

from pipelines.imaging.diffusion import b_value
from pipelines.types import Evidence, Prediction, Refusal, SeriesRole
from structured_reports import codes, wording
from structured_reports.attributes import SR_SERIES, Run
from structured_reports.content import Group, evaluate, text, track, with_notes
from structured_reports.document import build_document, build_root
from structured_reports.groups import class_group, contribution_group, prediction_group, quality_group, tumour_group
from structured_reports.images import key_image, key_slice
from structured_reports.quality import judge, judge_refusal, judge_text
from structured_reports.refusal import state_words
from structured_reports.source import frame_numbers

_CONTAINS = sr.RelationshipTypeValues.CONTAINS
_CONTEXT = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
_MAX_NAME = 64  # characters of a pulse sequence's name


def build_report(
    sources: Sequence[Dataset], prediction: Prediction, evidence: Evidence, run: Run, *, seg: Segmentation | None, others: Sequence[Dataset]
) -> Dataset:
    """Return ``sr_main`` of a finished run.

    Parameters
    ----------
    sources
        Every source instance, normalised, those of the series that carries the roi first.
    seg
        The segmentation that the tumour's measurements refer to, where there is one.
    others
        The other objects of the run, which it lists as evidence.
    """
    groups = [
        prediction_group(prediction, evidence, run),
        class_group(prediction, run),
        tumour_group(prediction, evidence, run, seg=seg),
        contribution_group(prediction, evidence, run),
        quality_group(prediction, evidence, run),
    ]
    status = prediction.bundle_status
    root = build_root(
        run,
        [g for g in groups if g is not None],
        title=codes.TITLE,
        notice=wording.notice(run.context, status, run.say),
        library=_image_library(evidence),
    )
    description = wording.series_description(prediction.finding, "", version=run.context.version, status=status)
    results = [*([seg] if seg else []), *others]
    missing = judge(prediction, evidence, run.source, run.say).missing
    return build_document(
        root, [*sources, *results], run, kind="sr_main", series_number=SR_SERIES, description=description, missing=missing
    )


def build_refusal_report(sources: Sequence[Dataset], refusal: Refusal, run: Run, *, others: Sequence[Dataset]) -> Dataset:
    """Return the short SR that says that, and why, there is no result; ``others`` are objects that show it."""
    word, context = wording.refusal_word(refusal), run.context
    state = state_words(refusal, run.say)
    name, title = codes.stem(context.spec.finding), wording.title(refusal.system, refusal.title, run.say)
    head = [
        text(codes.COMMENT, run.say("result.no_result", word=state, title=title), run),
        *(text(codes.REASON, run.say.translate(reason), run) for reason in refusal.reasons),
    ]
    tail = [text(codes.FOUND, line, run) for line in refusal.found]
    tail += [text(codes.FLAG, flag, run) for flag in judge_text(run.source, run.say)]
    evaluations = [
        evaluate(codes.USE, codes.RUO),
        evaluate(codes.REFUSAL, codes.REFUSALS.get(refusal.code, codes.REFUSAL_OTHER)),
        *([evaluate(codes.SERIES_QUALITY, codes.NON_DIAGNOSTIC_QUALITY)] if refusal.code in codes.UNREADABLE else []),
        *(evaluate(codes.QUALITY_FINDING, finding) for finding in judge_refusal(refusal)),
        evaluate(codes.RUN_STATUS, codes.ALL_WITHOUT_FINDINGS if _found_nothing(refusal) else codes.NONE_SUCCEEDED),
    ]
    group = Group(
        tracking_identifier=track(f"{name} {word}", run),
        finding_sites=[sr.FindingSite(codes.concept(context.spec.site))],
        qualitative_evaluations=evaluations,
    )
    notice = wording.notice(context, context.bundle_status, run.say)
    root = build_root(run, [with_notes(group, head=head, tail=tail)], title=codes.TITLE, notice=notice, library=None)
    description = wording.series_description(context.spec.finding, word, version=context.version, status=context.bundle_status)
    return build_document(
        root,
        [*sources, *others],
        run,
        kind="sr_main",
        series_number=SR_SERIES,
        description=description,
        missing=f"{word}: there is no result",
    )


def _found_nothing(refusal: Refusal) -> bool:
    """Tell whether all that ran succeeded: the segmentation network saw the images and marked no tumour."""
    return refusal.drawing is not None and not refusal.drawing.mask.array.any()


def _image_library(evidence: Evidence) -> sr.ContainerContentItem:
    """Return TID 1600 with one key image per used series: a radiologist has the images themselves."""
    group = sr.ContainerContentItem(codes.concept(codes.IMAGE_LIBRARY_GROUP), relationship_type=_CONTAINS)
    group.ContentSequence = sr.ContentSequence([_entry(evidence, role) for role in evidence.volumes])
    library = sr.ContainerContentItem(codes.concept(codes.IMAGE_LIBRARY), relationship_type=_CONTAINS)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _entry(evidence: Evidence, role: SeriesRole) -> sr.ImageContentItem:
    """Return the key image with modality, role, b-value and pulse sequence (TID 1602, 1604)."""
    image, raw = key_image(evidence, role), evidence.volumes[role].sources[key_slice(evidence, role)]
    item = sr.ImageContentItem(
        codes.concept(codes.SOURCE), image.SOPClassUID, image.SOPInstanceUID, frame_numbers(image), relationship_type=_CONTAINS
    )
    item.ContentSequence = sr.ContentSequence()
    for name, value in ((codes.MODALITY, codes.MODALITIES.get(image.Modality)), (codes.SERIES_ROLE, codes.ROLES.get(role))):
        if value:
            item.ContentSequence.append(sr.CodeContentItem(codes.concept(name), codes.concept(value), _CONTEXT))
    b = b_value(raw) if role is SeriesRole.DWI else None
    if b is not None:
        measured = sr.NumContentItem(codes.concept(codes.B_VALUE), b, codes.concept(codes.S_PER_MM2), relationship_type=_CONTEXT)
        item.ContentSequence.append(measured)
    if (sequence := str(raw.get("SequenceName") or "")[:_MAX_NAME]) and sequence.isascii():
        item.ContentSequence.append(sr.TextContentItem(codes.concept(codes.PULSE_SEQUENCE), sequence, _CONTEXT))
    return item
