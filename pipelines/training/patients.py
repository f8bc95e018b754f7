"""The patients of one training run: who trains the networks, who gives the decision, and what is known of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from pipelines.decide import broken_rules
from pipelines.errors import CohortError
from pipelines.features import clinical
from pipelines.imaging.acquisition import ranges
from pipelines.recipe import Recipe, Repeatable
from pipelines.spec import PipelineSpec
from pipelines.training.cohort import CohortRow, check_labels, name_class, name_rows, refuse
from pipelines.training.extract import ExtractedFile
from pipelines.training.identity import check_identities
from pipelines.training.nested import can_judge
from pipelines.training.outcome import CohortFlow
from pipelines.training.plan import Plan, Progress
from pipelines.training.select import Labels
from pipelines.training.site_effect import check_sites
from pipelines.training.table import Rows, Table
from pipelines.types import ClinicalValue

LEAST_SECOND = 15  # judged patients with a second region: with fewer, a fold's training part may have next to none


class Division(NamedTuple):
    """Rows that train the networks and rows that the decision is fitted and judged on: ``disjoint``, or the same."""

    networks: Rows
    judged: Rows
    disjoint: bool


class Excluded(NamedTuple):
    """A row of a patient whom the system was not made for, and the rule of inclusion that says so, in words."""

    row: CohortRow
    rule: str


def exclude(
    rows: Sequence[CohortRow], known: Sequence[Mapping[str, ClinicalValue]], spec: PipelineSpec
) -> tuple[list[int], list[Excluded]]:
    """Return the places of the rows that may train the system, and the others; what is not ``known`` of a row excludes nobody.

    Rows marked ``test`` stay: they train nothing, and ``cervinode evaluate`` applies the rules itself.
    """
    broken = [() if row.split == "test" else broken_rules(spec, values) for row, values in zip(rows, known, strict=True)]
    outside = [Excluded(row, rules[0].words) for row, rules in zip(rows, broken, strict=True) if rules]
    return [i for i, rules in enumerate(broken) if not rules], outside


def gather(
    path: Path,
    rows: Sequence[CohortRow],
    spec: PipelineSpec,
    plan: Plan,
    *,
    seed: int,
    extract: Callable[[Sequence[CohortRow]], Sequence[ExtractedFile]],
    progress: Progress,
) -> Patients:
    """Leave out whom the system was not made for, extract the others, and divide them.

    Raises
    ------
    CohortError
        Too few patients are left, see :func:`divide`, or have a second region; or what ``extract`` raises.
    """
    places, outside = exclude(rows, [row.clinical for row in rows], spec)
    inside = [rows[i] for i in places]
    _check_left(path, inside, outside, progress)
    division = divide(path, inside, spec.recipe, plan, seed=seed)  # what is wrong with the table is said before anything takes long
    _check_second_regions(path, inside, division, spec.recipe)
    files = extract(inside)
    places, told = exclude(inside, [file.clinical for file in files], spec)  # a study may tell what the table does not
    inside, files = [inside[i] for i in places], [files[i] for i in places]
    _check_left(path, inside, told, progress)
    if told:
        division = divide(path, inside, spec.recipe, plan, seed=seed)
        _check_second_regions(path, inside, division, spec.recipe)
    return Patients(path, spec, inside, files, division, (*outside, *told))


def _check_left(path: Path, inside: Sequence[CohortRow], outside: Sequence[Excluded], progress: Progress) -> None:
    """Name the rows that are left out, and raise CohortError where too few are left."""
    for rule in dict.fromkeys(one.rule for one in outside):
        named = "; ".join(one.row.where for one in outside if one.rule == rule)
        progress(f"left out, as the system was made for patients with {rule}: {named}")
    if outside:
        where = f"{path}, without {len(outside)} rows that the system was not made for ({outside[0].row.where}: {outside[0].rule})"
        check_labels(where, [row for row in inside if row.split != "test"])


def _check_second_regions(path: Path, rows: Sequence[CohortRow], division: Division, recipe: Recipe) -> None:
    """Raise CohortError where there are second regions, and the recipe asks for them, but of too few judged patients."""
    everyone = [row.where for row in rows if row.second_roi]
    judged = [i for i in division.judged if rows[i].second_roi]
    if everyone and len(judged) < LEAST_SECOND and _asks_readers(recipe):
        problem = f"{len(judged)} of the {len(division.judged)} patients that the decision is fitted on have a second region (roi2)"
        refuse(path, f"{problem}, {LEAST_SECOND} or more are needed, or none; in the table have one", everyone)


def _asks_readers(recipe: Recipe) -> bool:
    return any(isinstance(step, Repeatable) for step in recipe.steps)


def divide(path: Path, rows: Sequence[CohortRow], recipe: Recipe, plan: Plan, *, seed: int) -> Division:
    """Divide the rows of a cohort table but for those marked ``test``, which are for ``cervinode evaluate``.

    Raises
    ------
    CohortError
        A class, or with ``plan.combat`` a site, is left with too few rows to judge the recipe on.
    """
    usable = np.array([i for i, row in enumerate(rows) if row.split != "test"], dtype=np.intp)
    labels = np.array([row.label for row in rows])
    unseen = sorted({row.label for row in rows} - set(labels[usable].tolist()))
    held_out = [f"label {c}: {name_class(rows, c)}" for c in unseen]
    refuse(path, "all rows of a class are marked test, so that no model could know it", held_out)
    check_labels(f"{path}, the part for training", [rows[i] for i in usable])
    division = Division(usable, usable, False)
    if plan.embedding == "split" and not plan.frozen:
        chooser = StratifiedShuffleSplit(n_splits=1, train_size=plan.network_share, random_state=seed)
        first, second = next(chooser.split(usable, labels[usable]))
        division = Division(np.sort(usable[first]), np.sort(usable[second]), True)
    where = f"{path}, the part for the classifier"
    judged = [rows[i] for i in division.judged]
    check_labels(where, judged)
    counts = Counter(labels[division.judged].tolist())
    if not can_judge(recipe, list(counts.values())):
        named, fewest = ", ".join(f"{n} with the label {c}" for c, n in sorted(counts.items())), min(counts, key=lambda c: counts[c])
        steps = "whose steps are repeated in the training parts of nested folds"
        raise CohortError(f"{where}: {named} are too few for this recipe, {steps} (label {fewest}: {name_class(judged, fewest)})")
    if plan.combat:
        check_sites([row.site for row in judged])
    return division


@dataclass(frozen=True, eq=False)
class Patients:
    """All rows that the system was made for with what was extracted of them, their division, and the ``excluded`` rows.

    Labels and tables are of the judged rows.
    """

    path: Path
    spec: PipelineSpec
    rows: Sequence[CohortRow]
    files: Sequence[ExtractedFile]
    division: Division
    excluded: tuple[Excluded, ...] = ()

    def check(self) -> tuple[str, ...]:
        """Return the warnings.

        Raises
        ------
        CohortError
            A study or a patient stands in two rows, or a clinical value that the recipe needs is not known or always the same.
        """
        warnings = self.warnings
        for name in (n for n in self.table.names if n.startswith(clinical.FEATURE_PREFIX)):
            if np.ptp(self.table.take([name])) == 0:
                known = clinical.title_of(name.removeprefix(clinical.FEATURE_PREFIX))
                raise CohortError(f"{self.path}, the part for the classifier: {known} is the same in all rows")
        return warnings

    @cached_property
    def untold(self) -> tuple[str, ...]:
        """What Patient IDs do not tell of who stands in the table twice, in words; raises as :meth:`check` does."""
        return check_identities(self.path, self.rows, [file.identity for file in self.files])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known of the cohort, though nothing forbids to train on it."""
        return (*self.untold, *self._classes_without_rows(), *self._regions_without_use())

    def _classes_without_rows(self) -> Iterator[str]:
        present, lost = set(self.all_labels.tolist()), {one.row.label for one in self.excluded}
        for label in sorted(lost - present):
            named = name_rows([one.row.where for one in self.excluded if one.row.label == label])
            yield f"All rows of class {label} break a rule of inclusion ({named}): the bundle will never call it."
        if never := [f"{c.number} ({c.code.meaning})" for c in self.spec.classes if c.number not in present | lost]:
            yield f"The table has no row of class {', '.join(never)}: the bundle will never call it, whoever has it."

    def _regions_without_use(self) -> Iterator[str]:
        given = [row.where for row in self.rows if row.second_roi]
        if given and not _asks_readers(self.spec.recipe):
            yield f"Second regions (roi2) have no use: the recipe of {self.spec.name} does not ask which features are repeatable."

    @cached_property
    def judged_rows(self) -> list[CohortRow]:
        """The judged patients' rows."""
        return [self.rows[i] for i in self.division.judged]

    @cached_property
    def judged_files(self) -> list[ExtractedFile]:
        """What was extracted of the judged patients."""
        return [self.files[i] for i in self.division.judged]

    @cached_property
    def labels(self) -> Labels:
        """Labels of the judged patients."""
        return self.all_labels[self.division.judged]

    @cached_property
    def all_labels(self) -> Labels:
        """Labels of all rows."""
        return np.array([row.label for row in self.rows], dtype=np.int64)

    @cached_property
    def table(self) -> Table:
        """Features but for the networks', with the clinical values that the recipe uses."""
        features = [file.features for file in self.judged_files]
        table = Table.of([row.where for row in self.judged_rows], features) if features[0] else Table((), np.empty((len(features), 0)))
        return table.join(self._clinical(self.spec.recipe.nomogram))

    def _clinical(self, names: Sequence[str]) -> Table:
        columns = [clinical.FEATURE_PREFIX + name for name in names]
        known = [clinical.features(file.clinical) for file in self.judged_files]
        for name, column in zip(names, columns, strict=True):
            unknown = [row.where for row, values in zip(self.judged_rows, known, strict=True) if column not in values]
            refuse(self.path, f"{clinical.source_of(name)} is not known, which the recipe needs of every patient", unknown)
        return Table(tuple(columns), np.array([[values[c] for c in columns] for values in known]).reshape(len(known), len(columns)))

    @cached_property
    def second(self) -> Table | None:
        """Features from a second reader's regions, NaN for patients without one; ``None`` without any."""
        given = [file.second for file in self.judged_files]
        if not any(given):
            return None
        names = tuple(self.judged_files[0].features)
        return Table(names, np.array([[one.get(n, math.nan) for n in names] for one in given]))

    @property
    def synthetic(self) -> bool:
        """Whether any patient is a phantom: then nothing that comes of it may be more than a demo."""
        return any(file.synthetic for file in self.files)

    @property
    def sites(self) -> tuple[str, ...]:
        """Named sites of the judged patients."""
        return tuple(sorted({row.site for row in self.judged_rows} - {""}))

    def flow(self) -> CohortFlow:
        """Return the way from the table's rows to the judged patients."""
        scanners = [file.scanner or "not stated" for file in self.judged_files]
        return CohortFlow(
            file=self.path.name,
            rows=len(self.rows) + len(self.excluded),
            row_events=int(np.count_nonzero(self.all_labels)) + sum(one.row.label > 0 for one in self.excluded),
            network_rows=len(self.division.networks) if self.division.disjoint else 0,
            judged=len(self.labels),
            events=int(np.count_nonzero(self.labels)),
            sites=self.sites,
            scanners={name: scanners.count(name) for name in sorted(set(scanners))},
            second_reader=0 if self.second is None else int(np.isfinite(self.second.values).all(axis=1).sum()),
            class_counts={int(c): int((self.labels == c).sum()) for c in np.unique(self.labels)},
            excluded={
                rule: tuple(e.row.line for e in self.excluded if e.rule == rule) for rule in dict.fromkeys(e.rule for e in self.excluded)
            },
            acquisition=ranges(file.acquisition for file in self.judged_files),
        )
