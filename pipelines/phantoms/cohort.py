"""Cohorts of phantoms, one for each system, with a planted label whose best possible AUC is known."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pipelines.phantoms.clinical import draw_clinical
from pipelines.phantoms.dicom import write_study
from pipelines.phantoms.latents import Latents, UltrasoundLatents, draw_latents, draw_short_axis, draw_ultrasound_latents
from pipelines.phantoms.planting import (
    HISTOLOGY,
    KERATINISATION,
    LABEL,
    NODE_POSITIVE_SHARE,
    SYSTEMS,
    Planting,
    clinical_log_odds,
    plant,
    planted_index,
    plantings,
)
from pipelines.phantoms.scanners import DRAWN_ON, SEQUENCES
from pipelines.phantoms.ultrasound_dicom import write_ultrasound_study

__all__ = ["SYSTEMS", "Patient", "draw_patients", "plant", "planted_index", "write_cohort"]

ULTRASOUND = "plnm_us"
SITES = (("A", 0.7), ("B", 0.3))  # site and share of the patients
_SCANNERS = {True: ("VOLUSON", "LOGIQ"), False: ("SIEMENS", "PHILIPS")}  # of ultrasound and of MR, by site
_LONGEST = 1.1  # the MR tumour's longest diameter relative to its mean one


@dataclass(frozen=True)
class Patient:
    """One patient of a cohort before any image is made: seed, site (from 0), latents, clinical values, and the planted label."""

    seed: int
    site: int
    latents: Latents | UltrasoundLatents
    clinical: Mapping[str, object]
    node_short_axis_mm: float
    indices: Mapping[str, float]  # by outcome
    label: int


def draw_patients(system: str, *, n: int, auc: float, seed: int) -> list[Patient]:
    """Draw the patients of a cohort; patient ``i`` is phantom ``1000 * seed + i``. The label of ``histotype_mri`` is the type, 0 to 7.

    Raises
    ------
    ValueError
        There is no such system, or the AUC cannot be planted.
    """
    models, rng = plantings(system, auc), np.random.default_rng([seed, 3])
    sites = rng.choice(len(SITES), size=n, p=[share for _, share in SITES])
    return [_draw_patient(system, models, 1000 * seed + i, site=int(site), rng=rng) for i, site in enumerate(sites)]


def _draw_patient(system: str, models: Mapping[str, Planting], seed: int, *, site: int, rng: np.random.Generator) -> Patient:
    latents = draw_ultrasound_latents(seed) if system == ULTRASOUND else draw_latents(seed)
    node = draw_short_axis(seed, positive_share=NODE_POSITIVE_SHARE if system == "lnm_hybrid" else 0.0)
    longest = latents.diameter_mm * (1.0 if system == ULTRASOUND else _LONGEST)
    clinical = draw_clinical(system, seed=seed, diameter_mm=longest, node_short_axis_mm=node)
    indices = {outcome: planted_index(system, latents, outcome) for outcome in models}
    positive = {}
    for outcome, model in models.items():
        offset = clinical_log_odds(system, clinical) if len(model.offset[0]) > 1 else 0.0  # the null plants nothing on them either
        positive[outcome] = bool(rng.random() < model.risk(indices[outcome], offset))
    label = int(positive[LABEL]) if LABEL in positive else _type(positive)
    return Patient(seed, site, latents, clinical, node, indices, label)


def _type(positive: Mapping[str, bool]) -> int:
    """Return the type of [CRFE]: 4 for large cells (all, as in the paper), 2 for non-keratinising, 1 for adenocarcinoma among these."""
    return 4 + 2 * positive[KERATINISATION] + (positive[KERATINISATION] and positive[HISTOLOGY])


def write_cohort(
    folder: Path,
    system: str,
    *,
    n: int,
    auc: float,
    seed: int,
    preset: str = "fast",
    site_shift: float = 0.0,
    workers: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write ``n`` phantom studies with a planted label and return the path of ``cohort.csv``.

    ``cohort.csv`` has the columns patient, study, roi, label and site, with paths relative to itself, and one per clinical value. The
    answers (latents, index, analytic AUCs, size) stand apart in ``truth.csv``. ``site_shift`` moves the scanner of site B away from that
    of site A.

    Raises
    ------
    ValueError
        There is no such system or preset, or the AUC cannot be planted.
    """
    models, patients = plantings(system, auc), draw_patients(system, n=n, auc=auc, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"patient{i:04d}", patient) for i, patient in enumerate(patients)]
    cohort: list[dict[str, object]] = []
    truths: list[dict[str, object]] = []
    aucs = _columns(models)
    write = partial(_write_one, system=system, preset=preset, site_shift=site_shift)
    for i, (patient, (study, roi, size)) in enumerate(zip(patients, _run(write, jobs, workers), strict=True)):
        name = f"PHANTOM-{patient.seed}"
        row = {"patient": name, "study": study.name, "roi": roi.relative_to(folder), "label": patient.label, "site": SITES[patient.site][0]}
        cohort.append({**row, **patient.clinical})
        indices = {("index" if outcome == LABEL else f"index_{outcome}"): value for outcome, value in patient.indices.items()}
        truths.append({"patient": name, **asdict(patient.latents), **indices, **aucs, **size})
        if (i + 1) % 10 == 0 or i + 1 == n:
            progress(f"phantoms: {i + 1} of {n} written")
    _write_csv(folder / "truth.csv", truths)
    return _write_csv(folder / "cohort.csv", cohort)


def _columns(models: Mapping[str, Planting]) -> dict[str, float]:
    """Return the analytic AUCs; every outcome has the same Bayes AUC, and with several there is no clinical part."""
    model = next(iter(models.values()))
    return {"bayes_auc": model.bayes_auc(), "imaging_auc": model.imaging_auc(), "clinical_auc": model.clinical_auc()}


_Written = tuple[Path, Path, dict[str, float]]  # study folder, roi, size by name


def _run(write: Callable[[tuple[Path, Patient]], _Written], jobs: list[tuple[Path, Patient]], workers: int) -> Iterator[_Written]:
    if workers == 1:
        yield from map(write, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, jobs)


def _write_one(job: tuple[Path, Patient], *, system: str, preset: str, site_shift: float) -> _Written:
    folder, patient = job
    scanner = _SCANNERS[system == ULTRASOUND][patient.site]
    strength = site_shift if patient.site else 0.0
    if isinstance(patient.latents, UltrasoundLatents):
        sonogram = write_ultrasound_study(
            folder, seed=patient.seed, transducer=scanner, preset=preset, with_outline=True, latents=patient.latents, site_shift=strength
        )
        return folder, sonogram.report or folder, {"section_area_mm2": sonogram.section_area_mm2}
    study = write_study(
        folder,
        seed=patient.seed,
        vendor=scanner,
        preset=preset,
        with_seg=True,
        latents=patient.latents,
        roles=SEQUENCES[system],
        drawn_on=DRAWN_ON[system],
        node_short_axis_mm=patient.node_short_axis_mm,
        site_shift=strength,
    )
    return folder, study.seg or folder, {"volume_ml": study.tumour_volume_ml}


def _write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
