"""Other scores on the same patients: size, clinical values and imaging alone, the same recipe on harmonised features, another fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pipelines.features import clinical
from pipelines.recipe import Decorrelate, Lasso, Recipe
from pipelines.training.answers import Said
from pipelines.training.discrimination import adjust_bonferroni, adjust_holm, compare_paired, delong
from pipelines.training.fusion import judge_fusion
from pipelines.training.nested import Judge, Nested, Static
from pipelines.training.operating_point import operating_point
from pipelines.training.outcome import Rival
from pipelines.training.site_effect import Harmonised
from pipelines.training.table import Table, role_of
from pipelines.types import ClinicalValue, FloatArray

_CLINICAL = "CLINICAL:"
CLINICAL_MODEL = ("age_y", "figo_stage", "diameter_class")  # of [OLNM], with its recipe
_CLINICAL_RECIPE = Recipe(steps=(Decorrelate(0.9, "pearson"), Lasso(folds=5)), classifiers=("LightGBM",))


def known_values(patients: Sequence[Mapping[str, ClinicalValue]]) -> Table:
    """Return of [OLNM]'s clinical model the values that are known of every patient and differ between them."""
    of_each = [clinical.features(values) for values in patients]
    names = [clinical.FEATURE_PREFIX + name for name in CLINICAL_MODEL]
    told = [name for name in names if all(name in values for values in of_each) and len({values[name] for values in of_each}) > 1]
    return Table(tuple(told), np.array([[values[name] for name in told] for values in of_each]).reshape(len(patients), len(told)))


def compare_rivals(
    judge: Judge,
    nested: Nested,
    *,
    table: Table,
    sizes: Sequence[float],
    sites: Sequence[str] | None,
    known: Table | None = None,
    fusion: bool = False,
) -> tuple[Rival, ...]:
    """Compare what ``nested`` says of patients with what others say of them, each judged on the folds of the first repeat.

    Parameters
    ----------
    table : the patients' features, of which only the clinical values, and for ``fusion`` the sequences' names, are looked at.
    sites : of the patients, to compare with features harmonised between them.
    known : clinical values (:func:`known_values`), to compare with where the recipe has none of its own.
    fusion : compare with a Transformer fusion of the sequences, where there are several.
    """
    of_model = nested.probabilities.mean(axis=0)
    scores: list[tuple[str, str, FloatArray, FloatArray, FloatArray | None]] = []  # name, words, score, what it is compared with, its calls

    def add(name: str, words: str, one: Said, model: FloatArray = of_model) -> None:
        scores.append((name, words, one.probabilities[0], model, one.calls[0]))

    scores.append(("size", "size of the roi alone", np.asarray(sizes, dtype=np.float64), of_model, None))
    if told := [name for name in table.names if name.startswith(_CLINICAL)]:
        values, words = table.take(told), ", ".join(judge.recipe.nomogram)
        if values.shape[1] == 1 and len(np.unique(values)) == 2:  # nothing to fit: the value is the answer
            scores.append(("clinical", f"clinical value alone ({words}), as it is", values[:, 0], of_model, values[:, 0] == values.max()))
        else:
            recipe = replace(judge.recipe, steps=(), classifiers=("LR",))
            add("clinical", f"clinical values alone ({words}), nested", _on_clinical(judge, Table(tuple(told), values), recipe))
        assert nested.alone is not None  # who knows clinical values has a model that does without
        add("imaging", "imaging score alone, out of fold", nested.alone)
    elif known is not None and known.names:
        titles = ", ".join(clinical.title_of(name.removeprefix(clinical.FEATURE_PREFIX)) for name in known.names)
        add("clinical", f"clinical values alone ({titles}), LightGBM as in [OLNM], nested", _on_clinical(judge, known, _CLINICAL_RECIPE))
    if sites is not None:
        harmonised = replace(judge, embedding=Harmonised(judge.embedding, sites))
        words = "the same recipe on features harmonised between sites (ComBat within each fold; the bundle is not harmonised)"
        add("combat", words, harmonised.nested(repeats=1, what="harmonised").said, nested.probabilities[0])
    if fusion and len({role_of(name) for name in table.names if not name.startswith(_CLINICAL)}) > 1:
        words = "Transformer fusion of the sequences, out of fold"
        scores.append(("transformer", words, judge_fusion(judge), nested.probabilities[0], None))
    compared = [compare_paired(model, score, judge.labels) for _, _, score, model, _ in scores]
    family = [c.p for c in compared if c.p is not None]
    holm, bonferroni = iter(adjust_holm(family)), iter(adjust_bonferroni(family))
    return tuple(
        Rival(
            name,
            words,
            delong(score, judge.labels),
            comparison,
            None if comparison.p is None else next(holm),
            None if calls is None else operating_point(calls, judge.labels),
            None if comparison.p is None else next(bonferroni),
        )
        for (name, words, score, _, calls), comparison in zip(scores, compared, strict=True)
    )


def on_size(judge: Judge, sizes: Sequence[float]) -> Said:
    """Judge a logistic regression on the roi's size alone: of several classes, which one a size speaks for has to be learnt."""
    values = Table((f"{_CLINICAL}roi:size",), np.asarray(sizes, dtype=np.float64)[:, None])
    return _on_clinical(judge, values, Recipe(classifiers=("LR",)))


def _on_clinical(judge: Judge, values: Table, recipe: Recipe) -> Said:
    """Judge a recipe on clinical values, as if they were features of images."""
    told = Table(tuple(name.replace(_CLINICAL, "TOLD:") for name in values.names), values.values)
    recipe = replace(recipe, nomogram=())
    return (
        replace(judge, recipe=recipe, embedding=Static(told), second=None).nested(repeats=1, what=f"{', '.join(values.names)} alone").said
    )
