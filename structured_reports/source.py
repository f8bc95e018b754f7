"""What result objects take from their sources: identity unharmed, geometry, and nothing else.

Sources are never altered; everything works on a copy that holds only the listed attributes. Private groups, acquisition times, windows
and the scanner's equipment therefore cannot leak into results.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

import pydicom.charset
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, PersonName

from pipelines.errors import ResultError
from pipelines.imaging.elements import text
from structured_reports.received import TEXT_VRS, bytes_to_keep, element_of_bytes, text_element, written_bytes

# Patient, General Study, Patient Study and Clinical Trial modules: the same patient and study as the source (PS3.3 C.7.1, C.7.2).
IDENTITY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientSex",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "TimezoneOffsetFromUTC",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_INSTANCE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
_IMAGE = (
    "Modality",
    "ReferencedRequestSequence",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "BurnedInAnnotation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_MOMENTS = ("InstanceCreation", "Content", "Acquisition", "Series", "Study")  # of which a header may state date and time, best first
# Sets of one value, which have no escape sequences and whose bytes therefore go through unchanged (PS3.3 C.12.1.1.2).
_SINGLE = re.compile(r"|ISO_IR \d+|GB18030|GBK")
_ASCII_SETS = ("", "ISO_IR 6")  # the latter is what an absent declaration means
_LOST = "ISO 2022 IR 58"  # the escape sequences of this Chinese set do not survive pydicom: such text is written as UTF-8
_UTF_8 = "ISO_IR 192"
_ESCAPE = re.compile("\x1b[$()*+,\\-./]+[@-~]")  # ISO 2022 designations that decoding may leave behind
_NUMBER_VRS = frozenset({"DS", "IS"})


def normalise_source(header: Dataset) -> Dataset:
    """Return a copy of a source header with just the attributes that results may use.

    Absent type 2 attributes become empty, a sex outside M, F and O becomes empty, and dates and times that are none become empty.
    Numbers that are none, such as ``70,5``, are left out.
    Text keeps its bytes where its character set allows, or where it does not fit it, and is decoded for UTF-8 otherwise.

    Raises
    ------
    ResultError
        The header lacks one of the UIDs that name it.
    """
    if missing := [keyword for keyword in (*_INSTANCE, "StudyInstanceUID") if not header.get(keyword)]:
        raise ResultError(f"source {header.get('SOPInstanceUID', '?')} has no {', '.join(missing)}")
    declared = declared_character_set(header)
    as_received = bytes_to_keep(header, IDENTITY)
    kept = _keeps_bytes(header) or any(_cannot_be_decoded(header, keyword) for keyword in as_received)
    out = Dataset()
    if declared or not kept:
        out.SpecificCharacterSet = (declared.split("\\") if "\\" in declared else declared) if kept else _UTF_8
    for keyword in (*IDENTITY, *_INSTANCE, *_IMAGE):
        if _is_readable(header, keyword):
            out.add(_copy_element(text_element(header, keyword), decode=not kept))
    for keyword, raw in as_received.items() if kept else ():
        out.add(element_of_bytes(header, keyword, raw))
    for keyword in _TYPE_2:
        if keyword not in out:
            setattr(out, keyword, "")
    sex = str(out.PatientSex or "").strip().upper()[:1]
    out.PatientSex = sex if sex in ("M", "F", "O") else ""
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime"):
        if not _is_date_or_time(out[keyword]):
            setattr(out, keyword, "")
    out.frame_number = getattr(header, "frame_number", None)  # of a multi-frame instance, from 1; no element
    return out


def newest_time(headers: Iterable[Dataset]) -> datetime | None:
    """Return when the newest of some instances was made, in the time zone of its study; ``None`` where none says so."""
    return max((time for header in headers if (time := _time_of(header))), default=None)


def _time_of(header: Dataset) -> datetime | None:
    for moment in _MOMENTS:
        date, time = (text(header, f"{moment}{part}").replace(":", "").replace(".", "") for part in ("Date", "Time"))
        with suppress(ValueError):
            return datetime.strptime(f"{date}{time[:6]:0<6}", "%Y%m%d%H%M%S")
    return None


def frame_numbers(source: Dataset) -> list[int] | None:
    """Return what a reference to a normalised header names beside the instance: the frame, or ``None`` for a single-frame image."""
    return None if source.frame_number is None else [source.frame_number]


def carrier(source: Dataset) -> Dataset:
    """Return a copy of a normalised header without what highdicom would judge: names, character set, bytes; they are copied at the end."""
    out = Dataset()
    for element in source:
        out.add(DataElement(element.tag, element.VR, "") if isinstance(element.value, bytes) else element)
    out.frame_number = source.frame_number
    out.PatientName = ""
    if "SpecificCharacterSet" in out:
        del out.SpecificCharacterSet
    return out


def has_plain_identity(source: Dataset) -> bool:
    """Tell whether patient and study of a normalised header are plain ASCII, so that any character set gives the same bytes."""
    texts = (e.value for e in source.iterall() if e.VR in TEXT_VRS)
    return not any(isinstance(value, bytes) or not str(value).isascii() for value in texts)


def declare_utf_8(source: Dataset) -> None:
    """Let a normalised header whose identity is plain ASCII have text in any language."""
    source.SpecificCharacterSet = _UTF_8


def copy_identity(target: Dataset, source: Dataset) -> None:
    """Give ``target`` the patient and study of ``source``, a normalised header, with its character set."""
    for keyword in ("SpecificCharacterSet", *IDENTITY):
        if keyword in source:
            target.add(_copy_element(source[keyword], decode=False))
        elif keyword in target:
            del target[keyword]


def declared_character_set(header: Dataset) -> str:
    """Return the declared character set, several values joined by a backslash, empty where none is declared."""
    value = header.get("SpecificCharacterSet") or ""
    return "\\".join(value) if isinstance(value, MultiValue | list) else str(value)


def has_undeclared_text(header: Dataset) -> bool:
    """Tell whether a name has bytes above 0x7F although no character set is declared for them.

    Nor is one where the first of several is ASCII and no escape sequence leads to the others.
    """
    first, *others = declared_character_set(header).split("\\")
    if first not in _ASCII_SETS and not (others and first == "ISO 2022 IR 6"):
        return False
    names = [written_bytes(header, keyword) for keyword in ("PatientName", "ReferringPhysicianName")]
    return any(byte > 0x7F for name in names if not (others and b"\x1b" in name) for byte in name)


def identity_digest(source: Dataset) -> str:
    """Return the SHA-256 (hex) of the patient and study that objects take from a normalised header."""
    sha = hashlib.sha256()
    for keyword in ("SpecificCharacterSet", *IDENTITY):
        if keyword in source:
            value = written_bytes(source, keyword) if dictionary_VR(keyword) in TEXT_VRS else repr(source[keyword].value)
            sha.update(f"{keyword}={value!r}\n".encode())
    return sha.hexdigest()


def fit_text(text: str, character_set: str) -> str:
    """Return the text with every character that the character set (several values joined by a backslash) cannot hold as ``?``."""
    encodings = ["ascii"] if character_set in _ASCII_SETS else pydicom.charset.convert_encodings(character_set.split("\\"))
    return "".join(c if c.isascii() or any(_can_encode(c, e) for e in encodings) else "?" for c in text)


def _can_encode(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _keeps_bytes(header: Dataset) -> bool:
    """Tell whether text leaves as the bytes that it came as: no escape sequences, or ones that decoding and encoding restore."""
    declared = declared_character_set(header)
    if _SINGLE.fullmatch(declared) or _LOST in declared:
        return _LOST not in declared
    values = [str(text_element(header, k).value) for k in IDENTITY if k in header and dictionary_VR(k) in TEXT_VRS]
    return not any("\x1b" in value or fit_text(value, declared) != value for value in values)


def _cannot_be_decoded(header: Dataset, keyword: str) -> bool:
    return "\ufffd" in str(text_element(header, keyword).value)


def _is_readable(header: Dataset, keyword: str) -> bool:
    """Tell whether the header has the attribute, and, where it is to hold numbers, finite ones."""
    if keyword not in header:
        return False
    if dictionary_VR(keyword) not in _NUMBER_VRS:
        return True
    try:
        value = header[keyword].value
        numbers = value if isinstance(value, MultiValue | list) else [] if value in (None, "") else [value]
        return all(math.isfinite(float(number)) for number in numbers)
    except (ValueError, TypeError, OverflowError):  # from pydicom, which converts on the first access
        return False


def _copy_element(element: DataElement, *, decode: bool) -> DataElement:
    if element.VR == "SQ":
        items = copy.deepcopy(list(element.value))
        for item in items:
            item.remove_private_tags()
            if decode:
                item.walk(lambda _, nested: _decode(nested))
        return DataElement(element.tag, "SQ", items)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a source's invalid value is the source's; it is passed on, not judged
        out = DataElement(element.tag, element.VR, element.value)
    if decode:
        _decode(out)
    return out


def _decode(element: DataElement) -> None:
    """Turn the text of an element into plain Unicode, so that it can be written as UTF-8."""
    if element.VR not in TEXT_VRS:
        return
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    plain = [_ESCAPE.sub("", str(value)) for value in values if value is not None]
    decoded = [PersonName(value) for value in plain] if element.VR == "PN" else plain
    element.value = decoded if len(decoded) > 1 else decoded[0] if decoded else ""


def _is_date_or_time(element: DataElement) -> bool:
    try:
        (DA if element.tag != tag_for_keyword("StudyTime") else TM)(element.value)
    except (ValueError, TypeError):
        return False
    return True
