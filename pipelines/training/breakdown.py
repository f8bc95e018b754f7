"""A binary score judged whole and by parts: against the size of the tumour alone, and site by site, scanner by scanner.

What several classes answer is turned into such scores first, see :func:`one_against_rest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.spec import PipelineSpec
from pipelines.training.calibration import calibration
from pipelines.training.decision_curve import decision_curve
from pipelines.training.discrimination import (
    Comparison,
    adjust_bonferroni,
    adjust_holm,
    bootstrap_auc,
    compare_paired,
    compare_unpaired,
    delong,
    roc_curve,
)
from pipelines.training.evaluation import Baseline, Coverage, Finding, Group, PatientRow, Variable
from pipelines.training.intervals import Labels, proportion
from pipelines.training.operating_point import OperatingPoint, operating_point
from pipelines.training.several import WITHHELD, questions
from pipelines.types import FloatArray

IMAGES = "Images, without clinical values"
_SIZES = ("[ml]", "[mm]", "[mm2]")
_NOT_STATED = "not stated"
_EACH = 2  # of either class, for an area with a variance


def judge_finding(name: str, patients: Sequence[PatientRow], *, seed: int, resamples: int) -> Finding:
    """Return everything about one binary score, of which there are at least two patients of either label."""
    p, y = columns(patients)
    return Finding(
        name=name,
        probabilities=tuple(p.tolist()),
        labels=tuple(y.tolist()),
        auc=delong(p, y),
        auc_bootstrap=bootstrap_auc(p, y, resamples=resamples, seed=seed),
        roc=roc_curve(p, y),
        operating_point=judge_calls(patients),
        calibration=calibration(p, y, external=True, resamples=resamples, seed=seed),
        decision_curve=decision_curve(p, y),
        baselines=baselines(patients),
        groups=group_tables(patients),
    )


def one_against_rest(patients: Sequence[PatientRow], known: Sequence[int], spec: PipelineSpec) -> Iterator[tuple[str, list[PatientRow]]]:
    """Yield each axis and each of the ``known`` classes that can be judged, with the patients as rows of that binary score.

    A call is positive where the class called is that class, or lies on that side of the axis.
    """
    for q in questions(*class_columns(patients, known), known=known, spec=spec):
        if q.can_be_judged:
            said = ["positive" if yes else "negative" for yes in q.calls]
            rows = zip(patients, q.truth.tolist(), q.scores.tolist(), said, strict=True)
            yield q.words, [replace(x, label=y, probability=p, call=call if has_call(x.call) else x.call) for x, y, p, call in rows]


def class_columns(patients: Sequence[PatientRow], known: Sequence[int]) -> tuple[FloatArray, Labels, Labels]:
    """Return probabilities (n, classes) in the order of ``known``, labels and calls (n,)."""
    p = np.array([[x.classes[number] for number in known] for x in patients])
    calls = np.where([has_call(x.call) for x in patients], np.array(known)[p.argmax(axis=1)], WITHHELD)
    return p, columns(patients)[1], calls.astype(np.int64)


def baselines(patients: Sequence[PatientRow]) -> tuple[Baseline, ...]:
    """Return what may do as well, as scores of their own with the model tested against each.

    Every length, area or volume that all patients have, and the images without clinical values where the model joins these.
    """
    p, y = columns(patients)
    names = [name for name in patients[0].measurements if name.endswith(_SIZES) and all(name in x.measurements for x in patients)]
    scores = [np.array([x.measurements[name] for x in patients]) for name in names]
    alone = [x.alone for x in patients if x.alone is not None]
    if len(alone) == len(patients):
        names, scores = [*names, IMAGES], [*scores, np.array(alone)]
    tests = [compare_paired(p, score, y) for score in scores]
    family = [t.p for t in tests if t.p is not None]
    holm, bonferroni = iter(adjust_holm(family)), iter(adjust_bonferroni(family))
    return tuple(
        Baseline(
            name=name,
            auc=delong(score, y),
            roc=roc_curve(score, y),
            comparison=test,
            p_holm=None if test.p is None else next(holm),
            p_bonferroni=None if test.p is None else next(bonferroni),
        )
        for name, score, test in zip(names, scores, tests, strict=True)
    )


def group_tables(patients: Sequence[PatientRow]) -> tuple[Group, ...]:
    """Return each site, manufacturer, scanner model and field strength with what the bundle did there; small groups too."""
    variables: tuple[tuple[Variable, Callable[[PatientRow], str]], ...] = (
        ("site", lambda x: x.site),
        ("manufacturer", lambda x: x.manufacturer),
        ("model", lambda x: x.model),
        ("field strength", lambda x: "" if x.field_strength_t is None else f"{x.field_strength_t:g} T"),
    )
    groups = []
    for variable, name_of in variables:
        names = [name_of(x) or _NOT_STATED for x in patients]
        groups += [_group(variable, name, patients, np.array([n == name for n in names])) for name in sorted(set(names))]
    return tuple(groups)


def judge_calls(patients: Sequence[PatientRow]) -> OperatingPoint | None:
    """Return the operating point of the calls as they were made, or ``None`` where a class got no call at all."""
    called = [x for x in patients if has_call(x.call)]
    labels = [x.label for x in called]
    return operating_point([x.call == "positive" for x in called], labels) if len(set(labels)) == 2 else None


def judge_sets(patients: Sequence[PatientRow], aim: float | None) -> Coverage | None:
    """Return what the conformal sets held; a class that the bundle does not know is in none."""
    if aim is None:
        return None
    labels = sorted({x.label for x in patients})
    held = {k: [k in x.plausible for x in patients if x.label == k] for k in labels}
    return Coverage(
        aim=aim,
        held=proportion(sum(map(sum, held.values())), len(patients)),
        each={k: proportion(sum(inside), len(inside)) for k, inside in held.items()},
        mean_size=float(np.mean([len(x.plausible) for x in patients])),
    )


def has_call(call: str) -> bool:
    """Tell whether a prediction said yes or no, or named a class; it may have been withheld."""
    return call != "withheld"


def columns(patients: Sequence[PatientRow]) -> tuple[FloatArray, Labels]:
    """Return probabilities and labels, each (n,)."""
    return np.array([x.probability for x in patients]), np.array([x.label for x in patients], dtype=np.int64)


def _group(variable: Variable, name: str, patients: Sequence[PatientRow], here: NDArray[np.bool_]) -> Group:
    p, y = columns(patients)
    own = [x for x, inside in zip(patients, here, strict=True) if inside]
    calls = [x for x in own if has_call(x.call)]
    right = {k: sum(x.label == k and (x.call == "positive") == bool(k) for x in calls) for k in (0, 1)}
    of = {k: sum(x.label == k for x in calls) for k in (0, 1)}
    return Group(
        variable=variable,
        name=name,
        n=len(own),
        events=int(y[here].sum()),
        mean_predicted=float(p[here].mean()),
        auc=delong(p[here], y[here]) if _enough(y[here]) else None,
        against_others=_against(p, y, here),
        sensitivity=proportion(right[1], of[1]),
        specificity=proportion(right[0], of[0]),
    )


def _against(p: FloatArray, y: Labels, here: NDArray[np.bool_]) -> Comparison | None:
    if not (_enough(y[here]) and _enough(y[~here])):
        return None
    return compare_unpaired(p[here], y[here], p[~here], y[~here])


def _enough(labels: Labels) -> bool:
    return min(int(labels.sum()), int((1 - labels).sum())) >= _EACH
