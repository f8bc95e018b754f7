"""Cohort tables: what is read, and that everything that is wrong is found at once and named by its row."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from pipelines.decide import broken_rules
from pipelines.errors import CohortError
from pipelines.features import clinical
from pipelines.phantoms.cohort import draw_patients
from pipelines.systems import catalogue
from pipelines.training.cohort import CohortRow, read_cohort
from pipelines.training.extract import ExtractedFile, SliceGrid, extract_cohort, read_case
from pipelines.training.identity import Identity, check_identities, identify
from pipelines.training.patients import Division, Patients, divide, gather
from pipelines.training.plan import Plan
from pipelines.training.statement import leakage
from pipelines.training.table import Table
from pipelines.types import ClinicalValue
from tests.train.cohorts import write_study, write_table

pytestmark = pytest.mark.train

SPECS = catalogue()


def _rows(n: int = 30) -> list[dict[str, object]]:
    return [{"patient": f"P{i}", "study": f"s{i}", "label": i % 2} for i in range(n)]


def _table(folder: Path, rows: list[dict[str, object]]) -> Path:
    for row in rows:
        (folder / str(row["study"])).mkdir(exist_ok=True)
    return write_table(folder, rows)


def _changed(folder: Path, changes: Mapping[int, Mapping[str, object]], *columns: str) -> Path:
    empty = dict.fromkeys(columns, "")
    return _table(folder, [row | empty | dict(changes.get(i, {})) for i, row in enumerate(_rows())])


def test_rows_are_read_with_paths_relative_to_the_table(tmp_path: Path) -> None:
    (tmp_path / "first.dcm").touch()
    (tmp_path / "second.dcm").touch()
    stated = {"roi": "first.dcm", "roi2": "second.dcm", "site": "A", "split": "train", "age_y": "47", "figo_stage": "1b2", "lvsi": "yes"}
    row = read_cohort(_changed(tmp_path, {3: stated}, *stated))[3]
    assert (row.line, row.patient, row.label, row.site, row.split) == (5, "P3", 1, "A", "train")
    assert (row.study, row.roi, row.second_roi) == (tmp_path / "s3", tmp_path / "first.dcm", tmp_path / "second.dcm")
    assert {name: one.value for name, one in row.clinical.items()} == {"age_y": 47.0, "figo_stage": 2.0, "lvsi": 1.0}
    assert read_cohort(tmp_path / "cohort.csv")[4].clinical == {}


def test_blank_lines_do_not_shift_the_lines_named(tmp_path: Path) -> None:
    path = _changed(tmp_path, {4: {"label": "x"}})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "", "", *lines[3:]]))
    with pytest.raises(CohortError, match="line 8: 'x'"):
        read_cohort(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({3: {"label": "yes"}, 7: {"label": ""}}, r"label is not 0 or 1: line 5: 'yes'; line 9: ''"),
        ({4: {"patient": "P2"}}, r"same patient more than once: line 4: P2; line 6: P2"),
        ({4: {"study": "s2"}}, r"same study more than once: line 4: .*s2; line 6: .*s2"),
        ({4: {"study": "../cohort/s2"}}, r"same study more than once: line 4: .*s2; line 6: .*s2"),
        ({4: {"patient": " "}, 6: {"study": ""}}, r"no patient or no study: line 6; line 8"),
        ({i: {"label": 1} for i in range(30)}, r"label is the same in all 30 rows: line 2 \(P0\); .*; line 10 \(P8\) and 21 more"),
        (
            {i: {"label": int(i < 9)} for i in range(30)},
            r"9 positive and 21 negative rows are too few, .*\(label 1: line 2 \(P0\); .*; line 10 \(P8\)\)$",
        ),
        ({5: {"split": "validation"}}, r"split is not train or test: line 7: 'validation'"),
        ({5: {"roi2": "absent.dcm"}}, r"roi file does not exist: line 7: .*absent\.dcm"),
        ({5: {"age_y": "old"}, 6: {"age_y": "470"}}, r"clinical values that cannot be used: line 7: .*old.*; line 8: .*470"),
        ({5: {"age_y": "nan"}}, r"clinical values that cannot be used: line 7: .*nan"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, changes: dict[int, dict[str, object]], message: str) -> None:
    folder = tmp_path / "cohort"
    folder.mkdir()
    columns = sorted({column for change in changes.values() for column in change} - {"patient", "study", "label"})
    with pytest.raises(CohortError, match=message):
        read_cohort(_changed(folder, changes, *columns))


def test_classes_are_those_of_the_system(tmp_path: Path) -> None:
    path = _changed(tmp_path, {i: {"label": (4, 6, 7)[i % 3]} for i in range(30)})
    assert {row.label for row in read_cohort(path, classes=range(8))} == {4, 6, 7}
    path = _changed(tmp_path, {i: {"label": (4, 6)[i % 2]} for i in range(30)} | {9: {"label": 8}})
    with pytest.raises(CohortError, match=r"label is not one of 0, 1, 2, 3, 4, 5, 6, 7: line 11: '8'"):
        read_cohort(path, classes=range(8))
    path = _changed(tmp_path, {i: {"label": 4 if i < 27 else 6} for i in range(30)})
    with pytest.raises(CohortError, match=r"3 rows of class 6 are too few.*\(label 6: line 29 \(P27\); line 30 \(P28\); line 31 \(P29\)\)"):
        read_cohort(path, classes=range(8))
    assert len(read_cohort(path, classes=range(8), each=1)) == 30


def test_tables_of_another_form_are_refused(tmp_path: Path) -> None:
    path = _table(tmp_path, _rows())
    good = path.read_text()
    (tmp_path / "s7").rmdir()
    with pytest.raises(CohortError, match=r"does not exist: line 9: .*s7"):
        read_cohort(path)
    for text, message in (
        (good.replace("label", "outcome"), "has no column label"),
        (good.replace("patient,", "colour,patient,"), "no such column is known: colour"),
        (good.replace("patient,study", "patient,study,study"), "the column study more than once"),
        (good.replace("P3,s3,1", "P3,s3,1,extra"), "another number of values than there are columns: line 5"),
        (good.replace("P3,s3,1", "P3,s3"), "another number of values than there are columns: line 5"),
        ("", "has no column patient, study, label"),
    ):
        path.write_text(text)
        with pytest.raises(CohortError, match=message):
            read_cohort(path)
    path.write_bytes(good.encode("utf-16"))
    with pytest.raises(CohortError, match="cannot be read"):
        read_cohort(path)
    with pytest.raises(CohortError, match="cannot be read"):
        read_cohort(tmp_path / "absent.csv")


def _cohort(labels: list[int], *, tests: int = 0) -> list[CohortRow]:
    held_out = len(labels) - tests
    return [
        CohortRow(line=i + 2, patient=f"P{i}", study=Path("x"), roi=None, label=y, site="AB"[i % 2], split="test" if i >= held_out else "")
        for i, y in enumerate(labels)
    ]


def test_division_keeps_the_parts_apart_and_the_held_out_out() -> None:
    rows = _cohort([i % 2 for i in range(100)], tests=20)
    recipe = SPECS["lnm_hybrid"].recipe
    division = divide(Path("c.csv"), rows, recipe, Plan(network_share=0.25), seed=1)
    assert division.disjoint
    assert not set(division.networks) & set(division.judged)
    assert sorted([*division.networks, *division.judged]) == list(range(80))
    assert (len(division.networks), len(division.judged)) == (20, 60)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(division[:2], divide(Path("c.csv"), rows, recipe, Plan(network_share=0.25), seed=1)[:2], strict=True)
    )
    for plan in (Plan(embedding="crossfit"), Plan(frozen=True)):
        same = divide(Path("c.csv"), rows, recipe, plan, seed=1)
        assert not same.disjoint
        assert list(same.networks) == list(same.judged) == list(range(80))


@pytest.mark.parametrize(
    ("system", "labels", "tests", "plan", "message"),
    [
        ("lnm_hybrid", [1] * 12 + [0] * 40, 0, Plan(), "the part for the classifier: 9 positive and 28 negative rows are too few"),
        ("lnm_hybrid", [0, 1] * 10 + [0] * 10 + [1] * 10, 30, Plan(), "the part for training: 5 positive"),
        (
            "lvsi_mri",
            [0, 1] * 18,
            0,
            Plan(embedding="crossfit"),
            r"18 with the label 0, 18 with the label 1 are too few for this recipe.*\(label 0: line 2",
        ),
        ("plnm_us", [0, 1] * 50, 0, Plan(embedding="crossfit"), "are too few for this recipe"),
        (
            "lnm_hybrid",
            [0, 0, 1, 1] * 14,
            0,
            Plan(embedding="crossfit", combat=True),
            "two sites with 30 judged patients each, there are: A 28",
        ),
    ],
)
def test_parts_that_cannot_be_judged_are_refused_before_anything_is_computed(
    system: str, labels: list[int], tests: int, plan: Plan, message: str
) -> None:
    with pytest.raises(CohortError, match=message):
        divide(Path("c.csv"), _cohort(labels, tests=tests), SPECS[system].recipe, plan, seed=1)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[CohortRow, ExtractedFile]]:
    """Rows that have to do with one another, and what extraction keeps of each."""
    folder = tmp_path_factory.mktemp("studies")
    for i, name in enumerate(("first", "second", "third")):
        write_study(folder / name, name, contrast=60, seed=i, synthetic=True)
    write_study(folder / "again", "first", contrast=60, seed=7, synthetic=True)  # another study of the first patient
    renamed = shutil.copytree(folder / "first", folder / "renamed")
    for i, path in enumerate(sorted(renamed.glob("*.dcm"), reverse=True)):
        path.rename(path.with_name(f"{i:03d}.dcm"))
    shutil.copytree(folder / "first", folder / "value")
    _pseudonymise(shutil.copytree(folder / "first", folder / "pseudonym"))
    names = sorted(path.name for path in folder.iterdir())
    rows = [
        CohortRow(
            line=i, patient=name, study=folder / name, roi=None, label=i % 2, site="A", clinical=_node(9.0 if name == "value" else 5.0 + i)
        )
        for i, name in enumerate(names, start=2)
    ]
    grid = SliceGrid(spacing_mm=6.0, size=32)
    files = extract_cohort(rows, SPECS["lnm_hybrid"], grid=grid, cache=folder / "features", workers=1, progress=list[str]().append)
    assert len({file.key for file in files}) == len(files)
    return {row.patient: (row, file) for row, file in zip(rows, files, strict=True)}


def _node(mm: float) -> dict[str, ClinicalValue]:
    return clinical.parse_all({"node_short_axis_mm": str(mm)}, source="cohort table")


def _pseudonymise(folder: Path) -> None:
    """Give all objects of a study other UIDs and another Patient ID."""
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        for one in ds.iterall():
            if one.VR == "UI" and (one.keyword.endswith("InstanceUID") or one.keyword == "FrameOfReferenceUID"):
                one.value = generate_uid(entropy_srcs=[str(one.value)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.PatientID = "other"
        ds.save_as(path)


def _patients(studies: Mapping[str, tuple[CohortRow, ExtractedFile]], *names: str) -> Patients:
    rows, files = zip(*(studies[name] for name in names), strict=True)
    every = np.arange(len(rows))
    return Patients(Path("c.csv"), SPECS["lnm_hybrid"], rows, files, Division(every, every, False))


@pytest.mark.parametrize(
    ("twin", "message"),
    [
        ("renamed", r"rows with the same study: line 3 \(first\) and line 5 \(renamed\)"),
        ("value", r"rows with the same study: line 3 \(first\) and line 8 \(value\)"),
        ("pseudonym", r"rows with the same images: line 3 \(first\) and line 4 \(pseudonym\)"),
        (
            "again",
            r"rows with the same Patient ID under different names \(.*Issuer of Patient ID.*\): line 3 \(first\) and line 2 \(again\)",
        ),
    ],
)
def test_study_or_patient_in_two_rows_is_found_whatever_the_rows_say(
    studies: dict[str, tuple[CohortRow, ExtractedFile]], twin: str, message: str
) -> None:
    assert _patients(studies, "first", "second", "third").untold == ()
    with pytest.raises(CohortError, match=message):
        _patients(studies, "first", "second", "third", twin).check()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["SITE-ANON"] * 30, r"30 rows share one Patient ID \(line 2 \(P0\); .* and 21 more\): whether a patient stands there"),
        (["A" if i % 2 == 0 else f"B{i}" for i in range(30)], r"15 rows share one Patient ID \(line 2 \(P0\); line 4 \(P2\)"),
        ([f"{i}" if i != 3 else "" for i in range(30)], r"1 rows state no Patient ID \(line 5 \(P3\)\): whether"),
    ],
)
def test_patient_ids_that_tell_nothing_are_a_warning(ids: list[str], message: str) -> None:
    identities = [Identity(f"study{i}", patient, f"images{i}") for i, patient in enumerate(ids)]
    (warning,) = check_identities(Path("c.csv"), _cohort([0, 1] * 15), identities)  # sites A and B in turn
    assert re.match(message, warning)
    told = leakage(Plan(), with_networks=False, patients_told=False)
    assert "its Patient IDs do not tell" in told[0]
    assert "no Patient ID under two names" in leakage(Plan(), with_networks=False, patients_told=True)[0]


def test_patient_id_of_another_issuer_is_another_patient(tmp_path: Path) -> None:
    write_study(tmp_path / "s", "X", contrast=60, seed=1, synthetic=True)
    spec = SPECS["lnm_hybrid"]
    plain = identify(read_case(sorted((tmp_path / "s").glob("*.dcm")), spec), spec.required)
    for path in (tmp_path / "s").glob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.IssuerOfPatientID = "North"
        ds.save_as(path)
    issued = identify(read_case(sorted((tmp_path / "s").glob("*.dcm")), spec), spec.required)
    assert (plain.study, plain.images) == (issued.study, issued.images)
    assert plain.patient != issued.patient


def test_class_that_training_would_not_see_is_named() -> None:
    spec = SPECS["histotype_mri"]
    rows = _cohort([4, 6] * 40 + [7] * 12, tests=12)
    every = "; ".join(f"line {line} \\(P{line - 2}\\)" for line in range(82, 91))
    with pytest.raises(CohortError, match=rf"all rows of a class are marked test, .*: label 7: {every} and 3 more"):
        divide(Path("c.csv"), rows, spec.recipe, Plan(), seed=1)
    with pytest.raises(CohortError, match=r"all rows of a class are marked test, .*: label 1: line 42 \(P40\)"):
        divide(Path("c.csv"), _cohort([0] * 40 + [1] * 20, tests=20), SPECS["lnm_hybrid"].recipe, Plan(), seed=1)


def test_class_that_is_not_there_or_outside_the_rules_is_a_warning(tmp_path: Path) -> None:
    spec, said = SPECS["histotype_mri"], list[str]()
    rows = _cohort([4, 6] * 40 + [7] * 2)
    rows = [replace(row, clinical=_known("figo_stage", "IVA")) if row.label == 7 else row for row in rows]

    def extract(some: Sequence[CohortRow]) -> list[ExtractedFile]:
        return [_extracted(tmp_path / f"{row.patient}.npz", node_mm=None) for row in some]

    patients = gather(Path("c.csv"), rows, spec, Plan(), seed=1, extract=extract, progress=said.append)
    lost, never = patients.check()
    assert lost == "All rows of class 7 break a rule of inclusion (line 82 (P80); line 83 (P81)): the bundle will never call it."
    assert re.match(r"The table has no row of class 0 \(.*\), 1 \(.*\), 2 .*, 3 .*, 5 \(.*\): the bundle will never call it", never)


def _seconds(rows: list[CohortRow], n: int) -> list[CohortRow]:
    return [replace(row, second_roi=Path("r.dcm")) if i < n else row for i, row in enumerate(rows)]


def test_too_few_second_regions_are_refused_before_anything_is_computed() -> None:
    def extract(some: Sequence[CohortRow]) -> list[ExtractedFile]:
        raise AssertionError("nothing is extracted")

    rows = _seconds(_cohort([0, 1] * 50), 14)
    words = r"14 of the 100 patients .* have a second region \(roi2\), 15 or more are needed, or none; .*: line 2 \(P0\); .* and 5 more"
    with pytest.raises(CohortError, match=words):
        gather(Path("c.csv"), rows, SPECS["lvsi_mri"], Plan(embedding="crossfit"), seed=1, extract=extract, progress=list[str]().append)


def test_second_regions_that_the_recipe_does_not_ask_for_are_a_warning(tmp_path: Path) -> None:
    rows, every = _seconds(_cohort([0, 1] * 10), 3), np.arange(20)
    files = [_extracted(tmp_path / f"{i}.npz", node_mm=5.0 + i) for i in range(20)]
    patients = Patients(Path("c.csv"), SPECS["lnm_hybrid"], rows, files, Division(every, every, False))
    assert patients.check() == ("Second regions (roi2) have no use: the recipe of lnm_hybrid does not ask which features are repeatable.",)


def _extracted(path: Path, *, node_mm: float | None = 7.0) -> ExtractedFile:
    """Write what extraction keeps of a patient of ``lnm_hybrid``, but for images."""
    identity = np.array([f"{what} of {path.stem}" for what in ("study", "patient", "images")])
    value = f'{{"name": "node_short_axis_mm", "value": {node_mm}, "words": "", "source": ""}}'
    np.savez(
        path, names=np.array([], dtype="U1"), values=np.array([]), clinical=np.array(f"[{value if node_mm else ''}]"), identity=identity
    )
    return ExtractedFile(path)


def test_clinical_values_that_the_recipe_needs_are_asked_for(tmp_path: Path) -> None:
    rows = _cohort([0, 1, 0, 1])
    division = Division(np.arange(4), np.arange(4), False)
    some = [_extracted(tmp_path / f"{i}.npz", node_mm=None if i in (1, 3) else 7.0 + i) for i in range(4)]
    patients = Patients(Path("c.csv"), SPECS["lnm_hybrid"], rows, some, division)
    with pytest.raises(CohortError, match=r"node_short_axis_mm is not known, .*: line 3 \(P1\); line 5 \(P3\)"):
        patients.check()
    same = [_extracted(tmp_path / f"same{i}.npz", node_mm=5.0 + i) for i in range(4)]
    with pytest.raises(CohortError, match=r"Lymph node positive on MRI .* is the same in all rows"):
        replace(patients, files=same).check()
    both = [_extracted(tmp_path / f"both{i}.npz", node_mm=9.0 + i) for i in range(4)]
    told = replace(patients, files=both)
    told.check()
    assert told.table.take(["CLINICAL:value:node_positive"])[:, 0].tolist() == [0.0, 1.0, 1.0, 1.0]


def _known(name: str, words: str) -> dict[str, ClinicalValue]:
    return clinical.parse_all({name: words}, source="cohort table")


def _outside(rows: list[CohortRow], named: Mapping[int, str]) -> list[CohortRow]:
    return [replace(row, clinical=_known("figo_stage", named[i])) if i in named else row for i, row in enumerate(rows)]


def test_patients_whom_the_system_was_not_made_for_are_left_out_and_named(tmp_path: Path) -> None:
    spec, said, extracted = SPECS["olnm_mri"], list[str](), list[str]()
    rows = _outside(_cohort([i % 2 for i in range(100)], tests=4), {3: "IIIB", 8: "IB2", 98: "IIIB"})  # 98 is for evaluation

    def extract(some: Sequence[CohortRow]) -> list[ExtractedFile]:
        extracted.extend(row.patient for row in some)
        files = [ExtractedFile(tmp_path / f"{row.patient}.npz") for row in some]
        for row, file in zip(some, files, strict=True):
            told = {"P20": '{"name": "neoadjuvant_therapy", "value": 1.0, "words": "yes", "source": "report"}'}.get(row.patient, "")
            kept = {"clinical": np.array(f"[{told}]"), "second": np.array([]), "names": np.array([], dtype="U1")}
            np.savez(file.path, **kept, scanner=np.array("x"), acquisition=np.array('{"T1W": {"EchoTime": 9.5}}'))
        return files

    patients = gather(Path("c.csv"), rows, spec, Plan(), seed=1, extract=extract, progress=said.append)
    assert "P3" not in extracted
    assert len(patients.rows) == len(patients.files) == 98
    used = {patients.rows[i].patient for i in (*patients.division.networks, *patients.division.judged)}
    assert used == {f"P{i}" for i in range(96)} - {"P3", "P20"}
    stage, untreated = "FIGO stage IB to IIB", "no neoadjuvant therapy before the images"
    made_for = "left out, as the system was made for patients with"
    assert said == [f"{made_for} {stage}: line 5 (P3)", f"{made_for} {untreated}: line 22 (P20)"]
    flow = patients.flow()
    assert flow.excluded == {stage: (5,), untreated: (22,)}
    assert (flow.rows, flow.row_events) == (100, 50)
    assert flow.acquisition == {"T1W": {"EchoTime": (9.5, 9.5)}}


def test_too_few_patients_within_the_rules_are_an_error() -> None:
    rows = _outside(_cohort([0, 1] * 30), dict.fromkeys(range(50), "IVA"))

    def extract(some: Sequence[CohortRow]) -> list[ExtractedFile]:
        raise AssertionError("nothing is extracted of a cohort that is too small")

    words = r"without 50 rows that the system was not made for \(line 2 \(P0\): FIGO stage IB to IIB\): 5 positive and 5 negative rows"
    with pytest.raises(CohortError, match=words):
        gather(Path("c.csv"), rows, SPECS["olnm_mri"], Plan(), seed=1, extract=extract, progress=list[str]().append)


@pytest.mark.parametrize("system", sorted(SPECS))
def test_phantoms_are_patients_whom_their_system_was_made_for(system: str) -> None:
    patients = draw_patients(system, n=300, auc=0.9, seed=5)
    stated = [{name: str(value) for name, value in patient.clinical.items() if str(value).strip()} for patient in patients]
    known = [clinical.parse_all(values, source="cohort table") for values in stated]
    assert [broken_rules(SPECS[system], values) for values in known] == [()] * 300


def test_feature_that_is_not_finite_is_named() -> None:
    with pytest.raises(CohortError, match=r"not finite: line 3 \(P3\): y"):
        Table.of(["line 2 (P2)", "line 3 (P3)"], [{"x": 1.0, "y": 2.0}, {"x": 1.0, "y": float("nan")}])
    with pytest.raises(CohortError, match=r"other features than the first row: line 3"):
        Table.of(["line 2 (P2)", "line 3 (P3)"], [{"x": 1.0, "y": 2.0}, {"x": 1.0}])
