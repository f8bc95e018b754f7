"""Cohorts of phantoms with a planted label whose best possible AUC is known analytically."""

from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from pipelines.phantoms.anatomy import Latents
from pipelines.phantoms.dicom import PhantomTruth, write_study

SYSTEMS = ("olnm_mri",)
WEIGHTS = np.array([0.60, 0.54, 0.50, 0.32])  # of size, heterogeneity, ADC, irregularity in the planted index
WEIGHTS /= np.linalg.norm(WEIGHTS)  # so that the index is standard normal, as the latents are
PREVALENCE = 0.4
SITES = (("A", "SIEMENS", 0.7), ("B", "PHILIPS", 0.3))  # site, scanner, share of the patients


@dataclass(frozen=True)
class Planting:
    """Label model: P(label | index) = expit(intercept + slope * index), index ~ N(0, 1)."""

    intercept: float
    slope: float

    def bayes_auc(self) -> float:
        """Return the AUC of the index itself, by quadrature: no score can do better in expectation."""
        _, density, risk = self._quadrature()
        cases, controls = density * risk, density * (1 - risk)
        cases, controls = cases / cases.sum(), controls / controls.sum()
        below = np.cumsum(controls) - controls / 2
        return float((cases * below).sum())

    def prevalence(self) -> float:
        """Return the share of positive labels."""
        _, density, risk = self._quadrature()
        return float((density * risk).sum())

    def _quadrature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = np.linspace(-8, 8, 8001)
        density = norm.pdf(index)
        return index, density / density.sum(), expit(self.intercept + self.slope * index)


def plant(auc: float, prevalence: float = PREVALENCE) -> Planting:
    """Return the label model with this Bayes AUC (0.5 to 0.97) and prevalence; 0.5 plants nothing."""
    if not 0.5 <= auc <= 0.97:
        raise ValueError(f"the planted AUC must lie between 0.5 and 0.97, not {auc}")

    def at(slope: float) -> Planting:
        intercept = brentq(lambda a: Planting(a, slope).prevalence() - prevalence, -20, 20)
        return Planting(float(intercept), slope)

    if auc == 0.5:
        return at(0.0)
    return at(float(brentq(lambda slope: at(slope).bayes_auc() - auc, 0.0, 12.0)))


def planted_index(latents: Latents) -> float:
    """Return the standard-normal index that the label depends on."""
    return float(WEIGHTS @ np.array(astuple(latents)))


def write_cohort(
    folder: Path,
    system: str,
    *,
    n: int,
    auc: float,
    seed: int,
    preset: str = "fast",
    workers: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write ``n`` phantom studies with a planted label and return the path of ``cohort.csv``.

    ``cohort.csv`` has the columns patient, study, roi, label, site with paths relative to itself; the answers (latents, planted
    index and the Bayes AUC) stand apart in ``truth.csv``. Patient ``i`` is phantom ``1000 * seed + i``.
    """
    if system not in SYSTEMS:
        raise ValueError(f"no phantom cohort for {system!r}: there is one for {', '.join(SYSTEMS)}")
    planting, rng = plant(auc), np.random.default_rng([seed, 3])
    folder.mkdir(parents=True, exist_ok=True)
    sites = rng.choice(len(SITES), size=n, p=[share for _, _, share in SITES])
    jobs = [(folder / f"patient{i:04d}", 1000 * seed + i, SITES[site][1]) for i, site in enumerate(sites)]
    cohort: list[dict[str, object]] = []
    truths: list[dict[str, object]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for i, truth in enumerate(pool.map(partial(_write_one, preset=preset), jobs)):
            index = planted_index(truth.latents)
            label = int(rng.random() < expit(planting.intercept + planting.slope * index))
            roi = truth.seg.relative_to(folder) if truth.seg else ""
            row: dict[str, object] = {"patient": truth.patient_id, "study": truth.folder.name, "roi": roi, "label": label}
            cohort.append({**row, "site": SITES[sites[i]][0]})
            planted = {"index": index, "bayes_auc": planting.bayes_auc(), "volume_ml": truth.tumour_volume_ml}
            truths.append({"patient": truth.patient_id, **_columns(truth.latents), **planted})
            if (i + 1) % 10 == 0 or i + 1 == n:
                progress(f"phantoms: {i + 1} of {n} written")
    _write_csv(folder / "truth.csv", truths)
    return _write_csv(folder / "cohort.csv", cohort)


def _write_one(job: tuple[Path, int, str], *, preset: str) -> PhantomTruth:
    folder, seed, vendor = job
    return write_study(folder, seed=seed, vendor=vendor, preset=preset, with_seg=True)


def _columns(latents: Latents) -> dict[str, object]:
    return {f.name: getattr(latents, f.name) for f in fields(latents)}


def _write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
