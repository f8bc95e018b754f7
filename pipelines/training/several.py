"""A system of several classes judged, and the yes-or-no questions that it answers: each axis, and each class against the rest.

A question has scores, truth and calls as any binary score has, so that what judges a binary score judges it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import CohortError
from pipelines.spec import PipelineSpec
from pipelines.training.discrimination import Auc, area, delong
from pipelines.training.intervals import RESAMPLES, Estimate, Labels, Proportion, bootstrap_intervals, proportion
from pipelines.types import FloatArray

WITHHELD = -1  # in place of a class that was not called
_EACH = 2  # patients on either side of a question, for an area with a variance


@dataclass(frozen=True, slots=True)
class SeveralClasses:
    """A system of several classes judged: the confusion matrix has a row per true class, a column per class that the model knows.

    A class that the model does not know is never called, and its patients count as wrong. ``accuracy`` and ``balanced_accuracy`` (the mean
    over true classes of the share right) are of calls, without those withheld. ``mean_auc`` is the mean over classes of one against the
    rest, ``brier`` the sum over classes of the squared difference between probability and truth (Brier, Mon Weather Rev 1950;78:1-3), from
    0 to 2; ``scaled_brier`` is 0 for knowing the prevalence only and 1 for perfect. ``absent`` are classes that the model does not know,
    ``unjudged`` axes and known classes with fewer than two patients on one side, or none of whose sides the model knows.
    """

    classes: tuple[int, ...]
    words: tuple[str, ...]
    called: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: Proportion
    balanced_accuracy: Estimate | None
    mean_auc: Estimate
    brier: Estimate
    scaled_brier: Estimate
    one_against_rest: tuple[tuple[str, Auc], ...]
    axes: tuple[tuple[str, Auc], ...]
    absent: tuple[str, ...]
    unjudged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Macro:
    """Calls of several classes in the form of [CRFE]: accuracy; precision, recall and F1 as means over the true classes.

    ``each`` are precision, recall and F1 of the true classes in order. The precision of a class that is never called is 0.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    each: tuple[tuple[float, float, float], ...]


def macro(calls: Labels, labels: Labels) -> Macro:
    """Judge calls (n,) of several classes."""
    each = []
    for c in np.unique(labels):
        right, called, there = (int(x.sum()) for x in ((calls == c) & (labels == c), calls == c, labels == c))
        each.append((right / called if called else 0.0, right / there, 2 * right / (called + there)))
    precision, recall, f1 = (float(v) for v in np.mean(each, axis=0))
    return Macro(float((calls == labels).mean()), precision, recall, f1, tuple(each))


class Question(NamedTuple):
    """One axis, or one class against the rest: probability, truth and call (1 for yes) of each patient, (n,) each."""

    words: str
    is_axis: bool
    scores: FloatArray
    truth: Labels
    calls: Labels

    @property
    def can_be_judged(self) -> bool:
        """Whether there are patients on either side, and a score that could tell them apart."""
        yes = int(self.truth.sum())
        return min(yes, len(self.truth) - yes) >= _EACH and bool(np.ptp(self.scores) > 0)


def questions(probabilities: FloatArray, labels: Labels, calls: Labels, *, known: Sequence[int], spec: PipelineSpec) -> Iterator[Question]:
    """Yield the axes, then the classes that the model knows.

    Parameters
    ----------
    probabilities : (n, classes), in the order of ``known``.
    labels, calls : numbers of classes (n,).
    """
    of_class = {c.number: c for c in spec.classes}
    for i, axis in enumerate(spec.axes):
        yes = [c.number for c in spec.classes if c.axes[i]]
        yield Question(axis.meaning, True, _chance(probabilities, known, yes), _within(labels, yes), _within(calls, yes))
    for number in known:
        words = f"{number}: {of_class[number].code.meaning}"
        yield Question(words, False, _chance(probabilities, known, [number]), _within(labels, [number]), _within(calls, [number]))


def judge_several(
    probabilities: FloatArray,
    labels: Labels,
    calls: Labels,
    *,
    known: Sequence[int],
    spec: PipelineSpec,
    seed: int,
    resamples: int = RESAMPLES,
) -> SeveralClasses:
    """Judge the answers to patients, see :func:`questions`; a call may be :data:`WITHHELD`. Intervals are stratified bootstraps.

    Raises
    ------
    CohortError
        No class that the model knows has two patients, with two others.
    """
    asked = list(questions(probabilities, labels, calls, known=known, spec=spec))
    judged = [q for q in asked if q.can_be_judged]
    columns = [k for k, q in enumerate(q for q in asked if not q.is_axis) if q.can_be_judged]
    if not columns:
        raise CohortError("no class that the model knows has two patients and two others to tell them from")
    present = [int(c) for c in np.unique(labels)]
    confusion = np.array([[int(((labels == a) & (calls == b)).sum()) for b in known] for a in present])

    def measure(answers: FloatArray, truth: Labels) -> FloatArray:
        p, called = answers[:, :-1], answers[:, -1]
        areas = [area(p[:, k], _within(truth, [known[k]])) for k in columns]
        return np.array([np.mean(areas), _balanced_accuracy(called, truth), *_brier(p, truth, known)])

    answers = np.column_stack([probabilities, calls])
    intervals = bootstrap_intervals(measure, answers, labels, resamples=resamples, seed=seed)
    mean_auc, balanced, brier, scaled = (Estimate(float(v), i) for v, i in zip(measure(answers, labels), intervals, strict=True))
    words = {c.number: c.code.meaning for c in spec.classes}
    return SeveralClasses(
        classes=tuple(present),
        words=tuple(words[c] for c in present),
        called=tuple(known),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        accuracy=proportion(int((calls == labels).sum()), int((calls != WITHHELD).sum())),
        balanced_accuracy=balanced if (calls != WITHHELD).any() else None,
        mean_auc=mean_auc,
        brier=brier,
        scaled_brier=scaled,
        one_against_rest=tuple((q.words, delong(q.scores, q.truth)) for q in judged if not q.is_axis),
        axes=tuple((q.words, delong(q.scores, q.truth)) for q in judged if q.is_axis),
        absent=tuple(words[c] for c in words if c not in known),
        unjudged=tuple(q.words for q in asked if not q.can_be_judged),
    )


def _chance(probabilities: FloatArray, known: Sequence[int], numbers: Sequence[int]) -> FloatArray:
    inside: NDArray[np.bool_] = np.isin(known, numbers)
    if inside.all():  # a sum that is 1 but for round-off would seem to vary
        return np.ones(len(probabilities))
    return np.asarray(np.clip(probabilities[:, inside].sum(axis=1), 0.0, 1.0))


def _within(numbers: Labels, some: Sequence[int]) -> Labels:
    return np.isin(numbers, some).astype(np.int64)


def _balanced_accuracy(calls: FloatArray, labels: Labels) -> float:
    """Return the mean share right over classes with a call; 0 for a resample that has none."""
    told = calls != WITHHELD
    shares = [(calls[told & (labels == c)] == c).mean() for c in np.unique(labels[told])]
    return float(np.mean(shares)) if shares else 0.0


def _brier(probabilities: FloatArray, labels: Labels, known: Sequence[int]) -> tuple[float, float]:
    """Return the Brier score and the scaled one; a class that the model does not know has a probability of 0."""
    truth = labels[:, None] == np.array(known)
    score = float(((probabilities - truth) ** 2).sum(axis=1).mean() + (~truth.any(axis=1)).mean())
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return score, 1 - score / float((shares * (1 - shares)).sum())
