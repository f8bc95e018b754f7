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


def say(line: str) -> None:
    """Print one line of a command's result."""
    sys.stdout.write(f"{line}\n")


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
    send.add_argument("--to", required=True, type=parse_address, metavar="AET@HOST:PORT", help="the peer")
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
    echo.add_argument("to", type=parse_address, metavar="AET@HOST:PORT")
    probe = _add(
        commands,
        "probe",
        "ask a destination what it takes and what a radiologist will see there; nothing is sent",
        "probe PACS --config node.toml",
        "cli_peers.probe_peer",
    )
    probe.add_argument("to", metavar="AET[@HOST:PORT]", help="a peer of the configuration, or any address")
    probe.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds to wait for an answer (%(default)s)")
    probe.add_argument("--json", action="store_true", help="print JSON, as docs/destinations.md describes it")
    _add_config(probe)
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
    models = _add(commands, "models", "look after prediction systems and their model bundles", "models list")
    actions = models.add_subparsers(metavar="ACTION", required=True)
    _add_config(_add(actions, "list", "list systems and bundles; a star marks the one in use", "models list", "cli_models.list_models"))
    _add_bundle_actions(actions)
    phantom = _add(
        commands, "phantom", "write a cohort of synthetic studies", "phantom olnm_mri --n 40 --out cohort/", "cli_training.write_phantoms"
    )
    phantom.add_argument("system", metavar="SYSTEM")
    phantom.add_argument("--n", type=int, default=20, help="number of patients (%(default)s)")
    phantom.add_argument("--auc", type=float, default=0.8, help="AUC of the planted signal at its best; 0.5 plants nothing (%(default)s)")
    phantom.add_argument("--seed", type=int, default=1, help="the same seed gives the same cohort (%(default)s)")
    phantom.add_argument("--preset", default="fast", metavar="NAME", help="fast or full: how finely images are sampled (%(default)s)")
    phantom.add_argument(
        "--site-shift", type=float, default=0.0, metavar="X", help="how far site B's scanner is off; 1 is clearly (%(default)s)"
    )
    phantom.add_argument("--workers", type=int, default=1, metavar="N", help="processes (%(default)s)")
    train = _add(
        commands,
        "train",
        "train a bundle on a cohort",
        "train olnm_mri cohort/cohort.csv --out onnx_models/olnm_mri/site-1",
        "cli_training.train_bundle",
    )
    train.add_argument("system", metavar="SYSTEM")
    train.add_argument("cohort", type=Path, metavar="CSV", help="cohort.csv: patient, study, roi, label, site")
    for one in (phantom, train):
        one.add_argument("--out", required=True, type=Path, metavar="DIR")
    train.add_argument("--seed", type=int, default=1, help="the same seed gives the same bundle (%(default)s)")
    train.add_argument("--networks", choices=("narrow", "published"), default="narrow", help="size of the networks (%(default)s)")
    train.add_argument("--network", metavar="NAME", help="another network than the system's first, such as alexnet_2d")
    train.add_argument("--weights", type=Path, metavar="FILE", help="state dict to start from (ImageNet, MedicalNet); published networks")
    train.add_argument("--frozen", action="store_true", help="use the weights as they are")
    train.add_argument(
        "--embedding",
        choices=("split", "crossfit"),
        default="split",
        help="train networks on other patients than the classifier (split), or anew in each fold (crossfit, slow) (%(default)s)",
    )
    train.add_argument("--late-fusion", action="store_true", help="join a clinical status after the network, not within (small cohorts)")
    train.add_argument(
        "--segmenter", type=Path, metavar="BUNDLE", help="take this bundle's segmenter: systems that share one see the same region"
    )
    train.add_argument("--repeats", type=int, default=5, metavar="N", help="of the nested cross-validation (%(default)s)")
    train.add_argument("--permutations", type=int, default=20, metavar="N", help="of the labels, to test the recipe itself (%(default)s)")
    train.add_argument("--combat", action="store_true", help="harmonise features by site")
    train.add_argument("--compare-fusion", action="store_true", help="judge a Transformer fusion of the sequences beside the recipe")
    train.add_argument("--workers", type=int, default=2, metavar="N", help="processes (%(default)s)")
    _add_config(train)
    evaluate = _add(
        commands,
        "evaluate",
        "judge a bundle on a cohort that had no part in its training",
        "evaluate onnx_models/olnm_mri/site-1 external/cohort.csv --out evaluation/",
        "cli_training.evaluate_bundle",
    )
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    evaluate.add_argument("cohort", type=Path, metavar="CSV", help="as for train")
    evaluate.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="where evaluation.json goes; a run that was stopped goes on"
    )
    evaluate.add_argument("--workers", type=int, default=2, metavar="N", help="processes (%(default)s)")
    _add_config(evaluate)
    demo = _add(commands, "demo-bundles", "build the demo bundles anew", "demo-bundles", "cli_training.build_demo_bundles")
    demo.add_argument("--system", action="append", metavar="NAME", help="one system's only; may be repeated")
    _add_config(demo)


def _add_bundle_actions(actions: _Commands[argparse.ArgumentParser]) -> None:
    verify = _add(
        actions, "verify", "verify bundles: files, graphs, golden cases", "models verify olnm_mri/site-1", "cli_models.verify_models"
    )
    verify.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="its folder, or SYSTEM/VERSION; all by default")
    install = _add(actions, "install", "verify a bundle and install it", "models install site-1.zip", "cli_models.install_model")
    install.add_argument("source", type=Path, metavar="ZIP_OR_DIR")
    install.add_argument("--by", default="", metavar="NAME", help="who installs it, for the audit trail; the user's name by default")
    promote = _add(
        actions,
        "promote",
        "put a bundle to use",
        'models promote olnm_mri site-1 --to validated --by "Dr A. Example" --evaluation evaluation.json',
        "cli_models.promote_model",
    )
    rollback = _add(
        actions,
        "rollback",
        "take a system's last promotion back",
        'models rollback olnm_mri --by "Dr A. Example"',
        "cli_models.roll_back_model",
    )
    for one in (promote, rollback):
        one.add_argument("system", metavar="SYSTEM")
        one.add_argument("--by", required=True, metavar="NAME", help="the person who answers for it")
        one.add_argument("--key", type=Path, metavar="FILE", help="private key that signs the decision; needed where the node trusts keys")
    promote.add_argument("version", metavar="VERSION")
    promote.add_argument("--to", required=True, choices=("research", "validated"), help="the status that its results show")
    promote.add_argument("--evaluation", type=Path, metavar="FILE", help="evaluation.json of `cervinode evaluate`; needed for validated")
    for one in (verify, install, promote, rollback):
        _add_config(one)
    keygen = _add(actions, "keygen", "make a key that signs bundles", "models keygen --out site.key", "cli_models.make_key")
    keygen.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the private key goes; keep it off the node")
    sign = _add(actions, "sign", "sign a bundle", "models sign olnm_mri/site-1 --key site.key", "cli_models.sign_model")
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    sign.add_argument("--key", required=True, type=Path, metavar="FILE", help="private key")


def parse_address(text: str) -> tuple[str, str, int]:
    """Return AE title, host and port of ``AET@HOST:PORT``; raises :class:`argparse.ArgumentTypeError` where it is none."""
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
