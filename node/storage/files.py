"""Files of the node, all below ``storage_root``; a file with its final name is complete and on the disk.

=============================  ======================================================================================
``studies/<study>/<sop>.dcm``  instances as received (PS3.10 files), written once, never changed
``incoming/``                  files being written
``results/<job>/``             what a job left: the result objects and ``outcome.json``; appears at once and complete
``results/<job>/quarantine/``  objects that failed their check, with ``reasons.json``: kept to be looked at, never sent
``shared/<sop>.dcm``           result objects that several jobs have in common, as the first of them wrote them
``running/<job>.json``         signs of life of workers (:mod:`node.storage.claims`)
``requests/``                  wishes of an operator that the node carries out (``cervinode jobs retry``)
=============================  ======================================================================================
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from node.jobs import JobOutcome
from pipelines.errors import InputError

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 9.1; leading zeros, forbidden there but found in the field, are let through
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,79}")
_OUTCOME = "outcome.json"
_QUARANTINE = "quarantine"


def check_uid(uid: str) -> str:
    """Return ``uid`` if it is a DICOM UID (PS3.5 9.1: digits and dots, at most 64), and so safe as a file name.

    Raises
    ------
    InputError
        It is not.
    """
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise InputError(f"{uid[:70]!r} is not a UID (PS3.5 9.1)")
    return uid


def write_durably(path: Path, content: bytes, *, staging: Path | None = None) -> None:
    """Write a file so that it is either absent or complete under its name, whatever happens: temporary file, fsync, rename, fsync.

    ``staging`` is the folder of the temporary file, on the same file system; by default the file's own.
    """
    temporary = (staging or path.parent) / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a rename lasts only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StudyStore:
    """The folders of one node. Safe for several processes and hosts on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._studies = root / "studies"
        self._incoming = root / "incoming"
        self._results = root / "results"
        self._shared = root / "shared"
        self._requests = root / "requests"
        self.running = root / "running"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self._studies, self._incoming, self._results, self._shared, self._requests, self.running):
            folder.mkdir(parents=True, exist_ok=True)

    def discard_leftovers(self) -> None:
        """Delete what an interrupted reception left behind; nobody was told that it had arrived. Only before listening."""
        for path in self._incoming.iterdir():
            path.unlink(missing_ok=True)

    def free_mb(self) -> float:
        """Return the free disk in megabytes (10^6 bytes)."""
        return shutil.disk_usage(self.root).free / 1e6

    def instance_path(self, study_instance_uid: str, sop_instance_uid: str) -> Path:
        """Return where an instance lies or would lie.

        Raises
        ------
        InputError
            A UID is not valid.
        """
        return self._studies / check_uid(study_instance_uid) / f"{check_uid(sop_instance_uid)}.dcm"

    def keep_instance(self, study_instance_uid: str, sop_instance_uid: str, content: bytes) -> None:
        """Write an instance; when this returns it is on the disk. One of the same name is replaced."""
        path = self.instance_path(study_instance_uid, sop_instance_uid)
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            _sync_folder(self._studies)
        write_durably(path, content, staging=self._incoming)

    def result_folder(self, job_id: str) -> Path:
        """Return the folder of a job's result; it exists only when the result is complete.

        Raises
        ------
        InputError
            ``job_id`` is none of ours.
        """
        if not _JOB_ID.fullmatch(job_id):
            raise InputError(f"{job_id[:90]!r} is not a job id")
        return self._results / job_id

    def quarantine_folder(self, job_id: str) -> Path:
        """Return the folder of a job's objects that failed their check; it exists only where there are some."""
        return self.result_folder(job_id) / _QUARANTINE

    def outcome(self, job_id: str) -> JobOutcome | None:
        """Return the outcome of a job, or ``None`` while there is none."""
        path = self.result_folder(job_id) / _OUTCOME
        if not path.exists():
            return None
        return JobOutcome.model_validate_json(path.read_bytes())

    def keep_result(self, outcome: JobOutcome, objects: Mapping[str, bytes], quarantine: Mapping[str, bytes] | None = None) -> JobOutcome:
        """Store a result for good and return the one that is stored: of two workers that finish the same job, the first one's.

        ``objects`` are the encoded DICOM files by the names in ``outcome.objects``; ``quarantine`` are files that go nowhere.
        """
        final = self.result_folder(outcome.job_id)
        temporary = self._results / f".{outcome.job_id}.{uuid.uuid4().hex}"
        temporary.mkdir()
        if quarantine:
            (temporary / _QUARANTINE).mkdir()
        for name, content in (quarantine or {}).items():
            write_durably(temporary / _QUARANTINE / name, content)
        for name, content in objects.items():
            write_durably(temporary / name, content)
        write_durably(temporary / _OUTCOME, outcome.model_dump_json(indent=1).encode())
        try:
            temporary.rename(final)  # fails if the folder exists: it is never empty
        except OSError:
            shutil.rmtree(temporary)
            if (stored := self.outcome(outcome.job_id)) is None:
                raise
            return stored
        _sync_folder(self._results)
        return outcome

    def keep_shared(self, sop_instance_uid: str, content: bytes) -> bytes:
        """Store an object that several results have in common; return what is stored, the first one's: equal UIDs mean equal bytes."""
        path = self._shared / f"{check_uid(sop_instance_uid)}.dcm"
        self._shared.mkdir(exist_ok=True)  # a worker may start before the node has prepared a data folder of an earlier build
        mine = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        write_durably(mine, content)
        try:
            os.link(mine, path)  # fails if it exists, unlike a rename
        except FileExistsError:
            return path.read_bytes()
        finally:
            mine.unlink()
        _sync_folder(self._shared)
        return content

    def keep_variant(self, job_id: str, name: str, content: bytes) -> None:
        """Add a file to a stored result: one of its objects as another SOP class."""
        write_durably(self.result_folder(job_id) / name, content)

    def add_request(self, content: bytes) -> None:
        """Leave a request for the node."""
        write_durably(self._requests / f"{uuid.uuid4().hex}.json", content)

    def requests(self) -> list[Path]:
        """Return the requests that wait, oldest first; whoever carries one out deletes its file."""
        return sorted(self._requests.glob("*.json"), key=lambda p: p.stat().st_mtime)
