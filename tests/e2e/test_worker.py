"""The worker on the small study and on bad ones; and `cervinode predict`, which is the same without a network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from node.jobs import JobOrder, JobOutcome, ResultStatus
from node.planning import make_job, refer_to_bundle
from node.predict import predict
from node.storage.claims import Claims
from node.storage.files import StudyStore
from node.worker import Worker
from pipelines.errors import InputError, TransportError
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.spec import PipelineSpec
from pipelines.systems import catalogue
from pipelines.types import BundleStatus
from structured_reports.attributes import SR_SERIES
from tests import mr
from tests.bundles import write_bundle

pytestmark = pytest.mark.slow
SPEC = catalogue()["olnm_mri"]
Spoil = Callable[[list[Dataset]], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_bundle(root, SPEC)
    return root


class Bench:
    """A worker and its store."""

    def __init__(self, root: Path, models: Path) -> None:
        self.store, self.models = StudyStore(root), models
        self.store.prepare()
        self.claims = Claims(self.store.running, heartbeat_s=10)
        self.specs: dict[str, PipelineSpec] = {SPEC.name: SPEC}
        self.worker = Worker(store=self.store, claims=self.claims, models_root=models, specs=self.specs, max_attempts=2)

    def order(
        self, sequences: tuple[mr.Sequence, ...] = mr.OLNM_STUDY, *, spoil: Callable[[list[Dataset]], object] | None = None
    ) -> JobOrder:
        datasets = [ds for sequence in sequences for ds in mr.make_series(sequence)]
        if spoil:
            spoil(datasets)
        for ds in datasets:
            path = self.store.instance_path(ds.StudyInstanceUID, ds.SOPInstanceUID)
            path.parent.mkdir(exist_ok=True)
            ds.save_as(path, enforce_file_format=True)
        series = read_series(find_dicom_files(self.store.root / "studies"))
        bundle = refer_to_bundle(self.models, SPEC)
        job = make_job(series, SPEC, bundle=bundle, station="CERVINODE", created_at=datetime(2026, 1, 1, tzinfo=UTC))
        assert job is not None
        return job.order

    def run(self, order: JobOrder) -> JobOutcome:
        outcome = self.worker.execute(order)
        assert outcome is not None
        return outcome

    def objects(self, outcome: JobOutcome) -> list[Dataset]:
        return [pydicom.dcmread(self.store.result_folder(outcome.job_id) / item.path) for item in outcome.objects]


@pytest.fixture
def bench(tmp_path: Path, models: Path) -> Bench:
    return Bench(tmp_path, models)


def test_complete_study_gives_captures_segmentation_and_report(bench: Bench) -> None:
    outcome = bench.run(bench.order())
    assert outcome.status is ResultStatus.DONE and outcome.probability is not None and outcome.call in ("positive", "negative")
    modalities = [ds.Modality for ds in bench.objects(outcome)]
    assert (modalities[-2:] == ["SEG", "SR"] and set(modalities[:-2]) == {"OT"}) or "SR" in modalities
    assert list(outcome.timings_s) == ["read", "segment", "preprocess", "radiomics", "cnn", "classify", "explain", "report"]
    assert bench.claims.find(outcome.job_id) is None


def test_result_says_as_what_its_bundle_was_in_use_when_it_was_ordered(bench: Bench) -> None:
    order = bench.order()
    outcome = bench.run(order.model_copy(update={"bundle_status": BundleStatus.RESEARCH}))
    reports = [str(ds) for ds in bench.objects(outcome) if ds.Modality == "SR"]
    assert order.bundle_status is BundleStatus.DEMO and reports
    assert any("status=research" in report for report in reports) and not any("status=demo" in report for report in reports)


def test_second_execution_returns_the_first_result(bench: Bench) -> None:
    order = bench.order((mr.T2W,))
    first = bench.run(order)
    files = {p.name: p.stat().st_mtime_ns for p in bench.store.result_folder(order.job_id).iterdir()}
    assert bench.run(order) == first
    assert {p.name: p.stat().st_mtime_ns for p in bench.store.result_folder(order.job_id).iterdir()} == files


def test_same_order_gives_the_same_bytes(bench: Bench, tmp_path_factory: pytest.TempPathFactory, models: Path) -> None:
    other = Bench(tmp_path_factory.mktemp("other"), models)
    first, second = bench.run(bench.order((mr.T2W,))), other.run(other.order((mr.T2W,)))
    assert first.objects == second.objects


def test_job_in_the_hands_of_another_worker_is_left_alone(bench: Bench) -> None:
    order = bench.order((mr.T2W,))
    beat = bench.claims.take(order.job_id)
    assert beat is not None
    with beat:
        assert bench.worker.execute(order) is None
    assert bench.store.outcome(order.job_id) is None


def test_shared_segmentation_that_was_damaged_on_disk_is_not_sent_unseen(bench: Bench) -> None:
    order = bench.order()
    first = bench.run(order)
    (seg,) = (d for d in bench.objects(first) if d.Modality == "SEG")
    path = bench.store.root / "shared" / f"{seg.SOPInstanceUID}.dcm"
    path.write_bytes(path.read_bytes()[:-1000] + bytes(1000))
    again = bench.run(order.model_copy(update={"job_id": f"{order.job_id}-again", "version": 2}))
    assert (again.status, again.code) == (ResultStatus.FAILED, "RESULT")
    assert str(seg.SOPInstanceUID) in again.reasons[0]
    assert [d.Modality for d in bench.objects(again)] == ["OT", "SR"]


def _lose_a_slice(datasets: list[Dataset]) -> None:
    del datasets[5]


def _cut_pixels(datasets: list[Dataset]) -> None:
    datasets[3].PixelData = datasets[3].PixelData[:100]


@pytest.mark.parametrize(
    ("spoil", "code", "words"), [(_lose_a_slice, "BAD_GEOMETRY", "a slice is missing"), (_cut_pixels, "UNDECODABLE_PIXELS", "image 4")]
)
def test_bad_images_are_refused_by_name(bench: Bench, spoil: Spoil, code: str, words: str) -> None:
    outcome = bench.run(bench.order(spoil=spoil))
    assert (outcome.status, outcome.code) == (ResultStatus.REFUSED, code)
    assert words in outcome.reasons[0] and "t1_tse_tra" in outcome.reasons[0]
    assert [ds.Modality for ds in bench.objects(outcome)] == ["OT", "SR"]


def _hide_the_tumour(datasets: list[Dataset]) -> None:
    for d in datasets:
        pixels = np.frombuffer(d.PixelData, dtype="<u2")
        d.PixelData = np.minimum(pixels, np.uint16(np.median(pixels[pixels > 50]))).astype("<u2").tobytes()


def test_study_in_which_the_network_finds_nothing_is_refused_as_without_findings_and_never_as_negative(bench: Bench) -> None:
    outcome = bench.run(bench.order(spoil=_hide_the_tumour))
    assert (outcome.status, outcome.code, outcome.probability) == (ResultStatus.REFUSED, "MISSING_ROI", None)
    assert outcome.reasons == ("no roi was sent and the segmenter found no tumour on T2W_FS",)
    pages, report = bench.objects(outcome)[:-1], bench.objects(outcome)[-1]
    assert [d.Modality for d in pages] == ["OT", "OT"], "the page, and what the network saw"
    coded = {str(item.CodeValue) for element in report.iterall() if element.keyword == "ConceptCodeSequence" for item in element.value}
    assert "111241" in coded and "111245" not in coded
    assert not any(element.keyword == "MeasuredValueSequence" for element in report.iterall())


@pytest.mark.parametrize("problem", ["no bundle", "other bundle", "altered file", "not signed", "unknown system"])
def test_wrong_models_fail_with_a_report(bench: Bench, tmp_path: Path, problem: str) -> None:
    order = bench.order()
    if problem == "no bundle":
        bench.worker = Worker(store=bench.store, claims=bench.claims, models_root=tmp_path / "none", specs=bench.specs, max_attempts=2)
    elif problem == "other bundle":
        order = order.model_copy(update={"bundle_digest": "0" * 64})
    elif problem == "altered file":
        folder = write_bundle(tmp_path / "altered", SPEC)
        (folder / "classifier.onnx").write_bytes(b"altered")
        bench.worker = Worker(store=bench.store, claims=bench.claims, models_root=tmp_path / "altered", specs=bench.specs, max_attempts=2)
    elif problem == "not signed":
        bench.worker = Worker(
            store=bench.store, claims=bench.claims, models_root=bench.models, specs=bench.specs, max_attempts=2, trusted_keys=["0" * 64]
        )
    else:
        order = order.model_copy(update={"system": "unknown"})
    outcome = bench.run(order)
    assert (outcome.status, outcome.code) == (ResultStatus.FAILED, "BUNDLE")
    assert [ds.Modality for ds in bench.objects(outcome)] == ([] if problem == "unknown system" else ["OT", "SR"])


def test_unexpected_error_fails_without_quoting_it(bench: Bench) -> None:
    order = bench.order()
    broken = order.chosen[0].model_copy(update={"series_instance_uid": "1.2.3"})
    outcome = bench.run(order.model_copy(update={"chosen": (broken, *order.chosen[1:])}))
    assert (outcome.status, outcome.code, outcome.reasons) == (ResultStatus.FAILED, "INTERNAL", ("internal error: KeyError",))
    assert [ds.Modality for ds in bench.objects(outcome)] == ["OT", "SR"]


def test_version_after_one_that_left_no_report_names_the_last_report_there_is(bench: Bench) -> None:
    first = bench.order()
    (report,) = [d for d in bench.objects(bench.run(first)) if d.Modality == "SR" and d.SeriesNumber == SR_SERIES]
    silent = first.model_copy(update={"job_id": "silent-2", "version": 2, "predecessor": first.job_id, "system": "unknown"})
    assert bench.objects(bench.run(silent)) == []
    third = first.model_copy(update={"job_id": "third-3", "version": 3, "predecessor": "silent-2"})
    (named,) = {
        str(d.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for d in bench.objects(bench.run(third))
        if d.Modality == "SR" and d.SeriesNumber == SR_SERIES
    }
    assert named == report.SOPInstanceUID


def _name_the_frame_at_length(datasets: list[Dataset]) -> None:
    for dataset in datasets:
        dataset.FrameOfReferenceUID = "1." + "2" * 70  # as some anonymisers write it: more than a UID may have (PS3.5 9.1)


@pytest.mark.filterwarnings("ignore:The value length .72. exceeds")
def test_object_that_fails_its_check_is_quarantined_with_its_reasons_and_a_report_says_so(bench: Bench) -> None:
    outcome = bench.run(bench.order(spoil=_name_the_frame_at_length))
    assert (outcome.status, outcome.code) == (ResultStatus.FAILED, "RESULT")
    page, report = bench.objects(outcome)
    assert (page.Modality, report.Modality) == ("OT", "SR") and "FAILED" in report.SeriesDescription
    folder = bench.store.quarantine_folder(outcome.job_id)
    kept = json.loads((folder / "reasons.json").read_text())
    assert sorted([*outcome.quarantined, "reasons.json"]) == sorted(p.name for p in folder.iterdir())
    assert {"SEG", "SR", "OT"} == {pydicom.dcmread(folder / item["file"]).Modality for item in kept["objects"]}
    seg = next(item for item in kept["objects"] if "seg" in item["file"])
    assert any(seg["SOPInstanceUID"] in words and "FrameOfReferenceUID is longer than 64" in words for words in kept["problems"])
    assert set(kept["problems"]) >= set(outcome.reasons[:1])
    assert outcome.reasons[0] in [element.value for element in report.iterall() if element.keyword == "TextValue"]
    assert report.SOPInstanceUID not in {item["SOPInstanceUID"] for item in kept["objects"]}


def test_worker_that_died_too_often_reports_it(bench: Bench) -> None:
    order = bench.order((mr.T2W,))
    for _ in range(2):
        beat = bench.claims.take(order.job_id)
        assert beat is not None
        with pytest.raises(TransportError), beat:
            raise TransportError
    outcome = bench.run(order)
    assert (outcome.status, outcome.code) == (ResultStatus.FAILED, "WORKER_LOST")
    assert "died 2 times" in outcome.reasons[0]


def test_predict_writes_objects_and_summary(tmp_path: Path, models: Path) -> None:
    study, out = mr.write_study(tmp_path / "study", (mr.T2W,)), tmp_path / "out"
    (study / "notes.txt").write_text("not DICOM")
    (result,) = predict(study, out, specs=[SPEC], models_root=models, station="CERVINODE")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["results"][0]["system"], summary["results"][0]["status"]) == ("olnm_mri", "REFUSED")
    assert result.outcome.status is ResultStatus.REFUSED
    assert len(summary["objects"]) == 2  # page and report
    for item in summary["objects"]:
        assert pydicom.dcmread(out / item["path"]).SOPInstanceUID == item["sop_instance_uid"]
    assert "read" in summary["timings_s"]


def test_predict_gives_what_the_node_gives(bench: Bench, tmp_path: Path, models: Path) -> None:
    outcome = bench.run(bench.order())
    study = mr.write_study(tmp_path / "study")
    (result,) = predict(study, tmp_path / "out", specs=[SPEC], models_root=models, station="CERVINODE")
    assert result.outcome.probability == outcome.probability
    ours, theirs = ({o.sop_instance_uid: o for o in outcome.objects} for outcome in (outcome, result.outcome))
    assert [ours[uid].sop_class_uid for uid in ours.keys() & theirs.keys()] == [SegmentationStorage], "the rest is of another time"
    assert all(ours[uid] == theirs[uid] for uid in ours.keys() & theirs.keys())


def test_predict_gives_the_same_bytes_whenever_it_runs(tmp_path: Path, models: Path) -> None:
    study = mr.write_study(tmp_path / "study")
    for name in ("first", "second"):
        predict(study, tmp_path / name, specs=[SPEC], models_root=models, station="CERVINODE")
        time.sleep(1.1)  # DICOM times have seconds
    files = [sorted((tmp_path / name / "objects").iterdir()) for name in ("first", "second")]
    assert [p.name for p in files[0]] == [p.name for p in files[1]] and len(files[0]) > 5
    assert [p.name for p, q in zip(*files, strict=True) if p.read_bytes() != q.read_bytes()] == []


CAUTIOUS = """
from dataclasses import replace
from pipelines.systems.olnm_mri import SPEC as OLNM

SPEC = replace(OLNM, name="cautious", withhold_outside=0.5)
"""


@pytest.mark.parametrize(("seen", "withheld"), [(1e-3, True), (1e6, False)])
def test_system_that_declares_it_withholds_the_call_of_a_case_unlike_its_training_cases(
    tmp_path: Path, seen: float, withheld: bool
) -> None:
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "cautious.py").write_text(CAUTIOUS)
    spec = catalogue(tmp_path / "systems")["cautious"]
    write_bundle(tmp_path / "models", spec, seen=seen)
    study, out = mr.write_study(tmp_path / "study"), tmp_path / "out"
    (result,) = predict(study, out, specs=[spec], models_root=tmp_path / "models", station="CERVINODE")
    assert result.outcome.status is ResultStatus.DONE and (result.outcome.call == "withheld") is withheld
    objects = [pydicom.dcmread(out / "objects" / f"{item.sop_instance_uid}.dcm") for item in result.outcome.objects]
    (report,) = (ds for ds in objects if ds.SeriesNumber == SR_SERIES)
    said, coded = (" ".join(str(e.value) for e in report.iterall() if e.keyword == keyword) for keyword in ("TextValue", "CodeValue"))
    assert ("of 6 features lie outside the training range" in said) is withheld
    assert ("the call is withheld: this case is unlike those the model was trained on" in said) is withheld
    assert ("No call: unlike the training cases. Probability" in said) is withheld
    assert ("OLNM.WIT" in coded) is withheld
    assert ("suspected" in said) is not withheld


def test_predict_runs_each_study_of_the_folder(tmp_path: Path, models: Path) -> None:
    small = replace(mr.T2W, shape=(6, 8, 8))
    for study in ("1.2.3", "1.2.4"):
        mr.write_study(tmp_path / "in" / study, (small,), StudyInstanceUID=study)
    results = predict(tmp_path / "in", tmp_path / "out", specs=[SPEC], models_root=models, station="CERVINODE")
    assert {r.study_instance_uid for r in results} == {"1.2.3", "1.2.4"}


def test_predict_refuses_a_folder_without_dicom(tmp_path: Path, models: Path) -> None:
    with pytest.raises(InputError, match="holds no DICOM file"):
        predict(tmp_path, tmp_path / "out", specs=[SPEC], models_root=models, station="CERVINODE")


def test_predict_names_the_bad_file_and_keeps_the_rest(tmp_path: Path, models: Path) -> None:
    study = mr.write_study(tmp_path / "study", (mr.T1W, mr.T2W_FS))
    whole = next(study.iterdir())
    (study / "broken.dcm").write_bytes(whole.read_bytes()[:420])
    (result,) = predict(study, tmp_path / "out", specs=[SPEC], models_root=models, station="CERVINODE")
    assert result.outcome.status is ResultStatus.REFUSED
    assert "broken.dcm" in " ".join(result.outcome.reasons)
    assert len(result.outcome.objects) == 2
