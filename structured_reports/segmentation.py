"""The region of interest as a DICOM Segmentation on the grid of its source series."""

from __future__ import annotations

import copy

import highdicom as hd
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.uid import MRImageStorage, SegmentationStorage

from pipelines.errors import ResultError
from pipelines.types import Code, Evidence, ImageVolume, Prediction, Roi, RoiOrigin
from structured_reports import codes, wording
from structured_reports.attributes import SEG_SERIES, Run, stamp
from structured_reports.language import DEFAULT, load_messages
from structured_reports.source import carrier, normalise_source
from structured_reports.uids import derive_uid

TUMOUR = "Cervical tumour"
TUMOUR_TRACKING = "Cervical tumour 1"
_REGION = Code("TUMOUR", codes.PRIVATE, TUMOUR)  # in the description of a series that belongs to no one system
_CODED = load_messages(DEFAULT)  # descriptions of objects stay English, as coded meanings do: lists of series show them
_COLOUR = hd.color.CIELabColor(l_star=75.0, a_star=-35.0, b_star=-15.0)  # the cyan of the captures' outline
_POSITION_TOLERANCE_MM = 0.01


def tumour_tracking_uid(study_instance_uid: str) -> str:
    """Return the Tracking UID of the tumour: the same in SEG and SR, and in every version of the result."""
    return derive_uid("tracking", study_instance_uid, TUMOUR_TRACKING)


def build_segmentation(evidence: Evidence, prediction: Prediction, run: Run) -> Segmentation:
    """Return the roi as a BINARY Segmentation (PS3.3 A.51) with one segment, empty frames left out.

    Systems and versions that use the same region have it in common, so nothing in it is of one of them, save who drew it.

    Raises
    ------
    ResultError
        The roi is empty, is not on the grid of its series, or the series is one that a Segmentation cannot refer to.
    """
    roi, image, status = evidence.roi, evidence.volumes[evidence.roi.role], prediction.bundle_status
    _check_grid(roi, image)
    seg = Segmentation(
        source_images=_carriers(image),
        pixel_array=roi.volume.array.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_describe(evidence, prediction, run)],
        series_instance_uid=run.series_uid("seg", SegmentationStorage),
        series_number=SEG_SERIES,
        sop_instance_uid=run.instance_uid("seg", SegmentationStorage),
        instance_number=1,
        manufacturer=run.context.manufacturer,
        manufacturer_model_name=run.context.model_name,
        software_versions=run.context.software_version,
        device_serial_number=run.context.station,
        content_label="CERVICAL_TUMOUR",
        content_description=run.text(f"{wording.mark(status)}{TUMOUR}: {wording.region_words(roi, _CODED)}")[: codes.MAX_MEANING],
        content_creator_name="Cervinode^AI",
        omit_empty_frames=True,
    )
    _identify_segment_per_frame(seg)
    _refer_to_frames(seg, image)
    stamp(seg, run, description=wording.series_description(_REGION, "SEG", version=1, status=status))
    return seg


def _check_grid(roi: Roi, image: ImageVolume) -> None:
    where = f"roi on {roi.role}"
    if not roi.volume.array.any():
        raise ResultError(f"{where} is empty: there is nothing to segment")
    if any(int(d.get("NumberOfFrames") or 1) > 1 for d in image.sources):
        raise ResultError(f"{where}: a multi-frame source is not given frame by frame")
    if missing := [d.SOPInstanceUID for d in image.sources if not d.get("FrameOfReferenceUID")]:
        raise ResultError(f"{where}: source {missing[0]} has no Frame of Reference UID")
    shape = (len(image.sources), int(image.sources[0].Rows), int(image.sources[0].Columns))
    if roi.volume.array.shape != shape:
        raise ResultError(f"{where} has shape {roi.volume.array.shape}, its series {shape}")
    for index, source in enumerate(image.sources):
        expected = np.asarray(source.ImagePositionPatient, dtype=float)
        found = roi.volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0]
        if not np.allclose(found, expected, atol=_POSITION_TOLERANCE_MM):
            raise ResultError(f"{where}: slice {index + 1} lies at {found.round(3)} mm, its source at {expected.round(3)} mm")


def _carriers(image: ImageVolume) -> list[Dataset]:
    carriers = [carrier(normalise_source(source)) for source in image.sources]
    for header, source in zip(carriers, image.sources, strict=True):
        if hasattr(source, "frame_number"):
            header.SOPClassUID = MRImageStorage  # highdicom takes slices or one whole instance; _refer_to_frames puts it right
        header.setdefault("PositionReferenceIndicator", "")
        if not header.get("SliceThickness"):
            header.SliceThickness = round(float(image.volume.spacing[0]), 6)
    return carriers


def _describe(evidence: Evidence, prediction: Prediction, run: Run) -> SegmentDescription:
    roi, algorithm, kind = evidence.roi, None, evidence.roi.segment_algorithm_type or "MANUAL"
    if roi.origin is RoiOrigin.MODEL:
        kind = "AUTOMATIC"
        network, _, graph = (evidence.segmenter or "unknown").rpartition(" ")
        algorithm = hd.AlgorithmIdentificationSequence(
            name=network or graph, family=codes.concept(codes.AI), version=graph, source=run.context.manufacturer
        )
    elif kind != "MANUAL":  # another software's region: PS3.3 C.8.20.2 wants its name, of which we know what the SEG said
        algorithm = hd.AlgorithmIdentificationSequence(
            name=run.text(roi.description)[: codes.MAX_MEANING] or "unknown", family=codes.concept(codes.AI), version="unknown"
        )
    return SegmentDescription(
        segment_number=1,
        segment_label=TUMOUR,
        segmented_property_category=codes.concept(codes.MORPHOLOGICALLY_ABNORMAL),
        segmented_property_type=codes.concept(codes.NEOPLASM_PRIMARY),
        algorithm_type=kind,
        algorithm_identification=algorithm,
        tracking_uid=tumour_tracking_uid(run.source.StudyInstanceUID),
        tracking_id=TUMOUR_TRACKING,
        anatomic_regions=[codes.concept(codes.CERVIX)],
        display_color=_COLOUR,
    )


def _refer_to_frames(seg: Segmentation, image: ImageVolume) -> None:
    """Name the frames of a multi-frame source, which highdicom was given one by one, and its instance once."""
    numbers = [getattr(source, "frame_number", None) for source in image.sources]
    if all(number is None for number in numbers):
        return
    classes = {source.SOPInstanceUID: source.SOPClassUID for source in image.sources}
    positions = np.asarray([source.ImagePositionPatient for source in image.sources], dtype=float)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = np.asarray(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        number = numbers[int(np.linalg.norm(positions - position, axis=1).argmin())]
        for derivation in frame.get("DerivationImageSequence", []):
            for source in derivation.SourceImageSequence:
                source.ReferencedFrameNumber = number
    for series in seg.ReferencedSeriesSequence:
        unique = {item.ReferencedSOPInstanceUID: item for item in series.ReferencedInstanceSequence}
        series.ReferencedInstanceSequence = list(unique.values())
    for item in (i for element in seg.iterall() if element.VR == "SQ" for i in element.value if "ReferencedSOPClassUID" in i):
        item.ReferencedSOPClassUID = classes.get(item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID)


def _identify_segment_per_frame(seg: Segmentation) -> None:
    """Move Segment Identification to every frame, where receivers look for it; highdicom shares a single segment's."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" not in shared:
        return
    item = shared.SegmentIdentificationSequence[0]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence = [copy.deepcopy(item)]
    del shared.SegmentIdentificationSequence
