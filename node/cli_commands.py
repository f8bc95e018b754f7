"""What the commands do. Results go to stdout, errors are raised and become one sentence on stderr (:mod:`node.cli`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from node.cli import FAILED, OK, REFUSED, say
from node.config import Settings, load_settings
from pipelines.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pipelines.spec import PipelineSpec
    from pipelines.types import ClinicalValue

_DEFAULT_CONFIG = Path("node.toml")
_PARENT_CHECK_S = 1.0


def settings_of(args: Namespace) -> Settings:
    """Return the settings that a command runs with."""
    return load_settings(args.config or (_DEFAULT_CONFIG if _DEFAULT_CONFIG.is_file() else None))


def serve(args: Namespace) -> int:
    """Run a node until SIGTERM or SIGINT."""
    from node import app, log

    settings = settings_of(args)
    log.set_up(settings.node.log_level)
    node = app.build(settings)
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wanted.set())
    node.run_until(wanted)
    return OK


def worker(args: Namespace) -> int:
    """Run a worker until SIGTERM."""
    from node import log
    from node.queues.celery import serve_worker
    from node.worker import make_worker

    settings = settings_of(args)
    log.set_up(settings.node.log_level)
    if not settings.broker.url:
        raise ConfigError("[broker] url: a worker needs the address of the node's Redis")
    if args.with_parent:
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), name="parent", daemon=True).start()
    serve_worker(settings.broker.url, make_worker(settings).execute, job_timeout_s=settings.worker.job_timeout_s)
    return OK


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def demo(args: Namespace) -> int:
    """Show the whole chain on this machine."""
    from node import demo as demonstration
    from node import log

    log.set_up("error")
    return demonstration.run(args.study, args.out)


def send_folder(args: Namespace) -> int:
    """Send a folder; every instance that was not accepted is named."""
    from node.dicom.scu import Address, Answer, send
    from pipelines.imaging.series import find_dicom_files

    files = find_dicom_files(args.folder)
    sent = send(files, Address(*args.to), calling_ae_title=args.calling, timeout_s=args.timeout)
    for one in sent:
        if one.answer is not Answer.ACCEPTED:
            say(f"{one.path}: {one.answer.lower()}, {one.detail}")
    accepted = sum(one.answer is Answer.ACCEPTED for one in sent)
    say(f"{accepted} of {len(sent)} instances accepted by {Address(*args.to)}")
    return OK if accepted == len(sent) else FAILED


def echo_peer(args: Namespace) -> int:
    """C-ECHO."""
    from node.dicom.scu import Address, echo

    echo(Address(*args.to), calling_ae_title=args.calling, timeout_s=args.timeout)
    say(f"{Address(*args.to)} answers")
    return OK


def predict_folder(args: Namespace) -> int:
    """Run systems on a folder; exit code 3 when one of them refused, 1 when one failed."""
    from node.jobs import ResultStatus
    from node.planning import refer_to_bundle
    from node.predict import predict, summarise

    settings = settings_of(args)
    specs = _specs(settings)
    usable = [spec for spec in specs.values() if refer_to_bundle(settings.node.models_root, spec).digest]
    chosen = [_spec(specs, name) for name in args.system] if args.system else usable
    args.out.mkdir(parents=True, exist_ok=True)
    results = predict(
        args.folder,
        args.out,
        specs=chosen,
        models_root=settings.node.models_root,
        station=settings.node.ae_title,
        language=settings.node.language,
        clinical=_read_clinical(args.clinical) if args.clinical else {},
        trusted_keys=settings.node.trusted_keys,
    )
    if args.json:
        say(json.dumps(summarise(results), indent=2))
    else:
        for result in results:
            outcome = result.outcome
            number = "" if outcome.probability is None else f" probability {outcome.probability:.4f}, {outcome.call}"
            say(f"{outcome.system}: {outcome.status}{number}")
            for reason in outcome.reasons:
                say(f"  {reason}")
        say(f"{sum(len(r.outcome.objects) for r in results)} objects and summary.json in {args.out}")
    statuses = {r.outcome.status for r in results}
    return FAILED if ResultStatus.FAILED in statuses else REFUSED if ResultStatus.REFUSED in statuses else OK


def _read_clinical(path: Path) -> dict[str, ClinicalValue]:
    from pipelines.features.clinical import parse_all

    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(stated, dict):
        raise InputError(f"{path}: not a JSON object of names and values")
    try:
        return parse_all(stated, source=f"file {path.name} given on the command line")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def inspect_folder(args: Namespace) -> int:
    """Print what a folder of DICOM files holds and what each system would do with it."""
    from node.inspect import run

    width = shutil.get_terminal_size().columns
    return run(args.folder, systems=_specs(settings_of(args)), as_json=args.json, width=width)


def check_config(args: Namespace) -> int:
    """Check that the settings are valid, that systems and bundles exist, and that a result can be seen where it goes."""
    from node.cli_peers import check_destinations
    from pipelines.models.bundle import choose_bundle, load_bundle
    from structured_reports.canvas import describe_missing_font

    settings = settings_of(args)
    specs = _specs(settings)
    for name in sorted({name for route in settings.routes for name in route.systems}):
        spec = _spec(specs, name)
        used = choose_bundle(settings.node.models_root, spec, trusted_keys=settings.node.trusted_keys)
        bundle = load_bundle(used.folder, spec, trusted_keys=settings.node.trusted_keys)
        say(f"system {name}: bundle {bundle.manifest.version} ({used.status})")
    if not any(peer.may_send for peer in settings.peers):
        raise ConfigError("[[peers]]: no peer may send, so the node could not receive anything; list at least one")
    check_destinations(settings)
    node = settings.node
    if words := describe_missing_font(node.language):
        say(f"WARNING: [node] language: {words}")
    say(f"{node.ae_title} on {node.host}:{node.port}: {len(settings.peers)} peers, {len(settings.routes)} routes")
    return OK


def _specs(settings: Settings) -> dict[str, PipelineSpec]:
    from pipelines.systems import catalogue

    return catalogue(settings.node.systems_path)


def _spec(specs: dict[str, PipelineSpec], name: str) -> PipelineSpec:
    if name not in specs:
        raise ConfigError(f"there is no system {name!r}; known are {', '.join(sorted(specs))}")
    return specs[name]
