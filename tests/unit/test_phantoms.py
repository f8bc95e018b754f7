"""Phantom MR studies: valid DICOM in two dialects, decided by the seed, with the truth that was planted."""

from __future__ import annotations

import subprocess
from dataclasses import fields, replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scipy.ndimage import label

from pipelines.engine import load_case
from pipelines.imaging.geometry import build_volume, resample_mask
from pipelines.imaging.sequences import choose, rank
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.phantoms.anatomy import Pelvis
from pipelines.phantoms.dicom import PhantomTruth, write_study
from pipelines.phantoms.latents import Latents
from pipelines.phantoms.scanners import COMPLETE, DRAWN_ON, PRESETS, SEQUENCES, VENDORS, protocols, shift
from pipelines.phantoms.signal import Grid, Protocol, Scanner, acquire, map_adc, place
from pipelines.systems.olnm_mri import SPEC
from pipelines.types import Case, Choice, RoiOrigin, SeriesRole
from tests.foreign import need

R = SeriesRole


@pytest.fixture(scope="module", params=sorted(VENDORS))
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PhantomTruth:
    return write_study(
        tmp_path_factory.mktemp("phantom"), seed=3, vendor=request.param, with_seg=True, roles=COMPLETE, node_short_axis_mm=13.0
    )


@pytest.fixture(scope="module")
def choices(study: PhantomTruth) -> dict[SeriesRole, tuple[Choice, ...]]:
    return rank(read_series(find_dicom_files(study.folder)), SPEC)


@pytest.fixture(scope="module")
def case(study: PhantomTruth) -> Case:
    series = read_series(find_dicom_files(study.folder))
    return load_case(series, choose(series, SPEC), SPEC)


def test_study_has_no_dciodvfy_error(study: PhantomTruth) -> None:
    _check_one_of_each_series(study.folder)


def _check_one_of_each_series(folder: Path) -> None:
    for series in {path.parent: path for path in find_dicom_files(folder)}.values():
        found = subprocess.run([need("dciodvfy"), str(series)], capture_output=True, text=True, check=False)
        errors = [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], series


@pytest.mark.slow
def test_full_preset_is_a_clinical_t2_series_with_the_tumour_on_it(tmp_path: Path) -> None:
    truth = write_study(tmp_path, seed=3, preset="full", roles=(R.T2W,), with_seg=True)
    series = read_series(find_dicom_files(tmp_path))
    (choice,) = rank(series, SPEC)[R.T2W]
    images = build_volume(choice).volume
    (protocol,) = protocols(VENDORS["SIEMENS"], "full", (R.T2W,))
    assert images.array.shape == (24, protocol.columns, protocol.columns)
    assert images.spacing == pytest.approx((5.0, protocol.pixel_mm, protocol.pixel_mm))
    assert {float(source.SliceThickness) for source in choice.frames} == {4.0}
    seg = hd.seg.segread(truth.seg)
    drawn = seg.get_volume(combine_segments=True).match_geometry(images).array > 0
    assert np.count_nonzero(drawn) * images.voxel_volume / 1000 == pytest.approx(truth.tumour_volume_ml, rel=0.06)
    _check_one_of_each_series(tmp_path)


@pytest.mark.parametrize("role", COMPLETE)
def test_series_choice_finds_every_sequence(study: PhantomTruth, choices: dict[SeriesRole, tuple[Choice, ...]], role: SeriesRole) -> None:
    first = choices[role][0]
    assert first.header.description == VENDORS[study.vendor].names[role]
    assert build_volume(first).volume.array.std() > 0


def test_late_phase_is_sagittal_after_the_injection(choices: dict[SeriesRole, tuple[Choice, ...]]) -> None:
    (late,) = choices[R.CE_T1W]
    assert "170 s after the injection" in late.reason
    direction = build_volume(late).volume.direction
    assert abs(direction[0, 0]) > 0.95  # the slice normal lies across the body
    assert [c.header.series_instance_uid for c in choices[R.T1W]] != [late.header.series_instance_uid]


def test_study_serves_the_sequences_of_olnm_mri(case: Case) -> None:
    assert set(case.volumes) == {*SPEC.required, R.T2W}  # on which the tumour is drawn
    assert case.roi is not None and case.roi.origin is RoiOrigin.SEG
    assert {b for d in case.volumes[R.DWI].sources for b in [d.DiffusionBValue]} == {800.0}


def test_study_says_in_every_file_that_it_is_synthetic(study: PhantomTruth) -> None:
    for path in find_dicom_files(study.folder):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert (str(ds.PatientName), ds.PatientID, ds.PatientIdentityRemoved) == ("PHANTOM^SYNTHETIC", "PHANTOM-3", "YES")
        assert ds.ImageComments == "SYNTHETIC PHANTOM"


def test_private_b_value_stands_where_the_vendor_keeps_it(study: PhantomTruth) -> None:
    creator, tag = {
        "SIEMENS": ("SIEMENS MR HEADER", (0x0019, 0x0C)),
        "PHILIPS": ("Philips Imaging DD 001", (0x2001, 0x03)),
    }[study.vendor]
    found = set()
    for path in find_dicom_files(study.folder):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        if "DiffusionBValue" in ds:
            private = float(ds.private_block(tag[0], creator)[tag[1]].value)
            assert private == ds.DiffusionBValue
            found.add(private)
    assert found == {0.0, 800.0}


def test_sequences_lie_on_their_own_oblique_grids(case: Case) -> None:
    volumes = list(case.volumes.values())
    directions = [v.volume.direction for v in volumes]
    assert not np.allclose(directions[0], directions[1], atol=1e-3)
    for direction in directions:
        assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-5)
        assert 0 < np.degrees(np.arccos(abs(direction[2, 0]))) < 15  # slice normal off the body axis
    assert len({v.header.frame_of_reference_uid for v in volumes}) == 1


def test_tumour_is_bright_in_diffusion_and_as_large_as_planted(study: PhantomTruth, case: Case) -> None:
    assert case.roi is not None
    mask = case.roi.volume.array > 0
    volume_ml = mask.sum() * case.roi.volume.voxel_volume / 1000
    assert volume_ml == pytest.approx(study.tumour_volume_ml, rel=0.06)
    sphere_ml = np.pi / 6 * (study.latents.diameter_mm / 10) ** 3
    assert 0.5 < volume_ml / sphere_ml < 1.8  # the rough surface and the warp change it a little
    dwi = case.volumes[R.DWI].volume
    inside = resample_mask(case.roi.volume, dwi).array > 0
    assert np.median(dwi.array[inside]) > 2 * np.percentile(dwi.array, 75)


def test_scanners_adc_map_has_the_planted_value(study: PhantomTruth, case: Case, choices: dict[SeriesRole, tuple[Choice, ...]]) -> None:
    assert case.roi is not None
    adc = build_volume(choices[R.ADC][0]).volume
    inside = resample_mask(case.roi.volume, adc).array > 0
    assert np.median(adc.array[inside]) / 1000 == pytest.approx(study.latents.mean_adc, rel=0.12)
    assert adc.array.max() <= 4000


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    roles = SEQUENCES["histotype_mri"]
    for name in ("first", "second"):
        write_study(tmp_path / name, seed=8, with_seg=True, roles=roles)
    first, second = (find_dicom_files(tmp_path / name) for name in ("first", "second"))
    assert [p.relative_to(tmp_path / "first") for p in first] == [p.relative_to(tmp_path / "second") for p in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_other_seed_is_another_patient(tmp_path: Path, study: PhantomTruth) -> None:
    other = write_study(tmp_path, seed=4, roles=(R.T1W,))
    assert other.study_instance_uid != study.study_instance_uid
    assert other.latents != study.latents
    assert other.seg is None and not list(tmp_path.glob("*.dcm"))


def test_latents_given_by_hand_win_over_the_seed() -> None:
    large = Pelvis(1, Latents(size=1.5), node_short_axis_mm=12.0)
    assert large.latents.diameter_mm == pytest.approx(34 * np.exp(0.45))
    assert large.latents.mean_adc == pytest.approx(0.92)
    assert large.node_short_axis_mm == 12.0


@pytest.mark.parametrize("short_axis_mm", [5.0, 14.0])
def test_largest_node_has_the_planted_short_axis(short_axis_mm: float) -> None:
    for seed in range(5):
        nodes = [shape for name, shape in Pelvis(seed, node_short_axis_mm=short_axis_mm).layers if name == "node"]
        axes = sorted((high - low).min() for low, high in (node.bounds for node in nodes))
        assert axes[-1] == pytest.approx(short_axis_mm, rel=0.15)  # the box of a node that lies aslant
        assert len(axes) == 1 or axes[-2] < 10


def test_unknown_vendor_and_preset_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'GE'.*SIEMENS"):
        write_study(tmp_path, seed=1, vendor="GE")
    with pytest.raises(ValueError, match=r"'quick'.*fast, full"):
        write_study(tmp_path, seed=1, preset="quick")
    with pytest.raises(ValueError, match=r"cannot be drawn on ADC, which is none of T1W, T2W_FS, DWI"):
        write_study(tmp_path, seed=1, drawn_on=R.ADC)


def _drawn_on(seg: Path | None) -> set[str]:
    assert seg is not None
    return {str(s.SeriesInstanceUID) for s in hd.seg.segread(seg).ReferencedSeriesSequence}


def test_seg_is_of_the_first_t2w_grid_by_default(study: PhantomTruth, choices: dict[SeriesRole, tuple[Choice, ...]]) -> None:
    assert _drawn_on(study.seg) == {choices[R.T2W][0].header.series_instance_uid}


def test_seg_is_of_the_grid_it_is_drawn_on(tmp_path: Path) -> None:
    truth = write_study(tmp_path, seed=5, roles=(R.T1W, R.DWI), drawn_on=R.DWI, with_seg=True)
    (dwi,) = rank(read_series(find_dicom_files(tmp_path)), SPEC)[R.DWI]
    assert _drawn_on(truth.seg) == {dwi.header.series_instance_uid}


@pytest.mark.parametrize("system", sorted(SEQUENCES))
def test_system_is_drawn_on_one_of_its_sequences(system: str) -> None:
    assert DRAWN_ON[system] in SEQUENCES[system]
    acquired = {p.role for p in protocols(VENDORS["SIEMENS"], "fast", SEQUENCES[system])}
    assert acquired == set(SEQUENCES[system]) - {R.ADC}


def test_full_preset_samples_finer() -> None:
    fast, full = ({p.role: p for p in protocols(VENDORS["PHILIPS"], preset, COMPLETE)} for preset in PRESETS)
    assert all(full[role].pixel_mm < fast[role].pixel_mm for role in fast)


def test_shifted_scanner_is_worse_in_every_way() -> None:
    vendor, shifted = VENDORS["PHILIPS"], shift(VENDORS["PHILIPS"], 1.0)
    assert shift(vendor, 0.0) == vendor
    for name in ("noise", "inhomogeneity", "blur"):
        assert getattr(shifted.scanner, name) > 1.2 * getattr(vendor.scanner, name)
    assert shifted.t2_echo_ms < vendor.t2_echo_ms


_QUIET = Scanner(gain=1500, noise=0.006, inhomogeneity=0.0, blur=0.4)


def _sample(seed: int, latents: Latents, role: SeriesRole) -> tuple[dict[int, np.ndarray], np.ndarray, Grid]:
    """Image a small box about the cervix."""
    (protocol,) = (p for p in protocols(VENDORS["SIEMENS"], "fast", COMPLETE) if p.role is role)
    small: Protocol = replace(protocol, columns=round(80 / protocol.pixel_mm), slices=9 if not protocol.sagittal else 20)
    rng = np.random.default_rng(seed)
    pelvis = Pelvis(seed, latents)
    grid = place(small, rng, pelvis.cervix)
    images, share = acquire(pelvis, small, scanner=_QUIET, grid=grid, shift_mm=np.zeros(3), supersample=1, rng=rng)
    return images, share, grid


def _shells(seed: int, latents: Latents, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return where the rim and the core of the tumour are, away from their edges."""
    pelvis = Pelvis(seed, latents)
    depth = pelvis.tumour_depth(*pelvis.warp(*grid.points()))
    return (depth > 1.0) & (depth < 3.0), depth > 5.0


@pytest.mark.parametrize("irregularity", [-1.0, 1.0, 3.0])
def test_tumour_is_one_piece_however_irregular(irregularity: float) -> None:
    for seed in range(4):
        _, share, _ = _sample(seed, replace(Latents(*[0.0] * len(fields(Latents))), irregularity=irregularity), R.T2W)
        parts, _ = label(share > 0.5)
        assert np.bincount(parts.ravel())[1:].max() >= 0.99 * (share > 0.5).sum()


def test_measured_signals_follow_the_latents() -> None:
    """Random latents, only the texture's length the same: what is measured in the tumour goes with what was planted."""
    names = [f.name for f in fields(Latents)]
    drawn = np.random.default_rng(0).standard_normal((12, len(names))) * [name != "grain" for name in names]
    measured = []
    for seed, row in enumerate(drawn):
        latents = Latents(*(float(v) for v in row))
        t2, share, grid = _sample(seed, latents, R.T2W)
        dwi, dwi_share, _ = _sample(seed, latents, R.DWI)
        late, _, late_grid = _sample(seed, latents, R.CE_T1W)
        rim, core = _shells(seed, latents, late_grid)
        inside = np.log(t2[0][share > 0.9])
        adc = map_adc(dwi, _QUIET.gain * _QUIET.noise)[dwi_share > 0.9]
        diameter = np.cbrt(share.sum() * np.prod(grid.spacing_mm))
        measured.append(
            (diameter, np.log(inside.std()), -np.median(adc), np.median(late[0][rim]) / np.median(late[0][core]), inside.mean())
        )
    wanted = {"size": 0.92, "heterogeneity": 0.75, "adc": 0.85, "rim": 0.75, "t2": 0.8}
    planted = drawn[:, [names.index(name) for name in wanted]]
    found = np.diag(np.corrcoef(np.array(measured).T, planted.T)[: len(wanted), len(wanted) :])
    assert (found > list(wanted.values())).all(), dict(zip(wanted, found, strict=True))


def test_grain_sets_the_length_of_the_texture() -> None:
    lengths = []
    for grain in (-1.5, 0.0, 1.5):
        images, share, _ = _sample(7, Latents(size=1.0, heterogeneity=1.0, grain=grain), R.T2W)
        inside = share > 0.9
        both = inside[:, :, 1:] & inside[:, :, :-1]
        step = np.diff(np.log(np.maximum(images[0], 1)), axis=2)[both]
        lengths.append(np.log(images[0][inside]).std() / step.std())
    assert lengths[0] < 0.8 * lengths[1] < 0.8 * lengths[2]


def test_rim_is_brighter_than_the_core_after_contrast_alone() -> None:
    latents = Latents(size=0.8, heterogeneity=-2.0, irregularity=-2.0, rim=1.5)
    for role, least in ((R.CE_T1W, 1.15), (R.T1W, None)):
        images, share, grid = _sample(2, latents, role)
        rim, core = _shells(2, latents, grid)
        ratio = np.median(images[0][rim]) / np.median(images[0][core])
        assert ratio > least if least else ratio == pytest.approx(1.0, abs=0.05)
        assert (share[rim | core] > 0.9).all()
