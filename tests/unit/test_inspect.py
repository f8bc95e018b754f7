"""The inspection of folders: roles, what systems lack, damaged files, the JSON form, and a table that fits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from node.inspect import inspect, run, to_json
from node.inspect_table import SeriesRow, StudyTable, SystemRow, render
from pipelines.errors import InputError
from pipelines.phantoms.dicom import write_study as write_phantom
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import SeriesRole
from tests import mr, us

SYSTEMS = {"olnm_mri": catalogue()["olnm_mri"]}
ROLES = {"T1W", "T2W", "T2W_FS", "DWI", "ADC", "CE_T1W", "TVUS", "SEG", "RTSTRUCT", "SR", None}
SERIES_KEYS = ["series_instance_uid", "series_number", "description", "role", "score", "reason", "problems"]
SYSTEM_KEYS = ["system", "runnable", "reasons", "chosen"]


def _json(folder: Path, systems: dict[str, PipelineSpec] = SYSTEMS) -> list[dict[str, Any]]:
    answer = json.loads(to_json(inspect(folder, systems)))
    assert list(answer) == ["studies"]
    for study in answer["studies"]:
        assert list(study) == ["study_instance_uid", "series", "systems"]
        assert all(list(row) == SERIES_KEYS and row["role"] in ROLES and 0 <= row["score"] <= 100 for row in study["series"])
        assert all(list(row) == SYSTEM_KEYS for row in study["systems"])
    return list(answer["studies"])


def _roles(study: dict[str, Any]) -> dict[int, str | None]:
    return {row["series_number"]: row["role"] for row in study["series"]}


def test_phantom_study_can_run_and_says_whose_region(tmp_path: Path) -> None:
    write_phantom(tmp_path, seed=5, with_seg=True)
    (study,) = _json(tmp_path)
    assert _roles(study) == {2: "T1W", 3: "T2W_FS", 4: "DWI", 90: "SEG"}
    assert [row["problems"] for row in study["series"]] == [[], [], [], []]
    (system,) = study["systems"]
    by_number = {row["series_number"]: row["series_instance_uid"] for row in study["series"]}
    assert system["runnable"] and system["chosen"] == {"T1W": by_number[2], "T2W_FS": by_number[3], "DWI": by_number[4]}
    assert any('SEG segment 1 "Tumour"' in reason for reason in system["reasons"])


def test_study_without_region_says_who_has_to_draw_it(tmp_path: Path) -> None:
    (study,) = _json(mr.write_study(tmp_path))
    assert study["systems"][0]["runnable"]
    assert study["systems"][0]["reasons"][-1] == "region: nobody drew one; the segmenter of the model bundle has to"


def test_missing_sequences_are_named_and_found_ones_chosen(tmp_path: Path) -> None:
    (study,) = _json(mr.write_study(tmp_path, (mr.T1W, mr.T2W)))
    (system,) = study["systems"]
    assert not system["runnable"] and list(system["chosen"]) == ["T1W"]
    assert system["reasons"] == ["no T2W_FS series found", "no DWI with b near 800 s/mm2 series found"]


def test_missing_slice_is_a_problem_and_keeps_the_system_from_running(tmp_path: Path) -> None:
    slices = mr.make_series(mr.T1W)
    mr.write_study(tmp_path, mr.OLNM_STUDY)
    (tmp_path / f"{slices[7].SOPInstanceUID}.dcm").unlink()
    (study,) = _json(tmp_path)
    (row,) = (row for row in study["series"] if row["series_number"] == mr.T1W.number)
    assert any("a slice is missing" in problem for problem in row["problems"])
    assert not study["systems"][0]["runnable"] and "a slice is missing" in study["systems"][0]["reasons"][0]


def test_truncated_pixels_are_a_problem(tmp_path: Path) -> None:
    mr.write_study(tmp_path)
    broken = tmp_path / f"{mr.make_series(mr.T2W_FS)[3].SOPInstanceUID}.dcm"
    broken.write_bytes(broken.read_bytes()[:-500])
    (study,) = _json(tmp_path)
    (row,) = (row for row in study["series"] if row["series_number"] == mr.T2W_FS.number)
    assert row["role"] == "T2W_FS" and any("image 4" in problem for problem in row["problems"])
    assert not study["systems"][0]["runnable"]


def test_unreadable_files_are_listed_last_without_a_study(tmp_path: Path) -> None:
    paths = us.write(tmp_path, us.make(), us.make(us.Picture(number=2)))
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    (tmp_path / "letter.dcm").write_text("not DICOM")
    (tmp_path / "readme.txt").write_text("no problem")
    good, bad = _json(tmp_path)
    assert len(good["series"]) == 1 and bad["study_instance_uid"] is None and bad["systems"] == []
    assert {row["description"] for row in bad["series"]} == {"letter.dcm", paths[1].name}
    assert all(row["role"] is None and row["series_instance_uid"] is None and row["problems"] for row in bad["series"])


def test_folder_of_nothing_but_damaged_files_is_inspected(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"\0" * 200)
    (study,) = _json(tmp_path)
    assert study["series"][0]["problems"] == ["it has no DICM prefix (PS3.10 7.1)"]


def test_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(InputError, match="holds no DICOM file"):
        inspect(tmp_path, SYSTEMS)
    with pytest.raises(InputError, match="is not a folder"):
        inspect(tmp_path / "absent", SYSTEMS)


def test_repeated_files_are_counted(tmp_path: Path) -> None:
    (path,) = us.write(tmp_path, us.make())
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    (study,) = _json(tmp_path)
    assert "ignored 1 more file with SOP Instance UIDs that it has already" in study["series"][0]["problems"]


def test_mixed_patients_keep_systems_from_running(tmp_path: Path) -> None:
    mr.write_study(tmp_path, (mr.T1W, mr.T2W_FS))
    mr.write_study(tmp_path, (mr.DWI_B0, mr.DWI_B800), PatientID="T-2")
    (study,) = _json(tmp_path)
    assert study["systems"][0]["reasons"] == ["the study holds instances of 2 patients (by Patient ID)"]


def test_own_results_have_no_role(tmp_path: Path) -> None:
    us.write(tmp_path, us.make(), us.make_report(us.Outline(us.make(), us.rectangle(100, 120, 140, 160)), model="Cervinode"))
    (study,) = _json(tmp_path)
    assert _roles(study) == {1: "TVUS", 901: None}


def test_only_the_best_ultrasound_series_is_tvus(tmp_path: Path) -> None:
    us.write(
        tmp_path,
        us.make(us.Picture(series=1, colour="caliper")),
        us.make(us.Picture(series=2, frames=5)),
        us.make(us.Picture(series=3, colour="doppler")),
        us.make(us.Picture(series=4, regions=())),
    )
    (study,) = _json(tmp_path)
    assert _roles(study) == {1: None, 2: "TVUS", 3: None, 4: None}
    rows = {row["series_number"]: row for row in study["series"]}
    assert rows[2]["score"] == 100 and "frame 3 of 5: the middle frame" in rows[2]["reason"]
    assert "another series has a better image" in rows[1]["reason"]
    assert "coloured" in rows[3]["reason"]
    assert "not calibrated in cm: no millimetres" in rows[4]["problems"]


def test_system_that_needs_ultrasound_gets_the_best_image(tmp_path: Path) -> None:
    spec = replace(SYSTEMS["olnm_mri"], name="tvus", required=(SeriesRole.TVUS,), roi_names=("Ovary",))
    image = us.make()
    outlines = [us.Outline(image, us.rectangle(100, 120, 140, 160), label=name) for name in ("Bladder", "Ovary")]
    us.write(tmp_path, image, us.make_report(*outlines))
    (study,) = _json(tmp_path, {"tvus": spec})
    (system,) = study["systems"]
    assert system["runnable"] and system["chosen"] == {"TVUS": image.SeriesInstanceUID}
    assert 'SR outline "Ovary", drawn by READER^ONE' in system["reasons"][0]
    assert any("Bladder" in problem for problem in study["series"][0]["problems"])  # without the configured name it cannot be told
    (study,) = _json(us.write(tmp_path / "doppler", us.make(us.Picture(colour="doppler")))[0].parent, {"tvus": spec})
    assert not study["systems"][0]["runnable"] and "coloured" in study["systems"][0]["reasons"][0]


def test_json_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    us.write(tmp_path, us.make())
    assert run(tmp_path, systems=SYSTEMS, as_json=True, width=80) == 0
    assert json.loads(capsys.readouterr().out)["studies"][0]["series"][0]["role"] == "TVUS"


@pytest.mark.parametrize("width", [40, 60, 83, 84, 100, 132, 300])
def test_table_keeps_to_the_width_and_loses_nothing(tmp_path: Path, width: int) -> None:
    us.write(tmp_path, us.make(us.Picture(colour="caliper")), us.make_report(us.Outline(us.make(), us.rectangle(90, 120, 140, 160))))
    table = render(inspect(mr.write_study(tmp_path), SYSTEMS), width=width, colour=False)
    assert max(map(len, table.splitlines())) <= width
    assert "\x1b" not in table and not any(line != line.rstrip() for line in table.splitlines())
    flat = " ".join(table.split())
    for words in ("t2_tse_spair_tra", "T2W_FS", "TVUS", "olnm_mri", "can run"):
        assert words in flat


def test_columns_are_aligned(tmp_path: Path) -> None:
    table = render(inspect(mr.write_study(tmp_path), SYSTEMS), width=120, colour=False).splitlines()
    head = next(line for line in table if line.lstrip().startswith("No."))
    for role in ("T1W", "T2W_FS", "DWI"):
        row = next(line for line in table if f"  {role}  " in line)
        assert row.index(role) == head.index("Role")
        assert row[head.index("Score") :].split()[0].isdecimal()
        assert row[head.index("Why")] != " " and row[head.index("Why") - 1] == " "


def _table(description: str) -> str:
    row = SeriesRow("1.2", 1, description, "MR, 1 image", SeriesRole.T2W, 90.0, "a reason", ("a problem",))
    system = SystemRow("name", "Title", False, ("it lacks",), {})
    return render([StudyTable("1", "study", (row,), (system,))], width=100, colour=True)


def test_colour_is_only_colour() -> None:
    table = _table("t2")
    assert "\x1b[32m" in table and "\x1b[33m" in table and "\x1b[31m" in table
    assert table.count("\x1b[0m") * 2 == table.count("\x1b[")


def test_header_text_cannot_steer_the_terminal() -> None:
    assert "\x1b[2J" not in _table("evil\x1b[2J\nname") and "evil?[2J name" in _table("evil\x1b[2J\nname")


def test_wide_characters_stay_aligned() -> None:
    plain, wide = _table("abcd"), _table("骨盆")
    assert [len(line) for line in plain.splitlines()][5:6] == [len(line) + 2 for line in wide.splitlines()][5:6]


def test_real_pelvis_gets_its_roles(real_pelvis: Path) -> None:
    (study,) = _json(real_pelvis)
    assert _roles(study) == {4: "T2W", 6: "T2W", 7: "DWI", 8: "ADC", 9: None}
    assert all(row["problems"] == [] for row in study["series"])
    (system,) = study["systems"]
    assert system["reasons"] == ["no T1W series found", "no T2W_FS series found"] and list(system["chosen"]) == ["DWI"]


def _of(*roles: str | None) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda studies: sorted(str(row["role"]) for s in studies for row in s["series"]) == sorted(map(str, roles))


FOLDERS = {
    "mr_adc_ge": _of("ADC"),
    "mr_dwi_uih": _of(None),
    "us/weasis": _of("TVUS", "TVUS", *[None] * 11),
    "us_mr_pydicom": _of("TVUS", "TVUS", "TVUS", *[None] * 4),
    "mr_dwi_ge": _of(None),
    "mr_enhanced": _of("T1W", None),
    "sr_seg_dcmqi": lambda studies: {row["role"] for s in studies for row in s["series"]} >= {"SEG", "SR", None},
    "sr_seg_highdicom": lambda studies: {row["role"] for s in studies for row in s["series"]} >= {"SEG", "SR", None},
    "ibsi": lambda studies: len(studies) >= 1,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder_of_real_data_is_inspected(shared_data: Path, name: str) -> None:
    try:
        studies = _json(shared_data / name)
    except InputError:
        assert name == "ibsi"  # images in another format
        return
    assert FOLDERS[name](studies)


def _mutated_is_inspected(folder: Path, source: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(source)
    for place, byte in changes:
        content[132 + place % (len(content) - 132)] = byte
    (folder / "mutant.dcm").write_bytes(content[: max(140, len(content) - cut)])
    table = inspect(folder, SYSTEMS)
    assert json.loads(to_json(table))["studies"] and render(table, width=90, colour=True)


CHANGES = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=12)


def _bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


CLIP = us.make(us.Picture(frames=2))
REPORT = us.make_report(us.Outline(CLIP, us.rectangle(100, 120, 150, 160), frame=2))
SOURCES = [_bytes(d) for d in (CLIP, us.make(us.Picture(photometric="PALETTE COLOR")), mr.make_series(mr.DWI_B800)[0], REPORT)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 3), changes=CHANGES, cut=st.integers(0, 400))
def test_damaged_headers_never_stop_the_inspection(tmp_path: Path, which: int, changes: list[tuple[int, int]], cut: int) -> None:
    _mutated_is_inspected(tmp_path, SOURCES[which], changes, cut)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 3), changes=CHANGES, cut=st.integers(0, 400))
def test_thousands_of_damaged_headers_never_stop_the_inspection(
    tmp_path: Path, which: int, changes: list[tuple[int, int]], cut: int
) -> None:
    _mutated_is_inspected(tmp_path, SOURCES[which], changes, cut)
