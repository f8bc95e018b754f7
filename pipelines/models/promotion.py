"""Who may put a bundle to use, and on what grounds. Pure: the node writes what comes out."""

from __future__ import annotations

import hashlib
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import BundleError
from pipelines.models.bundle import Bundle
from pipelines.models.in_use import Action, Basis, InUse
from pipelines.models.manifest import LIE_DETECTOR
from pipelines.types import BundleStatus


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Interval(_Read):
    low: float
    high: float


class _Auc(_Read):
    value: float
    interval: _Interval


class _Evaluation(_Read):
    """What a promotion reads of the ``evaluation.json`` that ``cervinode evaluate`` writes; all else in it is for people."""

    bundle_digest: str
    cohort_digest: str = Field(min_length=1)
    n: int
    events: int | None  # None of several classes, of which auc is the mean of one against the rest
    sites: tuple[str, ...]
    external: bool | None
    synthetic: bool
    auc: _Auc


def promote(
    state: InUse,
    bundle: Bundle,
    *,
    to: BundleStatus,
    by: str,
    at: datetime,
    evaluation: bytes | None = None,
    key: Ed25519PrivateKey | None = None,
) -> InUse:
    """Return the state in which a bundle is in use with a status.

    ``by`` is the person who answers for it, ``evaluation`` the content of ``evaluation.json``. For ``validated`` it must be of this very
    bundle on an external cohort: patients, from sites of which none gave training cases.

    Raises
    ------
    BundleError
        The grounds are not there; the message says which.
    """
    if bundle.manifest.training.data == "synthetic":
        raise BundleError(f"{bundle.label} was trained on synthetic cases: it is a demo and cannot be promoted")
    if bundle.manifest.training.metrics.get(LIE_DETECTOR) == 0:
        raise BundleError(
            f"{bundle.label} cannot be promoted: its training run is INVALID, as its lie detector found a signal in shuffled labels "
            f"(see the report of the run)"
        )
    if to is BundleStatus.DEMO:
        raise BundleError("a bundle is promoted to research or validated")
    if to is BundleStatus.VALIDATED and LIE_DETECTOR not in bundle.manifest.training.metrics:
        raise BundleError(f"{bundle.label} cannot become validated: its training run had no lie detector (--permutations 20)")
    if to is BundleStatus.VALIDATED and evaluation is None:
        raise BundleError(f"{bundle.label} becomes validated only with an evaluation on an external cohort (--evaluation)")
    basis = _basis(bundle, evaluation, external=to is BundleStatus.VALIDATED) if evaluation is not None else None
    manifest = bundle.manifest
    action = Action(
        at=at,
        by=check_person(by),
        what="promote",
        system=manifest.system,
        version=manifest.version,
        digest=bundle.digest,
        status=to,
        basis=basis,
    )
    return state.with_action(action, key)


def roll_back(state: InUse, system: str, *, by: str, at: datetime, key: Ed25519PrivateKey | None = None) -> InUse:
    """Return the state in which the last promotion of a system is taken back.

    Raises
    ------
    BundleError
        No promotion of the system stands.
    """
    last = state.current(system)
    if last is None:
        raise BundleError(f"no promotion of {system} stands, so there is none to take back")
    return state.with_action(last.model_copy(update={"what": "rollback", "by": check_person(by), "at": at}), key)


def check_person(name: str) -> str:
    """Return a person's name without spaces at its ends.

    Raises
    ------
    BundleError
        It is empty, or no name that could be printed.
    """
    stripped = name.strip()
    if not any(c.isalpha() for c in stripped) or not stripped.isprintable():
        raise BundleError(f"{name!r} names nobody: a person answers for which bundle is in use (--by)")
    return stripped


def _basis(bundle: Bundle, content: bytes, *, external: bool) -> Basis:
    """Check an evaluation against the bundle and return what is kept of it."""
    try:
        found = _Evaluation.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"evaluation: {'.'.join(str(p) for p in first['loc']) or 'file'}: {first['msg']}") from error
    if found.bundle_digest != bundle.digest:
        raise BundleError(f"the evaluation is of another bundle ({found.bundle_digest[:12]}), not of {bundle.label} ({bundle.digest[:12]})")
    several = bool(bundle.manifest.decision.classes)
    if several != (found.events is None):
        raise BundleError(f"the evaluation is of {'one finding' if several else 'several classes'}, {bundle.label} is not")
    if found.events is not None and not 0 < found.events < found.n:
        raise BundleError(f"the evaluation has {found.events} events in {found.n} patients: it needs some of either kind")
    if external:
        _check_external(bundle, found)
    return Basis(
        sha256=hashlib.sha256(content).hexdigest(),
        cohort_digest=found.cohort_digest,
        n=found.n,
        events=found.events,
        sites=found.sites,
        auc=found.auc.value,
    )


def _check_external(bundle: Bundle, found: _Evaluation) -> None:
    if found.synthetic:
        raise BundleError("the evaluation's cohort is synthetic: it proves nothing about patients")
    trained, judged = _spelled_alike(bundle.manifest.training.sites), _spelled_alike(found.sites)
    if not trained:
        raise BundleError(f"the manifest of {bundle.label} names no training site, so no cohort can be shown to be external")
    if common := sorted(trained & judged):
        raise BundleError(f"the evaluation's cohort is not external: {', '.join(common)} gave training cases too")
    if not judged or found.external is not True:
        raise BundleError("the evaluation does not name the site of every patient, so its cohort cannot be shown to be external")
    low, high = found.auc.interval.low, found.auc.interval.high
    if low <= 0.5:
        raise BundleError(f"the evaluation does not show that the bundle is better than chance (AUC {low:.3f} to {high:.3f})")


def _spelled_alike(sites: tuple[str, ...]) -> set[str]:
    return {" ".join(s.split()).casefold() for s in sites if s.strip()}
