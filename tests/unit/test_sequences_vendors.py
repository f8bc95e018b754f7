"""Roles, b-values, ADC and dynamic scans in the dialects that no real file here shows."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from pipelines import engine
from pipelines.imaging.adc import fit_adc, geometric_mean, usable_b_values
from pipelines.imaging.diffusion import b_value, is_trace, nominal
from pipelines.imaging.geometry import build_volume
from pipelines.imaging.sequences import choose, classify, classify_study, describe_found, rank
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.systems import catalogue
from pipelines.types import Series, SeriesRole
from tests import mr

SPEC = catalogue()["olnm_mri"]
GRE = mr.Sequence(20, "t1_vibe_tra", 2.4, 4.6, {"ScanningSequence": "GR", "SequenceVariant": "SP", "FlipAngle": 10})


def _wants(*roles: SeriesRole, **changes: object) -> object:
    return replace(SPEC, required=roles, **changes)  # type: ignore[arg-type]


def _read(folder: Path, images: Iterable[Dataset] = ()) -> list[Series]:
    for d in images:
        mr.save(d, folder)
    return read_series(find_dicom_files(folder))


def _phase(number: int, time: str, **attributes: object) -> list[Dataset]:
    return mr.make_series(replace(GRE, number=number), AcquisitionTime=time, **attributes)


def test_how_sequences_are_brought_together_is_method_and_words_are_not() -> None:
    assert replace(SPEC, title="another").method_digest() == SPEC.method_digest()
    assert _wants(*SPEC.required, other_frame="register").method_digest() != SPEC.method_digest()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("attributes", "description", "role", "word"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"], "ScanOptions": "FS"}, "t2", SeriesRole.T2W_FS, "ScanOptions FS"),
        ({"ScanningSequence": ["SE", "IR"], "InversionTime": 200}, "t2", SeriesRole.T2W_FS, "inversion time"),
        ({"ScanningSequence": ["SE", "IR"], "InversionTime": 2500}, "t2", None, "fluid nulled"),
        ({"EchoTime": 600}, "mrcp", None, "fluid only"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MIP"]}, "t2", None, "projection"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]}, "t2", None, "projection or subtraction"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA", "COLOR"]}, "ep2d_fa", None, "diffusion map"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "t2", None, "screenshot"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "t2", None, "no magnitude image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "ep2d", None, "mosaic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "t2", None, "localizer"),
        ({"SamplesPerPixel": 3}, "t2", None, "colour"),
        ({}, "t2_tse_sub", None, "by its name"),
        ({}, "synthetic_b1400", None, "calculated"),
        ({"ScanningSequence": "EP", "SequenceName": "*ep_b50_800"}, "ep2d", None, "calculated"),
        ({"ScanningSequence": "EP"}, "ep2d", None, "without a readable b-value"),
        ({"EchoTime": 2.3, "RepetitionTime": 4, "SequenceVariant": "SS", "FlipAngle": 60}, "trufi", None, "balanced"),
        ({"ScanningSequence": "GR", "EchoTime": 20, "RepetitionTime": 600}, "t2s", None, r"T2\*"),
        ({"EchoTime": 2.4, "RepetitionTime": 5, "ImageType": ["DERIVED", "PRIMARY", "F"]}, "dixon", None, "fat image"),
        ({"EchoTime": 2.4, "RepetitionTime": 5, "ImageType": ["DERIVED", "PRIMARY", "W"]}, "dixon", SeriesRole.T1W, "water image"),
        ({"EchoTime": 10, "RepetitionTime": 600, "ContrastBolusAgent": "NO"}, "t1", SeriesRole.T1W, "no contrast agent"),
        ({"EchoTime": 10, "RepetitionTime": 600}, "t1 fs +c", SeriesRole.CE_T1W, "in its name"),
    ],
)
def test_rules(attributes: dict[str, object], description: str, role: SeriesRole | None, word: str, tmp_path: Path) -> None:
    series = _read(tmp_path, mr.make_series(replace(mr.T2W, description=description), **attributes))
    verdict = classify(series[0])
    assert verdict.role == role
    assert word.replace("\\", "") in verdict.reason
    assert (verdict.score > 0) == (role is not None)


def test_every_candidate_is_ranked_with_its_reason(tmp_path: Path) -> None:
    worse = replace(mr.T2W, number=8, description="t2_haste_tra")
    sagittal = mr.make_series(replace(mr.T2W, number=9), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    for i, d in enumerate(sagittal):
        d.ImagePositionPatient = [5.0 * i, -50, 50]
    coarse = replace(mr.T2W, number=7, spacing_mm=(5.0, 3.0, 3.0))
    series = _read(tmp_path, [*mr.make_series(mr.T2W), *mr.make_series(worse), *sagittal, *mr.make_series(coarse)])
    ranked = rank(series, SPEC)[SeriesRole.T2W]
    assert [c.header.series_number for c in ranked] == [4, 8, 9, 7]
    assert [c.score for c in ranked] == [90, 80, 75, 75]
    assert [c.reason.split("; ")[1:] for c in ranked] == [[], ["single shot"], ["not axial"], ["pixels of 3.0 mm"]]


def test_a_repeat_that_was_broken_off_does_not_win(tmp_path: Path) -> None:
    again = mr.make_series(replace(mr.T2W, number=12), AcquisitionTime="110000")
    series = _read(tmp_path / "whole", [*mr.make_series(mr.T2W), *again])
    assert choose(series, _wants(SeriesRole.T2W))[SeriesRole.T2W].header.series_number == 12  # type: ignore[arg-type]
    series = _read(tmp_path / "short", [*mr.make_series(mr.T2W), *again[:9]])
    assert choose(series, _wants(SeriesRole.T2W))[SeriesRole.T2W].header.series_number == 4  # type: ignore[arg-type]
    series = _read(tmp_path / "gap", [*mr.make_series(mr.T2W), *again[:6], *again[8:]])
    assert choose(series, _wants(SeriesRole.T2W))[SeriesRole.T2W].header.series_number == 4  # type: ignore[arg-type]


def test_private_b_values_as_unknown_bytes() -> None:
    philips, uih, siemens, canon = Dataset(), Dataset(), Dataset(), Dataset()
    mr.set_private(philips, "Philips Imaging DD 001", 0x2001, 0x03, "UN", struct.pack("<f", 800.0))
    mr.set_private(uih, "Image Private Header", 0x0065, 0x09, "UN", struct.pack("<d", 1.25))
    siemens.SequenceName, canon.ImageComments = "*ep_b800t", "b=1000(0.445,0.000,0.895)"
    assert [b_value(d) for d in (philips, uih, siemens, canon)] == [800.0, 0.0, 800.0, 1000.0]
    averaged = Dataset()
    averaged.SequenceName = "*ep_b50_800"
    assert b_value(averaged) is None


def test_private_elements_are_found_wherever_their_block_lies() -> None:
    d = Dataset()
    mr.set_private(d, "SOMEBODY ELSE", 0x0019, 0x0C, "IS", "5")
    mr.set_private(d, "SIEMENS MR HEADER", 0x0019, 0x0C, "IS", "800")
    assert d[0x0019110C].value == 800  # the second block
    assert b_value(d) == 800


def test_b_values_that_directions_really_had_are_one() -> None:
    assert nominal([0, 795, 800, 806, 1000]) == {0: 0, 795: 800, 800: 800, 806: 800, 1000: 1000}
    trace = Dataset()
    mr.set_private(trace, "Philips Imaging DD 001", 0x2001, 0x04, "CS", "I")
    assert is_trace(trace)


def _directions(tmp_path: Path, *, with_trace: bool) -> list[Series]:
    """GE: b in (0043,1039), three directions at b = 800, one image without diffusion weighting."""
    images = []
    for number, (b, factor) in enumerate([(0, 4.0), (800, 1.0), (800, 2.0), (800, 0.5)]):
        for d in mr.make_series(replace(mr.DWI_B0, attributes={"ScanningSequence": ["EP", "SE"]})):
            mr.set_private(d, "GEMS_PARM_01", 0x0043, 0x39, "IS", [1_000_000_000 + b, 8, 0, 0])
            _retouch(d, number, factor)
            images.append(d)
    if with_trace:
        for d in mr.make_series(mr.DWI_B800, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]):
            _retouch(d, 9, 3.0)
            images.append(d)
    return _read(tmp_path, images)


def _retouch(d: Dataset, number: int, factor: float) -> None:
    pixels = np.frombuffer(d.PixelData, "<u2") * factor
    d.PixelData = np.clip(np.round(pixels), 0, 4095).astype("<u2").tobytes()
    d.InstanceNumber = int(d.InstanceNumber) + 100 * number
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[d.SOPInstanceUID, str(number)])


def test_single_directions_become_their_geometric_mean(tmp_path: Path) -> None:
    choice = rank(_directions(tmp_path, with_trace=False), SPEC)[SeriesRole.DWI][0]
    assert "geometric mean of 3 directions" in choice.reason
    assert "no trace image" in choice.reason
    volume = build_volume(choice).volume
    one = np.stack([np.frombuffer(d.PixelData, "<u2").reshape(48, 48) for d in mr.make_series(mr.DWI_B800)]).astype(float)
    expected = np.cbrt(one * np.minimum(one * 2, 4095) * np.round(one * 0.5))
    assert np.allclose(volume.array, expected, rtol=1e-5, atol=1.0)


def test_trace_images_are_preferred_over_directions(tmp_path: Path) -> None:
    choice = rank(_directions(tmp_path, with_trace=True), SPEC)[SeriesRole.DWI][0]
    assert "the trace images" in choice.reason
    assert len(choice.frames) == mr.DWI_B800.shape[0]


def _philips(*, as_bytes: bool) -> list[Dataset]:
    """Philips: b and direction in private elements; stored values of b = 800 are scaled four times as much as those of b = 0."""
    images = []
    for number, (b, direction, factor) in enumerate([(0, "N", 1.0), (800, "F", 0.25), (800, "R", 0.5), (800, "I", 0.2)]):
        for d in mr.make_series(replace(mr.DWI_B0, attributes={"ScanningSequence": "SE", "SequenceVariant": "OTHER"})):
            value, code = (struct.pack("<f", b), f"{direction} ".encode()) if as_bytes else (float(b), direction)
            mr.set_private(d, "Philips Imaging DD 001", 0x2001, 0x03, "UN" if as_bytes else "FL", value)
            mr.set_private(d, "Philips Imaging DD 001", 0x2001, 0x04, "UN" if as_bytes else "CS", code)
            mr.set_private(d, "Philips MR Imaging DD 001", 0x2005, 0x0E, "FL", 0.5 if b else 2.0)  # floating point = stored / scale slope
            d.RescaleSlope, d.RescaleIntercept, d.Manufacturer = 2.0, 0.0, "Philips Medical Systems"
            _retouch(d, number, factor)
            images.append(d)
    return images


@pytest.mark.parametrize("as_bytes", [False, True])
def test_philips_diffusion_is_split_and_scaled(tmp_path: Path, as_bytes: bool) -> None:
    series = _read(tmp_path, _philips(as_bytes=as_bytes))
    assert series[0].header.b_values == (0.0, 800.0)
    spec = _wants(SeriesRole.DWI, SeriesRole.ADC)
    chosen = choose(series, spec)  # type: ignore[arg-type]
    assert "b-values up to 800" in chosen[SeriesRole.DWI].reason and "the trace images" in chosen[SeriesRole.DWI].reason
    assert {int(d.InstanceNumber) // 100 for d in chosen[SeriesRole.DWI].frames} == {3}
    stored = np.stack([np.frombuffer(d.PixelData, "<u2").reshape(48, 48) for d in mr.make_series(mr.DWI_B0)]).astype(float)
    weighted = np.round(stored * 0.2)
    inside = weighted > 20
    adc = build_volume(chosen[SeriesRole.ADC]).volume.array
    expected = np.maximum(np.log((stored / 2.0) / np.maximum(weighted / 0.5, 1e-9)), 0) / 800 * 1e6
    assert np.allclose(adc[inside], expected[inside], atol=0.5)
    assert 200 < np.median(adc[inside]) < 400  # without the scale slopes it would be 2000


def test_philips_header_within_an_enhanced_frame_is_read(tmp_path: Path) -> None:
    images = _philips(as_bytes=False)
    enhanced = mr.make_enhanced(images)
    for frame, image in zip(enhanced.PerFrameFunctionalGroupsSequence, images, strict=True):
        single = Dataset()
        for creator, group, element, vr in (("Philips Imaging DD 001", 0x2001, 0x03, "FL"), ("Philips Imaging DD 001", 0x2001, 0x04, "CS")):
            mr.set_private(single, creator, group, element, vr, image.private_block(group, creator)[element].value)
        frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [single])
    choice = rank(_read(tmp_path, [enhanced]), SPEC)[SeriesRole.DWI][0]
    assert "the trace images" in choice.reason and len(choice.frames) == mr.DWI_B0.shape[0]


def test_adc_is_computed_where_none_was_sent(tmp_path: Path) -> None:
    series = _read(mr.write_study(tmp_path))
    choice = choose(series, _wants(SeriesRole.ADC))[SeriesRole.ADC]  # type: ignore[arg-type]
    assert "computed here from diffusion images with b = 0, 800 s/mm2" in choice.reason
    image = build_volume(choice)
    assert "mono-exponential" in image.reason
    low, high = (np.stack([np.frombuffer(d.PixelData, "<u2") for d in mr.make_series(s)]).astype(float) for s in (mr.DWI_B0, mr.DWI_B800))
    expected = np.maximum(np.log(np.maximum(low, 1) / np.maximum(high, 1)) / 800 * 1e6, 0) * (low > 0) * (high > 0)
    assert np.allclose(image.volume.array.ravel(), expected.ravel(), atol=1e-2)


def test_computed_adc_agrees_with_the_scanner(real_pelvis: Path) -> None:
    ranked = rank(read_series(find_dicom_files(real_pelvis)), SPEC)[SeriesRole.ADC]
    scanner, computed = (build_volume(c).volume.array for c in ranked)
    assert [c.header.series_number for c in ranked] == [8, 7]
    both = (scanner > 0) & (computed > 0)
    assert np.median(computed[both]) == pytest.approx(np.median(scanner[both]), rel=0.05)
    assert np.corrcoef(computed[both], scanner[both])[0, 1] > 0.999


def test_adc_fit_is_exact_and_silent_voxels_are_zero() -> None:
    truth = np.array([[0.0, 800.0, 2500.0]])
    images = {b: (1000 * np.exp(-b * truth * 1e-6)).astype(np.float32) for b in (0.0, 400.0, 800.0)}
    assert np.allclose(fit_adc(images), truth, atol=0.1)
    images[800.0][0, 1] = 0
    assert fit_adc(images)[0, 1] == 0
    assert geometric_mean([np.float32([[4.0]]), np.float32([[9.0]])])[0, 0] == pytest.approx(6)  # type: ignore[list-item]
    assert usable_b_values([0, 500, 1000, 2000]) == (0, 500, 1000)
    assert usable_b_values([0, 1500]) == (0, 1500)
    assert usable_b_values([800]) == ()


def test_dynamic_scan_of_70_series_gives_the_phase_nearest_the_delay(tmp_path: Path) -> None:
    images = []
    for phase in range(70):
        seconds = 10 * 3600 + 20 * 60 + 7 * phase
        time = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
        images += _phase(100 + phase, time, ContrastBolusAgent="Gd", ContrastBolusStartTime="102100")[4:12]
    series = _read(tmp_path, images)
    spec = _wants(SeriesRole.CE_T1W, SeriesRole.T1W, contrast_delay_s=90.0)
    chosen = choose(series, spec)  # type: ignore[arg-type]
    assert chosen[SeriesRole.CE_T1W].header.series_number == 121  # 21 x 7 s = 147 s, 87 s after 10:21:00
    assert "phase 22 of 70 of a dynamic scan, 87 s after the injection, 90 s wanted" in chosen[SeriesRole.CE_T1W].reason
    assert chosen[SeriesRole.T1W].header.series_number == 108  # the last one before the injection
    assert "before the injection" in chosen[SeriesRole.T1W].reason
    assert len(rank(series, spec)[SeriesRole.CE_T1W]) == 61  # type: ignore[arg-type]


def test_dynamic_scan_in_one_series_is_split_by_time(tmp_path: Path) -> None:
    images = []
    for phase in range(4):
        for d in _phase(30, f"1030{10 * phase:02d}", TemporalPositionIdentifier=phase + 1, ContrastBolusAgent="Gd"):
            _retouch(d, phase, 1 + phase)
            images.append(d)
    spec = _wants(SeriesRole.CE_T1W, contrast_delay_s=20.0)
    choice = choose(_read(tmp_path, images), spec)[SeriesRole.CE_T1W]  # type: ignore[arg-type]
    assert "phase 3 of 4 of a dynamic scan, 20 s after the first phase" in choice.reason
    assert {d.TemporalPositionIdentifier for d in choice.frames} == {3}
    assert build_volume(choice).volume.spatial_shape == GRE.shape


def test_single_late_image_wins_over_a_dynamic_scan_where_no_delay_is_asked_for(tmp_path: Path) -> None:
    images = [d for i in range(5) for d in _phase(40 + i, f"10300{i}", ContrastBolusAgent="Gd")]
    late = mr.make_series(replace(mr.T1W, number=60, attributes={"ContrastBolusAgent": "Gd"}))
    choice = choose(_read(tmp_path, [*images, *late]), _wants(SeriesRole.CE_T1W))[SeriesRole.CE_T1W]  # type: ignore[arg-type]
    assert choice.header.series_number == 60


def test_injection_that_another_series_names_makes_it_enhanced(tmp_path: Path) -> None:
    named = mr.make_series(mr.T1W, AcquisitionTime="103000", ContrastBolusAgent="Gd", ContrastBolusStartTime="102500")
    silent = mr.make_series(replace(mr.T1W, number=9), AcquisitionTime="103500")
    before = mr.make_series(replace(mr.T1W, number=1), AcquisitionTime="101500", ContrastBolusAgent="Gd")
    series = _read(tmp_path, [*named, *silent, *before])
    roles = {s.header.series_number: v.role for s, v in zip(series, classify_study(series), strict=True)}
    assert roles == {1: SeriesRole.T1W, 2: SeriesRole.CE_T1W, 9: SeriesRole.CE_T1W}
    assert any("600 s after the injection that other series name" in line for line in describe_found(series))


def test_dixon_images_in_one_series_are_told_apart(tmp_path: Path) -> None:
    images = []
    for number, kind in enumerate(("IN_PHASE", "OUT_PHASE", "WATER", "FAT")):
        for d in mr.make_series(GRE, ImageType=["DERIVED", "PRIMARY", "DIXON", kind]):
            _retouch(d, number, 1)
            images.append(d)
    ranked = rank(_read(tmp_path, images), SPEC)[SeriesRole.T1W]
    assert [c.frames[0].ImageType[3] for c in ranked] == ["IN_PHASE", "WATER", "OUT_PHASE"]


def test_enhanced_instance_with_several_b_values_serves_dwi_and_adc(tmp_path: Path) -> None:
    images = [d for s in (mr.DWI_B0, mr.DWI_B800) for d in mr.make_series(s)]
    adc = [copy.deepcopy(d) for d in mr.make_series(mr.DWI_B0, ImageType=["DERIVED", "PRIMARY", "ADC", "ADC"])]
    classic = _read(tmp_path / "classic", images)
    enhanced = _read(tmp_path / "enhanced", [mr.make_enhanced(images)])
    spec = _wants(SeriesRole.DWI, SeriesRole.ADC)
    for role, choice in choose(enhanced, spec).items():  # type: ignore[arg-type]
        expected = build_volume(choose(classic, spec)[role])  # type: ignore[arg-type]
        assert len(choice.instances) == 1
        assert np.array_equal(build_volume(choice).volume.array, expected.volume.array)
    mixed = _read(tmp_path / "mixed", [mr.make_enhanced([*images, *adc])])
    ranked = rank(mixed, SPEC)
    assert ranked[SeriesRole.ADC][0].reason == "ImageType says ADC"
    ordered = {SeriesRole.DWI: replace(ranked[SeriesRole.DWI][0], frames=())}  # what an order names: the instance
    case = engine.load_case(mixed, ordered, _wants(SeriesRole.DWI))  # type: ignore[arg-type]
    assert case.volumes[SeriesRole.DWI].volume.spatial_shape == mr.DWI_B800.shape
