"""The listener against real associations: pynetdicom's SCU and dcmtk's storescu, over loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pynetdicom import AE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification

from node.config import NodeTable, Peer, Settings
from node.dicom.scp import Listener
from node.storage.files import StudyStore
from node.storage.ledger import Ledger
from pipelines.errors import ConfigError
from tests.foreign import need

MakeStudy = Callable[..., list[Dataset]]
STORESCU = Path("/usr/bin/storescu")  # not the one of the same name that pynetdicom installs


class Node:
    """A listener with its store and ledger."""

    def __init__(self, settings: Settings) -> None:
        self.store = StudyStore(settings.node.storage_root)
        self.store.prepare()
        self.ledger = Ledger(settings.node.storage_root / "ledger.sqlite3")
        self.listener = Listener(settings, store=self.store, ledger=self.ledger)

    def start(self) -> None:
        self.listener.start()

    def events(self) -> list[str]:
        return [line.event for line in self.ledger.audit_trail()]

    def path(self, ds: Dataset) -> Path:
        return self.store.instance_path(ds.StudyInstanceUID, ds.SOPInstanceUID)


@pytest.fixture
def node(settings: Settings) -> Iterator[Node]:
    made = Node(settings)
    made.start()
    yield made
    made.listener.stop()
    made.ledger.close()


@pytest.fixture
def associate(node: Node) -> Iterator[Callable[..., Any]]:
    opened = []

    def _associate(calling: str = "SCANNER", called: str = "CERVINODE", syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,)) -> Any:
        ae = AE(calling)
        ae.add_requested_context(MRImageStorage, list(syntaxes))
        ae.add_requested_context(Verification)
        opened.append(ae.associate("127.0.0.1", node.listener.port, ae_title=called))
        return opened[-1]

    yield _associate
    for association in opened:
        if association.is_established:
            association.release()


def send_bytes(association: Any, data_set: bytes, *, sop_instance_uid: str) -> int:
    """Send these very bytes as the data set of a C-STORE of an MR image."""
    from pynetdicom.dimse_primitives import C_STORE

    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MRImageStorage, sop_instance_uid
    request.DataSet = BytesIO(data_set)
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == MRImageStorage)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(response.Status)


def _encoded(ds: Dataset) -> bytes:
    content = encode(ds, False, True)
    assert content is not None
    return content


def test_instance_is_stored_as_it_came(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    assert associate().send_c_store(ds).Status == 0x0000
    kept = pydicom.dcmread(node.path(ds))
    assert kept == ds
    assert kept.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert node.path(ds).read_bytes().endswith(_encoded(ds))
    row = node.ledger.find_instance(ds.SOPInstanceUID)
    assert row is not None and row.calling_ae_title == "SCANNER" and row.transfer_syntax_uid == ExplicitVRLittleEndian


def test_echo_answers(associate: Callable[..., Any]) -> None:
    assert associate().send_c_echo().Status == 0x0000


@pytest.mark.parametrize("calling", ["STRANGER", "SINK"])
def test_caller_that_may_not_send_is_rejected(node: Node, associate: Callable[..., Any], calling: str) -> None:
    association = associate(calling=calling)
    assert association.is_rejected
    assert association.acceptor.primitive.reason_str == "Calling AE title not recognised"
    line = node.ledger.audit_trail()[-1]
    assert (line.event, line.actor) == ("ASSOCIATION_REJECTED", calling)


def test_other_called_ae_title_is_rejected(associate: Callable[..., Any]) -> None:
    association = associate(called="OTHER")
    assert association.is_rejected
    assert association.acceptor.primitive.reason_str == "Called AE title not recognised"


def test_node_that_nobody_may_send_to_does_not_start(settings: Settings) -> None:
    sink = Peer(ae_title="SINK", host="h", port=1, may_send=False)
    with pytest.raises(ConfigError, match="no peer may send"):
        Node(settings.model_copy(update={"peers": (sink,)}))


def test_port_in_use_is_a_config_error(node: Node, settings: Settings) -> None:
    taken = settings.node.model_copy(update={"port": node.listener.port})
    other = Listener(settings.model_copy(update={"node": taken}), store=node.store, ledger=node.ledger)
    with pytest.raises(ConfigError, match=r"\[node\] host, port: cannot listen"):
        other.start()


def test_image_without_pixel_data_does_not_match_its_class(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    del ds.PixelData
    assert associate().send_c_store(ds).Status == 0xA900
    assert not node.path(ds).exists() and node.ledger.find_instance(ds.SOPInstanceUID) is None
    line = node.ledger.audit_trail()[-1]
    assert line.event == "INSTANCE_REFUSED" and "without pixel data" in line.detail and ds.SOPInstanceUID in line.detail


def test_other_sop_instance_than_announced_does_not_match(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    announced = generate_uid()
    assert send_bytes(associate(), _encoded(ds), sop_instance_uid=announced) == 0xA900
    assert not node.path(ds).exists() and node.ledger.find_instance(announced) is None


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom's word for it; outside of tests it is not an error
def test_study_uid_that_is_a_path_does_not_match(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    ds.StudyInstanceUID = "1.2.3.4.5.6.7.8.90"
    content = _encoded(ds).replace(b"1.2.3.4.5.6.7.8.90", b"../../../../../abc")
    assert send_bytes(associate(), content, sop_instance_uid=ds.SOPInstanceUID) == 0xA900
    assert "StudyInstanceUID: '../.." in node.ledger.audit_trail()[-1].detail


@pytest.mark.parametrize("damage", ["noise", "cut pixels", "cut header"])
def test_corrupt_data_set_is_not_understood(node: Node, associate: Callable[..., Any], make_study: MakeStudy, damage: str) -> None:
    ds, good = make_study(2)
    content = _encoded(ds)
    damaged = {"noise": b"\xff" * 5000, "cut pixels": content[:-100], "cut header": content[:40]}[damage]
    association = associate()
    assert send_bytes(association, damaged, sop_instance_uid=ds.SOPInstanceUID) in (0xC000, 0xA900)
    assert not node.path(ds).exists() and node.ledger.find_instance(ds.SOPInstanceUID) is None
    assert association.send_c_store(good).Status == 0x0000, "the rest of the study is kept"


def test_cut_off_jpeg_is_not_understood(node: Node, make_study: MakeStudy) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    (ds,) = make_study(1)
    ds.PixelData = encapsulate([b"\xff\xd8" + bytes(998)])
    ds["PixelData"].is_undefined_length = True
    ae = AE("SCANNER")
    ae.add_requested_context(MRImageStorage, [JPEGLosslessSV1])
    association = ae.associate("127.0.0.1", node.listener.port, ae_title="CERVINODE")
    content = _encoded(ds)
    assert send_bytes(association, content[:-50], sop_instance_uid=ds.SOPInstanceUID) == 0xC000
    assert send_bytes(association, content, sop_instance_uid=ds.SOPInstanceUID) == 0x0000
    association.release()


def test_same_again_changes_nothing(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    association = associate()
    assert association.send_c_store(ds).Status == 0x0000
    before = node.path(ds).stat().st_mtime_ns
    assert association.send_c_store(ds).Status == 0x0000
    assert node.path(ds).stat().st_mtime_ns == before and len(node.ledger.instances(ds.StudyInstanceUID)) == 1


def test_other_content_under_the_same_uid_is_a_duplicate(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    association = associate()
    assert association.send_c_store(ds).Status == 0x0000
    first = node.path(ds).read_bytes()
    ds.SeriesDescription = "changed"
    assert association.send_c_store(ds).Status == 0x0111
    assert node.path(ds).read_bytes() == first
    assert node.events() == ["DUPLICATE_DIFFERS"]


def test_same_object_in_another_transfer_syntax_keeps_the_first(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    assert associate().send_c_store(ds).Status == 0x0000
    assert associate(syntaxes=(ImplicitVRLittleEndian,)).send_c_store(ds).Status == 0x0000
    assert pydicom.dcmread(node.path(ds)).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_big_endian_is_taken(node: Node, make_study: MakeStudy) -> None:
    (ds,) = make_study(1)
    ae = AE("SCANNER")
    ae.add_requested_context(MRImageStorage, [ExplicitVRBigEndian])
    association = ae.associate("127.0.0.1", node.listener.port, ae_title="CERVINODE")
    content = encode(ds, False, False)
    assert content is not None
    assert send_bytes(association, content, sop_instance_uid=ds.SOPInstanceUID) == 0x0000
    association.release()
    assert pydicom.dcmread(node.path(ds)).Rows == 16


def test_full_disk_is_out_of_resources(settings: Settings, make_study: MakeStudy) -> None:
    table = NodeTable(**settings.node.model_dump() | {"min_free_mb": 10**12})
    node = Node(settings.model_copy(update={"node": table}))
    node.start()
    (ds,) = make_study(1)
    ae = AE("SCANNER")
    ae.add_requested_context(MRImageStorage, [ExplicitVRLittleEndian])
    association = ae.associate("127.0.0.1", node.listener.port, ae_title="CERVINODE")
    assert association.send_c_store(ds).Status == 0xA700
    association.release()
    node.listener.stop()
    assert not node.path(ds).exists() and node.ledger.find_instance(ds.SOPInstanceUID) is None


def test_garbage_on_the_port_disturbs_nobody(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    first, second = make_study(2)
    association = associate()
    assert association.send_c_store(first).Status == 0x0000
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\x00" * 5000, b""):
        with socket.create_connection(("127.0.0.1", node.listener.port), timeout=5) as line:
            line.sendall(noise)
    assert association.send_c_store(second).Status == 0x0000
    assert associate().is_established


def test_many_associations_at_a_time_are_served(node: Node, associate: Callable[..., Any], make_study: MakeStudy) -> None:
    datasets = make_study(20)
    associations = [associate() for _ in datasets]
    assert all(a.is_established for a in associations)
    assert [a.send_c_store(ds).Status for a, ds in zip(associations, datasets, strict=True)] == [0x0000] * 20


@pytest.mark.parametrize(
    ("options", "stored"), [([], True), (["-xi"], True), (["-xb"], True), (["-xd"], True), (["-aet", "STRANGER"], False)]
)
def test_storescu_sends(node: Node, make_study: MakeStudy, tmp_path: Path, options: list[str], stored: bool) -> None:
    for number, ds in enumerate(datasets := make_study(3)):
        ds.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    command = [need(STORESCU), "-aet", "SCANNER", "-aec", "CERVINODE", *options, "127.0.0.1", str(node.listener.port), "+sd", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [node.path(ds).exists() for ds in datasets] == [stored] * 3, done.stderr
    if stored:
        assert pydicom.dcmread(node.path(datasets[0])).PixelData == datasets[0].PixelData


def test_transfer_syntax_that_we_do_not_know_is_not_accepted(node: Node, make_study: MakeStudy, associate: Callable[..., Any]) -> None:
    mpeg4 = "1.2.840.10008.1.2.4.102"
    association = associate(syntaxes=(mpeg4,))
    assert [c.abstract_syntax for c in association.rejected_contexts] == [MRImageStorage]
    assert association.rejected_contexts[0].result == 0x04  # PS3.8 9.3.3.2: transfer syntaxes not supported
    assert association.send_c_echo().Status == 0x0000


def test_deflated_instance_is_taken_and_one_that_fills_the_memory_is_not(
    associate: Callable[..., Any], make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ds,) = make_study(1)
    association = associate(syntaxes=(DeflatedExplicitVRLittleEndian,))
    deflated = encode(ds, False, True, deflated=True)
    assert deflated is not None
    monkeypatch.setattr("node.dicom.scp._MAX_INFLATED", 1 << 20)
    (bomb,) = make_study(1, PixelData=bytes(2 << 20))
    too_much = encode(bomb, False, True, deflated=True)
    assert too_much is not None and len(too_much) < 20_000
    assert send_bytes(association, too_much, sop_instance_uid=bomb.SOPInstanceUID) == 0xC000
    assert send_bytes(association, deflated, sop_instance_uid=ds.SOPInstanceUID) == 0x0000


def test_silent_connection_loses_its_place(node: Node, associate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.listener._ae.acse_timeout <= 10
    node.listener._ae.acse_timeout = 0.5
    node.listener._ae.maximum_associations = 2
    silent = [socket.create_connection(("127.0.0.1", node.listener.port)) for _ in range(2)]
    try:
        end = time.monotonic() + 10
        while not associate().is_established:
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        for one in silent:
            one.close()
