"""Facts about the patient from outside the images: what is known by name, in which unit, and how it becomes a number.

:data:`KNOWN` is the whole vocabulary; a system declares the names that it uses (:class:`pipelines.spec.ClinicalInput`). How they are
found in a DICOM study is in :mod:`pipelines.features.clinical_dicom`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.errors import InputError
from pipelines.types import ClinicalValue

FEATURE_PREFIX = "CLINICAL:value:"  # of these values among the features of a classifier

_SEPARATORS = re.compile(r"[\s_.-]+")
# FIGO 2018. IB1 to IIB are 1 to 6, the range of [OLNM]; the stages outside it go on in both directions.
_FIGO = ("IA1", "IA2", "IB1", "IB2", "IB3", "IIA1", "IIA2", "IIB", "IIIA", "IIIB", "IIIC1", "IIIC2", "IVA", "IVB")
_ARABIC = {"IV": "4", "III": "3", "II": "2", "I": "1"}
_YES_NO = {"no": 0.0, "yes": 1.0}
_YES_NO_ALIASES = {"false": "no", "true": "yes", "negative": "no", "positive": "yes", "neg": "no", "pos": "yes"}


@dataclass(frozen=True)
class Definition:
    """What a clinical value is.

    Numbers lie between ``low`` and ``high`` (inclusive) in ``unit``. With ``choices`` it is one of these words instead, and each has its
    number; ``aliases`` are other spellings. What is known only after surgery (``postop``) can be recorded but never predict.
    """

    title: str
    unit: str = ""
    low: float = 0.0
    high: float = math.inf
    choices: Mapping[str, float] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    available_at: Literal["preop", "postop"] = "preop"


def _figo_aliases() -> dict[str, str]:
    """Return each stage with an arabic numeral (1B2), and either spelling after the words FIGO and stage."""
    spelt = {stage: stage for stage in _FIGO}
    for stage in _FIGO:
        roman = next(r for r in _ARABIC if stage.startswith(r))
        spelt[_ARABIC[roman] + stage[len(roman) :]] = stage
    return {prefix + spelling: stage for spelling, stage in spelt.items() for prefix in ("", "FIGO", "stage", "FIGO stage")}


def _yes_no(title: str, *, available_at: Literal["preop", "postop"] = "preop") -> Definition:
    return Definition(title, choices=_YES_NO, aliases=_YES_NO_ALIASES, available_at=available_at)


_HISTOLOGY = {"squamous": 0.0, "adenocarcinoma": 1.0, "adenosquamous": 2.0, "other": 3.0}
_HISTOLOGY_ALIASES = {"SCC": "squamous", "squamous cell carcinoma": "squamous", "AC": "adenocarcinoma", "ASC": "adenosquamous"}

KNOWN: dict[str, Definition] = {
    "age_y": Definition("Age", "years", 10, 120),
    "figo_stage": Definition("FIGO stage (2018)", choices={stage: float(i - 1) for i, stage in enumerate(_FIGO)}, aliases=_figo_aliases()),
    "figo_group": Definition(
        "FIGO stage, group",
        choices={"I": 1.0, "II": 2.0, "III-IV": 3.0},
        aliases={"III": "III-IV", "IV": "III-IV", "1": "I", "2": "II", "3": "III-IV", "4": "III-IV"},
    ),
    "max_tumour_diameter_mm": Definition("Maximum tumour diameter", "mm", 1, 250),
    "node_short_axis_mm": Definition("Short axis of the largest lymph node", "mm", 0, 150),
    "node_suspicious": Definition(
        "Lymph node of suspicious shape",  # any of the signs that [OLNM] excludes
        choices={"no": 0.0, "yes": 1.0, "necrosis": 1.0, "irregular": 1.0, "blurred": 1.0},
        aliases=_YES_NO_ALIASES | {"necrotic": "necrosis", "irregular shape": "irregular", "blurred border": "blurred"},
    ),
    "stromal_depth_over_third": _yes_no("Stromal invasion deeper than one third, on imaging"),
    "hpv": _yes_no("Human papillomavirus"),
    "menopause": _yes_no("Postmenopausal"),
    "gestations": Definition("Gestations", "", 0, 30),
    "parity": Definition("Births", "", 0, 25),
    "abortions": Definition("Abortions", "", 0, 25),
    "bmi_kg_per_m2": Definition("Body mass index", "kg/m2", 10, 100),
    "karnofsky": Definition("Karnofsky performance status", "%", 0, 100),
    "histology_biopsy": Definition("Histology of the biopsy", choices=_HISTOLOGY, aliases=_HISTOLOGY_ALIASES),
    "neoadjuvant_therapy": _yes_no("Neoadjuvant therapy before the images"),
    "rbc_1e12_per_l": Definition("Red blood cells", "10^12/L", 0.5, 10),
    "wbc_1e9_per_l": Definition("White blood cells", "10^9/L", 0, 500),
    "eosinophils_1e9_per_l": Definition("Eosinophils", "10^9/L", 0, 100),
    "nlr": Definition("Neutrophil to lymphocyte ratio", "", 0, 200),
    "plr": Definition("Platelet to lymphocyte ratio", "", 0, 5000),
    "alp_u_per_l": Definition("Alkaline phosphatase", "U/L", 0, 10000),
    "ca125_u_per_ml": Definition("CA 125", "U/mL", 0, 100000),
    "ca153_u_per_ml": Definition("CA 15-3", "U/mL", 0, 100000),
    "ca199_u_per_ml": Definition("CA 19-9", "U/mL", 0, 1000000),
    "cea_ng_per_ml": Definition("CEA", "ng/mL", 0, 100000),
    "scc_ng_per_ml": Definition("SCC antigen", "ng/mL", 0, 10000),
    "histology_surgery": Definition("Histology after surgery", choices=_HISTOLOGY, aliases=_HISTOLOGY_ALIASES, available_at="postop"),
    "grade": Definition("Grade", "", 1, 3, available_at="postop"),
    "lvsi": _yes_no("Lymphovascular space invasion", available_at="postop"),
    "node_metastasis": _yes_no("Lymph node metastasis, pathology", available_at="postop"),
    "invasion_depth_mm": Definition("Depth of invasion, pathology", "mm", 0, 100, available_at="postop"),
    "chemotherapy": _yes_no("Chemotherapy given", available_at="postop"),
    "radiotherapy": _yes_no("Radiotherapy given", available_at="postop"),
}


NODE_POSITIVE_MM = 10.0  # short axis of the largest node from which MRI calls it positive ([HSCORE] Methods; 9.99 is negative)
_DIAMETER_CLASSES_MM = (20.0, 40.0)  # [OLNM] clinical features: below 2 cm is 1, 2 to 4 cm is 2 (ends included), above is 3

DERIVED: dict[str, tuple[str, Callable[[float], float]]] = {
    "node_positive": ("node_short_axis_mm", lambda mm: float(mm >= NODE_POSITIVE_MM)),
    "diameter_class": ("max_tumour_diameter_mm", lambda mm: 1.0 + (mm >= _DIAMETER_CLASSES_MM[0]) + (mm > _DIAMETER_CLASSES_MM[1])),
}
DERIVED_TITLES = {"node_positive": "Lymph node positive on MRI (short axis 10 mm or more)", "diameter_class": "Diameter class (1 to 3)"}


def parse(name: str, stated: object, *, source: str) -> ClinicalValue:
    """Return a value as it was stated: a number, or one of the words of its definition.

    Raises
    ------
    InputError
        There is no such value, or it is not a number in the range, or none of the words; the message says which.
    """
    definition = KNOWN.get(name)
    if definition is None:
        raise InputError(f"{name}: there is no such value; known are {', '.join(KNOWN)}")
    if definition.choices:
        word = _match(stated, definition)
        if word is None:
            raise InputError(f"{name}: {_quote(stated)} is none of {', '.join(definition.choices)}")
        return ClinicalValue(name, definition.choices[word], word, source)
    number = _number(stated)
    if number is None:
        raise InputError(f"{name}: {_quote(stated)} is not a number (with a decimal point)")
    if not definition.low <= number <= definition.high:
        raise InputError(f"{name}: {number:g} is not between {definition.low:g} and {definition.high:g} {definition.unit}".rstrip())
    return ClinicalValue(name, number, f"{number:.12g} {definition.unit}".rstrip(), source)


def parse_all(stated: Mapping[str, object], *, source: str) -> dict[str, ClinicalValue]:
    """Return all values.

    Raises
    ------
    InputError
        One or more are wrong; the message names each.
    """
    values, problems = {}, []
    for name, one in stated.items():
        try:
            values[name] = parse(name, one, source=source)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return values


def features(values: Mapping[str, ClinicalValue]) -> dict[str, float]:
    """Return values as features of a classifier, by their names there, and what is derived from them."""
    found = {FEATURE_PREFIX + name: one.value for name, one in values.items()}
    for name, (source, derive) in DERIVED.items():
        if source in values:
            found[FEATURE_PREFIX + name] = derive(values[source].value)
    return found


def source_of(name: str) -> str:
    """Return the name of the value that a feature's name stands for: its own, or the one that it is derived from."""
    return DERIVED[name][0] if name in DERIVED else name


def title_of(name: str) -> str:
    """Return the title of a value, or of what is derived from one."""
    return DERIVED_TITLES.get(name) or KNOWN[name].title


def _match(stated: object, definition: Definition) -> str | None:
    spelt = {_fold(word): word for word in definition.choices} | {_fold(a): word for a, word in definition.aliases.items()}
    return spelt.get(_fold(str(stated)))


def _fold(word: str) -> str:
    return _SEPARATORS.sub("", word).casefold()


def _number(stated: object) -> float | None:
    if isinstance(stated, bool) or not isinstance(stated, int | float | str):
        return None
    try:
        number = float(stated)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _quote(stated: object) -> str:
    return repr(stated)[:60]
