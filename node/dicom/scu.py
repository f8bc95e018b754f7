"""Send to peers: C-STORE of files over one association, and C-ECHO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from pipelines.errors import InputError, TransportError

_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd ids up to 255
PLAIN = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.4.2
_DUPLICATE = 0x0111
_DOES_NOT_MATCH, _CANNOT_UNDERSTAND = 0xA900, 0xC000  # PS3.4 B.2.3: A9xx, Cxxx
_OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3: A7xx

Context = tuple[str, tuple[str, ...]]  # SOP class, and transfer syntaxes of which the peer picks one


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer is reached."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


class Answer(StrEnum):
    """What a peer made of an instance."""

    ACCEPTED = "ACCEPTED"  # success, a warning, or it has the object already
    OMITTED = "OMITTED"  # it does not take this SOP class or transfer syntax
    REFUSED = "REFUSED"  # it does not understand this object, or finds that it does not match its class
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Sent:
    """The answer to one instance."""

    path: Path
    answer: Answer
    detail: str


class StoreAssociation:
    """An open association for C-STORE. It may be closed already: with all contexts rejected."""

    def __init__(self, association: Any, peer: Address) -> None:
        self.association, self._peer = association, peer
        self._accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}

    def accepts(self, sop_class_uid: str) -> bool:
        """Return whether the peer takes uncompressed objects of a class."""
        return any((sop_class_uid, syntax) in self._accepted for syntax in PLAIN)

    def store(self, path: Path) -> Sent:
        """Send a file; uncompressed ones as Explicit or Implicit VR Little Endian, as the peer prefers, all others as they are.

        Raises
        ------
        TransportError
            The peer fell silent, broke off or has no room.
        """
        if not self.association.is_established and self._accepted:
            raise TransportError(f"{self._peer} broke off the association")
        dataset = pydicom.dcmread(path)
        if missing := [k for k in ("SOPClassUID", "SOPInstanceUID") if not dataset.get(k)]:
            return Sent(path, Answer.FAILED, f"cannot be sent: it has no {', '.join(missing)}")
        sop_class, own = UID(dataset.SOPClassUID), UID(dataset.file_meta.TransferSyntaxUID)
        if not any((sop_class, syntax) in self._accepted for syntax in (PLAIN if own in PLAIN else (own,))):
            return Sent(path, Answer.OMITTED, f"{self._peer} does not accept {sop_class.name} as {own.name}")
        try:
            status = self.association.send_c_store(dataset)
        except ValueError as error:  # the object itself, say with a UID of more than 64 characters
            return Sent(path, Answer.FAILED, f"cannot be sent: {error}")
        except RuntimeError as error:
            raise TransportError(f"{self._peer}: {error}") from error
        return _judge(path, status, self._peer)


@contextmanager
def open_store(peer: Address, contexts: Iterable[Context], *, calling_ae_title: str, timeout_s: float) -> Iterator[StoreAssociation]:
    """Open an association for C-STORE that proposes these contexts, as many as one association can, and release it in the end.

    Raises
    ------
    TransportError
        The peer could not be reached, or rejected the association.
    """
    ae = make_ae(calling_ae_title, timeout_s)
    for sop_class, syntaxes in list(dict.fromkeys(contexts))[: _MAX_CONTEXTS - 1]:
        ae.add_requested_context(sop_class, list(syntaxes))
    ae.add_requested_context(Verification)  # keeps the association alive when the peer takes none of the SOP classes
    association = associate(ae, peer)
    try:
        yield StoreAssociation(association, peer)
    finally:
        release(association)


def send(paths: Sequence[Path], peer: Address, *, calling_ae_title: str, timeout_s: float) -> list[Sent]:
    """Send files in this order over one association and return an answer per file.

    Raises
    ------
    InputError
        A file is no DICOM file.
    TransportError
        The peer could not be reached, rejected the association or fell silent.
    """
    with open_store(peer, contexts_of(paths), calling_ae_title=calling_ae_title, timeout_s=timeout_s) as association:
        return [association.store(path) for path in paths]


def echo(peer: Address, *, calling_ae_title: str, timeout_s: float) -> None:
    """Verify that a peer answers to C-ECHO (PS3.4 A).

    Raises
    ------
    TransportError
        It does not; the message says how far it got.
    """
    ae = make_ae(calling_ae_title, timeout_s)
    ae.add_requested_context(Verification)
    association = associate(ae, peer)
    try:
        if not association.accepted_contexts:
            raise TransportError(f"{peer} does not support C-ECHO")
        status = association.send_c_echo()
    finally:
        release(association)
    if status.get("Status") != 0x0000:
        raise TransportError(f"{peer} answered C-ECHO with {describe(status)}")


def contexts_of(paths: Iterable[Path]) -> list[Context]:
    """Return the presentation contexts that files need: one per SOP class and transfer syntax, so that the peer can take each.

    Raises
    ------
    InputError
        A file is no DICOM file.
    """
    needed: dict[Context, None] = {}
    for path in paths:
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            sop_class, syntax = str(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID)
        except (InvalidDicomError, OSError, EOFError, AttributeError) as error:
            raise InputError(f"{path} is no DICOM file that can be sent: {error}") from error
        needed[sop_class, PLAIN if syntax in PLAIN else (str(syntax),)] = None
    return list(needed)


def make_ae(calling_ae_title: str, timeout_s: float) -> Any:
    """Return an application entity of ours for one association."""
    ae = AE(calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    ae.maximum_pdu_size = 0
    return ae


def associate(ae: Any, peer: Address) -> Any:
    """Open an association; perhaps with all contexts rejected.

    Raises
    ------
    TransportError
        The peer could not be reached, or rejected it.
    """
    try:
        association = ae.associate(peer.host, peer.port, ae_title=peer.ae_title)
    except (OSError, ValueError) as error:  # a name that does not resolve, a title or port that cannot be
        raise TransportError(f"{peer} cannot be reached: {error}") from error
    if association.is_established or association.rejected_contexts:
        return association  # with all contexts rejected it is closed already, but that is an answer
    if association.is_rejected:
        reason = association.acceptor.primitive
        raise TransportError(f"{peer} rejected the association: {reason.reason_str if reason else 'no reason given'}")
    raise TransportError(f"{peer} cannot be reached, or broke off")


def _judge(path: Path, status: Any, peer: Address) -> Sent:
    if "Status" not in status:
        raise TransportError(f"{peer} gave no answer")
    code = int(status.Status)
    if code in (0x0000, _DUPLICATE) or 0xB000 <= code <= 0xBFFF:
        return Sent(path, Answer.ACCEPTED, f"0x{code:04X}")
    if _OUT_OF_RESOURCES <= code <= _OUT_OF_RESOURCES + 0xFF:  # a full disk is not about this object: all is sent again later
        raise TransportError(f"{peer} is out of resources: {describe(status)}")
    if _DOES_NOT_MATCH <= code <= _DOES_NOT_MATCH + 0xFF or _CANNOT_UNDERSTAND <= code <= _CANNOT_UNDERSTAND + 0xFFF:
        return Sent(path, Answer.REFUSED, f"{peer} answered {describe(status)}")
    if code == _SOP_CLASS_NOT_SUPPORTED:
        return Sent(path, Answer.OMITTED, f"{peer} answered {describe(status)}")
    return Sent(path, Answer.FAILED, f"{peer} answered {describe(status)}")


def describe(status: Any) -> str:
    """Write a DIMSE status for a person."""
    if "Status" not in status:
        return "nothing"
    comment = f" ({status.ErrorComment})" if status.get("ErrorComment") else ""
    return f"status 0x{int(status.Status):04X}{comment}"


def release(association: Any) -> None:
    """End an association as politely as its state allows."""
    with suppress(RuntimeError):
        association.release() if association.is_established else association.abort()
