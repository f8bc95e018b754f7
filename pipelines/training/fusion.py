"""The Transformer fusion of sequences that [OLNM] compared and found worse than early fusion; it is judged, and never served.

Its details are in an appendix that does not come with the paper. What the discussion tells: encoders over all modalities, which are
projected into one space and fused with equal weights, trained without annealing and without dropout. Sizes and early stopping are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from pipelines.recipe import Step
from pipelines.training.nested import FOLDS, Judge, outer_folds
from pipelines.training.recipe import Selection, choose_features
from pipelines.training.select import Labels, Scaling, apply_scaling, fit_scaling
from pipelines.training.table import Table, role_of
from pipelines.types import FloatArray

WIDTH = 32  # of a token
HEADS = 4
LAYERS = 2
FEED_FORWARD = 64  # units
RATE = 1e-3
WEIGHT_DECAY = 1e-2
MOST_EPOCHS = 300
PATIENCE = 10  # epochs without a lower loss on the watched rows
WATCHED = 0.2  # share of the rows that early stopping watches


class FusionNet(nn.Module):  # type: ignore[misc]
    """One token per sequence, projected from its features; an encoder; the mean of the tokens; one linear unit."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(size, WIDTH) for size in sizes)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FEED_FORWARD, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, parts: Sequence[Tensor]) -> Tensor:
        """Return logits (n,) of each sequence's standardised features (n, size)."""
        tokens = torch.stack([project(part) for project, part in zip(self.project, parts, strict=True)], dim=1)
        return self.head(self.encoder(tokens).mean(dim=1))[:, 0]


@dataclass(frozen=True, eq=False)
class Fusion:
    """A fitted fusion: which features of each sequence, their scaling, and the network."""

    selections: tuple[Selection, ...]
    scalings: tuple[Scaling, ...]
    net: FusionNet

    def predict(self, table: Table) -> FloatArray:
        """Return logits (n,) of raw rows."""
        parts = [apply_scaling(s.take(table), scaling) for s, scaling in zip(self.selections, self.scalings, strict=True)]
        with torch.no_grad():
            return np.asarray(self.net([_tensor(part) for part in parts]).numpy(), dtype=np.float64)


def judge_fusion(judge: Judge) -> FloatArray:
    """Return out-of-fold logits (n,) of the fusion, on the folds of the first repeat of the nested judgement."""
    logits = np.zeros(len(judge.labels))
    for number, (train, test) in enumerate(outer_folds(judge.labels, seed=judge.seed + 1), start=1):
        inner, outer = judge.embedding.split(train, test, judge.labels)
        second = judge.second.rows(train) if judge.second else None
        fusion = fit_fusion(judge.recipe.steps, inner, judge.labels[train], seed=judge.seed, second=second)
        logits[test] = fusion.predict(outer)
        judge.progress(f"transformer fusion: {number} of {FOLDS} models")
    return logits


def fit_fusion(steps: Sequence[Step], table: Table, labels: Labels, *, seed: int, second: Table | None = None) -> Fusion:
    """Choose the features of each sequence by a recipe's steps, on that sequence alone, and train the network on them.

    Clinical values take no part. The state of torch's generator and its number of threads are left as they were.
    """
    imaging = table.columns(lambda name: not name.startswith("CLINICAL:"))
    roles = tuple(dict.fromkeys(role_of(name) for name in imaging.names))
    tables = [imaging.columns(lambda name, role=role: role_of(name) == role) for role in roles]  # type: ignore[misc]
    selections = tuple(choose_features(steps, one, labels, seed=seed, second=second) for one in tables)
    rows = [s.take(one) for s, one in zip(selections, tables, strict=True)]
    scalings = tuple(fit_scaling(part) for part in rows)
    parts = [_tensor(apply_scaling(part, scaling)) for part, scaling in zip(rows, scalings, strict=True)]
    train, watched = train_test_split(np.arange(len(labels)), test_size=WATCHED, stratify=labels, random_state=seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over another number of threads round differently
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = FusionNet([part.shape[1] for part in parts])
            _descend(net, parts, _tensor(labels), torch.from_numpy(train), torch.from_numpy(watched))
    finally:
        torch.set_num_threads(threads)
    return Fusion(selections, scalings, net.eval())


def _descend(net: FusionNet, parts: Sequence[Tensor], targets: Tensor, train: Tensor, watched: Tensor) -> None:
    """Train in place on all rows at once and go back to the epoch at which the watched rows had the lowest loss."""
    parameters = list(net.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=WEIGHT_DECAY)
    best, lowest, since = [p.detach().clone() for p in parameters], float("inf"), 0

    def loss(rows: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(net([part[rows] for part in parts]), targets[rows])

    for _ in range(MOST_EPOCHS):
        optimiser.zero_grad()
        loss(train).backward()
        optimiser.step()
        with torch.no_grad():
            seen = float(loss(watched))
        since += 1
        if seen < lowest:
            best, lowest, since = [p.detach().clone() for p in parameters], seen, 0
        if since == PATIENCE:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)


def _tensor(values: FloatArray | Labels) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
