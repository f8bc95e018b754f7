"""Which bundle is in use at this site: installed, promoted, rolled back, each with a line in the audit trail.

The state is a file below ``models_root`` (:mod:`pipelines.models.in_use`) that the node reads whenever it plans a job, so a change holds
from the next job on. The audit line is a request to the node, which alone writes the ledger: at once if it runs, else when it starts.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.audit import AuditEvent
from node.config import Settings
from node.storage.files import StudyStore, write_durably
from pipelines.errors import BundleError, ConfigError
from pipelines.models import in_use, promotion
from pipelines.models.bundle import Choice, choose_bundle, load_bundle
from pipelines.models.install import install_bundle
from pipelines.models.signature import public_key, read_key
from pipelines.spec import PipelineSpec
from pipelines.types import BundleStatus


def install(source: Path, settings: Settings, *, specs: Mapping[str, PipelineSpec], by: str) -> Path:
    """Bring a bundle into ``models_root`` and return its folder.

    Raises
    ------
    BundleError
        See :func:`pipelines.models.install.install_bundle`.
    """
    who = promotion.check_person(by)
    folder, digest = install_bundle(source, settings.node.models_root, specs=specs, trusted_keys=settings.node.trusted_keys)
    _audit(settings, AuditEvent.BUNDLE_INSTALLED, who, f"{folder.parent.name} {folder.name}, sha256 {digest}")
    return folder


def promote(
    settings: Settings,
    spec: PipelineSpec,
    version: str,
    *,
    to: BundleStatus,
    by: str,
    evaluation: Path | None = None,
    key: Path | None = None,
) -> Choice:
    """Put a version of a system to use with a status, and return what is in use now.

    Raises
    ------
    BundleError
        The bundle cannot be loaded, or the grounds for the status are not there.
    ConfigError
        This node trusts keys, and the state is not to be signed with one of them.
    """
    root, trusted = settings.node.models_root, settings.node.trusted_keys
    signer = _signer(settings, key)
    content = _read(evaluation) if evaluation else None
    bundle = load_bundle(root / spec.name / version, spec, trusted_keys=trusted)
    with _locked(root):
        state = in_use.read_in_use(root, trusted)
        state = promotion.promote(state, bundle, to=to, by=by, at=datetime.now(UTC), evaluation=content, key=signer)
        write_durably(root / in_use.FILE_NAME, state.encode())
    basis = state.actions[-1].basis
    grounds = f", evaluation sha256 {basis.sha256} on {basis.n} patients of {', '.join(basis.sites)}, AUC {basis.auc:.3f}" if basis else ""
    _audit(settings, AuditEvent.BUNDLE_PROMOTED, state.actions[-1].by, f"{bundle.label} to {to}, sha256 {bundle.digest}{grounds}")
    return choose_bundle(root, spec, trusted_keys=trusted)


def roll_back(settings: Settings, spec: PipelineSpec, *, by: str, key: Path | None = None) -> Choice:
    """Take the last promotion of a system back, and return what is in use now.

    Raises
    ------
    BundleError
        There is none, or what was in use before cannot be used any more; then nothing is changed.
    ConfigError
        As for :func:`promote`.
    """
    root, trusted = settings.node.models_root, settings.node.trusted_keys
    signer = _signer(settings, key)
    with _locked(root):
        state = in_use.read_in_use(root, trusted)
        state = promotion.roll_back(state, spec.name, by=by, at=datetime.now(UTC), key=signer)
        before = choose_bundle(root, spec, trusted_keys=trusted, state=state)
        load_bundle(before.folder, spec, trusted_keys=trusted)
        write_durably(root / in_use.FILE_NAME, state.encode())
    last = state.actions[-1]
    detail = f"{last.system} {last.version}, sha256 {last.digest}, back to {before.folder.name} ({before.status})"
    _audit(settings, AuditEvent.BUNDLE_ROLLED_BACK, last.by, detail)
    return before


def _signer(settings: Settings, key: Path | None) -> Ed25519PrivateKey | None:
    trusted = settings.node.trusted_keys
    signer = read_key(key) if key else None
    if trusted and signer is None:
        raise ConfigError("[node] trusted_keys: this node accepts only what a trusted key signed; name the key's file (--key)")
    if trusted and signer and public_key(signer) not in trusted:
        raise ConfigError(f"[node] trusted_keys does not list the key in {key} ({public_key(signer)})")
    return signer


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _locked(models_root: Path) -> Iterator[None]:
    """Keep two people from deciding at the same moment; the lock goes with the process."""
    try:
        with (models_root / ".in_use.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise BundleError(f"{models_root / in_use.FILE_NAME} cannot be written: {error}") from error


def _audit(settings: Settings, event: AuditEvent, by: str, detail: str) -> None:
    store = StudyStore(settings.node.storage_root)
    store.prepare()
    store.add_request(json.dumps({"models": event, "by": by, "detail": detail}).encode())
