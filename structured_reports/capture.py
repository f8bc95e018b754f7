"""Pages as single-frame RGB Secondary Captures: the one kind of object that practically every viewer shows (PS3.3 A.8)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from pipelines.types import BundleStatus, Drawing, Evidence, Prediction, Refusal
from structured_reports import codes, wording
from structured_reports.attributes import KEY_SLICE, OVERVIEW_SERIES, SC_SERIES, Run, stamp
from structured_reports.brief import Entry
from structured_reports.canvas import drawable
from structured_reports.classes import draw_classes
from structured_reports.heatmap import draw_heatmap, draw_unusable
from structured_reports.images import key_image, key_slice
from structured_reports.nomogram import draw_nomogram
from structured_reports.overview import draw_overview
from structured_reports.quality import judge
from structured_reports.refusal import draw_refusal
from structured_reports.source import frame_numbers, normalise_source
from structured_reports.summary import draw_summary
from structured_reports.waterfall import draw_waterfall

_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One page: what it is among the run's objects, its pixels, the image it refers to, and whether that image is in it."""

    kind: str
    pixels: NDArray[np.uint8]
    words: str
    source: Dataset
    shows_source: bool = False


def build_captures(prediction: Prediction, evidence: Evidence, run: Run) -> list[Dataset]:
    """Return the pages: summary, classes, nomogram, waterfall, and the key slice of every sequence that has an activation map.

    The key slice of the sequence that carries the region is always among them: for ultrasound it is what shows the outline everywhere.
    """
    status, version = prediction.bundle_status, run.context.version
    description = wording.series_description(prediction.finding, "pages", version=version, status=status)
    return _write_pages(_draw(prediction, evidence, run), run, status=status, description=description)


def build_refusal_captures(refusal: Refusal, source: Dataset, run: Run) -> list[Dataset]:
    """Return the page that says that, and why, there is no result, and the one of a drawing that was refused.

    ``source`` is a normalised header of the study: every capture refers to an image.
    """
    context = run.context
    what = f"{wording.refusal_word(refusal)} pages"
    description = wording.series_description(context.spec.finding, what, version=context.version, status=context.bundle_status)
    pages = [_Drawn("refusal", draw_refusal(refusal, context, say=drawable(run.say)), "Why there is no result; no patient text", source)]
    if refusal.drawing:
        pages.append(_show_drawing(refusal, refusal.drawing, run))
    return _write_pages(pages, run, status=context.bundle_status, description=description)


def _show_drawing(refusal: Refusal, drawing: Drawing, run: Run) -> _Drawn:
    """Show the slice on which most was marked, or the middle one, of a region that cannot be used."""
    areas = np.count_nonzero(drawing.mask.array, axis=(1, 2))
    index = int(areas.argmax()) if areas.any() else len(areas) // 2
    pixels = draw_unusable(drawing, refusal, run.context, index=index, say=drawable(run.say))
    words = f"What the segmentation network marked on {drawing.image.role}, not used"
    return _Drawn("drawing", pixels, words, normalise_source(drawing.image.sources[index]), shows_source=True)


def _write_pages(pages: Iterable[_Drawn], run: Run, *, status: BundleStatus | None, description: str) -> list[Dataset]:
    captures = []
    for number, drawn in enumerate(pages, start=1):
        capture = _capture(drawn, run, number=number, mark=wording.mark(status))
        stamp(capture, run, description=description)
        captures.append(capture)
    return captures


def build_overview_page(entries: Sequence[Entry], run: Run) -> Dataset:
    """Return the page of all systems of a study."""
    status, version = run.context.bundle_status, run.context.version
    pixels = draw_overview(entries, run.context, status=status, say=drawable(run.say))
    drawn = _Drawn("overview", pixels, "Overview of the results of all systems; no patient text", run.source)
    page = _capture(drawn, run, number=1, mark=wording.mark(status))
    page.SeriesNumber = OVERVIEW_SERIES
    stamp(page, run, description=wording.series_description(codes.OVERVIEW, "page", version=version, status=status))
    return page


def _draw(prediction: Prediction, evidence: Evidence, run: Run) -> Iterator[_Drawn]:
    say, context, anchor = drawable(run.say), run.context, key_image(evidence, evidence.roi.role)
    summary = draw_summary(prediction, evidence, context, say=say, flags=judge(prediction, evidence, run.source, say).flags)
    yield _Drawn("summary", summary, "Summary page of all results; no patient text", anchor)
    if any(o.kind in ("class", "axis") for o in prediction.outcomes):
        yield _Drawn("classes", draw_classes(prediction, evidence, context, say=say), "Probabilities of all classes", anchor)
    if evidence.nomogram:
        yield _Drawn("nomogram", draw_nomogram(prediction, evidence, context, say=say), "Nomogram with this patient's points", anchor)
    if evidence.contributions and all(math.isfinite(c.log_odds) for c in evidence.contributions):
        words = "Waterfall of Shapley values from the average case to this one"
        yield _Drawn("waterfall", draw_waterfall(prediction, evidence, context, say=say), words, anchor)
    for role in dict.fromkeys((*evidence.activation_maps, evidence.roi.role)):
        pixels = draw_heatmap(prediction, evidence, context, role=role, index=key_slice(evidence, role), say=say)
        mapped, kind = role in evidence.activation_maps, "Occlusion map" if role in evidence.occluded else "Grad-CAM"
        words = f"{f'{kind} of the {role} network' if mapped else f'Region on {role}'} over the slice on which the region is largest"
        yield _Drawn(f"slice {role}", pixels, words, key_image(evidence, role), shows_source=True)


def _burned_in(source: Dataset) -> str:
    """Tell whether a picture of the source may show who the patient is: ultrasound often does, and rarely says so."""
    return str(source.get("BurnedInAnnotation") or ("YES" if source.Modality == "US" else "NO"))


def _capture(drawn: _Drawn, run: Run, *, number: int, mark: str) -> Dataset:
    """Return the page as a Secondary Capture; ``mark`` comes before the words that say what it is."""
    pixels, page = drawn.pixels, Dataset()
    page.SOPClassUID = SecondaryCaptureImageStorage
    page.SOPInstanceUID = run.instance_uid(f"sc {drawn.kind}", SecondaryCaptureImageStorage)
    page.SeriesInstanceUID = run.series_uid("sc", SecondaryCaptureImageStorage)
    page.SeriesNumber, page.InstanceNumber, page.Modality = SC_SERIES, number, "OT"
    page.BodyPartExamined = "PELVIS"  # unpaired: without it, Laterality would be required
    page.ConversionType = "WSD"
    page.ImageType = ["DERIVED", "SECONDARY", "AI", KEY_SLICE if drawn.shows_source else drawn.kind.upper()]
    page.PatientOrientation = ""
    page.DateOfSecondaryCapture, page.TimeOfSecondaryCapture = run.when.strftime("%Y%m%d"), run.when.strftime("%H%M%S")
    page.BurnedInAnnotation, page.RecognizableVisualFeatures = "NO", "NO"
    page.SourceImageSequence = [_reference(drawn.source)]
    page.DerivationDescription = mark + drawn.words
    if drawn.shows_source:
        for keyword in (k for k in _LOSSY if k in drawn.source):
            page[keyword] = drawn.source[keyword]
        page.BurnedInAnnotation = _burned_in(drawn.source)
    page.Rows, page.Columns, page.SamplesPerPixel = pixels.shape
    page.PhotometricInterpretation, page.PlanarConfiguration = "RGB", 0
    page.BitsAllocated, page.BitsStored, page.HighBit, page.PixelRepresentation = 8, 8, 7, 0
    page.PixelData = pixels.tobytes()
    page["PixelData"].VR = "OB"
    return page


def _reference(source: Dataset) -> Dataset:
    """Return an item of Source Image Sequence (PS3.3 C.7.6.1.1.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if numbers := frame_numbers(source):
        item.ReferencedFrameNumber = numbers
    item.PurposeOfReferenceCodeSequence = [codes.concept(codes.SOURCE_IMAGE)]
    return item
