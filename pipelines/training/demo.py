"""The demo bundles, rebuilt from seeds alone."""

from __future__ import annotations

import datetime
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipelines.models.bundle import MANIFEST, parse_manifest, read_manifest_bytes
from pipelines.models.manifest import Golden
from pipelines.phantoms.cohort import write_cohort
from pipelines.phantoms.planting import best_auc, plantings
from pipelines.training.extract import SliceGrid
from pipelines.training.fit import Schedule
from pipelines.training.plan import Plan
from pipelines.training.train import train

VERSION = "demo-1"
DATE = datetime.date(2026, 11, 28)  # of the committed ones; part of nothing that is computed


@dataclass(frozen=True)
class Demo:
    """One demo bundle: how many phantoms with which best possible AUC, from which seed, and how it is trained.

    ``segmenter_of`` is another system, whose segmenter is taken.
    """

    patients: int
    auc: float
    seed: int
    plan: Plan = field(default_factory=Plan)
    segmenter_of: str = ""


_SECTION = SliceGrid(spacing_mm=0.9, size=128)  # ultrasound is finer than MR and shows less
_BRIEF = Plan(cnn=Schedule(epochs=6, batch=8, rate=1e-3), repeats=2, permutations=4)
# The first one's phantoms have every sequence that the MR segmenter draws on, and it trains that for all. Every system has phantoms of its
# own, so that nobody's segmenter is judged on patients that it was trained on.
DEMOS: Mapping[str, Demo] = {
    "lvsi_mri": Demo(
        260,
        0.97,
        11,
        replace(_BRIEF, segmenter=Schedule(epochs=14, batch=8, rate=2e-3, patience=14), segmenter_patients=65, network_share=0.25),
    ),
    "olnm_mri": Demo(
        200,
        0.95,
        12,
        replace(_BRIEF, cnn=Schedule(epochs=6, batch=4, rate=1e-3), repeats=1, permutations=2, network_share=0.2),
        segmenter_of="lvsi_mri",
    ),
    "histotype_mri": Demo(220, 0.97, 13, replace(_BRIEF, network_share=0.1), segmenter_of="lvsi_mri"),
    "lnm_hybrid": Demo(
        260,
        0.9,
        14,
        replace(_BRIEF, cnn=Schedule(epochs=20, batch=16, rate=1e-3), permutations=10, network_share=0.5),
        segmenter_of="lvsi_mri",
    ),
    "plnm_us": Demo(
        340,
        0.97,
        15,
        replace(
            _BRIEF,
            segmenter=Schedule(epochs=60, batch=8, rate=2e-3, patience=60),  # fifteen slices validate: their Dice jumps
            segmenter_patients=102,
            grid=_SECTION,
            permutations=3,
        ),
    ),
}


def build_demo_bundles(models_root: Path, *, systems: Sequence[str] = tuple(DEMOS), progress: Callable[[str], None]) -> list[Path]:
    """Build demo bundles below ``models_root`` in place of what is there, and return their folders.

    The same code and libraries give the same predictions each time.
    """
    start = time.monotonic()
    built = [_build(system, DEMOS[system], models_root, progress) for system in systems]
    progress(f"{len(built)} bundles in {(time.monotonic() - start) / 60:.0f} min")
    return built


def _build(system: str, demo: Demo, models_root: Path, progress: Callable[[str], None]) -> Path:
    start, target = time.monotonic(), models_root / system / VERSION
    plan = replace(demo.plan, segmenter_of=models_root / demo.segmenter_of / VERSION if demo.segmenter_of else None)

    def say(line: str) -> None:
        progress(f"{system} {time.monotonic() - start:5.0f} s  {line}")

    with tempfile.TemporaryDirectory(prefix="cervinode-demo-") as scratch:
        folder = Path(scratch)
        cohort = write_cohort(folder / "cohort", system, n=demo.patients, auc=demo.auc, seed=demo.seed, workers=plan.workers, progress=say)
        models = plantings(system, demo.auc)
        planting, known = next(iter(models.values())), {"bayes_auc": best_auc(models)}
        if len(planting.offset[0]) > 1:  # part of the signal is in clinical values
            known |= {"bayes_imaging_auc": planting.imaging_auc(), "bayes_clinical_auc": planting.clinical_auc()}
        trained = train(system, cohort, out=folder / VERSION, date=DATE, seed=demo.seed, plan=plan, known=known, progress=say)
        say(_compare(target, trained.bundle))
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(trained.bundle, target)
        say("done")
    return target


def _compare(before: Path, after: Path) -> str:
    """Say how far a bundle's golden answers lie from those of the one in whose place it comes."""
    if not (before / MANIFEST).exists():
        return "there was no bundle before"
    old, new = ({one.part: np.load(folder / one.expected) for one in _golden(folder)} for folder in (before, after))
    if {part: array.shape for part, array in old.items()} != {part: array.shape for part, array in new.items()}:
        return "another bundle than before: its parts are not the same"
    largest = max(float(np.abs(new[part] - old[part]).max()) for part in new)
    return f"its golden answers differ from those of the bundle before by {largest:.1e} at most"


def _golden(folder: Path) -> tuple[Golden, ...]:
    return parse_manifest(read_manifest_bytes(folder), folder / MANIFEST).golden
