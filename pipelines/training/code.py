"""A hash of code and libraries, part of the key of what is kept on disk: an upgraded program does not take what another one made."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pipelines

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "imbalanced-learn", "lightgbm", "xgboost-cpu", "torch", "onnxruntime")
NETWORKS = ("training/crfe.py", "training/export.py", "training/fit.py", "training/networks.py", "training/weights.py")


@cache
def code_digest(*files: str) -> str:
    """Return the SHA-256 over these files of the package ``pipelines``, or all of its modules, and the versions of the libraries."""
    root = Path(pipelines.__file__).parent
    key = hashlib.sha256(repr([version(name) for name in _LIBRARIES]).encode())
    for path in [root / file for file in files] or sorted(root.rglob("*.py")):
        key.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return key.hexdigest()
