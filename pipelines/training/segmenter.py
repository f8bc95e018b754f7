"""Train the network that draws the roi when nobody sent one, and judge it on patients that it had not seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from pipelines.errors import MissingRoi
from pipelines.imaging.geometry import resample_mask
from pipelines.models.manifest import Parity, Segmenter, TensorSpec
from pipelines.models.segment import segment
from pipelines.models.session import open_session
from pipelines.training.cohort import CohortRow
from pipelines.training.crfe import Crfe
from pipelines.training.embed import write_record
from pipelines.training.export import export_network
from pipelines.training.extract import ExtractedFile, read_case, study_files
from pipelines.training.fit import fit_segmenter
from pipelines.training.plan import Run

METHOD = "2"  # part of the key of a segmenter on disk; raised when the same plan trains another one
JUDGED_SEGMENTATIONS = 40  # patients whose roi is compared with the segmenter's
VALIDATION_SHARE = 0.15  # of the segmenter's patients, who say when to stop ([CRFE] preprocessing)
EMPTY_SLICES = 0.5  # slices without tumour shown to the segmenter, per slice with tumour


def train_segmenter(run: Run, files: Sequence[ExtractedFile], judged: Sequence[CohortRow]) -> Segmenter:
    """Train the segmenter on ``files``, export it into the bundle, and judge it on other patients; one trained before is found on disk."""
    plan, role = run.plan, run.spec.roi.role
    files = files[: plan.segmenter_patients]
    how = [METHOD, role, plan.segmenter_widths, plan.segmenter_units, plan.segmenter_pools, asdict(plan.segmenter), asdict(plan.grid)]
    key = hashlib.sha256(json.dumps([how, run.seed, [f.key for f in files]], default=str).encode()).hexdigest()
    kept = run.cache / "networks" / f"segmenter_{key}.onnx"
    record = kept.with_suffix(".json")
    if not record.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        held_out = max(1, round(VALIDATION_SHARE * len(files)))
        slices, masks = _shown(files[held_out:], run.seed)
        torch.manual_seed(run.seed)
        net = Crfe(plan.segmenter_widths, units=plan.segmenter_units, pools=plan.segmenter_pools)
        run.progress(f"segmenter: {len(slices)} slices of {len(files) - held_out} patients, {held_out} more to validate")
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
    model = Segmenter(
        file=path.name,
        network=f"CRFE {'-'.join(map(str, plan.segmenter_widths))}, {plan.segmenter_units} LSTM units, {plan.segmenter_pools} poolings",
        role=role,
        input=TensorSpec(
            name="image", shape=(-1, 1, plan.grid.size, plan.grid.size), axes="ncyx", range="z-score over the slices of the study"
        ),
        spacing_mm=plan.grid.spacing_mm,
    )
    if not len(judged):
        return model  # there is nobody whom it had not seen
    dice = _judge(run, model, judged[:JUDGED_SEGMENTATIONS])
    run.progress(f"segmenter: mean Dice {dice:.3f} on {min(len(judged), JUDGED_SEGMENTATIONS)} unseen patients")
    return model.model_copy(update={"dice": dice})


def _shown(files: Sequence[ExtractedFile], seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the slices with tumour and some without, of all patients."""
    rng = np.random.default_rng(seed)
    slices, masks = [], []
    for file in files:
        images, mask = file.slices()
        marked = mask.any(axis=(1, 2))
        empty = rng.permutation(np.flatnonzero(~marked))[: round(EMPTY_SLICES * int(marked.sum()))]
        shown = np.sort(np.r_[np.flatnonzero(marked), empty])
        slices.append(images[shown])
        masks.append(mask[shown])
    return np.concatenate(slices), np.concatenate(masks)


def _judge(run: Run, model: Segmenter, rows: Sequence[CohortRow]) -> float:
    """Return the mean Dice against the human roi, on the sequence's own grid and by the serving code; no mask counts as 0."""
    session = open_session(run.folder / model.file)
    return float(np.mean([_dice(run, model, row, session) for row in rows]))


def _dice(run: Run, model: Segmenter, row: CohortRow, session: onnxruntime.InferenceSession) -> float:
    case = read_case(study_files(row), run.spec)
    assert case.roi is not None  # extraction refused the cohort otherwise
    image = case.volumes[model.role]
    try:
        drawn = segment(image, model, session=session, rule=run.spec.roi).volume.array > 0
    except MissingRoi:
        return 0.0
    truth = resample_mask(case.roi.volume, image.volume).array > 0
    return 2 * float((drawn & truth).sum()) / float(drawn.sum() + truth.sum())
