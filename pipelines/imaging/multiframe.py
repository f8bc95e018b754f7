"""Enhanced multi-frame MR as if it were single-frame: each frame's functional groups become attributes of an image of its own.

Everything after this (roles, splitting, geometry) then knows one kind of image only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pipelines.imaging.elements import UNREADABLE, items, number, private, text, upper, value, values

# Functional group macros (PS3.3 C.7.6.16.2, C.8.13.5) whose attributes say what a frame is and where.
_MACROS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "FrameContentSequence",
    "PixelValueTransformationSequence",
    "ContrastBolusUsageSequence",
    "TemporalPositionSequence",
    "MRImageFrameTypeSequence",
    "MRTimingAndRelatedParametersSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRImagingModifierSequence",
    "MRDiffusionSequence",
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)
_NESTED = {"DiffusionGradientDirectionSequence"}
_IDENTITY = {tag_for_keyword(k) for k in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "NumberOfFrames")}
_RENAMED = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "PulseSequenceName": "SequenceName",
}
_RENAMED |= {"TemporalPositionIndex": "TemporalPositionIdentifier", "FrameAcquisitionNumber": "AcquisitionNumber"}
_PULSES = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}
_MAX_BYTES = 1024  # longer top-level values (overlays, palettes) say nothing of a frame


class Frame(Dataset):  # type: ignore[misc]
    """One frame of a multi-frame instance with the attributes of a single-frame image.

    ``filename`` leads to the file of the instance; ``frame_number`` counts from 1, as Referenced Frame Number (0008,1160) does.
    """

    filename: str
    frame_number: int


def name_image(header: Dataset) -> str:
    """Name an image or frame for a person: ``image 7`` or ``image 1 frame 12``."""
    image = f"image {text(header, 'InstanceNumber') or '?'}"
    return f"{image} frame {header.frame_number}" if isinstance(header, Frame) else image


def is_multiframe(instance: Dataset) -> bool:
    """Tell whether an instance describes its frames by functional groups."""
    return bool(items(instance, "PerFrameFunctionalGroupsSequence"))


def expand(instances: Iterable[Dataset]) -> tuple[Dataset, ...]:
    """Return every frame of every instance; a single-frame instance is its own frame."""
    return tuple(frame for instance in instances for frame in (_frames(instance) if is_multiframe(instance) else (instance,)))


def _frames(instance: Dataset) -> Iterator[Frame]:
    common = Frame(dict(_plain(instance)))
    for group in items(instance, "SharedFunctionalGroupsSequence"):
        _flatten(group, common)
    agent = _contrast_agent(instance)
    for index, group in enumerate(items(instance, "PerFrameFunctionalGroupsSequence"), start=1):
        frame = Frame(dict(common.items()))
        frame.filename, frame.frame_number = str(getattr(instance, "filename", "")), index
        _flatten(group, frame)
        _translate(frame, agent)
        yield frame


def _plain(instance: Dataset) -> Iterator[tuple[int, DataElement]]:
    """Yield the readable top-level elements that are neither sequences nor private nor long."""
    for tag in list(instance.keys()):
        if tag.is_private or tag.group >= 0x0032 or tag == tag_for_keyword("NumberOfFrames"):
            continue
        try:
            found = instance[tag]
        except UNREADABLE:
            continue
        if found.VR != "SQ" and not (isinstance(found.value, bytes) and len(found.value) > _MAX_BYTES):
            yield tag, found


def _flatten(group: Dataset, frame: Frame) -> None:
    for macro in _MACROS:
        for item in items(group, macro)[:1]:
            _take(item, frame)
            for nested in _NESTED:
                for inner in items(item, nested)[:1]:
                    _take(inner, frame)
    if items(group, "RealWorldValueMappingSequence"):  # stays a sequence: it codes its unit
        frame[tag_for_keyword("RealWorldValueMappingSequence")] = group["RealWorldValueMappingSequence"]
    philips = private(group, "Philips MR Imaging DD 005", 0x2005, 0x0F)  # the single-frame header, as an item
    if philips is not None and philips.VR == "SQ" and philips.value:
        _take(philips.value[0], frame, only_private=True)


def _take(item: Dataset, frame: Frame, *, only_private: bool = False) -> None:
    for tag in list(item.keys()):
        if tag in _IDENTITY or tag.is_private != only_private:
            continue
        try:
            found = item[tag]
        except UNREADABLE:
            continue
        if found.VR != "SQ":
            frame[tag] = found


def _translate(frame: Frame, agent: str) -> None:
    """Say it in the terms of a single-frame MR image (PS3.3 C.8.3.1), where only the enhanced terms were sent."""
    for enhanced, classic in _RENAMED.items():
        found = values(frame, enhanced)
        if found:
            _set(frame, classic, found[0] if classic == "InversionTime" else list(found) if len(found) > 1 else found[0])
    acquired = text(frame, "FrameAcquisitionDateTime") or text(frame, "FrameReferenceDateTime") or text(frame, "AcquisitionDateTime")
    if acquired[:14].isdigit() and len(acquired) >= 14:
        _set(frame, "AcquisitionDate", acquired[:8])
        _set(frame, "AcquisitionTime", acquired[8:].split("+")[0].split("-")[0])
    if not values(frame, "ScanningSequence"):
        sequence = [*(["EP"] if upper(frame, "EchoPlanarPulseSequence") == ("YES",) else [])]
        sequence += _PULSES.get(text(frame, "EchoPulseSequence").upper(), ())
        sequence += ["IR"] if upper(frame, "InversionRecovery") == ("YES",) else []
        _set(frame, "ScanningSequence", sequence)
    if upper(frame, "SpectrallySelectedSuppression")[:1] in (("FAT",), ("FAT_AND_WATER",)):
        _set(frame, "ScanOptions", sorted({*upper(frame, "ScanOptions"), "FS"}))
    administered = text(frame, "ContrastBolusAgentAdministered").upper()
    if agent and administered != "NO" and value(frame, "ContrastBolusAgent") is None:
        _set(frame, "ContrastBolusAgent", agent)


def _set(frame: Frame, keyword: str, new: object) -> None:
    tag = tag_for_keyword(keyword)
    try:
        frame[tag] = DataElement(tag, dictionary_VR(tag), new)  # never the element itself: frames share it
    except UNREADABLE:
        frame.pop(tag, None)


def _contrast_agent(instance: Dataset) -> str:
    """Return the agent named by the Enhanced Contrast/Bolus module (PS3.3 C.7.6.4b), empty where there is none."""
    for item in items(instance, "ContrastBolusAgentSequence"):
        return text(item, "CodeMeaning") or "contrast agent"
    return ""


def injection_time(instance: Dataset) -> str:
    """Return when contrast agent was injected (TM), or empty: Contrast/Bolus Start Time, single-frame or enhanced."""
    nested = (
        text(profile, "ContrastBolusStartTime")
        for agent in items(instance, "ContrastBolusAgentSequence")
        for profile in items(agent, "ContrastAdministrationProfileSequence")
    )
    return text(instance, "ContrastBolusStartTime") or next(nested, "")


def rescale(header: Dataset) -> tuple[float, float]:
    """Return slope and intercept from stored values to modality units (PS3.3 C.11.1); 1 and 0 where none are given."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    return (1.0 if slope is None else slope), (intercept or 0.0)
