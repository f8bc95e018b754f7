"""Whether a cohort is large enough for a model, before anyone believes in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.errors import CohortError

_SHRINKAGE = 0.9  # of the coefficients, at least (Riley et al. 2019, criterion 1)
_OPTIMISM = 0.05  # of Nagelkerke's R2, at most (criterion 2)
_MARGIN = 0.05  # of the estimated overall risk, at most (criterion 3)
_Z = 1.96  # as the paper has it
_NAGELKERKE = 0.15  # assumed where nothing is known (Riley et al., BMJ 2020;368:m441)


@dataclass(frozen=True, slots=True)
class SampleSize:
    """The patients that each criterion demands; ``needed`` is the largest, ``events`` the cases among them."""

    parameters: int
    prevalence: float
    r2_cox_snell: float
    for_shrinkage: int
    for_optimism: int
    for_overall_risk: int
    needed: int
    events: int


def events_per_variable(events: int, non_events: int, variables: int) -> float:
    """Return the rows of the smaller class per candidate variable; candidates count before selection, not after."""
    if variables < 1:
        raise CohortError("events per variable: there is no candidate variable")
    return min(events, non_events) / variables


def minimum_sample_size(parameters: int, prevalence: float, r2_cox_snell: float | None = None) -> SampleSize:
    """Return the patients needed to develop a model with so many candidate parameters.

    Riley et al., Stat Med 2019;38:1276-1296: (1) expected shrinkage of 0.9 or more, (2) optimism in Nagelkerke's R2 of 0.05 or less,
    (3) the overall risk known to within 0.05. ``r2_cox_snell`` is what the model will explain, from a similar study; by default 15 % of
    the largest possible.
    """
    if parameters < 1 or not 0 < prevalence < 1:
        raise CohortError(f"sample size: {parameters} parameters at a prevalence of {prevalence} cannot be planned for")
    largest = 1 - np.exp(2 * (prevalence * np.log(prevalence) + (1 - prevalence) * np.log(1 - prevalence)))
    r2 = _NAGELKERKE * largest if r2_cox_snell is None else r2_cox_snell
    if not 0 < r2 < largest:
        raise CohortError(f"sample size: Cox and Snell's R2 must lie between 0 and {largest:.3f} at this prevalence, not {r2}")
    shrinkage = _for_shrinkage(parameters, r2, _SHRINKAGE)
    optimism = _for_shrinkage(parameters, r2, r2 / (r2 + _OPTIMISM * largest))
    risk = int(np.ceil((_Z / _MARGIN) ** 2 * prevalence * (1 - prevalence)))
    needed = max(shrinkage, optimism, risk)
    return SampleSize(parameters, prevalence, float(r2), shrinkage, optimism, risk, needed, int(np.ceil(needed * prevalence)))


def _for_shrinkage(parameters: int, r2: float, shrinkage: float) -> int:
    if r2 >= shrinkage:  # so much is explained that the approximation says nothing
        raise CohortError(f"sample size: an R2 of {r2:.3f} is beyond what a shrinkage of {shrinkage:.3f} can be planned for")
    return int(np.ceil(parameters / ((shrinkage - 1) * np.log(1 - r2 / shrinkage))))
