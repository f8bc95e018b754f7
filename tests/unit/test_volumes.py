"""Volumes from every encoding: multi-frame, compressed, unusual bits, oblique, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pipelines import engine
from pipelines.errors import BadGeometry, UndecodablePixels
from pipelines.features import radiomics
from pipelines.imaging.geometry import build_volume, from_sitk, to_sitk
from pipelines.imaging.multiframe import Frame, expand
from pipelines.imaging.pixels import read_slices
from pipelines.imaging.regions import find_roi
from pipelines.imaging.registration import register
from pipelines.imaging.sequences import choose, rank
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.spec import Radiomics
from pipelines.systems import catalogue
from pipelines.types import Choice, ImageVolume, Series, SeriesRole
from tests import mr
from tests.bundles import write_bundle

SPEC = catalogue()["olnm_mri"]
SMALL = replace(mr.T2W, shape=(6, 12, 10), spacing_mm=(5.0, 8.0, 7.0))
_NO_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def _read(folder: Path, images: list[Dataset]) -> list[Series]:
    shutil.rmtree(folder, ignore_errors=True)
    for d in images:
        mr.save(d, folder)
    return read_series(find_dicom_files(folder))


def _volume(series: Series, role: SeriesRole = SeriesRole.T2W) -> ImageVolume:
    return build_volume(Choice(role, series.header, series.instances, 90, "for a test"))


def _expected(sequence: mr.Sequence) -> np.ndarray:
    return np.stack([np.frombuffer(d.PixelData, "<u2").reshape(d.Rows, d.Columns) for d in mr.make_series(sequence)]).astype(np.float32)


def test_classic_and_enhanced_give_identical_features(tmp_path: Path) -> None:
    images = mr.make_series(mr.T2W_FS)
    classic, enhanced = (
        _volume(_read(tmp_path / n, i)[0], SeriesRole.T2W_FS)
        for n, i in (("classic", images), ("enhanced", [mr.make_enhanced(images[::-1])]))
    )
    assert enhanced.volume.geometry_equal(classic.volume)
    assert isinstance(enhanced.sources[0], Frame)
    assert [source.frame_number for source in enhanced.sources] == list(range(16, 0, -1))
    inside = (classic.volume.array > 350).astype(np.uint8)
    block = replace(
        SPEC.blocks_of(Radiomics)[0], image_types={"Original": {}}, classes={"shape": (), "firstorder": (), "glcm": ()}, count=56
    )
    first, second = (radiomics.extract(v.volume, v.volume.with_array(inside), block) for v in (classic, enhanced))
    assert first == second


def test_enhanced_study_gives_the_same_prediction_and_results_that_name_frames(tmp_path: Path) -> None:
    from pipelines.models.bundle import load_bundle
    from structured_reports.build import build_result
    from tests.results import make_context

    bundle = load_bundle(write_bundle(tmp_path / "models", SPEC), SPEC)
    groups = [(mr.T1W,), (mr.T2W_FS,), (mr.DWI_B0, mr.DWI_B800)]
    classic = read_series(find_dicom_files(mr.write_study(tmp_path / "classic")))
    enhanced = _read(tmp_path / "enhanced", [mr.make_enhanced([d for s in g for d in mr.make_series(s)]) for g in groups])
    expected, _ = engine.run(SPEC, bundle, engine.load_case(classic, choose(classic, SPEC), SPEC))
    prediction, evidence = engine.run(SPEC, bundle, engine.load_case(enhanced, choose(enhanced, SPEC), SPEC))
    assert prediction == expected
    objects = build_result([d for s in enhanced for d in s.instances], prediction, evidence, make_context())
    seg = next(d for d in objects if d.Modality == "SEG")
    (referenced,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert referenced.ReferencedSOPClassUID == pydicom.uid.EnhancedMRImageStorage
    named = [f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for f in seg.PerFrameFunctionalGroupsSequence]
    marked = np.flatnonzero(evidence.roi.volume.array.any(axis=(1, 2)))
    assert sorted(named) == sorted(evidence.volumes[SeriesRole.T2W_FS].sources[k].frame_number for k in marked)
    report = next(d for d in objects if d.Modality == "SR")
    assert any(e.keyword == "ReferencedFrameNumber" for e in report.iterall())


def test_stacks_in_one_instance_are_volumes_of_their_own(tmp_path: Path) -> None:
    axial = mr.make_series(mr.T2W, StackID="1")
    sagittal = mr.make_series(mr.T2W, StackID="2", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    for i, d in enumerate(sagittal):
        d.ImagePositionPatient = [5.0 * i, -50, 50]
    beside = mr.make_series(mr.T2W, StackID="3")
    for d in beside:
        d.ImagePositionPatient = [v + s for v, s in zip(d.ImagePositionPatient, (0, 0, 300), strict=True)]
    (series,) = _read(tmp_path, [mr.make_enhanced([*axial, *sagittal, *beside])])
    found = rank([series], SPEC)[SeriesRole.T2W]
    assert [(c.frames[0].StackID, len(c.frames), c.score) for c in found] == [("3", 16, 90), ("1", 16, 90), ("2", 16, 75)]
    assert all(np.array_equal(np.sort(build_volume(c).volume.array, None), np.sort(_expected(mr.T2W), None)) for c in found)
    continued = [*mr.make_series(mr.T2W, StackID="1")[:7], *mr.make_series(mr.T2W, StackID="2")[7:]]
    (whole,) = rank(_read(tmp_path, [mr.make_enhanced(continued)]), SPEC)[SeriesRole.T2W]
    assert np.array_equal(build_volume(whole).volume.array, _expected(mr.T2W))


@pytest.mark.parametrize("name", ["", "_RLE", "_big_endian", "_jpeg_2k_lossless", "_jpeg_ls_lossless"])
def test_real_enhanced_pixels_decode_alike_from_every_codec(shared_data: Path, name: str) -> None:
    folder = shared_data / "us_mr_pydicom"
    reference = pydicom.dcmread(folder / "emri_small.dcm").pixel_array
    headers = [_frame_of(folder / f"emri_small{name}.dcm", i) for i in (3, 1, 10)]
    assert np.array_equal(np.stack(read_slices(headers, "series")), reference[[2, 0, 9]].astype(np.float32))


def test_truncated_real_enhanced_pixels_are_named(shared_data: Path) -> None:
    header = _frame_of(shared_data / "us_mr_pydicom" / "emri_small_jpeg_2k_lossless_too_short.dcm", 10)
    with pytest.warns(UserWarning), pytest.raises(UndecodablePixels, match="series 3, image 1 frame 10"):
        read_slices([header], "series 3")


def _frame_of(path: Path, number: int) -> Frame:
    frame = Frame(dict(pydicom.dcmread(path, stop_before_pixels=True).items()))
    frame.filename, frame.frame_number = str(path), number
    return frame


def test_real_philips_field_map_leaves_its_magnitude_images(shared_data: Path) -> None:
    (series,) = read_series(find_dicom_files(shared_data / "mr_enhanced" / "In" / "Philips"))
    (choice,) = rank([series], SPEC)[SeriesRole.T1W]
    image = build_volume(choice)
    assert (series.header.n_frames, image.volume.spatial_shape) == (64, (32, 64, 64))
    assert {d.ImageType[3] for d in choice.frames} == {"M"}
    assert np.allclose(image.volume.spacing, 4.0)
    stored = pydicom.dcmread(series.instances[0].filename).pixel_array[[d.frame_number - 1 for d in image.sources]]
    assert np.allclose(image.volume.array, stored * 1.27985347985347, rtol=1e-6)


def test_real_siemens_xa_time_series_is_no_diffusion(shared_data: Path) -> None:
    (series,) = read_series(find_dicom_files(shared_data / "mr_enhanced" / "In" / "Siemens"))
    assert (series.header.n_instances, series.header.n_frames, series.header.n_positions) == (4, 24, 6)
    assert rank([series], SPEC) == {}
    one = expand(series.instances[:1])
    assert build_volume(Choice(SeriesRole.T2W, series.header, series.instances[:1], 1, "", one)).volume.spatial_shape == (6, 64, 64)


def test_real_mosaic_is_refused_by_name(shared_data: Path) -> None:
    (series,) = read_series(find_dicom_files(shared_data / "mr_dwi_uih"))
    with pytest.raises(BadGeometry, match=r"dti_tra_dir16.* is a mosaic"):
        _volume(series)


def test_real_ge_directions_and_map(shared_data: Path) -> None:
    (series,) = read_series(find_dicom_files(shared_data / "mr_dwi_ge"))
    weighted = tuple(d for d in series.frames if d[0x00431039].value[0] == 1000)
    trace = build_volume(Choice(SeriesRole.DWI, series.header, weighted, 1, "", weighted))
    stacked = np.stack([pydicom.dcmread(d.filename).pixel_array for d in weighted]).astype(float)
    assert np.allclose(trace.volume.array[0], np.exp(np.log(np.maximum(stacked[::2], 1e-9)).mean(0)), rtol=1e-3, atol=0.5)
    ranked = rank(read_series(find_dicom_files(shared_data / "mr_adc_ge")), SPEC)
    assert build_volume(ranked[SeriesRole.ADC][0]).volume.spatial_shape == (20, 256, 256)


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian],
)
def test_transfer_syntaxes_give_the_same_volume(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    expected = _volume(_read(tmp_path / "plain", mr.make_series(mr.T2W))[0])
    folder = tmp_path / "coded"
    folder.mkdir()
    for i, d in enumerate(mr.make_series(mr.T2W)):
        if syntax.is_encapsulated:
            _compress(tmp_path / "plain" / f"{d.SOPInstanceUID}.dcm", folder / f"{i}.dcm", syntax)
            continue
        if syntax == ExplicitVRBigEndian:
            d.PixelData = np.frombuffer(d.PixelData, "<u2").astype(">u2").tobytes()
            d["PixelData"].VR = "OW"
        d.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(folder / f"{i}.dcm", d, enforce_file_format=True)
    assert np.array_equal(_volume(read_series(find_dicom_files(folder))[0]).volume.array, expected.volume.array)


def _compress(source: Path, target: Path, syntax: pydicom.uid.UID) -> None:
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(target, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


def test_bits_outside_the_stored_ones_are_no_signal(tmp_path: Path) -> None:
    images = mr.make_series(SMALL)
    for d in images:
        d.PixelData = (np.frombuffer(d.PixelData, "<u2") | 0xA000).astype("<u2").tobytes()  # overlays in bits 13 and 15
    assert np.array_equal(_volume(_read(tmp_path, images)[0]).volume.array, _expected(SMALL))


def test_rounded_axes_are_squared(tmp_path: Path) -> None:
    images = mr.make_series(SMALL)
    for d in images:
        d.ImageOrientationPatient = [1, 0.0004, 0, 0, 0.9945, 0.1045]
    image = _volume(_read(tmp_path, images)[0])
    exact = _volume(_read(tmp_path, mr.make_series(SMALL))[0]).volume
    assert np.abs(image.volume.affine - exact.affine).max() < 0.01
    assert np.array_equal(image.volume.array, exact.array)


def test_signed_values_keep_their_sign(tmp_path: Path) -> None:
    images = mr.make_series(SMALL, PixelRepresentation=1)
    for d in images:
        values = np.frombuffer(d.PixelData, "<u2").astype(np.int32) - 200
        d.PixelData = (values & 0x0FFF).astype("<u2").tobytes()  # twelve bits, the upper four are left clear
    assert np.array_equal(_volume(_read(tmp_path, images)[0]).volume.array, _expected(SMALL) - 200)


def test_rescale_differs_by_slice(tmp_path: Path) -> None:
    images = mr.make_series(SMALL)
    for i, d in enumerate(images):
        d.RescaleSlope, d.RescaleIntercept = i + 1, 3
    factors = np.arange(1, 7, dtype=np.float32)[:, None, None]
    assert np.allclose(_volume(_read(tmp_path / "c", images)[0]).volume.array, _expected(SMALL) * factors + 3)
    assert np.allclose(_volume(_read(tmp_path / "e", [mr.make_enhanced(images)])[0]).volume.array, _expected(SMALL) * factors + 3)


def test_philips_scale_slope_counts_where_it_differs(tmp_path: Path) -> None:
    images = mr.make_series(SMALL)
    for d in images:
        d.RescaleSlope, d.RescaleIntercept = 2, 0
        mr.set_private(d, "Philips MR Imaging DD 001", 0x2005, 0x0E, "FL", 0.25)
    assert np.array_equal(_volume(_read(tmp_path, images)[0]).volume.array, _expected(SMALL) * 2)
    images[0].private_block(0x2005, "Philips MR Imaging DD 001")[0x0E].value = 0.5
    factors = np.array([2, 4, 4, 4, 4, 4], dtype=np.float32)[:, None, None]
    assert np.allclose(_volume(_read(tmp_path, images)[0]).volume.array, _expected(SMALL) * factors)


def _break(images: list[Dataset], what: str) -> None:
    d = images[3]
    match what:
        case "orientation":
            d.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        case "skew":
            for one in images:
                one.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
        case "size":
            d.Rows = 6
        case "gone":
            del d.ImagePositionPatient
        case "text":
            d.add_new(0x00200032, "LO", "here")
        case "aside":
            d.ImagePositionPatient = [d.ImagePositionPatient[0] + 4, *d.ImagePositionPatient[1:]]
        case "sheared":
            for i, one in enumerate(images):
                one.ImagePositionPatient = [one.ImagePositionPatient[0] + i, *one.ImagePositionPatient[1:]]
        case "same":
            d.ImagePositionPatient = images[2].ImagePositionPatient
        case "near":
            d.ImagePositionPatient = [
                a + 0.2 * (b - a) for a, b in zip(images[2].ImagePositionPatient, d.ImagePositionPatient, strict=True)
            ]
        case "colour":
            d.PhotometricInterpretation = "PALETTE COLOR"
        case "bits":
            d.HighBit = 3
        case "frames":
            d.NumberOfFrames = 2
        case "empty":
            d.PixelData = b""


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("orientation", BadGeometry, "image 4: ImageOrientationPatient"),
        ("skew", BadGeometry, "no pair of perpendicular unit vectors"),
        ("size", BadGeometry, "image 4 is 6 x 10, the first image 12 x 10"),
        ("gone", BadGeometry, "image 4 has no ImagePositionPatient"),
        ("text", BadGeometry, "image 4 has no usable ImagePositionPatient"),
        ("aside", BadGeometry, "image 4 lies 4.00 mm beside"),
        ("sheared", BadGeometry, "not stacked at right angles"),
        ("same", BadGeometry, "images 3 and 4 lie at the same position|images 3 and 5 are 10.00 mm apart"),
        ("near", BadGeometry, "images 3 and 4 are 1.00 mm apart, the others 5.00 mm: the spacing varies"),
        ("colour", UndecodablePixels, "image 4: grey levels expected, got PALETTE COLOR"),
        ("bits", UndecodablePixels, "image 4: High Bit 3 does not fit 12 of 16 bits"),
        ("frames", UndecodablePixels, "image 4"),
        ("empty", UndecodablePixels, "image 4"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_is_no_volume_is_named(tmp_path: Path, what: str, error: type[Exception], words: str) -> None:
    images = mr.make_series(SMALL)
    _break(images, what)
    with pytest.raises(error, match=words) as caught:
        _volume(_read(tmp_path, images)[0])
    assert 'series 4 "t2_tse_tra"' in str(caught.value)


@settings(max_examples=15, deadline=None, suppress_health_check=_NO_CHECKS)
@given(order=st.permutations(range(12)), again=st.lists(st.integers(0, 11), max_size=4))
def test_order_and_duplicates_do_not_matter(tmp_path: Path, order: list[int], again: list[int]) -> None:
    tiny = [replace(s, shape=(6, 8, 8)) for s in (mr.DWI_B0, mr.DWI_B800)]
    paths = [mr.save(d, tmp_path) for s in tiny for d in mr.make_series(s)]
    expected = build_volume(rank(read_series(paths), SPEC)[SeriesRole.DWI][0]).volume
    shuffled = read_series([paths[i] for i in (*order, *again)])
    found = build_volume(rank(shuffled, SPEC)[SeriesRole.DWI][0]).volume
    assert np.array_equal(found.array, expected.array)
    assert np.array_equal(found.affine, expected.affine)


@settings(max_examples=12, deadline=None, suppress_health_check=_NO_CHECKS)
@given(
    turn=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    spacing=st.tuples(st.floats(1, 8), st.floats(0.3, 3), st.floats(0.3, 3)),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
)
def test_random_obliques_survive_volume_to_seg_to_volume(
    tmp_path: Path, turn: tuple[float, float, float], spacing: tuple[float, float, float], origin: tuple[float, float, float]
) -> None:
    x, y, z = (np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in turn)
    rotation = np.eye(3)
    for axes, block in (((0, 1), z), ((0, 2), y), ((1, 2), x)):
        step = np.eye(3)
        step[np.ix_(axes, axes)] = block
        rotation = rotation @ step
    images = mr.make_series(replace(SMALL, spacing_mm=spacing))
    for i, d in enumerate(images):
        d.ImageOrientationPatient = [round(float(v), 12) for v in rotation[:, :2].T.ravel()]
        d.ImagePositionPatient = [round(float(v), 9) for v in np.asarray(origin) + i * spacing[0] * rotation[:, 2]]
        d.PixelSpacing = [round(v, 9) for v in spacing[1:]]
    series = _read(tmp_path / "images", images)
    image = _volume(series[0])
    mask = np.zeros(SMALL.shape, dtype=np.uint8)
    mask[1:5, 3:9, 2:7] = 1
    mask[2, 4, 3] = 0
    _write_seg(tmp_path / "images", images, mask)
    roi = find_roi(read_series(find_dicom_files(tmp_path / "images")), {SeriesRole.T2W: image})
    assert roi is not None
    assert np.array_equal(roi.volume.array, mask if np.allclose(image.volume.position, origin, atol=1e-3) else mask[::-1])
    corners = np.array([[0, 0, 0], [5, 11, 9]])
    back = from_sitk(to_sitk(roi.volume), frame_of_reference_uid=None)
    for volume in (roi.volume, back):
        assert np.abs(volume.map_indices_to_reference(corners) - image.volume.map_indices_to_reference(corners)).max() < 1e-4
    seg = hd.seg.segread(next((tmp_path / "images").glob("seg*"))).get_volume(combine_segments=True)
    placed = seg.map_indices_to_reference(np.argwhere(seg.array > 0).astype(float))
    where = image.volume.map_reference_to_indices(placed)
    assert np.abs(where - np.round(where)).max() * max(spacing) < 1e-4


def _write_seg(folder: Path, images: list[Dataset], mask: np.ndarray) -> None:
    kind = hd.seg.SegmentDescription(1, "Tumor", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, "MANUAL")
    seg = hd.seg.Segmentation(images, mask, "BINARY", [kind], hd.UID(), 900, hd.UID(), 1, "Reader", "Workstation", "1", "1")
    seg.save_as(folder / "seg.dcm")


def _other_frame(folder: Path, shift_mm: tuple[float, float, float]) -> list[Series]:
    frame = generate_uid(entropy_srcs=["tests", "another frame"])
    moved = mr.make_series(mr.T1W, FrameOfReferenceUID=frame)
    for d in moved:
        d.ImagePositionPatient = [a + b for a, b in zip(d.ImagePositionPatient, shift_mm, strict=True)]
    rest = [d for s in (mr.T2W_FS, mr.DWI_B0, mr.DWI_B800) for d in mr.make_series(s)]
    return _read(folder, [*moved, *rest])


def test_another_frame_of_reference_is_refused_by_default(tmp_path: Path) -> None:
    series = _other_frame(tmp_path, (6.0, -4.0, 8.0))
    with pytest.raises(BadGeometry, match="different frames of reference: T1W in"):
        engine.load_case(series, choose(series, SPEC), SPEC)


def test_another_frame_of_reference_is_registered_where_the_system_says_so(tmp_path: Path) -> None:
    shift = np.array([6.0, -4.0, 8.0])
    series = _other_frame(tmp_path, tuple(shift))
    spec = replace(SPEC, other_frame="register")
    case = engine.load_case(series, choose(series, spec), spec)
    moved, fixed = case.volumes[SeriesRole.T1W], case.volumes[SeriesRole.T2W_FS]
    assert moved.volume.frame_of_reference_uid == fixed.volume.frame_of_reference_uid
    assert "registered rigidly" in moved.reason
    truth = _volume(_read(tmp_path / "true", mr.make_series(mr.T1W))[0], SeriesRole.T1W).volume
    corners = np.array([[8, 32, 32], [8, 10, 32], [8, 32, 10]])
    error = np.linalg.norm(moved.volume.map_indices_to_reference(corners) - truth.map_indices_to_reference(corners), axis=1)
    assert error.max() < 2.0  # of 10.8 mm, with pixels of 2 mm and slices of 5 mm
    again = register(replace(moved, volume=build_volume(choose(series, spec)[SeriesRole.T1W]).volume), fixed)
    assert np.array_equal(again.volume.affine, moved.volume.affine)


def test_images_that_have_nothing_in_common_are_not_registered(tmp_path: Path) -> None:
    series = _other_frame(tmp_path, (0.0, 0.0, 0.0))
    chosen = choose(series, SPEC)
    fixed, moving = (build_volume(chosen[role]) for role in (SeriesRole.T2W_FS, SeriesRole.T1W))
    flat = replace(moving, volume=moving.volume.with_array(np.zeros_like(moving.volume.array)))
    with pytest.raises(BadGeometry, match="cannot be registered"):
        register(flat, fixed)
