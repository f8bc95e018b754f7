"""Small ultrasound studies made in code: a sector of speckle with a lesion, text around it, many encodings; and outlines on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

STUDY = generate_uid(entropy_srcs=["tests", "us study"])
ROWS, COLUMNS = 240, 320
REGION = (30, 40, 229, 299)  # top, left, bottom, right, all inclusive
APEX = (20.0, 170.0)  # row, column
LESION = (140.0, 165.0, 30.0, 40.0)  # row, column, half axes in rows and columns
SPACING_CM = (0.02, 0.03)  # row, column
TEXT = 255


@dataclass(frozen=True)
class Picture:
    """What one image shows, and how the scanner wrote it."""

    number: int = 1
    series: int = 1
    frames: int = 1
    lesion_scale: Sequence[float] = (1.0,)
    colour: str = ""  # "", "caliper", "white caliper" or "doppler"
    photometric: str = "RGB"
    planar: int = 0
    regions: tuple[Dataset, ...] | None = None  # None: the B-mode region, calibrated
    attributes: dict[str, Any] = field(default_factory=dict)


def region(
    *,
    spatial_format: int = 1,
    data_type: int = 1,
    box: tuple[int, int, int, int] = REGION,
    units: tuple[int, int] = (3, 3),
    delta: tuple[float, float] = SPACING_CM,
) -> Dataset:
    """Return an item of SequenceOfUltrasoundRegions; ``box`` is inclusive, ``delta`` and ``units`` are (row, column)."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = spatial_format, data_type, 0
    item.RegionLocationMinY0, item.RegionLocationMinX0, item.RegionLocationMaxY1, item.RegionLocationMaxX1 = box
    item.PhysicalUnitsYDirection, item.PhysicalUnitsXDirection = units
    item.PhysicalDeltaY, item.PhysicalDeltaX = delta
    return item


def sector() -> np.ndarray:
    """Return which pixels of the image are tissue: a fan of 90 degrees."""
    rows, columns = np.indices((ROWS, COLUMNS))
    radius = np.hypot(rows - APEX[0], columns - APEX[1])
    angle = np.abs(np.arctan2(columns - APEX[1], rows - APEX[0]))
    return (radius > 20) & (radius < 190) & (angle < np.pi / 4)


def paint(picture: Picture) -> np.ndarray:
    """Return the frames, shape (frames, rows, columns, 3), uint8."""
    rng = np.random.default_rng(picture.number)
    rows, columns = np.indices((ROWS, COLUMNS))
    tissue = sector()
    frames = []
    for frame in range(picture.frames):
        scale = picture.lesion_scale[frame % len(picture.lesion_scale)]
        inside = ((rows - LESION[0]) / (LESION[2] * scale)) ** 2 + ((columns - LESION[1]) / (LESION[3] * scale)) ** 2 < 1
        grey = np.clip(rng.gamma(6, 18, (ROWS, COLUMNS)) * np.where(inside, 0.5, 1.0) + 12, 0, 220) * tissue
        grey[4:12, 8:100:3] = TEXT  # a line of text above the region
        grey[36:44, 44:90:3] = TEXT  # one within it, beside the sector
        rgb = np.repeat(grey[..., None], 3, axis=2)
        if picture.colour == "caliper":
            rgb[120, 150:160] = rgb[115:126, 155] = (255, 255, 0)
        if picture.colour == "white caliper":
            rgb[120, 150:160] = rgb[115:126, 155] = TEXT
        if picture.colour == "doppler":
            rgb[100:160, 140:200] = (200, 30, 20)
        frames.append(rgb.astype(np.uint8))
    return np.stack(frames)


def make(picture: Picture = Picture()) -> Dataset:
    """Return one ultrasound image with uncompressed pixels, Explicit VR Little Endian."""
    d = Dataset()
    many = picture.frames > 1
    d.SpecificCharacterSet = "ISO_IR 100"
    d.SOPClassUID = UltrasoundMultiFrameImageStorage if many else UltrasoundImageStorage
    d.SOPInstanceUID = generate_uid(entropy_srcs=["tests", "us", str(picture.series), str(picture.number)])
    d.StudyInstanceUID, d.SeriesInstanceUID = STUDY, generate_uid(entropy_srcs=["tests", "us series", str(picture.series)])
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "TEST^PHANTOM", "T-1", "19700101", "F"
    d.StudyDate, d.StudyTime, d.StudyID, d.AccessionNumber, d.ReferringPhysicianName = "20260101", "101500", "1", "A1", ""
    d.StudyDescription, d.Modality, d.Manufacturer = "US transvaginal", "US", "TESTVENDOR"
    d.SeriesNumber, d.SeriesDescription, d.InstanceNumber = picture.series, "B-mode", picture.number
    d.ImageType = ["ORIGINAL", "PRIMARY", "GYNECOLOGICAL", "0001"]
    items = (region(),) if picture.regions is None else picture.regions
    if items:
        d.SequenceOfUltrasoundRegions = list(items)
    if many:
        d.NumberOfFrames, d.FrameTime = picture.frames, "40"
        d.FrameIncrementPointer = 0x00181063
    d.Rows, d.Columns, d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = ROWS, COLUMNS, 8, 8, 7, 0
    _set_pixels(d, paint(picture), picture)
    for keyword, value in picture.attributes.items():
        setattr(d, keyword, value)
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    return d


def _set_pixels(d: Dataset, rgb: np.ndarray, picture: Picture) -> None:
    d.PhotometricInterpretation = picture.photometric
    grey = rgb[..., 0]
    if picture.photometric.startswith("MONOCHROME"):
        d.SamplesPerPixel = 1
        d.PixelData = (grey if picture.photometric == "MONOCHROME2" else 255 - grey).tobytes()
    elif picture.photometric == "PALETTE COLOR":  # stored values are 255 - grey, the tables turn them back
        d.SamplesPerPixel = 1
        for colour in ("Red", "Green", "Blue"):
            setattr(d, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(d, f"{colour}PaletteColorLookupTableData", (np.arange(255, -1, -1, dtype="<u2") << 8).tobytes())
        d.PixelData = (255 - grey).tobytes()
    else:
        d.SamplesPerPixel, d.PlanarConfiguration = 3, picture.planar
        full = rgb if picture.photometric == "RGB" else np.stack([np.asarray(Image.fromarray(f).convert("YCbCr")) for f in rgb])
        if picture.photometric == "YBR_FULL_422":  # Y1 Y2 Cb Cr of each pair, PS3.3 C.7.6.3.1.2
            pairs = np.stack([full[..., ::2, 0], full[..., 1::2, 0], full[..., ::2, 1], full[..., ::2, 2]], axis=-1)
            d.PixelData = pairs.tobytes()
        else:
            d.PixelData = (np.moveaxis(full, -1, 1) if picture.planar else full).tobytes()


def compress(d: Dataset, syntax: UID) -> Dataset:
    """Compress an image made here; JPEG Baseline by Pillow (YBR_FULL_422), the others by pydicom."""
    if syntax != JPEGBaseline8Bit:
        d.compress(syntax, generate_instance_uid=False)
        return d
    frames = d.pixel_array if int(d.get("NumberOfFrames", 1)) > 1 else d.pixel_array[None]
    encoded = []
    for frame in frames:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling="4:2:2")
        encoded.append(buffer.getvalue())
    d.PixelData = encapsulate(encoded)
    d["PixelData"].VR, d["PixelData"].is_undefined_length = "OB", True
    d.PhotometricInterpretation, d.LossyImageCompression = "YBR_FULL_422", "01"
    d.file_meta.TransferSyntaxUID = syntax
    return d


def write(folder: Path, *images: Dataset) -> list[Path]:
    """Write the instances and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{d.SOPInstanceUID}.dcm" for d in images]
    for d, path in zip(images, paths, strict=True):
        d.save_as(path, enforce_file_format=True)
    return paths


@dataclass(frozen=True)
class Outline:
    """One measurement group of a report: a shape on a frame of an image, with label and finding."""

    image: Dataset
    points: Sequence[tuple[float, float]]  # (row, column) pixel indices
    label: str = "Lesion 1"
    finding: tuple[str, str] = ("", "")  # SNOMED code and meaning
    kind: str = "POLYLINE"
    frame: int | None = None


def make_report(
    *outlines: Outline, number: int = 1, observer: str = "READER^ONE", model: str = "Workstation", time: str = "110000"
) -> Dataset:
    """Return a structured report with one measurement group per outline, as TID 1500 and TID 1410 nest them."""
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 100"
    image = outlines[0].image
    origin = ["tests", str(image.StudyInstanceUID), str(number)]
    d.SOPClassUID, d.SOPInstanceUID = ComprehensiveSRStorage, generate_uid(entropy_srcs=[*origin, "us report"])
    d.StudyInstanceUID, d.SeriesInstanceUID = image.StudyInstanceUID, generate_uid(entropy_srcs=[*origin, "us report series"])
    d.PatientName, d.PatientID, d.Modality, d.ManufacturerModelName = image.PatientName, image.PatientID, "SR", model
    d.SeriesNumber, d.InstanceNumber, d.SeriesDescription = 900 + number, 1, "Measurements"
    d.ContentDate, d.ContentTime = "20260101", time
    d.ValueType, d.ConceptNameCodeSequence = "CONTAINER", [_code("126000", "DCM", "Imaging Measurement Report")]
    groups = Dataset()
    groups.RelationshipType, groups.ValueType = "CONTAINS", "CONTAINER"
    groups.ConceptNameCodeSequence = [_code("126010", "DCM", "Imaging Measurements")]
    groups.ContentSequence = [_group(o) for o in outlines]
    reader = _item("PNAME", "HAS OBS CONTEXT", _code("121008", "DCM", "Person Observer Name"), PersonName=observer)
    d.ContentSequence = [reader, groups]
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    return d


def _group(outline: Outline) -> Dataset:
    image = _item("IMAGE", "SELECTED FROM", None)
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = outline.image.SOPClassUID, outline.image.SOPInstanceUID
    if outline.frame is not None:
        reference.ReferencedFrameNumber = outline.frame
    image.ReferencedSOPSequence = [reference]
    data = [float(v) + 0.5 for row, column in outline.points for v in (column, row)]
    shape = _item("SCOORD", "CONTAINS", _code("111030", "DCM", "Image Region"), GraphicType=outline.kind, GraphicData=data)
    shape.ContentSequence = [image]
    items = [_item("TEXT", "HAS OBS CONTEXT", _code("112039", "DCM", "Tracking Identifier"), TextValue=outline.label)]
    if outline.finding[0]:
        finding = _item("CODE", "CONTAINS", _code("121071", "DCM", "Finding"))
        finding.ConceptCodeSequence = [_code(outline.finding[0], "SCT", outline.finding[1])]
        items.append(finding)
    group = _item("CONTAINER", "CONTAINS", _code("125007", "DCM", "Measurement Group"))
    group.ContentSequence = [*items, shape]
    return group


def _item(kind: str, relationship: str, concept: Dataset | None, **values: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, kind
    if concept is not None:
        item.ConceptNameCodeSequence = [concept]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def rectangle(top: float, left: float, bottom: float, right: float) -> list[tuple[float, float]]:
    """Return a closed polyline around these pixel indices."""
    return [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
