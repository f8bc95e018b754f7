"""From rows of the ledger's tables to records."""

from __future__ import annotations

import json
import sqlite3

from node.jobs import JobOrder, JobOutcome, JobState
from node.storage.records import Delivery, DeliveryState, Job, ReceivedInstance, ReceivedStudy


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
    )
