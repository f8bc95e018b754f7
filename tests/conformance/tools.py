"""Foreign validators and readers: what they say of a file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# The standard's 2022 tables do not know the private scheme and the Device UID that IHE AI Results asks for.
EXPECTED_WARNINGS = ("99CERVINODE", "DeviceUID(0018,1002)")


def run(tool: str, *arguments: str | Path) -> str:
    """Return what a foreign tool says, both streams; skip where it is not installed."""
    beside_python = Path(sys.executable).parent / tool
    path = tool if Path(tool).is_file() else str(beside_python) if beside_python.is_file() else shutil.which(tool)
    if not path:
        pytest.skip(f"{tool} is not installed (deploy/system-packages.sh test; dcmqi from PyPI)")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, timeout=500, check=False)
    return (done.stdout + done.stderr).decode("utf-8", errors="replace")


def complaints(path: Path, *severities: str) -> list[str]:
    """Return what dciodvfy has against a file, but for the expected."""
    lines = run("/usr/bin/dciodvfy", "-new", path).splitlines()
    assert lines, "dciodvfy always names the IOD"
    return [line for line in lines if line.startswith(severities) and not any(known in line for known in EXPECTED_WARNINGS)]


def differences(*paths: Path) -> list[str]:
    """Return in what dcentvfy finds that files of one patient, study or series contradict each other."""
    return [line for line in run("/usr/bin/dcentvfy", *paths).splitlines() if line.startswith("Error")]
