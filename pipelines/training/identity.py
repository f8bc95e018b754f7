"""Whose study a row of a cohort table is, by headers and pixels: folders, file names and what else stands in the row change nothing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.imaging.elements import text
from pipelines.training.cohort import MIN_EVENTS, CohortRow, name_rows, refuse
from pipelines.types import Case, SeriesRole


@dataclass(frozen=True, slots=True)
class Identity:
    """Study Instance UID; Patient ID with its issuer, empty where none is stated (PS3.3 C.7.1.1); SHA-256 over pixels."""

    study: str
    patient: str
    images: str


def identify(case: Case, roles: Collection[SeriesRole]) -> Identity:
    """Return the identity of a case. Pixels tell a study that was pseudonymised twice, under other UIDs.

    ``roles`` are the sequences that the system needs: which others are read depends on where somebody drew.
    """
    header = next(iter(case.volumes.values())).sources[0]
    patient, issuer = text(header, "PatientID"), text(header, "IssuerOfPatientID")
    pixels = sorted(hashlib.sha256(image.volume.array.tobytes()).hexdigest() for role, image in case.volumes.items() if role in roles)
    return Identity(
        study=case.study_instance_uid,
        patient=f"{issuer}\\{patient}" if patient else "",
        images=hashlib.sha256("".join(pixels).encode()).hexdigest(),
    )


def check_identities(path: Path, rows: Sequence[CohortRow], identities: Sequence[Identity]) -> tuple[str, ...]:
    """Make sure that no study and no patient stands in two rows; return in words what Patient IDs do not tell.

    A Patient ID that most rows of the table or of a site share is none: it was made by whoever anonymised them.

    Raises
    ------
    CohortError
        Rows have the same study, the same images, or the same patient under different names; the message names them.
    """
    for what, keys in (("study", [one.study for one in identities]), ("images", [one.images for one in identities])):
        refuse(path, f"rows with the same {what}", [" and ".join(r.where for r in group) for group in _alike(rows, keys)])
    warnings, twice = [], []
    for group in _alike(rows, [one.patient for one in identities]):
        if _is_made_up(group, rows):
            warnings.append(f"{len(group)} rows share one Patient ID ({name_rows([r.where for r in group])}): {_UNTOLD}")
        else:
            twice.append(" and ".join(r.where for r in group))
    remedy = "keep one row of each patient; different patients need other Patient IDs, or an Issuer of Patient ID, in their files"
    refuse(path, f"rows with the same Patient ID under different names ({remedy})", twice)
    if silent := [r.where for r, one in zip(rows, identities, strict=True) if not one.patient]:
        warnings.append(f"{len(silent)} rows state no Patient ID ({name_rows(silent)}): {_UNTOLD}")
    return tuple(warnings)


_UNTOLD = "whether a patient stands there under two names cannot be told from the files."


def _alike(rows: Sequence[CohortRow], keys: Sequence[str]) -> Iterator[list[CohortRow]]:
    """Yield the rows of each key that more than one row has; an empty key is none."""
    groups = defaultdict(list)
    for row, key in zip(rows, keys, strict=True):
        groups[key].append(row)
    yield from (group for key, group in groups.items() if key and len(group) > 1)


def _is_made_up(group: Sequence[CohortRow], rows: Sequence[CohortRow]) -> bool:
    sites = {site: sum(r.site == site for r in rows) for site in {r.site for r in group}}
    of_site = any(n >= MIN_EVENTS and 2 * sum(r.site == site for r in group) > n for site, n in sites.items())
    return 2 * len(group) > len(rows) or of_site
