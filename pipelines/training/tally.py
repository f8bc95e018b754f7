"""How often a cohort was looked at: a test set that is opened again and again stops being one.

``evaluations.jsonl`` beside the cohort table gets one line per evaluation, of whatever bundle; nothing ever removes one. Whoever copies
the cohort elsewhere starts a new count, which no file can prevent.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import CohortError

FILE_NAME = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class Look:
    """One evaluation of one bundle on a cohort; digests are SHA-256 (hex)."""

    date: datetime.date
    cohort: str  # the table's file name
    cohort_digest: str
    system: str
    version: str
    bundle_digest: str
    n: int
    auc: float


@dataclass(frozen=True, slots=True)
class Tally:
    """The looks at a cohort up to now, oldest first, the last being this one.

    A look counts for the cohort if its table had the same name or the same content: leaving out rows makes no new cohort.
    """

    looks: tuple[Look, ...]
    of_this_bundle: int
    bundles: int  # different ones

    @property
    def sentence(self) -> str:
        """Say it to a person."""
        first = f"This is look {len(self.looks)} at this cohort, {self.of_this_bundle} of them with this bundle"
        if self.bundles == 1:
            return f"{first}; no other bundle was judged on it."
        return f"{first}; {self.bundles} bundles were judged on it: the best of several looks better than it is."


def check_tally(cohort_csv: Path) -> None:
    """Make sure that evaluations of a cohort can be counted, before the work begins.

    Raises
    ------
    CohortError
        The file beside the table cannot be written, or holds something else.
    """
    path = cohort_csv.parent / FILE_NAME
    _read(path)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CohortError(f"{path} cannot be written: evaluations of a cohort are counted there")


def count_look(folder: Path, look: Look) -> Tally:
    """Write an evaluation into the file of the cohort's ``folder`` and return the count."""
    path = folder / FILE_NAME
    line = json.dumps(asdict(look) | {"date": look.date.isoformat()}) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    looks = _of_one_cohort([k for k in _read(path) if k.system == look.system], look)
    return Tally(looks, sum(k.bundle_digest == look.bundle_digest for k in looks), len({k.bundle_digest for k in looks}))


def _of_one_cohort(looks: Sequence[Look], last: Look) -> tuple[Look, ...]:
    """Return the looks that share name or content with ``last``, or with one that does, in their order."""
    names, digests, found = {last.cohort}, {last.cohort_digest}, 0
    while len(same := [k for k in looks if k.cohort in names or k.cohort_digest in digests]) > found:
        found = len(same)
        names, digests = {k.cohort for k in same}, {k.cohort_digest for k in same}
    return tuple(same)


def _read(path: Path) -> list[Look]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [_LOOK.validate_json(line) for line in lines]
    except (OSError, ValidationError) as error:
        raise CohortError(f"{path} cannot be read, so nobody knows how often this cohort was looked at: {error}") from error


_LOOK = TypeAdapter(Look)
