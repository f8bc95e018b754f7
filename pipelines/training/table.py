"""Features of many patients as one matrix whose columns keep their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import CohortError
from pipelines.types import FloatArray

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Table:
    """``values`` (patients, features), float64; ``names`` are ``<role>:<block>:<feature>``, as serving gives them."""

    names: tuple[str, ...]
    values: FloatArray

    @classmethod
    def of(cls, patients: Sequence[str], features: Sequence[Mapping[str, float]]) -> Table:
        """Return the table of features by name, one mapping per patient.

        Raises
        ------
        CohortError
            Patients have different features, or a value is not finite; the message names patients (``patients``) and features.
        """
        names = tuple(features[0])
        if odd := [p for p, f in zip(patients, features, strict=True) if tuple(f) != names]:
            raise CohortError(f"other features than the first row: {'; '.join(odd[:5])}")
        values = np.array([list(f.values()) for f in features], dtype=np.float64)
        bad = [f"{patients[i]}: {names[j]}" for i, j in np.argwhere(~np.isfinite(values))]
        if bad:
            raise CohortError(f"a feature is not finite: {'; '.join(bad[:5])}")
        return cls(names, values)

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def take(self, names: Sequence[str]) -> FloatArray:
        """Return the columns of these names, in their order."""
        return self.values[:, [self._index[name] for name in names]]

    def rows(self, rows: Rows) -> Table:
        """Return the patients at these places."""
        return replace(self, values=self.values[rows])

    def columns(self, keep: Callable[[str], bool]) -> Table:
        """Return the columns whose name ``keep`` accepts."""
        return self.at([i for i, name in enumerate(self.names) if keep(name)])

    def at(self, columns: Sequence[int] | Rows) -> Table:
        """Return the columns at these places."""
        places = [int(c) for c in columns]
        return Table(tuple(self.names[c] for c in places), self.values[:, places])

    def join(self, other: Table) -> Table:
        """Return both tables' columns, those of this one first."""
        return Table((*self.names, *other.names), np.hstack([self.values, other.values]))


def block_of(name: str) -> str:
    """Return the block of a feature: ``radiomics``, ``cnn``, ..."""
    return name.split(":", 2)[1]


def role_of(name: str) -> str:
    """Return the sequence of a feature."""
    return name.split(":", 1)[0]
