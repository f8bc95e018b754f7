"""Cohort tables, and each patient's training data extracted once by the serving code and kept on disk by content."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipelines.engine import extract_features, load_case, prepare
from pipelines.errors import CohortError, InferenceError, InputError
from pipelines.features.cnn import crop_cube
from pipelines.imaging.geometry import resample_mask
from pipelines.imaging.sequences import choose
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.segment import to_slices
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import Case, SeriesRole

COLUMNS = ("patient", "study", "label")  # required; roi and site are optional
MIN_EVENTS = 10  # of either class: below that nothing can be selected or judged
CACHE_VERSION = "1"  # part of every cache key; raised when the extraction code changes what it returns
_NAMED = 5  # rows named in an error before "and n more"


@dataclass(frozen=True)
class CohortRow:
    """One patient of the table. ``line`` is the line of the file, for messages."""

    line: int
    patient: str
    study: Path
    roi: Path | None
    label: int
    site: str


@dataclass(frozen=True)
class SliceGrid:
    """What the segmenter sees: square slices of ``size`` pixels of ``spacing_mm``."""

    spacing_mm: float
    size: int


@dataclass(frozen=True, eq=False)
class Extracted:
    """One patient's training data: radiomics by name, a cube (z, y, x) per sequence, slices and mask (n, y, x) for the segmenter."""

    radiomics: Mapping[str, float]
    cubes: Mapping[SeriesRole, NDArray[np.float32]]
    slices: NDArray[np.float32]
    mask: NDArray[np.uint8]
    synthetic: bool


def read_cohort(path: Path) -> list[CohortRow]:
    """Read and check ``cohort.csv``: columns patient, study, label (0/1), and optionally roi and site; paths relative to the file.

    Raises
    ------
    CohortError
        The table cannot be used; the message names the rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
            rows = [(i, r) for i, r in enumerate(reader, start=2)]
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}") from error
    if missing:
        raise CohortError(f"{path} has no column {', '.join(missing)}")
    _refuse(path, "label is not 0 or 1", [f"line {i}: {r['label']!r}" for i, r in rows if r["label"] not in ("0", "1")])
    cohort = [_row(path.parent, i, r) for i, r in rows]
    for what in ("patient", "study"):
        count = Counter(str(getattr(r, what)) for r in cohort)
        twice = [f"line {r.line}: {getattr(r, what)}" for r in cohort if count[str(getattr(r, what))] > 1]
        _refuse(path, f"the same {what} more than once", twice)
    _refuse(path, "the study folder does not exist", [f"line {r.line}: {r.study}" for r in cohort if not r.study.is_dir()])
    _refuse(path, "the roi file does not exist", [f"line {r.line}: {r.roi}" for r in cohort if r.roi and not r.roi.is_file()])
    check_labels(str(path), [r.label for r in cohort])
    return cohort


def _row(folder: Path, line: int, fields: Mapping[str, str]) -> CohortRow:
    roi = fields.get("roi")
    return CohortRow(
        line=line,
        patient=fields["patient"],
        study=folder / fields["study"],
        roi=folder / roi if roi else None,
        label=int(fields["label"]),
        site=fields.get("site") or "",
    )


def check_labels(where: str, labels: Sequence[int]) -> None:
    """Raise CohortError where the label is constant or one class has too few rows for nested folds."""
    events = sum(labels)
    if events in (0, len(labels)):
        raise CohortError(f"{where}: the label is the same in all {len(labels)} rows")
    if min(events, len(labels) - events) < MIN_EVENTS:
        raise CohortError(
            f"{where}: {events} positive and {len(labels) - events} negative rows are too few, at least {MIN_EVENTS} of each are needed"
        )


def _refuse(path: Path, problem: str, rows: Sequence[str]) -> None:
    if rows:
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        raise CohortError(f"{path}: {problem}: {'; '.join(rows[:_NAMED])}{more}")


def extract_cohort(
    rows: Sequence[CohortRow],
    spec: PipelineSpec,
    *,
    grid: SliceGrid,
    cache: Path,
    workers: int,
    progress: Callable[[str], None],
) -> list[Path]:
    """Extract every patient in parallel and return a file for each, see :func:`read_extracted`; what is in ``cache`` stays as it is.

    Raises
    ------
    CohortError
        Studies that cannot be used, each named with its line and the reason.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    failures: list[str] = []
    task = partial(_extract_to_cache, system=spec.name, grid=grid, cache=cache)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
        for i, (row, (file, failure)) in enumerate(zip(rows, pool.map(task, rows), strict=True), start=1):
            files.append(file)
            if failure:
                failures.append(f"line {row.line} ({row.patient}): {failure}")
            if i % 10 == 0 or i == len(rows):
                progress(f"extraction: {i} of {len(rows)} studies")
    _refuse(cache.parent, "studies that cannot be used", failures)
    return files


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the processes are the parallelism
    threadpool_limits(1)  # many small eigenvalue problems: threads of several processes would only wait for one another


def _extract_to_cache(row: CohortRow, *, system: str, grid: SliceGrid, cache: Path) -> tuple[Path, str]:
    """Return the patient's cache file and, when it could not be made, why."""
    spec = catalogue()[system]
    try:
        paths = study_files(row)
        key = hashlib.sha256(f"{CACHE_VERSION} {spec.method_digest()} {grid}".encode())
        for path in paths:
            key.update(hashlib.sha256(path.read_bytes()).digest())
        file = cache / f"{key.hexdigest()}.npz"
        if not file.exists():
            _write_extracted(file, _extract(paths, spec, grid))
    except (InputError, InferenceError, OSError) as error:
        return cache, str(error)
    return file, ""


def _extract(paths: Sequence[Path], spec: PipelineSpec, grid: SliceGrid) -> Extracted:
    case = read_case(paths, spec)
    if case.roi is None:
        raise InputError("no roi: training needs a SEG or RTSTRUCT, in the roi column or in the study folder")
    prepared = prepare(spec, case)
    radiomics, _ = extract_features(spec, prepared, {})
    roles = spec.cnn.roles if spec.cnn else ()
    cubes = {r: crop_cube(prepared.images[r], prepared.rois[r], spec.cnn).array for r in roles if spec.cnn}
    slices = to_slices(case.volumes[spec.roi.role].volume, spacing_mm=grid.spacing_mm, size=grid.size)
    header = case.volumes[spec.roi.role].sources[0]
    return Extracted(
        radiomics=radiomics,
        cubes=cubes,
        slices=slices.array,
        mask=resample_mask(case.roi.volume, slices).array,
        synthetic=str(header.get("ImageComments", "")) == "SYNTHETIC PHANTOM",
    )


def study_files(row: CohortRow) -> list[Path]:
    """Return the files of a patient's study, and of the roi where it lies elsewhere."""
    paths = find_dicom_files(row.study)
    return [*paths, row.roi] if row.roi and row.roi not in paths else paths


def read_case(paths: Sequence[Path], spec: PipelineSpec) -> Case:
    """Read a study's files into a case, choosing its series as the node does."""
    series = read_series(paths)
    return load_case(series, choose(series, spec), spec)


def _write_extracted(file: Path, data: Extracted) -> None:
    names = list(data.radiomics)
    arrays: dict[str, Any] = {
        "names": np.array(names),
        "values": np.array([data.radiomics[n] for n in names]),
        "slices": data.slices,
        "mask": data.mask,
        "synthetic": np.array(data.synthetic),
    }
    arrays |= {f"cube_{role}": cube for role, cube in data.cubes.items()}
    partial_file = file.with_suffix(".partial")  # renamed when whole, so that a killed run leaves nothing half written
    with partial_file.open("wb") as stream:
        np.savez(stream, **arrays)
    partial_file.replace(file)


def read_extracted(file: Path) -> Extracted:
    """Read what :func:`extract_cohort` kept of one patient."""
    with np.load(file, allow_pickle=False) as stored:
        return Extracted(
            radiomics=dict(zip(stored["names"].tolist(), stored["values"].tolist(), strict=True)),
            cubes={SeriesRole(k[5:]): stored[k] for k in stored.files if k.startswith("cube_")},
            slices=stored["slices"],
            mask=stored["mask"],
            synthetic=bool(stored["synthetic"]),
        )


def is_synthetic(file: Path) -> bool:
    """Tell whether a patient's extracted data come from a phantom; reads nothing else."""
    with np.load(file, allow_pickle=False) as stored:
        return bool(stored["synthetic"])


def feature_table(rows: Sequence[CohortRow], features: Sequence[Mapping[str, float]]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return feature names and the matrix (n, p).

    Raises
    ------
    CohortError
        Patients have different features, or a value is not finite; the message names rows and features.
    """
    names = tuple(features[0])
    odd = [f"line {r.line} ({r.patient})" for r, f in zip(rows, features, strict=True) if tuple(f) != names]
    _refuse(rows[0].study.parent, "other features than the first row", odd)
    table = np.array([list(f.values()) for f in features], dtype=np.float64)
    where = np.argwhere(~np.isfinite(table))
    bad = [f"line {rows[i].line} ({rows[i].patient}): {names[j]}" for i, j in where]
    _refuse(rows[0].study.parent, "a feature is not finite", bad)
    return names, table
