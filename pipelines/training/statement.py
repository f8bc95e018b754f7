"""What a bundle says about its own making, in the words of its manifest."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

import numpy as np

from pipelines.imaging.acquisition import ranges
from pipelines.models.manifest import CnnModel, TensorSpec, Training
from pipelines.spec import Cnn, Cube, PipelineSpec, Triplets
from pipelines.training.embed import Net
from pipelines.training.intervals import Interval
from pipelines.training.outcome import CohortFlow
from pipelines.training.patients import Patients
from pipelines.training.plan import Plan
from pipelines.types import SeriesRole

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
    "xgboost-cpu",
    "imbalanced-learn",
    "onnx",
    "onnxmltools",
    "skl2onnx",
    "onnxruntime",
)
INTENDED_USE = "Research and software testing only. Not a medical device; not for diagnosis or treatment decisions."
SYNTHETIC = (
    "Trained and judged on synthetic phantoms: computer-made images with a planted signal. The numbers show that the software finds "
    "that signal and does not overstate it; they say nothing about patients and are not clinical performance."
)
SITE = "Internal validation only: nested cross-validation within the training cohort, no external cohort."
_RANGES = {
    "Cube": "min-max 0..1 within the crop",
    "SliceCrop": "z-score within the crop",
    "Triplets": "z-score within the crop, adjacent slices as channels",
}


def made_with() -> dict[str, str]:
    """Return the versions of Python and of all libraries that numbers depend on."""
    return {"python": platform.python_version()} | {library: version(library) for library in LIBRARIES}


def recipe_words(spec: PipelineSpec) -> dict[str, object]:
    """Return the system's recipe as a reader of the bundle's JSON finds it, each step with its name."""
    recipe = spec.recipe
    steps = [{"step": type(step).__name__, **dataclasses.asdict(step)} for step in recipe.steps]
    plain: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(recipe) | {"steps": steps}))
    return plain


def describe_training(
    patients: Patients,
    *,
    date: datetime.date,
    seed: int,
    metrics: Mapping[str, float],
    interval: Interval,
    permuted: Sequence[float],
    candidates: Sequence[str],
) -> Training:
    """Return what the bundle was trained on and what came out; ``candidates`` are the names that the recipe could choose from."""
    division = patients.division
    files = [patients.files[i] for i in sorted({*division.networks, *division.judged})]
    scanners = Counter(file.scanner or "not stated" for file in files)
    n, others = len(division.judged), len(division.networks) if division.disjoint else 0
    what = "synthetic phantoms" if patients.synthetic else "patients of a site's cohort"
    drawing = "the networks" if patients.spec.cnn else "the segmenter"
    split = f": {others} for {drawing}, {n} others for the classifier" if others else ""
    return Training(
        data="synthetic" if patients.synthetic else "site",
        description=f"{n + others} {what}{split}",
        n=n,
        events=int(np.count_nonzero(patients.labels)) if not patients.spec.classes else 0,
        seed=seed,
        metrics={name: round(float(value), 4) for name, value in metrics.items()},
        statement=SYNTHETIC if patients.synthetic else SITE,
        sites=patients.sites,
        date=date,
        scanners=dict(sorted(scanners.items())),
        acquisition=ranges(file.acquisition for file in files),
        nested_auc_interval=(round(interval.low, 4), round(interval.high, 4)),
        permuted_aucs=tuple(round(float(auc), 4) for auc in permuted),
        candidate_features=len(candidates),
        candidate_features_sha256=hashlib.sha256("\n".join(candidates).encode()).hexdigest(),
    )


def describe_network(net: Net, file: str, role: SeriesRole, block: Cnn, plan: Plan, *, patients: Patients, dim: int) -> CnnModel:
    """Return the manifest's entry of a network with ``dim`` features."""
    view = block.view
    channels, cube = 3 if isinstance(view, Triplets) else 1, isinstance(view, Cube)
    shape = (-1, channels, *[view.size] * (3 if cube else 2))
    start = "from scratch"
    if plan.weights:
        start = f"from {plan.weights.name} (sha256 {hashlib.sha256(plan.weights.read_bytes()).hexdigest()})"
    seen = "the cohort that the classifier never saw" if patients.division.disjoint else "the cohort, cross-fitted for the classifier"
    how = f"trained {start} on {len(patients.division.networks)} patients of {seen}"
    if plan.frozen:
        how = f"{start}, not trained here; only the weights of its activation map were fitted to the cohort"
    return CnnModel(
        file=file,
        network=f"{'3D' if cube else '2D'} {net.architecture.words()}",
        role=role,
        input=TensorSpec(name="image", shape=shape, axes="nczyx" if cube else "ncyx", range=_RANGES[type(view).__name__]),
        dim=dim,
        weights=how,
        map_kind=net.architecture.map_kind,
    )


def leakage(plan: Plan, *, with_networks: bool, patients_told: bool) -> tuple[str, ...]:
    """Say what was done so that no label reached a number that speaks for the model.

    ``patients_told``: every study states a Patient ID of its own patient.
    """
    patients = "no Patient ID under two names" if patients_told else "whether a patient has two names in it, its Patient IDs do not tell"
    deep = {
        "split": "The networks were trained on other patients than those that the decision was fitted and judged on.",
        "crossfit": "Within each fold, networks were trained anew; every patient's deep features come from one that had not seen it.",
    }
    lines = [
        f"Rows of the table, not images, are split. In the table is no study twice, by its UID and by its pixels; {patients}.",
        "Feature selection, scaling, the choice of classifier, calibration and threshold are repeated inside every fold.",
        "Thresholds come from out-of-fold probabilities of training patients and are not moved afterwards.",
    ]
    if with_networks:
        lines.append("The networks are given weights, not trained here." if plan.frozen else deep[plan.embedding])
    return tuple(lines)


def left_out(flow: CohortFlow) -> Iterator[str]:
    """Name the rows that the rules of inclusion kept out, for the report's warnings."""
    for rule, lines in flow.excluded.items():
        n, named = len(lines), ", ".join(map(str, lines))
        yield f"Left out of training, as the system was made for patients with {rule}: {n} of {flow.rows} rows (lines {named})."
