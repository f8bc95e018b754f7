"""Cohort tables: one row per patient, checked before anything is computed."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import CohortError, InputError
from pipelines.features.clinical import KNOWN, parse_all
from pipelines.types import ClinicalValue

COLUMNS = ("patient", "study", "label")  # required; roi, roi2, site and split are optional, and clinical values by their names
SPLITS = ("", "train", "test")
MIN_EVENTS = 10  # of either class: below that nothing can be selected or judged
_NAMED = 9  # rows named in an error before "and n more"; of a class that is too small all are


@dataclass(frozen=True)
class CohortRow:
    """One patient of the table. ``line`` is the line of the file, for messages.

    ``label`` is 0 or 1, or the number of a class; ``second_roi`` is another reader's region; ``split`` is "train", "test" or empty.
    """

    line: int
    patient: str
    study: Path
    roi: Path | None
    label: int
    site: str
    second_roi: Path | None = None
    split: str = ""
    clinical: Mapping[str, ClinicalValue] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Name the row in a message."""
        return f"line {self.line} ({self.patient})"


def read_cohort(path: Path, *, classes: Collection[int] = (0, 1), each: int = MIN_EVENTS) -> list[CohortRow]:
    """Read and check ``cohort.csv``; paths in it are relative to the file.

    Columns: patient, study, label; optionally roi and roi2 (files with a first and a second reader's region), site, split (train or test),
    and clinical values by their names in :data:`pipelines.features.clinical.KNOWN`, empty where not known. What is known only after surgery
    may stand in the table; no system can use it. A class that is there at all has ``each`` rows or more.

    Raises
    ------
    CohortError
        The table cannot be used; the message names the rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, r) for r in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read: {error}") from error
    if missing := [c for c in COLUMNS if c not in columns]:
        raise CohortError(f"{path} has no column {', '.join(missing)}")
    known = [c for c in columns if c in KNOWN]
    if odd := [c for c in columns if c not in KNOWN and c not in {*COLUMNS, "roi", "roi2", "site", "split"}]:
        raise CohortError(f"{path}: no such column is known: {', '.join(odd)}")
    if twice := sorted({c for c in columns if columns.count(c) > 1}):
        raise CohortError(f"{path} has the column {', '.join(twice)} more than once")
    refuse(path, "another number of values than there are columns", [f"line {i}" for i, r in rows if None in r or None in r.values()])
    refuse(path, "no patient or no study", [f"line {i}" for i, r in rows if not (r["patient"].strip() and r["study"].strip())])
    numbers = {str(c) for c in classes}
    words = " or ".join(sorted(numbers)) if len(numbers) == 2 else f"one of {', '.join(sorted(numbers))}"
    refuse(path, f"label is not {words}", [f"line {i}: {r['label']!r}" for i, r in rows if r["label"] not in numbers])
    refuse(path, "split is not train or test", [f"line {i}: {r['split']!r}" for i, r in rows if (r.get("split") or "") not in SPLITS])
    cohort, problems = [], []
    for i, r in rows:
        try:
            cohort.append(_row(path.parent, i, r, known))
        except InputError as error:
            problems.append(f"line {i}: {error}")
    refuse(path, "clinical values that cannot be used", problems)
    for what, named in (("patient", [r.patient for r in cohort]), ("study", [str(r.study.resolve()) for r in cohort])):
        count = Counter(named)
        refuse(path, f"the same {what} more than once", [f"line {r.line}: {n}" for r, n in zip(cohort, named, strict=True) if count[n] > 1])
    refuse(path, "the study folder does not exist", [f"line {r.line}: {r.study}" for r in cohort if not r.study.is_dir()])
    rois = [(r.line, roi) for r in cohort for roi in (r.roi, r.second_roi) if roi]
    refuse(path, "the roi file does not exist", [f"line {line}: {roi}" for line, roi in rois if not roi.is_file()])
    check_labels(str(path), cohort, each=each)
    return cohort


def _row(folder: Path, line: int, fields: Mapping[str, str], known: Sequence[str]) -> CohortRow:
    def path(column: str) -> Path | None:
        name = fields.get(column)
        return folder / name if name else None

    stated = {name: fields[name] for name in known if (fields[name] or "").strip()}
    return CohortRow(
        line=line,
        patient=fields["patient"],
        study=folder / fields["study"],
        roi=path("roi"),
        label=int(fields["label"]),
        site=fields.get("site") or "",
        second_roi=path("roi2"),
        split=fields.get("split") or "",
        clinical=parse_all(stated, source="cohort table"),
    )


def check_labels(where: str, rows: Sequence[CohortRow], *, each: int = MIN_EVENTS) -> None:
    """Raise CohortError where the label is constant or a class has fewer rows than ``each``, by default what nested folds need."""
    count = Counter(row.label for row in rows)
    if len(count) < 2:
        raise CohortError(f"{where}: the label is the same in all {len(rows)} rows: {name_rows([row.where for row in rows])}")
    if min(count.values()) < each:
        if set(count) <= {0, 1}:
            named = f"{count[1]} positive and {count[0]} negative rows"
        else:
            named = " and ".join(f"{n} rows of class {c}" for c, n in sorted(count.items()) if n < each)
        few = "; ".join(f"label {c}: {name_class(rows, c)}" for c, n in sorted(count.items()) if n < each)
        raise CohortError(f"{where}: {named} are too few, at least {each} of each are needed ({few})")


def name_class(rows: Sequence[CohortRow], label: int) -> str:
    """Name the first few rows with a label."""
    return name_rows([row.where for row in rows if row.label == label])


def name_rows(rows: Sequence[str]) -> str:
    """Name the first few of some rows, and say how many more there are."""
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return "; ".join(rows[:_NAMED]) + more


def refuse(path: Path, problem: str, rows: Sequence[str]) -> None:
    """Raise CohortError with the first few of ``rows``, if there are any."""
    if rows:
        raise CohortError(f"{path}: {problem}: {name_rows(rows)}")
