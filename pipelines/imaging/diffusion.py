"""The b-value of a diffusion image, wherever its vendor wrote it, and whether the image is a trace or one direction.

Private elements are found by their private creator (PS3.5 7.8), never by a fixed number, and may arrive as VR UN bytes when a
gateway did not know them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from pydicom import Dataset

from pipelines.imaging.elements import number, private, text, upper
from pipelines.types import as_float

NEARLY_ZERO = 10.0  # s/mm2: some scanners write 1 or 5 for the image without diffusion weighting
_SAME_B = 0.03  # relative: some scanners write the b-value that each direction really had
_GE_OFFSET = 1_000_000_000  # GE adds 1e9 to b-values that were not acquired in one direction
_PLAUSIBLE_B = 20_000.0  # s/mm2


class _PrivateElement(NamedTuple):
    creator: str
    group: int
    element: int
    binary: str = ""  # struct format of a value that arrives as VR UN bytes; text where empty


_PRIVATE = (
    _PrivateElement("SIEMENS MR HEADER", 0x0019, 0x0C),
    _PrivateElement("GEMS_PARM_01", 0x0043, 0x39),  # first of "1000\8\0\0"
    _PrivateElement("Philips Imaging DD 001", 0x2001, 0x03, "<f"),
    _PrivateElement("Image Private Header", 0x0065, 0x09, "<d"),  # United Imaging
    _PrivateElement("MMCPrivate", 0x0029, 0x30, "<d"),  # Hitachi
)
_SILENT_AT_ZERO = ("TOSHIBA", "CANON")  # makers that write a b-value only where a diffusion gradient was applied
_GE_TRACE = 19  # of (0043,xx30), by which GE tells T2 (14), directions (16), FA (18) and trace images (19) of one scan apart
_SIEMENS_NAME = re.compile(r"^\W*ep_b(\d+)(?:t|#\d+)?$")  # Sequence Name (0018,0024) "*ep_b800t", where private elements were removed
_CANON_COMMENT = re.compile(r"\bb=\s*(\d+(?:\.\d+)?)\s*\(", re.IGNORECASE)  # Image Comments (0020,4000) "b=1000(0.44,0.00,0.89)"
_TRACE_TYPES = {"TRACEW", "TRACE", "ISO", "ISOTROPIC", "DWI_TRACE"}


def b_value(header: Dataset) -> float | None:
    """Return the b-value in s/mm2, or ``None`` where the image is not diffusion weighted or does not say.

    The standard element Diffusion b-value (0018,9087) of PS3.3 C.8.13.5.9 wins; then the vendors' private elements in turn, then what
    Siemens and Canon write in words. An echo planar image of Canon that says nothing has b = 0. Values below ``NEARLY_ZERO`` count as zero.
    """
    value = number(header, "DiffusionBValue")
    if value is None and text(header, "DiffusionDirectionality").upper() == "NONE":
        value = 0.0
    if value is None:
        value = next((v for v in (_private(header, element) for element in _PRIVATE) if v is not None), None)
    if value is None:
        value = _in_words(header)
    if value is None and "EP" in upper(header, "ScanningSequence") and text(header, "Manufacturer").upper().startswith(_SILENT_AT_ZERO):
        value = 0.0
    if value is None or value < 0:
        return None
    value %= _GE_OFFSET
    if value > _PLAUSIBLE_B:
        return None
    return 0.0 if value < NEARLY_ZERO else value


def nominal(b_values: Iterable[float]) -> dict[float, float]:
    """Return for each b-value the nominal one: neighbours within 3 % are one, named by the middle of them."""
    groups: list[list[float]] = []
    for b in sorted(set(b_values)):
        if groups and b - groups[-1][0] <= _SAME_B * b:
            groups[-1].append(b)
        else:
            groups.append([b])
    return {b: group[len(group) // 2] for group in groups for b in group}


def is_trace(header: Dataset) -> bool:
    """Tell whether an image is the mean over directions that the scanner made."""
    if _TRACE_TYPES & set(upper(header, "ImageType")[2:]) or text(header, "DiffusionDirectionality").upper() == "ISOTROPIC":
        return True
    if _private(header, _PrivateElement("GEMS_PARM_01", 0x0043, 0x30, "<h")) == _GE_TRACE:
        return True
    philips = private(header, "Philips Imaging DD 001", 0x2001, 0x04)
    return philips is not None and _decoded(philips.value).strip().upper() in ("I", "ISOTROPIC")


def _private(header: Dataset, wanted: _PrivateElement) -> float | None:
    found = private(header, wanted.creator, wanted.group, wanted.element)
    raw = None if found is None else found.value
    if isinstance(raw, bytes) and wanted.binary:
        size = struct.calcsize(wanted.binary)
        return as_float(struct.unpack(wanted.binary, raw[:size])[0]) if len(raw) >= size else None
    if isinstance(raw, bytes | str):
        match = re.match(r"\s*-?\d+(\.\d+)?", _decoded(raw))
        return float(match.group()) if match else None
    if raw is not None and hasattr(raw, "__len__"):
        raw = raw[0] if len(raw) else None
    return as_float(raw)


def _in_words(header: Dataset) -> float | None:
    match = _SIEMENS_NAME.match(text(header, "SequenceName")) or _CANON_COMMENT.search(text(header, "ImageComments"))
    return float(match.group(1)) if match else None


def _decoded(raw: object) -> str:
    return raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw or "")
