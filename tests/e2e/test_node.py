"""A whole node on loopback: listener, embedded Redis, a worker process, delivery to a PACS. The studies lack what the system requires, so
every job ends in a REFUSED report; the chain is the same for any other result, and needs no model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE

from node.app import App, build
from node.cli import main
from node.config import Settings
from node.jobs import FINAL, JobState
from node.storage.records import Job
from pipelines.errors import ConfigError
from pipelines.systems import catalogue
from tests import mr
from tests.bundles import write_bundle
from tests.e2e import servers
from tests.e2e.conftest import Pacs, make_settings

MakeStudy = Callable[..., list[Dataset]]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]


def store(app: App, datasets: list[Dataset], *, calling: str = "SCANNER") -> list[int]:
    """Send instances by C-STORE and return the statuses."""
    ae = AE(calling)
    for sop_class in {ds.SOPClassUID for ds in datasets}:
        ae.add_requested_context(sop_class)
    association = ae.associate("127.0.0.1", app.port, ae_title=app.settings.node.ae_title)
    assert association.is_established
    try:
        return [association.send_c_store(ds).Status for ds in datasets]
    finally:
        association.release()


def wait_for(condition: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


class Hospital:
    """A running node and its PACS, shared by the tests; each sends a study of its own."""

    def __init__(self, app: App, pacs: Pacs) -> None:
        self.app, self.pacs = app, pacs

    def ended(self, study: list[Dataset], n: int) -> list[Job]:
        """Wait until the study has ``n`` jobs and all have ended; return them."""
        uid = study[0].StudyInstanceUID

        def _all_ended() -> bool:
            jobs = self.app.ledger.jobs(study_instance_uid=uid)
            return len(jobs) >= n and all(job.state in FINAL for job in jobs)

        wait_for(_all_ended)
        jobs = self.app.ledger.jobs(study_instance_uid=uid)
        assert len(jobs) == n
        return jobs

    def received(self, study: list[Dataset]) -> list[Dataset]:
        """Return what the PACS got of the study."""
        return [ds for ds in self.pacs.received if ds.StudyInstanceUID == study[0].StudyInstanceUID]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    pacs = Pacs()
    pacs.start()
    app = build(make_settings(tmp_path_factory.mktemp("node") / "data", pacs.port))
    app.start()
    yield Hospital(app, pacs)
    app.stop()
    pacs.stop()


def _text(report: Dataset) -> str:
    return " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")


def test_incomplete_study_comes_back_as_a_refused_report(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(6)
    assert store(hospital.app, study) == [0x0000] * 6
    (job,) = hospital.ended(study, 1)
    assert job.state is JobState.REFUSED and job.outcome and job.outcome.code == "MISSING_SEQUENCE"
    page, report = hospital.received(study)
    assert (page.Modality, report.Modality) == ("OT", "SR")
    assert report.StudyInstanceUID == study[0].StudyInstanceUID and report.PatientID == study[0].PatientID
    assert "no T1W series found" in _text(report) and "t2_tse_tra" in _text(report)
    assert "read" in job.outcome.timings_s


def test_ct_is_refused_with_what_was_found(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(3, SOPClassUID=CTImageStorage, Modality="CT")
    store(hospital.app, study)
    (job,) = hospital.ended(study, 1)
    assert job.state is JobState.REFUSED
    assert "(CT, 3 images)" in _text(hospital.received(study)[-1])


def test_two_patients_under_one_study_are_refused_and_kept(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(6)
    for ds in study[3:]:
        ds.PatientID, ds.PatientName = "OTHER", "Other^Eve"
    assert store(hospital.app, study) == [0x0000] * 6
    (job,) = hospital.ended(study, 1)
    assert job.outcome and job.outcome.code == "MIXED_PATIENTS"
    page, report = hospital.received(study)
    assert page.PatientID == report.PatientID
    everything = str(report)
    assert ("OTHER" in everything) != (study[0].PatientID in everything), "a report names one of the patients, never both"


NAMES = {  # character set, name, its bytes (PS3.5 6.1.2)
    "chinese": ("GB18030", "王^小东", "王^小东".encode("gb18030")),
    "korean in utf-8": ("ISO_IR 192", "김^희중", "김^희중".encode()),
    "cyrillic": ("ISO_IR 144", "Люксембург^Роза", "Люксембург^Роза".encode("iso8859_5")),
    "latin 1": ("ISO_IR 100", "Müller^Änne", "Müller^Änne".encode("latin-1")),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Hanako=山田^花子", b"Yamada^Hanako=\x1b$B;3ED\x1b(B^\x1b$B2V;R\x1b(B"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_travel_to_the_node_and_back_unharmed(hospital: Hospital, make_study: MakeStudy, name: str) -> None:
    charset, written, encoded = NAMES[name]
    study = make_study(2, SpecificCharacterSet=charset, PatientName=written)
    store(hospital.app, study)
    hospital.ended(study, 1)
    received = hospital.received(study)
    assert len(received) == 2
    for ds in received:
        assert ds.SpecificCharacterSet == charset
        assert bytes(ds.PatientName.original_string).rstrip() == encoded


def test_late_image_makes_a_new_version_with_its_predecessor(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(6)
    store(hospital.app, study[:5])
    hospital.ended(study, 1)
    store(hospital.app, study[5:])
    first, second = hospital.ended(study, 2)
    assert (first.order.version, second.order.version) == (1, 2)
    assert second.order.predecessor == first.order.job_id
    old, new = (ds for ds in hospital.received(study) if ds.Modality == "SR")
    assert old.SOPInstanceUID != new.SOPInstanceUID and old.SeriesInstanceUID != new.SeriesInstanceUID
    (predecessor,) = new.PredecessorDocumentsSequence
    assert predecessor.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_same_study_again_changes_nothing(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(6)
    store(hospital.app, study)
    hospital.ended(study, 1)
    assert store(hospital.app, study) == [0x0000] * 6
    time.sleep(1.5)
    hospital.ended(study, 1)


def test_own_result_coming_back_triggers_nothing(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(6)
    store(hospital.app, study)
    hospital.ended(study, 1)
    assert store(hospital.app, hospital.received(study), calling="PACS") == [0x0000] * 2
    wait_for(lambda: not hospital.app.ledger.unplanned_studies())
    hospital.ended(study, 1)


def test_retry_makes_a_new_version(hospital: Hospital, make_study: MakeStudy) -> None:
    study = make_study(6)
    store(hospital.app, study)
    (first,) = hospital.ended(study, 1)
    hospital.app.store.add_request(json.dumps({"retry": first.order.job_id}).encode())
    hospital.app.store.add_request(b"noise")
    _, second = hospital.ended(study, 2)
    assert second.order.predecessor == first.order.job_id and len(hospital.received(study)) == 4, "a page and a report each"
    assert hospital.app.store.requests() == []
    hospital.app.store.add_request(json.dumps({"retry": first.order.job_id}).encode())  # the newest is another one
    wait_for(lambda: not hospital.app.store.requests())
    hospital.ended(study, 2)


def test_study_that_no_route_wants_is_kept_and_noted(settings: Settings, make_study: MakeStudy) -> None:
    route = settings.routes[0].model_copy(update={"modalities": ("US",)})
    app = build(settings.model_copy(update={"routes": (route,)}))
    app.start()
    try:
        study = make_study(2)
        store(app, study)
        wait_for(lambda: any(line.event == "STUDY_NOT_ROUTED" for line in app.ledger.audit_trail()))
        assert app.ledger.jobs() == [] and len(app.ledger.instances(study[0].StudyInstanceUID)) == 2
    finally:
        app.stop()


def test_unknown_system_is_a_config_error(settings: Settings) -> None:
    route = settings.routes[0].model_copy(update={"systems": ("nonsense",)})
    with pytest.raises(ConfigError, match=r"'systems' names 'nonsense'; known are"):
        build(settings.model_copy(update={"routes": (route,)}))


def test_node_stops_and_starts_again_without_doing_anything_twice(settings: Settings, pacs: Pacs, make_study: MakeStudy) -> None:
    pacs.start()
    study = make_study(6)
    for start in (1, 2):
        app = build(settings)
        app.start()
        try:
            store(app, study)
            Hospital(app, pacs).ended(study, 1)
            assert len(pacs.received) == 2, "a page and a report"
            started = [line for line in app.ledger.audit_trail() if line.event == "NODE_STARTED"]
            assert len(started) == start
        finally:
            app.stop()


def test_second_node_on_the_same_storage_is_a_config_error(hospital: Hospital) -> None:
    second = build(hospital.app.settings)
    with pytest.raises(ConfigError, match="another node runs on"):
        second.start()
    second.stop()
    assert hospital.app.redis is not None and hospital.app.redis.is_running()


@pytest.mark.parametrize(
    "other", [{"PatientID": "", "PatientName": "Other^Eve"}, {"IssuerOfPatientID": "ELSEWHERE"}, {"PatientBirthDate": "19991231"}]
)
def test_patients_are_told_apart_without_their_id(hospital: Hospital, make_study: MakeStudy, other: dict[str, str]) -> None:
    study = make_study(6)
    for ds in study:
        ds.PatientID, ds.IssuerOfPatientID = ("" if "PatientID" in other else "T-1"), "HERE"
    for ds in study[3:]:
        ds.update(dict(other))
    store(hospital.app, study)
    (job,) = hospital.ended(study, 1)
    assert job.outcome and job.outcome.code == "MIXED_PATIENTS"


@pytest.mark.filterwarnings("ignore:The value length .72. exceeds")
def test_object_that_fails_its_check_never_leaves_and_the_node_says_where_it_is(
    tmp_path: Path, pacs: Pacs, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "models", catalogue()["olnm_mri"])
    settings = make_settings(tmp_path / "data", pacs.port)
    node = settings.node.model_copy(update={"models_root": tmp_path / "models", "quiet_s": 15.0})  # more than a busy machine needs
    study = [
        ds for sequence in mr.OLNM_STUDY for ds in mr.make_series(sequence, FrameOfReferenceUID="1." + "2" * 70)
    ]  # 8 more than allowed
    pacs.start()
    route = settings.routes[0].model_copy(update={"wait_s": 0})  # for clinical values
    app = build(settings.model_copy(update={"node": node, "routes": (route,)}))
    app.start()
    try:
        assert set(store(app, study)) == {0x0000}
        wait_for(lambda: [j for j in app.ledger.jobs() if j.state in FINAL], timeout_s=400)
        (job,) = app.ledger.jobs()
        trail = [line for line in app.ledger.audit_trail(job_id=job.order.job_id) if line.event == "RESULT_QUARANTINED"]
    finally:
        app.stop()
    assert job.state is JobState.FAILED and [ds.Modality for ds in pacs.received] == ["OT", "SR"]
    assert "FrameOfReferenceUID is longer than 64 characters" in _text(pacs.received[-1])
    assert len(trail) == 1 and "FrameOfReferenceUID is longer" in trail[0].detail
    config = servers.write_config(tmp_path, node={"storage_root": str(tmp_path / "data")})
    main(["jobs", "show", job.order.job_id, "--json", "--config", str(config)])
    shown = Path(json.loads(capsys.readouterr().out)["quarantine"])
    assert {"SEG", "SR", "OT"} <= {pydicom.dcmread(path).Modality for path in shown.glob("*.dcm")}
