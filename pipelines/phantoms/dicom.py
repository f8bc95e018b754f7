"""Phantom MR studies as DICOM: classic MR Image Storage (PS3.3 A.4), one file a slice, in the dialects of two vendors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import MRImageStorage

from pipelines.phantoms.anatomy import Pelvis
from pipelines.phantoms.ground_truth import write_seg
from pipelines.phantoms.latents import Latents
from pipelines.phantoms.modules import MR_STUDY, clock, describe_equipment, describe_series, describe_study, phantom_uid, save
from pipelines.phantoms.scanners import SEQUENCES, VENDORS, Vendor, protocols, shift
from pipelines.phantoms.shapes import Array
from pipelines.phantoms.signal import Grid, Protocol, acquire, map_adc, place
from pipelines.types import SeriesRole

_R = SeriesRole
_SERIES_S = 240  # seconds from one series to the next
_INJECTED_S = 170  # before the late phase is acquired ([LVSI]: sagittal late CE-T1WI)
_CENTRE_MM = np.array([0.0, 0.0, 2.0])  # of every grid, LPS


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
    node_short_axis_mm: float


@dataclass(frozen=True, eq=False)
class _Scan:
    """One series to be written: images (slice, row, column) by b-value, how they came about, and the tumour's share of each voxel."""

    role: SeriesRole
    protocol: Protocol
    grid: Grid
    images: dict[int, Array]
    share: Array


def write_study(
    folder: Path,
    *,
    seed: int,
    vendor: str = "SIEMENS",
    preset: str = "fast",
    with_seg: bool = False,
    latents: Latents | None = None,
    roles: Sequence[SeriesRole] = SEQUENCES["olnm_mri"],
    drawn_on: SeriesRole | None = None,
    node_short_axis_mm: float | None = None,
    site_shift: float = 0.0,
) -> PhantomTruth:
    """Write one synthetic pelvic MR study and return the planted truth.

    Parameters
    ----------
    folder : receives one subfolder per series; created where absent.
    seed : decides patient, acquisition and every UID; the same arguments write the same bytes.
    vendor : ``SIEMENS`` or ``PHILIPS``.
    preset : ``fast`` or ``full``, see :func:`pipelines.phantoms.scanners.protocols`.
    with_seg : also write the true tumour as a SEG (PS3.3 A.51).
    latents : the tumour's properties; drawn from the seed where not given, as is the largest node's ``node_short_axis_mm``.
    roles : the sequences; by default those of olnm_mri, see also :data:`pipelines.phantoms.scanners.COMPLETE`.
    drawn_on : the sequence on which the SEG is drawn; by default the first T2-weighted one, else the first.
    site_shift : how far the scanner is off from its vendor's presets, see :func:`pipelines.phantoms.scanners.shift`.
    """
    if vendor not in VENDORS:
        raise ValueError(f"unknown vendor {vendor!r}: use one of {', '.join(VENDORS)}")
    target = drawn_on or next((r for r in roles if r in (_R.T2W, _R.T2W_FS)), roles[0])
    if target not in roles:
        raise ValueError(f"the tumour cannot be drawn on {target}, which is none of {', '.join(roles)}")
    dialect, pelvis = shift(VENDORS[vendor], site_shift), Pelvis(seed, latents, node_short_axis_mm=node_short_axis_mm)
    volume_ml, seg = 0.0, None
    for number, scan in enumerate(_scan(pelvis, dialect, preset, roles, seed=seed), start=2):
        headers = _write_series(folder, scan, number, vendor=dialect, seed=seed)
        if scan.role is target:
            volume_ml = float(scan.share.sum()) * float(np.prod(scan.grid.spacing_mm)) / 1000
            if with_seg:
                seg = write_seg(folder / "tumour_seg.dcm", scan.share > 0.5, headers[: len(scan.share)], seed=seed)
    return PhantomTruth(
        folder=folder,
        patient_id=f"PHANTOM-{seed}",
        study_instance_uid=phantom_uid(seed, "study"),
        vendor=vendor,
        latents=pelvis.latents,
        tumour_volume_ml=volume_ml,
        seg=seg,
        node_short_axis_mm=pelvis.node_short_axis_mm,
    )


def _scan(pelvis: Pelvis, vendor: Vendor, preset: str, roles: Sequence[SeriesRole], *, seed: int) -> Iterator[_Scan]:
    """Yield the series of a study in their order; the scanner makes the ADC map right after the diffusion images."""
    rng, scanner = np.random.default_rng([seed, 2]), vendor.scanner
    for protocol in protocols(vendor, preset, roles):
        grid, shift_mm = place(protocol, rng, _CENTRE_MM), rng.normal(0, 0.7, 3)
        planes = 1 if preset == "fast" else 3
        images, share = acquire(pelvis, protocol, scanner=scanner, grid=grid, shift_mm=shift_mm, supersample=planes, rng=rng)
        if protocol.role in roles:
            yield _Scan(protocol.role, protocol, grid, images, share)
        if protocol.role is _R.DWI and _R.ADC in roles:
            noise = scanner.gain * scanner.noise / np.sqrt(protocol.averages)
            yield _Scan(_R.ADC, protocol, grid, {0: map_adc(images, noise)}, share)


def _write_series(folder: Path, scan: _Scan, number: int, *, vendor: Vendor, seed: int) -> list[Dataset]:
    name = vendor.names[scan.role]
    target = folder / f"{number}_{name}"
    target.mkdir(parents=True, exist_ok=True)
    common = describe_study(seed, MR_STUDY)
    common.update(describe_equipment(vendor.manufacturer, vendor.model))
    common.update(describe_series(seed, number, name, seconds=_SERIES_S * number))
    common.update(_describe_acquisition(seed, scan, number))
    slope = _slope(scan.role, vendor)
    written: list[Dataset] = []
    for b, volume in scan.images.items():
        of_b = Dataset()
        of_b.update(common)
        _describe_image(of_b, scan, vendor, b)
        for index, pixels in enumerate(np.clip(np.round(volume / slope), 0, 4095).astype("<u2")):
            ds = Dataset()
            ds.update(of_b)
            _place_image(ds, scan.grid, index, number=len(written) + 1, pixels=pixels)
            ds.SOPInstanceUID = phantom_uid(seed, "instance", number, b, index)
            written.append(save(ds, target / f"{len(written) + 1:03d}.dcm"))
    return written


def _slope(role: SeriesRole, vendor: Vendor) -> float:
    return 1.0 if role is _R.ADC else vendor.slope


def _describe_acquisition(seed: int, scan: _Scan, number: int) -> Dataset:
    """Frame of Reference, MR Image and Contrast/Bolus modules: what all images of one series share (PS3.3 C.8.3.1, C.7.6.4)."""
    protocol, grid, role = scan.protocol, scan.grid, scan.role
    diffusion, gradient_echo = protocol.role is _R.DWI, protocol.flip_deg is not None
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.FrameOfReferenceUID = phantom_uid(seed, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.MagneticFieldStrength = "3"
    ds.MRAcquisitionType = "3D" if gradient_echo else "2D"
    ds.AngioFlag = "N"
    ds.RepetitionTime, ds.EchoTime = f"{protocol.repetition_ms:g}", f"{protocol.echo_ms:g}"
    ds.EchoTrainLength = 1 if diffusion or gradient_echo else {_R.T1W: 3}.get(role, 19)
    ds.FlipAngle = f"{protocol.flip_deg:g}" if protocol.flip_deg else "90" if diffusion else "150"
    ds.NumberOfAverages = f"{protocol.averages}"
    ds.PixelBandwidth = "1700" if diffusion else "490" if gradient_echo else "200"
    ds.ImagingFrequency = "123.2"
    ds.ImagedNucleus = "1H"
    ds.InPlanePhaseEncodingDirection = "COL" if diffusion else "ROW"
    ds.SliceThickness = f"{grid.thickness_mm:g}"
    ds.SpacingBetweenSlices = f"{grid.spacing_mm[0]:g}"
    ds.PixelSpacing = [f"{v:g}" for v in grid.spacing_mm[1:]]
    if gradient_echo:
        ds.ContrastBolusAgent = "Gd-DTPA"
        ds.ContrastBolusRoute = "INTRAVENOUS"
        ds.ContrastBolusVolume = "13"
        ds.ContrastBolusStartTime = clock(_SERIES_S * number - _INJECTED_S)
    return ds


_SEQUENCE_NAMES = {_R.T1W: "*tse2d1_3", _R.T2W: "*tse2d1_19", _R.T2W_FS: "*tse2d1_19", _R.CE_T1W: "*fl3d1"}  # of Siemens


def _describe_image(ds: Dataset, scan: _Scan, vendor: Vendor, b: int) -> None:
    """Set contrast and value attributes in the vendor's dialect, with the private b-value where that vendor keeps it."""
    siemens, diffusion, protocol = vendor.manufacturer == "SIEMENS", scan.protocol.role is _R.DWI, scan.protocol
    ds.ScanningSequence = "GR" if protocol.flip_deg else ("EP" if siemens else ["SE", "EP"]) if diffusion else "SE"
    ds.SequenceVariant = ["SK", "SP"] if siemens or protocol.flip_deg else "SK"
    ds.ScanOptions = "FS" if protocol.fat_left < 1 else ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"] if siemens else ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
    if protocol.flip_deg and not siemens:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]
    if siemens:
        ds.SequenceName = _SEQUENCE_NAMES.get(scan.role, f"*ep_b{b}")
    if scan.role is _R.ADC:
        ds.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"] if siemens else ["DERIVED", "PRIMARY", "ADC", "ADC", "UNSPECIFIED"]
        ds.WindowCenter, ds.WindowWidth = "1200", "2400"
        if siemens:
            ds.SequenceName = "*ep_b0_800"
        return
    if diffusion:
        _describe_diffusion(ds, siemens, b)
    if vendor.slope != 1.0:
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", f"{vendor.slope:g}", "normalized"
    level = vendor.scanner.gain * protocol.display * (0.6 if b else 1.0)
    ds.WindowCenter, ds.WindowWidth = f"{level / 2:.0f}", f"{level:.0f}"


def _describe_diffusion(ds: Dataset, siemens: bool, b: int) -> None:
    ds.DiffusionBValue = float(b)
    ds.AcquisitionNumber = 1
    if siemens:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW" if b else "NONE", "ND"]
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(b))
    else:
        block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x03, "FL", float(b))


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
