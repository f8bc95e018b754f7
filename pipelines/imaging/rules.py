"""What a series is, by rules as data: what the header says the physics was.

The description is a hint that helps where the physics is silent; it never overrules it. Every verdict is a sentence that a radiologist
or an administrator can check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from pipelines.imaging.diffusion import b_value, nominal
from pipelines.imaging.elements import private, upper
from pipelines.imaging.geometry import MOSAIC
from pipelines.imaging.parts import Part
from pipelines.types import SeriesHeader, SeriesRole

_MIN_SLICES = 5  # fewer slices are a localizer or a measurement, not a pelvis


@dataclass(frozen=True, slots=True)
class Condition:
    """``field`` of the facts, an operator of ``_OPERATORS``, and what to compare with."""

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Rule:
    """When all conditions hold the series is a candidate for ``role`` (``None``: it never wins any) with this score.

    ``diffusion``: its images are measured diffusion images, of whatever b-value.
    """

    role: SeriesRole | None
    score: float
    reason: str
    conditions: tuple[Condition, ...]
    diffusion: bool = False


@dataclass(frozen=True, slots=True)
class Adjustment:
    """When all conditions hold, ``points`` are added to a candidate for one of ``roles``."""

    points: float
    reason: str
    roles: frozenset[SeriesRole]
    conditions: tuple[Condition, ...]


class Verdict(NamedTuple):
    """What the rules say of one series."""

    role: SeriesRole | None
    score: float
    reason: str
    diffusion: bool = False


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "is": lambda fact, value: bool(fact == value),
    "has": lambda fact, value: value in fact,
    "has any": lambda fact, value: bool(set(fact) & value),
    "matches": lambda fact, value: re.search(value, fact, re.IGNORECASE) is not None,
    "at least": lambda fact, value: fact is not None and fact >= value,
    "below": lambda fact, value: fact is not None and fact < value,
}


def _when(*triples: tuple[str, str, Any]) -> tuple[Condition, ...]:
    return tuple(Condition(*triple) for triple in triples)


_R = SeriesRole
_LOCALIZER = r"\bloc(alizer)?\b|scout|survey|(?<![a-z])localis|3[- ]?pl(ane)?\b"
_PROCESSED = {"MIP", "MAXIP", "MINIP", "MNIP", "MPR", "CSA MPR", "PROJECTION IMAGE", "SUBTRACTION", "SUB", "SUBTRACT", "VRT", "SSD"}
_SCREEN = {"SCREEN SAVE", "SCREENSAVE", "SCREEN_SAVE", "SECONDARY CAPTURE", "CSA REPORT", "CSA RESULT", "REPORT"}
_DIFFUSION_MAPS = {"FA", "COLOR", "DIFFUSION_ANISO", "EADC", "EXP_ADC", "TENSOR", "TRACEW_MAP", "RA", "VR"}
_DIFFUSION_MAP_NAMES = r"(?<![a-z])(e[-_ ]?adc|exp\w*[-_ ](adc|apparent)|fa|fractional[-_ ]an\w*|rel\w*[-_ ]an\w*)(?![a-z])"
_ADC_NAMES = r"(?<![a-z])(adc|avg[-_. ]+dc|average[-_ ]dc)|apparent"
_PROCESSED_NAMES = r"(?<![a-z])(sub(tract(ion|ed))?|mip|mpr|ttp|auc|ktrans|wash[- ]?(in|out)|pei|mean ?curve)(?![a-z])"
_CALCULATED_NAMES = r"calc[_ ]?b|synth(etic)?[_ ]?(b|dwi)|(?<![a-z])cdwi|(?<![a-z])cb\d{3}|computed[_ ]?(b|dwi)"
# In order: the first rule that holds decides. Times in ms.
RULES: tuple[Rule, ...] = (
    Rule(_R.SEG, 100, "Segmentation Storage", _when(("modality", "is", "SEG"))),
    Rule(_R.RTSTRUCT, 100, "RT Structure Set Storage", _when(("modality", "is", "RTSTRUCT"))),
    Rule(_R.SR, 100, "structured report", _when(("modality", "is", "SR"))),
    Rule(None, 0, "ultrasound, of which the study's best image counts", _when(("modality", "is", "US"))),
    Rule(None, 0, "not an MR series", _when(("is_mr", "is", False))),
    Rule(None, 0, "not an MR image by its SOP class", _when(("is_image", "is", False))),
    Rule(None, 0, "a multi-frame image without functional groups", _when(("undescribed_frames", "is", True))),
    Rule(None, 0, "a localizer", _when(("image_type", "has", "LOCALIZER"))),
    Rule(None, 0, "a localizer by its name", _when(("description", "matches", _LOCALIZER))),
    Rule(None, 0, "mosaics, several slices in one image", _when(("image_type", "has any", MOSAIC))),
    Rule(None, 0, "a colour image", _when(("colour", "is", True))),
    Rule(None, 0, "a screenshot", _when(("image_type", "has any", _SCREEN))),
    Rule(None, 0, "a projection or subtraction", _when(("kind", "has any", _PROCESSED))),
    Rule(None, 0, "a projection, subtraction or curve map by its name", _when(("description", "matches", _PROCESSED_NAMES))),
    Rule(None, 0, "no magnitude image ({component})", _when(("not_magnitude", "is", True))),
    Rule(None, 0, "a diffusion map that is no ADC", _when(("kind", "has any", _DIFFUSION_MAPS))),
    Rule(None, 0, "a diffusion map by its name", _when(("derived", "is", True), ("description", "matches", _DIFFUSION_MAP_NAMES))),
    Rule(None, 0, "a calculated b-value image", _when(("description", "matches", _CALCULATED_NAMES))),
    Rule(_R.ADC, 90, "ImageType says ADC", _when(("is_adc", "is", True))),
    Rule(_R.ADC, 70, "a derived map named ADC", _when(("derived", "is", True), ("description", "matches", _ADC_NAMES))),
    Rule(None, 0, "a calculated b-value image, from {sequence_name}", _when(("sequence_name", "matches", r"ep_b\d+_\d+"))),
    Rule(None, 0, f"fewer than {_MIN_SLICES} slices", _when(("n_slices", "below", _MIN_SLICES))),
    Rule(
        _R.DWI,
        90,
        "echo planar with b-values up to {b_max:g} s/mm2",
        _when(("scanning_sequence", "has", "EP"), ("b_max", "at least", 100)),
        diffusion=True,
    ),
    Rule(_R.DWI, 70, "b-values up to {b_max:g} s/mm2", _when(("b_max", "at least", 100)), diffusion=True),
    Rule(
        None,
        0,
        "echo planar with b-values up to {b_max:g} s/mm2 only",
        _when(("scanning_sequence", "has", "EP"), ("b_max", "at least", 0)),
        diffusion=True,
    ),
    Rule(None, 0, "echo planar without a readable b-value", _when(("scanning_sequence", "has", "EP"))),
    Rule(None, 0, "the fat image of a Dixon sequence", _when(("dixon", "is", "fat"))),
    Rule(None, 0, "fluid nulled, inversion time {ti:g} ms", _when(("scanning_sequence", "has", "IR"), ("ti", "at least", 1500))),
    Rule(None, 0, "balanced steady state, flip angle {flip:g} degrees", _when(("balanced", "is", True), ("flip", "at least", 30))),
    Rule(None, 0, "TE {te:g} ms: fluid only", _when(("spin_echo", "is", True), ("te", "at least", 250))),
    Rule(
        _R.T2W_FS,
        90,
        "spin echo, TE {te:g} ms, fat suppressed ({fat})",
        _when(("spin_echo", "is", True), ("te", "at least", 50), ("fat_suppressed", "is", True)),
    ),
    Rule(_R.T2W, 90, "spin echo, TE {te:g} ms, no fat suppression", _when(("spin_echo", "is", True), ("te", "at least", 50))),
    Rule(None, 0, "gradient echo, TE {te:g} ms: T2* weighted", _when(("gradient_echo", "is", True), ("te", "at least", 12))),
    Rule(
        _R.CE_T1W,
        80,
        "TE {te:g} ms, TR {tr:g} ms, {contrast_words}",
        _when(("te", "below", 30), ("tr", "below", 1500), ("contrast", "is", True)),
    ),
    Rule(
        _R.CE_T1W,
        60,
        'TE {te:g} ms, TR {tr:g} ms, "{contrast_name}" in its name',
        _when(("te", "below", 30), ("tr", "below", 1500), ("contrast_silent", "is", True), ("contrast_named", "is", True)),
    ),
    Rule(_R.T1W, 80, "TE {te:g} ms, TR {tr:g} ms, {contrast_words}", _when(("te", "below", 30), ("tr", "below", 1500))),
    Rule(None, 0, "its TE and TR fit no role", ()),
)

_T2 = frozenset({_R.T2W, _R.T2W_FS})
_T1 = frozenset({_R.T1W, _R.CE_T1W})
_IMAGES = _T1 | _T2 | {_R.DWI, _R.ADC}
ADJUSTMENTS: tuple[Adjustment, ...] = (
    Adjustment(-40, "its slices form no volume", _IMAGES, _when(("problem", "is", True))),
    Adjustment(-15, "not axial", _IMAGES, _when(("axial", "is", False))),
    Adjustment(-15, "pixels of {pixel_mm:.1f} mm", _T1 | _T2, _when(("pixel_mm", "at least", 2.05))),
    Adjustment(-10, "covers {coverage_mm:.0f} mm only", _IMAGES, _when(("coverage_mm", "below", 50.0))),
    Adjustment(-10, "derived from other images", _T1 | _T2, _when(("derived", "is", True))),
    Adjustment(-10, "single shot", _T2, _when(("single_shot", "is", True))),
    Adjustment(-10, "opposed phase", _T1, _when(("dixon", "is", "opposed phase"))),
    Adjustment(-5, "water image", frozenset({_R.T1W}), _when(("dixon", "is", "water"))),
    Adjustment(-5, "in phase, fat not suppressed", frozenset({_R.CE_T1W}), _when(("dixon", "is", "in phase"))),
    Adjustment(-5, "single directions, no trace image", frozenset({_R.DWI}), _when(("directions", "is", True))),
)

_FAT_OPTIONS = {"FS", "FATSAT", "FAT_SAT", "SAT_FAT", "FS_GEMS", "SPAIR", "SPIR", "FATSAT_GEMS", "PFS", "WE"}
_FAT_NAMES = r"spair|spir|stir|fat.?sat|(?<![a-z])fs(?![a-z])|tirm|(?<![a-z])water(?![a-z])"
_SINGLE_SHOT = r"haste|ss-?fse|ss-?tse|single.?shot|(?<![a-z])fase(?![a-z])"
_CONTRAST_NAMES = r"post|(?<![a-z])(\+c|c\+|gd|km|ce|dce|gad\w*|dotarem|contrast)(?![a-z])|with contrast|dynamic|(?<![a-z])dyn"
_NO_AGENT = {"", "NO", "NONE", "N", "0", "WITHOUT"}
_DIXON = {"W": "water", "WATER": "water", "F": "fat", "FAT": "fat", "IP": "in phase", "IN_PHASE": "in phase"}
_DIXON |= dict.fromkeys(("OP", "OPP_PHASE", "OUT_PHASE", "OPPOSED_PHASE", "OP_PHASE"), "opposed phase")
_NOT_MAGNITUDE = re.compile(r"^(PHASE.*|P|REAL|R|IMAGINARY|I|(P|R|I)_\w+|.* ?MAP|B0|B1)$")
_MR_IMAGES = {MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage}


def classify_part(part: Part, contrast: Mapping[str, Any]) -> Verdict:
    """Return the role of images with its score (0 to 100) and the reason in words.

    ``contrast`` are the facts about contrast agent that only the whole study tells (:mod:`pipelines.imaging.contrast`).
    """
    facts = {**_facts(part), **contrast}
    rule = next(rule for rule in RULES if _holds(rule.conditions, facts))
    score, reason = rule.score, rule.reason.format(**facts)
    for adjustment in ADJUSTMENTS:
        if rule.role in adjustment.roles and _holds(adjustment.conditions, facts):
            score += adjustment.points
            reason += f"; {adjustment.reason.format(**facts)}"
    return Verdict(rule.role, max(score, 1.0) if rule.role else 0.0, reason, rule.diffusion)


def names_contrast(header: SeriesHeader) -> str:
    """Return the word of a description that speaks of contrast agent, or empty."""
    found = re.search(_CONTRAST_NAMES, header.description, re.IGNORECASE)
    return found.group() if found else ""


def has_agent(header: SeriesHeader) -> bool:
    """Tell whether the header names a contrast agent."""
    return header.contrast_agent.upper() not in _NO_AGENT


def _holds(conditions: tuple[Condition, ...], facts: Mapping[str, Any]) -> bool:
    return all(_OPERATORS[c.operator](facts[c.field], c.value) for c in conditions)


def _facts(part: Part) -> dict[str, Any]:
    header = part.header
    kind = header.image_type[2:]
    fat = _fat_suppression(part)
    words = (*kind, *upper(part.frames[0], "ComplexImageComponent"))
    components = sorted({word for word in words if _NOT_MAGNITUDE.match(word) and not word.startswith(("ADC", "EADC"))})
    return {
        "modality": header.modality,
        "is_mr": header.modality == "MR",
        "is_image": header.sop_class_uid in _MR_IMAGES,
        "undescribed_frames": header.sop_class_uid != MRImageStorage and header.orientation is None,
        "image_type": header.image_type,
        "kind": kind,
        "derived": "DERIVED" in header.image_type[:1],
        "is_adc": any(re.match(r"ADC(_|$|\b)", word) for word in kind),
        "colour": header.samples_per_pixel > 1,
        "not_magnitude": bool(components),
        "component": ", ".join(components),
        "description": header.description,
        "sequence_name": header.sequence_name,
        "n_slices": header.n_positions or header.n_instances,
        "scanning_sequence": header.scanning_sequence,
        "spin_echo": "SE" in header.scanning_sequence,
        "gradient_echo": "GR" in header.scanning_sequence and "SE" not in header.scanning_sequence,
        "balanced": "SS" in header.sequence_variant and (header.repetition_time_ms or 1e9) < 15,
        "single_shot": re.search(_SINGLE_SHOT, f"{header.description} {header.sequence_name}", re.IGNORECASE) is not None,
        "dixon": next((_DIXON[word] for word in kind if word in _DIXON), ""),
        "b_max": max(header.b_values) if header.b_values else None,
        "directions": _has_directions(part),
        "te": header.echo_time_ms,
        "tr": header.repetition_time_ms,
        "ti": header.inversion_time_ms,
        "flip": header.flip_angle_deg,
        "fat": fat or "",
        "fat_suppressed": fat is not None,
        "axial": _is_axial(header),
        "pixel_mm": max(header.spacing_mm[1:]) if header.spacing_mm else None,
        "coverage_mm": header.spacing_mm[0] * (header.n_positions or header.n_instances) if header.spacing_mm else None,
        "problem": part.problem is not None,
        "contrast": has_agent(header),
        "contrast_silent": not header.contrast_agent,
        "contrast_named": bool(names_contrast(header)),
        "contrast_name": names_contrast(header),
        "contrast_words": "after contrast agent" if has_agent(header) else "no contrast agent",
    }


def _has_directions(part: Part) -> bool:
    weighted = [b for d in part.frames if (b := b_value(d))]
    return len(weighted) > len(set(nominal(weighted).values())) * max(part.header.n_positions, 1)


def _fat_suppression(part: Part) -> str | None:
    """Say how the fat was suppressed, or ``None``. A short inversion (STIR) nulls fat at 100 to 300 ms, by field strength."""
    header = part.header
    if options := sorted(_FAT_OPTIONS & set(header.scan_options)):
        return f"ScanOptions {options[0]}"
    if "IR" in header.scanning_sequence and header.inversion_time_ms and 100 <= header.inversion_time_ms <= 300:
        return f"inversion time {header.inversion_time_ms:g} ms"
    if {"W", "WATER"} & set(header.image_type[2:]):
        return "water image of a Dixon sequence"
    spir = private(part.frames[0], "Philips Imaging DD 001", 0x2001, 0x21)
    if spir is not None and str(spir.value).strip().upper() == "Y":
        return "SPIR of Philips"
    if found := re.search(_FAT_NAMES, f"{header.description} {header.sequence_name}", re.IGNORECASE):
        return f'"{found.group()}" in its name'
    return None


def _is_axial(header: SeriesHeader) -> bool:
    if header.orientation is None:
        return False
    normal = np.cross(header.orientation[:3], header.orientation[3:])
    return bool(abs(normal[2]) == abs(normal).max())
