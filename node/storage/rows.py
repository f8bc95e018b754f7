"""Between rows of the ledger's tables and records."""

from __future__ import annotations

import json
import sqlite3

from node.jobs import JobOrder, JobOutcome, JobState
from node.storage.records import Delivery, DeliveryState, Job, PlannedJob, ReceivedInstance, ReceivedStudy


def to_instance(row: sqlite3.Row) -> ReceivedInstance:
    """Return a row of ``instances``."""
    return ReceivedInstance(**{name: row[name] for name in ReceivedInstance.__dataclass_fields__})


def to_study(row: sqlite3.Row) -> ReceivedStudy:
    """Return a row of ``studies``."""
    return ReceivedStudy(**{name: row[name] for name in ReceivedStudy.__dataclass_fields__})


def to_delivery(row: sqlite3.Row) -> Delivery:
    """Return a row of ``deliveries``."""
    values = {name: row[name] for name in Delivery.__dataclass_fields__}
    return Delivery(**values | {"state": DeliveryState(row["state"])})


def to_job(row: sqlite3.Row) -> Job:
    """Return a row of ``jobs``."""
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
        waits_until=row["waits_until"],
        n_omitted=row["n_omitted"],
    )


def write_plan(db: sqlite3.Connection, study_instance_uid: str, job: PlannedJob, *, now: float) -> None:
    """Write a planned job into ``jobs``: in the place of one that is WAITING, else as a new row. ``now`` is seconds since 1970."""
    order, state = job.order, JobState.PLANNED if job.waits_until is None else JobState.WAITING
    detail = job.waits_for if state is JobState.WAITING else ""
    content = (job.key, state, order.model_dump_json(), json.dumps(job.destinations), detail, job.waits_until, now)
    if state is JobState.WAITING:
        mark_result(db, study_instance_uid)
    replaced = db.execute(
        "UPDATE jobs SET key = ?, state = ?, order_json = ?, destinations_json = ?, detail = ?, waits_until = ?, changed_at = ?"
        " WHERE job_id = ? AND state = ?",
        (*content, order.job_id, JobState.WAITING),
    )
    if not replaced.rowcount:
        db.execute(
            "INSERT INTO jobs (key, state, order_json, destinations_json, detail, waits_until, changed_at, created_at, job_id,"
            " study_instance_uid, system, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*content, now, order.job_id, study_instance_uid, order.system, order.version),
        )


def mark_result(db: sqlite3.Connection, study_instance_uid: str) -> None:
    """Note that the overview of a study may have something new to show."""
    db.execute("UPDATE studies SET overview_due = 1 WHERE study_instance_uid = ?", (study_instance_uid,))
