"""What conformal sets held of patients that their model had not seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.models.manifest import Decision
from pipelines.training.decisions import Parts, Roles
from pipelines.training.intervals import Labels
from pipelines.training.nested import Nested


def cover(parts: Parts, nested: Nested, reduced: Mapping[Roles, Nested], labels: Labels) -> Parts:
    """Return a bundle's decisions with the coverage of their conformal sets, each as its own nested judgement found it."""

    def without_clinical(one: Decision | None) -> Decision | None:
        return covered(one, nested.alone.plausible, labels) if one and nested.alone else one

    fewer = [r.model_copy(update={"decision": covered(r.decision, reduced[r.roles].plausible, labels)}) for r in parts.reduced]
    return parts._replace(
        decision=covered(parts.decision, nested.plausible, labels),
        score=without_clinical(parts.score),
        imaging_only=without_clinical(parts.imaging_only),
        reduced=tuple(fewer),
    )


def covered(decision: Decision, plausible: NDArray[np.bool_], labels: Labels) -> Decision:
    """Return a decision with what its conformal sets, ``plausible`` (repeats, n, classes), held of unseen patients."""
    name = "class_conformal" if decision.classes else "conformal"
    rule = decision.class_conformal or decision.conformal
    assert rule is not None  # training always makes one
    held, classes = held_truth(plausible, labels), np.unique(labels)
    measured = {
        "covered": round(float(held.mean()), 4),
        "covered_each": tuple(round(float(held[:, labels == c].mean()), 4) for c in classes),
        "mean_size": round(float(plausible.sum(axis=2).mean()), 4),
        "n": len(labels),
    }
    return decision.model_copy(update={name: rule.model_copy(update=measured)})


def held_truth(plausible: NDArray[np.bool_], labels: Labels) -> NDArray[np.bool_]:
    """Tell for each patient whether the conformal set held the truth, (repeats, n); classes are those of the labels, in order."""
    return np.asarray(plausible[:, np.arange(len(labels)), np.unique(labels, return_inverse=True)[1]])
