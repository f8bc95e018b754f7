"""Each patient's training data, extracted once by the serving code and kept on disk by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipelines.engine import extract_features, load_case, prepare
from pipelines.errors import InferenceError, InputError
from pipelines.features.clinical_dicom import from_study
from pipelines.features.cnn import crop
from pipelines.imaging.acquisition import Acquisition, acquisition
from pipelines.imaging.elements import text
from pipelines.imaging.geometry import build_volume, resample_mask
from pipelines.imaging.sequences import choose, rank, settle
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.segment import to_slices
from pipelines.spec import PipelineSpec
from pipelines.training.cohort import CohortRow, refuse
from pipelines.training.identity import Identity, identify
from pipelines.types import Case, Choice, ClinicalValue, ImageVolume, Roi, Series, SeriesRole

CACHE_VERSION = "4"  # part of every cache key; raised when the extraction code changes what it returns


@dataclass(frozen=True)
class SliceGrid:
    """What the segmenter sees: square slices of ``size`` pixels of ``spacing_mm``."""

    spacing_mm: float
    size: int


@dataclass(frozen=True, eq=False)
class Extracted:
    """One patient's training data: features by name but for the networks', and what each network sees (n, channels, ...) by sequence.

    ``slices`` and ``masks`` (n, y, x) are for the segmenter, of each sequence that it may draw on; ``second`` are the features from another
    reader's region, if there is one; ``clinical`` are values that the study itself tells; ``size`` is the roi's in ml (mm2 on
    ultrasound); ``scanner`` is in words, ``acquisition`` in numbers.
    """

    features: Mapping[str, float]
    views: Mapping[SeriesRole, NDArray[np.float32]]
    slices: Mapping[SeriesRole, NDArray[np.float32]]
    masks: Mapping[SeriesRole, NDArray[np.uint8]]
    second: Mapping[str, float]
    clinical: Mapping[str, ClinicalValue]
    size: float
    scanner: str
    acquisition: Mapping[SeriesRole, Acquisition]
    synthetic: bool
    identity: Identity


def extract_cohort(
    rows: Sequence[CohortRow],
    spec: PipelineSpec,
    *,
    grid: SliceGrid,
    cache: Path,
    workers: int,
    progress: Callable[[str], None],
) -> list[ExtractedFile]:
    """Extract every patient in parallel and return a file for each; what is in ``cache`` stays as it is.

    Raises
    ------
    CohortError
        Studies that cannot be used, each named with its line and the reason.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files: list[ExtractedFile] = []
    failures: list[str] = []
    task = partial(_extract_to_cache, spec=spec, grid=grid, cache=cache)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
        for i, (row, (file, failure)) in enumerate(zip(rows, pool.map(task, rows), strict=True), start=1):
            files.append(ExtractedFile(file, row.where))
            if failure:
                failures.append(f"line {row.line} ({row.patient}): {failure}")
            if i % 10 == 0 or i == len(rows):
                progress(f"extraction: {i} of {len(rows)} studies")
    refuse(cache.parent, "studies that cannot be used", failures)
    return files


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # the processes are the parallelism
    threadpool_limits(1)  # many small eigenvalue problems: threads of several processes would only wait for one another


def _extract_to_cache(row: CohortRow, *, spec: PipelineSpec, grid: SliceGrid, cache: Path) -> tuple[Path, str]:
    """Return the patient's cache file and, when it could not be made, why."""
    try:
        paths = study_files(row)
        key = hashlib.sha256(f"{CACHE_VERSION} {spec.method_digest()} {grid}".encode())
        key.update(repr((row.clinical, row.second_roi and hashlib.sha256(row.second_roi.read_bytes()).hexdigest())).encode())
        for path in paths:
            key.update(hashlib.sha256(path.read_bytes()).digest())
        file = cache / f"{key.hexdigest()}.npz"
        if not file.exists():
            _write_extracted(file, _extract(row, paths, spec, grid))
    except (InputError, InferenceError, OSError) as error:
        return cache, str(error)
    return file, ""


def _extract(row: CohortRow, paths: Sequence[Path], spec: PipelineSpec, grid: SliceGrid) -> Extracted:
    series = read_series(paths)
    ranked = rank(series, spec)
    case = load_case(series, choose(series, spec, ranked), spec)
    if case.roi is None:
        raise InputError("no roi: training needs a SEG, RTSTRUCT or outlines, in the roi column or in the study folder")
    prepared = prepare(spec, case)
    features, _ = extract_features(spec, prepared)
    roles = spec.cnn.roles if spec.cnn else ()
    views = {r: crop(spec.cnn.view, prepared.images[r], prepared.rois[r]).array for r in roles if spec.cnn}
    shown = drawable(series, ranked, case, spec)
    slices = {r: to_slices(image.volume, spacing_mm=grid.spacing_mm, size=grid.size) for r, image in shown.items()}
    header = next(iter(case.volumes.values())).sources[0]
    return Extracted(
        features=features,
        views=views,
        slices={role: seen.array for role, seen in slices.items()},
        masks={role: resample_mask(case.roi.volume, seen).array for role, seen in slices.items()},
        second=_second_reader(row, series, case.roi, spec),
        clinical={**from_study(series), **row.clinical},
        size=float(np.count_nonzero(case.roi.volume.array)) * case.roi.volume.voxel_volume / (1.0 if case.frame else 1000.0),
        scanner=" ".join(t for k in ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength") if (t := text(header, k))),
        acquisition={role: acquisition(image.header) for role, image in case.volumes.items() if role in spec.required},
        synthetic=text(header, "ImageComments") == "SYNTHETIC PHANTOM",
        identity=identify(case, spec.required),
    )


def drawable(
    series: Sequence[Series], ranked: Mapping[SeriesRole, tuple[Choice, ...]], case: Case, spec: PipelineSpec
) -> dict[SeriesRole, ImageVolume]:
    """Return every sequence of the study that the segmenter may draw on, whether or not the system reads it otherwise."""
    found = {}
    frame = next(iter(case.volumes.values())).header.frame_of_reference_uid
    for role in spec.roi.roles:
        if role in case.volumes:
            found[role] = case.volumes[role]
        elif near := [c for c in ranked.get(role, ()) if c.header.frame_of_reference_uid == frame]:
            found[role] = build_volume(settle(near[0], series, spec))
    return found


def _second_reader(row: CohortRow, series: Sequence[Series], first: Roi, spec: PipelineSpec) -> dict[str, float]:
    """Return the features from the second reader's region in place of the first one's, nothing where there is none."""
    if row.second_roi is None:
        return {}
    images = [Path(d.filename) for s in series for d in s.instances if text(d, "SOPInstanceUID") != first.source_sop_instance_uid]
    case = read_case([*images, row.second_roi], spec)
    (drawn,) = read_series([row.second_roi])[0].instances
    if case.roi is None or case.roi.source_sop_instance_uid != text(drawn, "SOPInstanceUID"):
        raise InputError(
            f"the region in {row.second_roi.name} is not the one that is used: the study holds newer ones than the two readers'"
        )
    return extract_features(spec, prepare(spec, case))[0]


def study_files(row: CohortRow) -> list[Path]:
    """Return the files of a patient's study, without the second reader's region, and of the roi where it lies elsewhere."""
    second = row.second_roi and row.second_roi.resolve()
    paths = [path for path in find_dicom_files(row.study) if path.resolve() != second]
    return [*paths, row.roi] if row.roi and row.roi not in paths else paths


def read_case(paths: Sequence[Path], spec: PipelineSpec) -> Case:
    """Read a study's files into a case, choosing its series as the node does."""
    series = read_series(paths)
    return load_case(series, choose(series, spec), spec)


def _write_extracted(file: Path, data: Extracted) -> None:
    names = list(data.features)
    arrays: dict[str, Any] = {
        "names": np.array(names),
        "values": np.array([data.features[n] for n in names]),
        "second": np.array([data.second[n] for n in names] if data.second else []),
        "clinical": np.array(json.dumps([asdict(v) for v in data.clinical.values()])),
        "size": np.array(data.size),
        "scanner": np.array(data.scanner),
        "acquisition": np.array(json.dumps(data.acquisition)),
        "synthetic": np.array(data.synthetic),
        "identity": np.array(astuple(data.identity)),
    }
    arrays |= {f"view_{role}": view for role, view in data.views.items()}
    arrays |= {f"slices_{role}": shown for role, shown in data.slices.items()}
    arrays |= {f"mask_{role}": mask for role, mask in data.masks.items()}
    partial_file = file.with_suffix(".partial")  # renamed when whole, so that a killed run leaves nothing half written
    with partial_file.open("wb") as stream:
        np.savez(stream, **arrays)
    partial_file.replace(file)


class ExtractedFile:
    """What :func:`extract_cohort` kept of one patient, each part read when it is asked for; ``where`` names the row in a message."""

    def __init__(self, path: Path, where: str = "") -> None:
        self.path = path
        self.where = where or path.name

    @property
    def key(self) -> str:
        """The content hash that the file is named by."""
        return self.path.stem

    @cached_property
    def features(self) -> dict[str, float]:
        """Features by name, all but the networks'."""
        return dict(zip(self._names, self._read("values").tolist(), strict=True))

    @cached_property
    def second(self) -> dict[str, float]:
        """The same from a second reader's region; empty where there is none."""
        values = self._read("second").tolist()
        return dict(zip(self._names, values, strict=True)) if values else {}

    @cached_property
    def clinical(self) -> dict[str, ClinicalValue]:
        """Clinical values of the table and the study."""
        return {one["name"]: ClinicalValue(**one) for one in json.loads(str(self._read("clinical")))}

    @cached_property
    def size(self) -> float:
        """Size of the roi: ml, on ultrasound mm2."""
        return float(self._read("size"))

    @cached_property
    def scanner(self) -> str:
        """Manufacturer, model and field strength, in words."""
        return str(self._read("scanner"))

    @cached_property
    def acquisition(self) -> dict[SeriesRole, Acquisition]:
        """How each sequence was acquired, in numbers."""
        return {SeriesRole(role): numbers for role, numbers in json.loads(str(self._read("acquisition"))).items()}

    @cached_property
    def synthetic(self) -> bool:
        """Whether this is a phantom."""
        return bool(self._read("synthetic"))

    @cached_property
    def identity(self) -> Identity:
        """Whose study this is."""
        return Identity(*map(str, self._read("identity")))

    def view(self, role: SeriesRole) -> NDArray[np.float32]:
        """Return what a network sees of a sequence, (n, channels, ...)."""
        return np.asarray(self._read(f"view_{role}"), dtype=np.float32)

    @cached_property
    def drawable(self) -> tuple[SeriesRole, ...]:
        """Sequences that the segmenter may draw on."""
        with np.load(self.path, allow_pickle=False) as stored:
            return tuple(SeriesRole(name.removeprefix("slices_")) for name in stored.files if name.startswith("slices_"))

    def slices(self, role: SeriesRole) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return what the segmenter sees of a sequence and ought to say, both (n, y, x)."""
        return self._read(f"slices_{role}"), self._read(f"mask_{role}")

    @cached_property
    def _names(self) -> list[str]:
        return [str(n) for n in self._read("names")]

    def _read(self, name: str) -> NDArray[Any]:
        with np.load(self.path, allow_pickle=False) as stored:
            return np.asarray(stored[name])
