"""Foreign programs that tests use as judges, and what becomes of a test where one is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str, how: str = "deploy/system-packages.sh test") -> NoReturn:
    """Skip the test for want of a tool; fail it where ``CERVINODE_NO_SKIP`` says that every judge is there, as ``.ci/run`` does."""
    message = f"{what} is not here ({how})"
    if os.environ.get("CERVINODE_NO_SKIP") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def need(program: str | Path, how: str = "deploy/system-packages.sh test") -> str:
    """Return where a program is: at its path, beside this Python, or where the shell finds it."""
    beside_python = Path(sys.executable).parent / program  # an absolute path stays as it is
    found = str(beside_python) if beside_python.is_file() else shutil.which(program)
    return found or missing(str(program), how)
