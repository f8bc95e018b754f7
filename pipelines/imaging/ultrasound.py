"""The best B-mode image of an ultrasound study, cut to what the scanner declares as tissue (PS3.3 C.8.5.5).

Doppler, M-mode, elastography, traces, screenshots and 3D volumes are recognised and left out, each with a sentence. An image without
calibration has no millimetres. The frame is the one where a person outlined the largest section; without outlines it is the
scanner's representative frame, else the middle one, and the reason says which.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import UID, EnhancedUSVolumeStorage, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from pipelines.errors import InputError, MissingRoi, MissingSequence, UndecodablePixels
from pipelines.imaging.elements import integer, text
from pipelines.imaging.multiframe import name_image
from pipelines.imaging.scoord import area_px, fill, find_frame_regions
from pipelines.imaging.ultrasound_layout import Box, Layout, lay_out
from pipelines.imaging.ultrasound_pixels import Mask, clean, find_sector, read_rgb, to_grey
from pipelines.types import FrameRegion, Series, SeriesHeader, UltrasoundCandidate, UltrasoundFrame

Rgb = NDArray[np.uint8]

_IMAGE_CLASSES = {
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    UID("1.2.840.10008.5.1.4.1.1.6"),  # Ultrasound Image Storage (Retired)
    UID("1.2.840.10008.5.1.4.1.1.3"),  # Ultrasound Multi-frame Image Storage (Retired)
}
_MAX_REASONS = 3  # sentences on images that were left out
_MAX_COLOUR = 0.02  # share of the sector: more is Doppler or elastography, less is graphics
_ELASTOGRAPHY = re.compile(r"elasto|shear.?wave|\bswe\b|\bstrain\b", re.IGNORECASE)
_PELVIC = re.compile(r"trans.?vag\w*|endo.?vag\w*|vaginal|endo.?cav\w*|\btvu?s\b|gyn\w*|pelvi\w*|cervix|uter\w*", re.IGNORECASE)
_NAME_KEYWORDS = (
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "BodyPartExamined",
    "TransducerType",
    "TransducerData",
    "ImageType",
)


class Criterion(NamedTuple):
    """So many points of 100 for an image of which ``fact`` is true: a reason for it; else a problem of it."""

    fact: str
    points: float
    reason: str
    problem: str


CRITERIA: tuple[Criterion, ...] = (
    Criterion("declared", 30, "the scanner declares its B-mode region", "no region is declared: the sector was found from the pixels"),
    Criterion("calibrated", 30, "calibrated, {spacing} mm per pixel", "not calibrated in cm: no millimetres"),
    Criterion("pelvic", 20, '"{pelvic}" in its header', "nothing in its header says transvaginal or gynaecological"),
    Criterion("uncovered", 10, "no graphics on the tissue", "graphics on the tissue, painted over on {covered:.1%} of the sector"),
    Criterion("lossless", 10, "no lossy compression", "lossy compression"),
)


def choose_ultrasound(series: Sequence[Series], *, names: Collection[str] = ()) -> UltrasoundFrame:
    """Return the best B-mode frame of a study; ``names`` are labels of outlines that the system takes for the tumour.

    Raises
    ------
    MissingSequence
        There is none; the message says why each ultrasound image was left out.
    MissingRoi
        A report outlines something on these images that cannot be used.
    """
    ranked, regions = rank_ultrasound(series, names=names), find_outlines(series, names)
    frame = read_frame(ranked[0].source, ranked[0].header, regions) if ranked and ranked[0].frame_number else None
    if regions and (frame is None or frame.roi is None):
        outlined = {r.sop_instance_uid for r in regions}
        why = "; ".join(reason for c in ranked if c.source.SOPInstanceUID in outlined for reason in c.reasons)
        raise MissingRoi(f"{regions[0].description}, drawn by {regions[0].drawn_by}, cannot be used: {why}")
    if frame is None:
        why = "; ".join(explain_left_out(ranked))
        raise MissingSequence("no B-mode ultrasound image found" + (f": {why}" if why else ""))
    return frame


def explain_left_out(images: Sequence[UltrasoundCandidate]) -> list[str]:
    """Return why images were left out, in few sentences: those of one reason together."""
    alike: dict[str, list[str]] = {}
    for image in images:
        reason = "; ".join(image.reasons)
        alike.setdefault(reason.removeprefix(name_image(image.source)), []).append(reason)
    sentences = []
    for first, *others in alike.values():
        more = f"{len(others)} more image{'s' if len(others) > 1 else ''}"
        sentences.append(f"{first} (and {more})" if others else first)
    if len(sentences) > _MAX_REASONS:
        return [*sentences[:_MAX_REASONS], f"{len(sentences) - _MAX_REASONS} more reasons"]
    return sentences


def find_outlines(series: Sequence[Series], names: Collection[str]) -> tuple[FrameRegion, ...]:
    """Return what the newest structured report that draws on the ultrasound of a study outlines there.

    Raises
    ------
    MissingRoi
        It draws several things, and which one is the tumour cannot be told.
    """
    images = {text(d, "SOPInstanceUID") for s in series if s.header.modality == "US" for d in s.instances}
    return find_frame_regions(series, images, names=names)


def rank_ultrasound(series: Sequence[Series], *, names: Collection[str] = ()) -> list[UltrasoundCandidate]:
    """Rank the ultrasound images of a study, best first and those left out last.

    An image with a person's outline beats all others, and of these a calibrated one, as sections are compared in mm2; then the larger
    section, the score (:data:`CRITERIA`), the larger region, the later image.
    """
    images = [(s.header, d) for s in series if s.header.modality == "US" for d in s.instances]
    regions = find_outlines(series, names)
    ranked: list[tuple[tuple[object, ...], UltrasoundCandidate]] = []
    for header, source in images:
        late = (header.series_number or 0, integer(source, "InstanceNumber") or 0, str(source.SOPInstanceUID))
        try:
            frame = read_frame(source, header, regions)
        except InputError as error:
            damaged = (str(error),) if isinstance(error, UndecodablePixels) else ()
            ranked.append(((0, False, False, 0.0, 0.0, 0, late), UltrasoundCandidate(header, source, None, 0.0, (str(error),), damaged)))
        else:
            candidate = UltrasoundCandidate(header, source, frame.frame_number, frame.score, frame.reasons, frame.problems)
            ranked.append(((1, *_section(frame), frame.score, frame.grey.size, late), candidate))
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0], reverse=True)]


def _section(frame: UltrasoundFrame) -> tuple[bool, bool, float]:
    """Return whether something is outlined, whether it has a size, and its area: mm2, pixels where there is no calibration."""
    if frame.roi is None:
        return False, False, 0.0
    row, column = frame.spacing_mm or (1.0, 1.0)
    return True, frame.spacing_mm is not None, float(np.count_nonzero(frame.roi)) * row * column


def read_frame(source: Dataset, header: SeriesHeader, regions: Sequence[FrameRegion] = ()) -> UltrasoundFrame:
    """Read the B-mode region of one ultrasound image (``source`` is its header).

    Raises
    ------
    InputError
        It is not a B-mode image; the sentence says what it is instead.
    UndecodablePixels
        Its pixels cannot be decoded.
    MissingRoi
        An outline drawn on it lies outside the B-mode region.
    """
    where = name_image(source)
    _require_image(source, where)
    layout = lay_out(source, where)
    number, region, why = _choose_frame(source, regions)
    rgb = read_rgb(source, number, where)
    box, sector, doubts = _cut(rgb, layout, where)
    roi, doubts_of_roi = _outline(region, rgb.shape, box)
    if roi is not None:
        sector = sector | (roi > 0)  # a person's word on where tissue is beats the search for the sector
    grey, hidden, colour_share = clean(rgb[box[0] : box[2], box[1] : box[3]], sector)
    if colour_share > _MAX_COLOUR:
        raise InputError(f"{where}: {colour_share:.0%} of it is coloured: Doppler, elastography or a tinted display, not grey B-mode")
    score, reasons, problems = _judge(source, layout, covered=float(np.mean(hidden[sector])))
    return UltrasoundFrame(
        header=header,
        source=source,
        frame_number=number,
        grey=grey,
        spacing_mm=layout.spacing_mm,
        box=box,
        hidden=hidden,
        roi=roi,
        region=region,
        score=score,
        reasons=(*why, *reasons, *layout.left_out),
        problems=(*layout.problems, *doubts, *doubts_of_roi, *problems),
    )


def _require_image(source: Dataset, where: str) -> None:
    kind = UID(text(source, "SOPClassUID"))
    if kind == EnhancedUSVolumeStorage:
        raise InputError(f"{where} is a 3D ultrasound volume")
    if kind not in _IMAGE_CLASSES:
        raise InputError(f"{where} is no ultrasound image but {kind.name}: a screenshot, a worksheet or a report")
    if not integer(source, "Rows") or not integer(source, "Columns"):
        raise InputError(f"{where} has no Rows or Columns")
    named = " ".join(text(source, k) for k in ("SeriesDescription", "ProtocolName", "ImageType"))
    if found := _ELASTOGRAPHY.search(named):
        raise InputError(f'{where} is elastography: "{found.group()}" in its header')


def _choose_frame(source: Dataset, regions: Sequence[FrameRegion]) -> tuple[int, FrameRegion | None, tuple[str, ...]]:
    """Return frame, the outline on it, and why. Nothing is said of the frame of a still image."""
    count = max(integer(source, "NumberOfFrames") or 1, 1)
    given = integer(source, "RepresentativeFrameNumber") or 0
    number, why = (given, "the scanner's representative frame") if 1 <= given <= count else ((count + 1) // 2, "the middle frame")
    drawn = [r for r in regions if r.sop_instance_uid == source.SOPInstanceUID and (r.frame_number or 1) <= count]
    region = max(drawn, key=area_px, default=None)
    if region is not None:
        number = region.frame_number or number
        why = "the largest outlined section" if region.frame_number else f"outlined on every frame, {why}"
    named = (f"frame {number} of {count}: {why}",) if count > 1 else ()
    whose = (f"{region.description}, drawn by {region.drawn_by}",) if region else ()
    return number, region, (*named, *whose)


def _cut(rgb: Rgb, layout: Layout, where: str) -> tuple[Box, Mask, tuple[str, ...]]:
    """Return the region's box, the sector within it, and what is doubtful about them."""
    if layout.box is None:
        sector = find_sector(to_grey(rgb))
        if sector is None:
            raise InputError(f"{where} declares no ultrasound region, and no single sector stands out from its pixels")
        (top, left), (bottom, right) = np.argwhere(sector).min(axis=0), np.argwhere(sector).max(axis=0) + 1
        box = (int(top), int(left), int(bottom), int(right))
        return box, sector[top:bottom, left:right], ()
    box = layout.box
    sector = find_sector(to_grey(rgb[box[0] : box[2], box[1] : box[3]]))
    doubts = () if sector is not None else ("no single sector stands out in its region: text in the corners was not removed",)
    mask = np.ones((box[2] - box[0], box[3] - box[1]), dtype=bool) if sector is None else sector
    for top, left, bottom, right in layout.holes:
        mask[max(top - box[0], 0) : max(bottom - box[0], 0), max(left - box[1], 0) : max(right - box[1], 0)] = False
    if not mask.any():
        raise InputError(f"{where}: other regions cover its whole B-mode region")
    return box, mask, doubts


def _judge(source: Dataset, layout: Layout, *, covered: float) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
    """Return score, reasons and problems by :data:`CRITERIA`; ``covered`` is the share of the sector under graphics."""
    pelvic = _PELVIC.search(" ".join(text(source, k) for k in _NAME_KEYWORDS))
    facts = {
        "declared": layout.box is not None,
        "calibrated": layout.spacing_mm is not None,
        "pelvic": pelvic is not None,
        "uncovered": not covered,
        "lossless": text(source, "LossyImageCompression") != "01",
    }
    details = {
        "spacing": " x ".join(f"{v:.3f}" for v in layout.spacing_mm or ()),
        "pelvic": pelvic.group() if pelvic else "",
        "covered": covered,
    }
    reasons = tuple(c.reason.format(**details) for c in CRITERIA if facts[c.fact])
    problems = tuple(c.problem.format(**details) for c in CRITERIA if not facts[c.fact])
    if text(source, "BurnedInAnnotation") == "YES":
        problems += ("the header says that text is burned in: white text on the tissue itself may be left",)
    return sum(c.points for c in CRITERIA if facts[c.fact]), reasons, problems


def _outline(region: FrameRegion | None, shape: tuple[int, ...], box: Box) -> tuple[NDArray[np.uint8] | None, tuple[str, ...]]:
    """Return the outlined pixels of the B-mode region, and what is lost of them."""
    if region is None:
        return None, ()
    whole = fill(region, (shape[0], shape[1]))
    inside = whole[box[0] : box[2], box[1] : box[3]]
    if not inside.any():
        raise MissingRoi(f"{region.description} marks nothing within the B-mode region")
    lost = 1.0 - np.count_nonzero(inside) / np.count_nonzero(whole)
    return inside, (f"{lost:.0%} of the outlined area lies outside the B-mode region",) if lost else ()
