"""What comes late: a corrected region, a radiologist's report, values that somebody enters. A whole node with a small system of its own
that uses clinical values; each result of a study names the one before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.app import App, build
from node.config import DeliveryTable, NodeTable, Peer, Route, Settings, WebTable, WorkerTable
from node.jobs import FINAL, JobState
from node.storage.records import Job
from pipelines.systems import catalogue
from structured_reports.attributes import SR_SERIES
from tests import mr
from tests.bundles import write_bundle
from tests.e2e.conftest import Pacs
from tests.e2e.test_node import _text, store, wait_for
from tests.reports import LYMPH_NODE, MM, SHORT_AXIS, group, make_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]

TOKEN = "a token of the tests"
SYSTEM = """
from dataclasses import replace
from pipelines.spec import ClinicalInput, Inclusion, Preprocess, RoiRule
from pipelines.systems.olnm_mri import SPEC as OLNM
from pipelines.types import SeriesRole

ROLES = (SeriesRole.T2W,)
PLAIN = replace(
    OLNM, name="{name}", title="Small system of the tests", required=ROLES, b_value=None, preprocess=Preprocess(normalise=ROLES),
    roi=RoiRule((SeriesRole.T2W,)),
    blocks=(replace(OLNM.blocks[0], roles=ROLES, image_types={{"Original": {{}}}}, classes={{"shape": (), "firstorder": ()}}, count=32,
                    settings={{"binCount": 32}}),),
)
SPEC = replace(PLAIN, inclusion=({inclusion}), clinical=({clinical}))
"""
SMALL_NODES = 'Inclusion("node_short_axis_mm", "no lymph node of 10 mm or more", high=10.0, wait_s={wait_s}), '
NODE_SIZE = 'ClinicalInput("node_short_axis_mm", wait_s={wait_s}, fallback="{fallback}"), '


@dataclass
class Site:
    app: App
    pacs: Pacs

    def ended(self, study: str, n: int) -> list[Job]:
        """Wait until a study has n jobs and all have ended; return them."""

        def _all_ended() -> bool:
            jobs = self.app.ledger.jobs(study_instance_uid=study)
            return len(jobs) >= n and all(job.state in FINAL for job in jobs)

        wait_for(_all_ended, timeout_s=120)
        jobs = self.app.ledger.jobs(study_instance_uid=study)
        assert len(jobs) == n
        return jobs

    def waiting(self, study: str) -> Job:
        """Wait until a study has one job, which waits; return it."""
        wait_for(lambda: self.app.ledger.jobs(JobState.WAITING, study_instance_uid=study))
        (job,) = self.app.ledger.jobs(study_instance_uid=study)
        return job

    def report_of(self, job: Job) -> Dataset:
        """Return the main SR of a job as the PACS got it."""
        assert job.outcome is not None
        uids = {item.sop_instance_uid for item in job.outcome.objects}
        (report,) = [ds for ds in self.pacs.received if ds.get("SeriesNumber") == SR_SERIES and ds.SOPInstanceUID in uids]
        return report

    def put(self, study: str, values: dict[str, object]) -> dict[str, object]:
        """Enter values through the API."""
        url = f"http://127.0.0.1:{self.app.web_port}/api/studies/{study}/clinical"
        request = Request(url, json.dumps(values).encode(), {"Authorization": f"Bearer {TOKEN}"}, method="PUT")
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)


def _settings(root: Path, pacs: Pacs, *systems: str) -> Settings:
    return Settings(
        node=NodeTable(
            port=0, storage_root=root / "data", models_root=root / "models", systems_path=root / "systems", quiet_s=0.5, min_free_mb=0
        ),
        worker=WorkerTable(heartbeat_s=0.5),
        delivery=DeliveryTable(retry_first_s=0.2, retry_max_s=0.5, timeout_s=5),
        web=WebTable(port=0, token=TOKEN),
        peers=(Peer(ae_title="PACS", host="127.0.0.1", port=pacs.port), Peer(ae_title="SCANNER", host="127.0.0.1", port=104)),
        routes=tuple(Route.model_validate({"systems": [name], "to": ["PACS"]}) for name in systems),
    )


def _declare(root: Path, name: str, clinical: str = "", *, inclusion: str = "", with_imaging_only: bool = True) -> None:
    (root / "systems").mkdir(exist_ok=True)
    (root / "systems" / f"{name}.py").write_text(SYSTEM.format(name=name, clinical=clinical, inclusion=inclusion))
    write_bundle(root / "models", catalogue(root / "systems")[name], with_imaging_only=with_imaging_only)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root, pacs = tmp_path_factory.mktemp("versions"), Pacs()
    _declare(root, "with_node", NODE_SIZE.format(wait_s=6.0, fallback="without"))
    pacs.start()
    app = build(_settings(root, pacs, "with_node"))
    app.start()
    yield Site(app, pacs)
    app.stop()
    pacs.stop()


@pytest.fixture
def images() -> list[Dataset]:
    return mr.make_series(mr.T2W, StudyInstanceUID=generate_uid())


def _seg(images: list[Dataset], *, grow: int) -> Dataset:
    """Return a tumour that somebody drew: a box in the middle of the image."""
    mask = np.zeros((len(images), 64, 64), dtype=np.uint8)
    mask[5:11, 26 - grow : 38 + grow, 26 - grow : 38 + grow] = 1
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumour",
        segmented_property_category=hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
        segmented_property_type=hd.sr.CodedConcept("372087000", "SCT", "Neoplasm, Primary"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(),
        series_number=60,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Workstation maker",
        manufacturer_model_name="Workstation",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _predecessor(report: Dataset) -> str:
    (item,) = report.PredecessorDocumentsSequence
    return str(item.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def test_late_and_corrected_segmentations_make_new_versions_that_name_each_other(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    site.waiting(study)
    site.put(study, {"node_short_axis_mm": 8})
    site.ended(study, 1)
    store(site.app, [_seg(images, grow=0)])
    site.ended(study, 2)
    store(site.app, [_seg(images, grow=4)])
    jobs = site.ended(study, 3)
    assert [job.state for job in jobs] == [JobState.DONE] * 3, [job.detail for job in jobs]
    first, second, third = (site.report_of(job) for job in jobs)
    assert "PredecessorDocumentsSequence" not in first
    assert (_predecessor(second), _predecessor(third)) == (first.SOPInstanceUID, second.SOPInstanceUID)
    assert "drawn by a segmentation network" in _text(first)
    assert "received with the study (DICOM SEG)" in _text(second) and "received with the study (DICOM SEG)" in _text(third)
    assert len({job.outcome.probability for job in jobs if job.outcome}) == 3


def test_values_that_are_entered_set_a_waiting_job_going_and_later_ones_make_a_new_version(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    waiting = site.waiting(study)
    assert "for clinical value node_short_axis_mm" in waiting.detail
    stored = site.put(study, {"node_short_axis_mm": 8})
    assert stored["values"]["node_short_axis_mm"]["value"] == 8  # type: ignore[index]
    (first,) = site.ended(study, 1)
    assert first.state is JobState.DONE and first.order.job_id == waiting.order.job_id
    assert "Short axis of the largest lymph node: 8 mm (entered through the API from 127.0.0.1 at " in _text(site.report_of(first))
    site.put(study, {"node_short_axis_mm": 8.0, "hpv": "yes"})  # nothing that the system uses has changed
    site.put(study, {"node_short_axis_mm": 15})
    _, second = site.ended(study, 2)
    assert second.order.predecessor == first.order.job_id and _predecessor(site.report_of(second)) == site.report_of(first).SOPInstanceUID
    assert first.outcome and second.outcome and first.outcome.probability != second.outcome.probability


def test_report_of_a_radiologist_sets_a_waiting_job_going(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    site.waiting(study)
    report = make_report(images, [group("N", [(SHORT_AXIS, 11.0, MM)], site=LYMPH_NODE)])
    store(site.app, [report])
    (job,) = site.ended(study, 1)
    (value,) = job.order.clinical
    assert (value.value, value.source) == (11.0, f"structured report {report.SOPInstanceUID} of 2026-01-02, by a person")
    assert report.SOPInstanceUID in _text(site.report_of(job))
    site.put(study, {"node_short_axis_mm": 7})
    _, second = site.ended(study, 2)
    assert second.order.clinical[0].value == 7, "what was entered wins"
    site.put(study, {"node_short_axis_mm": None})
    assert site.ended(study, 3)[-1].order.clinical[0].value == 11, "withdrawn: the report counts again"


def test_without_the_value_the_imaging_only_model_runs_and_says_so(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    site.waiting(study)
    (job,) = site.ended(study, 1)
    assert job.state is JobState.DONE and job.order.clinical == ()
    words = _text(site.report_of(job))
    assert "imaging alone was used" in words and "not known: Short axis of the largest lymph node" in words


def test_wait_survives_a_restart_and_ends_in_the_declared_refusal(tmp_path: Path, pacs: Pacs, images: list[Dataset]) -> None:
    _declare(tmp_path, "strict", NODE_SIZE.format(wait_s=4.0, fallback="refuse"))
    pacs.start()
    settings, study = _settings(tmp_path, pacs, "strict"), images[0].StudyInstanceUID
    app = build(settings)
    app.start()
    try:
        store(app, images)
        before = Site(app, pacs).waiting(study)
    finally:
        app.stop()
    app = build(settings)
    app.start()
    try:
        (job,) = Site(app, pacs).ended(study, 1)
        assert (job.state, job.order.job_id) == (JobState.REFUSED, before.order.job_id)
        assert job.outcome and job.outcome.code == "MISSING_CLINICAL" and "node_short_axis_mm" in job.outcome.reasons[0]
        assert "R.CLINICAL" in {e.value for e in Site(app, pacs).report_of(job).iterall() if e.keyword == "CodeValue"}
        Site(app, pacs).put(study, {"node_short_axis_mm": 8})
        _, second = Site(app, pacs).ended(study, 2)
        assert second.state is JobState.DONE and second.order.predecessor == job.order.job_id
    finally:
        app.stop()


def test_node_status_comes_first_and_a_large_node_never_gets_a_number(tmp_path: Path, pacs: Pacs) -> None:
    _declare(tmp_path, "occult", inclusion=SMALL_NODES.format(wait_s=8.0))
    pacs.start()
    app = build(_settings(tmp_path, pacs, "occult"))
    app.start()
    try:
        site, studies = Site(app, pacs), [mr.make_series(mr.T2W, StudyInstanceUID=generate_uid()) for _ in range(3)]
        large, small, unknown = (images[0].StudyInstanceUID for images in studies)
        for images in studies:
            store(app, images)
        for study, millimetres in ((large, 12), (small, 6)):
            assert "for clinical value node_short_axis_mm" in site.waiting(study).detail
            site.put(study, {"node_short_axis_mm": millimetres})
        (job,) = site.ended(large, 1)
        assert (job.state, job.order.version, job.outcome and job.outcome.code) == (JobState.REFUSED, 1, "NOT_APPLICABLE")
        (report,) = [ds for ds in pacs.received if ds.StudyInstanceUID == large and ds.Modality == "SR"]
        assert "no lymph node of 10 mm or more" in _text(report) and "12 mm" in _text(report)
        assert not any(item.keyword == "NumericValue" for item in report.iterall())
        assert "no lymph node of 10 mm or more" not in _text(site.report_of(*site.ended(small, 1)))
        (job,) = site.ended(unknown, 1)
        assert job.state is JobState.DONE
        assert "not verified, made for patients with: no lymph node of 10 mm or more" in _text(site.report_of(job))
    finally:
        app.stop()


def test_model_that_cannot_do_without_refuses(tmp_path: Path, pacs: Pacs, images: list[Dataset]) -> None:
    _declare(tmp_path, "bare", NODE_SIZE.format(wait_s=0.0, fallback="without"), with_imaging_only=False)
    pacs.start()
    app = build(_settings(tmp_path, pacs, "bare"))
    app.start()
    try:
        store(app, images)
        (job,) = Site(app, pacs).ended(images[0].StudyInstanceUID, 1)
        assert job.outcome and job.outcome.code == "MISSING_CLINICAL" and "has no model that does without" in job.outcome.reasons[0]
    finally:
        app.stop()
