"""Names and identifiers as bytes: what stands in the file of a source, and what will stand in the file of a result.

Decoding loses what does not fit the declared character set, so such text is carried as the bytes that it came as.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom
import pydicom.charset
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_NAMES = ("PatientName", "ReferringPhysicianName")
_PADDING = b" \0"
_NOT_DECODED = "\ufffd"
_LATIN = frozenset({"ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 148"})  # alphabets that extend the English one
_BETWEEN_WORDS = re.compile(r"[\^=\\\s.,'´·-]+")


def text_element(header: Dataset, keyword: str) -> DataElement:
    """Return an attribute decoded, and leave it undecoded in the header: its bytes are wanted later."""
    found = header.get_item(keyword)
    if isinstance(found, RawDataElement) and dictionary_VR(keyword) in TEXT_VRS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of characters that cannot be decoded
            element = convert_raw_data_element(found, encoding=list(_encodings(header)), ds=header)
            str(element.value)  # names are decoded when they are first looked at
            return element
    return header[keyword]


def received_bytes(header: Dataset, keywords: Iterable[str], *, from_file: bool = True) -> dict[str, bytes]:
    """Return the text attributes of a header as they stand in the file that it was read from, as far as they are to be had."""
    texts = [k for k in keywords if k in header and dictionary_VR(k) in TEXT_VRS]
    found = _undecoded(header, texts)
    path = getattr(header, "filename", None)
    if from_file and len(found) < len(texts) and isinstance(path, str) and Path(path).is_file():
        try:
            found |= _undecoded(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(texts)), texts)
        except (InvalidDicomError, OSError, EOFError):
            return found
    return found


def _undecoded(header: Dataset, keywords: Sequence[str]) -> dict[str, bytes]:
    elements = {k: header.get_item(k) for k in keywords if k in header}
    return {k: (e.value or b"").rstrip(_PADDING) for k, e in elements.items() if isinstance(e, RawDataElement)}


def bytes_to_keep(header: Dataset, keywords: Iterable[str]) -> dict[str, bytes]:
    """Return the text attributes that decoding and encoding would not restore, as they stand in the file."""
    texts = {k: text_element(header, k) for k in keywords if k in header and dictionary_VR(k) in TEXT_VRS}
    damaged = any(_NOT_DECODED in str(element.value) for element in texts.values())
    received = received_bytes(header, texts, from_file=damaged)
    return {k: raw for k, raw in received.items() if raw != _encode(texts[k], _encodings(header))}


def element_of_bytes(header: Dataset, keyword: str, raw: bytes) -> DataElement:
    """Return an attribute that is written as these bytes."""
    vr = dictionary_VR(keyword)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = PersonName(raw, _encodings(header)) if vr == "PN" else raw
        str(value)  # decoded here, where nobody is to be warned
        return DataElement(pydicom.tag.Tag(keyword), vr, value)


def written_bytes(d: Dataset, keyword: str) -> bytes:
    """Return a text attribute as it stands, or will stand, in the file; empty where absent."""
    if keyword not in d:
        return b""
    undecoded = _undecoded(d, [keyword])
    return undecoded[keyword] if undecoded else _encode(d[keyword], _encodings(d))


def has_misdeclared_text(source: Dataset, keywords: Iterable[str]) -> bool:
    """Tell whether a normalised header has text that its declared character set cannot be the right one for."""
    encodings = _encodings(source)
    for keyword in (k for k in keywords if k in source and dictionary_VR(k) in TEXT_VRS):
        raw = written_bytes(source, keyword)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = pydicom.charset.decode_bytes(raw, list(encodings), set(pydicom.valuerep.TEXT_VR_DELIMS))
        if _NOT_DECODED in text:
            return True
        if (
            keyword in _NAMES
            and str(source.get("SpecificCharacterSet", "")) in _LATIN
            and any(map(_is_no_latin_word, _BETWEEN_WORDS.split(text)))
        ):
            return True
    return False


def _is_no_latin_word(word: str) -> bool:
    """Tell whether a word is none of a name in Latin letters: signs and control characters, or several letters and all with accents."""
    accented = [letter for letter in word if not letter.isascii()]
    return (len(accented) == len(word) > 1) or any(unicodedata.category(letter)[0] not in "LM" for letter in accented)


def _encodings(header: Dataset) -> tuple[str, ...]:
    return tuple(pydicom.charset.convert_encodings(header.get("SpecificCharacterSet")))


def _encode(element: DataElement, encodings: Sequence[str]) -> bytes:
    value = element.value
    values = list(value) if isinstance(value, MultiValue | list) else [] if value is None else [value]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [v if isinstance(v, bytes) else _encode_one(v, element.VR, encodings) for v in values]
    return b"\\".join(parts).rstrip(_PADDING)


def _encode_one(value: object, vr: str, encodings: Sequence[str]) -> bytes:
    if vr == "PN":
        return bytes(PersonName(value).encode(encodings))
    return bytes(pydicom.charset.encode_string(str(value), list(encodings)))
