"""What the commands do. Results go to stdout, errors are raised and become one sentence on stderr (:mod:`node.cli`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from node.cli import FAILED, OK, REFUSED
from node.config import Settings, load_settings
from pipelines.errors import BundleError, CohortError, ConfigError, InputError

if TYPE_CHECKING:
    from pipelines.spec import PipelineSpec
    from pipelines.types import ClinicalValue

_DEFAULT_CONFIG = Path("node.toml")
_PARENT_CHECK_S = 1.0


def settings_of(args: Namespace) -> Settings:
    """Return the settings that a command runs with."""
    return load_settings(args.config or (_DEFAULT_CONFIG if _DEFAULT_CONFIG.is_file() else None))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


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
            _say(f"{one.path}: {one.answer.lower()}, {one.detail}")
    accepted = sum(one.answer is Answer.ACCEPTED for one in sent)
    _say(f"{accepted} of {len(sent)} instances accepted by {Address(*args.to)}")
    return OK if accepted == len(sent) else FAILED


def echo_peer(args: Namespace) -> int:
    """C-ECHO."""
    from node.dicom.scu import Address, echo

    echo(Address(*args.to), calling_ae_title=args.calling, timeout_s=args.timeout)
    _say(f"{Address(*args.to)} answers")
    return OK


def predict_folder(args: Namespace) -> int:
    """Run systems on a folder; exit code 3 when one of them refused, 1 when one failed."""
    from node.jobs import ResultStatus
    from node.predict import predict, summarise

    settings = settings_of(args)
    specs = _specs(settings)
    chosen = [_spec(specs, name) for name in args.system] if args.system else list(specs.values())
    args.out.mkdir(parents=True, exist_ok=True)
    results = predict(
        args.folder,
        args.out,
        specs=chosen,
        models_root=settings.node.models_root,
        station=settings.node.ae_title,
        clinical=_read_clinical(args.clinical) if args.clinical else {},
    )
    if args.json:
        _say(json.dumps(summarise(results), indent=2))
    else:
        for result in results:
            outcome = result.outcome
            number = "" if outcome.probability is None else f" probability {outcome.probability:.4f}, {outcome.call}"
            _say(f"{outcome.system}: {outcome.status}{number}")
            for reason in outcome.reasons:
                _say(f"  {reason}")
        _say(f"{sum(len(r.outcome.objects) for r in results)} objects and summary.json in {args.out}")
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
    """Check that the settings are valid and that systems and bundles exist."""
    from pipelines.models.bundle import find_bundle, load_bundle

    settings = settings_of(args)
    specs = _specs(settings)
    for name in sorted({name for route in settings.routes for name in route.systems}):
        spec = _spec(specs, name)
        bundle = load_bundle(find_bundle(settings.node.models_root, spec), spec)
        _say(f"system {name}: bundle {bundle.manifest.version} ({bundle.manifest.status})")
    if not any(peer.may_send for peer in settings.peers):
        raise ConfigError("[[peers]]: no peer may send, so the node could not receive anything; list at least one")
    node = settings.node
    _say(f"{node.ae_title} on {node.host}:{node.port}: {len(settings.peers)} peers, {len(settings.routes)} routes")
    return OK


def list_models(args: Namespace) -> int:
    """List systems and their bundles."""
    from pipelines.models.bundle import list_bundles, load_bundle

    settings = settings_of(args)
    folders = list(list_bundles(settings.node.models_root))
    for spec in _specs(settings).values():
        own = [load_bundle(f, spec) for f in folders if f.parent.name == spec.name]
        _say(f"{spec.name}: {spec.title} ({spec.source})")
        for bundle in own:
            _say(f"  {bundle.manifest.version}  {bundle.manifest.status}  sha256 {bundle.digest[:12]}  {bundle.folder}")
        if not own:
            _say("  no bundle")
    return OK


def verify_models(args: Namespace) -> int:
    """Verify every bundle; all problems are named."""
    from pipelines.models.bundle import list_bundles, load_bundle

    settings, problems = settings_of(args), 0
    specs = _specs(settings)
    folders = list(list_bundles(settings.node.models_root))
    for folder in folders:
        try:
            bundle = load_bundle(folder, _spec(specs, folder.parent.name))
            _say(f"ok      {bundle.label}  {len(bundle.manifest.files)} files")
        except (BundleError, ConfigError) as error:
            problems += 1
            _say(f"FAILED  {error}")
    if not folders:
        raise BundleError(f"no bundle below {settings.node.models_root}")
    return FAILED if problems else OK


def write_phantoms(args: Namespace) -> int:
    """Write a synthetic cohort."""
    from pipelines.phantoms.cohort import write_cohort

    try:
        path = write_cohort(args.out, args.system, n=args.n, auc=args.auc, seed=args.seed, progress=_say)
    except ValueError as error:
        raise CohortError(str(error)) from error
    _say(str(path))
    return OK


def train_bundle(args: Namespace) -> int:
    """Train a bundle."""
    _check_training_is_installed()
    from pipelines.training.train import train

    _say(str(train(args.system, args.cohort, out=args.out, seed=args.seed, progress=_say)))
    return OK


def build_demo_bundles(args: Namespace) -> int:
    """Build the demo bundles."""
    _check_training_is_installed()
    from pipelines.training import demo as training_demo

    training_demo.build_demo_bundles(settings_of(args).node.models_root, progress=_say)
    return OK


def _check_training_is_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "sklearn", "lightgbm", "skl2onnx") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}: install cervinode[train]")


def _specs(settings: Settings) -> dict[str, PipelineSpec]:
    from pipelines.systems import catalogue

    return catalogue(settings.node.systems_path)


def _spec(specs: dict[str, PipelineSpec], name: str) -> PipelineSpec:
    if name not in specs:
        raise ConfigError(f"there is no system {name!r}; known are {', '.join(sorted(specs))}")
    return specs[name]
