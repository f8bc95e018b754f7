"""Phantom studies: valid DICOM, decided by the seed, with the truth that was planted."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scipy.special import expit
from scipy.stats import rankdata

from pipelines.engine import load_case
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.phantoms.anatomy import Latents, Pelvis
from pipelines.phantoms.cohort import PREVALENCE, WEIGHTS, plant, planted_index, write_cohort
from pipelines.phantoms.dicom import VENDORS, PhantomTruth, write_study
from pipelines.systems.olnm_mri import SPEC
from pipelines.types import Case, RoiOrigin, SeriesRole


@pytest.fixture(scope="module", params=sorted(VENDORS))
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PhantomTruth:
    return write_study(tmp_path_factory.mktemp("phantom"), seed=3, vendor=request.param, with_seg=True)


def _case(folder: Path) -> Case:
    series = read_series(find_dicom_files(folder))
    return load_case(series, choose(series, SPEC), SPEC)


def test_study_has_no_dciodvfy_error(study: PhantomTruth) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    for series in {path.parent: path for path in find_dicom_files(study.folder)}.values():
        found = subprocess.run(["dciodvfy", str(series)], capture_output=True, text=True, check=False)
        errors = [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], series


def test_study_serves_the_sequences_of_olnm_mri(study: PhantomTruth) -> None:
    case = _case(study.folder)
    assert set(case.volumes) == set(SPEC.required)
    assert case.roi is not None and case.roi.origin is RoiOrigin.SEG
    assert {b for d in case.volumes[SeriesRole.DWI].sources for b in [d.DiffusionBValue]} == {800.0}


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


def test_sequences_lie_on_their_own_oblique_grids(study: PhantomTruth) -> None:
    volumes = list(_case(study.folder).volumes.values())
    directions = [v.volume.direction for v in volumes]
    assert not np.allclose(directions[0], directions[1], atol=1e-3)
    for direction in directions:
        assert np.allclose(direction.T @ direction, np.eye(3), atol=1e-5)
        assert 0 < np.degrees(np.arccos(abs(direction[2, 0]))) < 15  # slice normal off the body axis
    assert len({v.header.frame_of_reference_uid for v in volumes}) == 1


def test_tumour_is_bright_in_diffusion_and_as_large_as_planted(study: PhantomTruth) -> None:
    case = _case(study.folder)
    assert case.roi is not None
    mask = case.roi.volume.array > 0
    volume_ml = mask.sum() * case.roi.volume.voxel_volume / 1000
    assert volume_ml == pytest.approx(study.tumour_volume_ml, rel=0.06)
    sphere_ml = np.pi / 6 * (study.latents.diameter_mm / 10) ** 3
    assert 0.5 < volume_ml / sphere_ml < 1.8  # the rough surface and the warp change it a little
    dwi = case.volumes[SeriesRole.DWI].volume
    centre = dwi.map_reference_to_indices(case.roi.volume.map_indices_to_reference(np.argwhere(mask).mean(axis=0)[None]))
    k, i, j = np.round(np.asarray(centre)[0]).astype(int)
    assert dwi.array[k, i - 2 : i + 3, j - 2 : j + 3].mean() > 2 * np.percentile(dwi.array, 75)


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_study(tmp_path / name, seed=8, with_seg=True)
    first, second = (find_dicom_files(tmp_path / name) for name in ("first", "second"))
    assert [p.relative_to(tmp_path / "first") for p in first] == [p.relative_to(tmp_path / "second") for p in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


def test_other_seed_is_another_patient(tmp_path: Path, study: PhantomTruth) -> None:
    other = write_study(tmp_path, seed=4)
    assert other.study_instance_uid != study.study_instance_uid
    assert other.latents != study.latents
    assert other.seg is None and not list(tmp_path.glob("*.dcm"))


def test_latents_given_by_hand_win_over_the_seed() -> None:
    large = Pelvis(1, Latents(size=1.5, heterogeneity=0, adc=0, irregularity=0))
    assert large.latents.diameter_mm == pytest.approx(34 * np.exp(0.45))
    assert large.latents.mean_adc == pytest.approx(0.92)


def test_unknown_vendor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'GE'.*SIEMENS"):
        write_study(tmp_path, seed=1, vendor="GE")


def test_seg_is_of_the_t2_grid(study: PhantomTruth) -> None:
    assert study.seg is not None
    seg = hd.seg.segread(study.seg)
    t2 = _case(study.folder).volumes[SeriesRole.T2W_FS]
    assert {str(s.SeriesInstanceUID) for s in seg.ReferencedSeriesSequence} == {t2.header.series_instance_uid}


@pytest.mark.parametrize("auc", [0.5, 0.75, 0.9])
def test_planted_auc_is_what_simulation_finds(auc: float) -> None:
    planting = plant(auc)
    assert planting.bayes_auc() == pytest.approx(auc, abs=1e-6)
    assert planting.prevalence() == pytest.approx(PREVALENCE, abs=1e-6)
    rng = np.random.default_rng(1)
    index = rng.standard_normal(200_000)
    label = rng.random(len(index)) < expit(planting.intercept + planting.slope * index)
    m, n = int(label.sum()), int((~label).sum())
    found = (rankdata(index)[label].sum() - m * (m + 1) / 2) / (m * n)
    assert found == pytest.approx(auc, abs=0.005)


def test_planted_auc_beyond_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="between"):
        plant(0.99)


def test_planted_index_is_standard_normal() -> None:
    assert np.linalg.norm(WEIGHTS) == pytest.approx(1.0)
    assert planted_index(Latents(1.0, 0.0, 0.0, 0.0)) == pytest.approx(WEIGHTS[0])


def test_cohort_table_names_studies_rois_and_labels(tmp_path: Path) -> None:
    lines: list[str] = []
    path = write_cohort(tmp_path / "cohort", "olnm_mri", n=3, auc=0.9, seed=2, progress=lines.append)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["patient"] for r in rows] == ["PHANTOM-2000", "PHANTOM-2001", "PHANTOM-2002"]
    assert all((path.parent / r["roi"]).is_file() and r["label"] in "01" for r in rows)
    with (path.parent / "truth.csv").open(newline="") as file:
        assert [float(r["bayes_auc"]) for r in csv.DictReader(file)] == pytest.approx([0.9] * 3, abs=1e-6)
    assert lines == ["phantoms: 3 of 3 written"]


def test_cohort_of_an_unknown_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="olnm_mri"):
        write_cohort(tmp_path, "unknown", n=3, auc=0.9, seed=2)
