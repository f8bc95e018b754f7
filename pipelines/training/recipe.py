"""A declared recipe, carried out: from a table of features and labels to a fitted system.

:func:`fit` learns from the rows it is given and nothing else, so that running it within the folds of :mod:`pipelines.training.nested`
gives an honest estimate of what it will do on new patients. Inside, an inner cross-validation repeats the whole selection on its training
part, so that the choice of classifier, the calibration and the threshold see scores of patients that no step had seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from pipelines.decide import SCORE
from pipelines.errors import CohortError
from pipelines.models.classify import logit
from pipelines.models.session import Float32Array
from pipelines.recipe import Decorrelate, Lasso, MannWhitney, Mrmr, Pca, Rank, Recipe, Repeatable, Rfe, Step
from pipelines.training import select
from pipelines.training.classifiers import FAMILIES, Fitted
from pipelines.training.operating_point import sensitivity_threshold, youden_threshold
from pipelines.training.oversample import prior_odds, smote
from pipelines.training.platt import Calibration, ClassRule, Rule, calibrate, class_conformal_rule, conformal_rule
from pipelines.training.select import Labels, LassoPath, Projection, Scaling, apply_scaling, fit_scaling
from pipelines.training.table import Rows, Table, block_of, role_of
from pipelines.types import FloatArray

THRESHOLD_RULE = "Youden index on out-of-fold probabilities of the training patients"
MOST_PROBABLE = "the most probable class"
COVERAGE = 0.9  # of the conformal sets, aimed at for each class
SENSITIVITIES = (0.90, 0.95)  # for which further thresholds are chosen, for the report


@dataclass(frozen=True, eq=False)
class Selection:
    """Which features a classifier uses: their names, after the projections that make some of them.

    For the report: ``candidates`` are the names of all features that could have been chosen, ``path`` is the last LASSO's, of the features
    ``on_path``; ``unrepeatable`` is how many features two readers' regions did not agree on, ``None`` where that was not asked.
    """

    names: tuple[str, ...]
    projections: Mapping[str, Projection] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    path: LassoPath | None = None
    on_path: tuple[str, ...] = ()
    unrepeatable: int | None = None

    def take(self, table: Table) -> FloatArray:
        """Return the chosen features of raw rows, (n, k)."""
        return _project(table, self.projections).take(self.names)


@dataclass(frozen=True, eq=False)
class Linear:
    """A logistic regression in the open, on standardised features."""

    intercept: float
    coefficients: FloatArray

    @classmethod
    def of(cls, model: LogisticRegression) -> Self:
        """Return a fitted regression of two classes."""
        return cls(float(model.intercept_[0]), np.asarray(model.coef_[0], dtype=np.float64))

    def log_odds(self, rows: FloatArray) -> FloatArray:
        """Return log-odds (n,)."""
        return np.asarray(self.intercept + rows @ self.coefficients, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Stage:
    """A fitted decision: which features, their scaling, the classifier, its conformal rule, and for two classes calibration and threshold.

    ``sensitive`` are thresholds for the :data:`SENSITIVITIES`; no bundle uses them.
    """

    selection: Selection
    scaling: Scaling
    model: Fitted | Linear
    family: str
    settings: Mapping[str, object]
    classes: tuple[int, ...]
    class_odds: tuple[float, ...] = ()  # of several classes: brings them back to their prevalence
    calibration: Calibration | None = None
    threshold: float | None = None
    sensitive: tuple[float, ...] = ()
    conformal: Rule | ClassRule | None = None

    def standardise(self, raw: FloatArray) -> FloatArray:
        """Return z-scores (n, k) of chosen features."""
        return apply_scaling(raw, self.scaling)

    def predict(self, table: Table) -> FloatArray:
        """Return probabilities of raw rows: calibrated, (n,), or of several classes (n, classes)."""
        rows = self.standardise(self.selection.take(table))
        return self.calibration.apply(self.log_odds(rows)) if self.calibration else self.shares(rows)

    def log_odds(self, rows: FloatArray) -> FloatArray:
        """Return a binary decision's log-odds of standardised rows before calibration, (n,), as served: exact of a linear one."""
        if isinstance(self.model, Linear):
            return self.model.log_odds(rows)
        return logit(self.model.predict_proba(rows.astype(np.float32))[:, 1])

    def shares(self, rows: FloatArray) -> FloatArray:
        """Return the probabilities of several classes (n, classes) of standardised rows, as served."""
        assert not isinstance(self.model, Linear)  # of two classes
        weighted = self.model.predict_proba(rows.astype(np.float32)) * np.array(self.class_odds)
        return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class System:
    """What a bundle decides with: see the fields of the same names of :class:`pipelines.models.manifest.Manifest`."""

    decision: Stage
    score: Stage | None = None
    imaging_only: Stage | None = None

    def predict(self, table: Table) -> FloatArray:
        """Return the decision's probabilities of raw rows, which hold the clinical values that it uses."""
        return self.decision.predict(self.with_score(table))

    def with_score(self, table: Table) -> Table:
        """Return the table with the first stage's log-odds, where there is one."""
        if self.score is None:
            return table
        return table.join(Table((SCORE,), logit(self.score.predict(table))[:, None]))


def fit(
    recipe: Recipe, table: Table, labels: Labels, *, seed: int, second: Table | None = None, families: Sequence[str] | None = None
) -> System:
    """Fit the recipe on raw rows.

    Parameters
    ----------
    table : features, and the clinical values that the recipe's nomogram uses (``CLINICAL:value:<name>``).
    second : the same patients' features from a second reader's regions; rows of NaN where there is none.
    families : classifiers to compare, by default those of the recipe.

    Raises
    ------
    CohortError
        Too few rows for a step; the message says which.
    """
    names = [f"CLINICAL:value:{name}" for name in recipe.nomogram]
    imaging = table.columns(lambda name: not name.startswith("CLINICAL:"))
    joint = [name for name in imaging.names if name.endswith(":cnn:h")]
    alone = imaging.columns(lambda name: not name.rsplit(":", 1)[1].startswith("h") or block_of(name) != "cnn")
    used = recipe.classifiers if families is None else families
    if joint:
        told, _ = _fit_stage(recipe, table.columns(lambda name: name in joint), labels, seed=seed, second=None, families=used)
        untold, _ = _fit_stage(recipe, alone, labels, seed=seed, second=second, families=used)
        return System(told, imaging_only=untold)
    stage, unseen = _fit_stage(recipe, alone, labels, seed=seed, second=second, families=used)
    if not names:
        return System(stage)
    clinical = Table(tuple(names), table.take(names))
    return System(_fit_nomogram(clinical, logit(unseen), labels, seed=seed, folds=recipe.folds), score=stage, imaging_only=stage)


def choose_features(steps: Sequence[Step], table: Table, labels: Labels, *, seed: int, second: Table | None = None) -> Selection:
    """Carry out the steps on raw rows. Features that do not vary are dropped first."""
    work = table.at(select.drop_constant(table.values, names=table.names))
    projections: dict[str, Projection] = {}
    candidates, on_path = list(table.names), work.names
    path: LassoPath | None = None
    unrepeatable: int | None = None
    for step in steps:
        inside = np.array([i for i, name in enumerate(work.names) if step.on in ("", block_of(name))], dtype=np.intp)
        if not len(inside):
            continue
        part = work.at(inside)
        if isinstance(step, Pca):
            made = {role: select.fit_pca(columns.values, components=step.components) for role, columns in _by_role(part).items()}
            rest = work.columns(lambda name, on=step.on: bool(on) and block_of(name) != on)  # type: ignore[misc]
            for role, projection in made.items():
                rest = rest.join(_components(role, projection.apply(_by_role(part)[role].values)))
            projections |= {role: _spread(p, _by_role(part)[role], table) for role, p in made.items()}
            replaced = [name for name in candidates if step.on in ("", block_of(name))]
            candidates = [n for n in candidates if n not in set(replaced)] + [n for n in rest.names if n not in set(work.names)]
            work = rest
            continue
        if isinstance(step, Lasso):
            path, on_path = select.lasso_path(part.values, labels, seed=seed, folds=step.folds), part.names
        kept = set(inside[_choose(step, part, labels, seed=seed, second=second, path=path)].tolist())
        work = work.at([i for i in range(len(work.names)) if i not in set(inside.tolist()) or i in kept])
        if isinstance(step, Repeatable) and second is not None:
            unrepeatable = len(inside) - len(kept)
    if not work.names:
        raise CohortError("no feature passed the recipe's steps")
    return Selection(work.names, projections, tuple(candidates), path, on_path, unrepeatable)


def _choose(step: Step, part: Table, labels: Labels, *, seed: int, second: Table | None, path: LassoPath | None) -> Rows:
    """Return the places of the columns that a step keeps."""
    rows = part.values
    match step:
        case Repeatable():
            if second is None:
                return np.arange(rows.shape[1])
            other = second.take(part.names)
            both = np.isfinite(other).all(axis=1)
            return select.repeatable(rows[both], other[both], minimum=step.minimum, form=step.form)
        case MannWhitney():
            kept = select.mann_whitney(rows, labels, p=step.p)
            return kept if len(kept) else np.array([int(select.f_scores(rows, labels).argmax())])
        case Decorrelate():
            return select.drop_correlated(rows, labels, limit=step.limit, method=step.method)
        case Mrmr():
            places = {role: np.array([i for i, n in enumerate(part.names) if role_of(n) == role]) for role in _by_role(part)}
            return np.sort(np.concatenate([p[select.mrmr(rows[:, p], labels, k=step.keep)] for p in places.values()]))
        case Lasso():
            assert path is not None  # computed by the caller, for the report
            return path.chosen(step.rule)
        case Rfe():
            return select.recursive_elimination(rows, labels, keep=min(step.keep, rows.shape[1]), seed=seed)
        case Rank():
            return select.rank_features(rows, labels, keep=min(step.keep, rows.shape[1]), seed=seed)
        case Pca():
            raise AssertionError("projections are not choices")


def _by_role(table: Table) -> dict[str, Table]:
    roles = dict.fromkeys(role_of(name) for name in table.names)
    return {role: table.columns(lambda name, role=role: role_of(name) == role) for role in roles}  # type: ignore[misc]


def _components(role: str, values: FloatArray) -> Table:
    return Table(tuple(f"{role}:pca:{i}" for i in range(values.shape[1])), values)


def _spread(projection: Projection, part: Table, table: Table) -> Projection:
    """Return the projection on all deep features of a sequence, with zeros for those that did not vary."""
    role, block = role_of(part.names[0]), block_of(part.names[0])
    every = [name for name in table.names if role_of(name) == role and block_of(name) == block]
    places = [every.index(name) for name in part.names]
    mean, matrix = np.zeros(len(every)), np.zeros((len(projection.matrix), len(every)))
    mean[places], matrix[:, places] = projection.mean, projection.matrix
    return Projection(mean, matrix)


def _project(table: Table, projections: Mapping[str, Projection]) -> Table:
    for role, projection in projections.items():
        deep = table.columns(lambda name, role=role: role_of(name) == role and block_of(name) == "cnn")  # type: ignore[misc]
        table = table.join(_components(role, projection.apply(deep.values)))
    return table


def _fit_stage(
    recipe: Recipe, table: Table, labels: Labels, *, seed: int, second: Table | None, families: Sequence[str]
) -> tuple[Stage, FloatArray]:
    """Return the fitted stage and, of two classes, the calibrated out-of-fold probabilities of its rows."""
    classes = np.unique(labels)
    candidates = [(name, settings) for name in families for settings in FAMILIES[name].grid]
    unseen = np.zeros((len(candidates), len(labels), len(classes)))
    for train, test in select.split_folds(labels, folds=recipe.folds, seed=seed):
        part, reader = table.rows(train), second.rows(train) if second else None
        selection = choose_features(recipe.steps, part, labels[train], seed=seed, second=reader)
        raw = selection.take(part)
        scaling = fit_scaling(raw)
        rows, answers, odds = _training_rows(recipe, apply_scaling(raw, scaling), labels[train], seed=seed)
        held_out = apply_scaling(selection.take(table.rows(test)), scaling).astype(np.float32)
        for i, (name, settings) in enumerate(candidates):
            p = FAMILIES[name].fit(rows, answers, settings, seed).predict_proba(held_out) * odds
            unseen[i, test] = p / p.sum(axis=1, keepdims=True)
    best = int(np.argmin([log_loss(labels, p, labels=classes) for p in unseen]))
    selection = choose_features(recipe.steps, table, labels, seed=seed, second=second)
    raw = selection.take(table)
    scaling = fit_scaling(raw)
    rows, answers, odds = _training_rows(recipe, apply_scaling(raw, scaling), labels, seed=seed)
    name, settings = candidates[best]
    model = FAMILIES[name].fit(rows, answers, settings, seed)
    common: dict[str, Any] = {"selection": selection, "scaling": scaling, "model": model, "family": name, "settings": settings}
    if len(classes) > 2:
        common["conformal"] = class_conformal_rule(unseen[best], labels, classes=classes, coverage=COVERAGE)
        return Stage(**common, classes=tuple(int(c) for c in classes), class_odds=tuple(odds.tolist())), unseen[best]
    calibration = calibrate(logit(unseen[best][:, 1]), labels)
    probabilities = calibration.apply(logit(unseen[best][:, 1]))
    if isinstance(model.model, LogisticRegression):  # a formula in the manifest, and its Shapley values are exact
        common["model"] = Linear.of(model.model)
    return Stage(**common, classes=(0, 1), **_operating_point(calibration, probabilities, labels)), probabilities


def _training_rows(recipe: Recipe, rows: FloatArray, labels: Labels, *, seed: int) -> tuple[Float32Array, Labels, FloatArray]:
    """Return the rows that a classifier is fitted on, float32, and the factors that undo what oversampling did to the prevalence.

    Of two classes Platt scaling undoes it.
    """
    classes = len(np.unique(labels))
    if not recipe.smote:
        return rows.astype(np.float32), labels, np.ones(classes)
    filled, answers = smote(rows, labels, seed=seed)
    return filled.astype(np.float32), answers, prior_odds(labels, answers) if classes > 2 else np.ones(classes)


def _operating_point(calibration: Calibration, probabilities: FloatArray, labels: Labels) -> dict[str, Any]:
    return {
        "calibration": calibration,
        "threshold": youden_threshold(probabilities, labels),
        "sensitive": tuple(sensitivity_threshold(probabilities, labels, s) for s in SENSITIVITIES),
        "conformal": conformal_rule(probabilities, labels, coverage=COVERAGE),
    }


def _fit_nomogram(clinical: Table, scores: FloatArray, labels: Labels, *, seed: int, folds: int) -> Stage:
    """Join the first stage's out-of-fold log-odds with clinical values by an unpenalised logistic regression ([PLNM] nomogram)."""
    table = Table((SCORE,), scores[:, None]).join(clinical)
    if not np.isfinite(table.values).all():
        raise CohortError(f"the nomogram needs {', '.join(clinical.names)} of every patient")
    unseen = np.zeros(len(labels))
    for train, test in select.split_folds(labels, folds=folds, seed=seed):
        inner, model = _regress(table.values[train], labels[train])
        unseen[test] = expit(model.log_odds(apply_scaling(table.values[test], inner)))
    scaling, model = _regress(table.values, labels)
    calibration = calibrate(logit(unseen), labels)
    point = _operating_point(calibration, calibration.apply(logit(unseen)), labels)
    return Stage(Selection(table.names), scaling, model, "nomogram", {}, (0, 1), **point)


def _regress(rows: FloatArray, labels: Labels) -> tuple[Scaling, Linear]:
    scaling = fit_scaling(rows)
    return scaling, Linear.of(LogisticRegression(C=np.inf, max_iter=1000).fit(apply_scaling(rows, scaling), labels))
