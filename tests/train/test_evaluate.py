"""A bundle judged on a small phantom cohort: through the serving code, resumable, and with nothing left out."""

from __future__ import annotations

import csv
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from node.cli import main
from pipelines import engine
from pipelines.errors import BundleError, CohortError
from pipelines.models.bundle import load_bundle, sign_bundle
from pipelines.models.signature import make_key, read_key
from pipelines.phantoms.cohort import write_cohort
from pipelines.systems.histotype_mri import SPEC as TYPING
from pipelines.systems.olnm_mri import SPEC
from pipelines.training.breakdown import columns
from pipelines.training.cohort import read_cohort
from pipelines.training.discrimination import delong
from pipelines.training.evaluate import FILE_NAME, evaluate
from pipelines.training.evaluation import Evaluation, read_evaluation
from pipelines.training.evaluation_table import describe
from pipelines.training.extract import read_case, study_files
from pipelines.training.tally import FILE_NAME as TALLY
from tests.bundles import write_bundle

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(3600)]

_ROOT = Path(__file__).parents[2]
_BUNDLE = _ROOT / "onnx_models" / "olnm_mri" / "demo-1"
_N = 20
_DATE = datetime.date(2026, 11, 21)
_WAIT_S = 1200.0  # on a busy machine


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty phantoms, every second one called positive: the numbers are chance, which is all that is needed here."""
    path = write_cohort(tmp_path_factory.mktemp("cohort"), "olnm_mri", n=_N, auc=0.9, seed=7, workers=2)
    _rewrite(path, [row | {"label": str(i % 2)} for i, row in enumerate(_rows(path))])
    return path


@pytest.fixture(scope="module")
def killed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, int]:
    """A run that was killed after some patients: their files and when they were written (ns)."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "node.cli", "evaluate", str(_BUNDLE), str(cohort), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, cwd=_ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _WAIT_S
        while len(files := list(out.glob("patients/*.json"))) < 3:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no patient was judged in time"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / FILE_NAME).exists()
    assert not (cohort.parent / TALLY).exists()
    return {file: file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def out(killed: dict[Path, int]) -> Path:
    return next(iter(killed)).parents[1]


@pytest.fixture(scope="module")
def evaluation(cohort: Path, out: Path) -> Evaluation:
    return evaluate(_BUNDLE, cohort, out=out, date=_DATE, resamples=200)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _rewrite(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_killed_run_goes_on_where_it_was(killed: dict[Path, int], out: Path, evaluation: Evaluation) -> None:
    assert {file: file.stat().st_mtime_ns for file in killed} == killed
    assert len(list(out.glob("patients/*"))) == _N == evaluation.flow.evaluated


def test_patients_are_judged_as_the_node_judges_them(cohort: Path, evaluation: Evaluation) -> None:
    bundle, row = load_bundle(_BUNDLE, SPEC), read_cohort(cohort)[4]
    prediction, evidence = engine.run(SPEC, bundle, read_case(study_files(row), SPEC))
    found = evaluation.patients[4]
    assert (found.line, found.patient, found.label, found.site) == (row.line, row.patient, row.label, row.site)
    assert found.probability == pytest.approx(prediction.probability, abs=1e-6)
    assert (found.call, found.threshold) == (prediction.call, prediction.threshold)
    assert list(found.measurements.values()) == pytest.approx([m.value for m in evidence.measurements])
    assert found.roi_origin == "SEG"


def test_evaluation_says_what_it_is_about_and_counts_everyone(evaluation: Evaluation) -> None:
    assert evaluation.statement == "Synthetic phantoms; says nothing about patients."
    assert evaluation.synthetic
    assert (evaluation.n, evaluation.events, evaluation.sites) == (_N, _N // 2, ("A", "B"))
    flow, half = evaluation.flow, {0: _N // 2, 1: _N // 2}
    assert (flow.rows, flow.row_labels, flow.evaluated, flow.labels, flow.refused) == (_N, half, _N, half, ())
    assert any("below 100" in w for w in evaluation.warnings)
    assert evaluation.bundle_digest == load_bundle(_BUNDLE, SPEC).digest
    p, y = columns(evaluation.patients)
    (finding,) = evaluation.findings
    assert finding.auc == delong(p, y)
    assert (evaluation.auc.value, evaluation.auc.interval) == (finding.auc.value, finding.auc.interval)
    point = finding.operating_point
    assert point is not None
    assert point.tp + point.fn == point.tn + point.fp == _N // 2
    assert evaluation.bundle.threshold is not None
    assert point.tp == int(((p >= evaluation.bundle.threshold) & (y == 1)).sum())
    assert finding.baselines[0].name.startswith("Volume")
    assert all(b.p_holm is None or b.p_holm >= (b.comparison.p or 0) for b in finding.baselines)
    for variable in ("site", "manufacturer", "model", "field strength"):
        assert sum(g.n for g in finding.groups if g.variable == variable) == _N


def test_json_gives_back_the_same_evaluation(out: Path, evaluation: Evaluation) -> None:
    text = (out / FILE_NAME).read_text()
    assert "NaN" not in text
    assert json.loads(text)["format_version"] == 2
    assert read_evaluation(out / FILE_NAME) == evaluation
    (out / "other.json").write_text(text.replace('"format_version": 2', '"format_version": 1'))
    with pytest.raises(CohortError, match="is no evaluation: format_version"):
        read_evaluation(out / "other.json")


def test_table_shows_statement_flow_and_numbers(evaluation: Evaluation) -> None:
    text = "\n".join(describe(evaluation))
    for words in (evaluation.statement, f"{evaluation.auc.value:.3f}", "bootstrap", "sensitivity", "slope", "net benefit", "SIEMENS"):
        assert words in text


def test_every_look_at_the_cohort_counts(cohort: Path, out: Path, evaluation: Evaluation) -> None:
    before = len(evaluation.tally.looks)
    again = evaluate(_BUNDLE, cohort, out=out, date=_DATE, resamples=50)
    assert [len(again.tally.looks), again.tally.of_this_bundle, again.tally.bundles] == [before + 1, before + 1, 1]
    assert again.auc == evaluation.auc
    assert again.cohort_digest == evaluation.cohort_digest
    assert any(f"look {before + 1} at this cohort" in w for w in again.warnings)
    other = json.loads((cohort.parent / TALLY).read_text().splitlines()[0]) | {"bundle_digest": "0" * 64}
    with (cohort.parent / TALLY).open("a") as file:
        file.write(json.dumps(other) + "\n")
    third = evaluate(_BUNDLE, cohort, out=out, date=_DATE, resamples=50)
    assert third.tally.bundles == 2
    assert any("the best of several looks better than it is" in w for w in third.warnings)


def test_refused_patients_are_named_and_counted(cohort: Path, out: Path, evaluation: Evaluation) -> None:
    rows, folder = _rows(cohort), cohort.parent
    (folder / "empty").mkdir()
    copy = shutil.copytree(folder / rows[0]["study"], folder / "no_roi")  # without a region: the segmenter draws one
    (copy / Path(rows[0]["roi"]).relative_to(rows[0]["study"])).unlink()
    rows[0] |= {"patient": "DRAWN", "study": "no_roi", "roi": ""}
    rows.append({"patient": "EMPTY", "study": "empty", "roi": "", "label": "1", "site": "C"})
    found = evaluate(_BUNDLE, _rewrite(folder / "with_refusals.csv", rows), out=out, date=_DATE, resamples=50)
    flow = found.flow
    (refused,) = flow.refused
    assert (refused.patient, refused.line, refused.label, refused.site) == ("EMPTY", _N + 2, 1, "C")
    assert refused.reason
    half = _N // 2
    assert (flow.rows, flow.row_labels, flow.evaluated) == (_N + 1, {0: half, 1: half + 1}, _N)
    assert (flow.refused_labels, flow.labels) == ({1: 1}, {0: half, 1: half})
    assert flow.roi_origins == {"MODEL": 1, "SEG": _N - 1}
    assert found.warnings[0] == f"1 of {_N + 1} patients were refused, 1 with the finding: no number counts them."
    assert found.cohort_digest != evaluation.cohort_digest
    assert len(found.tally.looks) == 1


def test_study_or_patient_in_two_rows_stops_the_evaluation(cohort: Path, out: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    rows = [row | {"study": str(cohort.parent / row["study"]), "roi": str(cohort.parent / row["roi"])} for row in _rows(cohort)]
    renamed = shutil.copytree(rows[2]["study"], tmp_path / "renamed")
    for i, path in enumerate(sorted(renamed.rglob("*.dcm"), reverse=True)):
        path.rename(path.with_name(f"{i:03d}.dcm"))
    table = _rewrite(tmp_path / "cohort.csv", [*rows, rows[2] | {"patient": "COPY", "study": str(renamed), "roi": ""}])
    with pytest.raises(CohortError, match=rf"rows with the same study: line 4 \(.*\) and line {_N + 2} \(COPY\)"):
        evaluate(_BUNDLE, table, out=out, date=_DATE, resamples=50)
    for path in renamed.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID = ds.StudyInstanceUID + ".1"
        if "PixelData" in ds and ds.Modality == "MR":  # another day's images
            ds.PixelData = np.maximum(np.frombuffer(ds.PixelData, dtype="<u2"), 1).astype("<u2").tobytes()
        ds.save_as(path)
    with pytest.raises(CohortError, match=rf"the same Patient ID under different names .*: line 4 \(.*\) and line {_N + 2} \(COPY\)"):
        evaluate(_BUNDLE, table, out=out, date=_DATE, resamples=50)
    assert not (tmp_path / TALLY).exists()


def test_training_split_is_left_out_and_counted(cohort: Path, out: Path, evaluation: Evaluation) -> None:
    rows = [row | {"split": "train" if i < 4 else "test"} for i, row in enumerate(_rows(cohort))]
    found = evaluate(_BUNDLE, _rewrite(cohort.parent / "split.csv", rows), out=out, date=_DATE, resamples=50)
    assert (found.flow.rows, found.flow.training_rows, found.n, found.events) == (_N, 4, _N - 4, _N // 2 - 2)
    assert [x.line for x in found.patients] == list(range(6, _N + 2))
    assert found.warnings[0].startswith("4 rows of the table belong to the training split")


def test_cohort_of_which_one_class_is_refused_gives_an_error(cohort: Path, out: Path, evaluation: Evaluation) -> None:
    rows, folder = _rows(cohort), cohort.parent
    for row in rows:
        if row["label"] == "1":
            row["study"], row["roi"] = f"nothing_{row['patient']}", ""
            (folder / row["study"]).mkdir()
    table = _rewrite(folder / "one_class.csv", rows)
    with pytest.raises(CohortError, match=rf"0 positive and {_N // 2} negative patients could be judged.*10 were refused, first line 3"):
        evaluate(_BUNDLE, table, out=out, date=_DATE)


def test_bundle_that_cannot_be_evaluated_is_named(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        evaluate(tmp_path, cohort, out=tmp_path / "out", date=_DATE)
    manifest = json.loads((_BUNDLE / "manifest.json").read_text()) | {"system": "unknown"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="bundle of unknown, which is no system here"):
        evaluate(tmp_path, cohort, out=tmp_path / "out", date=_DATE)


def test_bundle_is_opened_with_the_keys_that_the_node_trusts(cohort: Path, out: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    key = tmp_path / "site.key"
    public = make_key(key)
    with pytest.raises(BundleError, match="not signed"):
        evaluate(_BUNDLE, cohort, out=out, date=_DATE, trusted_keys=(public,))
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nstorage_root = "{tmp_path}"\ntrusted_keys = ["{public}"]\n')
    arguments = ["evaluate", str(_BUNDLE), str(cohort), "--out", str(out), "--config", str(config)]
    assert main(arguments) == 1
    signed = shutil.copytree(_BUNDLE, tmp_path / "signed")
    sign_bundle(signed, read_key(key))
    found = evaluate(signed, cohort, out=out, date=_DATE, trusted_keys=(public,), resamples=50)
    assert found.auc == evaluation.auc


def test_bundle_of_several_classes_is_judged_on_phantoms_of_each(tmp_path: Path) -> None:
    path = write_cohort(tmp_path / "cohort", "histotype_mri", n=9, auc=0.9, seed=7, workers=2)
    _rewrite(path, [row | {"label": str((4, 6, 7, 6, 4, 7, 6, 4, 1)[i])} for i, row in enumerate(_rows(path))])
    bundle = write_bundle(tmp_path / "models", TYPING, classes=(4, 6, 7))
    found = evaluate(bundle, path, out=tmp_path / "out", date=_DATE, resamples=50)
    assert read_evaluation(tmp_path / "out" / FILE_NAME) == found
    assert (found.n, found.events, found.flow.labels) == (9, None, {4: 3, 6: 3, 7: 2, 1: 1})
    spec, row = TYPING, read_cohort(path, classes=range(8), each=1)[2]
    prediction, _ = engine.run(spec, load_bundle(bundle, spec), read_case(study_files(row), spec))
    patient = found.patients[2]
    assert (patient.call, patient.threshold) == ("class", None)
    assert max(patient.classes.values()) == patient.probability == pytest.approx(prediction.probability, abs=1e-6)
    assert sorted(patient.classes) == [4, 6, 7]
    assert sum(patient.classes.values()) == pytest.approx(1)
    assert found.several is not None
    assert sum(map(sum, found.several.confusion)) == 9
    assert found.several.classes == (1, 4, 6, 7)
    assert any(re.search(r"cannot call 1 of class 1 \(line 10 \(.*\)\): .* count as wrong", w) for w in found.warnings)
    assert found.tally.looks[-1].auc == found.auc.value == found.several.mean_auc.value
    _rewrite(path, [row | {"label": "6" if i else "4"} for i, row in enumerate(_rows(path))])
    with pytest.raises(CohortError, match="1 of class 4, 8 of class 6 could be judged, at least 2 of two classes that the bundle knows"):
        evaluate(bundle, path, out=tmp_path / "out", date=_DATE)


def test_looks_that_cannot_be_counted_stop_the_evaluation(cohort: Path, out: Path, tmp_path: Path) -> None:
    rows = [row | {"study": str(cohort.parent / row["study"]), "roi": ""} for row in _rows(cohort)]
    table = _rewrite(tmp_path / "cohort.csv", rows)
    (tmp_path / TALLY).write_text("damaged\n")
    with pytest.raises(CohortError, match="nobody knows how often"):
        evaluate(_BUNDLE, table, out=out, date=_DATE)
