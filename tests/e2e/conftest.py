"""A small hospital on loopback: images made in code, a PACS that keeps what it gets, and settings for a node between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from node.config import DeliveryTable, NodeTable, Peer, Route, Settings, WorkerTable
from tests.e2e.servers import free_port
from tests.mr import Sequence, make_series

MakeStudy = Callable[..., list[Dataset]]


def _make_study(n: int = 6, **values: Any) -> list[Dataset]:
    """Return one T2 series of ``n`` slices of 16 x 16 pixels, a study of its own; ``values`` are attributes of every instance."""
    sequence = Sequence(4, "t2_tse_tra", 100, 5000, shape=(n, 16, 16))
    return make_series(sequence, **{"StudyInstanceUID": generate_uid(), **values})


@pytest.fixture
def make_study() -> MakeStudy:
    return _make_study


class Pacs:
    """A storage SCP that keeps every object it gets. ``refuse`` are SOP classes it does not know; ``status`` answers a C-STORE."""

    def __init__(self) -> None:
        self.port = free_port()
        self.refuse: set[str] = set()
        self.status: Callable[[Dataset], int] = lambda ds: 0x0000
        self.received: list[Dataset] = []
        self.associations = 0
        self._server: Any = None

    def start(self) -> None:
        ae = AE("PACS")
        ae.supported_contexts = [c for c in AllStoragePresentationContexts if c.abstract_syntax not in self.refuse]
        ae.add_supported_context(Verification)
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep), (evt.EVT_ACCEPTED, self._count)]
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def uids(self) -> list[str]:
        return [str(ds.SOPInstanceUID) for ds in self.received]

    def _keep(self, event: Any) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        status = self.status(ds)
        if status == 0x0000:
            self.received.append(ds)
        return status

    def _count(self, _: Any) -> None:
        self.associations += 1


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs()
    yield made
    made.stop()


def make_settings(storage_root: Path, pacs_port: int) -> Settings:
    """A node on a free port that knows the PACS and one scanner; quick in everything."""
    return Settings(
        node=NodeTable(port=0, storage_root=storage_root, quiet_s=0.5, min_free_mb=0),
        worker=WorkerTable(heartbeat_s=0.5),
        delivery=DeliveryTable(retry_first_s=0.2, retry_max_s=0.5, timeout_s=20),
        peers=(
            Peer(ae_title="PACS", host="127.0.0.1", port=pacs_port),
            Peer(ae_title="SCANNER", host="127.0.0.1", port=104),
            Peer(ae_title="SINK", host="127.0.0.1", port=104, may_send=False),
        ),
        routes=(Route(systems=("olnm_mri",), to=("PACS",)),),
    )


@pytest.fixture
def settings(tmp_path: Path, pacs: Pacs) -> Settings:
    return make_settings(tmp_path / "data", pacs.port)
