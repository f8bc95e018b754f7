"""What the standard requires in an object of each SOP class (PS3.3 Annex A), from the tables that highdicom carries.

The tables are private to highdicom, whose version is pinned: only this module knows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from highdicom import _standard_utils as standard
from pydicom import Dataset
from pydicom.uid import BasicTextSRStorage, SecondaryCaptureImageStorage, SegmentationStorage

from structured_reports.source import IDENTITY
from structured_reports.variants import REPORT_CLASSES

MODALITIES = {SecondaryCaptureImageStorage: "OT", SegmentationStorage: "SEG", **dict.fromkeys(REPORT_CLASSES, "SR")}  # all that is written
_OF_THE_SOURCE = frozenset({*IDENTITY, "ReferencedRequestSequence"})  # passed on as they came: what their items lack is not ours
_REQUIRED, _MAY_BE_EMPTY = "1", "2"
# Highdicom's tables give every alternative of these as required, so what is needed in them is said below.
_ALTERNATIVES = frozenset({"sr-document-content", "segmentation-multi-frame-functional-groups"})
_SHARED = ("PixelMeasuresSequence", "PlaneOrientationSequence")  # as this package writes segmentations
_PER_FRAME = ("FrameContentSequence", "PlanePositionSequence", "SegmentIdentificationSequence")
# Conditionally required, and the condition holds for all that this package writes.
_PIXELS = ("ImageType", "PixelData")
_SEGMENTATION = ("DimensionIndexSequence", "FrameOfReferenceUID", "PerFrameFunctionalGroupsSequence", *_PIXELS)
_REPORT = ("ValueType", "ConceptNameCodeSequence", "ContentSequence", "ContinuityOfContent", "CurrentRequestedProcedureEvidenceSequence")
_OF_VALUE_TYPE = {  # PS3.3 C.17.3, C.18
    "CODE": ("ConceptNameCodeSequence", "ConceptCodeSequence"),
    "CONTAINER": ("ContinuityOfContent",),
    "IMAGE": ("ReferencedSOPSequence",),
    "NUM": ("ConceptNameCodeSequence", "MeasuredValueSequence"),
    "SCOORD": ("GraphicType", "GraphicData"),
    "TEXT": ("ConceptNameCodeSequence", "TextValue"),
    "UIDREF": ("ConceptNameCodeSequence", "UID"),
}


def missing_attributes(d: Dataset) -> Iterator[str]:
    """Yield, in words, every attribute of the mandatory modules that an object lacks, or that is empty and must not be."""
    sop_class = d.get("SOPClassUID")
    if sop_class not in MODALITIES:
        yield f"SOPClassUID {sop_class} is none that can be written"
        return
    if d.get("Modality") != MODALITIES[sop_class]:
        yield f"Modality is not {MODALITIES[sop_class]}"
    for module, is_mandatory in _modules(str(sop_class)):
        tree = _tree(module)
        yield from _missing(d, tree if is_mandatory else {k: item for k, item in tree.items() if k in d and "attributes" in item}, "")
    if MODALITIES[sop_class] == "SR":
        yield from _absent(d, _REPORT if sop_class == BasicTextSRStorage else (*_REPORT, "ContentTemplateSequence"), "")
        yield from _missing_in_content(d, "")
    elif sop_class == SegmentationStorage:
        yield from _absent(d, _SEGMENTATION, "")
        yield from _missing_in_frames(d)
    else:
        yield from _absent(d, _PIXELS, "")


@cache
def _modules(sop_class: str) -> tuple[tuple[str, bool], ...]:
    """Return the modules of an IOD, and which of them are mandatory; of the others only the items of what is there can lack something."""
    modules = standard.get_iod_module_map()[standard.get_sop_class_iod_map()[sop_class]]
    return tuple((module["key"], module["usage"] == "M") for module in modules)


@cache
def _tree(module: str) -> Mapping[str, Any]:
    tree: dict[str, Any] = standard.construct_module_tree(module)["attributes"]
    if module in _ALTERNATIVES:
        return {keyword: {"type": item["type"]} for keyword, item in tree.items() if keyword.endswith("FunctionalGroupsSequence")}
    return tree


def _missing(d: Dataset, tree: Mapping[str, Any], where: str) -> Iterator[str]:
    for keyword, item in tree.items():
        kind = item["type"].value
        if kind in (_REQUIRED, _MAY_BE_EMPTY) and keyword not in d:
            yield f"{where}{keyword} is missing"
        elif kind == _REQUIRED and d[keyword].is_empty:
            yield f"{where}{keyword} is empty"
        elif "attributes" in item and keyword in d and keyword not in _OF_THE_SOURCE:
            for nested in d[keyword].value or ():
                yield from _missing(nested, item["attributes"], f"{where}{keyword}.")


def _absent(d: Dataset, keywords: tuple[str, ...], where: str) -> Iterator[str]:
    yield from (f"{where}{keyword} is missing" for keyword in keywords if keyword not in d)


def _missing_in_content(d: Dataset, where: str) -> Iterator[str]:
    for number, item in enumerate(d.get("ContentSequence") or (), start=1):
        place = f"{where}ContentSequence[{number}]."
        yield from _absent(item, ("RelationshipType", "ValueType", *_OF_VALUE_TYPE.get(item.get("ValueType"), ())), place)
        yield from _missing_in_content(item, place)


def _missing_in_frames(d: Dataset) -> Iterator[str]:
    for keyword, wanted in (("SharedFunctionalGroupsSequence", _SHARED), ("PerFrameFunctionalGroupsSequence", _PER_FRAME)):
        for item in d.get(keyword) or ():
            yield from _absent(item, wanted, f"{keyword}.")
    if len(d.get("PerFrameFunctionalGroupsSequence") or ()) != d.get("NumberOfFrames", 0):
        yield "NumberOfFrames is not the number of functional groups"
