"""The honest judgement of a recipe, the printed one beside it, and the lie detector.

Every judgement calls :func:`pipelines.training.recipe.fit` on some patients and asks it about others. Patients come from an
:class:`Embedding`, which knows what the networks behind their deep features were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split
from threadpoolctl import threadpool_limits

from pipelines.recipe import Lasso, Pca, Recipe
from pipelines.training.answers import Answer, Answers, Said, Task, read_answer, write_answer
from pipelines.training.discrimination import area
from pipelines.training.recipe import Stage, System, fit
from pipelines.training.select import Labels
from pipelines.training.table import Rows, Table
from pipelines.types import FloatArray

FOLDS = 5  # of the outer cross-validation
WHOLE_SHUFFLINGS = 2  # through every classifier of the recipe
PAPER_TEST_SHARE = 0.3  # of the patients, in the single split of [PLNM] and [LVSI]
Progress = Callable[[str], None]


class Embedding(Protocol):
    """Features of patients, such that no deep feature of a row comes from a network that had seen a label of the other part."""

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        """Return the tables of both parts: those of ``train`` cross-fitted, those of ``test`` by networks trained on ``train``."""
        ...


@dataclass(frozen=True)
class Static:
    """Deep features from networks that no patient of the table took part in training, or that nobody trained here."""

    table: Table

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        """Return the rows as they are."""
        return self.table.rows(train), self.table.rows(test)


@dataclass(frozen=True, eq=False)
class Narrowed:
    """Some columns of another embedding's tables, by name."""

    embedding: Embedding
    keep: Callable[[str], bool]

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        """Return the tables of both parts with these columns only."""
        inner, outer = self.embedding.split(train, test, labels)
        return inner.columns(self.keep), outer.columns(self.keep)


@dataclass(frozen=True, eq=False)
class Nested:
    """Out-of-fold answers of a repeated cross-validation, (repeats, patients, ...): the decision's and its ``imaging_only``'s (``alone``).

    ``selected`` are the features of each fold's model, ``families`` the classifiers chosen, ``folds`` (repeats, patients) which fold
    judged a patient.
    """

    classes: tuple[int, ...]
    said: Said
    alone: Said | None
    selected: tuple[tuple[str, ...], ...]
    families: tuple[str, ...]
    folds: NDArray[np.int64]

    @property
    def probabilities(self) -> FloatArray:
        """The decision's, (repeats, patients) or (repeats, patients, classes)."""
        return self.said.probabilities

    @property
    def calls(self) -> NDArray[np.int64]:
        """The decision's, (repeats, patients)."""
        return self.said.calls

    @property
    def plausible(self) -> NDArray[np.bool_]:
        """Whether the decision's conformal sets hold each class, (repeats, patients, classes)."""
        return self.said.plausible


@dataclass(frozen=True)
class Judge:
    """Runs tasks in ``workers`` processes. With ``answers``, what was answered before is found on disk."""

    recipe: Recipe
    embedding: Embedding
    labels: Labels
    seed: int
    second: Table | None = None
    workers: int = 1
    progress: Progress = lambda line: None
    answers: Answers | None = None

    def nested(
        self, *, repeats: int, labels: Labels | None = None, families: tuple[str, ...] | None = None, what: str = "nested"
    ) -> Nested:
        """Judge the recipe: in each outer fold it is fitted anew, from selection to threshold, and asked about the patients left out."""
        answers = self.labels if labels is None else labels
        parts = [outer_folds(answers, seed=self.seed + 1 + i) for i in range(repeats)]
        tasks = [self._task(train, test, answers, families) for folds in parts for train, test in folds]
        return _collect(answers, parts, list(self._run(tasks, what)))

    def permuted(self, n: int) -> FloatArray:
        """Return the AUC (n,) of the whole recipe on labels that were shuffled among the patients: it ought to be 0.5.

        The first two shufflings go through all of its classifiers, the others through the first.
        """
        rng = np.random.default_rng([self.seed, 17])
        first = self.recipe.classifiers[:1]
        areas = []
        for i in range(n):
            shuffled = rng.permutation(self.labels)
            families = None if i < WHOLE_SHUFFLINGS else first
            result = self.nested(repeats=1, labels=shuffled, families=families, what=f"shuffled labels {i + 1} of {n}")
            areas.append(mean_area(result, shuffled))
        return np.array(areas)

    def by_site(self, sites: Sequence[str]) -> Mapping[str, tuple[Rows, Answer]]:
        """Return for each site what a model of all other sites says of its patients.

        Sites without both classes are left out, and those without which too few patients are left to train on.
        """
        names, where = sorted(set(sites)), np.array(sites)
        classes = np.unique(self.labels)
        others = {n: [int((self.labels[where != n] == c).sum()) for c in classes] for n in names}
        usable = [n for n in names if _can_fit(self.recipe, others[n]) and set(self.labels[where == n]) == set(classes)]
        parts = {name: (np.flatnonzero(where != name), np.flatnonzero(where == name)) for name in usable}
        tasks = [self._task(train, test, self.labels, None) for train, test in parts.values()]
        return {name: (parts[name][1], answer) for name, answer in zip(parts, self._run(tasks, "leave a site out"), strict=True)}

    def as_printed(self) -> Mapping[str, tuple[Rows, Answer]]:
        """Return what each of the recipe's classifiers says of one 30 % test part, as the papers did; the best of them is optimistic."""
        every = np.arange(len(self.labels))
        train, test = train_test_split(every, test_size=PAPER_TEST_SHARE, stratify=self.labels, random_state=self.seed)
        tasks = [self._task(train, test, self.labels, (name,)) for name in self.recipe.classifiers]
        return {name: (test, answer) for name, answer in zip(self.recipe.classifiers, self._run(tasks, "as printed"), strict=True)}

    def _task(self, train: Rows, test: Rows, labels: Labels, families: tuple[str, ...] | None) -> Task:
        inner, outer = self.embedding.split(train, test, labels)
        second = self.second.rows(train) if self.second else None
        return Task(self.recipe, inner, outer, labels[train], second, self.seed, families)

    def _run(self, tasks: Sequence[Task], what: str) -> Iterator[Answer]:
        places = [self.answers.place(task) if self.answers else None for task in tasks]
        known = [place is not None and place.exists() for place in places]
        if n := sum(known):
            self.progress(f"{what}: {n} of {len(tasks)} models were judged before")
        asked = self._ask([(task, place) for task, place, there in zip(tasks, places, known, strict=True) if not there])
        for i, (place, there) in enumerate(zip(places, known, strict=True), start=1):
            if place is not None and there:
                yield read_answer(place)
            else:
                yield next(asked)
                self.progress(f"{what}: {i} of {len(tasks)} models")

    def _ask(self, tasks: Sequence[tuple[Task, Path | None]]) -> Iterator[Answer]:
        if self.workers == 1 or not tasks:
            yield from map(_judge_and_keep, tasks)
            return
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
            yield from pool.map(_judge_and_keep, tasks)


def outer_folds(labels: Labels, *, seed: int) -> list[tuple[Rows, Rows]]:
    """Return the training and test rows of each outer fold of one repeat."""
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))


def can_judge(recipe: Recipe, counts: Sequence[int]) -> bool:
    """Tell whether a cohort with so many patients of each class can be judged: within every fold each step has what it needs."""
    nested = [n - math.ceil(n / FOLDS) for n in counts]
    printed = [math.floor(n * (1 - PAPER_TEST_SHARE)) for n in counts]
    return _can_fit(recipe, nested) and _can_fit(recipe, printed)


def _can_fit(recipe: Recipe, counts: Sequence[int]) -> bool:
    left = [n - math.ceil(n / recipe.folds) for n in counts]  # to train on within an inner fold
    each = max([1, *(step.folds for step in recipe.steps if isinstance(step, Lasso))])
    more_than = max([0, *(step.components for step in recipe.steps if isinstance(step, Pca))])
    return min(counts) >= recipe.folds and min(left) >= each and sum(left) > more_than


def mean_area(nested: Nested, labels: Labels) -> float:
    """Return the mean over repeats of the AUC of pooled out-of-fold probabilities; of several classes the mean of one against the rest."""
    return float(np.mean([area_of(p, labels, nested.classes) for p in nested.probabilities]))


def area_of(probabilities: FloatArray, labels: Labels, classes: Sequence[int]) -> float:
    """Return the AUC of probabilities (n,), or the mean over classes of one against the rest (n, classes)."""
    if probabilities.ndim == 1:
        return area(probabilities, labels)
    return float(np.mean([area(probabilities[:, k], (labels == c).astype(np.int64)) for k, c in enumerate(classes)]))


def _judge_and_keep(asked: tuple[Task, Path | None]) -> Answer:
    """Answer a task, and write the answer down where it is done: what other processes have not finished does not matter."""
    task, place = asked
    answer = judge(task)
    if place:
        write_answer(place, answer)
    return answer


def judge(task: Task) -> Answer:
    """Fit one model and ask it."""
    with threadpool_limits(1):  # as in the other processes: the same sums in the same order
        system = fit(task.recipe, task.train, task.labels, seed=task.seed, second=task.second, families=task.families)
    decision, alone = system.decision, system.imaging_only
    said = _ask(decision, system.predict(task.test))
    return Answer(
        said,
        _ask(alone, alone.predict(task.test)) if alone else None,
        _selected(system),
        decision.classes,
        (system.score or decision).family,
    )


def _ask(stage: Stage, probabilities: FloatArray) -> Said:
    assert stage.conformal is not None  # every fit has one
    if stage.threshold is None:
        calls = np.array(stage.classes, dtype=np.int64)[probabilities.argmax(axis=1)]
    else:
        calls = (probabilities >= stage.threshold).astype(np.int64)
    sensitive = np.array([probabilities >= t for t in stage.sensitive], dtype=bool).reshape(len(stage.sensitive), len(calls)).T
    return Said(probabilities, calls, stage.conformal.holds(probabilities), sensitive)


def _collect(labels: Labels, parts: Sequence[Sequence[tuple[Rows, Rows]]], answers: Sequence[Answer]) -> Nested:
    folds = np.zeros((len(parts), len(labels)), dtype=np.int64)
    for repeat, split in enumerate(parts):
        for number, (_, test) in enumerate(split):
            folds[repeat, test] = number
    told = [a.alone for a in answers if a.alone]
    return Nested(
        answers[0].classes,
        _gather(parts, [a.said for a in answers]),
        _gather(parts, told) if told else None,
        tuple(a.selected for a in answers),
        tuple(a.family for a in answers),
        folds,
    )


def _gather(parts: Sequence[Sequence[tuple[Rows, Rows]]], said: Sequence[Said]) -> Said:
    """Put what was said of the test part of every fold in the patients' order, a row per repeat."""

    def spread(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        made = np.zeros((len(parts), sum(len(test) for _, test in parts[0]), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        given = iter(arrays)
        for repeat, split in enumerate(parts):
            for _, test in split:
                made[repeat, test] = next(given)
        return made

    return Said(*(spread(arrays) for arrays in zip(*said, strict=True)))


def _selected(system: System) -> tuple[str, ...]:
    return (system.score or system.decision).selection.names


def _use_one_thread() -> None:
    threadpool_limits(1)
