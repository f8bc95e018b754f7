"""A small multilayer perceptron: trained in torch, kept and evaluated as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from pipelines.errors import CohortError
from pipelines.types import FloatArray

DROPOUT = 0.3  # [PLNM]
PATIENCE = 10  # epochs without a lower loss on the watched rows ([PLNM])
MOST_EPOCHS = 300
WATCHED = 0.2  # share of the rows that early stopping watches
RATE = 1e-2
WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, eq=False)
class Perceptron:
    """Layers as (weights (out, in), bias (out,)), with ReLU between them and softmax at the end."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def predict_proba(self, rows: NDArray[np.float32]) -> FloatArray:
        """Return probabilities (n, classes)."""
        x = rows.astype(np.float64)
        for weights, bias in self.layers[:-1]:
            x = np.maximum(x @ weights.T + bias, 0.0)
        weights, bias = self.layers[-1]
        return np.asarray(softmax(x @ weights.T + bias, axis=1))


def fit_perceptron(
    rows: NDArray[np.float32], codes: NDArray[np.int64], weights: FloatArray, *, hidden: Sequence[int], seed: int
) -> Perceptron:
    """Fit on standardised rows (n, p), classes 0 to k - 1 and weights (n,), by Adam on cross-entropy with dropout and early stopping.

    The state of torch's generator and its number of threads are left as they were.

    Parameters
    ----------
    hidden : units of the hidden layers.

    Raises
    ------
    CohortError
        A class has fewer than two rows, so that early stopping could not watch it.
    """
    if np.bincount(codes).min() < 2:
        raise CohortError("a class has a single row in a training part; a perceptron needs two, one of them for early stopping")
    classes = int(codes.max()) + 1
    size = max(classes, round(WATCHED * len(rows)))
    train, watched = train_test_split(np.arange(len(rows)), test_size=size, stratify=codes, random_state=seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over another number of threads round differently
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _net(rows.shape[1], hidden, classes)
            data = tuple(torch.from_numpy(a) for a in (rows, codes, weights.astype(np.float32)))
            _descend(net, data, torch.from_numpy(train), torch.from_numpy(watched))
    finally:
        torch.set_num_threads(threads)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    return Perceptron(tuple((layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in linear))


def _net(inputs: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(DROPOUT)]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _descend(net: nn.Sequential, data: tuple[Tensor, ...], train: Tensor, watched: Tensor) -> None:
    """Train in place on all rows at once and go back to the epoch at which the watched rows had the lowest loss."""
    parameters = list(net.parameters())
    optimiser = torch.optim.Adam(parameters, lr=RATE, weight_decay=WEIGHT_DECAY)
    best, lowest, since = [p.detach().clone() for p in parameters], float("inf"), 0
    for _ in range(MOST_EPOCHS):
        net.train()
        optimiser.zero_grad()
        _loss(net, data, train).backward()
        optimiser.step()
        net.eval()
        with torch.no_grad():
            loss = float(_loss(net, data, watched))
        since += 1
        if loss < lowest:
            best, lowest, since = [p.detach().clone() for p in parameters], loss, 0
        if since == PATIENCE:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)


def _loss(net: nn.Sequential, data: tuple[Tensor, ...], part: Tensor) -> Tensor:
    rows, codes, weights = (tensor[part] for tensor in data)
    return (weights * functional.cross_entropy(net(rows), codes, reduction="none")).sum() / weights.sum()
