"""Phantom ultrasound: real DICOM that the reader of ultrasound understands, calibrated, with the true margin as an outline."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.spatial import ConvexHull

from pipelines.imaging.scoord import find_frame_regions
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.imaging.ultrasound import choose_ultrasound, rank_ultrasound
from pipelines.phantoms.dicom import write_study
from pipelines.phantoms.latents import UltrasoundLatents
from pipelines.phantoms.scanners import SEQUENCES
from pipelines.phantoms.ultrasound import SAMPLINGS, TRANSDUCERS, image, lay_out, shift
from pipelines.phantoms.ultrasound_anatomy import Plane
from pipelines.phantoms.ultrasound_dicom import PHOTOMETRICS, UltrasoundTruth, write_ultrasound_study
from pipelines.systems import catalogue
from pipelines.types import UltrasoundFrame
from tests.foreign import need

LATENTS = UltrasoundLatents(size=0.2, heterogeneity=0.5, echogenicity=0.5, irregularity=0.5)


@pytest.fixture(scope="module", params=sorted(TRANSDUCERS))
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UltrasoundTruth:
    return write_ultrasound_study(tmp_path_factory.mktemp("us"), seed=3, transducer=request.param, with_outline=True)


def _frame(folder: Path) -> UltrasoundFrame:
    return choose_ultrasound(read_series(find_dicom_files(folder)))


def _diameter_mm(frame: UltrasoundFrame) -> float:
    assert frame.roi is not None and frame.spacing_mm is not None
    corners = np.argwhere(frame.roi)
    points = corners[ConvexHull(corners).vertices] * frame.spacing_mm
    return float(np.linalg.norm(points[:, None] - points[None], axis=-1).max())


def _errors(path: Path) -> list[str]:
    found = subprocess.run([need("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    return [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]


def test_study_has_no_dciodvfy_error(study: UltrasoundTruth, tmp_path: Path) -> None:
    for path in find_dicom_files(study.folder):
        assert _errors(path) == [], path
    cine = write_ultrasound_study(tmp_path, seed=3, maximal="cine", photometric="MONOCHROME2")
    assert _errors(cine.folder / "003.dcm") == []


def test_study_says_in_every_file_that_it_is_synthetic(study: UltrasoundTruth) -> None:
    for path in find_dicom_files(study.folder):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert (str(ds.PatientName), ds.PatientID, ds.PatientIdentityRemoved) == ("PHANTOM^SYNTHETIC", "PHANTOM-3", "YES")
        assert ds.StudyInstanceUID == study.study_instance_uid
        assert ds.get("ImageComments", "SYNTHETIC PHANTOM") == "SYNTHETIC PHANTOM"


def test_outline_finds_the_maximal_section_and_its_diameter(study: UltrasoundTruth) -> None:
    frame = _frame(study.folder)
    assert frame.source.SOPInstanceUID == study.maximal_sop_instance_uid
    assert frame.score == 100 and frame.source.Manufacturer == "GE Healthcare"
    assert _diameter_mm(frame) == pytest.approx(study.latents.diameter_mm, abs=1.0)
    assert frame.roi is not None and frame.spacing_mm is not None
    assert frame.roi.sum() * np.prod(frame.spacing_mm) == pytest.approx(study.section_area_mm2, rel=0.02)
    assert not frame.hidden[frame.roi > 0].any()


def test_keeper_is_best_without_an_outline_too(study: UltrasoundTruth) -> None:
    series = [s for s in read_series(find_dicom_files(study.folder)) if s.header.modality == "US"]
    ranked = rank_ultrasound(series)
    assert ranked[0].source.SOPInstanceUID == study.maximal_sop_instance_uid
    assert [c.score for c in ranked] == [100, 100, 90]  # calipers on the last


def test_report_names_the_tumour_on_one_image(study: UltrasoundTruth) -> None:
    (region,) = find_frame_regions(read_series(find_dicom_files(study.folder)), {study.maximal_sop_instance_uid})
    assert region.drawn_by == "PHANTOM^SYNTHETIC" and region.frame_number is None
    assert len(region.contours) == 1


def test_burned_in_text_stays_outside_the_tissue(study: UltrasoundTruth) -> None:
    frame = _frame(study.folder)
    raw = pydicom.dcmread(str(frame.source.filename)).pixel_array[..., 0]
    assert raw[:20].max() > 150 and frame.grey[frame.hidden].max() == 0
    top, left, bottom, right = frame.box
    screen = lay_out(TRANSDUCERS[study.transducer], SAMPLINGS["fast"])
    assert screen.box == (top, left, bottom - 1, right - 1)
    fan = screen.inside[top:bottom, left:right]
    assert np.mean(fan != ~frame.hidden) < 0.02


def test_cine_is_read_at_the_frame_of_the_largest_section(tmp_path: Path) -> None:
    truth = write_ultrasound_study(tmp_path, seed=4, maximal="cine", with_outline=True, latents=LATENTS)
    frame = _frame(tmp_path)
    assert truth.maximal_frame == frame.frame_number == 3
    assert _diameter_mm(frame) == pytest.approx(LATENTS.diameter_mm, abs=1.0)


def test_missing_calibration_leaves_no_millimetres(tmp_path: Path) -> None:
    write_ultrasound_study(tmp_path, seed=4, maximal="uncalibrated", with_outline=True)
    frame = _frame(tmp_path)
    assert frame.spacing_mm is None and frame.roi is not None
    assert any("not calibrated" in p for p in frame.problems)


def test_calipers_measure_the_diameter_and_are_painted_over(tmp_path: Path) -> None:
    write_ultrasound_study(tmp_path, seed=4, maximal="calipers", with_outline=True, latents=LATENTS)
    frame = _frame(tmp_path)
    rgb = pydicom.dcmread(str(frame.source.filename)).pixel_array.astype(int)
    assert (rgb[..., 0] - rgb[..., 2] > 200).sum() > 20
    assert frame.roi is not None and 0 < frame.hidden[frame.roi > 0].mean() < 0.05
    assert frame.score == 90


@pytest.mark.parametrize("photometric", PHOTOMETRICS)
def test_encodings_show_the_same_tissue(tmp_path: Path, photometric: str) -> None:
    write_ultrasound_study(tmp_path, seed=4, photometric=photometric, with_outline=True)
    frame = _frame(tmp_path)
    plane = Plane(4, write_ultrasound_study(tmp_path / "again", seed=4).latents, number=3)
    screen = lay_out(TRANSDUCERS["VOLUSON"], SAMPLINGS["fast"])
    rendered = image(plane, TRANSDUCERS["VOLUSON"], SAMPLINGS["fast"], rng=np.random.default_rng([4, 3, 3]))
    top, left, bottom, right = screen.box
    inside = ~frame.hidden
    assert np.abs(frame.grey - rendered[top : bottom + 1, left : right + 1])[inside].max() <= 2


def test_images_can_join_the_mr_study_of_the_same_patient(tmp_path: Path) -> None:
    mr = write_study(tmp_path / "mr", seed=8, roles=SEQUENCES["olnm_mri"])
    us = write_ultrasound_study(tmp_path / "us", seed=8, with_outline=True, in_mr_study=True)
    assert us.study_instance_uid == mr.study_instance_uid
    assert us.study_instance_uid != write_ultrasound_study(tmp_path / "alone", seed=8).study_instance_uid
    files = [*find_dicom_files(mr.folder), *find_dicom_files(us.folder)]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    for keyword in (
        "StudyInstanceUID",
        "PatientID",
        "PatientName",
        "PatientSex",
        "StudyDate",
        "StudyID",
        "AccessionNumber",
        "StudyDescription",
    ):
        assert len({str(ds[keyword].value) for ds in headers}) == 1, keyword
    series = {ds.SeriesInstanceUID: int(ds.SeriesNumber) for ds in headers}
    assert len(series) == len(set(series.values())) == 3 + 2, "each series has a number of its own; images and outline of ultrasound"
    assert {ds.Modality for ds in headers if "FrameOfReferenceUID" not in ds} == {"US", "SR"}, "ultrasound has no patient coordinates"
    for system, modality in (("olnm_mri", "MR"), ("plnm_us", "US")):
        choices = choose(read_series(files), catalogue()[system])
        assert {choice.header.modality for choice in choices.values()} == {modality}


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_ultrasound_study(tmp_path / name, seed=8, with_outline=True)
    first, second = (find_dicom_files(tmp_path / name) for name in ("first", "second"))
    assert [p.name for p in first] == [p.name for p in second] == ["001.dcm", "002.dcm", "003.dcm", "tumour_sr.dcm"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"transducer": "CURVED"}, "unknown transducer 'CURVED': use one of VOLUSON, LOGIQ"),
        ({"preset": "quick"}, "unknown preset 'quick': use one of fast, full"),
        ({"maximal": "doppler"}, "unknown variant 'doppler'"),
        ({"photometric": "PALETTE COLOR"}, "unknown photometric interpretation"),
    ],
)
def test_unknown_choices_are_named(tmp_path: Path, wrong: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        write_ultrasound_study(tmp_path, seed=1, **wrong)


def _measure(seed: int, latents: UltrasoundLatents, name: str = "VOLUSON") -> tuple[float, float, float, float]:
    """Return width, mean grey, its standard deviation on a coarse scale, and perimeter to area of a tumour."""
    plane, probe, sampling = Plane(seed, latents), TRANSDUCERS[name], SAMPLINGS["fast"]
    grey = image(plane, probe, sampling, rng=np.random.default_rng(seed)).astype(float)
    outline = lay_out(probe, sampling).to_pixels(plane.outline())
    (top, left), (bottom, right) = outline.min(axis=0).astype(int), outline.max(axis=0).astype(int) + 1
    middle = outline.mean(axis=0)
    rows, columns = np.mgrid[top:bottom, left:right]
    half = np.array([bottom - top, right - left]) * 0.3
    inside = np.hypot((rows - middle[0]) / half[0], (columns - middle[1]) / half[1]) < 1
    crop = grey[top:bottom, left:right]
    blocks = [crop[i : i + 8, j : j + 8].mean() for i, j in np.argwhere(inside)[::40] if inside[i : i + 8, j : j + 8].all()]
    edges = np.linalg.norm(outline - np.roll(outline, 1, axis=0), axis=1).sum()
    x, y = outline.T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    return right - left, float(crop[inside].mean()), float(np.log(np.std(blocks))), float(edges**2 / area)


def test_measured_pictures_follow_the_latents() -> None:
    drawn = np.random.default_rng(0).standard_normal((18, 4))
    drawn[:, 0] = np.abs(drawn[:, 0])  # in the smallest a coarse scale has no room
    measured = [_measure(seed, UltrasoundLatents(*(float(v) for v in row))) for seed, row in enumerate(drawn)]
    size, grey, texture, lobes = np.diag(np.corrcoef(np.array(measured).T, drawn[:, [0, 2, 1, 3]].T)[:4, 4:])
    assert size > 0.9 and grey < -0.6 and texture > 0.6 and lobes > 0.8, (size, grey, texture, lobes)


def test_other_transducer_and_a_shift_make_another_picture() -> None:
    plane = [Plane(1, LATENTS) for _ in range(3)]
    probes = (TRANSDUCERS["VOLUSON"], TRANSDUCERS["LOGIQ"], shift(TRANSDUCERS["VOLUSON"], 1.0))
    assert shift(probes[0], 0.0) == probes[0]
    pictures = [image(p, t, SAMPLINGS["fast"], rng=np.random.default_rng(1)) for p, t in zip(plane, probes, strict=True)]
    greys = [np.percentile(p[p > 1], np.arange(5, 100, 5)) for p in pictures]
    assert np.abs(greys[1] - greys[0]).max() > 3 and np.abs(greys[2] - greys[0]).max() > 3


def test_region_is_calibrated_from_the_probe(study: UltrasoundTruth) -> None:
    ds = pydicom.dcmread(study.folder / "001.dcm")
    (region,) = ds.SequenceOfUltrasoundRegions
    screen = lay_out(TRANSDUCERS[study.transducer], SAMPLINGS["fast"])
    assert region.PhysicalDeltaX * 10 == pytest.approx(screen.pixel_mm, abs=1e-9)
    column = region.RegionLocationMinX0 + region.ReferencePixelX0
    row = region.RegionLocationMinY0 + region.ReferencePixelY0
    assert (row, column) == pytest.approx(screen.origin, abs=1)
