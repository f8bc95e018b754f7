"""Write a fitted system's decisions into a bundle: graphs or formulas, projections, reference rows, in the manifest's words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.features.ibsi import identify
from pipelines.models.manifest import ClassConformal, Conformal, Decision, Feature, FileEntry, Linear, Platt, Projection, Reduced
from pipelines.training import recipe
from pipelines.training.export import export_classifier
from pipelines.training.plan import Run
from pipelines.training.platt import ClassRule, Rule
from pipelines.training.table import Table
from pipelines.types import FloatArray, SeriesRole

Roles = tuple[SeriesRole, ...]
BACKGROUND_ROWS = 50
_BACKGROUND_DIGITS = 3  # z-scores are rounded so that a reference row is no patient's exact values


class Parts(NamedTuple):
    """The decisions of a bundle, see :class:`pipelines.models.manifest.Manifest`."""

    projections: tuple[Projection, ...]
    score: Decision | None
    decision: Decision
    imaging_only: Decision | None
    reduced: tuple[Reduced, ...]


def write(run: Run, system: recipe.System, table: Table, *, reduced: Mapping[Roles, recipe.System]) -> Parts:
    """Write all decisions; ``table`` are the rows that they were fitted on, ``reduced`` those for some of the sequences."""
    complete = system.with_score(table)
    selection = (system.score or system.decision).selection
    projections = []
    for role, projection in selection.projections.items():
        path = run.folder / f"pca_{role}.npy"
        np.save(path, np.vstack([projection.mean[None], projection.matrix]))
        projections.append(Projection(role=SeriesRole(role), file=path.name, components=len(projection.matrix)))
    decision = _write(run, "classifier" if system.score is None else "nomogram", system.decision, complete)
    score = _write(run, "score", system.score, table) if system.score else None
    alone = system.imaging_only
    imaging_only = score if alone is system.score else _write(run, "imaging_only", alone, table) if alone else None
    fewer = [
        Reduced(roles=roles, decision=_write(run, f"reduced_{'_'.join(roles)}", one.decision, table)) for roles, one in reduced.items()
    ]
    return Parts(tuple(projections), score, decision, imaging_only, tuple(fewer))


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Return every file of a folder by its content."""
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {name: FileEntry(sha256=hashlib.sha256(c).hexdigest(), size=len(c)) for name, c in contents.items()}


def _write(run: Run, name: str, stage: recipe.Stage, table: Table) -> Decision:
    raw = stage.selection.take(table)
    rows = stage.standardise(raw)
    some = np.random.default_rng(run.seed).permutation(len(rows))[:BACKGROUND_ROWS]
    background = run.folder / f"{name}_background.npy"
    np.save(background, np.round(rows[some], _BACKGROUND_DIGITS))
    settings = ", ".join(f"{k} {v}" for k, v in stage.settings.items())
    common: dict[str, Any] = {
        "classifier": f"{stage.family} {settings}".strip(),
        "features": _features(stage, raw),
        "threshold_rule": recipe.THRESHOLD_RULE if stage.calibration else recipe.MOST_PROBABLE,
        "background": background.name,
    }
    if isinstance(stage.model, recipe.Linear):
        coefficients = tuple(float(c) for c in stage.model.coefficients)
        common["linear"] = Linear(intercept=stage.model.intercept, coefficients=coefficients)
    else:
        path = run.folder / f"{name}.onnx"
        run.parity.append(export_classifier(stage.model, path, rows.astype(np.float32)))
        common["file"] = path.name
    fit, rule = stage.calibration, stage.conformal
    if isinstance(rule, ClassRule):
        conformal = ClassConformal(coverage=rule.coverage, plausible_from=rule.plausible_from)
        return Decision(**common, classes=stage.classes, class_odds=stage.class_odds, class_conformal=conformal)
    assert fit is not None  # of two classes
    assert isinstance(rule, Rule)
    return Decision(
        **common,
        platt=Platt(a=fit.a, b=fit.b, covariance=fit.covariance),
        threshold=stage.threshold,
        conformal=Conformal(coverage=rule.coverage, positive_from=rule.positive_from, negative_to=rule.negative_to),
    )


def _features(stage: recipe.Stage, raw: FloatArray) -> tuple[Feature, ...]:
    low, high = np.percentile(raw, [1, 99], axis=0)
    return tuple(
        Feature(name=name, mean=float(m), std=float(s), low=float(a), high=float(b), ibsi=(code := identify(name)) and code[0])
        for name, m, s, a, b in zip(stage.selection.names, stage.scaling.mean, stage.scaling.std, low, high, strict=True)
    )
