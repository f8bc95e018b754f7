"""One patient's MRI and ultrasound, sent once to a node with the shipped bundles: a result of each system comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from node.app import App, build
from node.clinical import enter
from node.config import DeliveryTable, NodeTable, Peer, Route, Settings, WorkerTable
from node.dicom.scu import Address, Answer, send
from node.jobs import FINAL, OVERVIEW, JobState
from node.storage.records import Job
from pipelines.imaging.series import find_dicom_files
from pipelines.models.bundle import load_bundle
from pipelines.phantoms.dicom import write_study
from pipelines.phantoms.scanners import COMPLETE
from pipelines.phantoms.ultrasound_dicom import write_ultrasound_study
from pipelines.systems import catalogue
from pipelines.types import SeriesRole
from structured_reports.attributes import OVERVIEW_SERIES, SR_SERIES
from tests.e2e.conftest import Pacs
from tests.e2e.test_node import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]

MODELS = Path(__file__).parents[2] / "onnx_models"
SHIPPED = tuple(path.parent.parent.name for path in sorted(MODELS.glob("*/demo-1/manifest.json")))
MRI = tuple(name for name in SHIPPED if name != "plnm_us")
needs_ultrasound = pytest.mark.skipif("plnm_us" not in SHIPPED, reason="no bundle of plnm_us is shipped")
needs_lvsi = pytest.mark.skipif("lvsi_mri" not in SHIPPED, reason="no bundle of lvsi_mri is shipped")
needs_hybrid = pytest.mark.skipif("lnm_hybrid" not in SHIPPED, reason="no bundle of lnm_hybrid is shipped")


@dataclass
class Sent:
    app: App
    pacs: Pacs
    mri: str
    ultrasound: str

    def jobs(self, study: str, n: int, *, seconds: float = 400) -> dict[str, Job]:
        """Wait until a study has n ended jobs of systems; return the newest by system."""

        def ended() -> bool:
            jobs = self.of_systems(study)
            return len(jobs) >= n and all(job.state in FINAL for job in jobs)

        wait_for(ended, timeout_s=seconds)
        return {job.order.system: job for job in self.of_systems(study)}

    def of_systems(self, study: str) -> list[Job]:
        """Return the jobs of a study without its overviews."""
        return [job for job in self.app.ledger.jobs(study_instance_uid=study) if job.order.system != OVERVIEW]

    def objects(self, job: Job) -> list[Dataset]:
        """Return the objects of a job as the PACS got them."""
        assert job.outcome is not None
        uids = {item.sop_instance_uid for item in job.outcome.objects}
        return [ds for ds in self.pacs.received if ds.SOPInstanceUID in uids]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    root, pacs = tmp_path_factory.mktemp("five"), Pacs()
    mri = write_study(root / "mri", seed=21, vendor="PHILIPS", roles=COMPLETE, node_short_axis_mm=6.0)
    ultrasound = write_ultrasound_study(root / "us", seed=21, with_outline=True)
    pacs.start()
    app = build(
        Settings(
            node=NodeTable(port=0, storage_root=root / "data", models_root=MODELS, quiet_s=6.0, min_free_mb=0),
            worker=WorkerTable(heartbeat_s=0.5),
            delivery=DeliveryTable(retry_first_s=0.2, retry_max_s=0.5, timeout_s=5),
            peers=(Peer(ae_title="PACS", host="127.0.0.1", port=pacs.port), Peer(ae_title="SCANNER", host="127.0.0.1", port=104)),
            routes=(
                Route.model_validate({"systems": list(MRI), "to": ["PACS"], "modalities": ["MR"]}),
                *([Route.model_validate({"systems": ["plnm_us"], "to": ["PACS"], "modalities": ["US"]})] if "plnm_us" in SHIPPED else []),
            ),
        )
    )
    app.start()
    files = [*find_dicom_files(root / "mri"), *find_dicom_files(root / "us")]
    answers = send(files, Address(app.settings.node.ae_title, "127.0.0.1", app.port), calling_ae_title="SCANNER", timeout_s=60)
    assert {a.answer for a in answers} == {Answer.ACCEPTED}
    enter(app.ledger, mri.study_instance_uid, {"node_short_axis_mm": 6.0}, how="entered", actor="tests")
    values: dict[str, object] = {"max_tumour_diameter_mm": 38.0, "rbc_1e12_per_l": 4.1}
    enter(app.ledger, ultrasound.study_instance_uid, values, how="entered", actor="tests")
    yield Sent(app, pacs, mri.study_instance_uid, ultrasound.study_instance_uid)
    app.stop()
    pacs.stop()


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
    assert 0.5 + 2 * error < metrics["nested_auc"] <= metrics["bayes_auc"] + 2 * error
    assert metrics.get("lie_detector_valid", 1.0) == 1.0


def largest_error(n: int) -> float:
    """Return about the largest standard deviation of a mean over classes of AUCs of random scores, of ``n`` patients with rare classes."""
    return 0.5 / float(np.sqrt(n))


def test_every_system_answers_about_one_mri(sent: Sent) -> None:
    jobs = sent.jobs(sent.mri, len(MRI))
    assert set(jobs) == set(MRI)
    for system, job in jobs.items():
        assert job.state is JobState.DONE, (system, job.outcome and job.outcome.reasons)
        classes = [ds.SOPClassUID for ds in sent.objects(job)]
        assert Comprehensive3DSRStorage in classes, system
        assert SegmentationStorage in classes, system
        assert SecondaryCaptureImageStorage in classes, system


@needs_ultrasound
def test_one_page_sums_up_the_mri_and_the_ultrasound_has_its_own(sent: Sent) -> None:
    sent.jobs(sent.mri, len(MRI))
    sent.jobs(sent.ultrasound, 1)
    ledger = sent.app.ledger
    wait_for(lambda: any(j.order.system == OVERVIEW and j.state in FINAL for j in ledger.jobs(study_instance_uid=sent.mri)))
    pages = [ds for ds in sent.pacs.received if ds.SeriesNumber == OVERVIEW_SERIES and ds.SeriesDescription == "[RUO] DEMO Overview page"]
    (first,) = (ds for ds in pages if ds.StudyInstanceUID == sent.mri)
    assert first.Rows >= 768
    assert sent.ultrasound not in {ds.StudyInstanceUID for ds in pages}


@needs_ultrasound
def test_ultrasound_answers_with_report_and_captures_and_no_segmentation(sent: Sent) -> None:
    (job,) = sent.jobs(sent.ultrasound, 1).values()
    assert job.state is JobState.DONE, job.outcome and job.outcome.reasons
    classes = {ds.SOPClassUID for ds in sent.objects(job)}
    assert {Comprehensive3DSRStorage, SecondaryCaptureImageStorage} <= classes
    assert SegmentationStorage not in classes


@needs_hybrid
def test_a_large_node_leaves_the_hybrid_and_rules_the_occult_system_out(sent: Sent) -> None:
    sent.jobs(sent.mri, len(MRI))
    enter(sent.app.ledger, sent.mri, {"node_short_axis_mm": 12.0}, how="entered", actor="tests")
    wait_for(lambda: len(sent.of_systems(sent.mri)) > len(MRI) + 1, timeout_s=60)
    jobs = sent.jobs(sent.mri, len(MRI) + 2)
    occult, hybrid = jobs["olnm_mri"], jobs["lnm_hybrid"]
    assert (occult.state, occult.outcome and occult.outcome.code) == (JobState.REFUSED, "NOT_APPLICABLE")
    assert hybrid.state is JobState.DONE
    assert hybrid.order.version == 2
    assert occult.outcome is not None
    assert "10 mm" in " ".join(occult.outcome.reasons)


def _send(sent: Sent, folder: Path) -> None:
    answers = send(
        find_dicom_files(folder),
        Address(sent.app.settings.node.ae_title, "127.0.0.1", sent.app.port),
        calling_ae_title="SCANNER",
        timeout_s=60,
    )
    assert {a.answer for a in answers} == {Answer.ACCEPTED}


def _segmentations(sent: Sent, jobs: dict[str, Job]) -> list[Dataset]:
    """Return the one segmentation of each job."""
    found = [[ds for ds in sent.objects(job) if ds.SOPClassUID == SegmentationStorage] for job in jobs.values()]
    of_job = [{ds.SOPInstanceUID: ds for ds in several} for several in found]
    assert all(len(unique) == 1 for unique in of_job)
    return [next(iter(unique.values())) for unique in of_job]


def test_region_that_the_network_drew_is_one_segmentation_for_all_systems(sent: Sent) -> None:
    every = _segmentations(sent, sent.jobs(sent.mri, len(MRI)))
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
    drawn_on = pydicom.dcmread(study.seg).ReferencedSeriesSequence[0].SeriesInstanceUID
    assert every[0].ReferencedSeriesSequence[0].SeriesInstanceUID == drawn_on


@needs_lvsi
def test_study_without_contrast_agent_is_answered_by_the_reduced_model(sent: Sent, tmp_path: Path) -> None:
    study = write_study(tmp_path, seed=23, roles=(SeriesRole.T2W, SeriesRole.DWI, SeriesRole.ADC))
    _send(sent, tmp_path)
    jobs = sent.jobs(study.study_instance_uid, len(MRI))
    reduced = jobs["lvsi_mri"]
    assert reduced.state is JobState.DONE, reduced.outcome and reduced.outcome.reasons
    (report,) = (ds for ds in sent.objects(reduced) if ds.SOPClassUID == Comprehensive3DSRStorage and ds.SeriesNumber == SR_SERIES)
    said = " ".join(str(item.get("TextValue", "")) for element in report.iterall() if element.VR == "SQ" for item in element.value)
    assert "the reduced model was used, which does without CE_T1W" in said
    assert (jobs["olnm_mri"].state, jobs["olnm_mri"].outcome and jobs["olnm_mri"].outcome.code) == (JobState.REFUSED, "MISSING_SEQUENCE")


def test_probabilities_are_probabilities(sent: Sent) -> None:
    outcomes = [job.outcome for job in sent.jobs(sent.mri, len(MRI)).values()]
    given = np.array([o.probability for o in outcomes if o and o.probability is not None])
    assert len(given)
    assert ((given > 0) & (given < 1)).all()
