"""Phantom cohorts: labels with a known best AUC for every system, clinical tables, and the files that hold them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from node.cli import main
from pipelines.features import clinical
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.phantoms.cohort import Patient, draw_patients, write_cohort
from pipelines.phantoms.latents import Latents, UltrasoundLatents
from pipelines.phantoms.planting import (
    HISTOLOGY,
    KERATINISATION,
    LABEL,
    PREVALENCE,
    SYSTEMS,
    WEIGHTS,
    clinical_log_odds,
    plant,
    planted_index,
    plantings,
)

MANY = 2500
SEED_OF_BOTH_SITES = 5
BINARY = [s for s in SYSTEMS if s != "histotype_mri"]


def _auc(label: np.ndarray, score: np.ndarray) -> float:
    m, n = int(label.sum()), int((~label).sum())
    return float((rankdata(score)[label].sum() - m * (m + 1) / 2) / (m * n))


def _drawn(system: str, patients: list[Patient]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    label = np.array([p.label for p in patients], dtype=bool)
    index = np.array([p.indices[LABEL] for p in patients])
    return label, index, np.array([clinical_log_odds(system, p.clinical) for p in patients])


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("system", BINARY)
@pytest.mark.parametrize("auc", [0.75, 0.9])
def test_planted_auc_is_what_simulation_finds(system: str, auc: float) -> None:
    planting = plantings(system, auc)[LABEL]
    assert planting.bayes_auc() == pytest.approx(auc, abs=1e-6)
    assert planting.prevalence() == pytest.approx(PREVALENCE[system][LABEL], abs=1e-6)
    label, index, offset = _drawn(system, draw_patients(system, n=MANY, auc=auc, seed=5))
    assert label.mean() == pytest.approx(PREVALENCE[system][LABEL], abs=0.03)
    assert _auc(label, planting.slope * index + offset) == pytest.approx(auc, abs=0.025)
    assert _auc(label, index) == pytest.approx(planting.imaging_auc(), abs=0.03)
    assert _auc(label, offset) == pytest.approx(planting.clinical_auc(), abs=0.03)


@pytest.mark.parametrize("system", BINARY)
def test_null_cohort_has_no_signal_anywhere(system: str) -> None:
    planting = plantings(system, 0.5)[LABEL]
    assert (planting.slope, planting.bayes_auc(), planting.clinical_auc()) == (0.0, pytest.approx(0.5), pytest.approx(0.5))
    patients = draw_patients(system, n=MANY, auc=0.5, seed=6)
    label, index, offset = _drawn(system, patients)
    assert _auc(label, index) == pytest.approx(0.5, abs=0.03)
    assert _auc(label, offset) == pytest.approx(0.5, abs=0.03)
    for name in Latents.__dataclass_fields__ if system != "plnm_us" else UltrasoundLatents.__dataclass_fields__:
        assert _auc(label, np.array([getattr(p.latents, name) for p in patients])) == pytest.approx(0.5, abs=0.035), name


def test_types_have_the_frequencies_of_the_paper_and_both_bits_their_auc() -> None:
    patients = draw_patients("histotype_mri", n=MANY, auc=0.85, seed=5)
    share = {k: v / MANY for k, v in Counter(p.label for p in patients).items()}
    assert share == {4: pytest.approx(0.16, abs=0.02), 6: pytest.approx(0.76, abs=0.02), 7: pytest.approx(0.08, abs=0.015)}
    non_keratinising = np.array([bool(p.label & 2) for p in patients])
    assert _auc(non_keratinising, np.array([p.indices[KERATINISATION] for p in patients])) == pytest.approx(0.85, abs=0.03)
    among = [p for p in patients if p.label & 2]
    assert _auc(np.array([bool(p.label & 1) for p in among]), np.array([p.indices[HISTOLOGY] for p in among])) == pytest.approx(
        0.85, abs=0.03
    )
    null = draw_patients("histotype_mri", n=MANY, auc=0.5, seed=5)
    assert _auc(np.array([bool(p.label & 2) for p in null]), np.array([p.indices[KERATINISATION] for p in null])) == pytest.approx(
        0.5, abs=0.035
    )


def test_node_status_is_independent_of_the_tumour_with_its_odds_ratio() -> None:
    patients = draw_patients("lnm_hybrid", n=MANY, auc=0.85, seed=9)
    label, index, offset = _drawn("lnm_hybrid", patients)
    node = np.array([p.node_short_axis_mm >= 10 for p in patients])
    assert node.mean() == pytest.approx(0.2, abs=0.02) and (node == (offset > 0)).all()
    assert _auc(node, index) == pytest.approx(0.5, abs=0.03)
    near = np.abs(index - np.median(index)) < 0.4  # at about one index the odds ratio shows
    odds = [label[near & (node == state)].mean() / (1 - label[near & (node == state)].mean()) for state in (False, True)]
    assert odds[1] / odds[0] == pytest.approx(10, rel=0.35)
    planting = plantings("lnm_hybrid", 0.85)[LABEL]
    positive, negative = label[node].sum() / label.sum(), (~node[~label]).mean()
    assert planting.clinical_auc() == pytest.approx((positive + negative) / 2, abs=0.02)  # a binary's AUC


@pytest.mark.parametrize("system", ["olnm_mri", "lvsi_mri", "histotype_mri"])
def test_nodes_stay_occult_where_the_paper_excluded_others(system: str) -> None:
    assert all(p.node_short_axis_mm < 10 for p in draw_patients(system, n=500, auc=0.8, seed=1))


@pytest.mark.parametrize("system", SYSTEMS)
def test_clinical_values_are_of_the_known_names_and_ranges(system: str) -> None:
    for patient in draw_patients(system, n=100, auc=0.8, seed=2):
        stated = {name: str(value) for name, value in patient.clinical.items() if value != ""}
        assert set(clinical.parse_all(stated, source="phantom")) == set(stated)
        assert 28 <= float(stated["age_y"]) <= 80


def test_gaps_of_the_typing_table_are_there() -> None:
    patients = draw_patients("histotype_mri", n=1000, auc=0.8, seed=2)
    assert np.mean([p.clinical["hpv"] == "" for p in patients]) == pytest.approx(0.237, abs=0.04)


def test_published_effects_of_diameter_and_red_cells() -> None:
    at = {"max_tumour_diameter_mm": 30.0, "rbc_1e12_per_l": 4.0}
    larger, fuller = {**at, "max_tumour_diameter_mm": 31.0}, {**at, "rbc_1e12_per_l": 5.0}
    base = clinical_log_odds("plnm_us", at)
    assert np.exp(clinical_log_odds("plnm_us", larger) - base) == pytest.approx(1.055, abs=1e-3)
    assert np.exp(clinical_log_odds("plnm_us", fuller) - base) == pytest.approx(0.646, abs=1e-3)


@pytest.mark.parametrize(("auc", "offset"), [(0.99, ((0.0,), (1.0,))), (0.4, ((0.0,), (1.0,))), (0.55, ((0.0, 3.0), (0.5, 0.5)))])
def test_auc_that_cannot_be_planted_is_refused(auc: float, offset: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"between|clinical values alone have an AUC of 0\.8"):
        plant(auc, offset=offset)


def test_index_is_standard_normal() -> None:
    weights = WEIGHTS["olnm_mri"][LABEL]
    assert planted_index("olnm_mri", Latents(size=1.0)) == pytest.approx(weights["size"] / np.linalg.norm(list(weights.values())))
    for system in BINARY:
        index = [p.indices[LABEL] for p in draw_patients(system, n=2000, auc=0.8, seed=3)]
        assert (np.mean(index), np.std(index)) == (pytest.approx(0, abs=0.07), pytest.approx(1, abs=0.05))


@pytest.mark.parametrize("system", SYSTEMS)
def test_cohort_table_names_studies_rois_labels_and_values(tmp_path: Path, system: str) -> None:
    lines: list[str] = []
    n = 2 if system == "plnm_us" else 1
    path = write_cohort(tmp_path / "cohort", system, n=n, auc=0.9, seed=2, progress=lines.append)
    rows, truths = _read(path), _read(path.parent / "truth.csv")
    assert [r["patient"] for r in rows] == [t["patient"] for t in truths] == ["PHANTOM-2000", "PHANTOM-2001"][:n]
    drawn = draw_patients(system, n=n, auc=0.9, seed=2)
    for row, truth, patient in zip(rows, truths, drawn, strict=True):
        assert (path.parent / row["roi"]).is_file() and row["site"] in "AB"
        assert int(row["label"]) == patient.label
        assert {name: row[name] for name in patient.clinical} == {name: str(value) for name, value in patient.clinical.items()}
        assert float(truth["bayes_auc"]) == pytest.approx(0.9, abs=1e-6)
        assert float(truth["size"]) == pytest.approx(patient.latents.size)
        assert not set(truth) & (set(row) - {"patient"})  # the answers stand apart
        (uid,) = {s.header.study_instance_uid for s in read_series(find_dicom_files(path.parent / row["study"]))}
        assert uid.startswith("2.25.")
    assert lines == [f"phantoms: {n} of {n} written"]


def test_sites_have_scanners_of_their_own_and_can_be_moved_apart(tmp_path: Path) -> None:
    vendors: dict[str, set[str]] = {}
    for folder, strength in (("plain", 0.0), ("apart", 1.0)):
        path = write_cohort(tmp_path / folder, "plnm_us", n=2, auc=0.9, seed=SEED_OF_BOTH_SITES, site_shift=strength)
        for row in _read(path):
            (series, *_) = read_series([path.parent / row["study"] / "003.dcm"])
            vendors.setdefault(row["site"], set()).add(series.instances[0].ManufacturerModelName)
            same = (tmp_path / "plain" / row["study"] / "003.dcm").read_bytes() == (path.parent / row["study"] / "003.dcm").read_bytes()
            assert same == (strength == 0.0 or row["site"] == "A")
    assert vendors == {"A": {"Voluson E10 (synthetic phantom)"}, "B": {"LOGIQ E9 (synthetic phantom)"}}


@pytest.mark.slow
def test_workers_write_the_same_cohort(tmp_path: Path) -> None:
    one, two = (write_cohort(tmp_path / str(n), "plnm_us", n=2, auc=0.8, seed=4, workers=n) for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    files = [p.relative_to(one.parent) for p in find_dicom_files(one.parent)]
    assert all((one.parent / f).read_bytes() == (two.parent / f).read_bytes() for f in files)


def test_command_writes_a_cohort_and_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", "plnm_us", "--n", "1", "--auc", "0.85", "--seed", "7", "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "cohort.csv").is_file()
    assert main(["phantom", "unknown", "--out", str(tmp_path / "d")]) != 0
    assert "no phantom cohort for 'unknown': there is one for olnm_mri, plnm_us" in capsys.readouterr().err
    assert main(["phantom", "lnm_hybrid", "--auc", "0.6", "--out", str(tmp_path / "d")]) != 0
    assert "the clinical values alone have an AUC of 0.7" in capsys.readouterr().err
