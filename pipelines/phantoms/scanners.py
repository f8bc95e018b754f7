"""How studies are acquired: sequences, vendors and their dialects, and what each system's study holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.phantoms.signal import Protocol, Scanner
from pipelines.types import SeriesRole

PRESETS = ("fast", "full")
_R = SeriesRole
# By system: the sequences of its study in the order of acquisition, and the one on which the true tumour is drawn. The scanner makes
# the ADC map from the diffusion images before it.
SEQUENCES: Mapping[str, tuple[SeriesRole, ...]] = {
    "olnm_mri": (_R.T1W, _R.T2W_FS, _R.DWI),
    "lvsi_mri": (_R.T2W, _R.T2W_FS, _R.DWI, _R.ADC, _R.CE_T1W),  # fat-suppressed for the segmenter that all MR systems share
    "lnm_hybrid": (_R.T2W, _R.DWI, _R.ADC, _R.CE_T1W),
    "histotype_mri": (_R.T2W, _R.DWI, _R.ADC),
}
DRAWN_ON: Mapping[str, SeriesRole] = {
    "olnm_mri": _R.T2W_FS,
    "lvsi_mri": _R.T2W,
    "lnm_hybrid": _R.CE_T1W,
    "histotype_mri": _R.T2W,
}
_DISPLAY = {_R.T1W: 0.75, _R.T2W: 0.45, _R.T2W_FS: 0.5, _R.DWI: 0.4, _R.CE_T1W: 0.8}  # full white, relative to the scanner's gain
COMPLETE = (_R.T1W, _R.T2W, _R.T2W_FS, _R.DWI, _R.ADC, _R.CE_T1W)  # one study that holds what all four MR systems need


@dataclass(frozen=True)
class Vendor:
    """One vendor's habits. ``slope`` is the rescale slope of stored values; 1 means that no rescale attributes are written."""

    manufacturer: str
    model: str
    scanner: Scanner
    slope: float
    t2_repetition_ms: float
    t2_echo_ms: float
    fat_suppressed_echo_ms: float
    diffusion_echo_ms: float
    names: Mapping[SeriesRole, str]


VENDORS = {
    "SIEMENS": Vendor(
        manufacturer="SIEMENS",
        model="MAGNETOM Vida (synthetic phantom)",
        scanner=Scanner(gain=1500, noise=0.010, inhomogeneity=0.28, blur=0.45),
        slope=1.0,
        t2_repetition_ms=4000,  # [LVSI] Image acquisition, with its TE of 109 ms
        t2_echo_ms=109,
        fat_suppressed_echo_ms=84,
        diffusion_echo_ms=72,
        names={
            _R.T1W: "t1_tse_tra",
            _R.T2W: "t2_tse_tra",
            _R.T2W_FS: "t2_tse_spair_tra",
            _R.DWI: "ep2d_diff_b0_b800_tra",
            _R.ADC: "ep2d_diff_b0_b800_tra_ADC",
            _R.CE_T1W: "t1_vibe_fs_sag_km",
        },
    ),
    "PHILIPS": Vendor(
        manufacturer="Philips Medical Systems",
        model="Ingenia (synthetic phantom)",
        scanner=Scanner(gain=5200, noise=0.013, inhomogeneity=0.42, blur=0.6),
        slope=2.1472,
        t2_repetition_ms=5200,
        t2_echo_ms=96,
        fat_suppressed_echo_ms=76,
        diffusion_echo_ms=80,
        names={
            _R.T1W: "T1W_TSE_ax",
            _R.T2W: "T2W_TSE_ax",
            _R.T2W_FS: "T2W_SPAIR_ax",
            _R.DWI: "DWI_b0_800_ax",
            _R.ADC: "dADC_ax",
            _R.CE_T1W: "eTHRIVE_sag_late",
        },
    ),
}


def shift(vendor: Vendor, strength: float) -> Vendor:
    """Return a vendor further off from the other one: 0 is as declared, 1 clearly noisier, blurrier, less homogeneous, other weighting."""
    off = vendor.scanner
    scanner = replace(
        off, noise=off.noise * (1 + strength), inhomogeneity=off.inhomogeneity * (1 + 0.5 * strength), blur=off.blur * (1 + 0.7 * strength)
    )
    scale = 1 - 0.15 * strength
    return replace(
        vendor,
        scanner=scanner,
        t2_echo_ms=max(vendor.t2_echo_ms * scale, 55),
        fat_suppressed_echo_ms=max(vendor.fat_suppressed_echo_ms * scale, 55),
    )


def protocols(vendor: Vendor, preset: str, roles: Sequence[SeriesRole]) -> tuple[Protocol, ...]:
    """Return the acquisitions of a study for these roles; ``fast`` samples coarser than ``full`` over about the same field of view.

    ADC is no acquisition of its own: the diffusion sequence is added for it where it is not among the roles.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: use one of {', '.join(PRESETS)}")
    wanted = {_R.DWI if role is _R.ADC else role for role in roles}
    return tuple(protocol for protocol in _all_protocols(vendor, full=preset == "full") if protocol.role in wanted)


def _all_protocols(vendor: Vendor, *, full: bool) -> tuple[Protocol, ...]:
    """Return every acquisition in the order of a study; contrast agent comes last. Times of T2, DWI and CE-T1 as in [LVSI]."""

    def axial(role: SeriesRole, columns: tuple[int, int], pixel_mm: tuple[float, float], repetition_ms: float, echo_ms: float) -> Protocol:
        protocol = Protocol(role, columns[full], 20, pixel_mm[full], repetition_ms, echo_ms, display=_DISPLAY[role])
        return replace(protocol, slices=24, spacing_mm=5.0, thickness_mm=4.0) if full else protocol

    t2_columns, t2_pixel_mm = (256, 384), (1.05, 0.7)
    dynamic = Protocol(_R.CE_T1W, 256 if full else 176, 48 if full else 44, 1.0 if full else 1.3, 5.77, 2.66, display=_DISPLAY[_R.CE_T1W])
    return (
        axial(_R.T1W, (192, 256), (1.4, 1.05), 600, 10),
        axial(_R.T2W, t2_columns, t2_pixel_mm, vendor.t2_repetition_ms, vendor.t2_echo_ms),
        replace(axial(_R.T2W_FS, t2_columns, t2_pixel_mm, vendor.t2_repetition_ms, vendor.fat_suppressed_echo_ms), fat_left=0.12),
        replace(axial(_R.DWI, (112, 128), (2.4, 2.1), 3000, vendor.diffusion_echo_ms), fat_left=0.05, b_values=(0, 800), averages=8),
        replace(dynamic, fat_left=0.10, flip_deg=12.0, sagittal=True, spacing_mm=2.5, thickness_mm=2.5),
    )
