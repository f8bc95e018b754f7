"""How large and how long a training run is, and what its steps share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.models.manifest import Parity
from pipelines.spec import PipelineSpec
from pipelines.training.extract import SliceGrid
from pipelines.training.fit import Schedule
from pipelines.training.intervals import RESAMPLES
from pipelines.training.networks import Architecture

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Sizes and schedules of a training run. The defaults are small enough for two CPU cores and give the demo bundles.

    Parameters
    ----------
    architecture : what to build instead of what the system names.
    published : build the networks that the papers name, rather than their small relatives.
    network : one of these by its name, instead of the one that the system names first.
    weights : a file of weights to start from (see :mod:`pipelines.training.weights`), which needs ``published``.
    frozen : use those weights as they are.
    embedding : ``split`` trains the networks on patients that the classifier never sees; ``crossfit`` trains them anew within each fold,
        so that all patients serve both, for many times the computing time.
    joint : whether a network that takes a clinical status is trained end to end; the small-cohort fallback is late fusion.
    segmenter_of : a bundle whose segmenter is taken as it is: systems that share one see the same region on a study.
    permutations : of the labels, for the lie detector.
    compare_fusion : judge a Transformer fusion of the sequences beside the recipe ([OLNM]).
    """

    architecture: Architecture | None = None
    published: bool = False
    network: str = ""
    weights: Path | None = None
    frozen: bool = False
    embedding: Literal["split", "crossfit"] = "split"
    inner_folds: int = 2  # of the cross-fit
    joint: bool = True
    cnn: Schedule = field(default_factory=lambda: Schedule(epochs=10, batch=4, rate=1e-3))
    segmenter_of: Path | None = None
    segmenter_widths: tuple[int, int, int] = (16, 32, 64)
    segmenter_units: int = 128
    segmenter_pools: Literal[2, 3] = 3
    segmenter_patients: int = 48  # at most
    segmenter: Schedule = field(default_factory=lambda: Schedule(epochs=10, batch=8, rate=2e-3))
    grid: SliceGrid = field(default_factory=lambda: SliceGrid(spacing_mm=1.35, size=128))
    network_share: float = 0.3  # of the patients, to the networks and the segmenter
    repeats: int = 5  # of the nested cross-validation
    permutations: int = 20
    combat: bool = False  # harmonise features by site
    compare_fusion: bool = False
    resamples: int = RESAMPLES  # of the report's bootstraps
    workers: int = 2


@dataclass(frozen=True, eq=False)
class Run:
    """What the steps of one training run share; ``parity`` grows with each exported graph, ``cache`` outlives the run."""

    spec: PipelineSpec
    plan: Plan
    seed: int
    folder: Path
    cache: Path
    progress: Progress
    parity: list[Parity] = field(default_factory=list)
