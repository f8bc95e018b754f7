"""Phantom ultrasound studies as DICOM: several sections as a scanner sends them, one of which shows the tumour at its largest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from pipelines.phantoms.ground_truth import write_outline
from pipelines.phantoms.latents import UltrasoundLatents, draw_ultrasound_latents
from pipelines.phantoms.modules import COMMENT, MR_STUDY, describe_equipment, describe_series, describe_study, phantom_uid, save
from pipelines.phantoms.ultrasound import SAMPLINGS, TRANSDUCERS, Sampling, Screen, Transducer, image, lay_out, shift
from pipelines.phantoms.ultrasound_anatomy import Plane

VARIANTS = ("plain", "calipers", "cine", "uncalibrated")
PHOTOMETRICS = ("RGB", "YBR_FULL_422", "MONOCHROME2")
_KIND = "us study"  # of UIDs: an MR study of the same seed is another study of the same patient, unless the images are to join it
_TISSUE, _CENTIMETRES = 1, 3  # PS3.3 C.8.5.5.1
_FRAMES, _FRAME_MS = 5, 40
_CALIPER_RGB, _TEXT_RGB = (255, 255, 0), (190, 190, 190)
_IMAGE_S = 45  # seconds from one image to the next


@dataclass(frozen=True)
class UltrasoundTruth:
    """What was planted: the answers that a model may look for. ``report`` is the outline on the maximal section."""

    folder: Path
    patient_id: str
    study_instance_uid: str
    transducer: str
    latents: UltrasoundLatents
    section_area_mm2: float
    maximal_sop_instance_uid: str
    maximal_frame: int | None
    report: Path | None


@dataclass(frozen=True, eq=False)
class _Shot:
    """One image to be written: RGB frames (frame, row, column, 3), and the frame that shows the largest section, from 0."""

    number: int
    variant: str
    frames: NDArray[np.uint8]
    planes: Sequence[Plane]

    @property
    def best(self) -> int:
        return max(range(len(self.planes)), key=lambda i: self.planes[i].width)


def write_ultrasound_study(
    folder: Path,
    *,
    seed: int,
    transducer: str = "VOLUSON",
    preset: str = "fast",
    with_outline: bool = False,
    latents: UltrasoundLatents | None = None,
    maximal: str = "plain",
    photometric: str = "RGB",
    site_shift: float = 0.0,
    in_mr_study: bool = False,
) -> UltrasoundTruth:
    """Write one synthetic transvaginal study and return the planted truth.

    Smaller sections come first, one of them with calipers; the last image has the largest section, as the sonographer's keeper.

    Parameters
    ----------
    folder : receives the images; created where absent.
    seed : decides patient, images and every UID; the same arguments write the same bytes.
    transducer : ``VOLUSON`` or ``LOGIQ``.
    preset : ``fast`` (640 x 480, three images) or ``full`` (960 x 720, six).
    with_outline : also write the true margin as a TID 1500 report.
    latents : the tumour's properties; drawn from the seed where not given.
    maximal : how the image of the largest section comes: ``plain``, with ``calipers`` on it, as a short ``cine``, or ``uncalibrated``.
    photometric : ``RGB``, ``YBR_FULL_422`` or ``MONOCHROME2``, uncompressed.
    site_shift : how far the scanner is off from its presets, see :func:`pipelines.phantoms.ultrasound.shift`.
    in_mr_study : write them as images of the MR study of this seed (:func:`pipelines.phantoms.dicom.write_study`), not of one of their own.
    """
    _check({"transducer": (transducer, TRANSDUCERS), "preset": (preset, SAMPLINGS), "variant": (maximal, VARIANTS)})
    _check({"photometric interpretation": (photometric, PHOTOMETRICS)})
    probe, sampling = shift(TRANSDUCERS[transducer], site_shift), SAMPLINGS[preset]
    latents = latents or draw_ultrasound_latents(seed)
    screen = lay_out(probe, sampling)
    scales = (0.62, 0.80) if preset == "fast" else (0.45, 0.62, 0.55, 0.80, 0.72)
    variants = [*["plain"] * (len(scales) - 1), "calipers", maximal]
    folder.mkdir(parents=True, exist_ok=True)
    for number, (scale, variant) in enumerate(zip((*scales, 1.0), variants, strict=True), start=1):
        shot = _shoot(seed, latents, probe, sampling, scale=scale, number=number, variant=variant)
        ds = _describe(shot, probe, screen, seed=seed, photometric=photometric)
        if in_mr_study:
            ds.StudyInstanceUID, ds.StudyDescription = phantom_uid(seed, "study"), MR_STUDY
        written = save(ds, folder / f"{number:03d}.dcm")
    plane = shot.planes[shot.best]
    frame = shot.best + 1 if len(shot.planes) > 1 else None
    outline = screen.to_pixels(plane.outline())
    report = folder / "tumour_sr.dcm" if with_outline else None
    if report:
        write_outline(report, outline, written, frame=frame, diameter_mm=latents.diameter_mm, seed=seed)
    return UltrasoundTruth(
        folder=folder,
        patient_id=f"PHANTOM-{seed}",
        study_instance_uid=str(written.StudyInstanceUID),
        transducer=transducer,
        latents=latents,
        section_area_mm2=_area(plane.outline()),
        maximal_sop_instance_uid=str(written.SOPInstanceUID),
        maximal_frame=frame,
        report=report,
    )


def _check(choices: Mapping[str, tuple[str, Collection[str]]]) -> None:
    for what, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}: use one of {', '.join(known)}")


def _shoot(
    seed: int, latents: UltrasoundLatents, probe: Transducer, sampling: Sampling, *, scale: float, number: int, variant: str
) -> _Shot:
    rng = np.random.default_rng([seed, 3, number])
    sweep = scale * np.linspace(0.75, 1.0, _FRAMES)[[0, 2, 4, 3, 1]] if variant == "cine" else np.array([scale])
    planes = [Plane(seed, latents, scale=float(s), number=number) for s in sweep]
    screen, frames = lay_out(probe, sampling), []
    for plane in planes:
        picture = Image.fromarray(image(plane, probe, sampling, rng=rng)).convert("RGB")
        _write_text(picture, probe, screen)
        if variant == "calipers":
            _draw_calipers(picture, plane, screen)
        frames.append(np.asarray(picture))
    return _Shot(number, variant, np.stack(frames), planes)


def _write_text(picture: Image.Image, probe: Transducer, screen: Screen) -> None:
    """Burn in what scanners burn in: a header above the fan, settings in a corner, a centimetre ruler at the side."""
    draw, size = ImageDraw.Draw(picture), max(10, picture.height // 44)
    font = ImageFont.load_default(size)
    draw.text((6, 3), f"{COMMENT}   {probe.model}   {probe.probe}", fill=_TEXT_RGB, font=font)
    settings = f"TV {probe.frequency_mhz:g} MHz", f"D {probe.depth_mm / 10:.1f} cm", f"DR {probe.dynamic_range_db:.0f}", "MI 0.9  TIs 0.2"
    for i, line in enumerate(settings):
        draw.text((6, picture.height - (5 - i) * (size + 3)), line, fill=_TEXT_RGB, font=font)
    for i in range(int(probe.depth_mm // 10) + 1):
        row = screen.origin[0] + 10 * i / screen.pixel_mm
        draw.line([(picture.width - 12, row), (picture.width - (4 if i % 5 else 1), row)], fill=_TEXT_RGB)


def _draw_calipers(picture: Image.Image, plane: Plane, screen: Screen) -> None:
    """Draw the measurement of the longest diameter as scanners do: two coloured crosses, a dotted line, the number in a corner."""
    points = plane.outline()
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    first, second = np.unravel_index(int(distance.argmax()), distance.shape)
    ends, draw = screen.to_pixels(points[[first, second]]), ImageDraw.Draw(picture)
    for row, column in ends:
        draw.line([(column - 4, row), (column + 4, row)], fill=_CALIPER_RGB)
        draw.line([(column, row - 4), (column, row + 4)], fill=_CALIPER_RGB)
    for row, column in np.linspace(ends[0], ends[1], 14)[1:-1]:
        draw.point((column, row), fill=_CALIPER_RGB)
    size = max(10, picture.height // 44)
    text = f"1 D {distance.max() / 10:.2f} cm"
    draw.text((picture.width - 9 * size, picture.height - 2 * size), text, fill=_CALIPER_RGB, font=ImageFont.load_default(size))


def _describe(shot: _Shot, probe: Transducer, screen: Screen, *, seed: int, photometric: str) -> Dataset:
    """Return an image of the US or US Multi-frame IOD (PS3.3 A.6, A.7) without file meta information."""
    many = len(shot.frames) > 1
    ds = describe_study(seed, "US transvaginal, synthetic phantom", kind=_KIND)
    ds.update(describe_equipment(probe.manufacturer, f"{probe.model} (synthetic phantom)"))
    ds.update(describe_series(seed, 1, "Transvaginal cervix", seconds=_IMAGE_S * shot.number, kind="us series"))
    ds.SOPClassUID = UltrasoundMultiFrameImageStorage if many else UltrasoundImageStorage
    ds.SOPInstanceUID = phantom_uid(seed, "us instance", shot.number)
    ds.Modality = "US"
    ds.InstanceNumber = shot.number
    ds.PatientOrientation = ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "GYNECOLOGICAL", "0001"]
    ds.TransducerData = [probe.probe]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "YES", "00"
    if many:
        ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = len(shot.frames), str(_FRAME_MS), 0x00181063
    if shot.variant != "uncalibrated":
        ds.SequenceOfUltrasoundRegions = [_region(screen)]
    ds.Rows, ds.Columns = shot.frames.shape[1:3]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    _set_pixels(ds, shot.frames, photometric, probe.planar)
    return ds


def _region(screen: Screen) -> Dataset:
    """Return the B-mode region, calibrated in cm, with its origin where the beam axis leaves the probe (PS3.3 C.8.5.5)."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, _TISSUE, 0
    top, left, bottom, right = screen.box
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = _CENTIMETRES
    item.PhysicalDeltaX = item.PhysicalDeltaY = round(screen.pixel_mm / 10, 6)
    item.ReferencePixelX0, item.ReferencePixelY0 = round(screen.origin[1]) - left, round(screen.origin[0]) - top
    item.ReferencePixelPhysicalValueX = item.ReferencePixelPhysicalValueY = 0.0
    return item


def _set_pixels(ds: Dataset, frames: NDArray[np.uint8], photometric: str, planar: int) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1 if photometric == "MONOCHROME2" else 3, photometric
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = planar if photometric == "RGB" else 0
        ds.UltrasoundColorDataPresent = 0
    if photometric == "MONOCHROME2":
        frames = np.stack([np.asarray(Image.fromarray(f).convert("L")) for f in frames])
    elif photometric == "YBR_FULL_422":  # Y1 Y2 Cb Cr of each pair of pixels, PS3.3 C.7.6.3.1.2
        full = np.stack([np.asarray(Image.fromarray(f).convert("YCbCr")) for f in frames])
        frames = np.stack([full[..., ::2, 0], full[..., 1::2, 0], full[..., ::2, 1], full[..., ::2, 2]], axis=-1)
    elif planar:
        frames = np.moveaxis(frames, -1, 1)
    ds.PixelData = frames.tobytes()


def _area(outline: NDArray[np.float64]) -> float:
    x, z = outline.T
    return float(abs(np.sum(x * np.roll(z, -1) - z * np.roll(x, -1))) / 2)
