"""One report in four SOP classes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from pipelines.errors import ResultError
from pipelines.types import Refusal
from structured_reports.context import Predecessor
from structured_reports.received import written_bytes
from structured_reports.variants import REPORT_CLASSES, convert, convertible_classes
from tests.foreign import need
from tests.results import Result, make_context, make_prediction, make_result

DCIODVFY = Path("/usr/bin/dciodvfy")
POORER = REPORT_CLASSES[1:]


def _main(result: Result) -> Dataset:
    """Return the main report as a delivery reads it from the disk."""
    return _read(next(d for d in reversed(result.build()) if d.SOPClassUID == Comprehensive3DSRStorage))


def _encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _read(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(BytesIO(_encoded(dataset)))


def _items(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _items(item)


@pytest.fixture(scope="module")
def report() -> Dataset:
    return _main(make_result())


def test_report_can_be_written_as_every_poorer_class(report: Dataset) -> None:
    assert convertible_classes(report) == REPORT_CLASSES
    assert convertible_classes(convert(report, EnhancedSRStorage)) == (EnhancedSRStorage, BasicTextSRStorage)


@pytest.mark.parametrize("sop_class", [ComprehensiveSRStorage, EnhancedSRStorage])
def test_only_class_and_uids_differ(report: Dataset, sop_class: str) -> None:
    variant = convert(report, sop_class)
    changed = {e.keyword for e in report if variant[e.tag] != e}
    assert changed == {"SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"}
    assert variant.file_meta.MediaStorageSOPInstanceUID == variant.SOPInstanceUID


def test_variants_are_reproducible_and_have_uids_of_their_own(report: Dataset) -> None:
    before = _encoded(report)
    variants = [convert(report, c) for c in POORER]
    assert [_encoded(v) for v in variants] == [_encoded(convert(report, c)) for c in POORER]
    assert len({v.SOPInstanceUID for v in (report, *variants)}) == len({v.SeriesInstanceUID for v in (report, *variants)}) == 4
    assert _encoded(report) == before, "the report itself is not altered"


def test_basic_text_says_every_number_in_a_line(report: Dataset) -> None:
    text = convert(report, BasicTextSRStorage)
    lines = {i.ConceptNameCodeSequence[0].CodeMeaning: i.TextValue for i in _items(text) if i.ValueType == "TEXT"}
    for number in (i for i in _items(report) if i.ValueType == "NUM" and i.RelationshipType == "CONTAINS"):
        measured = number.MeasuredValueSequence[0]
        assert lines[number.ConceptNameCodeSequence[0].CodeMeaning].startswith(str(measured.NumericValue))
    assert lines["Probability of occult lymph node metastasis"] == "71.3 %"
    assert lines["Volume"].startswith("10.56 ml (Measurement Method: ")
    assert lines["Predicted risk category"] == "High Risk"
    assert {i.ValueType for i in _items(text)} <= {"TEXT", "CODE", "UIDREF", "CONTAINER"}
    assert "ContentTemplateSequence" not in text and all("ContentTemplateSequence" not in i for i in _items(text))
    assert all(i.ContentSequence for i in _items(text) if i.ValueType == "CONTAINER")
    kept = ("VerificationFlag", "ContentQualification", "SeriesDescription", "CurrentRequestedProcedureEvidenceSequence", "PatientName")
    assert all(text[k] == report[k] for k in kept)


def test_refusal_becomes_text_with_its_reasons() -> None:
    (refused,) = (
        d for d in make_result().refuse(Refusal("olnm_mri", "t", "MISSING_SEQUENCE", ("no DWI series found",))) if d.Modality == "SR"
    )
    text = convert(_read(refused), BasicTextSRStorage)
    assert "no DWI series found" in {i.TextValue for i in _items(text) if i.ValueType == "TEXT"}


@pytest.mark.parametrize("value_type", ["SCOORD", "SCOORD3D"])
def test_coordinates_never_become_text(report: Dataset, value_type: str) -> None:
    drawn = _read(report)
    next(i for i in _items(drawn) if i.ValueType == "IMAGE").ValueType = value_type
    assert BasicTextSRStorage not in convertible_classes(drawn)
    assert (EnhancedSRStorage in convertible_classes(drawn)) == (value_type == "SCOORD")
    with pytest.raises(ResultError, match="cannot be written as"):
        convert(drawn, BasicTextSRStorage)


def test_a_report_is_never_made_richer(report: Dataset) -> None:
    with pytest.raises(ResultError):
        convert(convert(report, EnhancedSRStorage), ComprehensiveSRStorage)


def test_predecessor_is_named_in_the_same_class(report: Dataset) -> None:
    result = make_result()
    second = Result(
        result.sources, make_prediction(), result.evidence, make_context(version=2, predecessor=Predecessor.of(report))
    )  # what the worker does
    for sop_class in POORER:
        variant, before = convert(_main(second), sop_class), convert(report, sop_class)
        (series,) = variant.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        (document,) = series.ReferencedSOPSequence
        assert (document.ReferencedSOPClassUID, document.ReferencedSOPInstanceUID) == (sop_class, before.SOPInstanceUID)
        assert series.SeriesInstanceUID == before.SeriesInstanceUID


@pytest.mark.filterwarnings("ignore:The string .* is unlikely to represent the intended person name")
@pytest.mark.parametrize(
    ("charset", "name"),
    [("GB18030", "王^小东".encode("gb18030")), ("ISO_IR 192", "Ковалёва^Анна".encode()), (None, "王^小东".encode("gbk"))],
)
def test_names_keep_their_bytes(charset: str | None, name: bytes) -> None:
    values: dict[str, Any] = {"PatientName": name} | ({"SpecificCharacterSet": charset} if charset else {})
    result = make_result(**values)
    original = _main(result)
    for sop_class in POORER:
        variant = _read(convert(original, sop_class))
        assert written_bytes(variant, "PatientName") == written_bytes(original, "PatientName") == name


@pytest.mark.slow
@pytest.mark.parametrize("sop_class", POORER)
def test_validators_accept_the_variants(report: Dataset, tmp_path: Path, sop_class: str) -> None:
    path = tmp_path / "variant.dcm"
    path.write_bytes(_encoded(convert(report, sop_class)))
    done = subprocess.run([need(DCIODVFY), "-new", str(path)], capture_output=True, check=False)
    found = [line for line in done.stderr.decode("latin-1").splitlines() if line.startswith(("Error", "Warning"))]
    assert [line for line in found if "99CERVINODE" not in line and "DeviceUID(0018,1002)" not in line] == []
    dump = subprocess.run(["/usr/bin/dsrdump", str(path)], capture_output=True, check=False)
    assert dump.returncode == 0, dump.stderr.decode()
