"""One model's answers to unseen patients, kept on disk under a hash of all that made them: a run that was stopped does not ask again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import pipelines
from pipelines.recipe import Recipe
from pipelines.training.select import Labels
from pipelines.training.table import Table
from pipelines.types import FloatArray

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "imbalanced-learn", "lightgbm", "xgboost-cpu", "torch", "onnxruntime")


class Task(NamedTuple):
    """One model to fit on some patients and to ask about others."""

    recipe: Recipe
    train: Table
    test: Table
    labels: Labels  # of the training patients
    second: Table | None
    seed: int
    families: tuple[str, ...] | None = None


class Answer(NamedTuple):
    """What a model says of unseen patients: probabilities (n,) or (n, classes), calls, whether conformal sets hold 0 and 1."""

    probabilities: FloatArray
    calls: NDArray[np.int64]
    plausible: NDArray[np.bool_]  # (n, 2)
    selected: tuple[str, ...]
    classes: tuple[int, ...]
    family: str


@dataclass(frozen=True)
class Answers:
    """Answers kept in ``folder``, each in a file of its own."""

    folder: Path

    def place(self, task: Task) -> Path:
        """Return where the answer to a task is kept: by recipe, features and labels, seed, and the code and libraries that answer."""
        key = hashlib.sha256(repr((_code(), task.recipe, task.seed, task.families)).encode())
        for table in (task.train, task.test, *([task.second] if task.second else [])):
            key.update(repr((table.names, table.values.shape)).encode())
            key.update(table.values.tobytes())
        key.update(task.labels.astype(np.int64).tobytes())
        return self.folder / f"{key.hexdigest()}.npz"


@cache
def _code() -> str:
    """Return a hash of this program's code and its libraries' versions: another one may answer otherwise."""
    root = Path(pipelines.__file__).parent
    key = hashlib.sha256(repr([version(name) for name in _LIBRARIES]).encode())
    for path in sorted(root.rglob("*.py")):
        key.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return key.hexdigest()


def write_answer(file: Path, answer: Answer) -> None:
    """Write an answer; the file is there when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(f".{os.getpid()}.partial")
    arrays: dict[str, Any] = {name: np.array(part) for name, part in answer._asdict().items()}
    with partial_file.open("wb") as stream:
        np.savez(stream, **arrays)
    partial_file.replace(file)


def read_answer(file: Path) -> Answer:
    """Read what :func:`write_answer` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        selected, classes = tuple(map(str, stored["selected"])), tuple(map(int, stored["classes"]))
        return Answer(stored["probabilities"], stored["calls"], stored["plausible"], selected, classes, str(stored["family"]))
