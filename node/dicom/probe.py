"""What a destination takes: every kind of object that the node may send, proposed in one association in which nothing is sent.

A peer answers each proposed presentation context with yes or no (PS3.8 9.3.3.2). Yes means that it stores such objects, not that its
viewer shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import UID, SecondaryCaptureImageStorage, SegmentationStorage

from node.dicom.scu import PLAIN, Address, Context, StoreAssociation, open_store
from structured_reports.variants import REPORT_CLASSES

_REPORT_NAMES = ("Comprehensive 3D SR", "Comprehensive SR", "Enhanced SR", "Basic Text SR")
KINDS: dict[str, str] = {
    **dict(zip(REPORT_CLASSES, _REPORT_NAMES, strict=True)),
    SegmentationStorage: "Segmentation",
    SecondaryCaptureImageStorage: "Secondary Capture",
}  # SOP classes that the node may send, and what people call them
CONTEXTS: tuple[Context, ...] = tuple((sop_class, (syntax,)) for sop_class in KINDS for syntax in PLAIN)  # 12 of the 128 there may be


@dataclass(frozen=True)
class Profile:
    """The answer of a peer.

    ``accepted`` are transfer syntaxes by SOP class, both of :data:`CONTEXTS`. ``max_pdu_bytes`` is the largest PDU that it takes, 0 for
    any. The implementation is named as the peer names itself (PS3.7 D.3.3.2).
    """

    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    implementation_class_uid: str = ""
    implementation_version: str = ""
    max_pdu_bytes: int = 0

    @classmethod
    def of(cls, opened: StoreAssociation) -> Profile:
        """Return the answer to an association that proposed :data:`CONTEXTS`."""
        taken = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in opened.association.accepted_contexts}
        by_class = {kind: tuple(syntax for syntax in PLAIN if (kind, syntax) in taken) for kind in KINDS}
        acceptor = opened.association.acceptor
        return cls(
            accepted={kind: syntaxes for kind, syntaxes in by_class.items() if syntaxes},
            implementation_class_uid=str(acceptor.implementation_class_uid or ""),
            implementation_version=str(acceptor.implementation_version_name or ""),
            max_pdu_bytes=int(acceptor.maximum_length or 0),
        )

    def report_class(self, richest: str) -> str | None:
        """Return the SOP class as which a report goes to the peer, ``richest`` or the first below that it takes; ``None`` if none."""
        return next((c for c in report_chain(richest) if c in self.accepted), None)

    def shows_nothing(self, richest: str) -> bool:
        """Return whether nothing that a person can read would arrive: no report, no capture."""
        return self.report_class(richest) is None and SecondaryCaptureImageStorage not in self.accepted

    def words(self) -> str:
        """Return what is taken and what is not, in one line."""
        takes = [name for kind, name in KINDS.items() if kind in self.accepted]
        lacks = [name for kind, name in KINDS.items() if kind not in self.accepted]
        return f"takes {', '.join(takes) or 'nothing'}" + (f"; not {', '.join(lacks)}" if lacks else "")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Profile:
        """Return the profile that :meth:`to_json` wrote."""
        return cls(**{**content, "accepted": {kind: tuple(syntaxes) for kind, syntaxes in content["accepted"].items()}})

    def to_json(self) -> dict[str, object]:
        """Return the profile JSON-ready."""
        return {
            "accepted": {kind: list(syntaxes) for kind, syntaxes in self.accepted.items()},
            "implementation_class_uid": self.implementation_class_uid,
            "implementation_version": self.implementation_version,
            "max_pdu_bytes": self.max_pdu_bytes,
        }


def probe(peer: Address, *, calling_ae_title: str, timeout_s: float) -> Profile:
    """Return what a peer takes. Nothing is sent.

    Raises
    ------
    TransportError
        It could not be reached, or rejected the association: that says nothing of what it takes.
    """
    with open_store(peer, CONTEXTS, calling_ae_title=calling_ae_title, timeout_s=timeout_s) as opened:
        return Profile.of(opened)


def report_chain(richest: str) -> tuple[str, ...]:
    """Return the SOP classes of reports in the order in which they are offered, from ``richest`` down."""
    return REPORT_CLASSES[REPORT_CLASSES.index(richest) :] if richest in REPORT_CLASSES else ()


def syntax_name(syntax: str) -> str:
    """Return the name of a transfer syntax as people say it."""
    return str(UID(syntax).name).removesuffix(" Little Endian")
