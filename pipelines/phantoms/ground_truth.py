"""The true tumour as objects that a node reads: a SEG for MR, a measurement report with an outline for ultrasound.

Ultrasound has no frame of reference, so that a region on it travels as SCOORD (PS3.3 C.18.6) rather than as SEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from pipelines.phantoms.modules import COMMENT, freeze_times, phantom_uid

_LABEL = "Tumour"
_SECONDS = 3540  # after the study began: the truth is drawn last


def write_seg(path: Path, mask: np.ndarray, headers: Sequence[Dataset], *, seed: int) -> Path:
    """Write the true tumour as a binary SEG (PS3.3 A.51); every UID and time follows from the seed."""
    tumour = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=_LABEL,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_id="phantom tumour",
        tracking_uid=phantom_uid(seed, "tumour"),
    )
    seg = hd.seg.Segmentation(
        source_images=[dcmread(ds.filename, stop_before_pixels=True) for ds in headers],
        pixel_array=mask.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[tumour],
        series_instance_uid=phantom_uid(seed, "seg series"),
        series_number=90,
        sop_instance_uid=phantom_uid(seed, "seg instance"),
        instance_number=1,
        manufacturer="Cervinode",
        manufacturer_model_name="phantom",
        software_versions="1",
        device_serial_number="PHANTOM",
        content_label="TUMOUR",
        content_creator_name="PHANTOM^SYNTHETIC",
        series_description="True tumour of the phantom",
    )
    seg.ImageComments = COMMENT
    for element in seg.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = phantom_uid(seed, "dimensions")
    freeze_times(seg, _SECONDS)
    seg.save_as(path, enforce_file_format=True)
    return path


def write_outline(path: Path, outline: NDArray[np.float64], image: Dataset, *, frame: int | None, diameter_mm: float, seed: int) -> Path:
    """Write the true margin on one ultrasound image as a TID 1500 report; ``outline`` is (row, column) pixel indices, not closed.

    ``frame`` counts from 1 and is ``None`` for a single image. Every UID and time follows from the seed.
    """
    closed = np.vstack([outline, outline[:1]])[:, ::-1] + 0.5  # (column, row) from the corner of the first pixel, PS3.3 C.18.6.1.2
    source = hd.sr.SourceImageForRegion(
        image.SOPClassUID, image.SOPInstanceUID, referenced_frame_numbers=None if frame is None else [frame]
    )
    region = hd.sr.ImageRegion(hd.sr.GraphicTypeValues.POLYLINE, closed, source)
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=phantom_uid(seed, "us tumour"), identifier=_LABEL),
        referenced_region=region,
        finding_type=codes.SCT.Neoplasm,
        measurements=[hd.sr.Measurement(codes.SCT.Diameter, round(diameter_mm, 1), codes.UCUM.Millimeter)],
    )
    observer = hd.sr.ObserverContext(codes.DCM.Person, hd.sr.PersonObserverIdentifyingAttributes("PHANTOM^SYNTHETIC"))
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=observer),
        procedure_reported=codes.SCT.Ultrasonography,
        imaging_measurements=[group],
    )
    sr = hd.sr.ComprehensiveSR(
        evidence=[image],
        content=report[0],
        series_instance_uid=phantom_uid(seed, "us truth series"),
        series_number=90,
        sop_instance_uid=phantom_uid(seed, "us truth"),
        instance_number=1,
        manufacturer="Cervinode",
        is_complete=True,
        is_final=True,
    )
    sr.SeriesDescription = "True tumour of the phantom"
    sr.ManufacturerModelName = "phantom"
    freeze_times(sr, _SECONDS)
    sr.save_as(path, enforce_file_format=True)
    return path
