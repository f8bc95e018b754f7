"""Other scores on the same patients: size, clinical values and imaging alone, and the same recipe on harmonised features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.training.discrimination import adjust_holm, compare_paired, delong
from pipelines.training.nested import Embedding, Judge, Nested, Static
from pipelines.training.operating_point import operating_point
from pipelines.training.outcome import Rival
from pipelines.training.select import Labels
from pipelines.training.site_effect import Harmonised
from pipelines.training.table import Rows, Table
from pipelines.types import FloatArray

_CLINICAL = "CLINICAL:"


@dataclass(frozen=True, eq=False)
class _Narrowed:
    """Some columns of another embedding's tables."""

    embedding: Embedding
    keep: Callable[[str], bool]

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        inner, outer = self.embedding.split(train, test, labels)
        return inner.columns(self.keep), outer.columns(self.keep)


def compare_rivals(judge: Judge, nested: Nested, *, table: Table, sizes: Sequence[float], sites: Sequence[str] | None) -> tuple[Rival, ...]:
    """Compare what ``nested`` says of patients with what others say of them, each judged on the folds of the first repeat.

    Parameters
    ----------
    table : the patients' features, of which only the clinical values are looked at.
    sites : of the patients, to compare with features harmonised between them.
    """
    of_model = nested.probabilities.mean(axis=0)
    scores: list[tuple[str, str, FloatArray, FloatArray, Nested | None]] = []  # name, words, score, what it is compared with, its calls

    def add(name: str, words: str, one: Nested, model: FloatArray = of_model) -> None:
        scores.append((name, words, one.probabilities[0], model, one))

    scores.append(("size", "size of the roi alone", np.asarray(sizes, dtype=np.float64), of_model, None))
    if clinical := [name for name in table.names if name.startswith(_CLINICAL)]:
        add("clinical", f"clinical values alone ({', '.join(judge.recipe.nomogram)}), nested", _on_clinical(judge, table, clinical))
        add("imaging", "imaging score alone, out of fold", _on_imaging(judge))
    if sites is not None:
        harmonised = replace(judge, embedding=Harmonised(judge.embedding, sites))
        words = "the same recipe on features harmonised between sites (ComBat within each fold; the bundle is not harmonised)"
        add("combat", words, harmonised.nested(repeats=1, what="harmonised"), nested.probabilities[0])
    compared = [compare_paired(model, score, judge.labels) for _, _, score, model, _ in scores]
    adjusted = iter(adjust_holm([c.p for c in compared if c.p is not None]))
    return tuple(
        Rival(
            name,
            words,
            delong(score, judge.labels),
            comparison,
            None if comparison.p is None else next(adjusted),
            operating_point(one.calls[0], judge.labels) if one else None,
        )
        for (name, words, score, _, one), comparison in zip(scores, compared, strict=True)
    )


def _on_clinical(judge: Judge, table: Table, names: Sequence[str]) -> Nested:
    """Judge a logistic regression on clinical values."""
    told = Table(tuple(name.replace(_CLINICAL, "TOLD:") for name in names), table.take(names))
    recipe = replace(judge.recipe, steps=(), classifiers=("LR",), nomogram=())
    return replace(judge, recipe=recipe, embedding=Static(told), second=None).nested(repeats=1, what="clinical values alone")


def _on_imaging(judge: Judge) -> Nested:
    """Judge the recipe on what the images tell, without clinical values and without a network's answer that knows one."""
    alone = _Narrowed(judge.embedding, lambda name: not name.startswith(_CLINICAL) and not name.endswith(":cnn:h"))
    first = judge.recipe.classifiers[:1]
    return replace(judge, recipe=replace(judge.recipe, nomogram=()), embedding=alone).nested(
        repeats=1, families=first, what="imaging alone"
    )
