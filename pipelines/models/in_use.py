"""``in_use.json`` below ``models_root``: which bundle of each system a site decided to use, and as what.

The file is a history: promotions, and rollbacks that take the last one back. Nothing else of a bundle changes when it is promoted: its
manifest, and with it the digest by which results name it, stays as it was. A system without an entry follows the rule of
:func:`pipelines.models.bundle.find_bundle`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.errors import BundleError
from pipelines.models.signature import Signature, check, sign
from pipelines.types import BundleStatus

FILE_NAME = "in_use.json"
_PURPOSE = "in_use"


class Basis(BaseModel):
    """The evaluation on which a promotion rests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(description="of the evaluation's file")
    cohort_digest: str
    n: int
    events: int | None = Field(description="none of several classes")
    sites: tuple[str, ...]
    auc: float


class Action(BaseModel):
    """One decision of a person. A rollback repeats what it takes back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    by: str = Field(min_length=1)
    what: Literal["promote", "rollback"]
    system: str
    version: str
    digest: str = Field(description="SHA-256 of the bundle's manifest.json")
    status: BundleStatus
    basis: Basis | None = None


class InUse(BaseModel):
    """The content of ``in_use.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    actions: tuple[Action, ...] = ()
    signature: Signature | None = None

    @model_validator(mode="after")
    def _rollbacks_fit(self) -> InUse:
        for system in {a.system for a in self.actions}:
            self.standing(system)
        return self

    def standing(self, system: str) -> list[Action]:
        """Return the promotions of a system that were not taken back, oldest first."""
        held: list[Action] = []
        for action in self.actions:
            if action.system == system and action.what == "promote":
                held.append(action)
            elif action.system == system and (not held or held.pop().digest != action.digest):
                raise ValueError(f"a rollback of {system} {action.version} without its promotion")
        return held

    def current(self, system: str) -> Action | None:
        """Return the promotion by which a bundle of a system is in use, or ``None`` where nobody decided."""
        return (self.standing(system) or [None])[-1]  # type: ignore[list-item]

    def with_action(self, action: Action, key: Ed25519PrivateKey | None) -> InUse:
        """Return the state after one more action, signed anew if there is a key."""
        unsigned = InUse(actions=(*self.actions, action))
        return unsigned.model_copy(update={"signature": sign(unsigned._message(), purpose=_PURPOSE, key=key)}) if key else unsigned

    def encode(self) -> bytes:
        """Return the file's content."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    def _message(self) -> bytes:
        return _message(self.model_dump_json())


def read_in_use(models_root: Path, trusted_keys: Collection[str] = ()) -> InUse:
    """Read the state; a missing file is an empty one.

    Raises
    ------
    BundleError
        The file is damaged, its signature is broken, or there are trusted keys and none of them signed it.
    """
    path = models_root / FILE_NAME
    try:
        raw = path.read_text(encoding="utf-8")
        state = InUse.model_validate_json(raw)
    except FileNotFoundError:
        return InUse()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise BundleError(f"{path}: {error.errors()[0]['msg']}") from error
    check(state.signature, _message(raw), purpose=_PURPOSE, trusted_keys=trusted_keys, where=path)
    return state


def _message(raw: str) -> bytes:
    """Return what is signed: everything but the signature, in one spelling."""
    content = json.loads(raw)
    content.pop("signature", None)
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
