"""What all phantom objects have in common: UIDs that follow from the seed, and modules that say that no patient exists."""

from __future__ import annotations

import uuid
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from pipelines.phantoms.latents import draw_age

NAMESPACE = uuid.UUID("0f7a4f2c-6c59-5a0c-9e55-54f2a3ad4d10")  # of all phantom UIDs
DATE = "20260105"  # of every phantom study: the seed alone decides its bytes
COMMENT = "SYNTHETIC PHANTOM"
MR_STUDY = "MR pelvis, synthetic phantom"  # Study Description


def phantom_uid(*parts: object) -> UID:
    """Return the UID that these parts decide (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}")


def clock(seconds: int) -> str:
    """Return a time of the day (TM) so many seconds after the study began at nine."""
    return f"{9 + seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"


def describe_study(seed: int, description: str, *, kind: str = "study") -> Dataset:
    """Return the Patient, General Study and Patient Study modules (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2)."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "PHANTOM^SYNTHETIC"
    ds.PatientID = f"PHANTOM-{seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "F"
    ds.PatientAge = f"{draw_age(seed):03d}Y"
    ds.PatientWeight = "65"
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Synthetic data: no patient exists"
    ds.StudyInstanceUID = phantom_uid(seed, kind)
    ds.StudyDate, ds.StudyTime = DATE, clock(0)
    ds.StudyID = str(seed)[:16]
    ds.StudyDescription = description
    ds.AccessionNumber = f"PH{seed}"[:16]
    ds.ReferringPhysicianName = ""
    return ds


def describe_equipment(manufacturer: str, model: str) -> Dataset:
    """Return the General Equipment module (PS3.3 C.7.5.1); the model says that it is a phantom."""
    ds = Dataset()
    ds.Manufacturer = manufacturer
    ds.ManufacturerModelName = model
    ds.InstitutionName = "Synthetic phantom"
    ds.StationName = "PHANTOM"
    ds.SoftwareVersions = "phantom 1"
    return ds


def describe_series(seed: int, number: int, description: str, *, seconds: int, kind: str = "series") -> Dataset:
    """Return the General Series module and the times of its images (PS3.3 C.7.3.1)."""
    ds = Dataset()
    ds.SeriesInstanceUID = phantom_uid(seed, kind, number)
    ds.SeriesNumber = number
    ds.SeriesDescription = ds.ProtocolName = description
    ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.InstanceCreationDate = DATE
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = ds.InstanceCreationTime = clock(seconds)
    ds.BodyPartExamined = "PELVIS"
    ds.ImageComments = COMMENT
    return ds


def save(ds: Dataset, path: Path) -> Dataset:
    """Write an instance as Explicit VR Little Endian; its ``filename`` is set."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    ds.filename = str(path)
    return ds


def freeze_times(ds: Dataset, seconds: int) -> None:
    """Replace the times at which a library made an object, at any depth, by the phantom's."""
    for element in ds.iterall():
        if element.keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
            element.value = DATE
        elif element.keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
            element.value = clock(seconds)
        elif element.keyword in ("ContributionDateTime", "ObservationDateTime", "VerificationDateTime"):
            element.value = f"{DATE}{clock(seconds)}"
