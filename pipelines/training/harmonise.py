"""Take differences between sites out of features: ComBat with parametric empirical Bayes (Johnson, Li and Rabinovic 2007).

The outcome is never a covariate: it would carry the labels into the features. A site that was not there at the fit is not harmonised, and
the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import CohortError
from pipelines.types import FloatArray

FEWEST_ROWS = 20  # of a site: below, its shift is mostly chance
_CONVERGED = 1e-4  # relative change of the estimates, as in the reference implementation
_ROUNDS = 1000
_TINY = 1e-12  # of standardised features


class Harmonised(NamedTuple):
    """Rows (n, p); ``known`` (n,) is false for those of sites that the fit had not seen, which are as they were."""

    rows: FloatArray
    known: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Combat:
    """A fitted harmonisation: what a site adds to a standardised feature (``shift``) and multiplies its spread by (``spread``).

    ``mean``, ``std`` (p,) standardise; a feature that does not vary has a std of 0 and is left alone. ``slopes`` (covariates, p) belong to
    the covariates, ``shift`` and ``spread`` (sites, p) to ``sites``.
    """

    sites: tuple[str, ...]
    mean: FloatArray
    std: FloatArray
    slopes: FloatArray
    shift: FloatArray
    spread: FloatArray

    def apply(self, rows: FloatArray, sites: Sequence[str], covariates: FloatArray | None = None) -> Harmonised:
        """Harmonise rows (n, p) of these sites (n,), with the covariates (n, q) of the fit."""
        place = {site: i for i, site in enumerate(self.sites)}
        where = np.array([place.get(site, -1) for site in sites])
        expected = self.mean + _covariates(rows, covariates) @ self.slopes
        usable = (where >= 0)[:, None] & (self.std > 0)
        z = np.divide(rows - expected, self.std, out=np.zeros_like(rows), where=usable)
        moved = (z - self.shift[where]) / self.spread[where] * self.std + expected
        return Harmonised(np.where(usable, moved, rows), where >= 0)


def fit_combat(rows: FloatArray, sites: Sequence[str], *, covariates: FloatArray | None = None, reference: str | None = None) -> Combat:
    """Fit on training rows (n, p) of these sites (n,).

    Parameters
    ----------
    covariates : (n, q) numbers whose effect is to stay, such as age; never the outcome.
    reference : site that the others are brought to and that itself stays as it is; by default all are brought to their mean.

    Raises
    ------
    CohortError
        Fewer than two sites or two features that vary, a site of fewer than 20 rows, an unknown reference, or covariates that the sites
        explain already.
    """
    names, where = np.unique(np.array(sites), return_inverse=True)
    member = np.eye(len(names))[where]
    design = np.hstack([member, _covariates(rows, covariates)])
    _check(names.tolist(), member.sum(axis=0), design, reference)
    effects = np.asarray(np.linalg.lstsq(design, rows, rcond=None)[0], dtype=np.float64)
    of_sites, slopes = effects[: len(names)], effects[len(names) :]
    residuals = rows - design @ effects
    if reference is None:
        mean, std = member.mean(axis=0) @ of_sites, residuals.std(axis=0)
    else:
        base = names.tolist().index(reference)
        mean, std = of_sites[base], np.sqrt((residuals[where == base] ** 2).mean(axis=0))
    std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-12), std, 0.0)
    varies = std > 0
    if varies.sum() < 2:
        raise CohortError("harmonisation between sites needs at least two features that vary")
    z = (rows - mean - design[:, len(names) :] @ slopes)[:, varies] / std[varies]
    shift, spread = np.zeros((len(names), len(std))), np.ones((len(names), len(std)))
    for i, name in enumerate(names):
        if name != reference:
            shift[i, varies], spread[i, varies] = _shrink(z[where == i])
    return Combat(tuple(names.tolist()), mean, std, slopes, shift, spread)


def _shrink(z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a site's shift and spread per feature, drawn towards what all its features have in common.

    Priors: the shift is normal, the squared spread inverse gamma, both by the method of moments over features.
    """
    n, shift, variance = len(z), z.mean(axis=0), z.var(axis=0, ddof=1)
    centre, width = shift.mean(), shift.var(ddof=1)
    m, v = variance.mean(), max(variance.var(ddof=1), _TINY)
    shape, scale = (2 * v + m**2) / v, (m * v + m**3) / v
    raw = shift
    for _ in range(_ROUNDS):
        new_shift = (n * width * raw + variance * centre) / (n * width + variance)
        new_variance = (((z - new_shift) ** 2).sum(axis=0) / 2 + scale) / (n / 2 + shape - 1)
        change = max(
            np.abs((new - old) / np.maximum(np.abs(old), _TINY)).max() for new, old in ((new_shift, shift), (new_variance, variance))
        )
        shift, variance = new_shift, new_variance
        if change < _CONVERGED:
            break
    return shift, np.sqrt(variance)


def _covariates(rows: FloatArray, covariates: FloatArray | None) -> FloatArray:
    return np.empty((len(rows), 0)) if covariates is None else covariates


def _check(names: Sequence[str], counts: FloatArray, design: FloatArray, reference: str | None) -> None:
    if len(names) < 2:
        raise CohortError(f"harmonisation needs at least two sites, the training rows have {', '.join(names) or 'none'}")
    if small := [f"{name} ({count:.0f})" for name, count in zip(names, counts, strict=True) if count < FEWEST_ROWS]:
        raise CohortError(f"harmonisation needs {FEWEST_ROWS} training rows of each site: {', '.join(small)}")
    if reference is not None and reference not in names:
        raise CohortError(f"the reference site {reference} is not among {', '.join(names)}")
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise CohortError("a covariate of the harmonisation is explained by the site or by the other covariates")
