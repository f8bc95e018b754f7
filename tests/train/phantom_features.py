"""Write ``data/olnm_phantoms.npz``: 200 phantoms of `olnm_mri`, extracted as training extracts (about ten minutes on two cores).

python -m tests.train.phantom_features FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from pipelines.phantoms.cohort import write_cohort
from pipelines.systems import catalogue
from pipelines.training.cohort import read_cohort
from pipelines.training.demo import DEMOS
from pipelines.training.extract import extract_cohort
from pipelines.training.table import Table

SYSTEM = "olnm_mri"


def write(scratch: Path, target: Path) -> None:
    """Write the table of the demo bundle's phantoms; what lies in ``scratch`` already is used."""
    demo, cohort = DEMOS[SYSTEM], scratch / "cohort.csv"
    if not cohort.exists():
        write_cohort(scratch, SYSTEM, n=demo.patients, auc=demo.auc, seed=demo.seed, workers=2)
    rows = read_cohort(cohort)
    cache = scratch / "features"
    files = extract_cohort(rows, catalogue()[SYSTEM], grid=demo.plan.grid, cache=cache, workers=2, progress=lambda line: None)
    table = Table.of([row.where for row in rows], [file.features for file in files])
    mean, std = table.values.mean(axis=0), table.values.std(axis=0)
    values = (table.values - mean) / std
    with (scratch / "truth.csv").open(encoding="utf-8") as truth:
        index = [float(row["index"]) for row in csv.DictReader(truth)]
    target.parent.mkdir(exist_ok=True)
    known = {"mean": mean, "std": std, "labels": np.array([row.label for row in rows]), "index": np.array(index), "auc": demo.auc}
    np.savez_compressed(target, names=np.array(table.names), values=values.astype(np.float16), **known)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(__file__).parent / "data" / "olnm_phantoms.npz")
