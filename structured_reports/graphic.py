"""The graphic report: the outline of the region with the numbers beside it, on the slice on which the region is largest.

A TID 1500 report of title 126000 whose every group has a polyline: viewers draw those, and OHIF shows a black viewport for a report of
this title with a single group that has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom.sr as sr
import numpy as np
from pydicom import Dataset

from pipelines.errors import ResultError
from pipelines.types import Evidence, FloatArray, Prediction, SeriesRole
from structured_reports import codes, wording
from structured_reports.attributes import GRAPHIC_SERIES, Run
from structured_reports.content import evaluate, measured, percentage, probability, threshold
from structured_reports.contour import trace_outline
from structured_reports.document import build_document, build_root
from structured_reports.images import key_image, key_slice
from structured_reports.measure import measure
from structured_reports.quality import judge
from structured_reports.segmentation import TUMOUR_TRACKING
from structured_reports.source import frame_numbers

_SIZES = [code.value for code in (codes.LONG_AXIS, codes.SHORT_AXIS, codes.VOLUME)]  # what follows probability and threshold


def build_graphic(sources: Sequence[Dataset], prediction: Prediction, evidence: Evidence, run: Run) -> Dataset:
    """Return ``sr_gfx`` of a finished run. ``sources`` as in :func:`structured_reports.report.build_report`."""
    image = key_image(evidence, evidence.roi.role)
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=_outline(evidence),
        source_image=sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, frame_numbers(image)),
    )
    # OHIF tells outlines apart by their Tracking UID alone: of a shared one it shows the numbers of whichever report was opened last.
    own = run.key.uid("tracking", "sr_gfx")
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=own, identifier=TUMOUR_TRACKING),
        referenced_region=region,
        finding_type=codes.concept(codes.NEOPLASM_PRIMARY),
        # No finding site, which the main report has: OHIF would write "363698007: Cervix uteri" where a number is missing.
        measurements=_numbers(prediction, evidence, run.context.version),
        qualitative_evaluations=[evaluate(codes.ROI_ORIGIN, codes.ROI_ORIGINS[evidence.roi.origin])],
    )
    status = prediction.bundle_status
    notice = wording.notice(run.context, status, run.say)
    root = build_root(run, [group], title=codes.GRAPHIC_TITLE, notice=notice, library=None)
    description = wording.series_description(prediction.finding, "ROI", version=run.context.version, status=status)
    missing = judge(prediction, evidence, run.source, run.say).missing
    return build_document(
        root, sources, run, kind="sr_gfx", series_number=GRAPHIC_SERIES, description=description, missing=missing, graphic=True
    )


def _numbers(prediction: Prediction, evidence: Evidence, version: int) -> list[sr.Measurement]:
    """Return the numbers beside the outline, those that a reader wants first: OHIF shows the first five, and nothing else of a report.

    Of several classes the second one names the most probable, as viewers do not show coded answers here either.
    """
    top, finding = wording.most_probable(prediction), prediction.finding
    limit = codes.THRESHOLD_WITHHELD if prediction.call == "withheld" else codes.THRESHOLD
    sizes = sorted(measure(evidence), key=lambda m: _SIZES.index(m.name.value) if m.name.value in _SIZES else len(_SIZES))
    return [
        probability(prediction, name=codes.beside_outline(finding, prediction.bundle_status, version=version)),
        *([percentage(codes.outcome_probability(finding, top), wording.share(top.probability))] if top else []),
        *threshold(prediction, name=limit),
        *(measured(m) for m in sizes),
    ]


def _outline(evidence: Evidence) -> FloatArray:
    """Return the region's outline in (column, row) of the whole image; of ultrasound, the model saw a part of it only."""
    role = evidence.roi.role
    mask = evidence.rois[role].array[key_slice(evidence, role)]
    if not np.any(mask):
        raise ResultError(f"roi on {role} is empty: there is nothing to draw")
    outline = trace_outline(mask)
    if evidence.frame and role is SeriesRole.TVUS:
        top, left = evidence.frame.box[:2]
        outline = outline + np.array([left, top], dtype=float)
    return outline
