"""The nomogram of a decision that joins clinical values: its lines, from which it is drawn for nobody in particular."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.decide import SCORE
from pipelines.features import clinical
from pipelines.models.manifest import Decision

_SCORE_WORDS = "imaging score (log-odds)"


@dataclass(frozen=True, slots=True)
class NomogramLine:
    """A variable over its range in training (1st to 99th percentile): ``slope`` is the change in calibrated log-odds per unit."""

    name: str
    words: str
    unit: str
    low: float
    high: float
    slope: float


@dataclass(frozen=True, slots=True)
class Nomogram:
    """Calibrated log-odds = ``intercept`` + the sum of slope times value; values are raw."""

    intercept: float
    lines: tuple[NomogramLine, ...]


def nomogram_of(decision: Decision) -> Nomogram | None:
    """Return the nomogram of a linear decision that uses clinical values, ``None`` of any other."""
    told = [f.name for f in decision.features if f.name.startswith(clinical.FEATURE_PREFIX)]
    if decision.linear is None or decision.platt is None or not told:
        return None
    a, b = decision.platt.a, decision.platt.b
    slopes = [a * c / f.std for c, f in zip(decision.linear.coefficients, decision.features, strict=True)]
    intercept = a * decision.linear.intercept + b - sum(s * f.mean for s, f in zip(slopes, decision.features, strict=True))
    lines = []
    for slope, f in zip(slopes, decision.features, strict=True):
        known = clinical.KNOWN.get(name := f.name.removeprefix(clinical.FEATURE_PREFIX))
        words = _SCORE_WORDS if f.name == SCORE else clinical.title_of(name) if f.name in told else f.name
        lines.append(NomogramLine(f.name, words, known.unit if known else "", f.low, f.high, slope))
    return Nomogram(intercept, tuple(lines))
