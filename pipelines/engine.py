"""Run one system on one case: the same steps for every system, driven by its declaration and its bundle.

Training calls :func:`load_case`, :func:`prepare` and :func:`extract_features` too, so that what a model is trained on is what it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import onnxruntime

from pipelines.errors import BadGeometry, MissingRoi
from pipelines.features import radiomics
from pipelines.features.cnn import crop_cube, place_map
from pipelines.imaging.geometry import build_volume, resample_mask
from pipelines.imaging.intensity import preprocess
from pipelines.imaging.regions import find_roi
from pipelines.models import classify
from pipelines.models.bundle import Bundle
from pipelines.models.explain import explain
from pipelines.models.segment import segment
from pipelines.models.session import run_cnn
from pipelines.spec import PipelineSpec
from pipelines.types import (
    Case,
    Choice,
    Code,
    Contribution,
    Evidence,
    FloatArray,
    Measurement,
    Prediction,
    Roi,
    Series,
    SeriesRole,
)

Progress = Callable[[str], None]

_VOLUME = Code("118565006", "SCT", "Volume")
_DIAMETER = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
_ML = Code("ml", "UCUM", "ml")
_MM = Code("mm", "UCUM", "mm")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Preprocessed sequences and the roi on each one's grid."""

    images: Mapping[SeriesRole, hd.Volume]
    rois: Mapping[SeriesRole, hd.Volume]


def _silent(stage: str) -> None:
    """Report nothing."""


def load_case(series: Sequence[Series], chosen: Mapping[SeriesRole, Choice], spec: PipelineSpec) -> Case:
    """Read the chosen series into volumes, and the region that a person drew, if one came with the study.

    Raises
    ------
    InputError
        A volume cannot be built, the sequences lie in different frames of reference, or a sent region cannot be used.
    """
    volumes = {role: build_volume(choice) for role, choice in chosen.items()}
    frames = {image.header.frame_of_reference_uid: image for image in volumes.values()}
    if len(frames) > 1:
        named = ", ".join(f"{image.role} in {frame or 'none'}" for frame, image in frames.items())
        raise BadGeometry(f"the sequences of {spec.name} lie in different frames of reference: {named}")
    study = next(iter(volumes.values())).header.study_instance_uid
    return Case(study_instance_uid=study, volumes=volumes, roi=find_roi(series, volumes))


def prepare(spec: PipelineSpec, case: Case) -> Prepared:
    """Preprocess every sequence and put the roi on its grid.

    Raises
    ------
    MissingRoi
        There is no roi, or it lies outside one of the sequences.
    """
    if case.roi is None:
        raise MissingRoi()
    images = {role: preprocess(image, spec.preprocess) for role, image in case.volumes.items()}
    rois = {role: resample_mask(case.roi.volume, image) for role, image in images.items()}
    if outside := [role for role, mask in rois.items() if not mask.array.any()]:
        raise MissingRoi(f"the roi drawn on {case.roi.role} lies outside {', '.join(outside)}")
    return Prepared(images=images, rois=rois)


def extract_features(
    spec: PipelineSpec,
    prepared: Prepared,
    cnns: Mapping[SeriesRole, onnxruntime.InferenceSession],
    *,
    progress: Progress = _silent,
) -> tuple[dict[str, float], dict[SeriesRole, hd.Volume]]:
    """Return every feature, named ``<role>:<block>:<feature>``, and the activation map of each network on its sequence's grid."""
    features: dict[str, float] = {}
    maps: dict[SeriesRole, hd.Volume] = {}
    if spec.radiomics:
        progress("radiomics")
        for role in spec.radiomics.roles:
            values = radiomics.extract(prepared.images[role], prepared.rois[role], spec.radiomics)
            features |= {f"{role}:radiomics:{name}": value for name, value in values.items()}
    if spec.cnn:
        progress("cnn")
        for role in spec.cnn.roles:
            if role not in cnns:
                continue  # a training run extracts radiomics before its networks exist
            cube = crop_cube(prepared.images[role], prepared.rois[role], spec.cnn)
            output = run_cnn(cnns[role], cube.array)
            features |= {f"{role}:cnn:{i}": float(value) for i, value in enumerate(output.features)}
            maps[role] = place_map(output.cam, cube, prepared.images[role])
    return features, maps


def run(spec: PipelineSpec, bundle: Bundle, case: Case, *, progress: Progress = _silent) -> tuple[Prediction, Evidence]:
    """Predict, and keep the evidence.

    ``progress`` is called with the name of each stage as it begins.

    Raises
    ------
    InputError
        The case cannot be analysed (the job ends REFUSED).
    BundleError, InferenceError
        The bundle or the computation failed (the job ends FAILED).
    """
    roi, segmenter = case.roi, None
    if roi is None:
        progress("segment")
        roi, segmenter = _draw_roi(spec, bundle, case)
        case = Case(study_instance_uid=case.study_instance_uid, volumes=case.volumes, roi=roi, clinical=case.clinical)
    progress("preprocess")
    prepared = prepare(spec, case)
    features, maps = extract_features(spec, prepared, bundle.cnns, progress=progress)
    progress("classify")
    decision = bundle.manifest.decision
    raw = classify.select(features, decision)
    row = classify.standardise(raw, decision)
    log_odds = float(_predictor(bundle)(row[None])[0])
    progress("explain")
    shapley = explain(_predictor(bundle), row, background=bundle.background)
    evidence = Evidence(
        volumes=case.volumes,
        roi=roi,
        rois=prepared.rois,
        activation_maps=maps,
        contributions=_contributions(bundle, raw, shapley.values),
        base_log_odds=shapley.base,
        measurements=_measure(roi, features),
        segmenter=segmenter,
    )
    return _prediction(spec, bundle, log_odds, raw), evidence


def _draw_roi(spec: PipelineSpec, bundle: Bundle, case: Case) -> tuple[Roi, str]:
    model = bundle.manifest.segmenter
    if model is None:
        raise MissingRoi(f"no roi was sent and {bundle.label} has no segmenter")
    roi = segment(case.volumes[model.role], model, session=bundle.segmenter, rule=spec.roi)
    return roi, f"{model.network} {bundle.manifest.files[model.file].sha256[:12]}"


def _predictor(bundle: Bundle) -> Callable[[FloatArray], FloatArray]:
    return lambda rows: classify.calibrated_log_odds(bundle.classifier, bundle.manifest.decision, rows)


def _contributions(bundle: Bundle, raw: FloatArray, values: FloatArray) -> tuple[Contribution, ...]:
    named = [
        Contribution(
            feature=f.name.split(":", 2)[2],
            group=":".join(f.name.split(":", 2)[:2]),
            value=float(x),
            log_odds=float(phi),
        )
        for f, x, phi in zip(bundle.manifest.decision.features, raw, values, strict=True)
    ]
    return tuple(sorted(named, key=lambda c: -abs(c.log_odds)))


def _prediction(spec: PipelineSpec, bundle: Bundle, log_odds: float, raw: FloatArray) -> Prediction:
    decision, probability = bundle.manifest.decision, classify.sigmoid(log_odds)
    outside = [f.name for f, x in zip(decision.features, raw, strict=True) if not f.low <= x <= f.high]
    flags = (f"{len(outside)} of {len(raw)} features lie outside the training range: {', '.join(outside[:3])}",) if outside else ()
    return Prediction(
        system=spec.name,
        title=spec.title,
        finding=spec.finding,
        bundle_version=bundle.manifest.version,
        bundle_digest=bundle.digest,
        bundle_status=bundle.manifest.status,
        probability=probability,
        threshold=decision.threshold,
        threshold_rule=decision.threshold_rule,
        call="positive" if probability >= decision.threshold else "negative",
        flags=flags,
    )


def _measure(roi: Roi, features: Mapping[str, float]) -> tuple[Measurement, ...]:
    volume_ml = float(np.count_nonzero(roi.volume.array)) * roi.volume.voxel_volume / 1000.0
    measured = [Measurement(_VOLUME, volume_ml, _ML)]
    diameter = features.get(f"{roi.role}:radiomics:original_shape_Maximum3DDiameter")
    if diameter is not None:
        measured.append(Measurement(_DIAMETER, diameter, _MM))
    return tuple(measured)
