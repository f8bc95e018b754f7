"""Deterministic UIDs: the same result always has the same UIDs, a different one never.

Equal UIDs must mean equal bytes, because archives keep the first object they got under a UID and answer success to the second.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUILDER_VERSION = "8"  # raise it with every change of what the objects contain
_NAMESPACE = uuid.UUID("99f4fa96-e698-4f5f-a7ef-d37b319c4feb")  # random, ours, never to change


def derive_uid(*parts: str) -> str:
    """Return ``2.25.<uuid5>`` of the parts (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0x1F).join(parts)).int}"


def digest_arrays(arrays: Iterable[NDArray[np.generic]]) -> str:
    """Return the SHA-256 (hex) of the arrays' shapes and bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(str(array.shape).encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class ResultKey:
    """All that the result objects of one run depend on."""

    study_instance_uid: str
    source_sop_instance_uids: tuple[str, ...]
    content_digest: str  # of pixels and roi, or of a refusal's words
    model_digest: str
    software_version: str
    station: str
    version: int
    created_at: str  # of the job, whose time stands in the objects; empty where they take it from their sources
    variant: str = ""  # identity of the sources, language, font and status of the objects, where they decide the bytes

    def uid(self, kind: str, sop_class_uid: str) -> str:
        """Return the UID of one series or instance; ``kind`` names it among the objects of the run."""
        return derive_uid(
            self.study_instance_uid,
            *sorted(self.source_sop_instance_uids),
            self.content_digest,
            self.model_digest,
            BUILDER_VERSION,
            self.software_version,
            kind,
            sop_class_uid,
            self.station,
            str(self.version),
            self.created_at,
            self.variant,
        )
