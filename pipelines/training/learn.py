"""What part A of the patients teaches: the segmenter and the feature networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import CohortError, MissingRoi
from pipelines.imaging.geometry import resample_mask
from pipelines.models.manifest import CnnModel, Parity, Segmenter, TensorSpec
from pipelines.models.segment import segment
from pipelines.models.session import open_session
from pipelines.spec import Cnn, PipelineSpec
from pipelines.training.cohort import CohortRow, SliceGrid, read_case, read_extracted, study_files
from pipelines.training.export import export_network
from pipelines.training.fit import Schedule, fit_cnn, fit_segmenter
from pipelines.training.networks import RESNET10, Crfe, FeatureNet
from pipelines.types import SeriesRole

Progress = Callable[[str], None]
JUDGED_SEGMENTATIONS = 40  # patients of part B whose roi is compared with the segmenter's
EMPTY_SLICES = 0.5  # slices without tumour shown to the segmenter, per slice with tumour


@dataclass(frozen=True)
class Plan:
    """Sizes and schedules of a training run. The defaults are small enough for two CPU cores and give the demo bundle."""

    widths: tuple[int, int, int, int] = (8, 16, 32, 64)
    blocks: tuple[int, int, int, int] = RESNET10
    cnn: Schedule = field(default_factory=lambda: Schedule(epochs=10, batch=4, rate=1e-3))
    segmenter_widths: tuple[int, int, int] = (16, 32, 64)
    segmenter_units: int = 128
    segmenter_pools: Literal[2, 3] = 3
    segmenter_patients: int = 48  # of part A, at most: it needs fewer than the networks do
    segmenter: Schedule = field(default_factory=lambda: Schedule(epochs=10, batch=8, rate=2e-3))
    grid: SliceGrid = field(default_factory=lambda: SliceGrid(spacing_mm=1.8, size=128))
    network_share: float = 0.4  # of the patients, to part A
    workers: int = 2


@dataclass(frozen=True, eq=False)
class Run:
    """What the steps of one training run share; ``parity`` grows with each exported graph."""

    spec: PipelineSpec
    plan: Plan
    seed: int
    folder: Path
    progress: Progress
    parity: list[Parity] = field(default_factory=list)


def train_segmenter(run: Run, files: Sequence[Path], judged: Sequence[CohortRow]) -> Segmenter:
    """Train the segmenter on part A's ``files``, export it, and judge it on patients of part B."""
    plan, role = run.plan, run.spec.roi.role
    files = files[: plan.segmenter_patients]
    slices, masks = _segmenter_slices(files, run.seed)
    torch.manual_seed(run.seed)
    net = Crfe(plan.segmenter_widths, units=plan.segmenter_units, pools=plan.segmenter_pools)
    run.progress(f"segmenter: {len(slices)} slices of {len(files)} patients")
    fit_segmenter(net, slices, masks, schedule=plan.segmenter, seed=run.seed, progress=lambda s: run.progress(f"segmenter: {s}"))
    path = run.folder / "segmenter.onnx"
    run.parity.append(export_network(net, path, slices[:4, None], outputs=("logits",)))
    shape = (-1, 1, plan.grid.size, plan.grid.size)
    model = Segmenter(
        file=path.name,
        network=f"CRFE {'-'.join(map(str, plan.segmenter_widths))}, {plan.segmenter_units} LSTM units, {plan.segmenter_pools} poolings",
        role=role,
        input=TensorSpec(name="image", shape=shape, axes="ncyx", range="z-score over the slices of the study"),
        spacing_mm=plan.grid.spacing_mm,
    )
    dice = _judge_segmenter(run, model, judged[:JUDGED_SEGMENTATIONS])
    run.progress(f"segmenter: mean Dice {dice:.3f} on {min(len(judged), JUDGED_SEGMENTATIONS)} unseen patients")
    return model.model_copy(update={"dice": dice})


def _segmenter_slices(files: Sequence[Path], seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the slices with tumour and some without, of all patients."""
    rng = np.random.default_rng(seed)
    slices, masks = [], []
    for file in files:
        data = read_extracted(file)
        marked = data.mask.any(axis=(1, 2))
        empty = rng.permutation(np.flatnonzero(~marked))[: round(EMPTY_SLICES * int(marked.sum()))]
        shown = np.sort(np.r_[np.flatnonzero(marked), empty])
        slices.append(data.slices[shown])
        masks.append(data.mask[shown])
    return np.concatenate(slices), np.concatenate(masks)


def _judge_segmenter(run: Run, model: Segmenter, rows: Sequence[CohortRow]) -> float:
    """Return the mean Dice against the human roi, on the sequence's own grid and by the serving code; no mask counts as 0."""
    session = open_session(run.folder / model.file)
    scores = []
    for row in rows:
        case = read_case(study_files(row), run.spec)
        image = case.volumes[model.role]
        try:
            drawn = segment(image, model, session=session, rule=run.spec.roi).volume.array > 0
        except MissingRoi:
            scores.append(0.0)
            continue
        assert case.roi is not None  # extraction refused the cohort otherwise
        truth = resample_mask(case.roi.volume, image.volume).array > 0
        scores.append(2 * float((drawn & truth).sum()) / float(drawn.sum() + truth.sum()))
    return float(np.mean(scores))


def train_cnn(run: Run, role: SeriesRole, networks: Sequence[int], files: Sequence[Path], rows: Sequence[CohortRow]) -> CnnModel:
    """Train and export one sequence's feature network; ``networks`` are the row numbers of part A."""
    plan, size = run.plan, cnn_block(run.spec).size
    cubes = np.stack([read_extracted(files[i]).cubes[role] for i in networks])
    labels = np.array([rows[i].label for i in networks])
    torch.manual_seed(run.seed)
    net = FeatureNet(plan.widths, blocks=plan.blocks, pool=False)
    fit_cnn(net, cubes, labels, schedule=plan.cnn, seed=run.seed, progress=lambda s: run.progress(f"{role} network: {s}"))
    path = run.folder / f"cnn_{role}.onnx"
    run.parity.append(export_network(net, path, cubes[:4, None], outputs=("features", "logit", "cam")))
    return CnnModel(
        file=path.name,
        network=f"3D ResNet{2 + 2 * sum(plan.blocks)}, widths {'-'.join(map(str, plan.widths))}",
        role=role,
        input=TensorSpec(name="image", shape=(-1, 1, size, size, size), axes="nczyx", range="min-max 0..1 within the crop"),
        dim=plan.widths[-1],
        weights=f"trained from scratch on {len(networks)} patients of the cohort that the classifier never saw",
    )


def cnn_block(spec: PipelineSpec) -> Cnn:
    """Return the system's network block."""
    if spec.cnn is None:
        raise CohortError(f"{spec.name} declares no network")
    return spec.cnn
