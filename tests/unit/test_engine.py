"""The serving engine on a small study, from files to a prediction."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom.sr.codedict import codes

from pipelines import engine
from pipelines.errors import (
    BadGeometry,
    BundleError,
    InferenceError,
    MissingRoi,
    MissingSequence,
    NotApplicable,
    UndecodablePixels,
    UnusableDrawing,
)
from pipelines.features import radiomics
from pipelines.imaging.acquisition import Ranges, acquisition, ranges
from pipelines.imaging.geometry import build_volume, centroid, from_sitk, resample_mask, to_sitk
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.bundle import Bundle, find_bundle, load_bundle
from pipelines.models.classify import calibrated_log_odds, sigmoid
from pipelines.models.explain import explain
from pipelines.spec import Radiomics
from pipelines.systems import catalogue
from pipelines.types import Case, Roi, RoiOrigin, SeriesRole
from tests import mr
from tests.bundles import write_bundle

SPEC = catalogue()["olnm_mri"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mr.write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("models"), SPEC), SPEC)


def _case(folder: Path) -> Case:
    series = read_series(find_dicom_files(folder))
    return engine.load_case(series, choose(series, SPEC), SPEC)


def test_engine_predicts_with_a_segmented_roi(study: Path, bundle: Bundle) -> None:
    stages: list[str] = []
    prediction, evidence = engine.run(SPEC, bundle, _case(study), progress=stages.append)
    assert stages == ["segment", "preprocess", "radiomics", "cnn", "classify", "explain"]
    assert 0 < prediction.probability < 1
    assert prediction.call == ("positive" if prediction.probability >= 0.4 else "negative")
    assert evidence.roi.origin is RoiOrigin.MODEL
    assert np.allclose(centroid(evidence.roi.volume), mr.CENTRE_MM, atol=1.5)
    assert set(evidence.activation_maps) == set(SPEC.required)
    for role, image in evidence.volumes.items():
        assert evidence.activation_maps[role].geometry_equal(image.volume)
        assert 0 <= evidence.activation_maps[role].array.min() <= evidence.activation_maps[role].array.max() <= 1


def test_contributions_add_up_to_the_prediction(study: Path, bundle: Bundle) -> None:
    prediction, evidence = engine.run(SPEC, bundle, _case(study))
    total = evidence.base_log_odds + sum(c.log_odds for c in evidence.contributions)
    assert sigmoid(total) == pytest.approx(prediction.probability, abs=1e-12)


def test_engine_gives_the_same_numbers_twice(study: Path, bundle: Bundle) -> None:
    first, _ = engine.run(SPEC, bundle, _case(study))
    second, _ = engine.run(SPEC, bundle, _case(study))
    assert first == second


def test_volume_lies_where_its_slices_are(real_pelvis: Path) -> None:
    series = read_series(find_dicom_files(real_pelvis))
    image = build_volume(choose(series, replace(SPEC, required=(SeriesRole.T2W,)))[SeriesRole.T2W])
    for k in (0, 7, 18):
        position = image.volume.map_indices_to_reference(np.array([[k, 0, 0]]))[0]
        assert np.allclose(position, image.sources[k].ImagePositionPatient, atol=1e-4)
    assert from_sitk(to_sitk(image.volume), frame_of_reference_uid=image.volume.frame_of_reference_uid).geometry_equal(image.volume)


def test_human_seg_wins_and_lies_where_it_was_drawn(tmp_path: Path, bundle: Bundle) -> None:
    folder = mr.write_study(tmp_path)
    sources = mr.make_series(mr.T2W_FS)
    mask = np.zeros(mr.T2W_FS.shape, dtype=np.uint8)
    mask[6:10, 30:50, 34:52] = 1
    _write_seg(folder, sources, mask)
    case = _case(folder)
    assert case.roi is not None
    assert case.roi.origin is RoiOrigin.SEG
    assert np.array_equal(case.roi.volume.array, mask)
    _, evidence = engine.run(SPEC, bundle, case)
    assert evidence.roi is case.roi
    dwi = evidence.rois[SeriesRole.DWI]
    assert np.allclose(centroid(dwi), centroid(case.roi.volume), atol=1.5)


def test_sent_region_of_implausible_size_stands_with_a_flag(study: Path, bundle: Bundle) -> None:
    case = _case(study)
    image = case.volumes[SeriesRole.T2W_FS]
    mask = np.zeros_like(image.volume.array, dtype=np.uint8)
    k, i, j = (int(n) // 2 for n in mask.shape)
    mask[k - 2 : k + 2, i - 6 : i + 6, j - 6 : j + 6] = 1
    sent = replace(case, roi=Roi(SeriesRole.T2W_FS, image.volume.with_array(mask), RoiOrigin.SEG, "sent"))
    flags = []
    for spec in (SPEC, replace(SPEC, roi=replace(SPEC.roi, max_volume_ml=2.0))):
        prediction, _ = engine.run(spec, bundle, sent)
        flags.append([flag for flag in prediction.flags if "plausible" in flag])
    ml = 4 * 12 * 12 * image.volume.voxel_volume / 1000
    assert flags == [[], [f"the region that was sent has {ml:.4g} ml, plausible are 0.1 to 2 ml"]]


def test_two_unnamed_segments_are_not_guessed(tmp_path: Path) -> None:
    folder = mr.write_study(tmp_path)
    mask = np.zeros((*mr.T2W_FS.shape, 2), dtype=np.uint8)
    mask[6:9, 30:40, 30:40, 0] = 1
    mask[6:9, 50:60, 30:40, 1] = 1
    _write_seg(folder, mr.make_series(mr.T2W_FS), mask, labels=("Bladder", "Rectum"), kind=codes.SCT.Tissue)
    with pytest.raises(MissingRoi, match='"Bladder", "Rectum"'):
        _case(folder)


def _write_seg(
    folder: Path, sources: list, mask: np.ndarray, *, labels: tuple[str, ...] = ("Tumor",), kind: object = codes.SCT.Neoplasm
) -> None:
    descriptions = [
        hd.seg.SegmentDescription(i + 1, label, codes.SCT.MorphologicallyAbnormalStructure, kind, "MANUAL")
        for i, label in enumerate(labels)
    ]
    seg = hd.seg.Segmentation(sources, mask, "BINARY", descriptions, hd.UID(), 900, hd.UID(), 1, "Reader", "Workstation", "1", "1")
    seg.save_as(folder / "seg.dcm")


def test_missing_sequences_are_named(tmp_path: Path) -> None:
    folder = mr.write_study(tmp_path, (mr.T2W, mr.DWI_B0, mr.DWI_B800))
    with pytest.raises(MissingSequence, match="no T1W series found; no T2W_FS series found"):
        _case(folder)


def test_missing_slice_is_named(tmp_path: Path) -> None:
    folder = mr.write_study(tmp_path)
    gone = mr.make_series(mr.T1W)[7]
    (folder / f"{gone.SOPInstanceUID}.dcm").unlink()
    with pytest.raises(BadGeometry, match=r"images 7 and 9 are 10\.00 mm apart, the others 5\.00 mm"):
        _case(folder)


def test_truncated_pixels_are_named(tmp_path: Path) -> None:
    folder = mr.write_study(tmp_path)
    path = folder / f"{mr.make_series(mr.T1W)[4].SOPInstanceUID}.dcm"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UndecodablePixels, match=r"series 2 .*image 5"):
        _case(folder)


def test_no_tumour_is_no_number(tmp_path: Path, bundle: Bundle) -> None:
    case = _case(mr.write_study(tmp_path))
    flat = {role: replace(image, volume=image.volume.with_array(np.ones_like(image.volume.array))) for role, image in case.volumes.items()}
    with pytest.raises(UnusableDrawing, match="found no tumour on T2W_FS") as caught:
        engine.run(SPEC, bundle, replace(case, volumes=flat))
    assert caught.value.drawing.image is flat[SeriesRole.T2W_FS]
    assert not caught.value.drawing.mask.array.any()


def test_study_of_a_man_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    case = _case(mr.write_study(tmp_path))
    volumes = {role: replace(image, sources=tuple(map(copy.deepcopy, image.sources))) for role, image in case.volumes.items()}
    case = replace(case, volumes=volumes)
    for header in (header for image in volumes.values() for header in image.sources):
        header.PatientSex = "M"
    with pytest.raises(NotApplicable, match=r"Patient's Sex \(0010,0040\) is M"):
        engine.run(SPEC, bundle, case)


def test_roi_outside_a_sequence_is_refused(study: Path, bundle: Bundle) -> None:
    case = _case(study)
    far = case.volumes[SeriesRole.T2W_FS].volume
    corner = np.zeros(far.spatial_shape, dtype=np.uint8)
    corner[0, :3, :3] = 1
    prediction_roi = engine.run(SPEC, bundle, case)[1].roi
    roi = replace(prediction_roi, volume=far.with_array(corner))
    moved = {**case.volumes}
    t1 = moved[SeriesRole.T1W]
    moved[SeriesRole.T1W] = replace(t1, volume=t1.volume[8:, 20:, 20:])
    with pytest.raises(MissingRoi, match="lies outside T1W"):
        engine.prepare(SPEC, replace(case, roi=roi, volumes=moved))


def test_radiomics_sees_slices_as_slices() -> None:
    """``Volume.to_simpleitk`` puts the slice axis first, and ``force2D`` features are then those of another image."""
    array = np.random.default_rng(3).normal(200, 60, (6, 20, 24)).astype(np.float32)
    affine = np.diag([5.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    image = hd.Volume(array, affine, "PATIENT")
    mask = image.with_array(np.pad(np.ones((4, 12, 14), dtype=np.uint8), ((1, 1), (4, 4), (5, 5))))
    block = replace(
        SPEC.blocks_of(Radiomics)[0], image_types={"Original": {}}, classes={"glcm": ("JointEntropy",)}, settings={"force2D": True}, count=1
    )
    ours = radiomics.extract(image, mask, block)["original_glcm_JointEntropy"]
    import SimpleITK as sitk
    from radiomics import featureextractor

    extractor = featureextractor.RadiomicsFeatureExtractor(force2D=True)
    extractor.disableAllFeatures()
    extractor.enableFeaturesByName(glcm=["JointEntropy"])
    as_read = [sitk.GetImageFromArray(a) for a in (array, mask.array)]
    for one in as_read:
        one.SetSpacing((1.0, 1.0, 5.0))
    assert ours == pytest.approx(float(extractor.execute(*as_read)["original_glcm_JointEntropy"]), rel=1e-12)
    slice_first = extractor.execute(image.to_simpleitk(), mask.to_simpleitk())
    assert ours != pytest.approx(float(slice_first["original_glcm_JointEntropy"]), rel=1e-4)


def test_radiomics_count_is_exact(study: Path, bundle: Bundle) -> None:
    _, evidence = engine.run(SPEC, bundle, _case(study))
    role = SeriesRole.T2W_FS
    block = SPEC.blocks_of(Radiomics)[0]
    assert block is not None
    assert len(radiomics.extract(evidence.volumes[role].volume, evidence.rois[role], block)) == 1198
    with pytest.raises(InferenceError, match="1198 features, the profile declares 1197"):
        radiomics.extract(evidence.volumes[role].volume, evidence.rois[role], replace(block, count=1197))


def test_shapley_values_of_a_linear_model_are_exact(bundle: Bundle) -> None:
    weights = np.array([0.7, -1.2, 0.4])
    background = np.random.default_rng(0).normal(size=(20, 3))
    row = np.array([1.0, -2.0, 0.5])
    result = explain(lambda rows: rows @ weights, row, background=background)
    assert np.allclose(result.values, weights * (row - background.mean(axis=0)), atol=1e-12)
    assert result.base + result.values.sum() == pytest.approx(float(row @ weights), abs=1e-12)


def test_probability_is_the_logistic_regression_of_the_bundle(bundle: Bundle) -> None:
    decision = bundle.manifest.decision
    rows = np.random.default_rng(5).normal(size=(50, len(decision.features)))
    weights = np.linspace(0.5, -0.3, rows.shape[1])
    expected = 1.1 * 2 * (rows @ weights) - 0.2  # a softmax of (-s, s) has log-odds 2 s
    assert np.allclose(calibrated_log_odds(bundle.model.classifier, decision, rows), expected, atol=1e-4)


def test_altered_bundle_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, SPEC)
    graph = folder / "classifier.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"classifier\.onnx was altered"):
        load_bundle(folder, SPEC)


def test_bundle_of_another_method_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, SPEC)
    changed = replace(SPEC, b_value=1000.0)
    with pytest.raises(BundleError, match="trained under another version of the method"):
        load_bundle(folder, changed)


def test_mask_keeps_its_place_on_another_grid(study: Path) -> None:
    case = _case(study)
    source, target = case.volumes[SeriesRole.T2W_FS].volume, case.volumes[SeriesRole.DWI].volume
    k, r, c = np.indices(source.spatial_shape)
    points = source.map_indices_to_reference(np.stack([k, r, c], -1).reshape(-1, 3)).reshape(*source.spatial_shape, 3)
    ellipsoid = (((points - mr.CENTRE_MM) / mr.RADII_MM) ** 2).sum(-1) < 1
    moved = resample_mask(source.with_array(ellipsoid.astype(np.uint8)), target)
    assert np.allclose(centroid(moved), mr.CENTRE_MM, atol=0.5)
    volume = float(moved.array.sum()) * target.voxel_volume
    assert volume == pytest.approx(ellipsoid.sum() * source.voxel_volume, rel=0.05)


def _with_status(folder: Path, status: str) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"status": "demo"', f'"status": "{status}"'))


def test_best_proven_and_highest_bundle_is_used(tmp_path: Path) -> None:
    for version in ("demo-2", "demo-10"):
        write_bundle(tmp_path, SPEC, version=version)
    assert find_bundle(tmp_path, SPEC).name == "demo-10"
    _with_status(write_bundle(tmp_path, SPEC, version="clinic-1"), "research")
    assert find_bundle(tmp_path, SPEC).name == "clinic-1"


def test_study_acquired_unlike_the_training_cohort_is_told_so(study: Path, bundle: Bundle) -> None:
    case = _case(study)
    own = {role: acquisition(image.header) for role, image in case.volumes.items()}
    assert {"EchoTime", "RepetitionTime", "SpacingBetweenSlices", "PixelSpacing"} <= own[SeriesRole.T1W].keys()
    assert own[SeriesRole.DWI]["DiffusionBValue"] == 800
    assert own[SeriesRole.T2W_FS]["PixelSpacing"] == pytest.approx(case.volumes[SeriesRole.T2W_FS].volume.spacing[1], abs=1e-4)
    near = {role: {keyword: 1.09 * value for keyword, value in numbers.items()} for role, numbers in own.items()}

    def flags(known: Ranges) -> list[str]:
        training = bundle.manifest.training.model_copy(update={"acquisition": known})
        manifest = bundle.manifest.model_copy(update={"training": training})
        prediction, _ = engine.run(SPEC, replace(bundle, manifest=manifest), case)
        return [flag for flag in prediction.flags if flag.startswith("acquired")]

    assert flags({}) == flags(ranges([own])) == flags(ranges([near])) == []
    echo = own[SeriesRole.T1W]["EchoTime"]
    other = own | {SeriesRole.T1W: own[SeriesRole.T1W] | {"EchoTime": 2 * echo}}
    (flag,) = flags(ranges([other, other | {SeriesRole.T1W: {"EchoTime": 3 * echo}}]))
    assert flag == f"acquired outside the range of the training cohort: T1W EchoTime {echo:g} ({2 * echo:g} to {3 * echo:g} ms)"
