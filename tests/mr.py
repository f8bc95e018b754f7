"""A small MR study made in code: three sequences, oblique, each with a bright ellipsoid at the same place in the patient."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

FRAME_OF_REFERENCE = generate_uid(entropy_srcs=["tests", "frame"])
STUDY = generate_uid(entropy_srcs=["tests", "study"])
CENTRE_MM = np.array([4.0, -7.0, 12.0])  # of the ellipsoid, patient LPS
RADII_MM = np.array([14.0, 12.0, 15.0])


@dataclass(frozen=True)
class Sequence:
    """One series to write: what the scanner would say of it, and its grid."""

    number: int
    description: str
    te_ms: float
    tr_ms: float
    attributes: dict[str, Any] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] = (5.0, 2.0, 2.0)  # slice, row, column
    shape: tuple[int, int, int] = (16, 64, 64)
    tilt_deg: float = 6.0


T1W = Sequence(2, "t1_tse_tra", 10, 600)
T2W_FS = Sequence(3, "t2_tse_spair_tra", 90, 4500, {"ScanOptions": "FS"}, shape=(16, 80, 80), spacing_mm=(5.0, 1.6, 1.6))
T2W = Sequence(4, "t2_tse_tra", 100, 5000)
DWI_B0 = Sequence(
    5, "ep2d_diff", 75, 4000, {"ScanningSequence": "EP", "DiffusionBValue": 0.0}, shape=(16, 48, 48), spacing_mm=(5.0, 2.6, 2.6)
)
DWI_B800 = Sequence(
    5, "ep2d_diff", 75, 4000, {"ScanningSequence": "EP", "DiffusionBValue": 800.0}, shape=(16, 48, 48), spacing_mm=(5.0, 2.6, 2.6)
)
# What a multi-frame instance says per frame, or in other words.
_FRAME_KEYWORDS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
_FRAME_KEYWORDS += ("EchoTime", "RepetitionTime", "FlipAngle", "ScanningSequence", "SequenceVariant", "ScanOptions", "AcquisitionTime")
_FRAME_KEYWORDS += ("AcquisitionDate", "TemporalPositionIdentifier", "RescaleSlope", "RescaleIntercept", "DiffusionDirectionality")
_FRAME_KEYWORDS += ("StackID", "ContrastBolusAgent", "EchoTrainLength")
OLNM_STUDY = (T1W, T2W_FS, DWI_B0, DWI_B800)


def orientation(tilt_deg: float) -> np.ndarray:
    """Return (row direction, column direction, normal) as rows, tilted about the left-right axis."""
    a = np.deg2rad(tilt_deg)
    return np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])


def write_study(folder: Path, sequences: tuple[Sequence, ...] = OLNM_STUDY, **identity: Any) -> Path:
    """Write each slice of each sequence as one file; ``identity`` overrides attributes of every instance."""
    folder.mkdir(parents=True, exist_ok=True)
    for sequence in sequences:
        for d in make_series(sequence, **identity):
            d.save_as(folder / f"{d.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder


def make_series(sequence: Sequence, **identity: Any) -> list[Dataset]:
    """Return the instances of one sequence, with pixels."""
    n, rows, columns = sequence.shape
    dz, dy, dx = sequence.spacing_mm
    along_row, down_column, normal = orientation(sequence.tilt_deg)
    origin = CENTRE_MM - along_row * dx * (columns - 1) / 2 - down_column * dy * (rows - 1) / 2 - normal * dz * (n - 1) / 2
    rng = np.random.default_rng(sequence.number)
    k, r, c = np.indices(sequence.shape)
    points = origin + k[..., None] * normal * dz + r[..., None] * down_column * dy + c[..., None] * along_row * dx
    inside = (((points - CENTRE_MM) / RADII_MM) ** 2).sum(-1) < 1
    body = (((points - CENTRE_MM) / np.array([60.0, 50.0, 200.0])) ** 2).sum(-1) < 1
    pixels = 200.0 * body + 400.0 * inside + rng.normal(0, 20, sequence.shape) * body + 10
    return [_instance(sequence, i, origin + i * normal * dz, pixels[i], identity) for i in range(n)]


def _instance(sequence: Sequence, i: int, position: np.ndarray, pixels: np.ndarray, identity: dict[str, Any]) -> Dataset:
    d = Dataset()
    series = generate_uid(entropy_srcs=["tests", str(identity.get("StudyInstanceUID", STUDY)), str(sequence.number)])
    b = str(sequence.attributes.get("DiffusionBValue", ""))
    d.SpecificCharacterSet = "ISO_IR 100"
    d.SOPClassUID, d.SOPInstanceUID = MRImageStorage, generate_uid(entropy_srcs=[series, b, str(i)])
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = STUDY, series, FRAME_OF_REFERENCE
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "TEST^PHANTOM", "T-1", "19700101", "F"
    d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber, d.ReferringPhysicianName = "20260101", "101500", "1", "A1", ""
    d.StudyDescription, d.Modality, d.Manufacturer, d.ManufacturerModelName = "MR pelvis", "MR", "TESTVENDOR", "Model T"
    d.SeriesNumber, d.SeriesDescription, d.InstanceNumber = sequence.number, sequence.description, i + 1
    d.SeriesDate, d.SeriesTime, d.ContentDate, d.ContentTime = "20260101", "102000", "20260101", "102000"
    d.AcquisitionDate, d.AcquisitionTime, d.AcquisitionNumber, d.PositionReferenceIndicator = "20260101", "102000", 1, ""
    d.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    d.ScanningSequence, d.SequenceVariant, d.ScanOptions, d.MRAcquisitionType = "SE", "SK", "", "2D"
    d.EchoTime, d.RepetitionTime, d.EchoTrainLength, d.FlipAngle, d.MagneticFieldStrength = sequence.te_ms, sequence.tr_ms, 15, 150, 3
    d.BodyPartExamined, d.PatientPosition = "PELVIS", "HFS"
    d.ImagePositionPatient = [round(float(v), 6) for v in position]
    d.ImageOrientationPatient = [round(float(v), 9) for v in orientation(sequence.tilt_deg)[:2].ravel()]
    d.PixelSpacing, d.SliceThickness = list(sequence.spacing_mm[1:]), sequence.spacing_mm[0]
    d.SpacingBetweenSlices = sequence.spacing_mm[0]
    d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.PixelData = np.clip(np.round(pixels), 0, 4095).astype("<u2").tobytes()
    for keyword, value in {**sequence.attributes, **identity}.items():
        setattr(d, keyword, value)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    return d


def make_enhanced(images: list[Dataset], *, instance: str = "enhanced") -> Dataset:
    """Return an Enhanced MR instance (PS3.3 A.36) whose frames are single-frame images, in their order."""
    first = images[0]
    d = copy.deepcopy(first)
    for keyword in (*_FRAME_KEYWORDS, "DiffusionBValue", "PixelData"):
        if keyword in d:
            del d[keyword]
    d.SOPClassUID, d.SOPInstanceUID = EnhancedMRImageStorage, generate_uid(entropy_srcs=[str(first.SOPInstanceUID), instance])
    d.NumberOfFrames, d.InstanceNumber = len(images), 1
    d.ImageType = ["ORIGINAL", "PRIMARY", "MIXED", "NONE"]
    d.AcquisitionDateTime = f"{first.AcquisitionDate}{first.AcquisitionTime}"
    d.EchoPulseSequence = "GRADIENT" if "GR" in first.ScanningSequence else "SPIN"
    d.EchoPlanarPulseSequence = "YES" if "EP" in first.ScanningSequence else "NO"
    d.SpectrallySelectedSuppression = "FAT" if first.ScanOptions == "FS" else "NONE"
    if agent := first.get("ContrastBolusAgent"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "C-17800", "SRT", agent
        d.ContrastBolusAgentSequence = DicomSequence([item])
    shared = Dataset()
    shared.PixelMeasuresSequence = _group(first, "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
    shared.MRTimingAndRelatedParametersSequence = _group(first, "RepetitionTime", "FlipAngle", "EchoTrainLength")
    d.SharedFunctionalGroupsSequence = DicomSequence([shared])
    d.PerFrameFunctionalGroupsSequence = DicomSequence([_frame_groups(image) for image in images])
    d.PixelData = b"".join(image.PixelData for image in images)
    d.file_meta = copy.deepcopy(first.file_meta)
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    return d


def _frame_groups(image: Dataset) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence = _group(image, "ImagePositionPatient")
    frame.PlaneOrientationSequence = _group(image, "ImageOrientationPatient")
    frame.MREchoSequence = _group(image, EffectiveEchoTime=float(image.EchoTime))
    frame.MRImageFrameTypeSequence = _group(image, FrameType=list(image.ImageType))
    frame.MRModifierSequence = _group(image, InversionRecovery="NO")
    acquired = f"{image.AcquisitionDate}{image.AcquisitionTime}"
    content: dict[str, Any] = {"FrameAcquisitionDateTime": acquired, "StackID": str(image.get("StackID", "1"))}
    if "TemporalPositionIdentifier" in image:
        content["TemporalPositionIndex"] = int(image.TemporalPositionIdentifier)
    frame.FrameContentSequence = _group(image, **content)
    if "RescaleSlope" in image:
        frame.PixelValueTransformationSequence = _group(image, "RescaleSlope", "RescaleIntercept")
    if "DiffusionBValue" in image:
        frame.MRDiffusionSequence = _group(image, "DiffusionBValue", "DiffusionDirectionality")
    return frame


def _group(image: Dataset, *keywords: str, **values: Any) -> DicomSequence:
    item = Dataset()
    for keyword in keywords:
        if keyword in image:
            setattr(item, keyword, image[keyword].value)
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return DicomSequence([item])


def save(d: Dataset, folder: Path) -> Path:
    """Write one instance under its UID."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{d.SOPInstanceUID}.dcm"
    d.save_as(path, enforce_file_format=True)
    return path


def set_private(d: Dataset, creator: str, group: int, element: int, vr: str, value: Any) -> None:
    """Write a private element under its creator."""
    d.private_block(group, creator, create=True).add_new(element, vr, value)
