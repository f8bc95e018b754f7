"""Pages as single-frame RGB Secondary Captures: the one kind of object that practically every viewer shows (PS3.3 A.8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from pipelines.types import Evidence, Prediction, SeriesRole
from structured_reports import codes, wording
from structured_reports.attributes import SC_SERIES, Run, stamp
from structured_reports.heatmap import draw_heatmap
from structured_reports.report import key_slice
from structured_reports.source import frame_numbers, normalise_source
from structured_reports.summary import draw_summary

_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def build_captures(prediction: Prediction, evidence: Evidence, run: Run) -> list[Dataset]:
    """Return the summary page and, per sequence with an activation map, the Grad-CAM page of its key slice."""
    pages = [
        _capture(draw_summary(prediction, evidence, run.context), run, kind="summary", number=1, image_type=("AI", "SUMMARY")),
    ]
    pages[0].SourceImageSequence = [_reference(_key_source(evidence, evidence.roi.role))]
    pages[0].DerivationDescription = "Summary page of all results; no patient text"
    for number, role in enumerate(evidence.activation_maps, start=2):
        pixels = draw_heatmap(prediction, evidence, role=role, index=key_slice(evidence, role))
        page = _capture(pixels, run, kind=f"gradcam {role}", number=number, image_type=("AI", "GRADCAM"))
        source = _key_source(evidence, role)
        page.SourceImageSequence = [_reference(source)]
        page.DerivationDescription = f"Grad-CAM of the {role} network over the slice on which the region is largest"
        for keyword in _LOSSY:
            if keyword in source:
                page[keyword] = source[keyword]
        page.BurnedInAnnotation = "YES" if source.get("BurnedInAnnotation") == "YES" else "NO"
        pages.append(page)
    status = prediction.bundle_status
    what = "Grad-CAM" if evidence.activation_maps else "summary"
    description = wording.series_description(prediction.finding, what, version=run.context.version, status=status)
    for page in pages:
        page.DerivationDescription = wording.mark(status) + page.DerivationDescription
        stamp(page, run, description=description)
    return pages


def _capture(pixels: NDArray[np.uint8], run: Run, *, kind: str, number: int, image_type: Sequence[str]) -> Dataset:
    """Return the page, ``pixels`` of shape (rows, columns, 3), as a Secondary Capture without its source reference."""
    page = Dataset()
    page.SOPClassUID = SecondaryCaptureImageStorage
    page.SOPInstanceUID = run.instance_uid(f"sc {kind}", SecondaryCaptureImageStorage)
    page.SeriesInstanceUID = run.series_uid("sc", SecondaryCaptureImageStorage)
    page.SeriesNumber, page.InstanceNumber, page.Modality = SC_SERIES, number, "OT"
    page.BodyPartExamined = "PELVIS"  # unpaired: without it, Laterality would be required
    page.ConversionType = "WSD"
    page.ImageType = ["DERIVED", "SECONDARY", *image_type]
    page.PatientOrientation = ""
    page.DateOfSecondaryCapture, page.TimeOfSecondaryCapture = run.when.strftime("%Y%m%d"), run.when.strftime("%H%M%S")
    page.BurnedInAnnotation, page.RecognizableVisualFeatures = "NO", "NO"
    page.Rows, page.Columns, page.SamplesPerPixel = pixels.shape
    page.PhotometricInterpretation, page.PlanarConfiguration = "RGB", 0
    page.BitsAllocated, page.BitsStored, page.HighBit, page.PixelRepresentation = 8, 8, 7, 0
    page.PixelData = pixels.tobytes()
    page["PixelData"].VR = "OB"
    return page


def _key_source(evidence: Evidence, role: SeriesRole) -> Dataset:
    return normalise_source(evidence.volumes[role].sources[key_slice(evidence, role)])


def _reference(source: Dataset) -> Dataset:
    """Return an item of Source Image Sequence (PS3.3 C.7.6.1.1.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if numbers := frame_numbers(source):
        item.ReferencedFrameNumber = numbers
    item.PurposeOfReferenceCodeSequence = [codes.concept(codes.SOURCE_IMAGE)]
    return item
