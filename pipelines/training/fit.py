"""Train networks reproducibly: the same data, seed and thread count give the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models.segment import USUAL_MM
from pipelines.training.crfe import Crfe
from pipelines.training.networks import FeatureNet

Float32Array = NDArray[np.float32]
Progress = Callable[[str], None]
THREADS = 2  # fixed: sums over another number of threads round differently
PRIOR_CM = tuple(mm / 10 for mm in USUAL_MM)  # usual diameter of the lesion ([CRFE] loss)
PRIOR_WEIGHT = 0.01  # [CRFE] does not publish it
GAIN = 0.001  # of the validation Dice, below which an epoch is no better than the best one before ([CRFE] training)
_TURN, _SCALE, _NOISE = 15.0, 0.1, 0.01  # degrees, share and standard deviation of the segmenter's augmentation ([CRFE] preprocessing)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: Adam, with the learning rate annealed to zero along a cosine ([CRFE] training).

    ``patience`` epochs without a better Dice on validation patients end the segmenter's training early.
    """

    epochs: int
    batch: int
    rate: float
    weight_decay: float = 1e-4
    patience: int = 10


def fit_cnn(
    net: FeatureNet,
    views: Float32Array,
    labels: NDArray[np.int64],
    *,
    schedule: Schedule,
    seed: int,
    progress: Progress,
    status: Float32Array | None = None,
) -> None:
    """Train in place on views (n, channels, ...spatial) and labels 0/1, with random shifts, turns and mirroring ([OLNM] Methods).

    The paper also scales at random; that is left out because the tumour's size is part of the signal. With ``status`` (n,) the joint head
    of a :class:`JointNet` is trained beside the other: the loss is the sum of both ([HSCORE]); rows of NaN count for the image's head only.
    """
    images, targets = torch.from_numpy(views), torch.from_numpy(labels.astype(np.float32))
    positives = float(targets.mean())
    balance = torch.tensor((1 - positives) / positives)
    told = None if status is None else torch.from_numpy(status.astype(np.float32))

    def loss(rows: Tensor) -> Tensor:
        shown, wanted = _jitter(images[rows]), targets[rows]
        if told is None:
            return functional.binary_cross_entropy_with_logits(net(shown)[1][:, 0], wanted, pos_weight=balance)
        known = ~torch.isnan(told[rows])
        _, alone, _, joint = net(shown, torch.nan_to_num(told[rows])[:, None])
        of_image = functional.binary_cross_entropy_with_logits(alone[:, 0], wanted, pos_weight=balance)
        if not known.any():
            return of_image
        return of_image + functional.binary_cross_entropy_with_logits(joint[known, 0], wanted[known], pos_weight=balance)

    _fit(net, len(images), loss, schedule=schedule, seed=seed, progress=progress)


def fit_segmenter(
    net: Crfe,
    slices: Float32Array,
    masks: NDArray[np.uint8],
    *,
    spacing_mm: float,
    validation: tuple[Float32Array, NDArray[np.uint8]],
    schedule: Schedule,
    seed: int,
    progress: Progress,
) -> None:
    """Train in place on z-scored slices and masks 0/1, both (n, y, x), by Dice, cross-entropy and the prior of size ([CRFE] loss).

    The weights kept are those with the best Dice on the ``validation`` slices and masks, which are other patients'. The paper also
    mirrors upside down; that is left out because no patient lies so.
    """
    images, targets = torch.from_numpy(slices)[:, None], torch.from_numpy(masks.astype(np.float32))[:, None]
    net.to(memory_format=torch.channels_last)  # a third faster on CPUs; the weights stay what they are

    def loss(rows: Tensor) -> Tensor:
        image, target = _distort(images[rows], targets[rows])
        logits = net(image)
        outline = dice_loss(logits, target) + functional.binary_cross_entropy_with_logits(logits, target)
        return outline + PRIOR_WEIGHT * size_prior(logits, target, spacing_mm=spacing_mm)

    shown, wanted = torch.from_numpy(validation[0])[:, None], torch.from_numpy(validation[1] > 0)[:, None]

    def judge() -> float:
        with torch.no_grad():
            marked = torch.cat([net(part) > 0 for part in shown.split(16)])
        return float(2 * (marked & wanted).sum() / max(int(marked.sum() + wanted.sum()), 1))

    _fit(net, len(images), loss, schedule=schedule, seed=seed, progress=progress, judge=judge)


def size_prior(logits: Tensor, target: Tensor, *, spacing_mm: float) -> Tensor:
    """Return how far the drawn lesions lie outside of 1 to 4 cm: the mean square in cm2 over the slices that have one ([CRFE] loss).

    A lesion's diameter is that of the circle of its soft area, so that the prior has a gradient.
    """
    area_cm2 = torch.sigmoid(logits).sum(dim=(1, 2, 3)) * (spacing_mm / 10) ** 2
    diameter = 2 * torch.sqrt(area_cm2 / torch.pi + 1e-6)
    outside = functional.relu(PRIOR_CM[0] - diameter) + functional.relu(diameter - PRIOR_CM[1])
    with_lesion = target.amax(dim=(1, 2, 3)) > 0
    return (outside[with_lesion] ** 2).sum() / max(int(with_lesion.sum()), 1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice over the whole batch, so that empty slices count by what is marked on them."""
    probability = torch.sigmoid(logits)
    return 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)


def _fit(
    net: nn.Module,
    n: int,
    loss: Callable[[Tensor], Tensor],
    *,
    schedule: Schedule,
    seed: int,
    progress: Progress,
    judge: Callable[[], float] | None = None,
) -> None:
    """Train; with ``judge`` keep the weights of the best epoch, and stop when none has been better for some time."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, schedule.epochs)
    best, best_epoch, kept = -1.0, 0, net.state_dict()
    for epoch in range(1, schedule.epochs + 1):
        net.train()
        losses = []
        for rows in _batches(n, schedule.batch):
            optimiser.zero_grad()
            value = loss(rows)
            value.backward()
            optimiser.step()
            losses.append(float(value.detach()))
        annealing.step()
        net.eval()
        said = f"epoch {epoch} of {schedule.epochs}: loss {np.mean(losses):.3f}"
        if judge is None:
            progress(said)
            continue
        found = judge()
        progress(f"{said}, validation Dice {found:.3f}")
        if found > best + GAIN:
            best, best_epoch, kept = found, epoch, copy.deepcopy(net.state_dict())
        if epoch - best_epoch >= schedule.patience:
            break
    if judge is not None:
        net.load_state_dict(kept)
    net.eval()


def _batches(n: int, size: int) -> Iterator[Tensor]:
    """Yield shuffled rows; a last batch of one is left out because batch normalisation needs two."""
    for rows in torch.randperm(n).split(size):
        if len(rows) > 1 or n == 1:
            yield rows


def _jitter(images: Tensor) -> Tensor:
    """Shift by up to 6 %, turn within the slice by up to 10 degrees and mirror left-right, each view on its own."""
    n, dims = len(images), images.ndim - 2
    angle = (torch.rand(n) * 2 - 1) * np.deg2rad(10.0)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    motion = torch.zeros(n, dims, dims + 1)
    motion[:, 0, 0], motion[:, 0, 1] = mirror * torch.cos(angle), -torch.sin(angle)
    motion[:, 1, 0], motion[:, 1, 1] = mirror * torch.sin(angle), torch.cos(angle)
    if dims == 3:
        motion[:, 2, 2] = 1.0
    motion[:, :, dims] = (torch.rand(n, dims) * 2 - 1) * 0.12  # in half sides of the view
    grid = functional.affine_grid(motion, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _distort(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn, enlarge and mirror slices with their masks, and change the grey levels' gain and noise."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * np.deg2rad(_TURN)
    scale = 1 + (torch.rand(n) * 2 - 1) * _SCALE
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    motion = torch.zeros(n, 2, 3)
    motion[:, 0, 0], motion[:, 0, 1] = mirror * torch.cos(angle) * scale, -torch.sin(angle) * scale
    motion[:, 1, 0], motion[:, 1, 1] = mirror * torch.sin(angle) * scale, torch.cos(angle) * scale
    grid = functional.affine_grid(motion, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    drawn = functional.grid_sample(masks, grid, mode="nearest", align_corners=False)
    return moved * (1 + 0.1 * torch.randn(n, 1, 1, 1)) + _NOISE * torch.randn_like(moved), drawn
