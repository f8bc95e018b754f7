"""Clinical values: what is understood, what is refused with which words, and where they are found in a study."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from highdicom.sr import CodedConcept
from pydicom import Dataset

from pipelines.errors import ConfigError, InputError
from pipelines.features.clinical import KNOWN, features, parse, parse_all
from pipelines.features.clinical_dicom import from_study
from pipelines.imaging.series import _make_series
from pipelines.systems import catalogue
from pipelines.types import Series
from tests.mr import T2W, make_series
from tests.reports import CERVIX, CM, CYST, LONG_AXIS, LYMPH_NODE, MM, SHORT_AXIS, TUMOUR, group, make_report

ROOT = Path(__file__).parents[2]
SMALL = replace(T2W, shape=(3, 8, 8))
FIGO = CodedConcept("FIGO", "99TEST", "FIGO stage")


@pytest.mark.parametrize(
    ("name", "stated", "value", "words"),
    [
        ("age_y", 47, 47, "47 years"),
        ("age_y", "47", 47, "47 years"),
        ("max_tumour_diameter_mm", 31.25, 31.25, "31.25 mm"),
        ("rbc_1e12_per_l", "4.31", 4.31, "4.31 10^12/L"),
        ("figo_stage", "IB1", 1, "IB1"),
        ("figo_stage", "IIB", 6, "IIB"),
        ("figo_stage", "figo stage ib2", 2, "IB2"),
        ("figo_stage", "2A1", 4, "IIA1"),
        ("figo_stage", "IVB", 12, "IVB"),
        ("figo_stage", "IA1", -1, "IA1"),
        ("figo_group", "IV", 3, "III-IV"),
        ("node_suspicious", "Necrosis", 1, "necrosis"),
        ("node_suspicious", "blurred border", 1, "blurred"),
        ("node_suspicious", False, 0, "no"),
        ("hpv", "positive", 1, "yes"),
        ("histology_biopsy", "SCC", 0, "squamous"),
    ],
)
def test_value_is_understood(name: str, stated: object, value: float, words: str) -> None:
    parsed = parse(name, stated, source="test")
    assert (parsed.value, parsed.words, parsed.source) == (value, words, "test")


@pytest.mark.parametrize(
    ("name", "stated", "words"),
    [
        ("age", 47, "age: there is no such value; known are age_y, "),
        ("age_y", 300, "age_y: 300 is not between 10 and 120 years"),
        ("age_y", "old", "age_y: 'old' is not a number"),
        ("age_y", True, "age_y: True is not a number"),
        ("age_y", None, "age_y: None is not a number"),
        ("age_y", [47], "age_y: [47] is not a number"),
        ("max_tumour_diameter_mm", "31,5", "'31,5' is not a number (with a decimal point)"),
        ("max_tumour_diameter_mm", float("nan"), "is not a number"),
        ("max_tumour_diameter_mm", "1e999", "is not a number"),
        ("figo_stage", "IB", "figo_stage: 'IB' is none of IA1, IA2, IB1"),
        ("figo_stage", 3, "figo_stage: 3 is none of"),
        ("hpv", "perhaps", "hpv: 'perhaps' is none of no, yes"),
    ],
)
def test_wrong_value_is_refused_by_name(name: str, stated: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(name, stated, source="test")
    assert words in str(caught.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"age_y: 1000 is not.*; figo_stage: 'X' is none"):
        parse_all({"age_y": 1000, "figo_stage": "X", "hpv": "yes"}, source="test")


def test_figo_stages_of_the_paper_are_1_to_6() -> None:
    stages = {s: v for s, v in KNOWN["figo_stage"].choices.items() if 1 <= v <= 6}
    assert stages == {"IB1": 1, "IB2": 2, "IB3": 3, "IIA1": 4, "IIA2": 5, "IIB": 6}


def test_values_become_features_of_their_own() -> None:
    assert features(parse_all({"age_y": 47}, source="test")) == {"CLINICAL:value:age_y": 47.0}


def test_every_value_is_documented() -> None:
    text = (ROOT / "docs" / "clinical.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN if f"`{name}`" not in text] == []


def _study(*reports: Dataset, **attributes: Any) -> list[Series]:
    return [_make_series(make_series(SMALL, **attributes)), *(_make_series([report]) for report in reports)]


def _images() -> list[Dataset]:
    return make_series(SMALL)


@pytest.mark.parametrize(
    ("attributes", "age", "source"),
    [
        ({"PatientAge": "052Y"}, 52, "Patient's Age (0010,1010)"),
        ({"PatientAge": "", "PatientBirthDate": "19700102"}, 55, "patient's birth date and study date"),
        ({"PatientBirthDate": "19700101"}, 56, "patient's birth date and study date"),
        ({"PatientAge": "052M"}, 56, "patient's birth date and study date"),
        ({"PatientAge": "000Y"}, 56, "patient's birth date and study date"),
    ],
)
def test_age_comes_from_the_attributes(attributes: dict[str, str], age: int, source: str) -> None:
    found = from_study(_study(**attributes))["age_y"]
    assert (found.value, found.source) == (age, source)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA:UserWarning")  # of making it
@pytest.mark.parametrize("attributes", [{"PatientBirthDate": ""}, {"PatientBirthDate": "1970"}, {"PatientBirthDate": "18000101"}])
def test_unusable_birth_date_gives_no_age(attributes: dict[str, str]) -> None:
    assert "age_y" not in from_study(_study(**attributes))


def test_body_mass_index_comes_from_size_and_weight() -> None:
    assert from_study(_study(PatientSize=1.6, PatientWeight=64))["bmi_kg_per_m2"].value == 25
    assert "bmi_kg_per_m2" not in from_study(_study(PatientSize=0, PatientWeight=64))
    assert "bmi_kg_per_m2" not in from_study(_study(PatientSize=160, PatientWeight=64))


def test_report_gives_the_largest_node_and_the_tumour() -> None:
    report = make_report(
        _images(),
        [
            group("N1", [(SHORT_AXIS, 6.0, MM), (LONG_AXIS, 60.0, MM)], site=LYMPH_NODE),
            group("N2", [(SHORT_AXIS, 1.2, CM)], site=LYMPH_NODE, finding=TUMOUR),
            group("T", [(LONG_AXIS, 31.0, MM), (SHORT_AXIS, 20.0, MM)], site=CERVIX, finding=TUMOUR),
            group("Nabothian", [(LONG_AXIS, 55.0, MM)], site=CERVIX, finding=CYST),
        ],
    )
    found = from_study(_study(report))
    assert (found["node_short_axis_mm"].value, found["max_tumour_diameter_mm"].value) == (12.0, 31.0)
    source = found["node_short_axis_mm"].source
    assert source == f"structured report {report.SOPInstanceUID} of 2026-01-02, by a person"
    assert "Rita" not in source


def test_report_in_old_codes_or_without_codes_is_understood() -> None:
    old = CodedConcept("G-A185", "SRT", "Long Axis")
    report = make_report(_images(), [group("primary tumour", [(old, 28.0, MM)]), group("LN left", [(SHORT_AXIS, 7.0, MM)])], device=True)
    found = from_study(_study(report))
    assert (found["max_tumour_diameter_mm"].value, found["node_short_axis_mm"].value) == (28.0, 7.0)
    assert found["node_short_axis_mm"].source.endswith("by a device")


def test_report_on_something_else_gives_nothing() -> None:
    report = make_report(_images(), [group("Fibroid", [(LONG_AXIS, 40.0, MM), (SHORT_AXIS, 30.0, MM)])])
    assert from_study(_study(report)).keys() == {"age_y"}


def test_stage_is_read_from_its_words() -> None:
    stage = CodedConcept("X", "99TEST", "FIGO IB2 (2018)")
    report = make_report(_images(), [group("T", [(LONG_AXIS, 31.0, MM)], finding=TUMOUR, evaluations=[(FIGO, stage)])])
    assert from_study(_study(report))["figo_stage"].words == "IB2"


def test_newest_report_wins_and_ours_never() -> None:
    old, new, ours = (
        make_report(_images(), [group("T", [(LONG_AXIS, size, MM)], finding=TUMOUR)], date=date)
        for size, date in ((30.0, "20260102"), (33.0, "20260103"), (99.0, "20260104"))
    )
    ours.ManufacturerModelName = "Cervinode"
    assert from_study(_study(new, ours, old))["max_tumour_diameter_mm"].value == 33.0


def test_damaged_report_gives_nothing() -> None:
    stored = BytesIO()
    make_report(_images(), [group("T", [(LONG_AXIS, 31.0, MM)], finding=TUMOUR)]).save_as(stored, enforce_file_format=True)
    stored.seek(0)
    report = pydicom.dcmread(stored)
    for item in report.iterall():
        if item.keyword == "NumericValue":
            item.value = None
    report.ContentSequence.append(Dataset())
    assert "max_tumour_diameter_mm" not in from_study(_study(report))


@pytest.mark.parametrize(("name", "words"), [("shoe_size", "is not known"), ("lvsi", "known only after surgery")])
def test_system_cannot_use_what_is_not_known_before_surgery(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "tiny.py").write_text(
        "from dataclasses import replace\nfrom pipelines.spec import ClinicalInput\nfrom pipelines.systems.olnm_mri import SPEC as OLNM\n"
        f"SPEC = replace(OLNM, name='tiny', clinical=(ClinicalInput({name!r}),))\n"
    )
    with pytest.raises(ConfigError, match=words):
        catalogue(tmp_path)


def test_waiting_is_no_part_of_the_method() -> None:
    from pipelines.spec import ClinicalInput

    spec = catalogue()["olnm_mri"]
    with_age = replace(spec, clinical=(ClinicalInput("age_y"),))
    assert with_age.method_digest() != spec.method_digest()
    assert replace(spec, clinical=(ClinicalInput("age_y", False, 1.0, "refuse"),)).method_digest() == with_age.method_digest()
    assert spec.method_digest() == "50fca2d90a3fab8c9532a1a8ea638e2c597037849ad9c0fc8d32c1f2d1daa52c"
