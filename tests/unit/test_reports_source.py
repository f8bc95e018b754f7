"""What results take from their sources."""

from __future__ import annotations

import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.valuerep import PersonName

from pipelines.errors import ResultError
from pipelines.types import Refusal
from structured_reports.check import check_objects
from structured_reports.received import has_misdeclared_text, written_bytes
from structured_reports.source import IDENTITY, fit_text, has_undeclared_text, normalise_source
from tests import mr
from tests.results import Result, make_result

NAME = "Wang^XiaoDong=王^小东"


def received(**attributes: object) -> Dataset:
    """Return one header as read from a file."""
    file = BytesIO()
    mr.make_series(mr.T2W, **attributes)[0].save_as(file, enforce_file_format=True)
    file.seek(0)
    return dcmread(file, stop_before_pixels=True)


@pytest.mark.parametrize("character_set", ["GB18030", "GBK", "ISO_IR 192"])
def test_declared_names_keep_their_bytes_in_every_object(character_set: str) -> None:
    encoding = {"ISO_IR 192": "utf-8"}.get(character_set, character_set)
    for d in make_result(SpecificCharacterSet=character_set, PatientName=NAME).build():
        again = BytesIO()
        d.save_as(again, enforce_file_format=True)
        assert NAME.encode(encoding) in again.getvalue()
        again.seek(0)
        assert str(dcmread(again).PatientName) == NAME
        assert d.SpecificCharacterSet == character_set


def test_undeclared_bytes_are_passed_on_and_flagged() -> None:
    raw = "王^小东".encode("gbk")
    result = make_result(SpecificCharacterSet=None, PatientName=PersonName(raw, ["iso8859"]))
    *_, report = result.build()
    again = BytesIO()
    report.save_as(again, enforce_file_format=True)
    assert raw in again.getvalue()
    assert "SpecificCharacterSet" not in report
    assert "does not declare" in "".join(e.value for e in report.iterall() if e.keyword == "TextValue")


def received_with(character_set: str, keyword: str, raw: bytes, path: Path) -> Dataset:
    """Return one header as read from a file that has these bytes, whatever its character set says, and in which they were looked at."""
    place = "Q" * len(raw)
    header = mr.make_series(mr.T2W, SpecificCharacterSet=character_set, **{keyword: place})[0]
    header.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(place.encode(), raw))
    return dcmread(path, stop_before_pixels=True)


MISDECLARED = {
    "GBK as Latin-1": ("ISO_IR 100", "王^小东".encode("gbk")),
    "GBK letters as Latin-1": ("ISO_IR 100", "王^芳".encode("gbk")),
    "UTF-8 as Latin-1": ("ISO_IR 100", "Müller^Änne".encode()),
    "GBK as UTF-8": ("ISO_IR 192", "王^小东".encode("gbk")),
    "Latin-1 as UTF-8": ("ISO_IR 192", "Müller^Änne".encode("latin-1")),
    "cut off": ("GB18030", "王^小东".encode("gb18030")[:-1] + b"\xff"),
}


@pytest.mark.filterwarnings("ignore:Failed to decode byte string")
@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("keyword", ["PatientName", "StudyDescription"])
@pytest.mark.parametrize("case", MISDECLARED)
def test_misdeclared_bytes_are_passed_on(case: str, keyword: str, looked_at: bool, tmp_path: Path) -> None:
    character_set, raw = MISDECLARED[case]
    header = received_with(character_set, keyword, raw, tmp_path / "source.dcm")
    if looked_at:
        str(header[keyword].value)
    source = normalise_source(header)
    assert source.SpecificCharacterSet == character_set
    assert written_bytes(source, keyword) == raw
    assert has_misdeclared_text(source, IDENTITY) or (keyword == "StudyDescription" and character_set == "ISO_IR 100")


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller-Lüdenscheidt^Änne^von^^"),
        ("ISO_IR 100", "Ó Súilleabháin^Órla"),
        ("ISO_IR 100", "D´Alò^Zoë"),
        ("ISO_IR 101", "Łuczyńska^Żaneta"),
        ("ISO_IR 144", "Люксембург^Роза"),
        ("GB18030", NAME),
        ("ISO_IR 192", "Müller^Änne"),
    ],
)
def test_rightly_declared_names_are_not_flagged(character_set: str, name: str) -> None:
    assert not has_misdeclared_text(normalise_source(received(SpecificCharacterSet=character_set, PatientName=name)), IDENTITY)


def test_check_compares_with_the_file_of_the_source(tmp_path: Path) -> None:
    header = received_with("ISO_IR 192", "PatientName", "Müller^Änne".encode("latin-1"), tmp_path / "source.dcm")
    result = make_result(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Änne")  # repaired, as it should never be
    with pytest.raises(ResultError, match="PatientName differs from the source"):
        check_objects(result.build(), [header], identity=header)


@pytest.mark.parametrize(
    ("character_set", "raw"),
    [
        ("", "表^太郎".encode("shift_jis")),  # one of its bytes is that of a backslash
        ("ISO_IR 6", "王^小东".encode("gbk")),
        ("\\ISO 2022 IR 87", "表^太郎".encode("shift_jis")),  # no escape sequence leads to the second
    ],
)
def test_names_in_bytes_that_nothing_declares_keep_them_and_are_flagged(character_set: str, raw: bytes, tmp_path: Path) -> None:
    declared = character_set.split("\\") if "\\" in character_set else character_set
    header = received_with(declared, "PatientName", raw, tmp_path / "source.dcm")
    assert has_undeclared_text(normalise_source(header))
    result = make_result()
    sources = result.sources
    for source in sources:
        source.SpecificCharacterSet = header.get("SpecificCharacterSet")
        source["PatientName"] = header["PatientName"]
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_SEQUENCE", ("no T2W_FS series found",))
    for objects in (result.build(), result.refuse(refusal)):
        for d in objects:
            again = BytesIO()
            d.save_as(again, enforce_file_format=True)
            assert raw in again.getvalue()
        assert b"that the source does not declare" in again.getvalue()  # the report is the last one


def test_backslash_in_a_plain_name_is_no_reason_to_fail(tmp_path: Path) -> None:
    header = received_with("ISO_IR 6", "PatientName", b"Smith\\Jones^A", tmp_path / "source.dcm")
    assert not has_undeclared_text(normalise_source(header))
    result = make_result()
    for source in result.sources:
        source["PatientName"] = header["PatientName"]
    assert len(result.build()) == len(make_result().build())


def test_plain_ascii_without_character_set_is_not_flagged() -> None:
    header = received()
    del header.SpecificCharacterSet
    assert not has_undeclared_text(header)


def test_iso_2022_names_become_utf_8_without_escapes() -> None:
    raw = b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab"  # as in PS3.5 K.2
    name = PersonName(raw, ["iso8859", "iso_ir_58"])
    source = normalise_source(received(SpecificCharacterSet=["", "ISO 2022 IR 58"], PatientName=name))
    assert source.SpecificCharacterSet == "ISO_IR 192"
    assert written_bytes(source, "PatientName") == NAME.encode()


def test_sources_are_not_altered() -> None:
    header = received(PatientSex="U", SliceThickness="")
    del header.AccessionNumber
    header.add_new(0x00291010, "LO", "private")
    before = header.to_json()
    source = normalise_source(header)
    assert header.to_json() == before
    assert (source.PatientSex, source.AccessionNumber) == ("", "")
    assert not any(element.tag.is_private for element in source.iterall())


def test_invalid_birth_date_becomes_empty() -> None:
    header = received()
    header["PatientBirthDate"]._value = "unknown"
    assert normalise_source(header).PatientBirthDate == ""


@pytest.mark.parametrize(
    ("keyword", "raw"),
    [("PatientWeight", b"70,5"), ("PatientWeight", b"inf "), ("SliceThickness", b"5,0 "), ("SpacingBetweenSlices", b"n/a ")],
)
def test_unreadable_numbers_make_no_report_impossible(keyword: str, raw: bytes) -> None:
    result = make_result()
    sources = tuple(with_raw(d, keyword, raw) for d in result.sources)
    by_uid = {d.SOPInstanceUID: d for d in sources}
    volumes = {r: replace(v, sources=tuple(by_uid[s.SOPInstanceUID] for s in v.sources)) for r, v in result.evidence.volumes.items()}
    changed = Result(sources, result.prediction, replace(result.evidence, volumes=volumes), result.context)
    objects = changed.build()
    refused = changed.refuse(Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "INPUT", ("Nothing usable.",)))
    assert not any("PatientWeight" in d for d in (*objects, *refused))
    assert keyword not in normalise_source(sources[0])


def with_raw(header: Dataset, keyword: str, raw: bytes) -> Dataset:
    """Return a copy of the header with an attribute as a file may hold it: not converted yet."""
    out, tag = copy.copy(header), Tag(keyword)
    out[tag] = RawDataElement(tag, "DS", len(raw), raw, 0, False, True)
    return out


def test_source_without_uid_is_named() -> None:
    header = received()
    del header.SeriesInstanceUID
    with pytest.raises(ResultError, match="SeriesInstanceUID"):
        normalise_source(header)


def test_request_items_lose_their_private_elements() -> None:
    item = Dataset()
    item.AccessionNumber, item.StudyInstanceUID, item.RequestedProcedureID = "A1", mr.STUDY, "R1"
    item.ReferencedStudySequence, item.RequestedProcedureDescription = [], "MR pelvis"
    item.RequestedProcedureCodeSequence, item.PlacerOrderNumberImagingServiceRequest = [], ""
    item.FillerOrderNumberImagingServiceRequest = ""
    item.add_new(0x00290010, "LO", "VENDOR")
    *_, report = make_result(ReferencedRequestSequence=[item]).build()
    assert report.ReferencedRequestSequence[0].RequestedProcedureID == "R1"
    assert (0x0029, 0x0010) not in report.ReferencedRequestSequence[0]


@pytest.mark.parametrize(
    ("character_set", "expected"), [("", "T1 ? b"), ("ISO_IR 100", "T1 ? b"), ("ISO_IR 192", "T1 盆 b"), ("GB18030", "T1 盆 b")]
)
def test_text_is_fitted_to_the_character_set(character_set: str, expected: str) -> None:
    assert fit_text("T1 盆 b", character_set) == expected
