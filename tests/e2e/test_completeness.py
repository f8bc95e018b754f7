"""The node asks the sender of a study what belongs to it, fetches what did not come, and says how it knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.app import App, build
from node.config import DeliveryTable, NodeTable, Peer, Route, Settings, WorkerTable
from node.dicom.query import count_instances, find_series, move_series
from node.dicom.scu import Address
from node.jobs import JobState
from node.storage.records import Job
from pipelines.errors import TransportError
from tests import mr
from tests.e2e import servers
from tests.e2e.conftest import MakeStudy
from tests.e2e.qr import Archive
from tests.e2e.test_node import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    made.start()
    yield made
    made.stop()


class Site:
    """A node without workers, which plans and no more, and the archive that sends to it."""

    def __init__(self, app: App, archive: Archive) -> None:
        self.app, self.archive = app, archive

    def planned(self, study: list[Dataset], n: int = 1) -> Job:
        """Wait for the study's nth job and return it."""
        uid = study[0].StudyInstanceUID
        wait_for(lambda: len(self.app.ledger.jobs(study_instance_uid=uid)) >= n)
        jobs = self.app.ledger.jobs(study_instance_uid=uid)
        assert len(jobs) == n
        return jobs[-1]

    def stored(self, study: list[Dataset]) -> int:
        return len(self.app.ledger.instances(study[0].StudyInstanceUID))

    def events(self, event: str) -> list[str]:
        return [line.detail for line in self.app.ledger.audit_trail() if line.event == event]


Start = Callable[..., Site]


@pytest.fixture
def start(tmp_path: Path, archive: Archive) -> Iterator[Start]:
    apps = []

    def _start(*, query: bool = True, quiet_s: float = 0.5, **route: object) -> Site:
        settings = Settings(
            node=NodeTable(port=0, storage_root=tmp_path / "data", quiet_s=quiet_s, min_free_mb=0),
            worker=WorkerTable(embedded=0),
            delivery=DeliveryTable(timeout_s=3),
            peers=(
                Peer(ae_title="PACS", host="127.0.0.1", port=archive.port, query=query),
                Peer(ae_title="SCANNER", host="127.0.0.1", port=104),
            ),
            routes=(Route.model_validate({"systems": ["olnm_mri"], **route}),),
        )
        app = build(settings)
        apps.append(app)
        app.start()
        archive.destinations["CERVINODE"] = app.port
        return Site(app, archive)

    yield _start
    for app in apps:
        app.stop()


def test_complete_study_is_confirmed_by_its_sender(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site, study = start(), make_study(6)
    archive.instances = study
    archive.send(study, site.app.port)
    job = site.planned(study)
    assert job.order.completeness == "quiet time 0.5 s; C-FIND at PACS: 6 of 6 images"
    assert site.events("STUDY_CHECKED") == ["C-FIND at PACS: 6 of 6 images"]
    wait_for(lambda: site.events("JOB_PLANNED"))
    assert "complete by: quiet time 0.5 s; C-FIND" in site.events("JOB_PLANNED")[0]
    assert archive.moves == 0


@pytest.mark.parametrize("counts", [True, False])
def test_missing_images_are_fetched_before_planning(start: Start, archive: Archive, make_study: MakeStudy, counts: bool) -> None:
    site, study = start(), make_study(6)
    archive.instances, archive.counts = study, counts
    archive.send(study[:4], site.app.port)
    job = site.planned(study)
    assert job.order.completeness.endswith("C-FIND at PACS: 6 of 6 images, 2 of them fetched by C-MOVE")
    assert len(job.order.sop_instance_uids) == 6 and archive.moves == 1


def test_what_cannot_be_fetched_is_said_and_not_waited_for(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site, study = start(), make_study(6)
    archive.instances, archive.destinations = study, {}
    site.archive.destinations.clear()
    archive.send(study[:4], site.app.port)
    job = site.planned(study)
    assert "C-FIND at PACS: 4 of 6 images; the others could not be fetched (PACS@" in job.order.completeness
    assert "0xA801" in job.order.completeness and archive.moves == 2


def test_images_that_the_sender_lost_are_refused_where_the_route_says_so(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site, study = start(incomplete="refuse", expect=["T2W"]), make_study(6)
    archive.instances, archive.lose = study, {study[5].SOPInstanceUID}
    archive.send(study[:4], site.app.port)
    order = site.planned(study).order
    assert order.refusal and order.refusal.reasons == ("the study is not complete: 1 image that the sender has did not come",)
    assert len(order.sop_instance_uids) == 5


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("refuse", "C-FIND at PACS failed (PACS@"), ("down", "C-FIND at PACS failed (PACS@"), ("unknown", "it does not know the study")],
)
def test_sender_that_cannot_tell_leaves_the_quiet_time(
    start: Start, archive: Archive, make_study: MakeStudy, trouble: str, words: str
) -> None:
    site, study = start(), make_study(4)
    archive.refuse = trouble == "refuse"
    archive.instances = [] if trouble == "unknown" else study
    if trouble == "down":
        archive.stop()
    archive.send(study, site.app.port)
    completeness = site.planned(study).order.completeness
    assert words in completeness and completeness.endswith("so only the quiet time counts")


def test_sender_that_may_not_be_asked_is_not(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site, study = start(query=False), make_study(4)
    archive.send(study[:3], site.app.port)
    assert site.planned(study).order.completeness == "quiet time 0.5 s"
    assert archive.finds == 0


def test_late_image_is_asked_about_again(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site, study = start(), make_study(6)
    archive.instances = study[:4]
    archive.send(study[:4], site.app.port)
    site.planned(study)
    archive.instances = study
    archive.send(study[4:5], site.app.port)
    assert site.planned(study, 2).order.completeness.endswith("6 of 6 images, 1 of them fetched by C-MOVE")


def test_own_results_in_the_archive_are_not_missing(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site, study = start(), make_study(4)
    (own,) = make_study(1, StudyInstanceUID=study[0].StudyInstanceUID, SeriesInstanceUID="1.2.3", SeriesDescription="[RUO] AI")
    archive.instances = [*study, own]
    archive.send(study, site.app.port)
    assert site.planned(study).order.completeness.endswith("C-FIND at PACS: 4 of 4 images")


def test_interleaved_studies_of_two_senders_over_many_associations(start: Start, archive: Archive, make_study: MakeStudy) -> None:
    site = start(quiet_s=10)  # seventeen associations one after the other must not look like the end, on a busy machine either
    scanner = Archive("SCANNER")
    studies = [make_study(6) for _ in range(3)]
    archive.instances = [ds for study in studies for ds in study]
    for i in range(6):
        for number, study in enumerate(studies):
            if (i, number) != (5, 2):  # the last image of the last study stays away
                (archive if (i + number) % 2 else scanner).send([study[i]], site.app.port)
    completeness = [site.planned(study).order.completeness for study in studies]
    assert [words.split("; ")[1] for words in completeness] == [
        "C-FIND at PACS: 6 of 6 images",
        "C-FIND at PACS: 6 of 6 images",
        "C-FIND at PACS: 6 of 6 images, 1 of them fetched by C-MOVE",
    ]
    for study in studies:
        assert set(site.planned(study).order.sop_instance_uids) == {ds.SOPInstanceUID for ds in study}


def test_incomplete_study_is_held_with_a_warning_then_runs(
    start: Start, archive: Archive, make_study: MakeStudy, caplog: pytest.LogCaptureFixture
) -> None:
    site, study = start(query=False, incomplete="hold", hold_s=3), make_study(4)
    archive.send(study, site.app.port)
    job = site.planned(study)
    assert job.state is JobState.WAITING and "for images: no T1W series came, no T2W_FS series came, no DWI series came" in job.detail
    wait_for(lambda: "job waits" in caplog.messages and len(site.events("JOB_WAITING")) == 1)
    wait_for(lambda: site.planned(study).state is not JobState.WAITING)
    released = site.planned(study)
    assert released.order.refusal and released.order.refusal.code == "MISSING_SEQUENCE" and released.order.version == 1
    assert len(site.events("JOB_WAITING")) == 1


def test_held_study_runs_as_soon_as_it_is_complete(start: Start, archive: Archive) -> None:
    site, study = start(query=False, incomplete="hold", expect=["T1W"]), generate_uid()
    first, late = (mr.make_series(replace(s, shape=(6, 16, 16)), StudyInstanceUID=study) for s in (mr.T2W, mr.T1W))
    archive.send(first, site.app.port)
    held = site.planned(first)
    assert held.state is JobState.WAITING
    archive.send(late, site.app.port)
    wait_for(lambda: site.planned(first).state is not JobState.WAITING)
    job = site.planned(first)
    assert (job.order.job_id, job.order.version, len(job.order.sop_instance_uids)) == (held.order.job_id, 1, 12)


def test_query_says_what_went_wrong(archive: Archive, make_study: MakeStudy) -> None:
    study = make_study(3)
    archive.instances = study
    uid, series = study[0].StudyInstanceUID, study[0].SeriesInstanceUID
    address = Address("PACS", "127.0.0.1", archive.port)
    (found,) = find_series(address, uid, calling_ae_title="CERVINODE", timeout_s=3)
    assert (found.series_instance_uid, found.n_instances) == (series, 3)
    assert count_instances(address, uid, series, calling_ae_title="CERVINODE", timeout_s=3) == 3
    with pytest.raises(TransportError, match="answered C-MOVE with status 0xA801"):
        move_series(address, uid, [series], calling_ae_title="CERVINODE", timeout_s=3)
    with pytest.raises(TransportError, match="cannot be reached"):
        find_series(Address("PACS", "127.0.0.1", servers.free_port()), uid, calling_ae_title="CERVINODE", timeout_s=1)


@pytest.mark.slow
def test_orthanc_is_asked_and_sends_what_is_missing(tmp_path: Path, make_study: MakeStudy) -> None:
    study, (node_port, modality) = make_study(6), (servers.free_port(), Archive("MODALITY"))
    with servers.orthanc(tmp_path / "orthanc", {"CERVINODE": node_port, "MODALITY": modality.port}) as pacs:
        modality.send(study, pacs.port, called=pacs.aet)
        settings = Settings(
            node=NodeTable(port=node_port, storage_root=tmp_path / "data", quiet_s=0.5, min_free_mb=0),
            worker=WorkerTable(embedded=0),
            peers=(Peer(ae_title=pacs.aet, host="127.0.0.1", port=pacs.port, query=True),),
            routes=(Route(systems=("olnm_mri",)),),
        )
        app = build(settings)
        app.start()
        try:
            request = Request(f"http://127.0.0.1:{pacs.http}/modalities/CERVINODE/store", json.dumps(pacs.get("/instances")[:4]).encode())
            with urlopen(request, timeout=20) as answer:
                assert answer.status == 200
            wait_for(lambda: app.ledger.jobs(), timeout_s=30)
            (job,) = app.ledger.jobs()
            assert job.order.completeness == "quiet time 0.5 s; C-FIND at ORTHANC: 6 of 6 images, 2 of them fetched by C-MOVE"
            assert set(job.order.sop_instance_uids) == {ds.SOPInstanceUID for ds in study}
        finally:
            app.stop()
