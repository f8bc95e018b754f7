"""Training end to end on a small cohort: a bundle that serves what was trained, the same one each time, however often it was stopped."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("lightgbm", reason="training needs the [train] extra")

import torch

from node.cli import main
from pipelines import engine
from pipelines.decide import SCORE
from pipelines.errors import BundleError, CohortError
from pipelines.features import clinical
from pipelines.models.bundle import load_bundle
from pipelines.models.verify import find_problems
from pipelines.recipe import MannWhitney, Recipe
from pipelines.systems import catalogue
from pipelines.training.agreement import icc
from pipelines.training.answers import Answers
from pipelines.training.cohort import read_cohort
from pipelines.training.embed import CrossFitted, Networks, statuses
from pipelines.training.evaluate import evaluate
from pipelines.training.evaluation import read_evaluation
from pipelines.training.extract import ExtractedFile, extract_cohort, read_case, study_files
from pipelines.training.fit import Schedule
from pipelines.training.lie_detector import detect, deviation_by_chance
from pipelines.training.nested import Judge, Static, mean_area
from pipelines.training.networks import Architecture, build
from pipelines.training.outcome import read_outcome
from pipelines.training.patients import Patients, divide
from pipelines.training.plan import Plan, Run
from pipelines.training.recipe import fit
from pipelines.training.select import Labels
from pipelines.training.table import Rows, Table
from pipelines.training.train import Trained, train
from pipelines.types import BundleStatus, RoiOrigin
from tests.train.cohorts import OWN, SYSTEM, TINY, write_cohort, write_system, write_table

pytestmark = [pytest.mark.train, pytest.mark.slow, pytest.mark.timeout(1800)]

SPECS = catalogue()
SPEC = SPECS[SYSTEM]
DATE, SEED = datetime.date(2026, 11, 21), 3
NODE = "CLINICAL:value:node_positive"


def _train(cohort: Path, out: Path, plan: Plan = TINY, **more: object) -> Trained:
    return train(SYSTEM, cohort, out=out, date=DATE, seed=SEED, plan=plan, **more)  # type: ignore[arg-type]


def _silent(line: str) -> None:
    """Report nothing."""


def _without_cache(cohort: Path, to: Path) -> Path:
    shutil.copytree(cohort.parent, to, ignore=shutil.ignore_patterns("features"))
    return to / cohort.name


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 phantoms and one held out."""
    return write_cohort(tmp_path_factory.mktemp("phantoms") / "cohort")


@pytest.fixture(scope="module")
def site_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of patients: nothing in them says that they are synthetic."""
    return write_cohort(tmp_path_factory.mktemp("patients") / "cohort", synthetic=False)


@pytest.fixture(scope="module")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The bundle of the phantoms, with the lie detector."""
    return _train(cohort, tmp_path_factory.mktemp("bundles") / "t-1", known={"bayes_auc": 0.9})


def test_bundle_is_fit_for_use_and_says_what_it_is(trained: Trained) -> None:
    assert find_problems(trained.bundle, SPECS) == []
    manifest = load_bundle(trained.bundle, SPEC).manifest
    assert manifest.status is BundleStatus.DEMO
    assert manifest.training.data == "synthetic"
    assert manifest.training.metrics["bayes_auc"] == 0.9
    assert manifest.training.metrics["nested_auc"] == pytest.approx(trained.outcome.nested_auc, abs=1e-4)
    assert manifest.training.n == 48 - round(0.3 * 48)
    assert sorted(p.what.split(" ")[0] for p in manifest.parity) == sorted(n for n in manifest.files if n.endswith(".onnx"))
    assert manifest.version == "t-1"
    training, alone = manifest.training, manifest.imaging_only
    assert (training.date, sum(training.scanners.values())) == (DATE, 48)
    assert training.nested_auc_interval is not None
    assert training.nested_auc_interval[0] < training.metrics["nested_auc"] < training.nested_auc_interval[1]
    assert len(training.candidate_features_sha256 or "") == 64
    assert {"clinical_only_auc", "clinical_only_sensitivity", "clinical_only_specificity", "imaging_only_auc"} < training.metrics.keys()
    assert alone is not None
    for rule in (manifest.decision.conformal, alone.conformal):
        assert rule is not None
        assert rule.n == training.n
        assert len(rule.covered_each) == 2
    card = (trained.bundle / "MODEL_CARD.md").read_text()
    assert "not clinical performance" in card
    assert "Platt scaling; threshold" in card
    assert "imaging-only decision: the set held the truth for" in card
    assert sorted(p.name for p in trained.bundle.parent.iterdir()) == ["t-1", "t-1-report"]


def test_outcome_is_written_whole_and_holds_the_held_out_patient_nowhere(trained: Trained) -> None:
    outcome = read_outcome(trained.report / "training.json")
    assert outcome == trained.outcome
    assert outcome.bundle_digest == load_bundle(trained.bundle, SPEC).digest
    assert (outcome.flow.rows, outcome.flow.network_rows, outcome.flow.judged) == (49, 14, 34)
    assert "P048" not in {one.patient for one in outcome.patients}
    assert {rival.name for rival in outcome.rivals} == {"size", "clinical", "imaging"}


def test_joint_bundle_serves_what_training_computes_for_the_same_patient(trained: Trained, cohort: Path, tmp_path: Path) -> None:
    rows = read_cohort(cohort)
    files = extract_cohort(rows, SPEC, grid=TINY.grid, cache=cohort.parent / "features", workers=1, progress=_silent)
    patients = Patients(cohort, SPEC, rows, files, divide(cohort, rows, SPEC.recipe, TINY, seed=SEED))
    run = Run(SPEC, TINY, SEED, tmp_path, cohort.parent / "features", _silent)
    assert SPEC.cnn is not None
    networks = Networks(run, SPEC.cnn, files, statuses(files, SPEC.cnn))
    nets = {role: networks.train(role, patients.division.networks, patients.all_labels) for role in SPEC.cnn.roles}
    table = patients.table.join(networks.embed(nets, patients.division.judged))
    system = fit(SPEC.recipe, table, patients.labels, seed=SEED)
    held_out = len(rows) - 1
    stated = clinical.features(files[held_out].clinical)
    told = Table((NODE,), np.array([[stated[NODE]]]))
    expected = system.predict(networks.embed(nets, np.array([held_out])).join(told))[0]

    bundle = load_bundle(trained.bundle, SPEC)
    case = read_case(study_files(rows[held_out]), SPEC)
    prediction, evidence = engine.run(SPEC, bundle, replace(case, clinical=rows[held_out].clinical))
    assert prediction.probability == pytest.approx(expected, abs=1e-5)
    assert evidence.roi.origin is RoiOrigin.SEG
    assert prediction.probability == prediction.outcomes[int(stated[NODE])].probability
    manifest = bundle.manifest
    assert manifest.score is None
    assert [f.name for f in manifest.decision.features] == ["CE_T1W:cnn:h"]
    assert manifest.imaging_only is not None
    assert [f.name for f in manifest.imaging_only.features] == ["CE_T1W:cnn:dl"]
    alone, _ = engine.run(SPEC, bundle, case)
    assert "imaging alone" in alone.flags[0]
    assert [o.probability for o in alone.outcomes] == [o.probability for o in prediction.outcomes]
    assert alone.outcomes[2].probability == alone.probability


def test_version_is_never_overwritten_and_has_a_name(trained: Trained, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="t-1 exists already; a version is never overwritten"):
        _train(cohort, trained.bundle)
    (tmp_path / "t-2-report").mkdir()
    with pytest.raises(BundleError, match="t-2-report exists already"):
        _train(cohort, tmp_path / "t-2")
    with pytest.raises(BundleError, match="'my bundle' is no name for a version"):
        _train(cohort, tmp_path / "my bundle")
    with pytest.raises(CohortError, match="no training recipe for 'unknown', only for histotype_mri"):
        train("unknown", cohort, out=tmp_path / "t-3", date=DATE)


def test_frozen_weights_cannot_answer_for_a_system_that_asks_the_network(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="lnm_hybrid takes its network's own answer"):
        _train(cohort, tmp_path / "t-1", replace(TINY, frozen=True, weights=tmp_path / "w.pth"))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_studies_are_named_together(cohort: Path, tmp_path: Path) -> None:
    broken = _without_cache(cohort, tmp_path / "cohort")
    for name in ("P001", "P004"):
        for path in (broken.parent / name).glob("*.dcm"):
            path.unlink()
    (broken.parent / "P001" / "seg.dcm").touch()
    (broken.parent / "P004" / "seg.dcm").touch()
    with pytest.raises(CohortError, match=r"studies that cannot be used: line 3 \(P001\): .*; line 6 \(P004\): "):
        _train(broken, tmp_path / "t-1")
    assert not (tmp_path / "t-1").exists()


_PROGRAM = """
import datetime, pathlib, sys, time
from tests.train.cohorts import SYSTEM, TINY
from pipelines.training.train import train
def say(line):
    print(line, flush=True)
    if sys.argv[3] in line:
        time.sleep(600)
if __name__ == "__main__":
    train(SYSTEM, pathlib.Path(sys.argv[1]), out=pathlib.Path(sys.argv[2]), date=datetime.date(2026, 11, 21), seed=3, plan=TINY,
          known={"bayes_auc": 0.9}, progress=say)
"""


def _train_until(line: str, cohort: Path, out: Path) -> list[str]:
    """Train in a process of its own and kill it, with its children, where it says ``line``; return what it said until then."""
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(cohort), str(out), line]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, start_new_session=True)
    said: list[str] = []
    assert process.stdout is not None
    try:
        for one in process.stdout:
            said.append(one.strip())
            if line in one:
                break
        assert process.poll() is None, said
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return said


def test_training_killed_at_any_point_goes_on_and_gives_the_same_bundle(trained: Trained, cohort: Path, tmp_path: Path) -> None:
    again, out = _without_cache(cohort, tmp_path / "cohort"), tmp_path / "bundles" / "t-1"
    said: list[str] = []
    moments = ("extraction: 20 of 49", "segmenter: epoch 1", "network on 14 patients: epoch 1", "final fit", "nested: 2 of 5")
    for moment in (*moments, "leave a site out: 1 of", "report written"):
        said = _train_until(moment, again, out)
        assert not out.exists()
        assert not out.with_name("t-1-report").exists()
        if moment == "nested: 2 of 5":
            assert not any("epoch" in line for line in said)  # what was trained before was found
            first = _answers(again)
            assert len(first) == 2
    assert not any("nested: 1 of 5" in line or "nested: 2 of 5" in line for line in said)
    kept = _answers(again)
    assert kept.items() > first.items()  # nothing of it was judged again
    lines: list[str] = []
    resumed = _train(again, out, known={"bayes_auc": 0.9}, progress=lines.append)
    assert not any("epoch" in line for line in lines)
    assert not any(re.search(r": \d+ of \d+ models$", line) for line in lines)
    assert _answers(again) == kept
    assert load_bundle(resumed.bundle, SPEC).digest == load_bundle(trained.bundle, SPEC).digest
    assert resumed.outcome == trained.outcome
    assert sorted(p.name for p in out.parent.iterdir()) == ["t-1", "t-1-report"]
    assert sorted(p.name for p in resumed.report.iterdir()) == ["report.html", "training.json"]


def _answers(cohort: Path) -> dict[str, int]:
    """Return the answers kept of a run, and when each was written (ns)."""
    return {path.name: path.stat().st_mtime_ns for path in (cohort.parent / "features" / "answers").iterdir()}


def test_answer_is_asked_anew_for_anything_that_changes_it(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    table = Table(("T2W:radiomics:a", "T2W:radiomics:b"), rng.standard_normal((40, 2)) + labels[:, None])
    judge = Judge(Recipe(), Static(table), labels, 0, answers=Answers(tmp_path))
    found, kept = judge.nested(repeats=1), sorted(tmp_path.iterdir())
    again = judge.nested(repeats=1)
    assert sorted(tmp_path.iterdir()) == kept
    assert len(kept) == 5
    assert (again.selected, again.families) == (found.selected, found.families)
    for one, other in zip((*again.said, again.folds), (*found.said, found.folds), strict=True):
        assert np.array_equal(one, other)
    higher = Table(table.names, table.values + np.array([0.0, 1e-9]))
    for n, changed in enumerate(
        (
            replace(judge, recipe=Recipe(steps=(MannWhitney(),))),
            replace(judge, seed=1),
            replace(judge, embedding=Static(higher)),
            replace(judge, second=table),
        ),
        start=2,
    ):
        changed.nested(repeats=1)
        assert len(list(tmp_path.iterdir())) == 5 * n
    judge.nested(repeats=1, families=("KNN",))
    judge.nested(repeats=1, labels=1 - labels)
    assert len(list(tmp_path.iterdir())) == 35


def test_half_written_files_of_a_killed_run_are_not_used(trained: Trained, cohort: Path, tmp_path: Path) -> None:
    again, out = _without_cache(cohort, tmp_path / "cohort"), tmp_path / "bundles" / "t-1"
    shutil.copytree(cohort.parent / "features", again.parent / "features")
    for record in (again.parent / "features" / "networks").glob("*.json"):
        record.unlink()  # killed while the graph was written
        graph = record.with_suffix(".onnx")
        graph.write_bytes(graph.read_bytes()[:100])
    kept = sorted((again.parent / "features").glob("*.npz"))[3]
    kept.with_suffix(".partial").write_bytes(kept.read_bytes()[:200])
    kept.unlink()
    left = out.with_name(".training-t-1")  # killed between the report's last step and the bundle's
    (left / "t-1").mkdir(parents=True)
    (left / "t-1" / "manifest.json").write_text("{")
    out.with_name("t-1-report").mkdir()
    resumed = _train(again, out, known={"bayes_auc": 0.9})
    assert load_bundle(resumed.bundle, SPEC).digest == load_bundle(trained.bundle, SPEC).digest
    assert not left.exists()


def test_late_fusion_from_given_weights_on_patients_of_a_site(site_cohort: Path, tmp_path: Path) -> None:
    assert SPEC.cnn is not None and TINY.architecture is not None
    torch.manual_seed(9)
    body = build(SPEC.cnn, TINY.architecture).body.state_dict()
    torch.save({"module." + name.removeprefix("net."): value for name, value in body.items()}, tmp_path / "given.pth")
    plan = replace(TINY, joint=False, weights=tmp_path / "given.pth")
    trained = _train(site_cohort, tmp_path / "site-1", plan)
    assert find_problems(trained.bundle, SPECS) == []
    bundle = load_bundle(trained.bundle, SPEC)
    manifest = bundle.manifest
    assert (manifest.status, manifest.training.data) == (BundleStatus.RESEARCH, "site")
    assert manifest.training.sites == ("A", "B")
    given = hashlib.sha256((tmp_path / "given.pth").read_bytes()).hexdigest()
    assert manifest.cnns[0].weights.startswith(f"trained from given.pth (sha256 {given}) on 14 patients")
    assert manifest.score is not None
    assert manifest.imaging_only == manifest.score
    assert [f.name for f in manifest.score.features] == ["CE_T1W:cnn:dl"]
    assert [f.name for f in manifest.decision.features] == [SCORE, NODE]
    assert manifest.decision.linear is not None

    row = read_cohort(site_cohort)[-1]
    case = read_case(study_files(row), SPEC)
    told, evidence = engine.run(SPEC, bundle, replace(case, clinical=row.clinical))
    untold, _ = engine.run(SPEC, bundle, case)
    state = int(clinical.features(row.clinical)[NODE])
    assert told.probability == told.outcomes[state].probability
    assert told.outcomes == untold.outcomes
    assert len(untold.outcomes) == 3
    assert untold.outcomes[2].probability == untold.probability
    assert "imaging alone" in untold.flags[0]
    assert [line.name for line in evidence.nomogram] == [SCORE, NODE]
    total = evidence.base_log_odds + sum(c.log_odds for c in evidence.contributions)
    assert 1 / (1 + np.exp(-total)) == pytest.approx(told.probability, abs=1e-9)


def test_evaluation_compares_with_what_the_bundle_says_without_clinical_values(trained: Trained, cohort: Path, tmp_path: Path) -> None:
    rows = read_cohort(cohort)[:33]
    table = [{"patient": r.patient, "study": r.study, "roi": r.roi, "label": r.label, "site": "C"} for r in rows]
    told = [row | {"node_short_axis_mm": r.clinical["node_short_axis_mm"].value} for row, r in zip(table, rows, strict=True)]
    external = write_table(tmp_path, told)
    found = evaluate(trained.bundle, external, out=tmp_path / "out", date=DATE, workers=1, resamples=50)
    bundle, patient = load_bundle(trained.bundle, SPEC), found.patients[3]
    alone, _ = engine.run(SPEC, bundle, read_case(study_files(rows[3]), SPEC))
    assert patient.alone == pytest.approx(alone.probability, abs=1e-9)
    assert patient.alone != patient.probability
    assert found.findings[0].baselines[-1].name == "Images, without clinical values"
    assert read_evaluation(tmp_path / "out" / "evaluation.json") == found


@pytest.fixture(scope="module")
def two_readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 phantoms, half of them with a second reader's region in the study folder."""
    return write_cohort(tmp_path_factory.mktemp("readers") / "cohort", readers=24)


def test_second_region_is_measured_in_place_of_the_first(two_readers: Path) -> None:
    systems = write_system(two_readers.parents[1] / "systems")
    spec, rows = catalogue(systems)[OWN], read_cohort(two_readers)
    grid, cache = TINY.grid, two_readers.parent / "features"
    files = extract_cohort(rows, spec, grid=grid, cache=cache, workers=1, progress=_silent)
    drawn = [replace(row, roi=row.second_roi, second_roi=row.roi) for row in rows[:4]]
    swapped = extract_cohort(drawn, spec, grid=grid, cache=cache, workers=1, progress=_silent)
    volume = "CE_T1W:radiomics:original_shape_VoxelVolume"
    for i, (file, other) in enumerate(zip(files[:4], swapped, strict=True)):
        assert (file.features, file.second) == (other.second, other.features)
        assert (file.second[volume] > file.features[volume]) == bool(i % 2)
    assert files[24].second == {}


def test_system_of_a_site_is_trained_with_two_readers_and_evaluated(two_readers: Path, tmp_path: Path) -> None:
    systems, lines = write_system(tmp_path / "systems"), list[str]()
    spec = catalogue(systems)[OWN]
    trained = train(OWN, two_readers, out=tmp_path / "own-1", date=DATE, seed=SEED, plan=TINY, systems_path=systems, progress=lines.append)
    assert find_problems(trained.bundle, catalogue(systems)) == []
    rows = read_cohort(two_readers)
    files = extract_cohort(rows, spec, grid=TINY.grid, cache=two_readers.parent / "features", workers=1, progress=_silent)
    patients = Patients(two_readers, spec, rows, files, divide(two_readers, rows, spec.recipe, TINY, seed=SEED))
    assert patients.second is not None
    both = np.isfinite(patients.second.values).all(axis=1)
    agreed = icc(np.stack([patients.table.values[both], patients.second.values[both]], axis=1))["ICC(2,1)"].value >= 0.75
    varies = np.ptp(patients.table.values, axis=0) > 0
    outcome = trained.outcome
    assert 15 <= outcome.flow.second_reader == int(both.sum()) < len(both)
    assert outcome.unrepeatable == int((varies & ~agreed).sum()) > 0
    names = dict(zip(patients.table.names, agreed.tolist(), strict=True))
    assert all(names[f.name] for f in load_bundle(trained.bundle, spec).manifest.decision.features)
    assert f"dropped {outcome.unrepeatable} features for want of agreement" in (trained.report / "report.html").read_text()

    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nstorage_root = "{tmp_path}"\nsystems_path = "{systems}"\n')
    arguments = ["evaluate", str(trained.bundle), str(two_readers), "--out", str(tmp_path / "evaluation")]
    assert main([*arguments, "--config", str(config)]) == 0
    assert read_evaluation(tmp_path / "evaluation" / "evaluation.json").bundle.system == OWN


def test_command_trains_what_the_configuration_adds(two_readers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_system(tmp_path / "systems")
    (tmp_path / "node.toml").write_text('[node]\nsystems_path = "systems"\n')
    arguments = ["train", OWN, str(tmp_path / "absent.csv"), "--out", str(tmp_path / "own-1")]
    assert main(arguments) == 1
    assert "no training recipe for 'own_t1'" in capsys.readouterr().err
    assert main([*arguments, "--config", str(tmp_path / "node.toml")]) == 1
    assert "absent.csv cannot be read" in capsys.readouterr().err


def test_patients_serve_both_networks_and_decision_when_cross_fitted(site_cohort: Path, tmp_path: Path) -> None:
    trained = _train(site_cohort, tmp_path / "site-2", replace(TINY, embedding="crossfit"))
    assert find_problems(trained.bundle, SPECS) == []
    manifest = load_bundle(trained.bundle, SPEC).manifest
    assert manifest.training.n == 48
    assert "on 48 patients of the cohort, cross-fitted" in manifest.cnns[0].weights
    assert any("trained anew" in line for line in trained.outcome.leakage)
    assert trained.outcome.flow.network_rows == 0


class Leaky(CrossFitted):
    """What cross-fitting is there to prevent: the networks are trained on everybody, those to be judged included."""

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        everybody = self._all(np.arange(len(labels)), labels)
        return self.table.rows(train).join(self.networks.embed(everybody, train)), self.table.rows(test).join(
            self.networks.embed(everybody, test)
        )


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ExtractedFile], Labels]:
    """Patients whose images tell nothing of their label."""
    cohort = write_cohort(tmp_path_factory.mktemp("noise") / "cohort", n=30, signal=0.0)
    rows = read_cohort(cohort)[:30]
    files = extract_cohort(rows, SPEC, grid=TINY.grid, cache=cohort.parent / "features", workers=1, progress=_silent)
    return files, np.array([row.label for row in rows])


@pytest.mark.parametrize("leaky", [False, True])
def test_networks_that_saw_everybody_find_a_signal_in_noise_and_are_caught(
    noise: tuple[list[ExtractedFile], Labels], leaky: bool, tmp_path: Path
) -> None:
    files, labels = noise
    memorising = replace(TINY, architecture=Architecture("resnet", (1, 1, 1, 1), (8, 16, 32, 64), pool=False), joint=False)
    memorising = replace(memorising, cnn=Schedule(epochs=30, batch=16, rate=2e-3, weight_decay=0.0))
    assert SPEC.cnn is not None
    run = Run(SPEC, memorising, SEED, tmp_path, tmp_path / "features", _silent)
    networks = Networks(run, SPEC.cnn, files, np.zeros(len(files)))
    nothing = Table((), np.empty((len(files), 0)))
    judge = Judge(replace(SPEC.recipe, nomogram=()), (Leaky if leaky else CrossFitted)(networks, nothing, 2), labels, SEED)
    found = mean_area(judge.nested(repeats=1), labels)
    if not leaky:
        assert abs(found - 0.5) < 0.25  # two standard errors at 10 cases and 20 controls
        return
    assert found > 0.65
    lie_detector = detect(judge.permuted(4), chance=deviation_by_chance(labels))
    assert lie_detector is not None
    assert not lie_detector.valid, lie_detector.words
