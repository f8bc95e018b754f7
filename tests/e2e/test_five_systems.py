"""One patient's study of MRI and ultrasound, sent once to a node with the shipped bundles: a result of each system comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from node.app import App, build
from node.clinical import enter
from node.config import DeliveryTable, NodeTable, Peer, Route, Settings, WorkerTable
from node.dicom.scu import Address, Answer, send
from node.jobs import FINAL, OVERVIEW, JobState
from node.storage.records import Job
from pipelines.imaging.series import find_dicom_files, read_series
from pipelines.models.bundle import load_bundle
from pipelines.phantoms.dicom import write_study
from pipelines.phantoms.scanners import COMPLETE
from pipelines.phantoms.ultrasound_dicom import write_ultrasound_study
from pipelines.systems import catalogue
from pipelines.types import SeriesHeader, SeriesRole
from structured_reports import codes
from structured_reports.attributes import GRAPHIC_SERIES, KEY_SLICE, OVERVIEW_SERIES, SR_SERIES
from tests.e2e.conftest import Pacs
from tests.e2e.test_node import _text, wait_for
from tests.reports import coded, items, numbers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]

MODELS = Path(__file__).parents[2] / "onnx_models"
SHIPPED = tuple(path.parent.parent.name for path in sorted(MODELS.glob("*/demo-1/manifest.json")))
MRI = tuple(name for name in SHIPPED if name != "plnm_us")
NOT_SENT = {"PROBE": ("tumour_sr.dcm",)}  # the phantom's own outline, by who sends
needs_ultrasound = pytest.mark.skipif("plnm_us" not in SHIPPED, reason="no bundle of plnm_us is shipped")
needs_lvsi = pytest.mark.skipif("lvsi_mri" not in SHIPPED, reason="no bundle of lvsi_mri is shipped")
needs_hybrid = pytest.mark.skipif("lnm_hybrid" not in SHIPPED, reason="no bundle of lnm_hybrid is shipped")


@dataclass
class Sent:
    app: App
    pacs: Pacs
    study: str  # holds MRI and ultrasound

    def jobs(self, study: str, n: int, *, seconds: float = 900) -> dict[str, Job]:
        """Wait until a study has n ended jobs of systems; return the newest by system."""

        def ended() -> bool:
            jobs = self.of_systems(study)
            return len(jobs) >= n and all(job.state in FINAL for job in jobs)

        wait_for(ended, timeout_s=seconds)
        return {job.order.system: job for job in self.of_systems(study)}

    def of_systems(self, study: str) -> list[Job]:
        """Return the jobs of a study without its overviews."""
        return [job for job in self.app.ledger.jobs(study_instance_uid=study) if job.order.system != OVERVIEW]

    def first(self) -> dict[str, Job]:
        """Return the first jobs of the study by system, ended."""
        self.jobs(self.study, len(SHIPPED))
        return {job.order.system: job for job in self.of_systems(self.study) if job.order.version == 1}

    def objects(self, job: Job) -> list[Dataset]:
        """Return the objects of a job as the PACS got them."""
        assert job.outcome is not None
        uids = {item.sop_instance_uid for item in job.outcome.objects}
        return [ds for ds in self.pacs.received if ds.SOPInstanceUID in uids]

    def report(self, job: Job, *, series: int = SR_SERIES) -> Dataset:
        """Return the main report of a job, or the graphic one."""
        (report,) = (ds for ds in self.objects(job) if ds.get("SeriesNumber") == series)
        return report


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    root, pacs = tmp_path_factory.mktemp("five"), Pacs()
    study = write_study(root / "mri", seed=21, vendor="PHILIPS", roles=COMPLETE, node_short_axis_mm=6.0).study_instance_uid
    write_ultrasound_study(root / "us", seed=21, with_outline=True, in_mr_study=True)
    pacs.start()
    callers = (Peer(ae_title=title, host="127.0.0.1", port=104) for title in ("RESEARCH", "SCANNER", "PROBE"))
    app = build(
        Settings(
            node=NodeTable(port=0, storage_root=root / "data", models_root=MODELS, quiet_s=15.0, min_free_mb=0),
            worker=WorkerTable(heartbeat_s=0.5),
            delivery=DeliveryTable(retry_first_s=0.2, retry_max_s=0.5, timeout_s=5),
            peers=(Peer(ae_title="PACS", host="127.0.0.1", port=pacs.port), *callers),
            routes=tuple(
                Route.model_validate({"from": [caller], "systems": list(systems), "to": ["PACS"]})
                for caller, systems in (("RESEARCH", SHIPPED), ("SCANNER", MRI), ("PROBE", tuple(set(SHIPPED) - set(MRI))))
                if systems
            ),
        )
    )
    app.start()
    made = Sent(app, pacs, study)
    _send(made, root, calling="RESEARCH")
    values: dict[str, object] = {"node_short_axis_mm": 6.0, "max_tumour_diameter_mm": 38.0, "rbc_1e12_per_l": 4.1}
    enter(app.ledger, study, values, how="entered", actor="tests")
    yield made
    app.stop()
    pacs.stop()


def _send(sent: Sent, folder: Path, *, calling: str = "SCANNER") -> None:
    files = [path for path in find_dicom_files(folder) if path.name not in NOT_SENT.get(calling, ())]
    answers = send(files, Address(sent.app.settings.node.ae_title, "127.0.0.1", sent.app.port), calling_ae_title=calling, timeout_s=60)
    assert {a.answer for a in answers} == {Answer.ACCEPTED}


@pytest.mark.parametrize("system", SHIPPED)
def test_shipped_bundle_opens_and_states_that_it_is_a_demo(system: str) -> None:
    bundle = load_bundle(MODELS / system / "demo-1", catalogue()[system])
    assert bundle.manifest.training.data == "synthetic"
    assert bundle.manifest.status == "demo"
    assert bundle.manifest.segmenter is not None
    assert min(bundle.manifest.segmenter.dice.values()) >= 0.85


@pytest.mark.parametrize("system", SHIPPED)
def test_shipped_bundle_found_the_planted_signal_and_does_not_overstate_it(system: str) -> None:
    manifest = load_bundle(MODELS / system / "demo-1", catalogue()[system]).manifest
    metrics, several = manifest.training.metrics, bool(catalogue()[system].classes)
    error = largest_error(manifest.training.n) if several else metrics["nested_auc_se"]
    assert metrics["bayes_auc"] - 0.09 <= metrics["nested_auc"] <= metrics["bayes_auc"] + 2 * error
    assert metrics["lie_detector_valid"] == 1.0


def test_without_the_sequence_that_shows_a_planted_latent_the_model_is_worse() -> None:
    metrics = load_bundle(MODELS / "lvsi_mri" / "demo-1", catalogue()["lvsi_mri"]).manifest.training.metrics
    assert 0.5 < metrics["nested_auc_T2W_ADC"] < metrics["nested_auc"] - 0.03  # rim enhancement shows on CE_T1W alone


@pytest.mark.parametrize("system", SHIPPED)
def test_shipped_conformal_sets_hold_the_truth_as_often_as_they_promise(system: str) -> None:
    manifest = load_bundle(MODELS / system / "demo-1", catalogue()[system]).manifest
    training, rule = manifest.training, manifest.decision.class_conformal or manifest.decision.conformal
    assert rule is not None and rule.covered is not None and rule.n == training.n
    counts = (training.n - training.events, training.events) if not catalogue()[system].classes else (training.n,)
    shares = rule.covered_each if not catalogue()[system].classes else (rule.covered,)
    for share, count in zip(shares, counts, strict=True):
        assert share >= rule.coverage - 3 * np.sqrt(rule.coverage * (1 - rule.coverage) / count)


def largest_error(n: int) -> float:
    """Return about the largest standard deviation of a mean over classes of AUCs of random scores, of ``n`` patients with rare classes."""
    return 0.5 / float(np.sqrt(n))


def test_every_system_answers_about_one_study_that_was_sent_once(sent: Sent) -> None:
    jobs = sent.first()
    assert set(jobs) == set(SHIPPED) == set(catalogue())
    assert {system: job.state for system, job in jobs.items()} == dict.fromkeys(SHIPPED, JobState.DONE), [j.detail for j in jobs.values()]
    for system, job in jobs.items():
        objects = sent.objects(job)
        assert {ds.StudyInstanceUID for ds in objects} == {sent.study}, system
        assert {ds.PatientID for ds in objects} == {"PHANTOM-21"}, system
        classes = [ds.SOPClassUID for ds in objects]
        assert Comprehensive3DSRStorage in classes and SecondaryCaptureImageStorage in classes, system
        # A region on ultrasound has no patient coordinates: its outline is in the graphic report.
        assert (SegmentationStorage in classes) is (system != "plnm_us"), system
        modalities = {s.modality for s in _used(sent, job)}
        assert modalities == ({"US"} if system == "plnm_us" else {"MR"}), system


def test_one_page_sums_up_the_study(sent: Sent) -> None:
    sent.first()
    ledger = sent.app.ledger
    wait_for(lambda: any(j.order.system == OVERVIEW and j.state in FINAL for j in ledger.jobs(study_instance_uid=sent.study)))
    (page,) = (
        ds
        for ds in sent.pacs.received
        if (ds.StudyInstanceUID, ds.SeriesNumber, ds.SeriesDescription) == (sent.study, OVERVIEW_SERIES, "[RUO] DEMO Overview page")
    )
    assert page.Rows >= 768


def _used(sent: Sent, job: Job) -> list[SeriesHeader]:
    """Return the series that a job chose."""
    paths = [sent.app.store.instance_path(sent.study, uid) for chosen in job.order.chosen for uid in chosen.sop_instance_uids]
    return [series.header for series in read_series(paths)]


MAPS = {
    "olnm_mri": {"T1W", "T2W_FS", "DWI"},
    "lvsi_mri": {"T2W", "ADC", "CE_T1W"},
    "lnm_hybrid": {"CE_T1W"},
    "plnm_us": {"TVUS"},
    "histotype_mri": set(),  # has no network that predicts
}
PAGES = {"plnm_us": {"NOMOGRAM"}, "histotype_mri": {"CLASSES"}}


@pytest.mark.parametrize("system", SHIPPED)
def test_each_system_shows_its_own_pages_and_a_map_of_each_sequence(sent: Sent, system: str) -> None:
    captures = [ds for ds in sent.objects(sent.first()[system]) if ds.SOPClassUID == SecondaryCaptureImageStorage]
    maps = [str(ds.DerivationDescription).partition("Grad-CAM of the ")[2].split(" ")[0] for ds in captures]
    assert sorted(filter(None, maps)) == sorted(MAPS[system]), "one map of each sequence"
    pages = [str(ds.ImageType[3]) for ds in captures if not str(ds.ImageType[3]).startswith(KEY_SLICE)]
    assert sorted(pages) == sorted({"SUMMARY", "WATERFALL"} | PAGES.get(system, set()))


@pytest.mark.parametrize("system", SHIPPED)
def test_each_system_states_what_its_kind_of_answer_needs(sent: Sent, system: str) -> None:
    report, spec = sent.report(sent.first()[system]), catalogue()[system]
    stated, answers = numbers(report), coded(report)
    probability, threshold = stated[spec.finding.value], stated.get("THRESHOLD")
    assert 0 < probability < 100
    assert "not verified, made for patients with: " in _text(report)
    assert all(words in _text(report) for words in spec.unverified)
    if spec.classes:
        assert threshold is None and "RISK" not in answers and "CALL" not in answers
        return
    assert threshold is not None
    low, high = stated[f"{spec.finding.value}.LO"], stated[f"{spec.finding.value}.HI"]
    call = "POS" if probability >= threshold else "NEG"
    expected = codes.MODERATE_RISK if low < threshold <= high else codes.HIGH_RISK if call == "POS" else codes.LOW_RISK
    assert answers["RISK"] == expected.value
    assert answers["CALL"] == f"{spec.finding.value.removeprefix('P.')}.{call}"


@needs_hybrid
def test_hybrid_states_both_node_states_and_its_dl_score(sent: Sent) -> None:
    report = sent.report(sent.first()["lnm_hybrid"])
    stated = numbers(report)
    assert {"P.LNM", "P.LNM.NODE0", "P.LNM.NODE1", "P.LNM.DL"} <= stated.keys()
    assert stated["P.LNM"] == pytest.approx(stated["P.LNM.NODE0"], abs=0.1), "a node of 6 mm is negative"
    assert stated["P.LNM.NODE0"] < stated["P.LNM.NODE1"]
    straddles = stated["P.LNM.NODE0"] < stated["THRESHOLD"] <= stated["P.LNM.NODE1"]
    assert ("lies between the probabilities of both states" in _text(report)) is straddles


def test_histotype_states_every_class_and_axis(sent: Sent) -> None:
    report, spec = sent.report(sent.first()["histotype_mri"]), catalogue()["histotype_mri"]
    named = {
        item.ConceptNameCodeSequence[0].CodeMeaning: float(item.MeasuredValueSequence[0].NumericValue) for item in items(report, "NUM")
    }
    given = {label: named[words] for label in spec.classes if (words := f"Probability: {label.code.meaning}") in named}
    refused = [str(i.TextValue) for i in items(report, "TEXT") if i.ConceptNameCodeSequence[0].CodeValue == codes.UNPREDICTABLE.value]
    assert sorted([*(label.code.meaning for label in given), *refused]) == sorted(label.code.meaning for label in spec.classes)
    assert len(given) >= 2 and sum(given.values()) == pytest.approx(100, abs=0.5)
    assert numbers(report)["P.HIST"] == pytest.approx(max(given.values()), abs=0.1)
    assert {axis.value for axis in spec.axes} <= numbers(report).keys()
    best = max(given, key=lambda label: given[label]).code
    assert coded(report)["CLASS"] == codes.ICD_O.get(best.value, best).value


@needs_ultrasound
def test_ultrasound_without_an_outline_is_drawn_by_the_segmenter_as_the_phantom_is(sent: Sent, tmp_path: Path) -> None:
    truth = write_ultrasound_study(tmp_path, seed=25, with_outline=True)  # whose outline stays here
    _send(sent, tmp_path, calling="PROBE")
    values: dict[str, object] = {"max_tumour_diameter_mm": 31.0, "rbc_1e12_per_l": 4.4}
    enter(sent.app.ledger, truth.study_instance_uid, values, how="entered", actor="tests")
    (job,) = sent.jobs(truth.study_instance_uid, 1).values()
    assert job.state is JobState.DONE, job.outcome and job.outcome.reasons
    assert coded(sent.report(job))["ROI"] == "ROI.MODEL"
    assert truth.report is not None
    image = dcmread(tmp_path / "003.dcm", stop_before_pixels=True)
    drawn, true = (_mask(report, image) for report in (sent.report(job, series=GRAPHIC_SERIES), dcmread(truth.report)))
    assert 2 * (drawn & true).sum() / (drawn.sum() + true.sum()) > 0.8


def _mask(report: Dataset, image: Dataset) -> NDArray[np.bool_]:
    """Return the pixels of an image that a report's outline encloses."""
    (outline,) = items(report, "SCOORD")
    (reference,) = outline.ContentSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    picture = Image.new("1", (image.Columns, image.Rows))
    ImageDraw.Draw(picture).polygon([float(x) for x in outline.GraphicData], fill=1)
    return np.asarray(picture)


@needs_hybrid
def test_a_large_node_known_first_leaves_the_hybrid_and_the_occult_system_never_gives_a_number(sent: Sent, tmp_path: Path) -> None:
    roles = (SeriesRole.T1W, SeriesRole.T2W_FS, SeriesRole.DWI, SeriesRole.CE_T1W)
    study = write_study(tmp_path, seed=24, roles=roles, node_short_axis_mm=12.0).study_instance_uid
    _send(sent, tmp_path)
    enter(sent.app.ledger, study, {"node_short_axis_mm": 12.0}, how="entered", actor="tests")
    jobs = sent.jobs(study, len(MRI))
    occult, hybrid = jobs["olnm_mri"], jobs["lnm_hybrid"]
    assert (occult.state, occult.order.version, occult.outcome and occult.outcome.code) == (JobState.REFUSED, 1, "NOT_APPLICABLE")
    assert occult.outcome and "10 mm" in " ".join(occult.outcome.reasons)
    assert not any(items(ds, "NUM") for ds in sent.objects(occult))
    assert hybrid.state is JobState.DONE, hybrid.outcome and hybrid.outcome.reasons
    stated = numbers(sent.report(hybrid))
    assert stated["P.LNM"] == pytest.approx(stated["P.LNM.NODE1"], abs=0.1)


@needs_hybrid
def test_a_large_node_that_is_entered_late_withdraws_the_occult_systems_number(sent: Sent) -> None:
    sent.first()
    enter(sent.app.ledger, sent.study, {"node_short_axis_mm": 12.0}, how="entered", actor="tests")
    wait_for(lambda: len(sent.of_systems(sent.study)) > len(SHIPPED) + 1, timeout_s=60)
    jobs = sent.jobs(sent.study, len(SHIPPED) + 2)
    occult, hybrid = jobs["olnm_mri"], jobs["lnm_hybrid"]
    assert (occult.state, occult.order.version, occult.outcome and occult.outcome.code) == (JobState.REFUSED, 2, "NOT_APPLICABLE")
    assert (hybrid.state, hybrid.order.version) == (JobState.DONE, 2)


def _segmentations(sent: Sent, jobs: dict[str, Job]) -> list[Dataset]:
    """Return the one segmentation of each job."""
    found = [[ds for ds in sent.objects(job) if ds.SOPClassUID == SegmentationStorage] for job in jobs.values()]
    of_job = [{ds.SOPInstanceUID: ds for ds in several} for several in found]
    assert all(len(unique) == 1 for unique in of_job)
    return [next(iter(unique.values())) for unique in of_job]


def test_region_that_the_network_drew_is_one_segmentation_for_all_systems(sent: Sent) -> None:
    every = _segmentations(sent, {system: job for system, job in sent.first().items() if system in MRI})
    assert len(every) == len(MRI)
    assert len({(ds.SOPInstanceUID, ds.PixelData, ds.ContentTime, ds.SeriesDescription) for ds in every}) == 1  # sent again, never changed
    assert every[0].SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_region_that_was_sent_comes_back_as_one_segmentation_for_all_systems(sent: Sent, tmp_path: Path) -> None:
    study = write_study(tmp_path, seed=22, roles=COMPLETE, with_seg=True, node_short_axis_mm=6.0)
    _send(sent, tmp_path)
    enter(sent.app.ledger, study.study_instance_uid, {"node_short_axis_mm": 6.0}, how="entered", actor="tests")
    jobs = sent.jobs(study.study_instance_uid, len(MRI))
    assert {system: job.state for system, job in jobs.items()} == dict.fromkeys(MRI, JobState.DONE)
    every = _segmentations(sent, jobs)
    assert len({(ds.SOPInstanceUID, ds.PixelData, ds.ContentTime, ds.SeriesDescription) for ds in every}) == 1
    assert study.seg is not None
    drawn_on = dcmread(study.seg).ReferencedSeriesSequence[0].SeriesInstanceUID
    assert every[0].ReferencedSeriesSequence[0].SeriesInstanceUID == drawn_on


@needs_lvsi
def test_study_without_contrast_agent_is_answered_by_the_reduced_model(sent: Sent, tmp_path: Path) -> None:
    study = write_study(tmp_path, seed=23, roles=(SeriesRole.T2W, SeriesRole.DWI, SeriesRole.ADC))
    _send(sent, tmp_path)
    jobs = sent.jobs(study.study_instance_uid, len(MRI))
    reduced = jobs["lvsi_mri"]
    assert reduced.state is JobState.DONE, reduced.outcome and reduced.outcome.reasons
    assert "the reduced model was used, which does without CE_T1W" in _text(sent.report(reduced))
    assert (jobs["olnm_mri"].state, jobs["olnm_mri"].outcome and jobs["olnm_mri"].outcome.code) == (JobState.REFUSED, "MISSING_SEQUENCE")
