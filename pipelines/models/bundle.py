"""Open a bundle: everything is verified before anything is run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
from pydantic import ValidationError

from pipelines.errors import BundleError
from pipelines.models.manifest import Decision, Manifest
from pipelines.models.session import open_session
from pipelines.spec import PipelineSpec
from pipelines.types import BundleStatus, FloatArray, SeriesRole

MANIFEST = "manifest.json"
_PROOF = (BundleStatus.DEMO, BundleStatus.RESEARCH, BundleStatus.VALIDATED)


@dataclass(frozen=True)
class Model:
    """A decision, opened: its classifier, and the reference rows of its Shapley values, standardised, shape (m, n_features)."""

    decision: Decision
    classifier: onnxruntime.InferenceSession
    background: FloatArray


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Sessions open at first use and stay open."""

    folder: Path
    manifest: Manifest
    digest: str  # SHA-256 (hex) of manifest.json, which lists the hashes of all files

    @cached_property
    def segmenter(self) -> onnxruntime.InferenceSession:
        """The segmentation network's session."""
        if self.manifest.segmenter is None:
            raise BundleError(f"{self.label} has no segmenter")
        return open_session(self.folder / self.manifest.segmenter.file)

    @cached_property
    def cnns(self) -> dict[SeriesRole, onnxruntime.InferenceSession]:
        """The feature extractors' sessions by sequence."""
        return {c.role: open_session(self.folder / c.file) for c in self.manifest.cnns}

    @cached_property
    def model(self) -> Model:
        """The bundle's decision."""
        return self._open(self.manifest.decision)

    @cached_property
    def imaging_only(self) -> Model | None:
        """The decision without clinical values, where there is one."""
        return self._open(self.manifest.imaging_only) if self.manifest.imaging_only else None

    def _open(self, decision: Decision) -> Model:
        rows = np.load(self.folder / decision.background, allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != len(decision.features):
            raise BundleError(f"{self.label}: the background has shape {rows.shape}")
        return Model(decision, open_session(self.folder / decision.file), np.asarray(rows, dtype=np.float64))

    @property
    def label(self) -> str:
        """Name the bundle for a person: ``olnm_mri demo-1``."""
        return f"{self.manifest.system} {self.manifest.version}"


def load_bundle(folder: Path, spec: PipelineSpec) -> Bundle:
    """Read and verify a bundle for ``spec``.

    Raises
    ------
    BundleError
        The manifest is absent or invalid, a file is missing or altered, or the bundle was trained for another system or method.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        manifest = Manifest.model_validate_json(raw)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {where}: {first['msg']}") from error
    if manifest.system != spec.name:
        raise BundleError(f"{path} is a bundle of {manifest.system}, not of {spec.name}")
    if manifest.method_digest != spec.method_digest():
        raise BundleError(f"{path}: trained under another version of the method of {spec.name}; train it again")
    for name, entry in manifest.files.items():
        _verify_file(folder / name, entry.sha256, entry.size)
    return Bundle(folder=folder, manifest=manifest, digest=hashlib.sha256(raw).hexdigest())


def _verify_file(path: Path, sha256: str, size: int) -> None:
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path} is missing")
    content = path.read_bytes()
    if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{path} was altered: its content is not what the manifest says")


def list_bundles(models_root: Path) -> Iterator[Path]:
    """Yield the folder of every bundle below ``models_root``, sorted by system and version."""
    yield from (path.parent for path in sorted(models_root.glob(f"*/*/{MANIFEST}")))


def find_bundle(models_root: Path, spec: PipelineSpec) -> Path:
    """Return the folder of the bundle to use: the best proven one (validated, research, demo), of those the highest version.

    Versions are compared number by number: ``site-10`` is higher than ``site-9``. A hospital's own bundle never loses to a demo.

    Raises
    ------
    BundleError
        There is none, or a manifest cannot be read.
    """
    folders = [f for f in list_bundles(models_root) if f.parent.name == spec.name]
    if not folders:
        raise BundleError(f"no bundle for {spec.name} below {models_root}")
    return max(folders, key=lambda folder: (_PROOF.index(_status(folder)), _natural(folder.name)))


def _status(folder: Path) -> BundleStatus:
    try:
        return BundleStatus(json.loads((folder / MANIFEST).read_bytes())["status"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BundleError(f"{folder / MANIFEST}: its status cannot be read: {error}") from error


def _natural(version: str) -> list[tuple[int, str]]:
    """Return a key that sorts runs of digits by value: [(0, "site-"), (10, "")] for ``site-10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", version) if part]
