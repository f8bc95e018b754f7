"""Which series plays which role: rules as data, decided by what the header says the physics was.

The description is a hint that helps where the physics is silent; it never overrules it. Every choice and every rejection has a
sentence that a radiologist or an administrator can check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from pipelines.errors import MissingSequence
from pipelines.imaging.diffusion import b_value
from pipelines.spec import PipelineSpec
from pipelines.types import Choice, Series, SeriesHeader, SeriesRole

_MIN_SLICES = 5  # fewer slices are a localizer or a measurement, not a pelvis
_B_TOLERANCE = 0.15  # relative: 750 to 900 s/mm2 stand for the 800 s/mm2 of [OLNM]


@dataclass(frozen=True, slots=True)
class Condition:
    """``field`` of the facts, an operator of ``_OPERATORS``, and what to compare with."""

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Rule:
    """When all conditions hold the series is a candidate for ``role`` (``None``: it never wins any) with this score."""

    role: SeriesRole | None
    score: float
    reason: str
    conditions: tuple[Condition, ...]


class Verdict(NamedTuple):
    """What the rules say of one series."""

    role: SeriesRole | None
    score: float
    reason: str


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "is": lambda fact, value: bool(fact == value),
    "has": lambda fact, value: value in fact,
    "matches": lambda fact, value: re.search(value, fact, re.IGNORECASE) is not None,
    "at least": lambda fact, value: fact is not None and fact >= value,
    "below": lambda fact, value: fact is not None and fact < value,
}


def _when(*triples: tuple[str, str, Any]) -> tuple[Condition, ...]:
    return tuple(Condition(*triple) for triple in triples)


_R = SeriesRole
# In order: the first rule that holds decides. Times in ms.
RULES: tuple[Rule, ...] = (
    Rule(_R.SEG, 100, "Segmentation Storage", _when(("modality", "is", "SEG"))),
    Rule(_R.RTSTRUCT, 100, "RT Structure Set Storage", _when(("modality", "is", "RTSTRUCT"))),
    Rule(_R.SR, 100, "structured report", _when(("modality", "is", "SR"))),
    Rule(None, 0, "not an MR series", _when(("is_mr", "is", False))),
    Rule(None, 0, "enhanced multi-frame MR is not read yet", _when(("enhanced", "is", True))),
    Rule(None, 0, "a localizer", _when(("image_type", "has", "LOCALIZER"))),
    Rule(None, 0, "a localizer by its name", _when(("description", "matches", r"\bloc(alizer)?\b|scout|survey"))),
    Rule(None, 0, "a projection or subtraction", _when(("derived_kind", "is", True))),
    Rule(None, 0, "a calculated b-value image", _when(("calculated_b", "is", True))),
    Rule(_R.ADC, 90, "ImageType says ADC", _when(("image_type", "has", "ADC"))),
    Rule(
        _R.ADC,
        70,
        "a derived map named ADC",
        _when(("image_type", "has", "DERIVED"), ("description", "matches", r"(?<![a-z])adc|apparent")),
    ),
    Rule(None, 0, f"fewer than {_MIN_SLICES} slices", _when(("n_instances", "below", _MIN_SLICES))),
    Rule(
        _R.DWI,
        90,
        "echo planar with b-values up to {b_max:g} s/mm2",
        _when(("scanning_sequence", "has", "EP"), ("b_max", "at least", 100)),
    ),
    Rule(_R.DWI, 70, "b-values up to {b_max:g} s/mm2", _when(("b_max", "at least", 100))),
    Rule(None, 0, "echo planar without a readable b-value", _when(("scanning_sequence", "has", "EP"))),
    Rule(
        _R.T2W_FS,
        90,
        "spin echo, TE {te:g} ms, fat suppressed ({fat})",
        _when(("spin_echo", "is", True), ("te", "at least", 50), ("fat_suppressed", "is", True)),
    ),
    Rule(
        _R.T2W,
        90,
        "spin echo, TE {te:g} ms, no fat suppression",
        _when(("spin_echo", "is", True), ("te", "at least", 50)),
    ),
    Rule(
        _R.CE_T1W,
        80,
        "TE {te:g} ms, TR {tr:g} ms after contrast agent",
        _when(("te", "below", 30), ("tr", "below", 1500), ("contrast", "is", True)),
    ),
    Rule(_R.T1W, 80, "TE {te:g} ms, TR {tr:g} ms, no contrast agent", _when(("te", "below", 30), ("tr", "below", 1500))),
    Rule(None, 0, "its TE and TR fit no role", ()),
)

_FAT_OPTIONS = {"FS", "FATSAT", "FAT_SAT", "SAT_FAT", "FS_GEMS", "SPAIR", "SPIR"}
_FAT_NAMES = r"spair|spir|stir|fat.?sat|(?<![a-z])fs(?![a-z])|tirm"
_NOT_SOURCE_IMAGES = {"MIP", "MPR", "PROJECTION IMAGE", "SUBTRACTION", "SUB", "MINIP", "SCREEN SAVE", "FA", "COLOR"}


def _facts(header: SeriesHeader) -> dict[str, Any]:
    te, tr = header.echo_time_ms, header.repetition_time_ms
    fat = _fat_suppression(header)
    return {
        "modality": header.modality,
        "is_mr": header.modality == "MR",
        "enhanced": header.sop_class_uid == EnhancedMRImageStorage,
        "classic": header.sop_class_uid == MRImageStorage,
        "image_type": header.image_type,
        "derived_kind": bool(_NOT_SOURCE_IMAGES & set(header.image_type[2:])),
        "calculated_b": bool(re.search(r"calc[_ ]?b", header.description, re.IGNORECASE)),
        "description": header.description,
        "n_instances": header.n_instances,
        "scanning_sequence": header.scanning_sequence,
        "spin_echo": "SE" in header.scanning_sequence,
        "b_max": max(header.b_values) if header.b_values else None,
        "te": te,
        "tr": tr,
        "fat": fat or "",
        "fat_suppressed": fat is not None,
        "contrast": bool(header.contrast_agent),
    }


def _fat_suppression(header: SeriesHeader) -> str | None:
    """Say how the fat was suppressed, or ``None``. A short inversion (STIR) nulls fat at 100 to 300 ms, by field strength."""
    if options := sorted(_FAT_OPTIONS & set(header.scan_options)):
        return f"ScanOptions {options[0]}"
    if "IR" in header.scanning_sequence and header.inversion_time_ms and 100 <= header.inversion_time_ms <= 300:
        return f"inversion time {header.inversion_time_ms:g} ms"
    if found := re.search(_FAT_NAMES, f"{header.description} {header.sequence_name}", re.IGNORECASE):
        return f'"{found.group()}" in its name'
    return None


def classify(series: Series) -> Verdict:
    """Return the role of one series with its score (0 to 100) and the reason in words."""
    facts = _facts(series.header)
    for rule in RULES:
        if all(_OPERATORS[c.operator](facts[c.field], c.value) for c in rule.conditions):
            return Verdict(rule.role, rule.score, rule.reason.format(**facts))
    raise AssertionError("the last rule has no condition")


def choose(series: Sequence[Series], spec: PipelineSpec) -> dict[SeriesRole, Choice]:
    """Choose one series per required role: highest score, then axial, then more slices, then the later one.

    Raises
    ------
    MissingSequence
        A required role has no candidate; the message names each one.
    """
    candidates: dict[SeriesRole, list[Choice]] = {}
    for one in series:
        verdict = classify(one)
        choice = _as_choice(one, verdict, spec) if verdict.role else None
        if choice:
            candidates.setdefault(choice.role, []).append(choice)
    missing = [role for role in spec.required if role not in candidates]
    if missing:
        raise MissingSequence("; ".join(_missing_sentence(role, spec) for role in missing))
    return {role: max(candidates[role], key=_rank) for role in spec.required}


def _missing_sentence(role: SeriesRole, spec: PipelineSpec) -> str:
    wanted = f" with b near {spec.b_value:g} s/mm2" if role is SeriesRole.DWI and spec.b_value else ""
    return f"no {role}{wanted} series found"


def _as_choice(series: Series, verdict: Verdict, spec: PipelineSpec) -> Choice | None:
    assert verdict.role is not None
    instances, reason = series.instances, verdict.reason
    if verdict.role is SeriesRole.DWI and spec.b_value is not None:
        b = min(series.header.b_values, key=lambda v: abs(v - (spec.b_value or 0)))
        if abs(b - spec.b_value) > _B_TOLERANCE * spec.b_value:
            return None
        instances = tuple(d for d in instances if b_value(d) == b)
        reason = f"{reason}; the images with b = {b:g} s/mm2 taken"
    return Choice(role=verdict.role, header=series.header, instances=instances, score=verdict.score, reason=reason)


def _rank(choice: Choice) -> tuple[float, bool, int, int, str]:
    header = choice.header
    return (
        choice.score,
        _is_axial(header),
        len(choice.instances),
        header.series_number or 0,
        header.series_instance_uid,
    )


def _is_axial(header: SeriesHeader) -> bool:
    if header.orientation is None:
        return False
    normal = np.cross(header.orientation[:3], header.orientation[3:])
    return bool(abs(normal[2]) == abs(normal).max())


def describe_found(series: Sequence[Series]) -> tuple[str, ...]:
    """Return a line per series that says what it was taken for, for the reader of a refusal."""
    lines = []
    for one in series:
        verdict = classify(one)
        lines.append(f"series {one.header.label()}: {verdict.role or 'no role'}, {verdict.reason}")
    return tuple(lines)


def by_role(choices: Mapping[SeriesRole, Choice]) -> str:
    """Return the choices as one sentence, for logs."""
    return "; ".join(f"{role} = series {c.header.label()}: {c.reason}" for role, c in choices.items())
