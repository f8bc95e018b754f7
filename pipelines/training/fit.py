"""Train networks reproducibly: the same data, seed and thread count give the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipelines.training.crfe import Crfe
from pipelines.training.networks import FeatureNet

Float32Array = NDArray[np.float32]
Progress = Callable[[str], None]
THREADS = 2  # fixed: sums over another number of threads round differently


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: Adam, with the learning rate annealed to zero along a cosine ([CRFE] training)."""

    epochs: int
    batch: int
    rate: float
    weight_decay: float = 1e-4


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
    schedule: Schedule,
    seed: int,
    progress: Progress,
) -> None:
    """Train in place on z-scored slices and masks 0/1, both (n, y, x), by Dice plus cross-entropy ([CRFE] loss)."""
    images, targets = torch.from_numpy(slices)[:, None], torch.from_numpy(masks.astype(np.float32))[:, None]

    def loss(rows: Tensor) -> Tensor:
        image, target = images[rows], targets[rows]
        if torch.rand(()) < 0.5:
            image, target = image.flip(-1), target.flip(-1)
        gain = 1 + 0.1 * torch.randn(len(rows), 1, 1, 1)
        logits = net(image * gain)
        return dice_loss(logits, target) + functional.binary_cross_entropy_with_logits(logits, target)

    _fit(net, len(images), loss, schedule=schedule, seed=seed, progress=progress)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice over the whole batch, so that empty slices count by what is marked on them."""
    probability = torch.sigmoid(logits)
    return 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)


def _fit(net: nn.Module, n: int, loss: Callable[[Tensor], Tensor], *, schedule: Schedule, seed: int, progress: Progress) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, schedule.epochs)
    net.train()
    for epoch in range(schedule.epochs):
        losses = []
        for rows in _batches(n, schedule.batch):
            optimiser.zero_grad()
            value = loss(rows)
            value.backward()
            optimiser.step()
            losses.append(float(value.detach()))
        annealing.step()
        progress(f"epoch {epoch + 1} of {schedule.epochs}: loss {np.mean(losses):.3f}")
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
