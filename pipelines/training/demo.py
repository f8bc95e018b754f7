"""The demo bundles, rebuilt from seeds alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelines.phantoms.cohort import plant, write_cohort
from pipelines.training.train import train

SYSTEM, VERSION = "olnm_mri", "demo-1"
PATIENTS, PLANTED_AUC, SEED = 200, 0.9, 11
WORKERS = 2


def build_demo_bundles(models_root: Path, *, progress: Callable[[str], None]) -> list[Path]:
    """Build every demo bundle below ``models_root`` in place of what is there, and return their folders.

    The same code and libraries give the same predictions each time. Takes some 20 minutes on two cores.
    """
    target = models_root / SYSTEM / VERSION
    with tempfile.TemporaryDirectory(prefix="cervinode-demo-") as scratch:
        cohort = write_cohort(Path(scratch) / "cohort", SYSTEM, n=PATIENTS, auc=PLANTED_AUC, seed=SEED, workers=WORKERS, progress=progress)
        known = {"bayes_auc": plant(PLANTED_AUC).bayes_auc()}
        built = train(SYSTEM, cohort, out=Path(scratch) / VERSION, seed=SEED, known=known, progress=progress)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(built, target)
    return [target]
