"""Run one system on one case: the same steps for every system, driven by its declaration and its bundle.

Training calls :func:`load_case`, :func:`prepare` and :func:`extract_features` too, so that what a model is trained on is what it is served.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import highdicom as hd
import onnxruntime

from pipelines.decide import check_inclusion, decide
from pipelines.errors import BadGeometry, MissingRoi, NotApplicable
from pipelines.features import clinical, histogram, radiomics
from pipelines.features.cnn import crop, occlusion_maps, place_maps
from pipelines.imaging.acquisition import unlike
from pipelines.imaging.elements import text
from pipelines.imaging.geometry import build_volume, resample_mask
from pipelines.imaging.intensity import preprocess
from pipelines.imaging.regions import find_roi
from pipelines.imaging.registration import register
from pipelines.imaging.sequences import settle
from pipelines.imaging.ultrasound_case import load_ultrasound
from pipelines.measure import measure
from pipelines.memo import SHARED, digest
from pipelines.models.bundle import Bundle
from pipelines.models.segment import segment
from pipelines.models.session import Float32Array, has_map, run_cnn, takes_status
from pipelines.spec import Cnn, Histogram, PipelineSpec, Radiomics, Triplets
from pipelines.types import Case, Choice, Evidence, FloatArray, ImageVolume, Prediction, Roi, Series, SeriesRole

Progress = Callable[[str], None]


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
    if SeriesRole.TVUS in chosen:  # has no patient coordinates, so it goes with no other sequence
        return load_ultrasound(series, chosen[SeriesRole.TVUS], names=spec.roi_names)
    volumes = {role: _read_volume(settle(choice, series, spec)) for role, choice in chosen.items()}
    if spec.other_frame == "refuse":
        _check_one_frame(volumes, spec)
    roi = find_roi(series, volumes, names=spec.roi_names)
    anchor = volumes[roi.role if roi else next((role for role in spec.roi.roles if role in volumes), next(iter(volumes)))]
    frame = anchor.header.frame_of_reference_uid
    joined = {role: v if v.header.frame_of_reference_uid == frame else register(v, anchor) for role, v in volumes.items()}
    return Case(study_instance_uid=anchor.header.study_instance_uid, volumes=joined, roi=roi)


def _read_volume(choice: Choice) -> ImageVolume:
    stored = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in dict.fromkeys(str(d.filename) for d in choice.instances)]
    numbers = [(text(f, "SOPInstanceUID"), getattr(f, "frame_number", 0)) for f in choice.frames]
    return SHARED.get(digest("volume", choice.role, choice.score, choice.reason, stored, numbers), lambda: build_volume(choice))


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
    images = {role: _preprocess(image, spec) for role, image in case.volumes.items()}
    rois = {role: resample_mask(case.roi.volume, image) for role, image in images.items()}
    if outside := [role for role, mask in rois.items() if not mask.array.any()]:
        raise MissingRoi(f"the roi drawn on {case.roi.role} lies outside {', '.join(outside)}")
    return Prepared(images=images, rois=rois)


def _preprocess(image: ImageVolume, spec: PipelineSpec) -> hd.Volume:
    rule, role = spec.preprocess, image.role
    key = digest("preprocess", role, role in rule.n4, role in rule.normalise, image.volume)
    return SHARED.get(key, lambda: preprocess(image, rule))


def extract_features(
    spec: PipelineSpec,
    prepared: Prepared,
    bundle: Bundle | None = None,
    *,
    progress: Progress = _silent,
) -> tuple[dict[str, float], dict[SeriesRole, hd.Volume]]:
    """Return every feature, named ``<role>:<block>:<feature>``, and the activation map of each network on its sequence's grid.

    Sequences that the case does not have are left out; so are networks, which come with the bundle, in a training run.
    """
    features: dict[str, float] = {}
    maps: dict[SeriesRole, hd.Volume] = {}
    for block in spec.blocks:
        progress(block.name)
        for role in (role for role in block.roles if role in prepared.images):
            image, mask = prepared.images[role], prepared.rois[role]
            if isinstance(block, Radiomics):
                values = _measure_radiomics(image, mask, block)
            elif isinstance(block, Histogram):
                values = histogram.extract(image, mask)
            elif bundle and role in bundle.cnns:
                key = digest("look", bundle.cnn_digests[role], block, image, mask)
                values, maps[role] = SHARED.get(key, partial(_look, bundle.cnns[role], image, mask, block))
            else:
                continue
            features |= {f"{role}:{block.name}:{name}": value for name, value in values.items()}
    return features, maps


def _measure_radiomics(image: hd.Volume, mask: hd.Volume, block: Radiomics) -> dict[str, float]:
    profile = (block.image_types, block.classes, block.settings, block.count, block.plane)
    return SHARED.get(digest("radiomics", profile, image, mask), lambda: radiomics.extract(image, mask, block))


def _look(session: onnxruntime.InferenceSession, image: hd.Volume, mask: hd.Volume, block: Cnn) -> tuple[dict[str, float], hd.Volume]:
    views = crop(block.view, image, mask)
    values, cams = network_features(session, views.array, block)
    if not has_map(session):
        cams = occlusion_maps(lambda shown: run_cnn(session, shown).logits, views.array)
    return values, place_maps(cams, views, image)


def network_features(session: onnxruntime.InferenceSession, views: Float32Array, block: Cnn) -> tuple[dict[str, float], FloatArray]:
    """Return a network's features by their names within the block, and its own activation maps, of a patient's views (n, channels, ...)."""
    output = run_cnn(session, views)
    if not isinstance(block.view, Triplets):
        return {str(i): float(value) for i, value in enumerate(output.features[0])}, output.cams
    # [HSCORE] gives one number per triplet; the patient's is their mean.
    values = {"dl": float(output.logits.mean())}
    if block.status and takes_status(session):
        values |= {f"h{state}": float(run_cnn(session, views, status=state).joint_logits.mean()) for state in (0, 1)}
    return values, output.cams


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
    _check_sex(spec, case)
    notes = check_inclusion(spec, case.clinical)
    if case.frame and case.frame.spacing_mm is None:
        notes = (*notes, "the image has no calibration: nothing was measured in millimetres, and features of size are in pixels")
    if strange := unlike(case.volumes, bundle.manifest.training.acquisition):
        notes = (*notes, strange)
    roi, segmenter = case.roi, None
    if roi is None:
        progress("segment")
        roi, segmenter = _draw_roi(spec, bundle, case)
        case, notes = replace(case, roi=roi), (*notes, *roi.notes)
    else:
        notes = (*notes, *_implausible(spec, case, roi))
    progress("preprocess")
    prepared = prepare(spec, case)
    features, maps = extract_features(spec, prepared, bundle, progress=progress)
    progress("classify")
    roles = tuple(role for role in case.volumes if role in spec.required)
    decided = decide(spec, bundle, features | clinical.features(case.clinical), roles=roles, progress=progress)
    evidence = Evidence(
        volumes=case.volumes,
        roi=roi,
        rois=prepared.rois,
        activation_maps=maps,
        occluded=frozenset(role for role in maps if not has_map(bundle.cnns[role])),
        contributions=decided.contributions,
        base_log_odds=decided.base_log_odds,
        measurements=measure(roi, case, rois=prepared.rois),
        segmenter=segmenter,
        clinical=tuple(case.clinical.values()),
        nomogram=decided.nomogram,
        frame=case.frame,
    )
    return replace(decided.prediction, flags=(*decided.prediction.flags, *notes)), evidence


def _check_sex(spec: PipelineSpec, case: Case) -> None:
    """Refuse a study that was routed here by mistake: a man's pelvis has no cervix, and a segmenter finds something in any image."""
    header = next(iter(case.volumes.values())).sources[0]
    if text(header, "PatientSex") == "M":
        raise NotApplicable(f"{spec.title} does not apply: Patient's Sex (0010,0040) is M")


def _implausible(spec: PipelineSpec, case: Case, roi: Roi) -> tuple[str, ...]:
    """Return a note on a region of implausible size that a person sent: what a person drew is not refused."""
    if case.frame and case.frame.spacing_mm is None:
        return ()
    scale, unit = (1000.0, "mm2") if case.frame else (1.0, "ml")
    volume_ml = float(roi.volume.array.sum()) * roi.volume.voxel_volume / 1000.0
    low, high = spec.roi.min_volume_ml, spec.roi.max_volume_ml
    if low <= volume_ml <= high:
        return ()
    return (f"the region that was sent has {scale * volume_ml:.4g} {unit}, plausible are {scale * low:g} to {scale * high:g} {unit}",)


def _draw_roi(spec: PipelineSpec, bundle: Bundle, case: Case) -> tuple[Roi, str]:
    model = bundle.manifest.segmenter
    if model is None:
        raise MissingRoi(f"no roi was sent and {bundle.label} has no segmenter")
    drawable = [role for role in spec.roi.roles if role in case.volumes and role in model.roles]
    if not drawable:
        raise MissingRoi(f"no roi was sent and the study has no {' or '.join(model.roles)}, on which {bundle.label} draws it")
    graph = bundle.manifest.files[model.file].sha256
    uncalibrated = case.frame is not None and case.frame.spacing_mm is None
    rule = replace(spec.roi, min_volume_ml=0.0, max_volume_ml=math.inf) if uncalibrated else spec.roi  # its pixels have no size
    image = case.volumes[drawable[0]]
    key = digest("segment", graph, model.network, model.input, model.spacing_mm, rule, image.role, image.volume)
    roi = SHARED.get(key, lambda: segment(image, model, session=bundle.segmenter, rule=rule))
    return roi, f"{model.network} {graph[:12]}"
