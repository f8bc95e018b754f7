"""Cohort tables: what is read, and that everything that is wrong is found at once and named by its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

from pipelines.decide import broken_rules
from pipelines.errors import CohortError
from pipelines.features import clinical
from pipelines.phantoms.cohort import draw_patients
from pipelines.systems import catalogue
from pipelines.training.cohort import CohortRow, read_cohort
from pipelines.training.extract import ExtractedFile
from pipelines.training.patients import Division, Patients, divide, gather
from pipelines.training.plan import Plan
from pipelines.training.table import Table
from pipelines.types import ClinicalValue
from tests.train.cohorts import write_table

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
        ({i: {"label": 1} for i in range(30)}, r"label is the same in all 30 rows"),
        ({i: {"label": int(i < 9)} for i in range(30)}, r"9 positive and 21 negative rows are too few"),
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
    with pytest.raises(CohortError, match="3 rows of class 6 are too few"):
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
        ("lvsi_mri", [0, 1] * 18, 0, Plan(embedding="crossfit"), "18 with the label 0, 18 with the label 1 are too few for this recipe"),
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


def test_study_in_two_rows_is_found_by_its_content() -> None:
    rows = _cohort([0, 1, 0, 1])
    files = [ExtractedFile(Path(f"{name}.npz")) for name in ("a", "b", "a", "c")]
    patients = Patients(Path("c.csv"), SPECS["lnm_hybrid"], rows, files, Division(np.arange(4), np.arange(4), False))
    with pytest.raises(CohortError, match=r"rows with the same study: line 2 \(P0\); line 4 \(P2\)"):
        patients.check()


def _extracted(path: Path, *, node_mm: float | None = 7.0) -> ExtractedFile:
    """Write what extraction keeps of a patient of ``lnm_hybrid``, but for images."""
    value = f'{{"name": "node_short_axis_mm", "value": {node_mm}, "words": "", "source": ""}}'
    np.savez(path, names=np.array([], dtype="U1"), values=np.array([]), clinical=np.array(f"[{value if node_mm else ''}]"))
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
            np.savez(file.path, clinical=np.array(f"[{told}]"), second=np.array([]), names=np.array([], dtype="U1"), scanner=np.array("x"))
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
