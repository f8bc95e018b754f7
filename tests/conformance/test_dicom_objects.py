"""Result objects before foreign validators: dicom3tools, DCMTK and dcmqi."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.uid import ComprehensiveSRStorage, EnhancedSRStorage
from pydicom.valuerep import PersonName

from pipelines.types import Refusal, RoiOrigin
from structured_reports.brief import Entry
from structured_reports.build import brief_result, build_overview
from structured_reports.context import Predecessor
from tests.conformance.tools import complaints, differences, run
from tests.results import Result, make_context, make_result, save_objects

REFUSAL = Refusal(
    system="olnm_mri",
    title="Occult lymph node metastasis (MRI)",
    code="MISSING_SEQUENCE",
    reasons=("No T2W_FS series was found.", "No DWI series with b = 800 s/mm2 was found."),
    found=('4 "t2_tse_sag" (MR, 19 images)', '8 "ADC" (MR, 19 images)'),
)
CHINESE = "Wang^XiaoDong=王^小东"
CHINESE_2022 = PersonName(b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab", ["iso8859", "iso_ir_58"])  # PS3.5 K.2
NASTY: dict[str, dict[str, Any]] = {
    "absent type 2": dict.fromkeys(("AccessionNumber", "StudyID", "PatientBirthDate", "ReferringPhysicianName", "PatientSex")),
    "sex U": {"PatientSex": "U"},
    "iso 2022": {"SpecificCharacterSet": ["", "ISO 2022 IR 58"], "PatientName": CHINESE_2022},
    "undeclared bytes": {"SpecificCharacterSet": None, "PatientName": PersonName("王^小东".encode("gbk"), ["iso8859"])},
    "misdeclared latin-1": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": PersonName("王^小东".encode("gbk"), ["latin_1"])},
    "misdeclared utf-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": PersonName("王^小东".encode("gbk"), ["UTF8"])},
    "one component": {"PatientName": "ProstateX-0001"},
    "no thickness": {"SliceThickness": None},
    "empty laterality": {"Laterality": "", "BodyPartExamined": None},
    "all at once": {
        **dict.fromkeys(("AccessionNumber", "StudyID", "PatientBirthDate", "SliceThickness", "SpecificCharacterSet", "BodyPartExamined")),
        **{"PatientSex": "U", "PatientName": "ProstateX-0001", "Laterality": ""},
    },
    "gb18030": {"SpecificCharacterSet": "GB18030", "PatientName": CHINESE},
    "gbk": {"SpecificCharacterSet": "GBK", "PatientName": CHINESE, "StudyDescription": "盆腔"},
    "utf-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": CHINESE, "StudyDescription": "盆腔"},
    "latin-1": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Änne", "ReferringPhysicianName": "Français^Zoë"},
    "cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люксембург^Роза", "StudyDescription": "Таз"},
    "greek": {"SpecificCharacterSet": "ISO_IR 126", "PatientName": "Διονυσιος"},
    "katakana": {"SpecificCharacterSet": "ISO_IR 13", "PatientName": "ﾔﾏﾀﾞ^ﾀﾛｳ"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "StudyDescription": "骨盤",
    },
    "korean": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 149"],
        "PatientName": "Hong^Gildong=洪^吉洞=홍^길동",
        "StudyDescription": "골반 MRI",
    },
}
OBJECTS = ["gfx", "sc1", "sc2", "sc3", "sc4", "sc5", "seg", "sr"]
_TEXTS = ("PatientName", "PatientID", "ReferringPhysicianName", "StudyDescription", "StudyID", "AccessionNumber")


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    result.save(folder)
    return folder


@pytest.mark.parametrize("name", OBJECTS)
def test_dciodvfy_finds_nothing(folder: Path, name: str) -> None:
    assert complaints(folder / f"{name}.dcm", "Error", "Warning") == []


def test_overview_of_a_study_is_valid_and_of_the_same_patient(result: Result, folder: Path, tmp_path: Path) -> None:
    brief = brief_result(result.prediction, result.evidence, result.context)
    entries = [Entry("olnm_mri", "Occult lymph node metastasis (MRI)", "DONE", (), brief), Entry("x", "Sixth system", "WAITING", ("why",))]
    (page,) = build_overview(result.sources, entries, make_context(bundle_status=result.prediction.bundle_status))
    path = save_objects([page], tmp_path)["sc1"]
    assert complaints(path, "Error", "Warning") == []
    assert differences(*(folder / "sources").glob("*.dcm"), path) == []


def test_dcentvfy_finds_one_patient_and_study(folder: Path) -> None:
    assert differences(*(folder / "sources").glob("*.dcm"), *folder.glob("*.dcm")) == []


def test_second_version_is_valid(result: Result, folder: Path, tmp_path: Path) -> None:
    context = make_context(version=2, predecessor=Predecessor.of(dcmread(folder / "sr.dcm")))
    files = Result(result.sources, result.prediction, result.evidence, context).save(tmp_path)
    for path in files.values():
        assert complaints(path, "Error", "Warning") == []
    assert "Version 2, replaces the result of 2026-01-02 09:30:15" in run("/usr/bin/dsrdump", "+Pl", files["sr"])


@pytest.mark.parametrize("sr_class_uid", [ComprehensiveSRStorage, EnhancedSRStorage])
def test_dciodvfy_accepts_the_simpler_report_classes(result: Result, tmp_path: Path, sr_class_uid: str) -> None:
    simpler = Result(result.sources, result.prediction, result.evidence, make_context(sr_class_uid=sr_class_uid))
    files = simpler.save(tmp_path)
    assert dcmread(files["sr"]).SOPClassUID == sr_class_uid
    assert complaints(files["sr"], "Error") == []


def test_dsrdump_reads_a_separate_report_that_begins_with_the_warning(folder: Path) -> None:
    said = run("/usr/bin/dsrdump", "+Pc", "+Pl", folder / "sr.dcm")
    assert '(126001,DCM,"Oncology Measurement Report")=SEPARATE' in said
    assert "=CONTINUOUS" not in said
    texts = [line for line in said.splitlines() if "Comment" in line]
    assert "DEMO MODEL - NOT FOR CLINICAL USE. RESEARCH USE ONLY" in texts[0]
    assert said.index("DEMO MODEL") < said.index("Image Library")
    assert 'Probability of occult lymph node metastasis")="71.3" (%,UCUM,"Percent")' in said
    assert said.index("P.OLNM,") < said.index("Cervical tumour 1") < said.index("SHAP.") < said.index('"QC"')


@pytest.mark.parametrize("failed", [False, True])
def test_refusal_is_a_page_and_a_valid_report_with_its_reasons(result: Result, folder: Path, tmp_path: Path, failed: bool) -> None:
    refusal = Refusal(REFUSAL.system, REFUSAL.title, "BUNDLE" if failed else REFUSAL.code, REFUSAL.reasons, REFUSAL.found, failed)
    files = save_objects(result.refuse(refusal), tmp_path)
    assert list(files) == ["sc1", "sr"]
    assert [complaints(path, "Error", "Warning") for path in files.values()] == [[], []]
    assert differences(*(folder / "sources").glob("*.dcm"), *files.values()) == []
    said = run("/usr/bin/dsrdump", "+Pc", "+Pl", files["sr"])
    assert said.index("RESEARCH USE ONLY") < said.index("Imaging Measurements")
    for words in ("This is not a negative result", "111245", *REFUSAL.reasons, "t2_tse_sag"):
        assert words in said
    assert all(("FAILED" if failed else "REFUSED") in dcmread(path).SeriesDescription for path in files.values())


@pytest.mark.filterwarnings("ignore:Failed to decode byte string")
@pytest.mark.parametrize("case", NASTY)
def test_nasty_sources_give_valid_objects_with_unharmed_identity(tmp_path: Path, case: str) -> None:
    files = make_result(**NASTY[case]).save(tmp_path)
    assert sorted(files) == OBJECTS
    # What the validator has against the source's own text (undeclared bytes; GBK and ISO_IR 13, which it does not know) is the source's.
    faults = [line.split("[1]>")[0] for line in complaints(tmp_path / "sources" / "000.dcm", "Error", "Warning")]
    for path in files.values():
        assert [e for e in complaints(path, "Error", "Warning") if e.split("[1]>")[0] not in faults] == []
    found = differences(*(tmp_path / "sources").glob("*.dcm"), *files.values())
    converted = {"iso 2022": "PatientName", "sex U": "PatientSex", "all at once": "PatientSex"}.get(case)
    assert [line for line in found if not (converted and converted in line)] == []
    if converted is None:
        source = written_text(next((tmp_path / "sources").glob("*.dcm")))
        for path in files.values():
            assert {k: v for k, v in written_text(path).items() if v} == {k: v for k, v in source.items() if v}


def test_private_groups_of_the_source_stay_there(tmp_path: Path) -> None:
    result = make_result()
    for source in result.sources:
        source.add_new(0x00290010, "LO", "VENDOR")
        source.add_new(0x00291010, "OB", b"\x01\x02")
        source.add_new(0x00091001, "LO", "without a creator")
    files = result.save(tmp_path)
    assert sorted(files) == OBJECTS
    for path in files.values():
        assert complaints(path, "Error", "Warning") == []
        assert not any(element.tag.is_private for element in dcmread(path).iterall())


def written_text(path: Path) -> dict[str, bytes]:
    """Return the bytes of who the patient is and what was done, as they stand in a file."""
    d = dcmread(path, stop_before_pixels=True)
    return {keyword: (d.get_item(keyword).value or b"").rstrip(b" ") for keyword in _TEXTS if keyword in d}


def test_captures_become_pictures_with_a_yellow_warning(folder: Path, tmp_path: Path) -> None:
    for number in range(1, 6):
        picture = tmp_path / f"{number}.png"
        run("/usr/bin/dcmj2pnm", "--write-png", folder / f"sc{number}.dcm", picture)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(picture))).astype(int)
        banner = pixels[4:40, 6:520]
        yellow = (banner[..., 0] > 200) & (banner[..., 1] > 170) & (banner[..., 2] < 90)
        assert yellow.sum() > 1000


def test_dcmqi_reads_segmentation_at_the_place_of_the_roi(result: Result, folder: Path, tmp_path: Path) -> None:
    run("segimage2itkimage", "--inputDICOM", folder / "seg.dcm", "--outputDirectory", tmp_path, "--outputType", "nii", "--prefix", "s")
    segment, roi = sitk.ReadImage(str(tmp_path / "s-1.nii.gz")), result.evidence.roi.volume
    marked = np.argwhere(sitk.GetArrayFromImage(segment) > 0)[:, ::-1]
    points = np.array([segment.TransformIndexToPhysicalPoint([int(v) for v in index]) for index in marked])
    on_grid = roi.map_reference_to_indices(points)
    assert np.abs(on_grid - on_grid.round()).max() < 0.01
    read = np.zeros_like(roi.array)
    read[tuple(on_grid.round().astype(int).T)] = 1
    assert np.array_equal(read, roi.array)  # Dice 1.0


def test_dcmqi_reads_every_measurement_group(folder: Path, tmp_path: Path) -> None:
    run("tid1500reader", "--inputDICOM", folder / "sr.dcm", "--outputMetadata", tmp_path / "m.json")
    groups = [g["TrackingIdentifier"] for g in json.loads((tmp_path / "m.json").read_text())["Measurements"]]
    assert groups == ["OLNM", "Cervical tumour 1", "OLNM explanation", "QC"]


def test_objects_are_byte_identical_in_another_process(folder: Path, tmp_path: Path) -> None:
    script = "import sys, pathlib; from tests.results import make_result; make_result().save(pathlib.Path(sys.argv[1]))"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=root, timeout=120)
    for path in folder.glob("*.dcm"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_human_region_is_valid_and_said_to_be_one(tmp_path: Path) -> None:
    files = make_result(origin=RoiOrigin.RTSTRUCT).save(tmp_path)
    assert complaints(files["seg"], "Error") == []
    segment: Dataset = dcmread(files["seg"]).SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "MANUAL"
    assert "RT structure set" in run("/usr/bin/dsrdump", "+Pl", files["sr"])
