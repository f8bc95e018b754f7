"""Which features a recipe chose: of the final model, and in how many folds."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipelines.errors import CohortError
from pipelines.features.ibsi import identify
from pipelines.recipe import Recipe
from pipelines.training.agreement import selection_stability
from pipelines.training.intervals import Estimate
from pipelines.training.nested import Nested
from pipelines.training.outcome import Beeswarm, ChosenFeature, LassoCurve
from pipelines.training.recipe import Stage


def stability_of(nested: Nested, stage: Stage) -> Estimate | None:
    """Return how far the folds agree; candidates that no fold chose count, as agreement by chance depends on how many there are."""
    chosen = np.array([np.isin(stage.selection.candidates, names) for names in nested.selected])
    try:
        return selection_stability(chosen)
    except CohortError:
        return None


def features_of(nested: Nested, stage: Stage, beeswarm: Beeswarm | None) -> tuple[ChosenFeature, ...]:
    """Return the final model's features, and those that half of the folds chose: how often, and what they move."""
    runs = nested.selected
    count = Counter(name for names in runs for name in names)
    importance = dict(zip(beeswarm.features, np.abs(beeswarm.shapley).mean(axis=0).tolist(), strict=True)) if beeswarm else {}
    final = set(stage.selection.names)
    ordered = sorted(final | {n for n, k in count.items() if k >= len(runs) / 2}, key=lambda n: (n not in final, -count[n], n))
    return tuple(
        ChosenFeature(
            name=name,
            words=name.split(":", 2)[2].replace("_", " ") + f" ({name.split(':', 1)[0]})",
            ibsi_code=(code := identify(name)) and code[0],
            ibsi_name=code and code[1],
            frequency=count[name] / len(runs),
            importance=importance.get(name, 0.0),
            in_final=name in final,
        )
        for name in ordered
    )


def lasso_of(recipe: Recipe, stage: Stage) -> LassoCurve | None:
    """Return the path of the final selection, where it used a LASSO."""
    path = stage.selection.path
    if path is None:
        return None
    entered = np.abs(path.coefficients).max(axis=0) > 0
    rule = next((step.rule for step in recipe.steps if hasattr(step, "rule")), "min")
    return LassoCurve(
        penalties=tuple(path.penalties.tolist()),
        loss=tuple(path.loss.tolist()),
        standard_error=tuple(path.standard_error.tolist()),
        coefficients=tuple(tuple(row) for row in path.coefficients[:, entered].tolist()),
        chosen=path.minimum if rule == "min" else path.one_se,
        rule=rule,
        names=tuple(np.array(stage.selection.on_path)[entered].tolist()),
    )
