"""What the commands around training do; the training libraries are loaded only here, and only when a command needs them."""

from __future__ import annotations

from argparse import Namespace
from datetime import date

from node.cli import OK, say
from node.cli_commands import settings_of
from pipelines.errors import CohortError, ConfigError


def write_phantoms(args: Namespace) -> int:
    """Write a synthetic cohort."""
    from pipelines.phantoms.cohort import write_cohort

    try:
        path = write_cohort(
            args.out,
            args.system,
            n=args.n,
            auc=args.auc,
            seed=args.seed,
            preset=args.preset,
            site_shift=args.site_shift,
            workers=args.workers,
            progress=say,
        )
    except ValueError as error:
        raise CohortError(str(error)) from error
    say(str(path))
    return OK


def train_bundle(args: Namespace) -> int:
    """Train a bundle and write its report."""
    _check_training_is_installed()
    from pipelines.training.plan import Plan
    from pipelines.training.report import FILE_NAME
    from pipelines.training.train import train

    if args.frozen and not args.weights:
        raise ConfigError("--frozen: there are no weights to keep; name them with --weights")
    plan = Plan(
        published=args.networks == "published" or args.weights is not None,
        network=args.network or "",
        weights=args.weights,
        frozen=args.frozen,
        embedding=args.embedding,
        joint=not args.late_fusion,
        segmenter_of=args.segmenter,
        repeats=args.repeats,
        permutations=args.permutations,
        combat=args.combat,
        compare_fusion=args.compare_fusion,
        workers=args.workers,
    )
    trained = train(
        args.system,
        args.cohort,
        out=args.out,
        date=date.today(),
        seed=args.seed,
        plan=plan,
        systems_path=settings_of(args).node.systems_path,
        progress=say,
    )
    for warning in trained.outcome.warnings:
        say(f"warning: {warning}")
    say(f"bundle {trained.bundle}")
    say(f"report {trained.report / FILE_NAME}")
    return OK


def evaluate_bundle(args: Namespace) -> int:
    """Judge a bundle on a cohort."""
    from pipelines.training.evaluate import FILE_NAME, evaluate
    from pipelines.training.evaluation_table import describe
    from pipelines.training.report import write_evaluation_report

    if args.workers < 1:
        raise ConfigError(f"--workers: at least one process is needed, not {args.workers}")
    node = settings_of(args).node
    found = evaluate(
        args.bundle,
        args.cohort,
        out=args.out,
        date=date.today(),
        trusted_keys=node.trusted_keys,
        systems_path=node.systems_path,
        workers=args.workers,
        progress=say,
    )
    for line in ("", *describe(found), "", str(args.out / FILE_NAME), f"report {write_evaluation_report(found, args.out)}"):
        say(line)
    return OK


def build_demo_bundles(args: Namespace) -> int:
    """Build the demo bundles."""
    _check_training_is_installed()
    from pipelines.training import demo as training_demo

    training_demo.build_demo_bundles(settings_of(args).node.models_root, systems=args.system or tuple(training_demo.DEMOS), progress=say)
    return OK


def _check_training_is_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "sklearn", "lightgbm", "skl2onnx") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}: install cervinode[train]")
