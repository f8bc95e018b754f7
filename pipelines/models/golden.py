"""Golden cases: what every graph of a bundle gave where the bundle was made, to be computed again where it is used.

The inputs are not stored but made: from integers, so that every machine makes the same bits, and from no patient. A decision is judged
with everything around its graph (standardisation, classifier, calibration), a network on all its outputs.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as state

from pipelines.errors import BundleError
from pipelines.models import classify
from pipelines.models.arrays import read_array
from pipelines.models.manifest import CnnModel, Decision, FileEntry, Golden, Manifest, Segmenter
from pipelines.models.session import open_session
from pipelines.types import FloatArray

TOLERANCE = 1e-5  # relative to the largest expected output where that exceeds 1
_ROWS = 16  # golden cases of a decision, spread over the training range of each feature
_STEP, _CYCLE = 7919, 1021  # primes: the probe takes each of 1021 levels in a scattered order; part of the format, never changed

Part = Segmenter | CnnModel | Decision


def probe(shape: tuple[int, ...]) -> FloatArray:
    """Return numbers in 0..1 that fill a shape, the same bits on every machine."""
    index = np.arange(math.prod(shape), dtype=np.int64)
    return np.asarray((index * _STEP % _CYCLE / (_CYCLE - 1)).reshape(shape), dtype=np.float64)


def parts_of(manifest: Manifest) -> dict[str, Part]:
    """Return all networks and decisions of a bundle by the names that golden cases give them."""
    parts: dict[str, Part | None] = {
        "segmenter": manifest.segmenter,
        **{f"cnn {c.role}": c for c in manifest.cnns},
        "score": manifest.score,
        "decision": manifest.decision,
        "imaging_only": manifest.imaging_only,
        **{f"reduced {' '.join(r.roles)}": r.decision for r in manifest.reduced},
    }
    return {name: part for name, part in parts.items() if part}


def make_golden(folder: Path, manifest: Manifest) -> Manifest:
    """Write the golden cases of a bundle whose other files lie in ``folder`` already; return its manifest with them and all files.

    Call it last: after the model card, which is listed too, and before the manifest itself is written.
    """
    golden = []
    for name, part in parts_of(manifest).items():
        path = folder / f"golden_{name.replace(' ', '_')}.npy"
        np.save(path, _compute(folder, part).astype(np.float32))
        golden.append(Golden(part=name, expected=path.name))
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files = {name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content)) for name, content in contents.items()}
    return manifest.model_copy(update={"golden": tuple(golden), "files": files})


def difference(folder: Path, part: Part, expected: str) -> float:
    """Return how far this machine's outputs are from the expected ones, relative to the largest of these where that exceeds 1.

    Raises
    ------
    BundleError
        The outputs have another number of values than expected.
    """
    reference, got = read_array(folder / expected), _compute(folder, part)
    if reference.shape != got.shape:
        raise BundleError(f"it gives {got.size} numbers on its golden cases, {reference.size} were expected")
    return float(np.abs(got - reference).max() / max(1.0, float(np.abs(reference).max())))


def _compute(folder: Path, part: Part) -> FloatArray:
    """Return the outputs on the probe, shape (k,): a network's raw ones one after the other, a decision's probabilities."""
    if isinstance(part, Decision):
        low, high = np.array([f.low for f in part.features]), np.array([f.high for f in part.features])
        return _probabilities(folder, part, low + (high - low) * probe((_ROWS, len(part.features))))
    session = open_session(folder / part.file)
    shapes = {i.name: part.input.shape if i.name == part.input.name else i.shape for i in session.get_inputs()}
    inputs = {name: probe(tuple(_size(n) for n in shape)).astype(np.float32) for name, shape in shapes.items()}
    try:
        outputs = session.run(None, inputs)
    except (state.Fail, state.InvalidArgument, state.NotImplemented, state.RuntimeException) as error:
        raise BundleError(f"{part.file} cannot be run: {error}") from error
    return np.concatenate([np.ravel(output) for output in outputs]).astype(np.float64)


def _size(dimension: int | str | None) -> int:
    """Return a dimension's size, 1 for a free one."""
    return dimension if isinstance(dimension, int) and dimension > 0 else 1


def _probabilities(folder: Path, decision: Decision, rows: FloatArray) -> FloatArray:
    session = open_session(folder / decision.file) if decision.file else None
    standardised = classify.standardise(rows, decision)
    if decision.classes:
        return np.ravel(classify.class_probabilities(session, decision, standardised))
    return np.array([classify.sigmoid(value) for value in classify.calibrated_log_odds(session, decision, standardised)])
