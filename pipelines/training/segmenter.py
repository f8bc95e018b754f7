"""Train the network that draws the roi when nobody sent one, and judge it on patients that it had not seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from pipelines.engine import load_case
from pipelines.errors import BundleError, MissingRoi
from pipelines.imaging.geometry import resample_mask
from pipelines.imaging.sequences import choose, rank
from pipelines.imaging.series import read_series
from pipelines.models.bundle import MANIFEST, file_problems, parse_manifest, read_manifest_bytes
from pipelines.models.manifest import Manifest, Parity, Segmenter, TensorSpec
from pipelines.models.segment import segment
from pipelines.models.session import open_session
from pipelines.spec import PipelineSpec
from pipelines.training.code import NETWORKS, code_digest
from pipelines.training.cohort import CohortRow
from pipelines.training.crfe import Crfe
from pipelines.training.embed import write_record
from pipelines.training.export import export_network
from pipelines.training.extract import ExtractedFile, drawable, study_files
from pipelines.training.fit import fit_segmenter
from pipelines.training.plan import Run
from pipelines.types import SeriesRole

JUDGED_SEGMENTATIONS = 40  # patients whose roi is compared with the segmenter's
VALIDATION_SHARE = 0.15  # of the segmenter's patients, who say when to stop ([CRFE] preprocessing)
EMPTY_SLICES = 0.5  # slices without tumour shown to the segmenter, per slice with tumour


def make_segmenter(run: Run, files: Sequence[ExtractedFile], judged: Sequence[CohortRow]) -> Segmenter:
    """Train the segmenter on ``files``, or take that of the plan's other bundle; put it into the bundle, and judge it on other patients.

    Raises
    ------
    BundleError
        The other bundle is damaged, has no segmenter, or one that was trained on none of the sequences on which this system is drawn.
    """
    if run.plan.segmenter_of:
        model = _take(run, run.plan.segmenter_of, synthetic=any(file.synthetic for file in files))
    else:
        model = _train(run, files[: run.plan.segmenter_patients])
    if not len(judged):
        return model  # there is nobody whom it had not seen
    dice = _judge(run, model, judged[:JUDGED_SEGMENTATIONS])
    told = ", ".join(f"{value:.3f} on {role}" for role, value in dice.items())
    run.progress(f"segmenter: mean Dice {told}, of {min(len(judged), JUDGED_SEGMENTATIONS)} unseen patients")
    return model.model_copy(update={"dice": dice})


def read_segmenter(folder: Path, spec: PipelineSpec, *, synthetic: bool) -> tuple[Manifest, Segmenter]:
    """Return the manifest of another bundle and its segmenter, for a cohort that is ``synthetic`` or not.

    Raises
    ------
    BundleError
        The bundle is damaged, has no segmenter, or one of no use to this system or these patients.
    """
    manifest = parse_manifest(read_manifest_bytes(folder), folder / MANIFEST)
    for problem in file_problems(folder, manifest):
        raise BundleError(f"{folder / MANIFEST}: {problem}")
    if manifest.segmenter is None:
        raise BundleError(f"{folder} has no segmenter")
    if not set(manifest.segmenter.roles) & set(spec.roi.roles):
        drawn, wanted = (", ".join(roles) for roles in (manifest.segmenter.roles, spec.roi.roles))
        raise BundleError(f"the segmenter of {folder} draws on {drawn}, {spec.name} on {wanted}")
    if manifest.training.data == "synthetic" and not synthetic:
        raise BundleError(f"the segmenter of {folder} was trained on synthetic cases: it must not draw on patients")
    return manifest, manifest.segmenter


def _take(run: Run, folder: Path, *, synthetic: bool) -> Segmenter:
    manifest, model = read_segmenter(folder, run.spec, synthetic=synthetic)
    shutil.copyfile(folder / model.file, run.folder / model.file)
    run.parity.extend(one for one in manifest.parity if one.what.startswith(model.file))
    run.progress(f"segmenter: that of {manifest.system} {manifest.version}")
    return model.model_copy(update={"dice": {}})


def _train(run: Run, files: Sequence[ExtractedFile]) -> Segmenter:
    """Train one on every sequence that it may draw on, all together; one trained before is found on disk."""
    plan = run.plan
    roles = tuple(role for role in run.spec.roi.roles if any(role in file.drawable for file in files))
    how = [
        code_digest(*NETWORKS, "training/segmenter.py"),
        roles,
        plan.segmenter_widths,
        plan.segmenter_units,
        plan.segmenter_pools,
        asdict(plan.segmenter),
        asdict(plan.grid),
    ]
    key = hashlib.sha256(json.dumps([how, run.seed, [f.key for f in files]], default=str).encode()).hexdigest()
    kept = run.cache / "networks" / f"segmenter_{key}.onnx"
    record = kept.with_suffix(".json")
    if not record.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        held_out = max(1, round(VALIDATION_SHARE * len(files)))
        slices, masks = _shown(files[held_out:], run.seed)
        torch.manual_seed(run.seed)
        net = Crfe(plan.segmenter_widths, units=plan.segmenter_units, pools=plan.segmenter_pools)
        run.progress(f"segmenter on {', '.join(roles)}: {len(slices)} slices of {len(files) - held_out} patients, {held_out} to validate")
        fit_segmenter(
            net,
            slices,
            masks,
            spacing_mm=plan.grid.spacing_mm,
            validation=_shown(files[:held_out], run.seed),
            schedule=plan.segmenter,
            seed=run.seed,
            progress=lambda s: run.progress(f"segmenter: {s}"),
        )
        write_record(record, export_network(net, kept, slices[:4, None], outputs=("logits",)))
    path = run.folder / "segmenter.onnx"
    shutil.copyfile(kept, path)
    parity = Parity.model_validate_json(record.read_text())
    run.parity.append(parity.model_copy(update={"what": parity.what.replace(kept.name, path.name)}))
    return Segmenter(
        file=path.name,
        network=f"CRFE {'-'.join(map(str, plan.segmenter_widths))}, {plan.segmenter_units} LSTM units, {plan.segmenter_pools} poolings",
        roles=roles,
        input=TensorSpec(
            name="image", shape=(-1, 1, plan.grid.size, plan.grid.size), axes="ncyx", range="z-score over the slices of the study"
        ),
        spacing_mm=plan.grid.spacing_mm,
    )


def _shown(files: Sequence[ExtractedFile], seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the slices with tumour and some without, of all patients and sequences."""
    rng = np.random.default_rng(seed)
    slices, masks = [], []
    for images, mask in (file.slices(role) for file in files for role in file.drawable):
        marked = mask.any(axis=(1, 2))
        empty = rng.permutation(np.flatnonzero(~marked))[: round(EMPTY_SLICES * int(marked.sum()))]
        shown = np.sort(np.r_[np.flatnonzero(marked), empty])
        slices.append(images[shown])
        masks.append(mask[shown])
    return np.concatenate(slices), np.concatenate(masks)


def _judge(run: Run, model: Segmenter, rows: Sequence[CohortRow]) -> dict[SeriesRole, float]:
    """Return the mean Dice against the human roi by sequence, on its own grid and by the serving code; no mask counts as 0."""
    session = open_session(run.folder / model.file)
    found: dict[SeriesRole, list[float]] = {}
    for row in rows:
        for role, dice in _dice(run, model, row, session).items():
            found.setdefault(role, []).append(dice)
    return {role: float(np.mean(found[role])) for role in model.roles if role in found}


def _dice(run: Run, model: Segmenter, row: CohortRow, session: onnxruntime.InferenceSession) -> dict[SeriesRole, float]:
    series, spec = read_series(study_files(row)), run.spec
    ranked = rank(series, spec)
    case = load_case(series, choose(series, spec, ranked), spec)
    assert case.roi is not None  # extraction refused the cohort otherwise
    found = {}
    for role, image in drawable(series, ranked, case, spec).items():
        truth = resample_mask(case.roi.volume, image.volume).array > 0
        try:
            drawn = segment(image, model, session=session, rule=spec.roi).volume.array > 0
            found[role] = 2 * float((drawn & truth).sum()) / float(drawn.sum() + truth.sum())
        except MissingRoi:
            found[role] = 0.0
    return {role: found[role] for role in found if role in model.roles}
