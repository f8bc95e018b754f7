"""The patients of one training run: who trains the networks, who gives the decision, and what is known of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from pipelines.errors import CohortError
from pipelines.features import clinical
from pipelines.recipe import Recipe
from pipelines.spec import PipelineSpec
from pipelines.training.cohort import CohortRow, check_labels, refuse
from pipelines.training.extract import ExtractedFile
from pipelines.training.nested import can_judge
from pipelines.training.outcome import CohortFlow
from pipelines.training.plan import Plan
from pipelines.training.select import Labels
from pipelines.training.site_effect import check_sites
from pipelines.training.table import Rows, Table


class Division(NamedTuple):
    """Rows that train the networks and rows that the decision is fitted and judged on: ``disjoint``, or the same."""

    networks: Rows
    judged: Rows
    disjoint: bool


def divide(path: Path, rows: Sequence[CohortRow], recipe: Recipe, plan: Plan, *, seed: int) -> Division:
    """Divide the rows of a cohort table but for those marked ``test``, which are for ``cervinode evaluate``.

    Raises
    ------
    CohortError
        A class, or with ``plan.combat`` a site, is left with too few rows to judge the recipe on.
    """
    usable = np.array([i for i, row in enumerate(rows) if row.split != "test"], dtype=np.intp)
    labels = np.array([row.label for row in rows])
    check_labels(f"{path}, the part for training", labels[usable].tolist())
    division = Division(usable, usable, False)
    if plan.embedding == "split" and not plan.frozen:
        chooser = StratifiedShuffleSplit(n_splits=1, train_size=plan.network_share, random_state=seed)
        first, second = next(chooser.split(usable, labels[usable]))
        division = Division(np.sort(usable[first]), np.sort(usable[second]), True)
    where = f"{path}, the part for the classifier"
    check_labels(where, labels[division.judged].tolist())
    counts = Counter(labels[division.judged].tolist())
    if not can_judge(recipe, list(counts.values())):
        named = ", ".join(f"{n} with the label {c}" for c, n in sorted(counts.items()))
        raise CohortError(f"{where}: {named} are too few for this recipe, whose steps are repeated in the training parts of nested folds")
    if plan.combat:
        check_sites([rows[i].site for i in division.judged])
    return division


@dataclass(frozen=True, eq=False)
class Patients:
    """All rows of a cohort with what was extracted of them, and their division. Labels and tables are of the judged rows."""

    path: Path
    spec: PipelineSpec
    rows: Sequence[CohortRow]
    files: Sequence[ExtractedFile]
    division: Division

    def check(self) -> None:
        """Raise CohortError where a study stands in two rows, or a clinical value that the recipe needs is not known or always the same."""
        count = Counter(file.key for file in self.files)
        twice = [row.where for row, file in zip(self.rows, self.files, strict=True) if count[file.key] > 1]
        refuse(self.path, "rows with the same study", twice)
        for name in (n for n in self.table.names if n.startswith(clinical.FEATURE_PREFIX)):
            if np.ptp(self.table.take([name])) == 0:
                known = clinical.title_of(name.removeprefix(clinical.FEATURE_PREFIX))
                raise CohortError(f"{self.path}, the part for the classifier: {known} is the same in all rows")

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

    def flow(self, *, with_networks: bool) -> CohortFlow:
        """Return the way from the table's rows to the judged patients."""
        scanners = [file.scanner or "not stated" for file in self.judged_files]
        return CohortFlow(
            file=self.path.name,
            rows=len(self.rows),
            row_events=int(np.count_nonzero(self.all_labels)),
            network_rows=len(self.division.networks) if self.division.disjoint and with_networks else 0,
            judged=len(self.labels),
            events=int(np.count_nonzero(self.labels)),
            sites=self.sites,
            scanners={name: scanners.count(name) for name in sorted(set(scanners))},
            second_reader=0 if self.second is None else int(np.isfinite(self.second.values).all(axis=1).sum()),
            class_counts={int(c): int((self.labels == c).sum()) for c in np.unique(self.labels)},
        )
