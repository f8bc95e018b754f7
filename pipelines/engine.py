"""Run one system on one case: the same steps for every system, driven by its declaration and its bundle.

Training calls :func:`load_case`, :func:`prepare` and :func:`extract_features` too, so that what a model is trained on is what it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np
import onnxruntime

from pipelines.errors import BadGeometry, MissingClinical, MissingRoi
from pipelines.features import clinical, radiomics
from pipelines.features.cnn import crop_cube, place_map
from pipelines.imaging.geometry import build_volume, resample_mask
from pipelines.imaging.intensity import preprocess
from pipelines.imaging.regions import find_roi
from pipelines.imaging.registration import register
from pipelines.imaging.sequences import settle
from pipelines.models import classify
from pipelines.models.bundle import Bundle, Model
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
    ImageVolume,
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

    Sequences in another frame of reference than the one that carries the roi are registered to it where the system's declaration says so;
    each one's reason then says how far it was moved.

    Raises
    ------
    InputError
        A volume cannot be built, the sequences lie in different frames of reference, or a sent region cannot be used.
    """
    volumes = {role: build_volume(settle(choice, series, spec)) for role, choice in chosen.items()}
    if spec.other_frame == "refuse":
        _check_one_frame(volumes, spec)
    roi = find_roi(series, volumes, names=spec.roi_names)
    anchor = volumes[roi.role if roi else spec.roi.role if spec.roi.role in volumes else next(iter(volumes))]
    frame = anchor.header.frame_of_reference_uid
    joined = {role: v if v.header.frame_of_reference_uid == frame else register(v, anchor) for role, v in volumes.items()}
    return Case(study_instance_uid=anchor.header.study_instance_uid, volumes=joined, roi=roi)


def _check_one_frame(volumes: Mapping[SeriesRole, ImageVolume], spec: PipelineSpec) -> None:
    frames = {image.header.frame_of_reference_uid: image for image in volumes.values()}
    if len(frames) > 1:
        named = ", ".join(f"{image.role} in {frame or 'none'}" for frame, image in frames.items())
        raise BadGeometry(f"the sequences of {spec.name} lie in different frames of reference: {named}")


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
        case = replace(case, roi=roi)
    progress("preprocess")
    prepared = prepare(spec, case)
    features, maps = extract_features(spec, prepared, bundle.cnns, progress=progress)
    progress("classify")
    features |= clinical.features(case.clinical)
    model, flags = _choose_model(bundle, features)
    raw = classify.select(features, model.decision)
    row = classify.standardise(raw, model.decision)
    log_odds = float(_predictor(model)(row[None])[0])
    progress("explain")
    shapley = explain(_predictor(model), row, background=model.background)
    evidence = Evidence(
        volumes=case.volumes,
        roi=roi,
        rois=prepared.rois,
        activation_maps=maps,
        contributions=_contributions(model, raw, shapley.values),
        base_log_odds=shapley.base,
        measurements=_measure(roi, features),
        segmenter=segmenter,
        clinical=tuple(case.clinical.values()),
    )
    return _prediction(spec, bundle, model, log_odds=log_odds, raw=raw, flags=flags), evidence


def _draw_roi(spec: PipelineSpec, bundle: Bundle, case: Case) -> tuple[Roi, str]:
    model = bundle.manifest.segmenter
    if model is None:
        raise MissingRoi(f"no roi was sent and {bundle.label} has no segmenter")
    roi = segment(case.volumes[model.role], model, session=bundle.segmenter, rule=spec.roi)
    return roi, f"{model.network} {bundle.manifest.files[model.file].sha256[:12]}"


def _choose_model(bundle: Bundle, features: Mapping[str, float]) -> tuple[Model, tuple[str, ...]]:
    """Return the bundle's model, or its imaging-only one where a clinical value is not known, with a flag that says so."""
    needed = [f.name for f in bundle.model.decision.features if f.name.startswith(clinical.FEATURE_PREFIX)]
    unknown = ", ".join(clinical.KNOWN[n.removeprefix(clinical.FEATURE_PREFIX)].title for n in needed if n not in features)
    if not unknown:
        return bundle.model, ()
    if bundle.imaging_only is None:
        raise MissingClinical(f"not known: {unknown}, and {bundle.label} has no model that does without")
    return bundle.imaging_only, (f"imaging alone was used, with the model that is made for that; not known: {unknown}",)


def _predictor(model: Model) -> Callable[[FloatArray], FloatArray]:
    return lambda rows: classify.calibrated_log_odds(model.classifier, model.decision, rows)


def _contributions(model: Model, raw: FloatArray, values: FloatArray) -> tuple[Contribution, ...]:
    named = [
        Contribution(
            feature=f.name.split(":", 2)[2],
            group=":".join(f.name.split(":", 2)[:2]),
            value=float(x),
            log_odds=float(phi),
        )
        for f, x, phi in zip(model.decision.features, raw, values, strict=True)
    ]
    return tuple(sorted(named, key=lambda c: -abs(c.log_odds)))


def _prediction(
    spec: PipelineSpec, bundle: Bundle, model: Model, *, log_odds: float, raw: FloatArray, flags: tuple[str, ...]
) -> Prediction:
    decision, probability = model.decision, classify.sigmoid(log_odds)
    outside = [f.name for f, x in zip(decision.features, raw, strict=True) if not f.low <= x <= f.high]
    if outside:
        flags += (f"{len(outside)} of {len(raw)} features lie outside the training range: {', '.join(outside[:3])}",)
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
