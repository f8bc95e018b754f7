"""The acceptance checks of result objects, by their numbers, on every shape of result.

Elsewhere: the nasty inputs of check 15 in ``test_dicom_objects``, peers that take only some kinds (18) in ``tests/e2e/test_destinations``,
what a browser shows (19) in ``tests/viewer``.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.sr._concepts_dict import concepts
from pynetdicom import AE

from pipelines.types import Code, Drawing, Measurement, Refusal
from structured_reports import codes, uids
from structured_reports.canvas import describe_missing_font
from tests import us
from tests.conformance.tools import complaints, differences, pixelmed, run
from tests.e2e import servers
from tests.foreign import missing
from tests.pages import recorded
from tests.results import ADC, MM, MM2_S, Result, make_context, make_enhanced, make_result, save_objects
from tests.shapes import SHAPES, make_chinese

# Codes that pydicom's dictionary does not carry; where each was verified is in docs/outputs.md.
VERIFIED_ELSEWHERE = {"371512006", "24869-0", "en", "zh", "MR", "US", "8071/3", "8072/3", "8073/3"}
UNITS = {"%", "1", "ml", "mm", "mm2", "10-6.mm2/s", "mm2/s", "s/mm2", "{pixels}"}


@dataclass(frozen=True)
class Case:
    """One finished run as files."""

    name: str
    result: Result
    folder: Path
    files: dict[str, Path]

    def read(self, name: str) -> Dataset:
        """Return one object."""
        return dcmread(self.files[name])

    @property
    def reports(self) -> list[Dataset]:
        """Both reports."""
        return [self.read("gfx"), self.read("sr")]


@pytest.fixture(scope="module", params=SHAPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, result = tmp_path_factory.mktemp(request.param), SHAPES[request.param]()
    return Case(request.param, result, folder, result.save(folder))


def items(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from items(child)


def numbers(report: Dataset) -> dict[str, tuple[float, str]]:
    """Return value and unit of each NUM by its code value."""
    found = {}
    for item in (i for i in items(report) if i.ValueType == "NUM"):
        measured = item.MeasuredValueSequence[0]
        found[item.ConceptNameCodeSequence[0].CodeValue] = (
            float(measured.NumericValue),
            measured.MeasurementUnitsCodeSequence[0].CodeValue,
        )
    return found


def test_01_02_dciodvfy_finds_nothing(case: Case) -> None:
    assert {name: found for name, path in case.files.items() if (found := complaints(path, "Error", "Warning"))} == {}


def test_03_dcentvfy_finds_one_patient_study_and_series_each(case: Case) -> None:
    assert differences(*(case.folder / "sources").glob("*.dcm"), *case.files.values()) == []


def test_03_dcentvfy_notices_another_patient(case: Case, tmp_path: Path) -> None:
    other = dcmread(case.files["sr"])
    other.PatientBirthDate = "19010101"
    other.save_as(tmp_path / "other.dcm")
    assert differences(case.folder / "sources" / "000.dcm", tmp_path / "other.dcm")


def test_04_05_reports_have_their_titles_and_are_separate(case: Case) -> None:
    for name, title in (("sr", '(126001,DCM,"Oncology Measurement Report")'), ("gfx", '(126000,DCM,"Imaging Measurement Report")')):
        said = run("/usr/bin/dsrdump", "+Pc", case.files[name])
        assert f"{title}=SEPARATE" in said
        assert "=CONTINUOUS" not in said


def test_06_every_group_of_the_graphic_report_has_an_outline_on_the_key_image(case: Case) -> None:
    said = run("/usr/bin/dsrdump", "+Pc", case.files["gfx"]).splitlines()
    assert sum("(125007,DCM" in line for line in said) == sum("contains SCOORD" in line for line in said) == 1
    (outline,) = (i for i in items(case.read("gfx")) if i.ValueType == "SCOORD")
    reference = outline.ContentSequence[0].ReferencedSOPSequence[0]
    frame = case.result.evidence.frame
    if case.name != "enhanced":
        assert reference.get("ReferencedFrameNumber") == (frame.frame_number if frame and case.name == "cine" else None)
    points = np.array(outline.GraphicData, dtype=float).reshape(-1, 2)
    roi = case.result.evidence.roi.volume.array
    area = abs(np.sum(points[:-1, 0] * points[1:, 1] - points[1:, 0] * points[:-1, 1])) / 2
    assert area == np.count_nonzero(roi, axis=(1, 2)).max()
    if frame:
        assert np.allclose(points.mean(axis=0), (us.LESION[1] + 0.5, us.LESION[0] + 0.5), atol=3)


def test_07_segments_are_identified_per_frame_and_ultrasound_has_none(case: Case) -> None:
    if case.result.evidence.frame:
        assert "seg" not in case.files
        return
    seg = case.read("seg")
    assert all("SegmentIdentificationSequence" in frame for frame in seg.PerFrameFunctionalGroupsSequence)
    assert "SegmentIdentificationSequence" not in seg.SharedFunctionalGroupsSequence[0]


def test_07_frames_of_an_enhanced_source_are_referred_to_by_number_and_place() -> None:
    result = make_enhanced()
    whole, built = result.sources[0], result.build()
    seg, gfx = (next(d for d in built if d.SeriesNumber == number) for number in (9101, 9202))
    frames, masks = seg.PerFrameFunctionalGroupsSequence, np.asarray(seg.pixel_array)
    referred = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in frames]
    assert {(r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) for r in referred} == {(whole.SOPClassUID, whole.SOPInstanceUID)}
    for frame, source, mask in zip(frames, referred, masks, strict=True):
        place = whole.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        assert place.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.array_equal(mask, result.evidence.roi.volume.array[-source.ReferencedFrameNumber])
    listed = [i.ReferencedSOPInstanceUID for series in seg.ReferencedSeriesSequence for i in series.ReferencedInstanceSequence]
    assert listed == [whole.SOPInstanceUID]
    (outline,) = (i for i in items(gfx) if i.ValueType == "SCOORD")
    drawn = outline.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber
    areas = {source.ReferencedFrameNumber: mask.sum() for source, mask in zip(referred, masks, strict=True)}
    assert areas[drawn] == max(areas.values())


def _reverse(result: Result) -> Result:
    """Return the same result with the slices of every sequence in the opposite order."""
    volumes = {r: replace(v, volume=v.volume[::-1], sources=v.sources[::-1]) for r, v in result.evidence.volumes.items()}
    rois, maps = ({r: v[::-1] for r, v in part.items()} for part in (result.evidence.rois, result.evidence.activation_maps))
    roi = replace(result.evidence.roi, volume=rois[result.evidence.roi.role])
    return replace(result, evidence=replace(result.evidence, volumes=volumes, rois=rois, activation_maps=maps, roi=roi))


@pytest.mark.parametrize("order", ["shuffled", "interleaved", "reversed", "reversed volume", "enhanced"])
def test_08_segmentation_is_read_at_the_same_place_for_any_order_of_the_files(order: str, tmp_path: Path) -> None:
    result = make_enhanced() if order == "enhanced" else make_result()
    expected, sources = result.evidence.roi.volume, list(result.sources)
    order_of = {
        "shuffled": np.random.default_rng(5).permutation(len(sources)),
        "interleaved": np.argsort(np.arange(len(sources)) % 2, kind="stable"),
        "reversed": np.arange(len(sources))[::-1],
        "enhanced": np.arange(len(sources)),
    }
    changed = _reverse(result) if order == "reversed volume" else replace(result, sources=tuple(sources[i] for i in order_of[order]))
    seg = changed.save(tmp_path)["seg"]
    run("segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", tmp_path, "--outputType", "nii", "--prefix", "s")
    image = sitk.ReadImage(str(tmp_path / "s-1.nii.gz"))
    marked = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
    on_grid = expected.map_reference_to_indices(np.array([image.TransformIndexToPhysicalPoint([int(v) for v in i]) for i in marked]))
    assert np.abs(on_grid - on_grid.round()).max() < 0.01
    assert {tuple(i) for i in on_grid.round().astype(int)} == {tuple(i) for i in np.argwhere(expected.array)}  # Dice 1.0


def test_09_dcmqi_reads_every_group(case: Case) -> None:
    run("tid1500reader", "--inputDICOM", case.files["sr"], "--outputMetadata", case.folder / "m.json")
    found = {group["TrackingIdentifier"] for group in json.loads((case.folder / "m.json").read_text())["Measurements"]}
    finding = codes.stem(case.result.prediction.finding)
    assert {finding, "Cervical tumour 1", f"{finding} explanation", "QC"} <= found
    assert (f"{finding} classes" in found) == ("classes" in case.name)


def test_11_every_code_is_known_and_fits(case: Case) -> None:
    for report in case.reports:
        for code in (c for e in report.iterall() if e.VR == "SQ" and e.keyword.endswith("CodeSequence") for c in e.value):
            value = code.get("CodeValue") or code.LongCodeValue
            assert len(code.CodeMeaning) <= 64
            assert code.CodeMeaning.isascii()
            if code.CodingSchemeDesignator == codes.PRIVATE:
                assert len(value) <= 16
            elif value not in VERIFIED_ELSEWHERE | UNITS:
                assert any(value in entry for entry in concepts[code.CodingSchemeDesignator].values()), value


def test_11_no_code_has_two_meanings(case: Case) -> None:
    meanings: dict[str, set[str]] = {}
    for report in case.reports:
        for e in (e for e in report.iterall() if e.VR == "SQ" and e.keyword.endswith("CodeSequence")):
            for code in (c for c in e.value if c.CodingSchemeDesignator == codes.PRIVATE):
                meanings.setdefault(code.CodeValue, set()).add(code.CodeMeaning)
    assert {value: words for value, words in meanings.items() if len(words) > 1} == {}


def test_11_every_number_has_a_unit_of_its_concept(case: Case) -> None:
    calibrated = case.name != "uncalibrated"
    for report in case.reports:
        found = [(i.ConceptNameCodeSequence[0], i.MeasuredValueSequence[0]) for i in items(report) if i.ValueType == "NUM"]
        assert len(found) >= 4
        for name, measured in found:
            (unit,) = measured.MeasurementUnitsCodeSequence
            allowed = codes.units(Code(name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning))
            assert (unit.CodeValue, unit.CodingSchemeDesignator) in {(u.value, u.scheme) for u in allowed}, name.CodeMeaning
            assert unit.CodeValue not in ({"{pixels}"} if calibrated else codes.LENGTHS), name.CodeMeaning


def test_12_probabilities_are_percentages_within_their_bounds(case: Case) -> None:
    finding = case.result.prediction.finding.value
    for report in case.reports:
        found = numbers(report)
        value, unit = found[finding if report.SeriesNumber == 9201 else f"{finding}.DEMO"]
        assert unit == "%"
        assert 0 <= value <= 100
        if case.result.prediction.interval:
            main = numbers(case.read("sr"))  # beside the outline there is no room for the bounds, but the widths are there
            low, high = main[f"{finding}.LO"][0], main[f"{finding}.HI"][0]
            assert low <= value <= high
            assert found["371886008"][0] == pytest.approx(high - value, abs=0.01)
            assert found["371885007"][0] == pytest.approx(value - low, abs=0.01)
            assert found["371886008"][1] == found["371885007"][1] == "%"
    if "classes" in case.name:
        axes = {o.code.value for o in case.result.prediction.outcomes if o.kind == "axis"}
        classes = [v for name, (v, unit) in numbers(case.read("sr")).items() if name.startswith("P.") and name not in axes | {finding}]
        assert len(classes) == (8 if case.name == "eight classes" else 6)
        assert sum(classes) == pytest.approx(100, abs=0.5)


def test_13_references_resolve_and_the_tumour_is_tracked(case: Case) -> None:
    known = {dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in (case.folder / "sources").glob("*.dcm")}
    known |= {case.read(name).SOPInstanceUID for name in case.files}
    for name in case.files:
        referred = {e.value for e in case.read(name).iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert referred <= known
    tracked = {name: {i.UID for i in items(case.read(name)) if _is_tracking_uid(i)} for name in {"sr", "gfx"} & set(case.files)}
    if "seg" in case.files:
        assert case.read("seg").SegmentSequence[0].TrackingUID in tracked["sr"]
    if "gfx" in case.files:  # viewers tell outlines apart by it
        assert len(tracked["gfx"]) == 1 and not tracked["gfx"] & tracked["sr"]
    first = case.read("sr").CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID
    assert first == case.result.evidence.volumes[case.result.evidence.roi.role].header.series_instance_uid
    listed = {e.value for e in case.read("sr").iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert {case.read(name).SOPInstanceUID for name in case.files if name != "sr"} <= listed  # the main report closes the set


def _is_tracking_uid(item: Dataset) -> bool:
    return item.ValueType == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "112040"


def test_14_flags_stand_and_identity_is_that_of_the_source(case: Case) -> None:
    source = dcmread(case.folder / "sources" / "000.dcm", stop_before_pixels=True)
    for name in case.files:
        d = case.read(name)
        assert d.ContentQualification == "RESEARCH"
        assert d.SeriesDescription.startswith("[RUO]")
        assert d.get("VerificationFlag", "UNVERIFIED") == "UNVERIFIED"
        assert not any(e.tag.is_private for e in d.iterall())
        for keyword in ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate"):
            assert d[keyword].value == source[keyword].value
        assert bytes(d.PatientName.original_string) == bytes(source.PatientName.original_string)


def test_20_captures_are_plain_pictures_with_a_yellow_banner(case: Case, tmp_path: Path) -> None:
    for name in (n for n in case.files if n.startswith("sc")):
        d = case.read(name)
        assert (d.PhotometricInterpretation, d.BitsStored, len(d.SourceImageSequence)) == ("RGB", 8, 1)
        # Ultrasound that does not say so may have the patient's name in the picture.
        assert d.BurnedInAnnotation == ("YES" if case.result.evidence.frame and d.ImageType[3] == "GRADCAM" else "NO")
        run("/usr/bin/dcmj2pnm", "--write-png", case.files[name], tmp_path / f"{name}.png")
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.png"))).astype(int)
        banner = pixels[4:44, 6:520]
        assert ((banner[..., 0] > 200) & (banner[..., 1] > 170) & (banner[..., 2] < 90)).sum() > 400


def test_10_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    script = "import sys; from tests.conformance.test_acceptance import save_shapes; save_shapes(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "other")], check=True, cwd=Path(__file__).parents[2], timeout=120)
    save_shapes(str(tmp_path / "own"))
    files = sorted(p.relative_to(tmp_path / "own") for p in (tmp_path / "own").rglob("*.dcm"))
    assert len(files) > 20
    assert [f for f in files if (tmp_path / "own" / f).read_bytes() != (tmp_path / "other" / f).read_bytes()] == []


def save_shapes(folder: str) -> None:
    """Write several shapes of result."""
    for name in ("classes", "cine", "chinese"):
        save_objects(SHAPES[name]().build(), Path(folder) / name)


def test_10_what_reports_and_segmentations_hold_has_the_builder_version_that_made_it() -> None:
    """Archives keep the first object under a UID: whoever changes what is built raises the version, and pins the new bytes here."""
    sha = hashlib.sha256()
    for name in ("mr", "classes", "cine", "chinese"):
        result = SHAPES[name]()
        for d in replace(result, context=replace(result.context, software_version="1")).build():
            if d.Modality in ("SR", "SEG"):  # pictures depend on the fonts of the machine
                for element in d.iterall():
                    if element.VR not in ("UI", "SQ"):
                        sha.update(f"{element.tag} {element.VR} {element.value!r}\n".encode())
    assert (uids.BUILDER_VERSION, sha.hexdigest()) == ("8", "c4cc298e16bd226728bf16c75ffcbb7be31dd50fe3d6bec44905230db15aca01")


def test_10_builder_version_changes_every_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    result = make_result()
    before = {d.SOPInstanceUID for d in result.build()}
    monkeypatch.setattr(uids, "BUILDER_VERSION", "other")
    assert before.isdisjoint(d.SOPInstanceUID for d in result.build())


def test_10_order_of_arrival_changes_nothing() -> None:
    result = make_result()
    rng = np.random.default_rng(3)
    shuffled = replace(result, sources=tuple(result.sources[i] for i in rng.permutation(len(result.sources))))
    for one, other in zip(result.build(), shuffled.build(), strict=True):
        assert one == other


def test_16_numbers_that_are_none_are_left_out_and_named(tmp_path: Path) -> None:
    values = (math.nan, math.inf, np.float32(3.5), 1e-17, 1e20)
    measurements = tuple(Measurement(Code(f"T.{i}", "99CERVINODE", f"Test {i}"), v, MM) for i, v in enumerate(values))
    files = make_result(measurements=(*measurements, Measurement(ADC, math.nan, MM2_S))).save(tmp_path)
    found = numbers(dcmread(files["sr"]))
    assert {"T.2": 3.5, "T.3": 1e-17, "T.4": 1e20}.items() <= {name: value for name, (value, _) in found.items()}.items()
    assert not {"T.0", "T.1", "113041"} & set(found)
    said = run("/usr/bin/dsrdump", "+Pl", files["sr"])
    assert all(f"{name}: not a finite number" in said for name in ("Test 0", "Test 1", "ADC, mean"))


def test_17_without_a_region_there_are_a_page_and_a_report_and_nothing_else(tmp_path: Path) -> None:
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_ROI", ("No tumour was found.",))
    files = save_objects(make_result().refuse(refusal), tmp_path)
    assert list(files) == ["sc1", "sr"]
    report = dcmread(files["sr"])
    assert run_status(report) == "111245"
    assert not any(name.startswith("P.") for name in numbers(report))


def run_status(report: Dataset) -> str:
    """Return the CAD Processing and Findings Summary."""
    (item,) = (i for i in items(report) if i.ValueType == "CODE" and i.ConceptNameCodeSequence[0].CodeValue == "111017")
    return str(item.ConceptCodeSequence[0].CodeValue)


def test_17_network_that_finds_no_tumour_succeeded_without_findings(tmp_path: Path) -> None:
    result = make_result()
    image, roi = result.evidence.volumes[result.evidence.roi.role], result.evidence.roi.volume
    drawing = Drawing(image, roi.with_array(np.zeros_like(roi.array)))
    reason = "no roi was sent and the segmenter found no tumour on T2W_FS"
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_ROI", (reason,), drawing=drawing)
    files = save_objects(result.refuse(refusal), tmp_path)
    assert list(files) == ["sc1", "sc2", "sr"]
    assert run_status(dcmread(files["sr"])) == "111241"
    assert numbers(dcmread(files["sr"])) == {}


def test_17_drawing_that_cannot_be_used_comes_as_a_picture_and_no_segmentation(tmp_path: Path) -> None:
    result = make_result()
    image, reason = result.evidence.volumes[result.evidence.roi.role], "the segmenter's 900.00 ml on T2W_FS are implausible"
    drawing = Drawing(image, result.evidence.roi.volume)
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_ROI", (reason,), drawing=drawing)
    files = save_objects(result.refuse(refusal), tmp_path)
    assert sorted(files) == ["sc1", "sc2", "sr"]
    for path in files.values():
        assert complaints(path, "Error") == []
    assert run_status(dcmread(files["sr"])) == "111245"
    assert not any(name.startswith("P.") for name in numbers(dcmread(files["sr"])))


# What PixelMed's rules of 2022 say of every TID 1500 report with such content, wrongly or harmlessly, as parts of a line; all else is new.
PIXELMED_BASELINE = (
    ("Template 1411 VolumetricROIMeasurements", "Missing conditional content item"),  # it is held against every group of TID 1501
    ("measurement uncertainty", "expected INFERRED FROM - found HAS PROPERTIES"),  # TID 310 has HAS PROPERTIES since 2010
    ("Content Item not in template",),  # TID 1500 is extensible
    ("Source Series for Segmentation", "has different code meaning"),  # by a capital letter
    ('(24869-0,LN,"US Pelvis") not found in context group 100',),  # which has no ultrasound
)


def _new_to_pixelmed(report: Path) -> list[str]:
    return [line for line in pixelmed(report) if not any(all(part in line for part in known) for known in PIXELMED_BASELINE)]


@pytest.mark.slow
@pytest.mark.parametrize("report", ["sr", "gfx"])
def test_20_pixelmed_finds_nothing_new(case: Case, report: str) -> None:
    assert _new_to_pixelmed(case.files[report]) == []


@pytest.mark.slow
def test_20_pixelmed_finds_nothing_new_in_a_refusal_and_sees_a_wrong_code(tmp_path: Path) -> None:
    refusal = Refusal("olnm_mri", "Occult lymph node metastasis (MRI)", "MISSING_SEQUENCE", ("no T2W_FS series found",), ("2 t1_tse_tra",))
    path = save_objects(make_result().refuse(refusal), tmp_path)["sr"]
    assert _new_to_pixelmed(path) == []
    report = dcmread(path)
    procedure = next(i for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == "121058")
    procedure.ConceptCodeSequence[0].CodeValue = "126021"
    report.save_as(path)
    assert ["126021" in line for line in _new_to_pixelmed(path)] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mr", "cine", "chinese"])
def test_18_orthanc_gives_back_what_it_got(name: str, tmp_path: Path) -> None:
    objects = [dcmread(path) for path in SHAPES[name]().save(tmp_path / "objects").values()]
    with servers.orthanc(tmp_path / "orthanc", {"CERVINODE": 11113}) as pacs:
        for _ in range(2):
            ae = AE(ae_title="CERVINODE")
            for uid in {d.SOPClassUID for d in objects}:
                ae.add_requested_context(uid)
            association = ae.associate("127.0.0.1", pacs.port, ae_title="ORTHANC")
            assert [association.send_c_store(d).Status for d in objects] == [0x0000] * len(objects)
            association.release()
        stored = pacs.get("/instances?expand")
        assert len(stored) == len(objects)
        for one in stored:
            (tmp_path / "back.dcm").write_bytes(pacs.file(one["ID"]))
            back = dcmread(tmp_path / "back.dcm")
            assert back == next(d for d in objects if d.SOPInstanceUID == back.SOPInstanceUID)


def test_chinese_words_reach_the_report_and_its_language_says_so(tmp_path: Path) -> None:
    report = dcmread(make_chinese().save(tmp_path)["sr"])
    language = next(i for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == "121049")
    assert language.ConceptCodeSequence[0].CodeValue == "zh"
    texts = [i.TextValue for i in items(report) if i.ValueType == "TEXT"]
    assert any("概率 71.3 %" in words for words in texts)
    assert report.SpecificCharacterSet == "GB18030"


@pytest.mark.parametrize(
    ("identity", "language", "character_set"),
    [
        ({}, "zh", "ISO_IR 192"),  # a plain ASCII identity has the same bytes in UTF-8
        ({"PatientName": "Müller^Änne"}, "en", "ISO_IR 100"),  # this one has not: its bytes come first, the language second
        ({"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田"}, "en", ["", "ISO 2022 IR 87"]),
    ],
)
def test_language_gives_way_to_the_bytes_of_the_identity(identity: dict[str, object], language: str, character_set: object) -> None:
    result = make_result(**identity)
    built = replace(result, context=make_context(language="zh")).build()
    assert all(d.SpecificCharacterSet == character_set for d in built)
    spoken = next(i for i in items(built[-1]) if i.ConceptNameCodeSequence[0].CodeValue == "121049")
    assert spoken.ConceptCodeSequence[0].CodeValue == language


def test_chinese_pages_are_chinese_where_there_is_a_font() -> None:
    if words := describe_missing_font("zh"):
        missing(words)
    with recorded() as lines:
        make_chinese().build()
    assert {"演示模型 - 不得用于临床", "疑有隐匿性淋巴结转移", "概率不低于判定阈值 48.2 %", "肿瘤"} <= set(lines)
    assert not {"DEMO MODEL - NOT FOR CLINICAL USE", "Tumour"} & set(lines)
