"""The commands about model bundles, see ``docs/models.md``."""

from __future__ import annotations

import os
import pwd
from argparse import Namespace
from pathlib import Path

from node.cli import FAILED, OK, say
from node.cli_commands import settings_of
from node.config import Settings
from pipelines.errors import BundleError, ConfigError
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import BundleStatus


def list_models(args: Namespace) -> int:
    """List systems and their bundles; a star marks the one in use."""
    from pipelines.models.bundle import choose_bundle, list_bundles, load_bundle

    settings = settings_of(args)
    root, trusted = settings.node.models_root, settings.node.trusted_keys
    folders = list(list_bundles(root))
    for spec in catalogue(settings.node.systems_path).values():
        own = [f for f in folders if f.parent.name == spec.name]
        say(f"{spec.name}: {spec.title} ({spec.source})")
        if not own:
            say("  no bundle")
            continue
        used = choose_bundle(root, spec, trusted_keys=trusted)
        for folder in own:
            mark = "*" if folder == used.folder else " "
            try:
                bundle = load_bundle(folder, spec, trusted_keys=trusted)
            except BundleError as error:
                say(f"{mark} {folder.name}  cannot be used: {error}")
                continue
            status = used.status if mark == "*" else bundle.manifest.status
            decided = f", decided by {used.decided_by}" if mark == "*" and used.decided_by else ""
            say(f"{mark} {folder.name}  {status}  sha256 {bundle.digest[:12]}  {folder}{decided}")
    return OK


def verify_models(args: Namespace) -> int:
    """Verify one bundle or all of them; every problem is named."""
    from pipelines.models.bundle import list_bundles
    from pipelines.models.verify import find_problems

    settings, failed = settings_of(args), False
    root, specs = settings.node.models_root, catalogue(settings.node.systems_path)
    folders = [_folder(args.bundle, root)] if args.bundle else list(list_bundles(root))
    if not folders:
        raise BundleError(f"no bundle below {root}")
    for folder in folders:
        problems = find_problems(folder, specs, trusted_keys=settings.node.trusted_keys)
        failed = failed or bool(problems)
        say(f"{'FAILED' if problems else 'ok':<7} {folder}")
        for problem in problems:
            say(f"        {problem}")
    return FAILED if failed else OK


def install_model(args: Namespace) -> int:
    """Install a bundle from a folder or a ZIP file."""
    from node.models import install
    from pipelines.models.bundle import choose_bundle

    settings = settings_of(args)
    specs = catalogue(settings.node.systems_path)
    folder = install(args.source, settings, specs=specs, by=args.by or pwd.getpwuid(os.getuid()).pw_name)
    say(str(folder))
    spec = specs[folder.parent.name]
    used = choose_bundle(settings.node.models_root, spec, trusted_keys=settings.node.trusted_keys)
    say(f"in use for {spec.name}: {used.folder.name} ({used.status})")
    return OK


def promote_model(args: Namespace) -> int:
    """Put a bundle to use."""
    from node.models import promote

    settings = settings_of(args)
    spec = _spec(settings, args.system)
    used = promote(settings, spec, args.version, to=BundleStatus(args.to), by=args.by, evaluation=args.evaluation, key=args.key)
    say(f"in use for {spec.name}: {used.folder.name} ({used.status})")
    return OK


def roll_back_model(args: Namespace) -> int:
    """Take the last promotion back."""
    from node.models import roll_back

    settings = settings_of(args)
    spec = _spec(settings, args.system)
    used = roll_back(settings, spec, by=args.by, key=args.key)
    say(f"in use for {spec.name}: {used.folder.name} ({used.status})")
    return OK


def make_key(args: Namespace) -> int:
    """Make a key pair: the private key goes to a file, the public one to the screen."""
    from pipelines.models import signature

    say(f'trusted_keys = ["{signature.make_key(args.out)}"]')
    return OK


def sign_model(args: Namespace) -> int:
    """Sign a bundle."""
    from pipelines.models.bundle import sign_bundle
    from pipelines.models.signature import read_key

    say(str(sign_bundle(args.bundle, read_key(args.key))))
    return OK


def _folder(named: Path, models_root: Path) -> Path:
    """Return the bundle that was named by its folder, or by system/version."""
    return named if named.is_dir() else models_root / named


def _spec(settings: Settings, name: str) -> PipelineSpec:
    specs = catalogue(settings.node.systems_path)
    if name not in specs:
        raise ConfigError(f"there is no system {name!r}; known are {', '.join(sorted(specs))}")
    return specs[name]
