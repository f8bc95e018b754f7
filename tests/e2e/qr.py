"""An archive that can be asked (C-FIND) and that sends (C-MOVE), made with pynetdicom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelMove

from tests.e2e.servers import free_port


class Archive:
    """A query/retrieve SCP. ``destinations`` are the AE titles that it may send to, with their ports.

    ``counts``: whether it says how many instances a series has. ``refuse`` answers every C-FIND with a failure, and ``lose`` are instances
    that it announces but cannot send.
    """

    def __init__(self, title: str = "PACS") -> None:
        self.title, self.port = title, free_port()
        self.instances: list[Dataset] = []
        self.destinations: dict[str, int] = {}
        self.counts, self.refuse = True, False
        self.lose: set[str] = set()
        self.finds, self.moves = 0, 0
        self._server: Any = None

    def start(self) -> None:
        ae = AE(self.title)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def send(self, instances: list[Dataset], port: int, called: str = "CERVINODE") -> None:
        """C-STORE instances, as a router in front of the archive would, over an association of its own."""
        ae = AE(self.title)
        for sop_class in {ds.SOPClassUID for ds in instances}:
            ae.add_requested_context(sop_class)
        association = ae.associate("127.0.0.1", port, ae_title=called)
        assert association.is_established
        assert all(association.send_c_store(ds).Status == 0x0000 for ds in instances)
        association.release()

    def _matching(self, wanted: Dataset) -> list[Dataset]:
        keys = [k for k in ("StudyInstanceUID", "SeriesInstanceUID") if wanted.get(k)]
        return [ds for ds in self.instances if all(ds.get(k) == wanted.get(k) for k in keys)]

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.finds += 1
        if self.refuse:
            yield 0xC001, None
            return
        wanted = event.identifier
        level = str(wanted.QueryRetrieveLevel)
        unique = "SeriesInstanceUID" if level == "SERIES" else "SOPInstanceUID"
        matches = self._matching(wanted)
        for uid in dict.fromkeys(str(ds.get(unique)) for ds in matches):
            own = [ds for ds in matches if ds.get(unique) == uid]
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            answer.StudyInstanceUID, answer.SeriesInstanceUID = own[0].StudyInstanceUID, own[0].SeriesInstanceUID
            setattr(answer, unique, uid)
            if level == "SERIES":
                answer.SeriesDescription = own[0].get("SeriesDescription", "")
                if self.counts:
                    answer.NumberOfSeriesRelatedInstances = len(own)
            yield 0xFF00, answer

    def _move(self, event: Any) -> Iterator[Any]:
        self.moves += 1
        port = self.destinations.get(event.move_destination)
        if port is None:
            yield None, None
            return
        yield (
            "127.0.0.1",
            port,
            {
                "contexts": [c for c in StoragePresentationContexts if "MR Image" in c.abstract_syntax.name],
                "ae_title": event.move_destination,
            },
        )
        matches = [ds for ds in self._matching(event.identifier) if ds.SOPInstanceUID not in self.lose]
        yield len(matches)
        for ds in matches:
            yield 0xFF00, ds
