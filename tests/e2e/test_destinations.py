"""Destinations that take only some of what the node writes: probed, delivered to as far as possible, never in a loop."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from node.app import build
from node.cli import main
from node.config import Settings
from node.delivery import Deliverer
from node.destinations import Destinations
from node.dicom.probe import KINDS, Profile, probe
from node.dicom.scu import Address
from node.jobs import FINAL, JobOrder, JobOutcome, JobState, OutcomeObject, ResultStatus
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from node.storage.records import DeliveryState, Job, PlannedJob
from pipelines.errors import ConfigError, TransportError
from pipelines.systems import catalogue
from structured_reports.attributes import SR_SERIES
from structured_reports.variants import REPORT_CLASSES, convert, convertible_classes
from tests.bundles import write_bundle
from tests.e2e import servers
from tests.e2e.conftest import MakeStudy, Pacs
from tests.e2e.test_node import store, wait_for
from tests.results import make_result

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
STORESCP = Path("/usr/bin/storescp")
REPORTS, IMAGES = set(REPORT_CLASSES), {SegmentationStorage, SecondaryCaptureImageStorage}
OLD_DCMTK = """
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianImplicit
[[PresentationContexts]]
[Old]
PresentationContext1 = BasicTextSRStorage\\Plain
PresentationContext2 = SecondaryCaptureImageStorage\\Plain
[[Profiles]]
[Default]
PresentationContexts = Old
"""


@pytest.fixture(scope="module")
def objects() -> dict[str, tuple[str, str, bytes]]:
    """A result as the worker stores it: name -> SOP class, SOP instance, file."""
    encoded = {}
    for number, dataset in enumerate(make_result().build(), start=1):
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        name = f"{number:02d}_{dataset.Modality.lower()}.dcm"
        encoded[name] = (str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), buffer.getvalue())
    return encoded


class Site:
    """A store and a ledger with finished jobs, and what delivers them."""

    def __init__(self, settings: Settings, objects: dict[str, tuple[str, str, bytes]]) -> None:
        self.settings, self._objects = settings, objects
        self.store = StudyStore(settings.node.storage_root)
        self.store.prepare()
        self.ledger = Ledger(settings.node.storage_root / "ledger.sqlite3")
        self.deliverer = Deliverer(settings, store=self.store, ledger=self.ledger)

    def restart(self, **peer: Any) -> None:
        """Start anew on the same storage, with other settings for the PACS."""
        peers = tuple(p.model_copy(update=peer) if p.ae_title == "PACS" else p for p in self.settings.peers)
        self.settings = self.settings.model_copy(update={"peers": peers})
        self.deliverer = Deliverer(self.settings, store=self.store, ledger=self.ledger)

    def add(self, job_id: str, *, only: set[str] | None = None) -> None:
        """Store a result, of all its objects or those of some SOP classes."""
        kept = {n: o for n, o in self._objects.items() if only is None or o[0] in only}
        items = [
            OutcomeObject(path=n, sop_class_uid=c, sop_instance_uid=u, sha256=hashlib.sha256(b).hexdigest())
            for n, (c, u, b) in kept.items()
        ]
        order = JobOrder(
            job_id=job_id, system="s", bundle_version="1", bundle_digest="d", study_instance_uid=job_id.replace("a-", "1."), version=1,
            sop_instance_uids=(), created_at=datetime.now(UTC), station="CERVINODE",
        )  # fmt: skip
        outcome = JobOutcome(job_id=job_id, system="s", status=ResultStatus.DONE, objects=tuple(items))
        self.store.keep_result(outcome, {n: b for n, (_, _, b) in kept.items()})
        self.ledger.plan(order.study_instance_uid, [PlannedJob(order, job_id, ("PACS",))])
        self.ledger.move(job_id, JobState.QUEUED)
        self.ledger.accept_outcome(outcome)

    def job(self, job_id: str = "a-1") -> Job:
        job = self.ledger.job(job_id)
        assert job is not None
        return job

    def events(self) -> list[str]:
        return [line.event for line in self.ledger.audit_trail()]


@pytest.fixture
def site(settings: Settings, objects: dict[str, tuple[str, str, bytes]]) -> Iterator[Site]:
    made = Site(settings, objects)
    yield made
    made.ledger.close()


def _classes(received: list[Dataset]) -> list[str]:
    return [str(ds.SOPClassUID) for ds in received]


def _expected(objects: dict[str, tuple[str, str, bytes]], refused: set[str]) -> list[Dataset]:
    """Return what a peer gets that does not take some classes: each report as the first class that it can be written in and is taken."""
    expected = []
    for sop_class, _, content in objects.values():
        dataset = pydicom.dcmread(BytesIO(content))
        possible = convertible_classes(dataset) if sop_class in REPORTS else (sop_class,)
        taken = next((c for c in possible if c not in refused), None)
        expected += [] if taken is None else [dataset if taken == sop_class else convert(dataset, taken)]
    return expected


def _main(objects: dict[str, tuple[str, str, bytes]]) -> Dataset:
    return pydicom.dcmread(BytesIO(next(content for c, _, content in objects.values() if c == Comprehensive3DSRStorage)))


def _bytes(dataset: Dataset) -> bytes:
    """Return the data set as encoded, without file meta information."""
    buffer = BytesIO()
    Dataset(dataset).save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def test_probe_says_what_a_peer_takes_and_sends_nothing(pacs: Pacs) -> None:
    pacs.refuse = {Comprehensive3DSRStorage, SegmentationStorage}
    pacs.start()
    profile = probe(Address("PACS", "127.0.0.1", pacs.port), calling_ae_title="CERVINODE", timeout_s=5)
    assert set(profile.accepted) == set(KINDS) - pacs.refuse
    assert profile.implementation_version.startswith("PYNETDICOM") and profile.max_pdu_bytes == 16382
    assert profile.report_class(Comprehensive3DSRStorage) == ComprehensiveSRStorage
    assert profile.report_class(BasicTextSRStorage) == BasicTextSRStorage
    assert pacs.received == [] and pacs.associations == 1
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_peer_that_takes_nothing_has_an_empty_profile_and_one_that_is_away_none(pacs: Pacs) -> None:
    address = Address("PACS", "127.0.0.1", pacs.port)
    with pytest.raises(TransportError, match="cannot be reached"):
        probe(address, calling_ae_title="CERVINODE", timeout_s=5)
    pacs.refuse = set(KINDS)
    pacs.start()
    profile = probe(address, calling_ae_title="CERVINODE", timeout_s=5)
    assert profile.accepted == {} and profile.shows_nothing(Comprehensive3DSRStorage)


@pytest.mark.parametrize("depth", range(4))
def test_report_goes_as_the_first_class_that_the_peer_takes(
    site: Site, pacs: Pacs, objects: dict[str, tuple[str, str, bytes]], depth: int
) -> None:
    sop_class = REPORT_CLASSES[depth]
    pacs.refuse = set(REPORT_CLASSES[:depth])
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    expected = _expected(objects, pacs.refuse)
    assert [_bytes(ds) for ds in pacs.received] == [_bytes(ds) for ds in expected]
    job = site.job()
    assert (job.state, job.n_omitted) == (JobState.DONE, len(objects) - len(expected))
    assert (f"PACS got the report as {KINDS[sop_class]}" in job.detail) == (depth > 0)
    assert sum(ds.SOPClassUID == sop_class for ds in pacs.received) >= 1
    assert pacs.associations == 1, "the association that delivers is the probe"


def test_segmentation_is_omitted_and_said_everywhere(site: Site, pacs: Pacs, capsys: pytest.CaptureFixture[str]) -> None:
    pacs.refuse = {SegmentationStorage}
    pacs.start()
    site.add("a-1")
    for hour in range(3):
        site.deliverer.run(now=3600.0 * hour)
    job = site.job()
    n = len(site.ledger.deliveries("a-1"))
    assert (job.state, job.n_omitted) == (JobState.DONE, 1)
    assert job.detail == f"delivered with omissions: PACS does not accept 1 of {n} objects (Segmentation)"
    assert pacs.associations == 1 and len(pacs.received) == n - 1, "no retry loop"
    (ended,) = (line for line in site.ledger.audit_trail() if line.event == "JOB_ENDED")
    assert ended.detail == f"DONE: {job.detail}" and site.events().count("RESULT_OMITTED") == 1
    config = servers.write_config(site.store.root.parent, node={"storage_root": str(site.store.root)})
    assert main(["jobs", "list", "--config", str(config)]) == 0
    assert "a-1  DONE, omissions  s" in capsys.readouterr().out
    main(["jobs", "list", "--json", "--config", str(config)])
    assert [j["omitted"] for j in json.loads(capsys.readouterr().out)] == [1]


def test_class_that_is_only_refused_when_stored_falls_back_in_the_same_association(site: Site, pacs: Pacs) -> None:
    pacs.status = lambda ds: 0x0122 if ds.SOPClassUID in (Comprehensive3DSRStorage, ComprehensiveSRStorage) else 0x0000
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    assert EnhancedSRStorage in _classes(pacs.received) and pacs.associations == 1
    assert site.job().detail == "PACS got the report as Enhanced SR"


def test_report_in_none_of_its_classes_is_an_omission(site: Site, pacs: Pacs, objects: dict[str, tuple[str, str, bytes]]) -> None:
    pacs.refuse = REPORTS
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    job = site.job()
    assert (job.state, job.n_omitted) == (JobState.DONE, sum(c in REPORTS for c, _, _ in objects.values()))
    assert "Comprehensive 3D SR" in job.detail and not any(ds.Modality == "SR" for ds in pacs.received)


def test_variant_is_chosen_once_and_survives_a_death_between_sending_and_noting(
    site: Site, pacs: Pacs, objects: dict[str, tuple[str, str, bytes]]
) -> None:
    """The PACS got the report as Comprehensive SR, but its answer was lost; then it learned Comprehensive 3D. It must not get both."""
    pacs.refuse = {Comprehensive3DSRStorage}
    kept: list[Dataset] = []

    def keep_and_fail(ds: Dataset) -> int:
        kept.append(ds)
        return 0xA700

    main = str(_main(objects).SeriesDescription)
    pacs.status = lambda ds: keep_and_fail(ds) if ds.SeriesDescription == main else 0x0000
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    pacs.stop()
    pacs.refuse, pacs.status = set(), lambda ds: 0x0000
    pacs.start()
    site.restart()
    site.deliverer.run(now=100)
    (sent,) = (d for d in pacs.received if d.SeriesDescription == main)
    assert sent == kept[0] and sent.SOPClassUID == ComprehensiveSRStorage
    assert len(pacs.received) == len(site.ledger.deliveries("a-1")) == len(set(pacs.uids()))
    delivery = site.ledger.deliveries("a-1")[-1]
    assert (delivery.state, delivery.sop_instance_uid) == (DeliveryState.ACCEPTED, sent.SOPInstanceUID)
    assert (site.store.result_folder("a-1") / delivery.path).name.endswith("_sr_comprehensive_sr.dcm"), "stored beside the report"


def test_variant_that_fails_its_check_is_not_sent(settings: Settings, pacs: Pacs, objects: dict[str, tuple[str, str, bytes]]) -> None:
    name, (sop_class, uid, content) = next((n, o) for n, o in objects.items() if o[0] == Comprehensive3DSRStorage)
    broken = pydicom.dcmread(BytesIO(content))
    del broken.CompletionFlag
    buffer = BytesIO()
    broken.save_as(buffer, enforce_file_format=True)
    site = Site(settings, {**objects, name: (sop_class, uid, buffer.getvalue())})
    pacs.refuse = {Comprehensive3DSRStorage}
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    job = site.job()
    assert job.state is JobState.FAILED and "CompletionFlag is missing" in job.detail
    assert _classes(pacs.received).count(ComprehensiveSRStorage) == 1, "the outline's; the rest went out"
    assert site.events().count("RESULT_WITHHELD") == 1
    site.ledger.close()


def test_variant_that_was_changed_is_not_sent(site: Site, pacs: Pacs, objects: dict[str, tuple[str, str, bytes]]) -> None:
    pacs.refuse, pacs.status = {Comprehensive3DSRStorage}, lambda ds: 0xC000
    pacs.start()
    site.add("a-1", only={Comprehensive3DSRStorage})
    site.deliverer.run(now=0)
    (kept,) = site.store.result_folder("a-1").glob("*_comprehensive_sr.dcm")
    kept.write_bytes(kept.read_bytes().replace(b"TEST^PHANTOM", b"NEXT^PATIENT"))
    pacs.status = lambda ds: 0x0000
    site.deliverer.run(now=100)
    assert pacs.received == []
    assert site.job().state is JobState.FAILED and f"{kept.name} changed since it was made" in site.job().detail


def test_configured_kind_of_report_is_the_richest(site: Site, pacs: Pacs) -> None:
    pacs.start()
    site.restart(report="text")
    site.add("a-1")
    site.deliverer.run(now=0)
    assert [c for c in _classes(pacs.received) if c in REPORTS] == [BasicTextSRStorage]
    assert site.job().state is JobState.DONE and site.job().n_omitted == 0  # as it is configured, and nothing that was to come is missing


@pytest.mark.parametrize("refuse", [set(), {SegmentationStorage}])
def test_destination_without_the_graphic_report_is_delivered_all_the_same(site: Site, pacs: Pacs, refuse: set[str]) -> None:
    pacs.refuse = refuse
    pacs.start()
    site.restart(graphic=False)
    site.add("a-1")
    site.deliverer.run(now=0)
    job, deliveries = site.job(), site.ledger.deliveries("a-1")
    assert job.state is JobState.DONE and job.n_omitted == len(refuse)
    assert [d.state for d in deliveries].count(DeliveryState.UNWANTED) == 1
    assert len(pacs.received) == len(deliveries) - 1 - len(refuse)
    assert [ds.SeriesNumber for ds in pacs.received if ds.Modality == "SR"] == [SR_SERIES]
    assert ("1 of 7 objects (Segmentation)" in job.detail) == bool(refuse)


def test_segmentation_alone_is_a_failure_unless_acknowledged(site: Site, pacs: Pacs) -> None:
    pacs.refuse = {*REPORTS, SecondaryCaptureImageStorage}
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    job = site.job()
    assert job.state is JobState.FAILED and job.detail == "PACS took neither a report nor a capture: a radiologist sees nothing there"
    site.restart(may_show_nothing=True)
    site.add("a-2")
    site.deliverer.run(now=0)
    assert site.job("a-2").state is JobState.DONE and site.job("a-2").n_omitted > 0


def test_changed_answer_is_noticed_once(site: Site, pacs: Pacs) -> None:
    pacs.refuse = {SegmentationStorage}
    pacs.start()
    site.add("a-1")
    site.deliverer.run(now=0)
    pacs.stop()
    pacs.refuse = set()
    pacs.start()
    site.restart()
    for job_id in ("a-2", "a-3"):
        site.add(job_id)
        site.deliverer.run(now=0)
    lines = [(line.event, line.actor) for line in site.ledger.audit_trail() if line.event.startswith("DESTINATION")]
    assert lines == [("DESTINATION_ANSWERED", "PACS"), ("DESTINATION_CHANGED", "PACS")]
    first = site.ledger.audit_trail()[0].detail
    assert first.startswith("takes Comprehensive 3D SR, ") and first.endswith("; not Segmentation")


def test_destination_that_shows_nothing_is_not_activated(site: Site, pacs: Pacs) -> None:
    pacs.refuse = {*REPORTS, SecondaryCaptureImageStorage}
    pacs.start()
    with pytest.raises(ConfigError, match="takes neither any structured report nor Secondary Captures"):
        Destinations(site.settings, ledger=site.ledger).activate()
    site.restart(may_show_nothing=True)
    Destinations(site.settings, ledger=site.ledger).activate()
    assert site.events() == ["DESTINATION_ANSWERED"]


@pytest.mark.parametrize("change", ["port", "report"])
def test_title_with_another_address_or_report_is_not_in_use_yet(site: Site, pacs: Pacs, change: str) -> None:
    pacs.refuse = {*(REPORTS - {ComprehensiveSRStorage}), SecondaryCaptureImageStorage} if change == "report" else set()
    pacs.start()
    Destinations(site.settings, ledger=site.ledger).activate()
    other = Pacs()
    other.refuse = {*REPORTS, SecondaryCaptureImageStorage}
    other.start()
    try:
        site.restart(**{"port": {"port": other.port}, "report": {"report": "text"}}[change])
        with pytest.raises(ConfigError, match="a radiologist would see nothing there"):
            Destinations(site.settings, ledger=site.ledger).activate()
    finally:
        other.stop()


def test_destination_in_use_that_goes_blind_does_not_stop_the_node(site: Site, pacs: Pacs, caplog: pytest.LogCaptureFixture) -> None:
    pacs.start()
    Destinations(site.settings, ledger=site.ledger).activate()
    pacs.stop()
    pacs.refuse = set(KINDS)
    pacs.start()
    destinations = Destinations(site.settings, ledger=site.ledger)
    destinations.activate()
    destinations.refresh()
    assert "destination shows nothing" in caplog.text and site.events() == ["DESTINATION_ANSWERED", "DESTINATION_CHANGED"]


def test_destination_that_is_away_is_no_error(site: Site) -> None:
    Destinations(site.settings, ledger=site.ledger).activate()
    assert site.events() == []


def test_node_does_not_start_with_a_destination_that_shows_nothing(settings: Settings, pacs: Pacs) -> None:
    pacs.refuse = set(KINDS)
    pacs.start()
    with pytest.raises(ConfigError, match="may_show_nothing"):
        build(settings).start()


@pytest.mark.slow
def test_whole_node_refuses_in_the_class_that_the_archive_takes(settings: Settings, pacs: Pacs, make_study: MakeStudy) -> None:
    pacs.refuse = {Comprehensive3DSRStorage, SegmentationStorage}
    pacs.start()
    app = build(settings)
    app.start()
    try:
        study = make_study(6)
        assert set(store(app, study)) == {0x0000}
        wait_for(lambda: [j for j in app.ledger.jobs() if j.state in FINAL])
        (job,) = app.ledger.jobs()
        assert job.state is JobState.REFUSED and job.detail.endswith("; PACS got the report as Comprehensive SR")
        assert ComprehensiveSRStorage in _classes(pacs.received)
        assert pacs.received[-1].StudyInstanceUID == study[0].StudyInstanceUID
    finally:
        app.stop()


def _config(folder: Path, port: int, **peer: Any) -> Path:
    return servers.write_config(
        folder,
        node={"storage_root": str(folder / "data"), "models_root": str(folder / "models")},
        peers=[{"ae_title": "PACS", "host": "127.0.0.1", "port": port, **peer}],
        routes=[{"systems": ["olnm_mri"], "to": ["PACS"]}],
    )


def test_probe_command_says_what_a_radiologist_will_see(tmp_path: Path, pacs: Pacs, capsys: pytest.CaptureFixture[str]) -> None:
    pacs.refuse = {*REPORT_CLASSES[:3], SegmentationStorage, EncapsulatedPDFStorage}
    pacs.start()
    config = _config(tmp_path, pacs.port)
    assert main(["probe", "PACS", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "report        as Basic Text SR" in out and "segmentation  no (left out; jobs end with omissions)" in out
    assert "Comprehensive SR        no" in out and "Secondary Capture       yes    Explicit VR, Implicit VR" in out
    assert main(["probe", f"OTHER@127.0.0.1:{pacs.port}", "--json", "--config", str(config)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["report"], answer["captures"], answer["segmentation"]) == (BasicTextSRStorage, True, False)
    assert pacs.received == []


def test_commands_fail_on_a_destination_that_shows_nothing(tmp_path: Path, pacs: Pacs, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "models", catalogue()["olnm_mri"])
    pacs.refuse = {*REPORTS, SecondaryCaptureImageStorage}
    pacs.start()
    config = _config(tmp_path, pacs.port)
    assert main(["probe", "PACS", "--config", str(config)]) == 1
    assert "NOTHING would be visible" in capsys.readouterr().out
    assert main(["config", "check", "--config", str(config)]) == 2
    assert "a radiologist would see nothing there" in capsys.readouterr().err
    config = _config(tmp_path, pacs.port, may_show_nothing=True)
    assert main(["probe", "PACS", "--config", str(config)]) == main(["config", "check", "--config", str(config)]) == 0


def test_probe_of_nobody_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "PAX", "--config", str(_config(tmp_path, 104))]) == 2
    assert "known: PACS" in capsys.readouterr().err


@pytest.mark.slow
def test_dcmtk_that_knows_only_text_and_captures(site: Site, tmp_path: Path) -> None:
    servers.require(STORESCP)
    port, kept = servers.free_port(), tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "old.cfg").write_text(OLD_DCMTK)
    command = [str(STORESCP), "-od", str(kept), "-xf", str(tmp_path / "old.cfg"), "Default", str(port)]
    with servers.process(command, tmp_path / "storescp.log"):
        servers.wait_until(lambda: servers.accepts(port), seconds=10, what="storescp listens")
        site.restart(port=port)
        profile = probe(Address("PACS", "127.0.0.1", port), calling_ae_title="CERVINODE", timeout_s=5)
        assert profile.accepted == {BasicTextSRStorage: (ImplicitVRLittleEndian,), SecondaryCaptureImageStorage: (ImplicitVRLittleEndian,)}
        assert profile.implementation_version.startswith("OFFIS_DCMTK")
        site.add("a-1")
        site.deliverer.run(now=0)
    job = site.job()
    assert job.state is JobState.DONE and job.n_omitted and "PACS got the report as Basic Text SR" in job.detail
    stored = [pydicom.dcmread(p) for p in kept.iterdir()]
    assert set(_classes(stored)) == {BasicTextSRStorage, SecondaryCaptureImageStorage}
    text = next(p for p in kept.iterdir() if pydicom.dcmread(p).Modality == "SR")
    dump = subprocess.run(["/usr/bin/dsrdump", "+Pl", str(text)], capture_output=True, text=True, check=True).stdout
    assert '"Probability of occult lymph node metastasis")="71.3 %"' in dump


@pytest.mark.slow
@pytest.mark.parametrize("report", ["comprehensive-3d", "text"])
def test_orthanc_keeps_every_kind_of_report(site: Site, tmp_path: Path, report: str) -> None:
    with servers.orthanc(tmp_path / "orthanc", {"CERVINODE": 11119}) as archive:
        site.restart(port=archive.port, report=report)
        site.add("a-1")
        site.deliverer.run(now=0)
        sop_class = Comprehensive3DSRStorage if report == "comprehensive-3d" else BasicTextSRStorage
        (instance,) = archive.results()[sop_class]
        stored = pydicom.dcmread(BytesIO(archive.file(instance)))
        delivery = site.ledger.deliveries("a-1")[-1]
        assert stored == pydicom.dcmread(site.store.result_folder("a-1") / delivery.path)
        assert site.job().n_omitted == 0, "where text is configured, the outline is not to come"
