"""A small cohort of the cheapest system, made in seconds: one contrast-enhanced series and one segmentation per patient."""

from __future__ import annotations

import csv
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from scipy.ndimage import binary_dilation

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
T2W = mr.Sequence(4, "t2_tse_sag", 100, 5000, shape=(8, 32, 32), spacing_mm=(5.0, 3.0, 3.0))
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


OWN = "own_t1"  # a site's own system on the same studies, of radiomics alone
_DECLARATION = f"""
from pipelines.recipe import MannWhitney, Recipe, Repeatable
from pipelines.spec import PipelineSpec, Radiomics, RoiRule
from pipelines.types import Code, SeriesRole

ROLES = (SeriesRole.CE_T1W,)
SPEC = PipelineSpec(
    name="{OWN}",
    title="Own system",
    finding=Code("P.OWN", "99SITE", "Probability of what the site looks for"),
    site=Code("71252005", "SCT", "Cervix uteri"),
    required=ROLES,
    roi=RoiRule(ROLES),
    blocks=(Radiomics(ROLES, {{"Original": {{}}}}, {{"shape": (), "firstorder": ()}}, {{"binWidth": 25}}, count=32),),
    recipe=Recipe(steps=(Repeatable(0.75), MannWhitney(0.05)), classifiers=("LR",)),
    positive="suspected",
    negative="not suspected",
)
"""


def write_system(folder: Path) -> Path:
    """Write the declaration of :data:`OWN` into a folder of systems."""
    folder.mkdir()
    (folder / f"{OWN}.py").write_text(_DECLARATION)
    return folder


def write_cohort(
    folder: Path, *, n: int = 48, synthetic: bool = True, signal: float = 1.0, readers: int = 0, sequence: mr.Sequence = _SERIES
) -> Path:
    """Write ``n`` studies of two sites and one more that is held out (``split`` is test); a third are positive.

    ``signal`` makes the tumour of these coarser and their nodes larger; at 0 nothing in a study tells the label. The first ``readers``
    studies have a second reader's region beside the first one's, larger in every second study.
    """
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for i in range(n + 1):
        label, patient = int(i % 3 == 0), f"P{i:03d}"
        write_study(
            folder / patient, patient, contrast=60 + 40 * signal * label, seed=i, synthetic=synthetic, twice=i < readers, sequence=sequence
        )
        node = 6.0 + 2 * signal * label + 2.5 * abs(rng.standard_normal())
        row = {"patient": patient, "study": patient, "roi": f"{patient}/seg.dcm", "label": label, "site": "AB"[i % 2]}
        second = {"roi2": f"{patient}/seg2.dcm" if i < readers else ""} if readers else {}
        rows.append({**row, **second, "split": "test" if i == n else "", "node_short_axis_mm": f"{node:.1f}"})
    return write_table(folder, rows)


def write_table(folder: Path, rows: list[dict[str, object]]) -> Path:
    """Write ``cohort.csv``."""
    path = folder / "cohort.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_study(
    folder: Path, patient: str, *, contrast: float, seed: int, synthetic: bool, twice: bool = False, sequence: mr.Sequence = _SERIES
) -> None:
    """Write a study of one series and its region, or ``twice`` with a second reader's; ``seed`` decides its UID and its pixels."""
    study = hd.UID.from_uuid(f"00000000-0000-0000-0000-{seed:012d}")
    comment = {"ImageComments": "SYNTHETIC PHANTOM"} if synthetic else {}
    images = mr.make_series(sequence, StudyInstanceUID=study, PatientID=patient, **comment)
    pixels = np.stack([np.frombuffer(d.PixelData, dtype="<u2").reshape(d.Rows, d.Columns) for d in images])
    mask = (pixels > 400).astype(np.uint8)
    blocks = np.random.default_rng(seed).normal(0, contrast, [n // 2 for n in pixels.shape])  # no two patients look alike
    pattern = blocks.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    changed = np.clip(pixels + mask * pattern, 0, 4095).astype("<u2")
    folder.mkdir(parents=True)
    for d, plane in zip(images, changed, strict=True):
        d.PixelData = plane.tobytes()
        mr.save(d, folder)
    _draw(images, mask, folder / "seg.dcm")
    if twice:
        _draw(images, binary_dilation(mask, iterations=2).astype(np.uint8) if seed % 2 else mask, folder / "seg2.dcm")


def _draw(images: list[Dataset], mask: NDArray[np.uint8], path: Path) -> None:
    shape, kind = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm
    description = hd.seg.SegmentDescription(1, "Tumor", shape, kind, "MANUAL")
    seg = hd.seg.Segmentation(images, mask, "BINARY", [description], hd.UID(), 900, hd.UID(), 1, "Reader", "Workstation", "1", "1")
    seg.save_as(path)
