"""Phantom studies as DICOM: classic MR Image Storage (PS3.3 A.4), one file a slice, in the dialects of two vendors."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from pipelines.phantoms.anatomy import Array, Latents, Pelvis
from pipelines.phantoms.signal import Grid, Protocol, Scanner, acquire, place
from pipelines.types import SeriesRole

NAMESPACE = uuid.UUID("0f7a4f2c-6c59-5a0c-9e55-54f2a3ad4d10")  # of all phantom UIDs
DATE, TIME = "20260105", "0900"  # of every phantom study: the seed alone decides its bytes
PRESETS = ("fast", "full")


@dataclass(frozen=True)
class Vendor:
    """One vendor's habits. ``slope`` is the rescale slope of stored values; 1 means that no rescale attributes are written."""

    manufacturer: str
    model: str
    scanner: Scanner
    slope: float
    t2_repetition_ms: float
    t2_echo_ms: float
    names: dict[SeriesRole, str]


VENDORS = {
    "SIEMENS": Vendor(
        manufacturer="SIEMENS",
        model="MAGNETOM Vida (synthetic phantom)",
        scanner=Scanner(gain=1500, noise=0.010, inhomogeneity=0.28, blur=0.45),
        slope=1.0,
        t2_repetition_ms=4200,
        t2_echo_ms=84,
        names={SeriesRole.T1W: "t1_tse_tra", SeriesRole.T2W_FS: "t2_tse_spair_tra", SeriesRole.DWI: "ep2d_diff_b0_b800_tra"},
    ),
    "PHILIPS": Vendor(
        manufacturer="Philips Medical Systems",
        model="Ingenia (synthetic phantom)",
        scanner=Scanner(gain=5200, noise=0.013, inhomogeneity=0.42, blur=0.6),
        slope=2.1472,
        t2_repetition_ms=5200,
        t2_echo_ms=76,
        names={SeriesRole.T1W: "T1W_TSE_ax", SeriesRole.T2W_FS: "T2W_SPAIR_ax", SeriesRole.DWI: "DWI_b0_800_ax"},
    ),
}


@dataclass(frozen=True)
class PhantomTruth:
    """What was planted: the answers that a model may look for."""

    folder: Path
    patient_id: str
    study_instance_uid: str
    vendor: str
    latents: Latents
    tumour_volume_ml: float
    seg: Path | None


def phantom_uid(*parts: object) -> UID:
    """Return the UID that these parts decide (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}")


def protocols(vendor: Vendor, preset: str) -> tuple[Protocol, ...]:
    """Return the sequences of a study. ``fast`` samples coarser than ``full``; the field of view is the same."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: use one of {', '.join(PRESETS)}")
    t1 = Protocol(SeriesRole.T1W, 192, 20, 1.4, repetition_ms=600, echo_ms=10, display=0.75)
    t2 = Protocol(SeriesRole.T2W_FS, 256, 20, 1.05, vendor.t2_repetition_ms, vendor.t2_echo_ms, display=0.5, fat_left=0.12)
    dwi = Protocol(SeriesRole.DWI, 112, 20, 2.4, repetition_ms=4000, echo_ms=72, display=0.4, fat_left=0.05, b_values=(0, 800))
    if preset == "fast":
        return t1, t2, dwi
    return (
        replace(t1, columns=256, pixel_mm=1.05, slices=24, spacing_mm=5.0, thickness_mm=4.0),
        replace(t2, columns=384, pixel_mm=0.7, slices=24, spacing_mm=5.0, thickness_mm=4.0),
        replace(dwi, columns=128, pixel_mm=2.1, slices=24, spacing_mm=5.0, thickness_mm=4.0),
    )


def write_study(
    folder: Path,
    *,
    seed: int,
    vendor: str = "SIEMENS",
    preset: str = "fast",
    with_seg: bool = False,
    latents: Latents | None = None,
) -> PhantomTruth:
    """Write one synthetic pelvic MR study (T1W, T2W fat-suppressed, DWI b 0 and 800) and return the planted truth.

    Parameters
    ----------
    folder : receives one subfolder per series; created where absent.
    seed : decides patient, acquisition and every UID; the same seed writes the same bytes.
    vendor : ``SIEMENS`` or ``PHILIPS``.
    preset : ``fast`` or ``full``, see :func:`protocols`.
    with_seg : also write the true tumour as a SEG (PS3.3 A.51) on the T2W grid.
    latents : the tumour's properties; drawn from the seed where not given.
    """
    if vendor not in VENDORS:
        raise ValueError(f"unknown vendor {vendor!r}: use one of {', '.join(VENDORS)}")
    dialect, pelvis = VENDORS[vendor], Pelvis(seed, latents)
    rng = np.random.default_rng([seed, 2])
    volume_ml, seg = 0.0, None
    for number, protocol in enumerate(protocols(dialect, preset), start=2):
        grid = place(protocol, rng, np.array([0.0, 0.0, 2.0]))
        images, share = acquire(
            pelvis,
            protocol,
            scanner=dialect.scanner,
            grid=grid,
            shift_mm=rng.normal(0, 0.7, 3),
            supersample=1 if preset == "fast" else 3,
            rng=rng,
        )
        headers = _write_series(folder, images, grid=grid, protocol=protocol, vendor=dialect, pelvis=pelvis, seed=seed, number=number)
        if protocol.role is SeriesRole.T2W_FS:
            volume_ml = float(share.sum()) * float(np.prod(grid.spacing_mm)) / 1000
            if with_seg:
                seg = _write_seg(folder / "tumour_seg.dcm", share > 0.5, headers, seed=seed)
    return PhantomTruth(
        folder=folder,
        patient_id=f"PHANTOM-{seed}",
        study_instance_uid=phantom_uid(seed, "study"),
        vendor=vendor,
        latents=pelvis.latents,
        tumour_volume_ml=volume_ml,
        seg=seg,
    )


def _write_series(
    folder: Path,
    images: dict[int, Array],
    *,
    grid: Grid,
    protocol: Protocol,
    vendor: Vendor,
    pelvis: Pelvis,
    seed: int,
    number: int,
) -> list[Dataset]:
    name = vendor.names[protocol.role]
    target = folder / f"{number}_{name}"
    target.mkdir(parents=True, exist_ok=True)
    common = _patient_and_study(seed, pelvis.age_years)
    common.update(_equipment(vendor))
    common.update(_series(seed, number, name, protocol, grid))
    stored = {b: np.clip(np.round(image / vendor.slope), 0, 4095).astype("<u2") for b, image in images.items()}
    written: list[Dataset] = []
    for b, volume in stored.items():
        for index, pixels in enumerate(volume):
            ds = Dataset()
            ds.update(common)
            _describe_image(ds, protocol, vendor, b)
            _place_image(ds, grid, index, number=len(written) + 1, pixels=pixels)
            ds.SOPInstanceUID = phantom_uid(seed, "instance", number, b, index)
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            path = target / f"{len(written) + 1:03d}.dcm"
            ds.save_as(path, enforce_file_format=True)
            ds.filename = str(path)
            written.append(ds)
    return written


def _patient_and_study(seed: int, age_years: int) -> Dataset:
    """Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2)."""
    ds = Dataset()
    ds.PatientName = "PHANTOM^SYNTHETIC"
    ds.PatientID = f"PHANTOM-{seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "F"
    ds.PatientAge = f"{age_years:03d}Y"
    ds.PatientWeight = "65"
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Synthetic data: no patient exists"
    ds.StudyInstanceUID = phantom_uid(seed, "study")
    ds.StudyDate, ds.StudyTime = DATE, f"{TIME}00"
    ds.StudyID = str(seed)[:16]
    ds.StudyDescription = "MR pelvis, synthetic phantom"
    ds.AccessionNumber = f"PH{seed}"[:16]
    ds.ReferringPhysicianName = ""
    return ds


def _equipment(vendor: Vendor) -> Dataset:
    """General Equipment module (PS3.3 C.7.5.1) in the vendor's words; the model says that it is a phantom."""
    ds = Dataset()
    ds.Manufacturer = vendor.manufacturer
    ds.ManufacturerModelName = vendor.model
    ds.InstitutionName = "Synthetic phantom"
    ds.StationName = "PHANTOM"
    ds.SoftwareVersions = "phantom 1"
    ds.MagneticFieldStrength = "3"
    return ds


def _series(seed: int, number: int, name: str, protocol: Protocol, grid: Grid) -> Dataset:
    """General Series, Frame of Reference and MR Image modules: what all images of one series share (PS3.3 C.8.3.1)."""
    diffusion = protocol.role is SeriesRole.DWI
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.SeriesInstanceUID = phantom_uid(seed, "series", number)
    ds.FrameOfReferenceUID = phantom_uid(seed, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.SeriesNumber = number
    ds.SeriesDescription = ds.ProtocolName = name
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.InstanceCreationDate = DATE
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = ds.InstanceCreationTime = f"{TIME}{4 * number:02d}"
    ds.BodyPartExamined = "PELVIS"
    ds.PatientPosition = "HFS"
    ds.ImageComments = "SYNTHETIC PHANTOM"
    ds.MRAcquisitionType = "2D"
    ds.AngioFlag = "N"
    ds.RepetitionTime, ds.EchoTime = f"{protocol.repetition_ms:g}", f"{protocol.echo_ms:g}"
    ds.EchoTrainLength = 1 if diffusion else {SeriesRole.T1W: 3}.get(protocol.role, 19)
    ds.FlipAngle = "90" if diffusion else "150"
    ds.NumberOfAverages = "4" if diffusion else "2"
    ds.PixelBandwidth = "1700" if diffusion else "200"
    ds.ImagingFrequency = "123.2"
    ds.ImagedNucleus = "1H"
    ds.InPlanePhaseEncodingDirection = "COL" if diffusion else "ROW"
    ds.SliceThickness = f"{grid.thickness_mm:g}"
    ds.SpacingBetweenSlices = f"{grid.spacing_mm[0]:g}"
    ds.PixelSpacing = [f"{v:g}" for v in grid.spacing_mm[1:]]
    return ds


def _describe_image(ds: Dataset, protocol: Protocol, vendor: Vendor, b: int) -> None:
    """Set contrast and value attributes in the vendor's dialect, with the private b-value where that vendor keeps it."""
    siemens, diffusion = vendor.manufacturer == "SIEMENS", protocol.role is SeriesRole.DWI
    ds.ScanningSequence = ("EP" if siemens else ["SE", "EP"]) if diffusion else "SE"
    ds.SequenceVariant = ["SK", "SP"] if siemens else "SK"
    ds.ScanOptions = "FS" if protocol.fat_left < 1 else ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"] if siemens else ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
    if siemens:
        ds.SequenceName = {SeriesRole.T1W: "*tse2d1_3", SeriesRole.T2W_FS: "*tse2d1_19"}.get(protocol.role, f"*ep_b{b}")
    if diffusion:
        ds.DiffusionBValue = float(b)
        ds.AcquisitionNumber = 1
        if siemens:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW" if b else "NONE", "ND"]
            block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
            block.add_new(0x0C, "IS", str(b))
        else:
            block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
            block.add_new(0x03, "FL", float(b))
    if vendor.slope != 1.0:
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", f"{vendor.slope:g}", "normalized"
    level = vendor.scanner.gain * protocol.display * (0.6 if b else 1.0)
    ds.WindowCenter, ds.WindowWidth = f"{level / 2:.0f}", f"{level:.0f}"


def _place_image(ds: Dataset, grid: Grid, index: int, *, number: int, pixels: np.ndarray) -> None:
    """Set the Image Plane and Image Pixel modules (PS3.3 C.7.6.2, C.7.6.3)."""
    position = grid.origin + grid.direction[:, 2] * index * grid.spacing_mm[0]
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.10f}" for v in grid.direction.T[:2].ravel()]
    ds.SliceLocation = f"{float(position @ grid.direction[:, 2]):.4f}"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()


def _write_seg(path: Path, mask: np.ndarray, headers: Sequence[Dataset], *, seed: int) -> Path:
    """Write the true tumour as a binary SEG; every UID and time follows from the seed."""
    tumour = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumour",
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
    seg.ImageComments = "SYNTHETIC PHANTOM"
    for element in seg.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = phantom_uid(seed, "dimensions")
        elif element.keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
            element.value = DATE
        elif element.keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
            element.value = f"{TIME}59"
        elif element.keyword == "ContributionDateTime":
            element.value = f"{DATE}{TIME}59"
    seg.save_as(path, enforce_file_format=True)
    return path
