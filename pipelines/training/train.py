"""From a cohort to a bundle: networks on one part of the patients, the classifier and its honest judgement on the other.

Sample splitting: part A trains the segmenter and the feature networks, part B gives the classifier. No network ever saw a row that the
classifier is fitted or judged on, so that deep features cannot carry labels over.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from pipelines.errors import BundleError, CohortError
from pipelines.models.bundle import MANIFEST
from pipelines.models.manifest import CnnModel, Decision, Feature, FileEntry, Manifest, Platt, Segmenter, Training
from pipelines.models.session import open_session, run_cnn
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.training import recipe
from pipelines.training.card import write_model_card
from pipelines.training.cohort import (
    CohortRow,
    check_labels,
    extract_cohort,
    feature_table,
    is_synthetic,
    read_cohort,
    read_extracted,
)
from pipelines.training.export import export_lightgbm
from pipelines.training.learn import Plan, Progress, Run, cnn_block, train_cnn, train_segmenter
from pipelines.types import BundleStatus, FloatArray

RECIPES = ("olnm_mri",)
BACKGROUND_ROWS = 50
LIBRARIES = (
    "cervinode",
    "numpy",
    "scipy",
    "simpleitk",
    "pyradiomics",
    "torch",
    "monai",
    "scikit-learn",
    "lightgbm",
    "onnx",
    "onnxmltools",
    "onnxruntime",
)
INTENDED_USE = "Research and software testing only. Not a medical device; not for diagnosis or treatment decisions."
SYNTHETIC = (
    "Trained and judged on synthetic phantoms: computer-made images with a planted signal. The numbers show that the software finds "
    "that signal and does not overstate it; they say nothing about patients and are not clinical performance."
)
SITE = "Internal validation only: nested cross-validation within the training cohort, no external cohort."


def train(
    system: str,
    cohort_csv: Path,
    *,
    out: Path,
    seed: int = 1,
    plan: Plan | None = None,
    known: Mapping[str, float] | None = None,
    progress: Progress = lambda line: None,
) -> Path:
    """Train a bundle and return its folder, ``out``; its name becomes the version.

    A cohort with synthetic phantoms gives a bundle of status demo, any other one of status research. Extracted features are kept beside the
    cohort in ``features/`` and reused.

    Parameters
    ----------
    known : facts about the cohort for the metrics, such as a phantom cohort's ``bayes_auc``.
    progress : called with one line for a person per step.

    Raises
    ------
    CohortError
        The system has no recipe, or the cohort cannot be used; the message names the rows.
    BundleError
        ``out`` exists, or an exported graph differs from what was trained.
    """
    if system not in RECIPES:
        raise CohortError(f"there is no training recipe for {system!r}, only for {', '.join(RECIPES)}")
    if out.exists():
        raise BundleError(f"{out} exists already; a version is never overwritten")
    plan, spec, rows = plan or Plan(), catalogue()[system], read_cohort(cohort_csv)
    networks, judged = _split([r.label for r in rows], plan.network_share, seed)
    check_labels(f"{cohort_csv}, the part for the classifier", [rows[i].label for i in judged])
    cache = cohort_csv.parent / "features"
    files = extract_cohort(rows, spec, grid=plan.grid, cache=cache, workers=plan.workers, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".training-") as scratch:
        run = Run(spec, plan, seed, Path(scratch) / out.name, progress)
        run.folder.mkdir()
        segmenter = train_segmenter(run, [files[i] for i in networks], [rows[i] for i in judged])
        cnns = [train_cnn(run, role, networks, files, rows) for role in (spec.cnn.roles if spec.cnn else ())]
        decision, metrics = _train_decision(run, [rows[i] for i in judged], [files[i] for i in judged], cnns)
        metrics |= {"network_n": float(len(networks)), **(known or {})}
        if segmenter.dice is not None:
            metrics["segmenter_dice"] = segmenter.dice
        synthetic = any(is_synthetic(file) for file in files)
        training = _describe(synthetic, [rows[i].label for i in judged], seed, metrics, len(networks))
        manifest = _manifest(run, out.name, segmenter, cnns, decision, training)
        write_model_card(run.folder / "MODEL_CARD.md", manifest, spec)
        run.folder.rename(out)
    return out


def _split(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the row numbers of part A (networks) and part B (classifier), stratified by label."""
    splitter = StratifiedShuffleSplit(n_splits=1, train_size=share, random_state=seed)
    first, second = next(splitter.split(np.zeros(len(labels)), labels))
    return sorted(first.tolist()), sorted(second.tolist())


def _train_decision(
    run: Run, rows: Sequence[CohortRow], files: Sequence[Path], cnns: Sequence[CnnModel]
) -> tuple[Decision, dict[str, float]]:
    names, table = feature_table(rows, _features(run, files, cnns))
    labels = np.array([r.label for r in rows])
    deep = [np.flatnonzero([n.startswith(f"{c.role}:cnn:") for n in names]) for c in cnns]
    keep = cnn_block(run.spec).keep
    judged = recipe.nested(table, labels, deep=deep, keep=keep, seed=run.seed, progress=run.progress)
    model = recipe.fit(table, labels, deep=deep, keep=keep, seed=run.seed)
    metrics = _measure(run.spec, names, table, labels, judged, model.predict(table))
    run.progress(f"nested AUC {metrics['nested_auc']:.3f} (SE {metrics['nested_auc_se']:.3f}), apparent {metrics['apparent_auc']:.3f}")
    standardised = model.standardise(table)
    path = run.folder / "classifier.onnx"
    run.parity.append(export_lightgbm(model.trees, path, standardised.astype(np.float32)))
    some = np.random.default_rng(run.seed).permutation(len(rows))[:BACKGROUND_ROWS]
    np.save(run.folder / "background.npy", np.round(standardised[some], 3))
    low, high = np.percentile(table[:, model.columns], [1, 99], axis=0)
    features = [
        Feature(name=names[c], mean=m, std=s, low=a, high=b)
        for c, m, s, a, b in zip(model.columns, model.scaling.mean, model.scaling.std, low, high, strict=True)
    ]
    decision = Decision(
        file=path.name,
        classifier="LightGBM " + ", ".join(f"{k} {v}" for k, v in model.settings.items()),
        features=tuple(features),
        platt=Platt(a=model.platt[0], b=model.platt[1]),
        threshold=model.threshold,
        threshold_rule=recipe.THRESHOLD_RULE,
        background="background.npy",
    )
    return decision, metrics


def _features(run: Run, files: Sequence[Path], cnns: Sequence[CnnModel]) -> list[dict[str, float]]:
    """Return radiomics and deep features by the names that serving gives them, deep ones from the exported graphs."""
    sessions = {c.role: open_session(run.folder / c.file) for c in cnns}
    features = []
    for file in files:
        data = read_extracted(file)
        deep = {
            f"{role}:cnn:{i}": float(value)
            for role, session in sessions.items()
            for i, value in enumerate(run_cnn(session, data.cubes[role]).features)
        }
        features.append({**data.radiomics, **deep})
    run.progress(f"features: {len(features[0])} of each of {len(features)} patients")
    return features


def _measure(
    spec: PipelineSpec,
    names: Sequence[str],
    table: FloatArray,
    labels: NDArray[np.int64],
    judged: recipe.NestedResult,
    apparent: FloatArray,
) -> dict[str, float]:
    area, error = recipe.auc(judged.probabilities, labels)
    metrics = {
        "nested_auc": area,
        "nested_auc_se": error,
        "nested_sensitivity": float(judged.calls[labels == 1].mean()),
        "nested_specificity": float(1 - judged.calls[labels == 0].mean()),
        "apparent_auc": recipe.auc(apparent, labels)[0],
    }
    size = f"{spec.roi.role}:radiomics:original_shape_MeshVolume"
    if size in names:
        metrics["volume_only_auc"] = recipe.auc(table[:, list(names).index(size)], labels)[0]
    return metrics


def _describe(synthetic: bool, labels: Sequence[int], seed: int, metrics: dict[str, float], network_n: int) -> Training:
    what = "synthetic pelvic MR phantoms" if synthetic else "patients of one site's cohort"
    return Training(
        data="synthetic" if synthetic else "site",
        description=f"{len(labels) + network_n} {what}: {network_n} for the networks, {len(labels)} others for the classifier",
        n=len(labels),
        events=sum(labels),
        seed=seed,
        metrics={name: round(value, 4) for name, value in metrics.items()},
        statement=SYNTHETIC if synthetic else SITE,
    )


def _manifest(run: Run, name: str, segmenter: Segmenter, cnns: Sequence[CnnModel], decision: Decision, training: Training) -> Manifest:
    """Write ``manifest.json``, which names every file by its hash."""
    contents = {path.name: path.read_bytes() for path in sorted(run.folder.iterdir())}
    manifest = Manifest(
        system=run.spec.name,
        version=name,
        status=BundleStatus.DEMO if training.data == "synthetic" else BundleStatus.RESEARCH,
        intended_use=INTENDED_USE,
        method_digest=run.spec.method_digest(),
        segmenter=segmenter,
        cnns=tuple(cnns),
        decision=decision,
        training=training,
        parity=tuple(run.parity),
        made_with={"python": platform.python_version()} | {library: version(library) for library in LIBRARIES},
        files={k: FileEntry(sha256=hashlib.sha256(v).hexdigest(), size=len(v)) for k, v in contents.items()},
    )
    (run.folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest
