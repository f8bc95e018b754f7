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
from dataclasses import replace
from pathlib import Path
from typing import Self

from node.jobs import FINAL, TRANSITIONS, UNDER_WAY, JobOutcome, JobState
from node.storage.records import AuditLine, ClinicalEntry, Delivery, DeliveryState, Job, PlannedJob, ReceivedInstance, ReceivedStudy
from node.storage.rows import mark_result, to_delivery, to_instance, to_job, to_study, write_plan
from node.storage.schema import MIGRATIONS
from pipelines.errors import CervinodeError

FILE_NAME = "ledger.sqlite3"  # below storage_root
_JOBS = "SELECT *, (SELECT COUNT(*) FROM deliveries d WHERE d.job_id = jobs.job_id AND d.state = 'OMITTED') AS n_omitted FROM jobs"


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
            if self._schema() != len(MIGRATIONS):
                raise LedgerError(f"{path} was written by another version of this program (schema {self._schema()})")
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._migrate(path)

    def _schema(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self, path: Path) -> None:
        done = self._schema()
        if done > len(MIGRATIONS):
            raise LedgerError(f"{path} was written by a newer version of this program (schema {done})")
        for number, script in enumerate(MIGRATIONS[done:], start=done + 1):
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
        return to_instance(rows[0]) if rows else None

    def instances(self, study_instance_uid: str) -> list[ReceivedInstance]:
        """Return the instances of a study in the order of reception."""
        rows = self._select("SELECT * FROM instances WHERE study_instance_uid = ? ORDER BY id", (study_instance_uid,))
        return [to_instance(row) for row in rows]

    def callers(self, study_instance_uid: str) -> list[str]:
        """Return the AE titles that sent instances of a study, the last one first."""
        query = "SELECT calling_ae_title FROM instances WHERE study_instance_uid = ? GROUP BY calling_ae_title ORDER BY MAX(id) DESC"
        return [row[0] for row in self._select(query, (study_instance_uid,))]

    def study(self, study_instance_uid: str) -> ReceivedStudy | None:
        """Return a study, or ``None`` when nothing of it was ever received."""
        rows = self._select("SELECT * FROM studies WHERE study_instance_uid = ?", (study_instance_uid,))
        return to_study(rows[0]) if rows else None

    def unplanned_studies(self) -> list[ReceivedStudy]:
        """Return the studies that have instances which no plan has seen."""
        rows = self._select("SELECT * FROM studies WHERE last_instance_id > planned_instance_id ORDER BY last_received_at")
        return [to_study(row) for row in rows]

    def studies_with_new_values(self) -> list[ReceivedStudy]:
        """Return the planned studies for which clinical values were entered that no plan has seen."""
        rows = self._select(
            "SELECT * FROM studies WHERE last_clinical_id > planned_clinical_id AND last_instance_id <= planned_instance_id"
        )
        return [to_study(row) for row in rows]

    def record_check(self, study_instance_uid: str, instance_id: int, words: str, *, n_missing: int) -> None:
        """Write down what the sender said of a study's completeness when ``instance_id`` was its last instance here."""
        with self._transaction() as db:
            db.execute(
                "UPDATE studies SET checked_instance_id = ?, completeness = ?, n_missing = ? WHERE study_instance_uid = ?",
                (instance_id, words, n_missing, study_instance_uid),
            )

    def add_clinical(self, study_instance_uid: str, entries: Iterable[ClinicalEntry]) -> None:
        """Write down clinical values that were entered; of one name the last entry counts, earlier ones are kept."""
        with self._transaction() as db:
            for e in entries:
                cursor = db.execute(
                    "INSERT INTO clinical (study_instance_uid, name, value, words, source, entered_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (study_instance_uid, e.name, e.value, e.words, e.source, e.entered_at),
                )
                db.execute("UPDATE studies SET last_clinical_id = ? WHERE study_instance_uid = ?", (cursor.lastrowid, study_instance_uid))

    def clinical(self, study_instance_uid: str) -> list[ClinicalEntry]:
        """Return what counts of the clinical values that were entered for a study, by name; withdrawn ones are left out."""
        rows = self._select(
            "SELECT * FROM clinical WHERE study_instance_uid = ? AND id IN (SELECT MAX(id) FROM clinical GROUP BY study_instance_uid, name)"
            " AND value IS NOT NULL ORDER BY name",
            (study_instance_uid,),
        )
        return [ClinicalEntry(**{name: row[name] for name in ClinicalEntry.__dataclass_fields__}) for row in rows]

    def plan(
        self,
        study_instance_uid: str,
        jobs: Iterable[PlannedJob],
        *,
        seen_instance_id: int | None = None,
        seen_clinical_id: int | None = None,
    ) -> None:
        """Write down planned jobs, and in the same breath up to which instance and clinical entry the plan has seen the study.

        A job that is WAITING already is planned anew in its place; any other is added.
        """
        with self._transaction() as db:
            for job in jobs:
                write_plan(db, study_instance_uid, job, now=time.time())
            for column, seen in (("planned_instance_id", seen_instance_id), ("planned_clinical_id", seen_clinical_id)):
                if seen is not None:
                    db.execute(f"UPDATE studies SET {column} = ? WHERE study_instance_uid = ?", (seen, study_instance_uid))

    def studies_with_new_results(self) -> list[str]:
        """Return the studies of which jobs ended or began to wait since their overview was last planned, none of them under way."""
        rows = self._select(
            "SELECT study_instance_uid FROM studies s WHERE overview_due AND NOT EXISTS"
            f" (SELECT 1 FROM jobs j WHERE j.study_instance_uid = s.study_instance_uid AND j.state IN ({', '.join('?' * len(UNDER_WAY))}))",
            tuple(UNDER_WAY),
        )
        return [str(row[0]) for row in rows]

    def plan_overview(self, study_instance_uid: str, job: PlannedJob | None) -> None:
        """Write down the overview of a study, if it needs one, and that its results have been seen."""
        with self._transaction() as db:
            if job:
                write_plan(db, study_instance_uid, job, now=time.time())
            db.execute("UPDATE studies SET overview_due = 0 WHERE study_instance_uid = ?", (study_instance_uid,))

    def job(self, job_id: str) -> Job | None:
        """Return a job, or ``None`` when there is no such job."""
        rows = self._select(f"{_JOBS} WHERE job_id = ?", (job_id,))
        return to_job(rows[0]) if rows else None

    def jobs(self, *states: JobState, study_instance_uid: str | None = None, last: int = 0) -> list[Job]:
        """Return jobs, oldest first: those in one of ``states`` (or in any), of one study (or of all); or the ``last`` ones to change."""
        wanted = states or tuple(JobState)
        query = f"{_JOBS} WHERE state IN ({', '.join('?' * len(wanted))})"
        values: list[object] = list(wanted)
        if study_instance_uid is not None:
            query += " AND study_instance_uid = ?"
            values.append(study_instance_uid)
        order = f"changed_at DESC LIMIT {last}" if last else "created_at, rowid"
        return [to_job(row) for row in self._select(f"{query} ORDER BY {order}", values)]

    def move(self, job_id: str, state: JobState, *, detail: str = "") -> None:
        """Change the state of a job; a move to QUEUED counts as a dispatch.

        Raises
        ------
        LedgerError
            The transition is not in :data:`node.jobs.TRANSITIONS`.
        """
        with self._transaction() as db:
            row = _check_transition(db, job_id, state)
            if state in FINAL and row["outcome_json"] is None:
                mark_result(db, row["study_instance_uid"])
            db.execute(
                "UPDATE jobs SET state = ?, detail = ?, dispatches = dispatches + ?, changed_at = ? WHERE job_id = ?",
                (state, detail, int(state is JobState.QUEUED), time.time(), job_id),
            )

    def accept_outcome(self, outcome: JobOutcome) -> None:
        """Store what a worker returned, plan its delivery and move the job to SENDING; all or nothing."""
        now = time.time()
        with self._transaction() as db:
            row = _check_transition(db, outcome.job_id, JobState.SENDING)
            destinations: list[str] = json.loads(row["destinations_json"])
            mark_result(db, row["study_instance_uid"])
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
        return [to_delivery(r) for r in self._select("SELECT * FROM deliveries WHERE job_id = ? ORDER BY destination, position", (job_id,))]

    def pending_deliveries(self) -> list[Delivery]:
        """Return what is still to be sent: oldest job first, then by destination, in the order of sending."""
        rows = self._select(
            "SELECT d.* FROM deliveries d JOIN jobs j USING (job_id) WHERE d.state = ? AND j.state = ?"
            " ORDER BY j.created_at, j.rowid, d.destination, d.position",
            (DeliveryState.PENDING, JobState.SENDING),
        )
        return [to_delivery(row) for row in rows]

    def record_delivery(self, delivery: Delivery, state: DeliveryState, *, detail: str = "", rejected: bool = False) -> None:
        """Write down what became of one object; ``rejected`` counts an answer of the peer that says "failed"."""
        with self._transaction() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, detail = ?, rejections = rejections + ?, changed_at = ?"
                " WHERE job_id = ? AND destination = ? AND position = ?",
                (state, detail, int(rejected), time.time(), delivery.job_id, delivery.destination, delivery.position),
            )

    def redirect_delivery(self, delivery: Delivery, path: str, sop_instance_uid: str) -> Delivery:
        """Write down, before it is sent, that another file of the job's folder goes out instead, and return the delivery as it is now."""
        with self._transaction() as db:
            db.execute(
                "UPDATE deliveries SET path = ?, sop_instance_uid = ? WHERE job_id = ? AND destination = ? AND position = ?",
                (path, sop_instance_uid, delivery.job_id, delivery.destination, delivery.position),
            )
        return replace(delivery, path=path, sop_instance_uid=sop_instance_uid)

    def destination(self, key: str) -> str | None:
        """Return what a destination last said that it takes, as it was recorded, or ``None`` when it never answered."""
        rows = self._select("SELECT profile_json FROM destinations WHERE ae_title = ?", (key,))  # the column's name is of an earlier build
        return str(rows[0][0]) if rows else None

    def record_destination(self, key: str, profile_json: str) -> None:
        """Write down what a destination says that it takes."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO destinations VALUES (?, ?, ?)", (key, profile_json, time.time()))

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
