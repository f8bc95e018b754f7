"""Header values that may be absent, empty, of another type, or unreadable: what cannot be read counts as not there."""

from __future__ import annotations

import struct
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue

from pipelines.types import as_float

# What pydicom and its codecs raise on damaged files; it reads elements when they are first looked at, so anywhere.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def element(header: Dataset, tag: Any) -> DataElement | None:
    """Return one element by keyword or tag, or ``None`` where it is absent or unreadable."""
    try:
        return header[tag]
    except UNREADABLE:
        return None


def value(header: Dataset, tag: Any) -> Any:
    """Return the value of one element, or ``None`` where it is absent, empty, unreadable or a sequence."""
    found = element(header, tag)
    try:
        return None if found is None or found.VR == "SQ" or found.is_empty else found.value
    except UNREADABLE:
        return None


def values(header: Dataset, tag: Any) -> tuple[Any, ...]:
    """Return all values of one element, none where it is absent; one that is no list counts as a list of one."""
    found = value(header, tag)
    if found is None:
        return ()
    return tuple(found) if isinstance(found, MultiValue | list | tuple) else (found,)


def text(header: Dataset, tag: Any) -> str:
    """Return the value as text, empty where it is absent; several values are joined by a backslash."""
    return "\\".join(words(header, tag))


def words(header: Dataset, tag: Any) -> tuple[str, ...]:
    """Return all values as text."""
    return tuple(str(v).strip() for v in values(header, tag) if v is not None)


def upper(header: Dataset, tag: Any) -> tuple[str, ...]:
    """Return the values of a code string in upper case."""
    return tuple(word.upper() for word in words(header, tag))


def number(header: Dataset, tag: Any) -> float | None:
    """Return the first value as a finite float, or ``None``."""
    found = values(header, tag)
    return as_float(found[0]) if found else None


def integer(header: Dataset, tag: Any) -> int | None:
    """Return the first value as an integer, or ``None``."""
    found = number(header, tag)
    return None if found is None else int(found)


def numbers(header: Dataset, tag: Any, count: int) -> tuple[float, ...] | None:
    """Return exactly ``count`` finite floats, or ``None``."""
    found = tuple(n for n in (as_float(v) for v in values(header, tag)) if n is not None)
    return found if len(found) == count == len(values(header, tag)) else None


def items(header: Dataset, tag: Any) -> tuple[Dataset, ...]:
    """Return the items of a sequence, none where it is absent or no sequence."""
    found = element(header, tag)
    return tuple(found.value) if found is not None and found.VR == "SQ" and found.value else ()


def private(header: Dataset, creator: str, group: int, offset: int) -> DataElement | None:
    """Return a private element by its private creator (PS3.5 7.8.1), or ``None``; never by a fixed number."""
    try:
        return header.private_block(group, creator)[offset]
    except UNREADABLE:
        return None
