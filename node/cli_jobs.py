"""The commands about a node's jobs and studies. They read the ledger and leave requests; only the node writes."""

from __future__ import annotations

import json
import os
import pwd
from argparse import Namespace
from datetime import UTC, datetime

from node.cli import OK, say
from node.cli_commands import settings_of
from node.clinical import stored_record
from node.jobs import FINAL, OVERVIEW, UNDER_WAY, JobState
from node.storage.files import StudyStore
from node.storage.ledger import FILE_NAME, Ledger
from node.storage.records import Job
from pipelines.errors import CervinodeError, ConfigError
from pipelines.features.clinical import parse_all


def list_jobs(args: Namespace) -> int:
    """List jobs."""
    unknown = [s for s in args.state or [] if s.upper() not in JobState.__members__]
    if unknown:
        raise ConfigError(f"--state {unknown[0]}: the states are {', '.join(JobState)}")
    with _ledger(args) as ledger:
        jobs = ledger.jobs(*(JobState(s.upper()) for s in args.state or []))
    if args.json:
        say(json.dumps([_as_json(job) for job in jobs], indent=2))
        return OK
    for job in jobs:
        order = job.order
        words = (
            order.job_id,
            f"{job.state + (', omissions' if job.n_omitted else ''):<9}",
            order.system,
            f"v{order.version}",
            _iso(job.created_at),
            order.study_instance_uid,
            job.detail,
        )
        say("  ".join(words))
    return OK


def show_job(args: Namespace) -> int:
    """Show one job."""
    with _ledger(args) as ledger:
        job = _find(ledger, args.job)
        deliveries = ledger.deliveries(job.order.job_id)
        trail = ledger.audit_trail(job_id=job.order.job_id)
    quarantine = StudyStore(settings_of(args).node.storage_root).quarantine_folder(job.order.job_id)
    shown = _as_json(job) | {
        "quarantine": str(quarantine) if quarantine.is_dir() else None,
        "deliveries": [{"to": d.destination, "object": d.sop_instance_uid, "state": d.state, "detail": d.detail} for d in deliveries],
        "audit": [{"at": _iso(a.at), "event": a.event, "actor": a.actor, "detail": a.detail} for a in trail],
    }
    if args.json:
        say(json.dumps(shown, indent=2))
        return OK
    for name, value in shown.items():
        _say_value(name, value)
    return OK


def _say_value(name: str, value: object) -> None:
    """Print a value; of a list or table an indented line per entry."""
    if isinstance(value, dict):
        value = [f"{key}: {part}" for key, part in value.items() if key != "objects"]
    if not isinstance(value, list):
        say(f"{name}: {value}")
        return
    say(f"{name}:")
    for line in value:
        say(f"  {'  '.join(str(v) for v in line.values()) if isinstance(line, dict) else line}")


def retry_job(args: Namespace) -> int:
    """Ask the node to run a job again; it does so at once if it runs, else when it starts."""
    with _ledger(args) as ledger:
        job = _find(ledger, args.job)
        of_study = ledger.jobs(study_instance_uid=job.order.study_instance_uid)
    same = [j for j in of_study if j.order.system == job.order.system]
    newest = max(same, key=lambda j: j.order.version).order.job_id
    if newest != job.order.job_id:
        raise ConfigError(f"job {job.order.job_id} has a newer version, {newest}; only the newest can run again")
    if job.state not in FINAL:
        raise ConfigError(f"job {job.order.job_id} is {job.state}; only a finished job can run again")
    if job.order.system == OVERVIEW and (busy := [j for j in of_study if j.state in UNDER_WAY]):
        raise ConfigError(f"{busy[0].order.system} of this study is {busy[0].state}; a new overview comes by itself when it has ended")
    StudyStore(settings_of(args).node.storage_root).add_request(json.dumps({"retry": job.order.job_id}).encode())
    say(f"asked for: job {job.order.job_id} runs again as a new version")
    return OK


def clinical(args: Namespace) -> int:
    """Ask the node to enter clinical values, or show those that were entered."""
    with _ledger(args) as ledger:
        stored = stored_record(ledger, args.study)
    if not args.values:
        say(json.dumps(stored, indent=2))
        return OK
    if wrong := [text for text in args.values if "=" not in text]:
        raise ConfigError(f"{wrong[0]!r} is not of the form NAME=VALUE")
    stated = {name: value or None for name, _, value in (text.partition("=") for text in args.values)}
    parse_all({name: value for name, value in stated.items() if value is not None}, source="")
    user = pwd.getpwuid(os.getuid()).pw_name
    request = {"clinical": args.study, "values": stated, "by": user}
    StudyStore(settings_of(args).node.storage_root).add_request(json.dumps(request).encode())
    say(f"asked for: {', '.join(stated)} of study {args.study}")
    return OK


def _ledger(args: Namespace) -> Ledger:
    return Ledger(settings_of(args).node.storage_root / FILE_NAME, read_only=True)


def _find(ledger: Ledger, beginning: str) -> Job:
    found = [job for job in ledger.jobs() if job.order.job_id.startswith(beginning)]
    if len(found) != 1:
        raise CervinodeError(f"{len(found)} jobs begin with {beginning!r}" if found else f"there is no job {beginning!r}")
    return found[0]


def _as_json(job: Job) -> dict[str, object]:
    order, outcome = job.order, job.outcome
    return {
        "job": order.job_id,
        "state": job.state,
        "omitted": job.n_omitted,
        "system": order.system,
        "version": order.version,
        "study": order.study_instance_uid,
        "created": _iso(job.created_at),
        "changed": _iso(job.changed_at),
        "detail": job.detail,
        "bundle": order.bundle_version,
        "predecessor": order.predecessor,
        "series": [f"{c.role}: {c.series_instance_uid} ({len(c.sop_instance_uids)} images), {c.reason}" for c in order.chosen],
        "members": [f"{m.system}: {m.state}, job {m.job_id}" for m in order.members],
        "clinical": [f"{v.name}: {v.words}, {v.source}" for v in order.clinical],
        "completeness": order.completeness,
        "found": list(order.refusal.found) if order.refusal else [],
        "destinations": list(job.destinations),
        "outcome": outcome.model_dump(mode="json") if outcome else None,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
