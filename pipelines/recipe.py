"""The words in which a training recipe is declared: data, no code, so that serving can read a system without training libraries.

A recipe is a sequence of steps from all features to a few, and the classifiers to compare. What each step does, on the rows it is given
and no others, is in :mod:`pipelines.training.select`; how it is judged, in :mod:`pipelines.training.recipe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Block = Literal["", "radiomics", "histogram", "shape", "cnn", "pca"]  # of features; empty means all


@dataclass(frozen=True, slots=True)
class Repeatable:
    """Keep features whose ICC between two readers' regions is above ``minimum``; only where the cohort has second regions."""

    minimum: float
    form: Literal["ICC(2,1)", "ICC(3,1)"] = "ICC(2,1)"
    on: Block = "radiomics"


@dataclass(frozen=True, slots=True)
class MannWhitney:
    """Keep features that differ between the classes with a two-sided p below ``p``, uncorrected: a ranking, not an inference."""

    p: float = 0.05
    on: Block = ""


@dataclass(frozen=True, slots=True)
class Decorrelate:
    """Of features that correlate by more than ``limit``, keep the one that separates the classes best."""

    limit: float = 0.9
    method: Literal["spearman", "pearson"] = "spearman"
    on: Block = ""


@dataclass(frozen=True, slots=True)
class Mrmr:
    """Keep ``keep`` features of each sequence by minimum redundancy and maximum relevance."""

    keep: int
    on: Block = "cnn"


@dataclass(frozen=True, slots=True)
class Pca:
    """Replace the features of each sequence by ``components`` principal components."""

    components: int
    on: Block = "cnn"


@dataclass(frozen=True, slots=True)
class Lasso:
    """Keep features with a coefficient in a LASSO-logistic regression; ``rule``: lowest loss, or within one standard error of it."""

    folds: int
    rule: Literal["min", "1se"] = "min"
    on: Block = ""


@dataclass(frozen=True, slots=True)
class Rfe:
    """Keep ``keep`` features by recursive elimination with logistic regression."""

    keep: int
    on: Block = ""


@dataclass(frozen=True, slots=True)
class Rank:
    """Keep ``keep`` features by the mean of their ranks in forest importance, ANOVA F and recursive elimination."""

    keep: int
    on: Block = ""


Step = Repeatable | MannWhitney | Decorrelate | Mrmr | Pca | Lasso | Rfe | Rank


@dataclass(frozen=True)
class Recipe:
    """How a cohort becomes a decision.

    Parameters
    ----------
    steps : from all features to the classifier's, in this order.
    classifiers : names of families in :mod:`pipelines.training.classifiers`; the paper's choice first. Inner cross-validation chooses.
    folds : of the inner cross-validation.
    smote : fill up the rarer classes with synthetic neighbours; probabilities are then brought back to the true prevalence.
    nomogram : clinical values that a logistic regression joins to the classifier's log-odds.
    """

    steps: tuple[Step, ...] = ()
    classifiers: tuple[str, ...] = ("LR",)
    folds: int = 5
    smote: bool = False
    nomogram: tuple[str, ...] = ()
