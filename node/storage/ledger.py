"""The ledger: what was received, ordered, computed and delivered. SQLite; only the node process writes it.

A commit is on the disk when a method returns (WAL with ``synchronous=FULL``), so what the ledger says survives ``kill -9`` and power loss.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from node.jobs import FINAL, TRANSITIONS, JobOrder, JobOutcome, JobState
from node.storage.records import AuditLine, Delivery, DeliveryState, Job, PlannedJob, ReceivedInstance, UnplannedStudy
from pipelines.errors import CervinodeError

FILE_NAME = "ledger.sqlite3"  # below storage_root

_MIGRATIONS = (
    """
    CREATE TABLE instances (
        id INTEGER PRIMARY KEY AUTOINCREMENT, sop_instance_uid TEXT NOT NULL UNIQUE, sop_class_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL, study_instance_uid TEXT NOT NULL,
        calling_ae_title TEXT NOT NULL, sha256 TEXT NOT NULL, received_at REAL NOT NULL);
    CREATE INDEX instances_by_study ON instances (study_instance_uid);
    CREATE TABLE studies (
        study_instance_uid TEXT PRIMARY KEY, calling_ae_title TEXT NOT NULL, last_received_at REAL NOT NULL,
        last_instance_id INTEGER NOT NULL, planned_instance_id INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX studies_unplanned ON studies (study_instance_uid) WHERE last_instance_id > planned_instance_id;
    CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY, key TEXT NOT NULL, study_instance_uid TEXT NOT NULL, system TEXT NOT NULL, version INTEGER NOT NULL,
        state TEXT NOT NULL, order_json TEXT NOT NULL, destinations_json TEXT NOT NULL, outcome_json TEXT,
        dispatches INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '', created_at REAL NOT NULL, changed_at REAL NOT NULL,
        UNIQUE (study_instance_uid, system, version));
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE TABLE deliveries (
        job_id TEXT NOT NULL REFERENCES jobs, destination TEXT NOT NULL, position INTEGER NOT NULL, path TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL, state TEXT NOT NULL, rejections INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '',
        changed_at REAL NOT NULL, PRIMARY KEY (job_id, destination, position));
    CREATE INDEX deliveries_by_state ON deliveries (state);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, actor TEXT NOT NULL,
        study_instance_uid TEXT NOT NULL, job_id TEXT NOT NULL, detail TEXT NOT NULL);
    """,
)


class LedgerError(CervinodeError):
    """The ledger was asked for something that contradicts what it says."""

    code = "LEDGER"


class Ledger:
    """One SQLite file, one connection, one lock: every method is a transaction and may be called from any thread."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        if read_only and not path.exists():
            raise LedgerError(f"{path} does not exist: no node has run here")
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        if read_only:
            self._db.execute("PRAGMA query_only = ON")
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._migrate(path)

    def _migrate(self, path: Path) -> None:
        done: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if done > len(_MIGRATIONS):
            raise LedgerError(f"{path} was written by a newer version of this program (schema {done})")
        for number, script in enumerate(_MIGRATIONS[done:], start=done + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _select(self, query: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def add_instance(self, instance: ReceivedInstance) -> None:
        """Write down an instance whose file is on the disk."""
        row = instance
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO instances (sop_instance_uid, sop_class_uid, transfer_syntax_uid, series_instance_uid, study_instance_uid,"
                " calling_ae_title, sha256, received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (row.sop_instance_uid, row.sop_class_uid, row.transfer_syntax_uid, row.series_instance_uid, row.study_instance_uid,
                 row.calling_ae_title, row.sha256, row.received_at),
            )  # fmt: skip
            db.execute(
                "INSERT INTO studies (study_instance_uid, calling_ae_title, last_received_at, last_instance_id) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (study_instance_uid) DO UPDATE SET calling_ae_title = excluded.calling_ae_title,"
                " last_received_at = excluded.last_received_at, last_instance_id = excluded.last_instance_id",
                (row.study_instance_uid, row.calling_ae_title, row.received_at, cursor.lastrowid),
            )

    def find_instance(self, sop_instance_uid: str) -> ReceivedInstance | None:
        """Return the instance with this UID, or ``None`` when it was never received."""
        rows = self._select("SELECT * FROM instances WHERE sop_instance_uid = ?", (sop_instance_uid,))
        return _instance(rows[0]) if rows else None

    def instances(self, study_instance_uid: str) -> list[ReceivedInstance]:
        """Return the instances of a study in the order of reception."""
        rows = self._select("SELECT * FROM instances WHERE study_instance_uid = ? ORDER BY id", (study_instance_uid,))
        return [_instance(row) for row in rows]

    def unplanned_studies(self) -> list[UnplannedStudy]:
        """Return the studies that have instances which no plan has seen."""
        rows = self._select(
            "SELECT study_instance_uid, calling_ae_title, last_received_at, last_instance_id FROM studies"
            " WHERE last_instance_id > planned_instance_id ORDER BY last_received_at"
        )
        return [UnplannedStudy(*row) for row in rows]

    def plan(self, study_instance_uid: str, jobs: Iterable[PlannedJob], *, seen_instance_id: int | None = None) -> None:
        """Write down planned jobs, and in the same breath up to which instance the plan has seen the study."""
        now = time.time()
        with self._transaction() as db:
            for job in jobs:
                order = job.order
                db.execute(
                    "INSERT INTO jobs (job_id, key, study_instance_uid, system, version, state, order_json, destinations_json,"
                    " created_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (order.job_id, job.key, study_instance_uid, order.system, order.version, JobState.PLANNED,
                     order.model_dump_json(), json.dumps(job.destinations), now, now),
                )  # fmt: skip
            if seen_instance_id is not None:
                db.execute(
                    "UPDATE studies SET planned_instance_id = ? WHERE study_instance_uid = ?", (seen_instance_id, study_instance_uid)
                )

    def job(self, job_id: str) -> Job | None:
        """Return a job, or ``None`` when there is no such job."""
        rows = self._select("SELECT * FROM jobs WHERE job_id = ?", (job_id,))
        return _job(rows[0]) if rows else None

    def jobs(self, *states: JobState, study_instance_uid: str | None = None) -> list[Job]:
        """Return jobs, oldest first: those in one of ``states`` (all states when none is given), of one study or of all."""
        wanted = states or tuple(JobState)
        query = f"SELECT * FROM jobs WHERE state IN ({', '.join('?' * len(wanted))})"
        values: list[object] = list(wanted)
        if study_instance_uid is not None:
            query += " AND study_instance_uid = ?"
            values.append(study_instance_uid)
        return [_job(row) for row in self._select(f"{query} ORDER BY created_at, rowid", values)]

    def move(self, job_id: str, state: JobState, *, detail: str = "") -> None:
        """Change the state of a job; a move to QUEUED counts as a dispatch.

        Raises
        ------
        LedgerError
            The transition is not in :data:`node.jobs.TRANSITIONS`.
        """
        with self._transaction() as db:
            _check_transition(db, job_id, state)
            db.execute(
                "UPDATE jobs SET state = ?, detail = ?, dispatches = dispatches + ?, changed_at = ? WHERE job_id = ?",
                (state, detail, int(state is JobState.QUEUED), time.time(), job_id),
            )

    def accept_outcome(self, outcome: JobOutcome) -> None:
        """Store what a worker returned, plan its delivery and move the job to SENDING; all or nothing."""
        now = time.time()
        with self._transaction() as db:
            destinations: list[str] = json.loads(_check_transition(db, outcome.job_id, JobState.SENDING)["destinations_json"])
            db.execute(
                "UPDATE jobs SET state = ?, outcome_json = ?, detail = ?, changed_at = ? WHERE job_id = ?",
                (JobState.SENDING, outcome.model_dump_json(), "; ".join(outcome.reasons), now, outcome.job_id),
            )
            db.executemany(
                "INSERT INTO deliveries (job_id, destination, position, path, sop_instance_uid, state, changed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (outcome.job_id, destination, position, item.path, item.sop_instance_uid, DeliveryState.PENDING, now)
                    for destination in destinations
                    for position, item in enumerate(outcome.objects)
                ],
            )

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Return the deliveries of a job by destination, in the order of sending."""
        return [_delivery(r) for r in self._select("SELECT * FROM deliveries WHERE job_id = ? ORDER BY destination, position", (job_id,))]

    def pending_deliveries(self) -> list[Delivery]:
        """Return what is still to be sent: oldest job first, then by destination, in the order of sending."""
        rows = self._select(
            "SELECT d.* FROM deliveries d JOIN jobs j USING (job_id) WHERE d.state = ? AND j.state = ?"
            " ORDER BY j.created_at, j.rowid, d.destination, d.position",
            (DeliveryState.PENDING, JobState.SENDING),
        )
        return [_delivery(row) for row in rows]

    def record_delivery(self, delivery: Delivery, state: DeliveryState, *, detail: str = "", rejected: bool = False) -> None:
        """Write down what became of one object; ``rejected`` counts an answer of the peer that says "failed"."""
        with self._transaction() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, detail = ?, rejections = rejections + ?, changed_at = ?"
                " WHERE job_id = ? AND destination = ? AND position = ?",
                (state, detail, int(rejected), time.time(), delivery.job_id, delivery.destination, delivery.position),
            )

    def add_audit(self, event: str, *, actor: str, study_instance_uid: str, job_id: str, detail: str) -> None:
        """Write one line of the audit trail."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO audit (at, event, actor, study_instance_uid, job_id, detail) VALUES (?, ?, ?, ?, ?, ?)",
                (time.time(), event, actor, study_instance_uid, job_id, detail),
            )

    def audit_trail(self, *, job_id: str | None = None) -> list[AuditLine]:
        """Return the audit trail, oldest first, of one job or of everything."""
        where, values = ("", ()) if job_id is None else ("WHERE job_id = ?", (job_id,))
        rows = self._select(f"SELECT at, event, actor, study_instance_uid, job_id, detail FROM audit {where} ORDER BY id", values)
        return [AuditLine(*row) for row in rows]


def _check_transition(db: sqlite3.Connection, job_id: str, target: JobState) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    if row is None:
        raise LedgerError(f"no job {job_id}")
    current = JobState(row["state"])
    if target not in TRANSITIONS[current]:
        final = ", which is final" if current in FINAL else ""
        raise LedgerError(f"job {job_id} is {current}{final} and cannot become {target}")
    return row


def _instance(row: sqlite3.Row) -> ReceivedInstance:
    return ReceivedInstance(**{name: row[name] for name in ReceivedInstance.__dataclass_fields__})


def _delivery(row: sqlite3.Row) -> Delivery:
    values = {name: row[name] for name in Delivery.__dataclass_fields__}
    return Delivery(**values | {"state": DeliveryState(row["state"])})


def _job(row: sqlite3.Row) -> Job:
    return Job(
        order=JobOrder.model_validate_json(row["order_json"]),
        key=row["key"],
        destinations=tuple(json.loads(row["destinations_json"])),
        state=JobState(row["state"]),
        outcome=JobOutcome.model_validate_json(row["outcome_json"]) if row["outcome_json"] else None,
        dispatches=row["dispatches"],
        detail=row["detail"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )
