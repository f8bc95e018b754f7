"""What every result object carries: identity, equipment, flags, dates and file meta information."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from structured_reports import codes
from structured_reports.context import ReportContext
from structured_reports.language import Messages
from structured_reports.source import copy_identity, declared_character_set, fit_text
from structured_reports.uids import ResultKey, derive_uid

OVERVIEW_SERIES = 9300
SEG_SERIES = 9101
SR_SERIES = 9201
GRAPHIC_SERIES = 9202
SC_SERIES = 9301
KEY_SLICE = "GRADCAM"  # fourth value of Image Type (0008,0008) of a capture that shows a source image
_IMPLEMENTATION_CLASS_UID = derive_uid("implementation")


@dataclass(frozen=True, eq=False)
class Run:
    """What the objects of one run have in common. ``source`` is a normalised header of the study."""

    context: ReportContext
    source: Dataset
    key: ResultKey
    model: str  # name and version of system and bundle, at most 64 characters; empty for what no model of ours had a part in
    say: Messages  # in a language that the character set of the objects can hold
    segmenter: str | None = None  # name and digest of the network that drew the region, where one did

    @property
    def when(self) -> datetime:
        """Time of the run, in the source's time zone."""
        return self.context.time_for(self.source)

    @property
    def device_uid(self) -> str:
        """UID of the processing device: a new one for every model (IHE AI Results)."""
        return self.device_uid_of(self.model)

    def device_uid_of(self, model: str) -> str:
        """Return the UID of one model of the bundle on this station."""
        return derive_uid("device", model, self.key.model_digest, self.context.station)

    def instance_uid(self, kind: str, sop_class_uid: str) -> str:
        """Return the SOP Instance UID of one object."""
        return self.key.uid(f"instance {kind}", sop_class_uid)

    def series_uid(self, kind: str, sop_class_uid: str) -> str:
        """Return the UID of the series that holds one kind of object."""
        return self.key.uid(f"series {kind}", sop_class_uid)

    def text(self, words: str) -> str:
        """Return the words as the object's character set can hold them."""
        return fit_text(words, declared_character_set(self.source))


def stamp(target: Dataset, run: Run, *, description: str) -> None:
    """Write the common attributes into an object that has its SOP and series UIDs and its own content.

    Everything that libraries take from the clock or at random is overwritten, so that equal runs give equal bytes.
    """
    copy_identity(target, run.source)
    date, time = run.when.strftime("%Y%m%d"), run.when.strftime("%H%M%S")
    target.SeriesDescription = description
    target.SeriesDate = target.ContentDate = target.InstanceCreationDate = date
    target.SeriesTime = target.ContentTime = target.InstanceCreationTime = time
    target.Manufacturer, target.ManufacturerModelName = run.context.manufacturer, run.context.model_name
    target.DeviceSerialNumber = run.context.station
    models = [model for model in (run.model, run.segmenter) if model]
    target.SoftwareVersions = [run.context.software_version, *models[:1]]
    target.ContentQualification = "RESEARCH"
    target.ContributingEquipmentSequence = [_equipment(run, model) for model in models or [run.context.model_name]]
    for element in target.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = derive_uid("dimension organization", target.SOPInstanceUID)
    target.file_meta = _file_meta(target, run.context.software_version)
    target.preamble = b"\x00" * 128


def _equipment(run: Run, model: str) -> Dataset:
    """Return the item of Contributing Equipment Sequence (PS3.3 C.12.1) that names one model."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [codes.concept(codes.PROCESSING_EQUIPMENT)]
    item.Manufacturer, item.ManufacturerModelName = run.context.manufacturer, model[:64]
    item.DeviceSerialNumber = run.context.station
    item.SoftwareVersions = run.context.software_version
    item.DeviceUID = run.device_uid_of(model)
    item.ContributionDateTime = run.when.strftime("%Y%m%d%H%M%S%z")  # a DT, unlike the dates above, can name its own zone
    return item


def _file_meta(target: Dataset, software_version: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = target.SOPClassUID, target.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"CERVINODE_{software_version}"[:16]  # VR SH
    return meta
