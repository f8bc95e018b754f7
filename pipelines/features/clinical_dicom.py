"""Find clinical values in a DICOM study: in the structured reports that people made, and in the attributes of the images.

What is understood of a report (PS3.16 TID 1500): the measurement groups (TID 1501, 1410, 1411) with

- Short Axis (103340004 SCT, G-A186 SRT) where finding or finding site is a lymph node: the node's short axis, of several the largest;
- Long Axis (103339001, G-A185), Diameter (81827009, M-02550), Length (410668003, G-D7FE) or Maximum 3D Diameter (L0JK IBSI) where the
  finding is a tumour, or no finding is named and the site is the cervix (71252005, T-83200): the tumour's diameter, of several the largest;
- any code or text whose concept name has the word FIGO: the stage.

Lengths are in mm or cm. A group that names neither finding nor site goes by its tracking identifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from pydicom import Dataset

from pipelines.errors import InputError
from pipelines.features.clinical import KNOWN, parse
from pipelines.imaging.elements import items, number, text
from pipelines.types import OUR_MODEL_NAME, ClinicalValue, Series

_GROUP, _TRACKING_IDENTIFIER, _FINDING = "125007", "112039", "121071"  # DCM
_FINDING_SITE = ("363698007", "G-C0E3")  # SCT, SRT
_OBSERVER_TYPE, _PERSON, _DEVICE = "121005", "121006", "121007"  # DCM
_SHORT_AXES = {"103340004", "G-A186"}
_DIAMETERS = {"103339001", "G-A185", "81827009", "M-02550", "410668003", "G-D7FE", "L0JK"}
_TUMOUR_CODES = {"372087000", "108369006", "363354003", "4147007", "86049000"}  # SCT: primary, neoplasm, cervical cancer, mass, malignant
_CERVIX_CODES = {"71252005", "T-83200"}
_NODE_WORDS = re.compile(r"lymph[\s-]*node|lymphadenopathy|\bln\b", re.IGNORECASE)
_TUMOUR_WORDS = re.compile(r"tumou?r|neoplasm|carcinoma|cancer", re.IGNORECASE)
_MM = {"mm": 1.0, "cm": 10.0}  # by UCUM unit
_STAGE = re.compile(r"\b(?:IV|I{1,3}|[1-4])[A-C]\d?\b")


class _Group(NamedTuple):
    """A measurement group: what it is about, and its content."""

    finding: Dataset | None
    site: Dataset | None
    tracking: str
    content: tuple[Dataset, ...]


def from_study(series: Sequence[Series]) -> dict[str, ClinicalValue]:
    """Return the values that a study tells by itself, by name; those of a report win over those of the images' attributes.

    Of several reports the newest one that has a value counts. What is unreadable or outside its range is not there.
    """
    found = from_attributes(series)
    reports = [d for s in series if s.header.modality == "SR" for d in s.instances if text(d, "ManufacturerModelName") != OUR_MODEL_NAME]
    for report in sorted(reports, key=_written):
        found |= from_report(report)
    return found


def from_report(report: Dataset) -> dict[str, ClinicalValue]:
    """Return the values of one structured report."""
    made_by = f"structured report {text(report, 'SOPInstanceUID')} of {_date(report)}, {_observer(report)}"
    groups = list(_groups(report))
    stated = [
        ("node_short_axis_mm", max(_lengths(filter(_is_node, groups), _SHORT_AXES), default=None)),
        ("max_tumour_diameter_mm", max(_lengths(filter(_is_tumour, groups), _DIAMETERS), default=None)),
        ("figo_stage", next(_stages(report), None)),
    ]
    return _usable(stated, made_by)


def from_attributes(series: Iterable[Series]) -> dict[str, ClinicalValue]:
    """Return the values that the attributes of the images tell: age (PS3.3 C.7.2.2), and the body mass index of size and weight."""
    found: dict[str, ClinicalValue] = {}
    for header in (d for s in series for d in s.instances[:1]):
        size_m, weight_kg = number(header, "PatientSize"), number(header, "PatientWeight")
        bmi = round(weight_kg / size_m**2, 2) if size_m and weight_kg and size_m > 0 else None
        new = (
            _usable([("age_y", _age_between(header))], "patient's birth date and study date")
            | _usable([("age_y", _stated_age(header))], "Patient's Age (0010,1010)")
            | _usable([("bmi_kg_per_m2", bmi)], "Patient's Size and Weight (0010,1020), (0010,1030)")
        )
        found = new | found
    return found


def _usable(stated: Iterable[tuple[str, object]], source: str) -> dict[str, ClinicalValue]:
    values = {}
    for name, one in stated:
        try:
            if one is not None:
                values[name] = parse(name, one, source=source)
        except InputError:  # outside the range of what a person can have: a placeholder
            continue
    return values


def _stated_age(header: Dataset) -> int | None:
    """Return whole years of an Age String (VR AS, PS3.5 6.2): three digits and D, W, M or Y."""
    found = re.fullmatch(r"(\d{3})Y", text(header, "PatientAge"))
    return int(found[1]) if found else None


def _age_between(header: Dataset) -> int | None:
    try:
        born, then = (datetime.strptime(text(header, k), "%Y%m%d") for k in ("PatientBirthDate", "StudyDate"))
    except ValueError:
        return None
    return then.year - born.year - ((then.month, then.day) < (born.month, born.day))


def _written(report: Dataset) -> tuple[str, str, str]:
    return text(report, "ContentDate"), text(report, "ContentTime"), text(report, "SOPInstanceUID")


def _date(report: Dataset) -> str:
    date = text(report, "ContentDate")
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if re.fullmatch(r"\d{8}", date) else "unknown date"


def _observer(report: Dataset) -> str:
    """Say whether a person or a device observed (TID 1001, 1002); names stay in the report."""
    kinds = {_value(child)[0] for child in items(report, "ContentSequence") if _name(child)[0] == _OBSERVER_TYPE}
    return "by a person" if _PERSON in kinds else "by a device" if _DEVICE in kinds else "by an observer that it does not name"


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in items(item, "ContentSequence"):
        yield child
        yield from _walk(child)


def _groups(report: Dataset) -> Iterator[_Group]:
    for item in _walk(report):
        if text(item, "ValueType") == "CONTAINER" and _name(item)[0] == _GROUP:
            content = items(item, "ContentSequence")
            tracking = " ".join(text(c, "TextValue") for c in content if _name(c)[0] == _TRACKING_IDENTIFIER)
            yield _Group(_first(content, (_FINDING,)), _first(_walk(item), _FINDING_SITE), tracking, tuple(content))


def _first(content: Iterable[Dataset], names: Sequence[str]) -> Dataset | None:
    return next((c for c in content if _name(c)[0] in names and text(c, "ValueType") == "CODE"), None)


def _is_node(group: _Group) -> bool:
    named = [_value(item)[1] for item in (group.finding, group.site) if item]
    return any(_NODE_WORDS.search(words) for words in named or [group.tracking])


def _is_tumour(group: _Group) -> bool:
    if _is_node(group):
        return False
    if group.finding:
        code, words = _value(group.finding)
        return code in _TUMOUR_CODES or bool(_TUMOUR_WORDS.search(words))
    if group.site:
        return _value(group.site)[0] in _CERVIX_CODES
    return bool(_TUMOUR_WORDS.search(group.tracking))


def _lengths(groups: Iterable[_Group], concepts: set[str]) -> Iterator[float]:
    """Yield lengths in millimetres."""
    for item in (c for g in groups for c in g.content if text(c, "ValueType") == "NUM" and _name(c)[0] in concepts):
        for measured in items(item, "MeasuredValueSequence"):
            value, unit = number(measured, "NumericValue"), _code(measured, "MeasurementUnitsCodeSequence")[0]
            if value is not None and unit in _MM:
                yield value * _MM[unit]


def _stages(report: Dataset) -> Iterator[str]:
    for item in _walk(report):
        if "FIGO" in _name(item)[1].upper():
            words = (text(item, "TextValue") or _value(item)[1]).upper()
            yield from (stage for stage in _STAGE.findall(words) if stage in KNOWN["figo_stage"].aliases)


def _name(item: Dataset) -> tuple[str, str]:
    return _code(item, "ConceptNameCodeSequence")


def _value(item: Dataset) -> tuple[str, str]:
    return _code(item, "ConceptCodeSequence")


def _code(item: Dataset, keyword: str) -> tuple[str, str]:
    """Return code value and meaning of the first item of a code sequence, empty where there is none."""
    found = items(item, keyword)
    return (text(found[0], "CodeValue"), text(found[0], "CodeMeaning")) if found else ("", "")
