"""Everything that can be known of a bundle without a patient: ``cervinode models verify``, and the gate of ``models install``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from pipelines.errors import BundleError, InferenceError
from pipelines.models.arrays import read_array
from pipelines.models.bundle import MANIFEST, check_signature, file_problems, parse_manifest, read_manifest_bytes, status_problems
from pipelines.models.golden import TOLERANCE, Part, difference, parts_of
from pipelines.models.graph import foreign_parts
from pipelines.models.manifest import CnnModel, Decision, Feature, Manifest, Projection, Segmenter, TensorSpec
from pipelines.models.session import open_session
from pipelines.spec import PipelineSpec

_PARITY = 1e-5  # largest difference allowed between a graph and the library it was exported from
_FAR = 1e3  # standard deviations; a background row beyond that was not standardised with the manifest's numbers


def find_problems(folder: Path, specs: Mapping[str, PipelineSpec], *, trusted_keys: Collection[str] = ()) -> list[str]:
    """Return everything that is wrong with a bundle, one sentence each; empty for one that is fit for use on this machine.

    Checked are signature, system, method, status, files, graphs (open here, self-contained, inputs and outputs as declared), parity
    records, golden cases, and the numbers of features, calibration and background.
    """
    try:
        raw = read_manifest_bytes(folder)
        manifest = parse_manifest(raw, folder / MANIFEST)
    except BundleError as error:
        return [str(error)]
    problems = [p for p in (_caught(lambda: check_signature(folder, raw, trusted_keys)), _method_problem(manifest, specs)) if p]
    problems += status_problems(manifest)
    damaged = list(file_problems(folder, manifest))
    if damaged:
        return [*problems, *damaged]  # what altered files compute says nothing
    for name, part in parts_of(manifest).items():
        problems += [f"{name}: {p}" for p in _part_problems(folder, name, part, manifest)]
    problems += [f"pca {p.role}: {problem}" for p in manifest.projections if (problem := _projection_problem(folder, p, manifest))]
    used = {part.file for part in parts_of(manifest).values()}
    problems += [f"{name} is used by nothing" for name in manifest.files if name.endswith(".onnx") and name not in used]
    return problems


def _caught(check: Callable[[], object]) -> str:
    try:
        check()
    except BundleError as error:
        return str(error)
    return ""


def _method_problem(manifest: Manifest, specs: Mapping[str, PipelineSpec]) -> str:
    spec = specs.get(manifest.system)
    if spec is None:
        return f"there is no system {manifest.system!r} here; known are {', '.join(sorted(specs))}"
    if manifest.method_digest != spec.method_digest():
        return f"trained under another version of the method of {spec.name}; train it again"
    return ""


def _part_problems(folder: Path, name: str, part: Part, manifest: Manifest) -> Iterator[str]:
    if isinstance(part, Decision):
        yield from _decision_problems(folder, part)
    if part.file is not None:
        try:
            if foreign := foreign_parts(folder / part.file):
                yield f"{part.file} is not self-contained: it needs {', '.join(foreign)}"
                return  # it is not run
            wrong = list(_graph_problems(open_session(folder / part.file), part))
        except BundleError as error:
            yield str(error)
            return
        yield from (*_parity_problems(part.file, manifest), *wrong)
        if wrong:
            return
    golden = next((g for g in manifest.golden if g.part == name), None)
    if golden is None:
        yield "it has no golden cases"
    elif problem := _golden_problem(folder, part, golden.expected):
        yield problem


def _golden_problem(folder: Path, part: Part, expected: str) -> str:
    try:
        distance = difference(folder, part, expected)
    except (BundleError, InferenceError) as error:
        return str(error)
    return "" if distance <= TOLERANCE else f"its golden cases come out {distance:.1e} apart here (at most {TOLERANCE:g} allowed)"


def _parity_problems(file: str, manifest: Manifest) -> Iterator[str]:
    records = [p for p in manifest.parity if p.what.split(" ")[0] == file]
    if not any(p.rows > 0 for p in records):
        yield f"{file} has no parity record: nobody compared it with the library it was exported from"
    for p in records:
        if not 0 <= p.max_abs_difference <= _PARITY:
            yield f"{p.what} differs by {p.max_abs_difference:.1e} (at most {_PARITY:g} allowed)"


def _graph_problems(session: onnxruntime.InferenceSession, part: Part) -> Iterator[str]:
    outputs = [o.name for o in session.get_outputs()]
    if isinstance(part, Decision):
        (first, *others) = session.get_inputs()
        if others or first.type != "tensor(float)" or not _fits(first.shape, (-1, len(part.features))):
            yield f"{part.file} takes {first.shape}, not rows of {len(part.features)} features"
        if len(outputs) != 2:
            yield f"{part.file} has {len(outputs)} outputs, not label and probabilities"
        return
    inputs = {i.name: i for i in session.get_inputs()}
    yield from _input_problems(part.file, inputs, part.input)
    missing = [o for o in _outputs_of(part) if o not in outputs]
    if missing:
        yield f"{part.file} does not have the output {', '.join(missing)}"
    if isinstance(part, CnnModel) and part.map_kind == "occlusion" and "cam" in outputs:
        yield f"{part.file} has a class activation map where the manifest says that its map is one of occlusion"


def _outputs_of(part: Segmenter | CnnModel) -> tuple[str, ...]:
    if isinstance(part, Segmenter):
        return ("logits",)
    return ("features", "logit") if part.map_kind == "occlusion" else ("features", "logit", "cam")


def _input_problems(file: str, inputs: Mapping[str, onnxruntime.NodeArg], declared: TensorSpec) -> Iterator[str]:
    if declared.name not in inputs:
        yield f"{file} has no input {declared.name!r}, but {', '.join(inputs)}"
        return
    real = inputs[declared.name]
    if real.type != "tensor(float)" or not _fits(real.shape, declared.shape):
        yield f"{file} takes {real.type} {real.shape} where the manifest says {declared.dtype} {list(declared.shape)}"
    if len(declared.axes) != len(declared.shape):
        yield f"the axes {declared.axes!r} of {file} are not those of its shape {list(declared.shape)}"


def _fits(real: list[int | str | None], declared: tuple[int, ...]) -> bool:
    """Return whether a graph's shape is the declared one; -1 must be free in the graph."""
    return len(real) == len(declared) and all(
        (isinstance(r, int) and r == d) or (d == -1 and not isinstance(r, int)) for r, d in zip(real, declared, strict=True)
    )


def _decision_problems(folder: Path, decision: Decision) -> Iterator[str]:
    names = [f.name for f in decision.features]
    if doubled := sorted({n for n in names if names.count(n) > 1}):
        yield f"{doubled[0]} is an input twice"
    yield from (f"{f.name}: {problem}" for f in decision.features if (problem := _feature_problem(f)))
    if decision.platt and not (np.isfinite([decision.platt.a, decision.platt.b]).all() and decision.platt.a > 0):
        yield f"the calibration ({decision.platt.a:g}, {decision.platt.b:g}) does not rise with the classifier's probability"
    if decision.linear and not np.isfinite([decision.linear.intercept, *decision.linear.coefficients]).all():
        yield "its coefficients are not finite"
    try:
        rows = read_array(folder / decision.background)
    except BundleError as error:
        yield str(error)
        return
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != len(names):
        yield f"{decision.background} has shape {rows.shape}, not rows of {len(names)} features"
    elif not np.isfinite(rows).all() or np.abs(rows).max() > _FAR:
        yield f"{decision.background} holds values that no standardised feature has"


def _projection_problem(folder: Path, projection: Projection, manifest: Manifest) -> str:
    dim = next((c.dim for c in manifest.cnns if c.role == projection.role), None)
    try:
        matrix = read_array(folder / projection.file)
    except BundleError as error:
        return str(error)
    right = dim is not None and matrix.shape == (1 + projection.components, dim) and bool(np.isfinite(matrix).all())
    return "" if right else f"{projection.file} has shape {matrix.shape}, or values that are not finite, for {dim} deep features"


def _feature_problem(feature: Feature) -> str:
    if not np.isfinite([feature.mean, feature.std, feature.low, feature.high]).all():
        return "its statistics are not finite"
    if feature.low > feature.high:
        return f"its range runs from {feature.low:g} down to {feature.high:g}"
    if feature.name.count(":") < 2:
        return "its name is not <role>:<block>:<feature>"
    return ""
