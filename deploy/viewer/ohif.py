"""OHIF as its makers build it: one pinned package from the npm registry, checked and unpacked once."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

VERSION = "3.13.2"
_SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="  # as the registry states it
_URL = f"https://registry.npmjs.org/@ohif/app/-/app-{VERSION}.tgz"
_TIMEOUT_S = 600
_LEFT_OUT = ("package/dist/ort/", "package/dist/dicom-microscopy-viewer/")  # 150 MB for tools that need neither


class ViewerError(Exception):
    """The viewer cannot be started; the sentence says why."""


def fetch(cache: Path) -> Path:
    """Return the folder of OHIF's files below ``cache``, downloading it where it is not there yet.

    Uses npm where it is installed, with its configured registry, and the public registry otherwise.

    Raises
    ------
    ViewerError
        The package cannot be downloaded, or is not the one that is pinned here.
    """
    folder = cache / f"ohif-{VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="ohif-") as scratch:
        package = _download(Path(scratch))
        with package.open("rb") as file:
            found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
        if found != _SHA512:
            raise ViewerError(f"@ohif/app {VERSION}: the download has sha512-{found}, not the pinned sha512-{_SHA512}")
        with tarfile.open(package) as archive:
            wanted = [m for m in archive.getmembers() if m.name.startswith("package/dist/") and not m.name.startswith(_LEFT_OUT)]
            archive.extractall(scratch, members=wanted, filter="data")
        (Path(scratch) / "package" / "dist").rename(folder)
    return folder


def _download(folder: Path) -> Path:
    if npm := shutil.which("npm"):
        command = [npm, "pack", f"@ohif/app@{VERSION}", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder)
        if done.returncode != 0:
            raise ViewerError(f"npm cannot fetch @ohif/app {VERSION}: {done.stderr.strip()[-500:]}")
        return next(folder.glob("*.tgz"))
    package = folder / "ohif.tgz"
    try:
        with urllib.request.urlopen(_URL, timeout=_TIMEOUT_S) as answer, package.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise ViewerError(f"{_URL} cannot be downloaded: {error}") from error
    return package
