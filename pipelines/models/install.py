"""Bring a bundle from a folder or a ZIP file into ``models_root``: only what its manifest lists, verified, all at once or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from pipelines.errors import BundleError
from pipelines.models.bundle import MANIFEST, SIGNATURE, allowed, parse_manifest, read_manifest_bytes
from pipelines.models.manifest import Manifest
from pipelines.models.verify import find_problems
from pipelines.spec import PipelineSpec

_MAX_MANIFEST = 8 * 2**20  # bytes; a thousand features take 300 kB
_MAX_TOTAL = 8 * 2**30  # bytes; five 3D ResNet-101 take 1.7 GB
_MAX_FILES = 200

Files = dict[str, Callable[[], IO[bytes]]]


def install_bundle(
    source: Path, models_root: Path, *, specs: Mapping[str, PipelineSpec], trusted_keys: Collection[str] = ()
) -> tuple[Path, str]:
    """Copy a bundle to ``models_root/<system>/<version>``; return that folder and the bundle's digest.

    Raises
    ------
    BundleError
        The source is no bundle, holds what has no place in one, fails verification, or its version is installed already.
    """
    try:
        models_root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, tempfile.TemporaryDirectory(dir=models_root, prefix=".install-") as scratch:
            files = _zip_files(source, stack) if source.is_file() else _folder_files(source)
            manifest = _read_manifest(files, source)
            target = models_root / manifest.system / manifest.version
            if target.exists():
                raise BundleError(f"{target} exists already; a version is never overwritten")
            staged = Path(scratch) / "bundle"
            staged.mkdir()
            _copy(files, manifest, staged, source)
            if problems := find_problems(staged, specs, trusted_keys=trusted_keys):
                raise BundleError(f"{source} was not installed: {'; '.join(problems)}")
            digest = hashlib.sha256(read_manifest_bytes(staged)).hexdigest()
            staged.chmod(0o755)
            target.parent.mkdir(exist_ok=True)
            staged.rename(target)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"{source} cannot be installed: {error}") from error
    return target, digest


def _folder_files(folder: Path) -> Files:
    if not folder.is_dir():
        raise BundleError(f"{folder} is neither a folder nor a ZIP file")
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path.name} in {folder} is no plain file")
    return {path.name: (lambda path=path: path.open("rb")) for path in folder.iterdir()}  # type: ignore[misc]


def _zip_files(path: Path, stack: ExitStack) -> Files:
    """Return the members of a ZIP file by name, without the one folder that they may all lie in."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = [m for m in archive.infolist() if not m.is_dir()]
    if len(members) > _MAX_FILES:
        raise BundleError(f"{path} holds {len(members)} files, more than a bundle may have")
    top = {m.filename.split("/")[0] for m in members if "/" in m.filename}
    prefix = f"{top.pop()}/" if len(top) == 1 and all("/" in m.filename for m in members) else ""
    files: Files = {}
    for member in members:
        name = member.filename.removeprefix(prefix)
        if "/" in name or "\\" in name or prefix == "../" or name in files:
            raise BundleError(f"{path} holds {member.filename!r}: a bundle is one folder of files, each there once")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BundleError(f"{path} holds {member.filename!r}, a link")
        files[name] = lambda member=member: archive.open(member)  # type: ignore[misc]
    return files


def _read_manifest(files: Files, source: Path) -> Manifest:
    if MANIFEST not in files:
        raise BundleError(f"{source} holds no {MANIFEST}")
    manifest = parse_manifest(_read(files[MANIFEST], _MAX_MANIFEST, MANIFEST), source / MANIFEST)
    if stray := sorted(files.keys() - manifest.files.keys() - {MANIFEST, SIGNATURE}):
        raise BundleError(f"{source} holds {stray[0]!r}, which its manifest does not list")
    if wrong := [name for name in manifest.files if not allowed(name)]:
        raise BundleError(f"{source / MANIFEST} lists {wrong[0]!r}, which has no place in a bundle")
    if len(manifest.files) > _MAX_FILES or sum(f.size for f in manifest.files.values()) > _MAX_TOTAL:
        raise BundleError(f"{source} lists more than {_MAX_FILES} files or {_MAX_TOTAL >> 30} GiB")
    if not manifest.system.isidentifier():
        raise BundleError(f"{source / MANIFEST}: {manifest.system!r} is no system's name")
    return manifest


def _copy(files: Files, manifest: Manifest, target: Path, source: Path) -> None:
    """Copy what the manifest lists, of each file no more than the bytes that it states."""
    sizes = {name: entry.size for name, entry in manifest.files.items()}
    for name in (MANIFEST, SIGNATURE):
        if name in files:
            sizes.setdefault(name, _MAX_MANIFEST)
    total, free = sum(sizes.values()), shutil.disk_usage(target).free
    if total > free:
        raise BundleError(f"{source} needs {total >> 20} MiB of disk, {free >> 20} are free")
    for name, size in sizes.items():
        if name not in files:
            raise BundleError(f"{source} does not hold {name}, which its manifest lists")
        with (target / name).open("wb") as file:
            file.write(_read(files[name], size, name))
            os.fsync(file.fileno())


def _read(opener: Callable[[], IO[bytes]], limit: int, name: str) -> bytes:
    with opener() as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise BundleError(f"{name} is larger than the {limit} bytes that it may have")
    return content
