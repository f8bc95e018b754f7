"""What the report of a system of several classes shows: calls in the papers' form, and each axis and class as a finding of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from pipelines.spec import PipelineSpec
from pipelines.training.answers import Answer, Said
from pipelines.training.calibration import calibration
from pipelines.training.decision_curve import decision_curve
from pipelines.training.discrimination import (
    adjust_bonferroni,
    adjust_holm,
    area,
    bootstrap_auc,
    compare_paired,
    delong,
    roc_curve,
)
from pipelines.training.nested import Nested, area_of
from pipelines.training.operating_point import operating_point
from pipelines.training.outcome import JudgedClasses, JudgedQuestion, Performance, Rival, SiteLeftOut
from pipelines.training.select import Labels
from pipelines.training.several import Question, macro, questions
from pipelines.training.table import Rows
from pipelines.types import FloatArray

Asked = Mapping[str, tuple[Rows, Answer]]  # by classifier, or by site left out


def judge_score(p: FloatArray, labels: Labels, calls: Labels, *, seed: int, resamples: int) -> Performance:
    """Judge a binary score (n,) in every way."""
    return Performance(
        auc=delong(p, labels),
        bootstrap=bootstrap_auc(p, labels, seed=seed, resamples=resamples),
        roc=roc_curve(p, labels),
        operating_point=operating_point(calls, labels),
        calibration=calibration(p, labels, external=False, seed=seed, resamples=resamples),
        decision_curve=decision_curve(p, labels),
    )


def of_classes(name: str, p: FloatArray, labels: Labels, known: Sequence[int], *, chosen: bool = False) -> JudgedClasses:
    """Judge probabilities (n, classes) and the calls that follow from them in the papers' form."""
    calls = np.array(known, dtype=np.int64)[p.argmax(axis=1)]
    return JudgedClasses(name, len(labels), area_of(p, labels, known), macro(calls, labels), chosen)


def of_parts(asked: Asked, labels: Labels, *, best: bool) -> Iterator[JudgedClasses]:
    """Judge what was said of one part of the patients each; the ``best`` is marked where the papers would choose by it."""
    judged = {n: of_classes(n, a.probabilities, labels[where], a.classes) for n, (where, a) in asked.items()}
    first = max(judged, key=lambda n: judged[n].mean_auc) if best and judged else ""
    for name, (where, a) in asked.items():
        yield of_classes(name, a.probabilities, labels[where], a.classes, chosen=name == first)


def judge_questions(
    nested: Nested, labels: Labels, *, apparent: FloatArray, size: Said, sites: Asked, spec: PipelineSpec, seed: int, resamples: int
) -> Iterator[JudgedQuestion]:
    """Yield each axis and class that can be judged; p-values against size are adjusted over all of them."""
    ask = partial(questions, known=nested.classes, spec=spec)
    numbers, mean = np.array(nested.classes, dtype=np.int64), nested.probabilities.mean(axis=0)
    asked = list(ask(mean, labels, numbers[mean.argmax(axis=1)]))
    judged = [i for i, q in enumerate(asked) if q.can_be_judged]
    repeats = [list(ask(p, labels, c)) for p, c in zip(nested.probabilities, nested.calls, strict=True)]
    seen = list(ask(apparent, labels, numbers[apparent.argmax(axis=1)]))
    alone = list(ask(size.probabilities[0], labels, size.calls[0]))
    elsewhere = {site: list(ask(a.probabilities, labels[where], a.calls)) for site, (where, a) in sites.items()}
    for i, rival in zip(judged, _against_size([asked[i] for i in judged], [alone[i] for i in judged]), strict=True):
        q = asked[i]
        yield JudgedQuestion(
            name=q.words,
            labels=tuple(q.truth.tolist()),
            probabilities=tuple(q.scores.tolist()),
            calls=tuple(q.calls.tolist()),
            nested_auc_by_repeat=tuple(area(one[i].scores, q.truth) for one in repeats),
            apparent_auc=area(seen[i].scores, q.truth),
            apparent_point=operating_point(seen[i].calls, q.truth),
            performance=judge_score(q.scores, q.truth, q.calls, seed=seed, resamples=resamples),
            rivals=(rival,),
            sites_left_out=tuple(_site(site, one[i]) for site, one in elsewhere.items() if one[i].can_be_judged),
        )


def _against_size(asked: Sequence[Question], alone: Sequence[Question]) -> Iterator[Rival]:
    tests = [compare_paired(q.scores, s.scores, q.truth) for q, s in zip(asked, alone, strict=True)]
    family = [t.p for t in tests if t.p is not None]
    holm, bonferroni = iter(adjust_holm(family)), iter(adjust_bonferroni(family))
    for test, size in zip(tests, alone, strict=True):
        adjusted = (None, None) if test.p is None else (next(holm), next(bonferroni))
        point = operating_point(size.calls, size.truth)
        yield Rival("size", "size of the roi alone, nested", delong(size.scores, size.truth), test, adjusted[0], point, adjusted[1])


def _site(site: str, q: Question) -> SiteLeftOut:
    return SiteLeftOut(site, len(q.truth), int(q.truth.sum()), delong(q.scores, q.truth))
