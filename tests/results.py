"""A finished run made in code: three oblique sequences, an ellipsoid roi, random maps and contributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread

from pipelines.imaging.multiframe import expand
from pipelines.imaging.series import read_series
from pipelines.imaging.ultrasound_case import choose_image, load_ultrasound
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import (
    BundleStatus,
    ClinicalValue,
    Code,
    Contribution,
    Evidence,
    ImageVolume,
    Measurement,
    NomogramRow,
    Outcome,
    Prediction,
    Refusal,
    Roi,
    RoiOrigin,
    SeriesHeader,
    SeriesRole,
)
from structured_reports.build import build_refusal, build_result
from structured_reports.context import ReportContext
from tests import mr, us

CREATED_AT = datetime(2026, 1, 2, 9, 30, 15, tzinfo=UTC)
SEQUENCES = {SeriesRole.T1W: mr.T1W, SeriesRole.T2W_FS: mr.T2W_FS, SeriesRole.DWI: mr.DWI_B800}
VOLUME = Code("118565006", "SCT", "Volume")
DIAMETER = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
ML, MM, MM2_S = (Code(unit, "UCUM", unit) for unit in ("ml", "mm", "mm2/s"))
STILL = us.Picture()
DRAWN = (
    "drawn by the segmentation network (unet2d); largest part, 97% of what it marked; slices filled: 0; 29 mm across (usual: 8 to 70 mm)"
)
_FEATURES = (
    ("DWI:radiomics", "log-sigma-1-0-mm-3D_glszm_SmallAreaHighGrayLevelEmphasis"),
    ("T2W_FS:radiomics", "original_shape_Sphericity"),
    ("DWI:cnn", "17"),
    ("T1W:radiomics", "wavelet-LLH_glcm_JointEntropy"),
    ("T2W_FS:cnn", "203"),
    ("T2W_FS:radiomics", "exponential_firstorder_90Percentile"),
    ("DWI:radiomics", "squareroot_glrlm_LongRunHighGrayLevelEmphasis"),
    ("T1W:cnn", "5"),
    ("T1W:radiomics", "original_firstorder_Skewness"),
    ("DWI:radiomics", "square_glcm_Idmn"),
)


@dataclass(frozen=True, eq=False)
class Result:
    """What the builder is called with."""

    sources: tuple[Dataset, ...]
    prediction: Prediction
    evidence: Evidence
    context: ReportContext

    def build(self) -> list[Dataset]:
        """Return the objects."""
        return build_result(self.sources, self.prediction, self.evidence, self.context)

    def save(self, folder: Path) -> dict[str, Path]:
        """Write sources and objects as files; return those of the objects by name."""
        (folder / "sources").mkdir(parents=True, exist_ok=True)
        for i, source in enumerate(self.sources):
            source.save_as(folder / "sources" / f"{i:03d}.dcm", enforce_file_format=True)
        return save_objects(self.build(), folder)

    def refuse(self, refusal: Refusal) -> list[Dataset]:
        """Return the objects of a refusal on the same sources."""
        return build_refusal(self.sources, refusal, self.context)


def save_objects(objects: list[Dataset], folder: Path) -> dict[str, Path]:
    """Write objects as the node does; return the files by name: sc1, sc2, ..., seg, gfx, sr."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for d in objects:
        name = {9201: "sr", 9202: "gfx", 9101: "seg"}.get(d.SeriesNumber, f"sc{d.InstanceNumber}")
        files[name] = folder / f"{name}.dcm"
        d.save_as(files[name], enforce_file_format=True)
    return files


SIX_CLASSES = (0.041, None, 0.012, None, 0.128, 0.0004, 0.7906, 0.028)
EIGHT_CLASSES = (0.03351, 0.01451, 0.01151, 0.00651, 0.08851, 0.00051, 0.79043, 0.05451)  # the percentages sum to 100.3


def make_classes(shares: Sequence[float | None] = SIX_CLASSES, **changes: Any) -> Result:
    """Make a run of the system that tells eight classes apart, of which its cohort had those with a share."""
    classes_of = catalogue()["histotype_mri"].classes
    names = [label.code.meaning for label in classes_of]
    seen = [(i, p) for i, p in enumerate(shares) if p is not None]
    classes = [Outcome(classes_of[i].code, p, "class", names[i]) for i, p in seen]
    axes = [
        Outcome(code, sum(p for i, p in seen if classes_of[i].axes[axis]), "axis", code.meaning)
        for axis, code in enumerate(catalogue()["histotype_mri"].axes)
    ]
    result = make_result(measurements=(Measurement(VOLUME, 10.56, ML),))
    spec = catalogue()["histotype_mri"]
    prediction = make_prediction(
        **{
            "system": spec.name,
            "title": spec.title,
            "finding": spec.finding,
            "probability": 0.7906,
            "threshold": None,
            "call": "class",
            "interval": None,
            "outcomes": (*axes, *sorted(classes, key=lambda o: -o.probability)),
            "unpredictable": tuple(name for name, p in zip(names, shares, strict=True) if p is None),
            **changes,
        }
    )
    return Result(result.sources, prediction, result.evidence, replace(result.context, spec=spec))


def make_ultrasound(picture: us.Picture = STILL, *, activation: bool = True, **changes: Any) -> Result:
    """Make a run on one ultrasound image, whose region a person outlined in a report, with a nomogram."""
    image = us.make(picture)
    rows, columns = np.indices((us.ROWS, us.COLUMNS))
    angles = np.linspace(0, 2 * np.pi, 60)
    outline = [(us.LESION[0] + us.LESION[2] * np.sin(a), us.LESION[1] + us.LESION[3] * np.cos(a)) for a in angles]
    many = picture.frames > 1
    report = us.make_report(us.Outline(image, outline, label="Tumour", frame=2 if many else None))
    with TemporaryDirectory() as folder:
        series = read_series(us.write(Path(folder), image, report))
        case = load_ultrasound(series, choose_image(series))
    (volume,), roi = case.volumes.values(), case.roi
    assert roi and case.frame
    centre = np.argwhere(roi.volume.array[0]).mean(axis=0)
    rows, columns = np.indices(roi.volume.array.shape[1:])
    cam = np.exp(-(((rows - centre[0] + 12) / 22) ** 2 + ((columns - centre[1]) / 30) ** 2)).astype(np.float32)[None]
    contributions = (
        Contribution("log_odds", "SCORE:model", 0.4, 0.7),
        Contribution("rbc_1e12_per_l", "CLINICAL:value", 3.9, 0.31),
        Contribution("max_tumour_diameter_mm", "CLINICAL:value", 24.0, -0.2),
    )
    beta = {"max_tumour_diameter_mm": 0.0535, "rbc_1e12_per_l": -0.437, "score": 1.0}
    ranges = {"max_tumour_diameter_mm": (10.0, 60.0, 24.0), "rbc_1e12_per_l": (2.5, 5.5, 3.9), "score": (-3.0, 3.0, 0.4)}
    labels = {"max_tumour_diameter_mm": ("Maximum tumour diameter", "mm"), "rbc_1e12_per_l": ("Red blood cells", "10^12/L")}
    widest = max(abs(beta[n]) * (high - low) for n, (low, high, _) in ranges.items())
    lines = []
    for name, (low, high, value) in ranges.items():
        scale, start = 100 * beta[name] / widest, low if beta[name] > 0 else high
        words, unit = labels.get(name, ("Imaging score (log-odds)", ""))
        points = [scale * (v - start) for v in (value, low, high)]
        lines.append(NomogramRow(name, words, value, unit, low, high, *points, beta[name] * value))
    evidence = Evidence(
        volumes=case.volumes,
        roi=roi,
        rois={SeriesRole.TVUS: roi.volume},
        activation_maps={SeriesRole.TVUS: volume.volume.with_array(cam)} if activation else {},
        contributions=contributions,
        base_log_odds=-0.2,
        measurements=(Measurement(DIAMETER, 24.1, MM),),
        clinical=(ClinicalValue("rbc_1e12_per_l", 3.9, "3.9 10^12/L", "entered"),),
        nomogram=tuple(lines),
        frame=case.frame,
    )
    spec = catalogue()["plnm_us"]
    fields = {"system": spec.name, "title": spec.title, "finding": spec.finding, "probability": 0.6921, "flags": (), **changes}
    sources = (_received(image), _received(report))
    volumes = {SeriesRole.TVUS: replace(volume, sources=(sources[0],))}
    return Result(sources, make_prediction(**fields), replace(evidence, volumes=volumes), make_context(spec=spec))


def olnm() -> PipelineSpec:
    """Return the declared system."""
    return catalogue()["olnm_mri"]


def make_result(*, origin: RoiOrigin = RoiOrigin.MODEL, measurements: tuple[Measurement, ...] | None = None, **identity: Any) -> Result:
    """Make a run; ``identity`` overrides attributes of every source, ``None`` removes them."""
    overrides = {k: v for k, v in identity.items() if v is not None}
    volumes, rois, maps = {}, {}, {}
    rng = np.random.default_rng(11)
    for role, sequence in SEQUENCES.items():
        instances = mr.make_series(sequence, **overrides)
        for d in instances:
            for keyword in (identity.keys() - overrides.keys()) & set(d.dir()):
                del d[keyword]
        volumes[role] = _volume(role, sequence, instances)
        rois[role] = _ellipsoid(volumes[role].volume, mr.RADII_MM)
        maps[role] = _activation(volumes[role].volume, rng)
    shapley = [1.31, -0.82, 0.64, 0.42, -0.33, 0.21, 0.12, -0.09, 0.04, 0.01]
    contributions = tuple(Contribution(f, g, 0.5, v) for (g, f), v in zip(_FEATURES, shapley, strict=True))
    evidence = Evidence(
        volumes=volumes,
        roi=Roi(SeriesRole.T2W_FS, rois[SeriesRole.T2W_FS], origin, DRAWN),
        rois=rois,
        activation_maps=maps,
        contributions=contributions,
        base_log_odds=-0.6,
        measurements=measurements or (Measurement(VOLUME, 10.56, ML), Measurement(DIAMETER, 30.2, MM), Measurement(ADC, 0.000912, MM2_S)),
        segmenter="unet2d 1a2b3c4d5e6f" if origin is RoiOrigin.MODEL else None,
    )
    sources = tuple(d for image in volumes.values() for d in image.sources)
    return Result(sources, make_prediction(), evidence, make_context())


def make_enhanced(**identity: Any) -> Result:
    """Make a run whose outlined sequence came as one Enhanced MR instance, the frames in the opposite order of the slices."""
    result = make_result(**identity)
    role, volumes = result.evidence.roi.role, result.evidence.volumes
    whole = _received(mr.make_enhanced(mr.make_series(SEQUENCES[role], **identity)[::-1]))
    header = replace(volumes[role].header, sop_class_uid=whole.SOPClassUID, n_instances=1)
    volumes = {**volumes, role: replace(volumes[role], header=header, sources=expand([whole])[::-1])}
    sources = (whole, *(d for other, image in volumes.items() if other is not role for d in image.sources))
    return replace(result, sources=sources, evidence=replace(result.evidence, volumes=volumes))


def make_prediction(**changes: Any) -> Prediction:
    """Return a positive prediction of a demo bundle."""
    spec = olnm()
    fields: dict[str, Any] = {
        "system": spec.name,
        "title": spec.title,
        "finding": spec.finding,
        "bundle_version": "1.0.0",
        "bundle_digest": "ab12" * 16,
        "bundle_status": BundleStatus.DEMO,
        "probability": 0.7134,
        "threshold": 0.482,
        "threshold_rule": "Youden on cross-validation",
        "call": "positive",
        "interval": (0.581, 0.822),
        "flags": ("2 of 150 features lie outside the training range: DWI:cnn:17, T1W:radiomics:original_firstorder_Skewness",),
    }
    return Prediction(**{**fields, **changes})


def make_context(**changes: Any) -> ReportContext:
    """Return the circumstances of version 1 at station CERVINODE."""
    return ReportContext(**{"spec": olnm(), "created_at": CREATED_AT, "station": "CERVINODE", **changes})


def _volume(role: SeriesRole, sequence: mr.Sequence, instances: list[Dataset]) -> ImageVolume:
    first, last = (np.asarray(d.ImagePositionPatient, dtype=float) for d in (instances[0], instances[-1]))
    along_row, down_column, _ = mr.orientation(sequence.tilt_deg)
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(instances) - 1)
    affine[:3, 1], affine[:3, 2], affine[:3, 3] = down_column * sequence.spacing_mm[1], along_row * sequence.spacing_mm[2], first
    pixels = np.stack([np.frombuffer(d.PixelData, "<u2").reshape(d.Rows, d.Columns) for d in instances]).astype(np.float32)
    header = SeriesHeader(
        study_instance_uid=instances[0].StudyInstanceUID,
        series_instance_uid=instances[0].SeriesInstanceUID,
        modality="MR",
        series_number=sequence.number,
        description=sequence.description,
        sop_class_uid=instances[0].SOPClassUID,
        n_instances=len(instances),
    )
    frame = instances[0].FrameOfReferenceUID
    volume = hd.Volume(pixels, affine, coordinate_system="PATIENT", frame_of_reference_uid=frame)
    return ImageVolume(
        role, header, volume, tuple(_received(d) for d in instances), f"echo time {sequence.te_ms} ms, repetition time {sequence.tr_ms} ms"
    )


def _received(d: Dataset) -> Dataset:
    """Return the header as a listener reads it from the file."""
    file = BytesIO()
    d.save_as(file, enforce_file_format=True)
    file.seek(0)
    return dcmread(file, stop_before_pixels=True)


def _points(volume: hd.Volume) -> np.ndarray:
    indices = np.stack(np.indices(volume.spatial_shape), axis=-1)
    return indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _ellipsoid(volume: hd.Volume, radii_mm: np.ndarray) -> hd.Volume:
    inside = (((_points(volume) - mr.CENTRE_MM) / radii_mm) ** 2).sum(-1) < 1
    return volume.with_array(inside.astype(np.uint8))


def _activation(volume: hd.Volume, rng: np.random.Generator) -> hd.Volume:
    centre = mr.CENTRE_MM + rng.normal(0, 5, 3)
    return volume.with_array(np.exp(-(((_points(volume) - centre) / 14.0) ** 2).sum(-1)).astype(np.float32))
