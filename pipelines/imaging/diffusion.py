"""The b-value of a diffusion image, wherever its vendor wrote it.

Private elements are found by their private creator (PS3.5 7.8), never by a fixed number, and may arrive as VR UN bytes when a
gateway did not know them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pydicom import Dataset

from pipelines.types import as_float

NEARLY_ZERO = 10.0  # s/mm2: some scanners write 1 or 5 for the image without diffusion weighting


class _PrivateElement(NamedTuple):
    creator: str
    group: int
    element: int


_PRIVATE = (
    _PrivateElement("SIEMENS MR HEADER", 0x0019, 0x0C),
    _PrivateElement("GEMS_PARM_01", 0x0043, 0x39),  # first of "1000\8\0\0"
    _PrivateElement("Philips Imaging DD 001", 0x2001, 0x03),
    _PrivateElement("Image Private Header", 0x0065, 0x09),  # United Imaging
)
_GE_OFFSET = 1_000_000_000  # GE adds 1e9 to b-values that were not acquired in one direction


def b_value(header: Dataset) -> float | None:
    """Return the b-value in s/mm2, or ``None`` where the image is not diffusion weighted or does not say.

    The standard element Diffusion b-value (0018,9087) of PS3.3 C.8.13.5.9 wins; then the vendors' private elements in turn.
    Values below ``NEARLY_ZERO`` count as zero.
    """
    value = as_float(header.get("DiffusionBValue"))
    if value is None:
        value = next((v for v in (_private(header, element) for element in _PRIVATE) if v is not None), None)
    if value is None or value < 0:
        return None
    value %= _GE_OFFSET
    return 0.0 if value < NEARLY_ZERO else value


def _private(header: Dataset, element: _PrivateElement) -> float | None:
    try:
        raw = header.private_block(element.group, element.creator)[element.element].value
    except KeyError:
        return None
    if isinstance(raw, bytes):
        raw = raw.decode("ascii", "replace")
    if isinstance(raw, str):
        found = re.match(r"\s*-?\d+(\.\d+)?", raw)
        return float(found.group()) if found else None
    if hasattr(raw, "__len__"):
        raw = raw[0] if len(raw) else None
    return as_float(raw)
