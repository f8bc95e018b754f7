"""The command line. Heavy parts of the program are loaded by the command that needs them (``cli_commands``, ``cli_jobs``)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

OK, FAILED, USAGE, REFUSED = 0, 1, 2, 3
_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused (the input cannot be analysed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an expected error is one sentence on stderr."""
    args = make_parser().parse_args(arguments)
    from pipelines.errors import CervinodeError, ConfigError, InputError

    try:
        return int(args.run(args))
    except CervinodeError as error:
        sys.stderr.write(f"cervinode: {error}\n")
        return REFUSED if isinstance(error, InputError) else USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        return FAILED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="cervinode",
        description="DICOM-native decision support for cervical cancer. Research software, not a medical device.",
        epilog=_EXIT_CODES,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_services(commands)
    _add_tools(commands)
    _add_jobs(commands)
    _add_clinical(commands)
    _add_models(commands)
    return parser


_Commands = argparse._SubParsersAction  # the class has no public name


def _add(commands: _Commands[argparse.ArgumentParser], name: str, what: str, example: str, run: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example: cervinode {example}"
    )
    if run:
        parser.set_defaults(run=_later(*run.split(".")))
    return parser


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """Return a function that imports a module and calls one of its functions only when the command runs."""

    def run(args: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"node.{module}"), name)(args))

    return run


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of settings; by default node.toml if there is one, and the environment"
    )


def _add_services(commands: _Commands[argparse.ArgumentParser]) -> None:
    serve = _add(commands, "serve", "run a node until it is told to stop", "serve --config node.toml", "cli_commands.serve")
    _add_config(serve)
    worker = _add(commands, "worker", "run a worker for a node's queue", "worker --config node.toml", "cli_commands.worker")
    _add_config(worker)
    worker.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    demo = _add(commands, "demo", "show the whole chain on this machine", "demo --out demo-output", "cli_commands.demo")
    demo.add_argument("--study", type=Path, metavar="DIR", help="folder of DICOM files; a synthetic pelvic MRI by default")
    demo.add_argument("--out", type=Path, metavar="DIR", default=Path("demo-output"), help="where objects and index.html go (%(default)s)")


def _add_tools(commands: _Commands[argparse.ArgumentParser]) -> None:
    send = _add(
        commands,
        "send",
        "send a folder by C-STORE",
        "send study/ --to CERVINODE@10.0.0.4:11112",
        "cli_commands.send_folder",
    )
    send.add_argument("folder", type=Path, metavar="DIR")
    send.add_argument("--to", required=True, type=_address, metavar="AET@HOST:PORT", help="the peer")
    predict = _add(
        commands,
        "predict",
        "run systems on a folder, without network",
        "predict study/ --out result/",
        "cli_commands.predict_folder",
    )
    predict.add_argument("folder", type=Path, metavar="DIR")
    predict.add_argument("--out", required=True, type=Path, metavar="DIR", help="where objects and summary.json go")
    predict.add_argument("--system", action="append", metavar="NAME", help="a system to run; may be repeated; all by default")
    predict.add_argument("--clinical", type=Path, metavar="FILE", help='JSON file of clinical values, {"age_y": 47, "figo_stage": "IB2"}')
    predict.add_argument("--json", action="store_true", help="print the summary as JSON")
    _add_config(predict)
    inspect = _add(
        commands,
        "inspect",
        "say what a folder holds and what each system would do with it",
        "inspect study/",
        "cli_commands.inspect_folder",
    )
    inspect.add_argument("folder", type=Path, metavar="DIR")
    inspect.add_argument("--json", action="store_true", help="print JSON, as docs/inspect.md describes it")
    _add_config(inspect)
    echo = _add(commands, "echo", "ask a peer for a sign of life (C-ECHO)", "echo PACS@10.0.0.5:104", "cli_commands.echo_peer")
    echo.add_argument("to", type=_address, metavar="AET@HOST:PORT")
    for one in (send, echo):
        one.add_argument("--from", dest="calling", type=_ae_title, default="CERVINODE", metavar="AET", help="our AE title (%(default)s)")
        one.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds to wait for an answer (%(default)s)")
    config = _add(commands, "config", "check the configuration", "config check --config deploy/node.example.toml")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    check = _add(
        actions,
        "check",
        "check that settings are valid and what they name exists",
        "config check --config node.toml",
        "cli_commands.check_config",
    )
    _add_config(check)


def _add_jobs(commands: _Commands[argparse.ArgumentParser]) -> None:
    jobs = _add(commands, "jobs", "look at a node's jobs", "jobs list --config node.toml")
    actions = jobs.add_subparsers(metavar="ACTION", required=True)
    listed = _add(actions, "list", "list jobs, newest last", "jobs list --state FAILED", "cli_jobs.list_jobs")
    listed.add_argument("--state", action="append", metavar="STATE", help="only jobs in this state; may be repeated")
    show = _add(
        actions,
        "show",
        "show input, outcome, deliveries and audit trail of a job",
        "jobs show 3f9a",
        "cli_jobs.show_job",
    )
    retry = _add(actions, "retry", "run a finished job again, as a new version", "jobs retry 3f9a", "cli_jobs.retry_job")
    for one in (show, retry):
        one.add_argument("job", metavar="JOB", help="its id, or the beginning of it")
    for one in (listed, show):
        one.add_argument("--json", action="store_true", help="print JSON")
    for one in (listed, show, retry):
        _add_config(one)


def _add_clinical(commands: _Commands[argparse.ArgumentParser]) -> None:
    clinical = _add(
        commands,
        "clinical",
        "enter or show clinical values of a study in a node",
        "clinical 1.2.840.99.1 age_y=47 figo_stage=IB2",
        "cli_jobs.clinical",
    )
    clinical.add_argument("study", metavar="STUDY_UID")
    clinical.add_argument("values", nargs="*", metavar="NAME=VALUE", help="NAME= withdraws a value; without any, show what was entered")
    _add_config(clinical)


def _add_models(commands: _Commands[argparse.ArgumentParser]) -> None:
    models = _add(commands, "models", "look at prediction systems and their model bundles", "models list")
    actions = models.add_subparsers(metavar="ACTION", required=True)
    _add_config(_add(actions, "list", "list systems and bundles", "models list", "cli_commands.list_models"))
    _add_config(_add(actions, "verify", "verify every bundle's files against its manifest", "models verify", "cli_commands.verify_models"))
    phantom = _add(
        commands, "phantom", "write a cohort of synthetic studies", "phantom olnm_mri --n 40 --out cohort/", "cli_commands.write_phantoms"
    )
    phantom.add_argument("system", metavar="SYSTEM")
    phantom.add_argument("--n", type=int, default=20, help="number of patients (%(default)s)")
    phantom.add_argument("--auc", type=float, default=0.8, help="AUC of the planted signal at its best (%(default)s)")
    phantom.add_argument("--seed", type=int, default=1, help="the same seed gives the same cohort (%(default)s)")
    train = _add(
        commands,
        "train",
        "train a bundle on a cohort",
        "train olnm_mri cohort/cohort.csv --out onnx_models/olnm_mri/site-1",
        "cli_commands.train_bundle",
    )
    train.add_argument("system", metavar="SYSTEM")
    train.add_argument("cohort", type=Path, metavar="CSV", help="cohort.csv: patient, study, roi, label, site")
    for one in (phantom, train):
        one.add_argument("--out", required=True, type=Path, metavar="DIR")
    train.add_argument("--seed", type=int, default=1, help="the same seed gives the same bundle (%(default)s)")
    demo = _add(commands, "demo-bundles", "build the demo bundles anew", "demo-bundles", "cli_commands.build_demo_bundles")
    _add_config(demo)


def _address(text: str) -> tuple[str, str, int]:
    title, at, place = text.partition("@")
    host, colon, port = place.rpartition(":")
    if not (title and at and host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form AET@HOST:PORT")
    return _ae_title(title), host.strip("[]"), int(port)


def _ae_title(text: str) -> str:
    from node.config import check_ae_title

    try:
        return check_ae_title(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
