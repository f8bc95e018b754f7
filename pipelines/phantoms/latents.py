"""The properties of a tumour on which planted labels depend: independent standard-normal numbers, and what they mean physically."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

AGE_Y = (51.0, 10.5, 28, 80)  # mean, standard deviation, lowest, highest: [CRFE] Table 1, [LVSI] Table 1


@dataclass(frozen=True)
class Latents:
    """The tumour as MR sees it. A positive number is always the direction that the literature ties to worse disease."""

    size: float = 0.0
    heterogeneity: float = 0.0
    adc: float = 0.0
    irregularity: float = 0.0
    rim: float = 0.0
    grain: float = 0.0
    t2: float = 0.0

    @property
    def diameter_mm(self) -> float:
        """Mean diameter in mm."""
        return float(np.clip(34 * np.exp(0.30 * self.size), 14, 66))

    @property
    def texture(self) -> float:
        """Standard deviation of log T2 within the tumour."""
        return float(0.22 * np.exp(0.45 * self.heterogeneity))

    @property
    def mean_adc(self) -> float:
        """Mean ADC in 1e-3 mm2/s; a high latent is a low ADC."""
        return float(0.92 * np.exp(-0.13 * self.adc))

    @property
    def roughness(self) -> float:
        """Relative standard deviation of the tumour's radius."""
        return float(0.10 * np.exp(0.45 * self.irregularity))

    @property
    def rim_enhancement(self) -> float:
        """R1 in 1/s that contrast agent adds in the outer millimetres, beyond what it adds within."""
        return float(0.9 * np.exp(0.60 * self.rim))

    @property
    def grain_mm(self) -> float:
        """Length over which the tumour's texture changes, mm."""
        return float(2.2 * np.exp(0.35 * self.grain))

    @property
    def mean_t2_ms(self) -> float:
        """Geometric mean of T2 in ms."""
        return float(98 * np.exp(0.13 * self.t2))


@dataclass(frozen=True)
class UltrasoundLatents:
    """The tumour as transvaginal ultrasound sees it."""

    size: float = 0.0
    heterogeneity: float = 0.0
    echogenicity: float = 0.0
    irregularity: float = 0.0

    @property
    def diameter_mm(self) -> float:
        """Largest diameter of the maximal section in mm."""
        return float(np.clip(30 * np.exp(0.33 * self.size), 12, 58))

    @property
    def texture_db(self) -> float:
        """Standard deviation of the echogenicity within the tumour in dB."""
        return float(1.9 * np.exp(0.50 * self.heterogeneity))

    @property
    def mean_db(self) -> float:
        """Mean echogenicity against the stroma in dB; a high latent is a dark tumour."""
        return float(-7.0 - 1.8 * self.echogenicity)

    @property
    def roughness(self) -> float:
        """Relative amplitude of the margin's lobes."""
        return float(0.06 * np.exp(0.50 * self.irregularity))


def draw_latents(seed: int) -> Latents:
    """Return the MR latents of a patient."""
    return Latents(*(float(v) for v in np.random.default_rng([seed, 0]).standard_normal(len(fields(Latents)))))


def draw_ultrasound_latents(seed: int) -> UltrasoundLatents:
    """Return the ultrasound latents of a patient."""
    return UltrasoundLatents(*(float(v) for v in np.random.default_rng([seed, 0]).standard_normal(len(fields(UltrasoundLatents)))))


def draw_age(seed: int) -> int:
    """Return the age of a patient in years."""
    mean, deviation, lowest, highest = AGE_Y
    return int(np.clip(round(np.random.default_rng([seed, 5]).normal(mean, deviation)), lowest, highest))


def draw_short_axis(seed: int, *, positive_share: float = 0.0) -> float:
    """Return the short axis in mm of the largest lymph node, which has nothing to do with the tumour's latents.

    With probability ``positive_share`` it is 10.0 mm or more, which is what [HSCORE] calls a positive node status.
    """
    rng = np.random.default_rng([seed, 6])
    if rng.random() < positive_share:
        return round(float(min(10 + rng.exponential(3.5), 26)), 1)
    return round(float(np.clip(5.6 * np.exp(0.28 * rng.standard_normal()), 2.5, 9.9)), 1)
