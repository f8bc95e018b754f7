"""One model's answers to unseen patients, kept on disk under a hash of all that made them: a run that was stopped does not ask again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.recipe import Recipe
from pipelines.training.code import code_digest
from pipelines.training.select import Labels
from pipelines.training.table import Table
from pipelines.types import FloatArray


class Task(NamedTuple):
    """One model to fit on some patients and to ask about others."""

    recipe: Recipe
    train: Table
    test: Table
    labels: Labels  # of the training patients
    second: Table | None
    seed: int
    families: tuple[str, ...] | None = None


class Said(NamedTuple):
    """What a decision says of unseen patients: probabilities (n,) or (n, classes), calls (n,), and more, one column each.

    ``plausible`` (n, classes) tells whether their conformal sets hold each class, ``sensitive`` (n, sensitivities) whom the thresholds for
    :data:`pipelines.training.recipe.SENSITIVITIES` call, of two classes. Of repeats, each array has one axis more, the first.
    """

    probabilities: FloatArray
    calls: NDArray[np.int64]
    plausible: NDArray[np.bool_]
    sensitive: NDArray[np.bool_]


class Answer(NamedTuple):
    """What a fitted system's decision says, and its ``imaging_only`` where it has one; what it chose."""

    said: Said
    alone: Said | None
    selected: tuple[str, ...]
    classes: tuple[int, ...]
    family: str

    @property
    def probabilities(self) -> FloatArray:
        """The decision's."""
        return self.said.probabilities

    @property
    def calls(self) -> NDArray[np.int64]:
        """The decision's."""
        return self.said.calls


@dataclass(frozen=True)
class Answers:
    """Answers kept in ``folder``, each in a file of its own."""

    folder: Path

    def place(self, task: Task) -> Path:
        """Return where the answer to a task is kept: by recipe, features and labels, seed, and the code and libraries that answer."""
        key = hashlib.sha256(repr((code_digest(), task.recipe, task.seed, task.families)).encode())
        for table in (task.train, task.test, *([task.second] if task.second else [])):
            key.update(repr((table.names, table.values.shape)).encode())
            key.update(table.values.tobytes())
        key.update(task.labels.astype(np.int64).tobytes())
        return self.folder / f"{key.hexdigest()}.npz"


def write_answer(file: Path, answer: Answer) -> None:
    """Write an answer; the file is there when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(f".{os.getpid()}.partial")
    arrays: dict[str, Any] = {name: np.array(getattr(answer, name)) for name in ("selected", "classes", "family")}
    for what, said in (("said", answer.said), ("alone", answer.alone)):
        arrays |= {f"{what}_{name}": array for name, array in said._asdict().items()} if said else {}
    with partial_file.open("wb") as stream:
        np.savez(stream, **arrays)
    partial_file.replace(file)


def read_answer(file: Path) -> Answer:
    """Read what :func:`write_answer` wrote."""
    with np.load(file, allow_pickle=False) as stored:
        said, alone = ([stored[f"{what}_{n}"] for n in Said._fields if f"{what}_{n}" in stored] for what in ("said", "alone"))
        selected, classes = tuple(map(str, stored["selected"])), tuple(map(int, stored["classes"]))
        return Answer(Said(*said), Said(*alone) if alone else None, selected, classes, str(stored["family"]))
