"""Result objects before foreign validators: dicom3tools, DCMTK, and dcmqi where it is installed."""

from __future__ import annotations

import json
import shutil
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
from structured_reports.context import Predecessor
from tests.results import Result, make_context, make_result, save_objects

REFUSAL = Refusal(
    system="olnm_mri",
    title="Occult lymph node metastasis (MRI)",
    code="MISSING_SEQUENCE",
    reasons=("No T2W_FS series was found.", "No DWI series with b = 800 s/mm2 was found."),
    found=('4 "t2_tse_sag" (MR, 19 images)', '8 "ADC" (MR, 19 images)'),
)
# The standard's 2022 tables do not know the private scheme and the Device UID that IHE AI Results asks for.
_EXPECTED_WARNINGS = ("99CERVINODE", "DeviceUID(0018,1002)")
CHINESE = "Wang^XiaoDong=王^小东"
CHINESE_2022 = PersonName(b"Wang^XiaoDong=\x1b$)A\xcd\xf5^\x1b$)A\xd0\xa1\xb6\xab", ["iso8859", "iso_ir_58"])  # PS3.5 K.2
NASTY: dict[str, dict[str, Any]] = {
    "absent type 2": dict.fromkeys(("AccessionNumber", "StudyID", "PatientBirthDate", "ReferringPhysicianName", "PatientSex")),
    "sex U": {"PatientSex": "U"},
    "iso 2022": {"SpecificCharacterSet": ["", "ISO 2022 IR 58"], "PatientName": CHINESE_2022},
    "undeclared bytes": {"SpecificCharacterSet": None, "PatientName": PersonName("王^小东".encode("gbk"), ["iso8859"])},
    "one component": {"PatientName": "ProstateX-0001"},
    "no thickness": {"SliceThickness": None},
    "empty laterality": {"Laterality": "", "BodyPartExamined": None},
    "gb18030": {"SpecificCharacterSet": "GB18030", "PatientName": CHINESE},
    "utf-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": CHINESE, "StudyDescription": "盆腔"},
}


def run(tool: str, *arguments: str | Path) -> str:
    """Return what a foreign tool says, both streams; skip where it is not installed."""
    path = tool if Path(tool).is_file() else shutil.which(tool) if not tool.startswith("/") else None
    if not path:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, timeout=120, check=False)
    return (done.stdout + done.stderr).decode("utf-8", errors="replace")


def complaints(path: Path, severity: str) -> list[str]:
    """Return what dciodvfy has against a file, but for the expected."""
    lines = run("/usr/bin/dciodvfy", "-new", path).splitlines()
    assert lines, "dciodvfy always names the IOD"
    return [line for line in lines if line.startswith(severity) and not any(known in line for known in _EXPECTED_WARNINGS)]


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    result.save(folder)
    return folder


@pytest.mark.parametrize("name", ["sc1", "sc2", "sc3", "sc4", "seg", "sr"])
def test_dciodvfy_finds_nothing(folder: Path, name: str) -> None:
    assert complaints(folder / f"{name}.dcm", "Error") == []
    assert complaints(folder / f"{name}.dcm", "Warning") == []


def test_dcentvfy_finds_one_patient_and_study(folder: Path) -> None:
    said = run("/usr/bin/dcentvfy", *(folder / "sources").glob("*.dcm"), *folder.glob("*.dcm"))
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_second_version_is_valid(result: Result, folder: Path, tmp_path: Path) -> None:
    context = make_context(version=2, predecessor=Predecessor.of(dcmread(folder / "sr.dcm")))
    files = Result(result.sources, result.prediction, result.evidence, context).save(tmp_path)
    for path in files.values():
        assert complaints(path, "Error") + complaints(path, "Warning") == []
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
def test_refusal_is_a_valid_report_with_its_reasons(result: Result, tmp_path: Path, failed: bool) -> None:
    refusal = Refusal(REFUSAL.system, REFUSAL.title, "BUNDLE" if failed else REFUSAL.code, REFUSAL.reasons, REFUSAL.found, failed)
    (tmp_path / "sources").mkdir()
    files = save_objects(result.refuse(refusal), tmp_path)
    assert list(files) == ["sr"]
    assert complaints(files["sr"], "Error") == []
    assert complaints(files["sr"], "Warning") == []
    said = run("/usr/bin/dsrdump", "+Pc", "+Pl", files["sr"])
    assert said.index("RESEARCH USE ONLY") < said.index("Imaging Measurements")
    for words in ("This is not a negative result", "111245", *REFUSAL.reasons, "t2_tse_sag"):
        assert words in said
    assert ("FAILED" if failed else "REFUSED") in dcmread(files["sr"]).SeriesDescription


@pytest.mark.parametrize("case", NASTY)
def test_nasty_sources_give_valid_objects_with_unharmed_identity(tmp_path: Path, case: str) -> None:
    files = make_result(**NASTY[case]).save(tmp_path)
    for path in files.values():
        errors = complaints(path, "Error")
        # Bytes that the source does not declare are passed on as they are, and so is the source's fault.
        assert [e for e in errors if case != "undeclared bytes" or "PatientName" not in e] == []
    differences = run("/usr/bin/dcentvfy", *(tmp_path / "sources").glob("*.dcm"), *files.values()).splitlines()
    converted = {"iso 2022": "PatientName", "sex U": "PatientSex"}.get(case)
    assert [line for line in differences if line.startswith("Error") and not (converted and converted in line)] == []


def test_captures_become_pictures_with_a_yellow_warning(folder: Path, tmp_path: Path) -> None:
    for number in range(1, 5):
        picture = tmp_path / f"{number}.png"
        run("/usr/bin/dcmj2pnm", "--write-png", folder / f"sc{number}.dcm", picture)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(picture))).astype(int)
        banner = pixels[4:40, 6:520]
        yellow = (banner[..., 0] > 200) & (banner[..., 1] > 170) & (banner[..., 2] < 90)
        assert yellow.sum() > 1000


def test_dcmqi_reads_segmentation_at_the_place_of_the_roi(result: Result, folder: Path, tmp_path: Path) -> None:
    run("segimage2itkimage", "--inputDICOM", folder / "seg.dcm", "--outputDirectory", tmp_path, "--outputType", "nii", "--prefix", "s")
    segment = sitk.ReadImage(str(tmp_path / "s-1.nii.gz"))
    marked = np.argwhere(sitk.GetArrayFromImage(segment) > 0)
    centre = segment.TransformContinuousIndexToPhysicalPoint([float(v) for v in marked.mean(axis=0)[::-1]])
    roi = result.evidence.roi.volume
    expected = roi.affine @ np.append(np.argwhere(roi.array).mean(axis=0), 1)
    assert len(marked) == np.count_nonzero(roi.array)
    assert np.allclose(centre, expected[:3], atol=1e-3)


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
