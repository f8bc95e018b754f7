"""Labels planted on latents so that the best possible AUC of each system's cohort is known analytically.

A label depends on an index of the tumour's latents, standard normal by construction, and in some systems on clinical values with effects as
published; how strongly it depends on the index is solved for. 0.5 plants nothing at all, neither on images nor on clinical values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from pipelines.phantoms.latents import Latents, UltrasoundLatents

Floats = NDArray[np.float64]
Offset = tuple[tuple[float, ...], tuple[float, ...]]

LABEL = "label"
KERATINISATION, HISTOLOGY = "non_keratinising", "adenocarcinoma"  # two of the three bits of [CRFE]'s types; the third is constant
SHORT_AXIS_POSITIVE_MM = 10.0  # [HSCORE]: the node status is positive from here on
NODE_ODDS_RATIO, NODE_POSITIVE_SHARE = 10.0, 0.20
DIAMETER_LOG_ODDS_PER_MM = 0.05354  # [PLNM] multivariate analysis: odds ratio 1.055; the unit is not printed, mm is the plausible one
RBC_LOG_ODDS = -0.43696  # [PLNM]: odds ratio 0.646 per 10^12/L
RBC_1E12_PER_L = (4.25, 0.48)  # mean, standard deviation; adult women
_DIAMETER_REFERENCE_MM = 30.0
# By system and outcome: the weights of latents in the index.
WEIGHTS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    # Without the map of it no ADC: T2 outweighs it on a DWI, and none of the three sequences tells of it (r = 0.2 at best).
    "olnm_mri": {LABEL: {"size": 0.75, "heterogeneity": 0.55, "grain": 0.37}},
    # Size counts through the diameter. Echogenicity is read best from one image; no single feature reads irregularity.
    "plnm_us": {LABEL: {"echogenicity": 0.90, "heterogeneity": 0.44}},
    "lvsi_mri": {LABEL: {"adc": 0.75, "size": 0.50, "rim": 0.43}},
    "lnm_hybrid": {LABEL: {"rim": 0.80, "heterogeneity": 0.60}},  # its crops are scaled to the tumour and do not show its size
    "histotype_mri": {KERATINISATION: {"t2": 0.80, "size": 0.60}, HISTOLOGY: {"heterogeneity": 1.0}},  # all of it shows on T2WI
}
SYSTEMS = tuple(WEIGHTS)
# Share of positive outcomes. [PLNM]: 107 of 421; [LVSI]: 92 of 155; [HSCORE]: 32 of the 141 external ones; [CRFE]: types 4, 6 and 7 with
# .16, .76 and .08, where only a non-keratinising tumour can be an adenocarcinoma. [OLNM] prints no rate.
PREVALENCE: Mapping[str, Mapping[str, float]] = {
    "olnm_mri": {LABEL: 0.40},
    "plnm_us": {LABEL: 0.254},
    "lvsi_mri": {LABEL: 0.594},
    "lnm_hybrid": {LABEL: 0.227},
    "histotype_mri": {KERATINISATION: 0.84, HISTOLOGY: 0.08 / 0.84},
}
_NOTHING: Offset = ((0.0,), (1.0,))
_BINS = 161  # of the distribution of clinical log-odds


@dataclass(frozen=True)
class Planting:
    """Label model: P(positive) = expit(intercept + slope * index + offset), index ~ N(0, 1).

    ``offset`` is the distribution of the clinical part in log-odds, independent of the index: values and their shares.
    """

    intercept: float
    slope: float
    offset: Offset = _NOTHING

    def bayes_auc(self) -> float:
        """Return the AUC of the true risk, by quadrature: no score can do better in expectation."""
        index, offset, share, risk = self._quadrature()
        return _auc((self.slope * index + offset).ravel(), share.ravel(), risk.ravel())

    def imaging_auc(self) -> float:
        """Return the AUC of the index alone, without the clinical part (which in plnm_us the images show too: the diameter)."""
        index, _, share, risk = self._quadrature()
        total = share.sum(axis=1)
        return _auc(index[:, 0], total, (share * risk).sum(axis=1) / total)

    def clinical_auc(self) -> float:
        """Return the best AUC without images: that of the clinical part alone."""
        _, offset, share, risk = self._quadrature()
        total = share.sum(axis=0)
        return _auc(offset[0], total, (share * risk).sum(axis=0) / total)

    def prevalence(self) -> float:
        """Return the share of positive labels."""
        _, _, share, risk = self._quadrature()
        return float((share * risk).sum())

    def risk(self, index: float, offset: float = 0.0) -> float:
        """Return the probability of a positive label."""
        return float(expit(self.intercept + self.slope * index + offset))

    def _quadrature(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return index, offset, share and risk on a grid (index, offset)."""
        index = np.linspace(-8, 8, 8001 if len(self.offset[0]) < 3 else 801)[:, None]
        offset, weight = (np.array(part)[None] for part in self.offset)
        density = norm.pdf(index)
        return index, offset, density / density.sum() * weight, expit(self.intercept + self.slope * index + offset)


def _auc(score: Floats, share: Floats, risk: Floats) -> float:
    """Return the AUC of a score over a weighted population; equal scores count half."""
    values, place = np.unique(score, return_inverse=True)
    positive = np.bincount(place, share * risk, len(values))
    negative = np.bincount(place, share * (1 - risk), len(values))
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


@lru_cache(maxsize=64)
def plant(auc: float, prevalence: float = PREVALENCE["olnm_mri"][LABEL], *, offset: Offset = _NOTHING) -> Planting:
    """Return the label model with this Bayes AUC and prevalence; 0.5 plants nothing.

    Raises
    ------
    ValueError
        The AUC lies outside 0.5 to 0.97, or below what the clinical part reaches by itself.
    """
    if not 0.5 <= auc <= 0.97:
        raise ValueError(f"the planted AUC must lie between 0.5 and 0.97, not {auc}")
    if auc == 0.5:
        return _at(0.0, prevalence, _NOTHING)
    least = _at(0.0, prevalence, offset).bayes_auc()
    if auc < least:
        raise ValueError(f"the clinical values alone have an AUC of {least:.3f}: plant 0.5 (nothing) or at least that, not {auc}")
    slope = brentq(lambda s: _at(s, prevalence, offset).bayes_auc() - auc, 0.0, 12.0, xtol=1e-9)
    return _at(float(slope), prevalence, offset)


def _at(slope: float, prevalence: float, offset: Offset) -> Planting:
    intercept = brentq(lambda a: Planting(a, slope, offset).prevalence() - prevalence, -30, 30, xtol=1e-10)
    return Planting(float(intercept), slope, offset)


def plantings(system: str, auc: float) -> dict[str, Planting]:
    """Return the label model of each outcome of a system; all are planted with this AUC.

    ``histotype_mri`` has two outcomes: keratinisation in all patients, and histology among the non-keratinising.
    """
    if system not in WEIGHTS:
        raise ValueError(f"no phantom cohort for {system!r}: there is one for {', '.join(SYSTEMS)}")
    return {outcome: plant(auc, share, offset=_clinical_offset(system)) for outcome, share in PREVALENCE[system].items()}


def best_auc(models: Mapping[str, Planting]) -> float:
    """Return the AUC of the true risks: no score can do better in expectation. Of types it is the mean of one against the rest."""
    if LABEL in models:
        return models[LABEL].bayes_auc()
    index = np.linspace(-6, 6, 601)
    share = np.outer(norm.pdf(index), norm.pdf(index)).ravel()
    other, adeno = (expit(models[o].intercept + models[o].slope * index) for o in (KERATINISATION, HISTOLOGY))
    risks = [np.outer(*sides).ravel() for sides in ((1 - other, np.ones_like(index)), (other, 1 - adeno), (other, adeno))]
    return float(np.mean([_auc(risk, share, risk) for risk in risks]))


def planted_index(system: str, latents: Latents | UltrasoundLatents, outcome: str = LABEL) -> float:
    """Return the standard-normal index of a patient's latents on which an outcome of the system depends."""
    weights = WEIGHTS[system][outcome]
    return float(sum(w * getattr(latents, name) for name, w in weights.items()) / np.linalg.norm(list(weights.values())))


def clinical_log_odds(system: str, clinical: Mapping[str, object]) -> float:
    """Return what a patient's clinical values add to the log-odds of the label, by the names of :mod:`pipelines.features.clinical`."""
    if system == "lnm_hybrid":
        return float(np.log(NODE_ODDS_RATIO)) * (float(str(clinical["node_short_axis_mm"])) >= SHORT_AXIS_POSITIVE_MM)
    if system == "plnm_us":
        return _plnm_log_odds(float(str(clinical["max_tumour_diameter_mm"])), float(str(clinical["rbc_1e12_per_l"])))
    return 0.0


def _plnm_log_odds(diameter_mm: float, rbc: float) -> float:
    return DIAMETER_LOG_ODDS_PER_MM * (diameter_mm - _DIAMETER_REFERENCE_MM) + RBC_LOG_ODDS * (rbc - RBC_1E12_PER_L[0])


@lru_cache(maxsize=8)
def _clinical_offset(system: str) -> Offset:
    """Return the distribution of :func:`clinical_log_odds` in a system's cohort."""
    if system == "lnm_hybrid":
        return (0.0, float(np.log(NODE_ODDS_RATIO))), (1 - NODE_POSITIVE_SHARE, NODE_POSITIVE_SHARE)
    if system != "plnm_us":
        return _NOTHING
    normal = np.linspace(-5, 5, 401)
    share = norm.pdf(normal) / norm.pdf(normal).sum()
    diameter = np.array([UltrasoundLatents(size=float(z)).diameter_mm for z in normal])
    rbc = RBC_1E12_PER_L[0] + RBC_1E12_PER_L[1] * normal
    values = DIAMETER_LOG_ODDS_PER_MM * (diameter - _DIAMETER_REFERENCE_MM)[:, None] + RBC_LOG_ODDS * (rbc - RBC_1E12_PER_L[0])
    edges = np.linspace(values.min(), values.max(), _BINS + 1)
    weight, _ = np.histogram(values, edges, weights=np.outer(share, share))
    middle, filled = (edges[1:] + edges[:-1]) / 2, weight > 0
    return tuple(middle[filled].tolist()), tuple(weight[filled].tolist())
