"""Clinical tables of phantom cohorts: values by the names of :data:`pipelines.features.clinical.KNOWN`, drawn from the papers' marginals.

Apart from what :mod:`pipelines.phantoms.planting` ties to the label, they say nothing about it beyond the tumour's diameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pipelines.phantoms.latents import draw_age
from pipelines.phantoms.planting import RBC_1E12_PER_L

Rng = np.random.Generator
Values = dict[str, object]  # numbers and words; "" where nobody wrote the value down

_READER_MM = 1.0  # standard deviation of a diameter measured by a radiologist


def draw_clinical(system: str, *, seed: int, diameter_mm: float, node_short_axis_mm: float) -> Values:
    """Return a patient's clinical values for a system's table.

    ``diameter_mm`` is the tumour's largest diameter: as measured for ultrasound, where the planted label depends on it; for MR a reader's
    error is added.
    """
    rng = np.random.default_rng([seed, 4])
    common: Values = {"age_y": draw_age(seed)}
    return common | _TABLES[system](rng, diameter_mm, node_short_axis_mm)


def _olnm(rng: Rng, diameter_mm: float, node_mm: float) -> Values:
    """[OLNM] inclusion: FIGO IB to IIB, no enlarged or suspicious node, no treatment before."""
    measured = _measure(rng, diameter_mm)
    return {
        "figo_stage": _stage(rng, measured),
        "max_tumour_diameter_mm": measured,
        "node_short_axis_mm": node_mm,
        "node_suspicious": "no",
        "neoadjuvant_therapy": "no",
        "histology_biopsy": _choose(rng, {"squamous": 0.82, "adenocarcinoma": 0.18}),
    }


def _plnm(rng: Rng, diameter_mm: float, node_mm: float) -> Values:
    """[PLNM] lists these values without a table that could be read: usual ranges of adult women."""
    return {
        "max_tumour_diameter_mm": round(diameter_mm, 1),
        "rbc_1e12_per_l": round(float(rng.normal(*RBC_1E12_PER_L)), 2),
        "parity": int(rng.poisson(2.0)),
        "abortions": int(rng.poisson(1.2)),
        "bmi_kg_per_m2": round(float(np.clip(rng.normal(23.5, 3.2), 15, 45)), 1),
        "wbc_1e9_per_l": _skewed(rng, 6.2, 0.28),
        "eosinophils_1e9_per_l": _skewed(rng, 0.10, 0.7),
        "alp_u_per_l": _skewed(rng, 72, 0.28),
        "ca125_u_per_ml": _skewed(rng, 16, 0.65),
        "ca153_u_per_ml": _skewed(rng, 10, 0.45),
        "ca199_u_per_ml": _skewed(rng, 11, 0.75),
        "cea_ng_per_ml": _skewed(rng, 2.0, 0.65),
        "scc_ng_per_ml": _skewed(rng, 1.9, 0.95),
        "histology_biopsy": _choose(rng, {"squamous": 0.85, "adenocarcinoma": 0.12, "adenosquamous": 0.03}),
    }


def _lvsi(rng: Rng, diameter_mm: float, node_mm: float) -> Values:
    """[LVSI] Table 1, both groups and cohorts pooled; the depth of invasion follows the diameter."""
    measured = _measure(rng, diameter_mm)
    deep = 1 / (1 + np.exp(-(measured - 24) / 9))
    return {
        "max_tumour_diameter_mm": measured,
        "stromal_depth_over_third": "yes" if rng.random() < deep else "no",
        "figo_group": _choose(rng, {"I": 0.51, "II": 0.355, "III-IV": 0.135}),
        "scc_ng_per_ml": _skewed(rng, 1.8, 0.9),  # elevated, above 1.5, in 62 %
        "plr": _skewed(rng, 150, 0.42),
        "nlr": _skewed(rng, 2.4, 0.6),
        "gestations": int(rng.poisson(3.8)),
        "parity": int(rng.poisson(2.4)),
        "abortions": int(rng.poisson(1.3)),
        "menopause": "yes" if rng.random() < 0.555 else "no",
        "hpv": "yes" if rng.random() < 0.794 else "no",
        "histology_biopsy": _choose(rng, {"squamous": 0.81, "adenocarcinoma": 0.17, "adenosquamous": 0.02}),
    }


def _hybrid(rng: Rng, diameter_mm: float, node_mm: float) -> Values:
    measured = _measure(rng, diameter_mm)
    return {"figo_stage": _stage(rng, measured), "max_tumour_diameter_mm": measured, "node_short_axis_mm": node_mm}


def _histotype(rng: Rng, diameter_mm: float, node_mm: float) -> Values:
    """[CRFE] Table 1, its gaps included: HPV is not reported in 24 %, the stage unknown in 3 %."""
    return {
        "max_tumour_diameter_mm": _measure(rng, diameter_mm),
        "hpv": _choose(rng, {"yes": 0.684, "no": 0.079, "": 0.237}),
        "figo_group": _choose(rng, {"I": 0.421, "II": 0.447, "III-IV": 0.105, "": 0.027}),
        "node_metastasis": "yes" if rng.random() < 0.167 else "no",
        "lvsi": "yes" if rng.random() < 0.105 else "no",
        "invasion_depth_mm": round(float(np.clip(rng.normal(5.4, 2.7), 1, 10)), 1),
        "chemotherapy": "yes" if rng.random() < 0.772 else "no",
        "radiotherapy": "yes" if rng.random() < 0.509 else "no",
    }


_TABLES: Mapping[str, Callable[[Rng, float, float], Values]] = {
    "olnm_mri": _olnm,
    "plnm_us": _plnm,
    "lvsi_mri": _lvsi,
    "lnm_hybrid": _hybrid,
    "histotype_mri": _histotype,
}


def _measure(rng: Rng, diameter_mm: float) -> float:
    return round(max(float(diameter_mm + rng.normal(0, _READER_MM)), 5.0), 1)


def _stage(rng: Rng, diameter_mm: float) -> str:
    """Return the FIGO 2018 stage IB to IIB of a tumour of this size; size decides the substage."""
    spread = rng.random()
    if spread < 0.20:
        return "IIB"
    if spread < 0.42:
        return "IIA1" if diameter_mm < 40 else "IIA2"
    return "IB1" if diameter_mm < 20 else "IB2" if diameter_mm < 40 else "IB3"


def _choose(rng: Rng, shares: Mapping[str, float]) -> str:
    return str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


def _skewed(rng: Rng, median: float, spread: float) -> float:
    """Return a log-normal value to three digits; ``spread`` is the standard deviation of its logarithm."""
    return float(f"{median * np.exp(spread * rng.standard_normal()):.3g}")
