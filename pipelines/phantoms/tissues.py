"""What tissues look like to MR: one row of properties for each."""

from __future__ import annotations

from typing import NamedTuple


class Tissue(NamedTuple):
    """MR properties at 3 T, round figures from the literature: T1 and T2 in ms, proton density 0..1, ADC in 1e-3 mm2/s."""

    t1_ms: float
    t2_ms: float
    density: float
    adc: float
    fat: float  # share of the signal that fat suppression removes
    enhancement: float  # relaxation rate R1 added by contrast agent two minutes after the injection, 1/s
    texture: float  # relative standard deviation of the signal within the tissue
    fibres: float = 0.0  # the same, for the streaky part


TISSUES = {
    "skin": Tissue(900, 45, 0.70, 0.8, 0.1, 0.5, 0.03),
    "fat": Tissue(380, 140, 0.95, 0.05, 1.0, 0.03, 0.05, 0.03),  # T2 as a train of echoes shows it
    "fascia": Tissue(900, 26, 0.50, 0.8, 0.3, 0.3, 0.05),
    "muscle": Tissue(1400, 38, 0.78, 1.40, 0.0, 0.35, 0.05, 0.11),
    "cortex": Tissue(800, 12, 0.25, 0.2, 0.1, 0.05, 0.05),
    "marrow": Tissue(480, 90, 0.75, 0.35, 0.90, 0.15, 0.12),
    "urine": Tissue(3800, 900, 1.00, 2.95, 0.0, 0.0, 0.01),
    "wall": Tissue(1350, 52, 0.80, 1.35, 0.0, 1.1, 0.06),
    "stool": Tissue(900, 46, 0.55, 0.9, 0.2, 0.0, 0.35),
    "gas": Tissue(1500, 5, 0.02, 0.0, 0.0, 0.0, 0.0),
    "bowel": Tissue(1700, 120, 0.80, 1.9, 0.1, 0.1, 0.18),
    "myometrium": Tissue(1500, 82, 0.86, 1.55, 0.0, 2.1, 0.10, 0.05),
    "junctional": Tissue(1450, 50, 0.80, 1.30, 0.0, 1.6, 0.06),
    "mucosa": Tissue(1800, 170, 0.94, 1.60, 0.0, 0.9, 0.08),
    "stroma": Tissue(1500, 48, 0.80, 1.55, 0.0, 0.6, 0.07),
    "outer_stroma": Tissue(1500, 66, 0.82, 1.65, 0.0, 0.8, 0.07),
    "parametrium": Tissue(650, 75, 0.82, 1.5, 0.65, 0.7, 0.20, 0.15),
    "ovary": Tissue(1500, 80, 0.85, 1.50, 0.0, 1.2, 0.08),
    "follicle": Tissue(3200, 500, 1.00, 2.60, 0.0, 0.05, 0.02),
    "artery": Tissue(1800, 14, 0.40, 1.0, 0.0, 4.0, 0.05),  # flow void
    "vein": Tissue(1900, 70, 0.75, 2.0, 0.0, 3.0, 0.08),
    "node": Tissue(1250, 88, 0.86, 1.05, 0.0, 1.3, 0.06),
    "tumour": Tissue(1480, 98, 0.88, 0.92, 0.0, 1.0, 0.0),  # means, which the patient's latents replace
}
