"""Who works on which job: a file per running job, renewed as a sign of life.

Ages are measured with the clock of the file system, by comparing with a file written now, so hosts need no common time. A claim whose
process is gone from this machine is dead at once; one from elsewhere when it has been silent for :data:`SILENT_BEATS` heartbeats.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict

from node.storage.files import write_durably

SILENT_BEATS = 12  # heartbeats; at 10 s this bridges a library call that keeps the interpreter locked for two minutes


class Claim(BaseModel):
    """A worker's word that it runs a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str
    attempt: int
    host: str
    pid: int
    stage: str = ""
    released: bool = False  # the attempt ended without a result


def _here() -> str:
    """Name this machine, and the process namespace that our process ids belong to."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{namespace.stat().st_ino if namespace.exists() else 0}"


def _process_is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Claims:
    """The claims in one folder."""

    def __init__(self, folder: Path, *, heartbeat_s: float) -> None:
        self._folder = folder
        self._heartbeat_s = heartbeat_s

    def find(self, job_id: str) -> Claim | None:
        """Return the claim on a job, or ``None``."""
        try:
            return Claim.model_validate_json(self._path(job_id).read_bytes())
        except FileNotFoundError:
            return None

    def is_alive(self, claim: Claim) -> bool:
        """Return whether somebody works on it."""
        if claim.released or (claim.host == _here() and not _process_is_alive(claim.pid)):
            return False
        return self._age_s(claim.job_id) < SILENT_BEATS * self._heartbeat_s

    def _age_s(self, job_id: str) -> float:
        probe = self._folder / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime - self._path(job_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink()

    def remove(self, job_id: str) -> None:
        """Forget the claim on a finished job."""
        self._path(job_id).unlink(missing_ok=True)

    def take(self, job_id: str) -> Beat | None:
        """Claim a job for this process; ``None`` when somebody alive works on it.

        Two workers may both win within the same instant: the result is stored once all the same, only time is lost.
        """
        before = self.find(job_id)
        if before and self.is_alive(before):
            return None
        attempt = before.attempt + 1 if before else 1
        return Beat(self, Claim(job_id=job_id, attempt=attempt, host=_here(), pid=os.getpid()), interval_s=self._heartbeat_s)

    def write(self, claim: Claim) -> None:
        """Write or renew a claim."""
        write_durably(self._path(claim.job_id), claim.model_dump_json().encode())

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"


class Beat:
    """A claim kept alive by a thread while its ``with`` block runs; left by an exception, it is released for the next attempt."""

    def __init__(self, claims: Claims, claim: Claim, *, interval_s: float) -> None:
        self.claim = claim
        self._claims = claims
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"heartbeat {claim.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._claims.write(self.claim)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if kind is not None:
            self._claims.write(self.claim.model_copy(update={"released": True}))

    def stage(self, name: str) -> None:
        """Say what is being done."""
        with self._lock:
            self.claim = self.claim.model_copy(update={"stage": name})
            self._claims.write(self.claim)

    def _renew(self) -> None:
        while not self._done.wait(self._interval_s):
            with self._lock:
                self._claims.write(self.claim)
