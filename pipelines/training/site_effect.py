"""What harmonising features between sites would change: the same recipe judged with ComBat fitted inside every fold.

It is a comparison and no part of a bundle: a served case comes alone, from a scanner that the fit may not have seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import CohortError
from pipelines.training.harmonise import FEWEST_ROWS, Combat, fit_combat
from pipelines.training.nested import Embedding
from pipelines.training.select import Labels
from pipelines.training.table import Rows, Table

FEWEST_OF_A_SITE = 30  # patients, so that a training part of four fifths has 20 of them even when they fall unevenly


@dataclass(frozen=True, eq=False)
class Harmonised:
    """Another embedding's tables, with the sites' differences taken out of all features but the clinical values.

    The differences are learnt from the training part without its labels. Patients of other sites, or of ones with fewer than 20 training
    patients, stay as they are.
    """

    embedding: Embedding
    sites: Sequence[str]  # of all patients

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        """Return the harmonised tables of both parts."""
        inner, outer = self.embedding.split(train, test, labels)
        measured = [i for i, name in enumerate(inner.names) if not name.startswith("CLINICAL:")]
        of_train, of_test = ([self.sites[i] for i in rows] for rows in (train, test))
        count = Counter(of_train)
        fitted = [i for i, site in enumerate(of_train) if count[site] >= FEWEST_ROWS]
        combat = fit_combat(inner.values[np.ix_(fitted, measured)], [of_train[i] for i in fitted])
        return _apply(combat, inner, measured, of_train), _apply(combat, outer, measured, of_test)


def _apply(combat: Combat, table: Table, columns: Sequence[int], sites: Sequence[str]) -> Table:
    values = table.values.copy()
    values[:, columns] = combat.apply(values[:, columns], sites).rows
    return Table(table.names, values)


def check_sites(sites: Sequence[str]) -> None:
    """Raise CohortError where fewer than two sites have the patients that a harmonisation needs."""
    count = Counter(sites)
    if sum(n >= FEWEST_OF_A_SITE for n in count.values()) < 2:
        named = ", ".join(f"{site or 'no site'} {n}" for site, n in sorted(count.items()))
        raise CohortError(f"harmonisation needs two sites with {FEWEST_OF_A_SITE} judged patients each, there are: {named}")
