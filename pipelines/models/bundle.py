"""Open a bundle: everything is verified before anything is run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import onnxruntime
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from pipelines.errors import BundleError, MissingSequence
from pipelines.models.arrays import read_array
from pipelines.models.in_use import FILE_NAME, InUse, read_in_use
from pipelines.models.manifest import Decision, FileEntry, Manifest
from pipelines.models.session import open_session
from pipelines.models.signature import Signature, check, sign
from pipelines.spec import PipelineSpec
from pipelines.types import BundleStatus, FloatArray, SeriesRole

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
PURPOSE = "manifest"  # of its signature
_UNLISTED = {MANIFEST, SIGNATURE}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS = {".onnx", ".npy", ".json", ".md", ".html"}  # none that a reader could execute
_PROOF = (BundleStatus.DEMO, BundleStatus.RESEARCH, BundleStatus.VALIDATED)


@dataclass(frozen=True)
class Model:
    """A decision, opened: its classifier, and the reference rows of its Shapley values, standardised, shape (m, n_features)."""

    decision: Decision
    classifier: onnxruntime.InferenceSession | None  # None for a linear decision
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

    @property
    def cnn_digests(self) -> dict[SeriesRole, str]:
        """SHA-256 (hex) of the feature extractors' graphs by sequence."""
        return {c.role: self.manifest.files[c.file].sha256 for c in self.manifest.cnns}

    @cached_property
    def model(self) -> Model:
        """The bundle's decision."""
        return self._open(self.manifest.decision)

    @cached_property
    def score(self) -> Model | None:
        """The first stage, whose log-odds the decision joins with clinical values, where there is one."""
        return self._open(self.manifest.score) if self.manifest.score else None

    @cached_property
    def projections(self) -> dict[SeriesRole, FloatArray]:
        """Mean and principal components of the deep features by sequence, (1 + components, dim)."""
        return {p.role: read_array(self.folder / p.file) for p in self.manifest.projections}

    @cached_property
    def imaging_only(self) -> Model | None:
        """The decision without clinical values, where there is one."""
        return self._open(self.manifest.imaging_only) if self.manifest.imaging_only else None

    def reduced(self, roles: Collection[SeriesRole]) -> Model:
        """Return the model for studies that have only these sequences.

        Raises
        ------
        MissingSequence
            The bundle has none.
        """
        for one in self.manifest.reduced:
            if set(one.roles) == set(roles):
                return self._open(one.decision)
        raise MissingSequence(f"{self.label} has no model for {', '.join(roles)} alone")

    def _open(self, decision: Decision) -> Model:
        rows = read_array(self.folder / decision.background)
        if rows.ndim != 2 or rows.shape[1] != len(decision.features):
            raise BundleError(f"{self.label}: the background has shape {rows.shape}")
        session = open_session(self.folder / decision.file) if decision.file else None
        return Model(decision, session, rows)

    @property
    def label(self) -> str:
        """Name the bundle for a person: ``olnm_mri demo-1``."""
        return f"{self.manifest.system} {self.manifest.version}"


class Choice(NamedTuple):
    """The bundle to use for a system, as what, and who decided so ("" where nobody did)."""

    folder: Path
    status: BundleStatus
    decided_by: str


def load_bundle(folder: Path, spec: PipelineSpec, *, trusted_keys: Collection[str] = ()) -> Bundle:
    """Read and verify a bundle for ``spec``.

    ``trusted_keys`` are the public keys (64 hex digits) of those who may release bundles; without any, unsigned ones are accepted.

    Raises
    ------
    BundleError
        The manifest is absent or invalid, its signature is broken or not by a trusted key, a file is missing, altered, unlisted or of a
        kind that has no place in a bundle, or the bundle was trained for another system or method.
    """
    raw = read_manifest_bytes(folder)
    check_signature(folder, raw, trusted_keys)
    manifest = parse_manifest(raw, folder / MANIFEST)
    if manifest.system != spec.name:
        raise BundleError(f"{folder / MANIFEST} is a bundle of {manifest.system}, not of {spec.name}")
    if manifest.method_digest != spec.method_digest():
        raise BundleError(f"{folder / MANIFEST}: trained under another version of the method of {spec.name}; train it again")
    for problem in (*status_problems(manifest), *file_problems(folder, manifest)):
        raise BundleError(f"{folder / MANIFEST}: {problem}")
    return Bundle(folder=folder, manifest=manifest, digest=hashlib.sha256(raw).hexdigest())


def read_manifest_bytes(folder: Path) -> bytes:
    """Return the content of ``manifest.json``.

    Raises
    ------
    BundleError
        It cannot be read.
    """
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read: {error.strerror}") from error


def parse_manifest(raw: bytes, where: Path) -> Manifest:
    """Return the manifest in the content of its file.

    Raises
    ------
    BundleError
        It is not valid; the message names the first field that is wrong.
    """
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "manifest"
        raise BundleError(f"{where}: {field}: {first['msg']}") from error


def check_signature(folder: Path, manifest: bytes, trusted_keys: Collection[str]) -> None:
    """Check ``manifest.sig`` against the manifest's content.

    Raises
    ------
    BundleError
        See :func:`pipelines.models.signature.check`; or the signature's file is damaged.
    """
    path = folder / SIGNATURE
    try:
        signature = Signature.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        signature = None
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path}: the signature cannot be read") from error
    check(signature, manifest, purpose=PURPOSE, trusted_keys=trusted_keys, where=folder / MANIFEST)


def sign_bundle(folder: Path, key: Ed25519PrivateKey) -> Path:
    """Write ``manifest.sig``, which vouches for the manifest and with it for every file that it lists.

    Raises
    ------
    BundleError
        The manifest cannot be read, a file is not what it says, or the folder cannot be written to.
    """
    raw = read_manifest_bytes(folder)
    for problem in file_problems(folder, parse_manifest(raw, folder / MANIFEST)):
        raise BundleError(f"{folder / MANIFEST}: {problem}; it was not signed")
    path = folder / SIGNATURE
    try:
        path.write_text(sign(raw, purpose=PURPOSE, key=key).model_dump_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {error.strerror}") from error
    return path


def status_problems(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the status that a bundle claims for itself."""
    if manifest.status is BundleStatus.VALIDATED:
        yield "a bundle cannot call itself validated; only a promotion does (`cervinode models promote`)"
    if manifest.training.data == "synthetic" and manifest.status is not BundleStatus.DEMO:
        yield f"a bundle that was trained on synthetic cases is a demo, not {manifest.status}"


def file_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with the files of a bundle: all of them are listed, and each is what the manifest says."""
    for name, entry in manifest.files.items():
        if not allowed(name):
            yield f"{name!r} has no place in a bundle (only {', '.join(sorted(_KINDS))}, without a path)"
        elif problem := _content_problem(folder / name, entry):
            yield problem
    for path in sorted(folder.iterdir()):
        if path.name not in _UNLISTED | manifest.files.keys():
            yield f"{path.name} is in the folder but not in the manifest"


def allowed(name: str) -> bool:
    """Return whether a bundle may list a file of this name: a plain name, inert data, not the manifest itself."""
    return bool(_NAME.fullmatch(name)) and Path(name).suffix in _KINDS and name != MANIFEST


def _content_problem(path: Path, entry: FileEntry) -> str:
    if path.is_symlink() or not path.is_file():
        return f"{path.name} is missing"
    with path.open("rb") as file:
        same = path.stat().st_size == entry.size and hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    return "" if same else f"{path.name} was altered: its content is not what the manifest says"


def list_bundles(models_root: Path) -> Iterator[Path]:
    """Yield the folder of every bundle below ``models_root``, sorted by system and version."""
    yield from (path.parent for path in sorted(models_root.glob(f"*/*/{MANIFEST}")))


def choose_bundle(models_root: Path, spec: PipelineSpec, *, trusted_keys: Collection[str] = (), state: InUse | None = None) -> Choice:
    """Return the bundle to use: the one that was promoted, else the best proven one (research, demo), of those the highest version.

    Versions are compared number by number: ``site-10`` is higher than ``site-9``. A hospital's own bundle never loses to a demo.
    ``state`` says what was promoted, by default what ``in_use.json`` says.

    Raises
    ------
    BundleError
        There is none, a manifest or ``in_use.json`` cannot be read, or the promoted bundle is gone or not the same any more.
    """
    decision = (state or read_in_use(models_root, trusted_keys)).current(spec.name)
    if decision:
        folder = models_root / spec.name / decision.version
        if hashlib.sha256(read_manifest_bytes(folder)).hexdigest() != decision.digest:
            raise BundleError(f"{folder / MANIFEST} is not the one that {models_root / FILE_NAME} says is in use")
        return Choice(folder, decision.status, decision.by)
    folders = [f for f in list_bundles(models_root) if f.parent.name == spec.name]
    if not folders:
        raise BundleError(f"no bundle for {spec.name} below {models_root}")
    best = max(folders, key=lambda folder: (_PROOF.index(_status(folder)), _natural(folder.name)))
    return Choice(best, _status(best), "")


def find_bundle(models_root: Path, spec: PipelineSpec, *, trusted_keys: Collection[str] = ()) -> Path:
    """Return the folder of the bundle to use, see :func:`choose_bundle`."""
    return choose_bundle(models_root, spec, trusted_keys=trusted_keys).folder


def _status(folder: Path) -> BundleStatus:
    try:
        return BundleStatus(json.loads((folder / MANIFEST).read_bytes())["status"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BundleError(f"{folder / MANIFEST}: its status cannot be read: {error}") from error


def _natural(version: str) -> list[tuple[int, str]]:
    """Return a key that sorts runs of digits by value: [(0, "site-"), (10, "")] for ``site-10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", version) if part]
