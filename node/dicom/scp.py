"""The listener: C-STORE and C-ECHO from peers we know. Success is answered only when file and ledger row are on the disk.

Statuses of C-STORE (PS3.4 B.2.3, PS3.7 C): 0x0000 stored, or here already; 0x0111 another object has this UID already; 0xA700 out of
resources; 0xA900 the data set is not what the command announced; 0xC000 it cannot be understood; 0x0110 our own failure.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import socket
import sqlite3
import threading
import time
import zlib
from io import BytesIO
from typing import Any, Literal

import pydicom
from pydicom import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom import _config as pynetdicom_config
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification

from node.audit import AuditEvent, record
from node.config import Settings
from node.log import fields
from node.storage.files import StudyStore, check_uid
from node.storage.ledger import Ledger
from node.storage.records import ReceivedInstance
from pipelines.errors import ConfigError, InputError

TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
)

_ACSE_TIMEOUT_S = 10.0  # a connection that asks for no association must not hold one of the places
_MAX_INFLATED = 256 << 20  # bytes; far above any image that is sent deflated
_INFLATE_STEP = 1 << 20  # bytes

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.14
DUPLICATE = 0x0111  # PS3.7 C.5.6: Duplicate SOP Instance
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_LOCKS = 64  # C-STOREs of different instances run side by side; of the same one, in turn
_PIXEL_DATA = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}  # float, double float, integer
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0"

log = logging.getLogger(__name__)


class StoreError(InputError):
    """The instance was not stored."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Listener:
    """The storage SCP of a node."""

    def __init__(self, settings: Settings, *, store: StudyStore, ledger: Ledger) -> None:
        senders = [p.ae_title for p in settings.peers if p.may_send]
        if not senders:
            raise ConfigError("[[peers]]: no peer may send, so the node could not receive anything; list at least one")
        pynetdicom_config.LOG_HANDLER_LEVEL = "none"  # describing every message in the debug log costs a third of the speed
        self._store, self._ledger = store, ledger
        self._min_free_mb = settings.node.min_free_mb
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._ae = AE(settings.node.ae_title)
        self._ae.require_calling_aet = senders
        self._ae.require_called_aet = True
        self._ae.acse_timeout = _ACSE_TIMEOUT_S
        self._ae.maximum_associations = settings.node.max_associations
        self._ae.maximum_pdu_size = settings.node.max_pdu_bytes
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(context.abstract_syntax, list(TRANSFER_SYNTAXES))
        self._ae.add_supported_context(Verification)
        self._address = (settings.node.host, settings.node.port)
        self._server: Any = None

    @property
    def port(self) -> int:
        """Return the TCP port that is listened on."""
        return int(self._server.socket.getsockname()[1])

    def start(self) -> None:
        """Listen, in threads of its own.

        Raises
        ------
        ConfigError
            The address cannot be listened on.
        """
        handlers = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_CONN_OPEN, _on_open), (evt.EVT_REJECTED, self._on_rejected)]
        try:
            self._server = self._ae.start_server(self._address, block=False, evt_handlers=handlers)
        except OSError as error:
            raise ConfigError(f"[node] host, port: cannot listen on {self._address[0]}:{self._address[1]} ({error.strerror})") from error

    def stop(self) -> None:
        """Stop listening and abort what is open; senders will send again what was not confirmed."""
        if self._server is not None:
            self._server.shutdown()
            self._ae.shutdown()
            self._server = None

    def _on_rejected(self, event: Any) -> None:
        request = event.assoc.requestor.primitive
        caller = request.calling_ae_title if request else "?"
        log.warning("association rejected", extra=fields(calling=caller, address=event.assoc.requestor.address))
        record(self._ledger, AuditEvent.ASSOCIATION_REJECTED, actor=caller, detail=f"from {event.assoc.requestor.address}")

    def _on_store(self, event: Any) -> int:
        """Answer one C-STORE request with its status."""
        caller = event.assoc.requestor.ae_title
        sop_instance_uid = str(event.request.AffectedSOPInstanceUID)
        try:
            return self._keep(*_read_request(event))
        except StoreError as error:
            status, detail = error.status, str(error)
        except Exception as error:
            status, detail = _status_of(error), type(error).__name__
            log.exception("instance not stored", extra=fields(sop_instance=sop_instance_uid))
        log.warning("instance refused", extra=fields(calling=caller, status=f"0x{status:04X}", reason=detail))
        if status not in (OUT_OF_RESOURCES, PROCESSING_FAILURE):  # then the ledger cannot be written either
            line = f"{sop_instance_uid}: 0x{status:04X} {detail}"
            record(self._ledger, AuditEvent.INSTANCE_REFUSED, actor=caller, detail=line)
        return status

    def _keep(self, instance: ReceivedInstance, content: bytes) -> int:
        with self._locks[hash(instance.sop_instance_uid) % _LOCKS]:
            earlier = self._ledger.find_instance(instance.sop_instance_uid)
            if earlier is not None:
                return self._answer_duplicate(earlier, instance)
            if (free := self._store.free_mb()) < self._min_free_mb:
                raise StoreError(OUT_OF_RESOURCES, f"{free:.0f} MB free, {self._min_free_mb} MB are kept")
            self._store.keep_instance(instance.study_instance_uid, instance.sop_instance_uid, content)
            self._ledger.add_instance(instance)
        return SUCCESS

    def _answer_duplicate(self, earlier: ReceivedInstance, now: ReceivedInstance) -> int:
        """Keep the first one: the same again, or the same in another transfer syntax, is fine; another object is not."""
        if earlier.transfer_syntax_uid != now.transfer_syntax_uid or earlier.sha256 == now.sha256:
            return SUCCESS
        detail = f"{now.sop_instance_uid}: other content than received from {earlier.calling_ae_title}; the first is kept"
        log.warning("duplicate differs", extra=fields(sop_instance=now.sop_instance_uid, calling=now.calling_ae_title))
        record(
            self._ledger,
            AuditEvent.DUPLICATE_DIFFERS,
            actor=now.calling_ae_title,
            study_instance_uid=earlier.study_instance_uid,
            detail=detail,
        )
        return DUPLICATE


def _on_open(event: Any) -> None:
    """Send small packets at once: Nagle's algorithm against delayed ACK costs 40 ms per message."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _status_of(error: Exception) -> int:
    if (isinstance(error, OSError) and error.errno in _DISK_FULL) or (isinstance(error, sqlite3.Error) and "full" in str(error)):
        return OUT_OF_RESOURCES
    return PROCESSING_FAILURE if isinstance(error, (OSError, sqlite3.Error)) else CANNOT_UNDERSTAND


def _read_request(event: Any) -> tuple[ReceivedInstance, bytes]:
    """Check a request; return what it brings and the PS3.10 file that will be kept: our header and the data set's bytes as they came.

    Raises
    ------
    StoreError
        With the status to answer.
    """
    data_set = event.request.DataSet.getvalue()
    meta = event.file_meta
    meta.SourceApplicationEntityTitle = event.assoc.requestor.ae_title
    content = b"\x00" * 128 + b"DICM" + encode_file_meta(meta) + data_set
    syntax = UID(meta.TransferSyntaxUID)
    if syntax.is_deflated:
        _check_inflation(data_set)
    buffer = BytesIO(content)
    header = pydicom.dcmread(buffer, stop_before_pixels=True)
    _check_uids(header, event.request)
    if not syntax.is_deflated:
        _check_pixels(header, content, buffer.tell(), syntax)
    instance = ReceivedInstance(
        sop_instance_uid=str(header.SOPInstanceUID),
        sop_class_uid=str(header.SOPClassUID),
        transfer_syntax_uid=str(syntax),
        series_instance_uid=str(header.SeriesInstanceUID),
        study_instance_uid=str(header.StudyInstanceUID),
        calling_ae_title=event.assoc.requestor.ae_title,
        sha256=hashlib.sha256(data_set).hexdigest(),
        received_at=time.time(),
    )
    return instance, content


def _check_inflation(data_set: bytes) -> None:
    """Refuse a deflated data set (PS3.5 A.5) that would fill the memory, without keeping what it inflates to."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, data_set
    while rest:
        size += len(inflate.decompress(rest, _INFLATE_STEP))
        if size > _MAX_INFLATED:
            raise StoreError(CANNOT_UNDERSTAND, f"the deflated data set holds more than {_MAX_INFLATED >> 20} MB")
        rest = inflate.unconsumed_tail


def _check_uids(header: Dataset, request: Any) -> None:
    if not len(header):
        raise StoreError(CANNOT_UNDERSTAND, "the data set is empty")
    for keyword, announced in (("SOPClassUID", request.AffectedSOPClassUID), ("SOPInstanceUID", request.AffectedSOPInstanceUID)):
        if str(header.get(keyword, "")) != str(announced):
            raise StoreError(DOES_NOT_MATCH, f"{keyword} is {header.get(keyword, 'absent')}, the command says {announced}")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        try:
            check_uid(str(header.get(keyword, "")))
        except InputError as error:
            raise StoreError(DOES_NOT_MATCH, f"{keyword}: {error}") from error


def _check_pixels(header: Dataset, content: bytes, offset: int, syntax: UID) -> None:
    """Check that an image has pixel data and that all of it came; its element would start at ``offset`` (PS3.5 7.1, A.4)."""
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    group, element = (int.from_bytes(content[offset + i : offset + i + 2], order) for i in (0, 2))
    if (group, element) not in _PIXEL_DATA:
        if "Image Storage" in UID(header.SOPClassUID).name:
            raise StoreError(DOES_NOT_MATCH, f"an instance of {UID(header.SOPClassUID).name} without pixel data")
        return
    start = offset + (8 if syntax.is_implicit_VR else 12)
    length = int.from_bytes(content[start - 4 : start], order)
    cut_off = content.rfind(_SEQUENCE_DELIMITER, start) < 0 if length == _UNDEFINED_LENGTH else start + length > len(content)
    if cut_off:
        raise StoreError(CANNOT_UNDERSTAND, "the pixel data is cut off")
