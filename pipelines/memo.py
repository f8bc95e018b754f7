"""Results that several jobs on one study share, kept by the content of what they were computed from.

A study that five systems read, or one that is read again because a clinical value came late, has the same volumes, regions and features
each time. Nothing here changes a result: a key holds every bit that the computation sees.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import highdicom as hd
import numpy as np

T = TypeVar("T")
KEPT = 48  # results: those of some five systems on one study


class Memo:
    """The last results by key, the least recently used forgotten first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._results: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str, compute: Callable[[], T]) -> T:
        """Return the result of a key, computed if it is not there; what raises is not kept."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                result: T = self._results[key]
                return result
        result = compute()
        with self._lock:
            self._results[key] = result
            while len(self._results) > self._kept:
                self._results.popitem(last=False)
        return result


SHARED = Memo()


def digest(*parts: object) -> str:
    """Return a hash of volumes and arrays by content, of everything else by how it prints."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, hd.Volume):
            found.update(repr((part.affine.tolist(), part.frame_of_reference_uid)).encode())
            part = part.array
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part).encode())
        found.update(b"\x1f")
    return found.hexdigest()
