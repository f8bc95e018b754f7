"""Result objects as files: encoded, and those that failed their check with what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

import pydicom
from pydicom import Dataset

from pipelines.errors import RejectedObjects

REASONS = "reasons.json"


def encode(dataset: Dataset) -> bytes:
    """Return an object as a DICOM file (PS3.10)."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def quarantine(rejected: Sequence[RejectedObjects]) -> dict[str, bytes]:
    """Return the files of objects that failed their check, as far as they can be written, and what is wrong with them; by name."""
    files: dict[str, bytes] = {}
    listed = []
    for number, dataset in enumerate((d for error in rejected for d in error.objects), start=1):
        name = f"{number:02d}_{str(dataset.get('Modality', 'none')).lower()}.dcm"
        with suppress(Exception):  # what cannot be encoded was rejected for just that
            files[name] = encode(dataset)
        named = {keyword: str(dataset.get(keyword, "")) for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesDescription")}
        listed.append({"file": name if name in files else None, **named})
    if listed:
        reasons = {"problems": [problem for error in rejected for problem in error.problems], "objects": listed}
        files[REASONS] = json.dumps(reasons, indent=1).encode()
    return files
