"""A small cohort of the cheapest system, made in seconds: one contrast-enhanced series and one segmentation per patient."""

from __future__ import annotations

import csv
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes

from pipelines.training.extract import SliceGrid
from pipelines.training.fit import Schedule
from pipelines.training.networks import Architecture
from pipelines.training.plan import Plan
from tests import mr

SYSTEM = "lnm_hybrid"
_SERIES = mr.Sequence(
    6,
    "t1_vibe_fs_sag_dyn_late",
    2,
    5,
    {"ScanningSequence": "GR", "ContrastBolusAgent": "GADOBUTROL", "ScanOptions": "FS"},
    shape=(8, 32, 32),
    spacing_mm=(5.0, 3.0, 3.0),
)
TINY = Plan(
    architecture=Architecture("resnet", (1, 1, 1, 1), (2, 2, 2, 4), pool=False),
    cnn=Schedule(epochs=1, batch=8, rate=1e-3),
    segmenter_widths=(2, 2, 4),
    segmenter_units=4,
    segmenter_patients=4,
    segmenter=Schedule(epochs=1, batch=8, rate=5e-3),
    grid=SliceGrid(spacing_mm=6.0, size=32),
    network_share=0.3,
    repeats=1,
    permutations=0,
    resamples=100,
    workers=1,
)


def write_cohort(folder: Path, *, n: int = 48, synthetic: bool = True, signal: float = 1.0) -> Path:
    """Write ``n`` studies of two sites and one more that is held out (``split`` is test); a third are positive.

    ``signal`` makes the tumour of these coarser and their nodes larger; at 0 nothing in a study tells the label.
    """
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for i in range(n + 1):
        label, patient = int(i % 3 == 0), f"P{i:03d}"
        _write_study(folder / patient, patient, contrast=60 + 40 * signal * label, seed=i, synthetic=synthetic)
        node = 6.0 + 2 * signal * label + 2.5 * abs(rng.standard_normal())
        row = {"patient": patient, "study": patient, "roi": f"{patient}/seg.dcm", "label": label, "site": "AB"[i % 2]}
        rows.append({**row, "split": "test" if i == n else "", "node_short_axis_mm": f"{node:.1f}"})
    return write_table(folder, rows)


def write_table(folder: Path, rows: list[dict[str, object]]) -> Path:
    """Write ``cohort.csv``."""
    path = folder / "cohort.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _write_study(folder: Path, patient: str, *, contrast: float, seed: int, synthetic: bool) -> None:
    study = hd.UID.from_uuid(f"00000000-0000-0000-0000-{seed:012d}")
    comment = {"ImageComments": "SYNTHETIC PHANTOM"} if synthetic else {}
    images = mr.make_series(_SERIES, StudyInstanceUID=study, PatientID=patient, **comment)
    pixels = np.stack([np.frombuffer(d.PixelData, dtype="<u2").reshape(d.Rows, d.Columns) for d in images])
    mask = (pixels > 400).astype(np.uint8)
    blocks = np.random.default_rng(seed).normal(0, contrast, [n // 2 for n in pixels.shape])  # no two patients look alike
    pattern = blocks.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    changed = np.clip(pixels + mask * pattern, 0, 4095).astype("<u2")
    folder.mkdir(parents=True)
    for d, plane in zip(images, changed, strict=True):
        d.PixelData = plane.tobytes()
        mr.save(d, folder)
    shape, kind = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm
    description = hd.seg.SegmentDescription(1, "Tumor", shape, kind, "MANUAL")
    seg = hd.seg.Segmentation(images, mask, "BINARY", [description], hd.UID(), 900, hd.UID(), 1, "Reader", "Workstation", "1", "1")
    seg.save_as(folder / "seg.dcm")
