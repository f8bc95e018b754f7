"""The page of one sequence: the key slice as it is, beside it the same with the activation map, where there is one, and the outline."""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipelines.types import Drawing, Evidence, FloatArray, Prediction, Refusal, SeriesRole
from structured_reports import wording
from structured_reports.canvas import LINE, MUTED, OUTLINE, TEXT, Page, colour_map
from structured_reports.context import ReportContext
from structured_reports.images import is_calibrated
from structured_reports.language import Messages
from structured_reports.layout import FOOT, TOP, WIDTH, start_page, start_refusal_page
from structured_reports.refusal import state_words

_PANEL = 464  # pixels a side
_LEFT, _RIGHT = 16, 492
_HEIGHT = TOP + _PANEL + 84 + FOOT
_MIN_FIELD_MM = 140.0  # enough pelvis around the tumour to recognise where it is
_FIELD_PER_EXTENT = 2.2  # field of view over the region's extent
_OPACITY = 0.75  # where the map is 1
_DIMMED = 0.8  # grey levels under the map, so that bright tissue does not wash it out
_VISIBLE = 0.05  # activation below this cannot be seen over the slice
_WINDOW_PERCENTILES = (1.0, 99.5)
_SCALES_MM = (10, 20, 50, 100)
_DIRECTIONS = ("L", "R"), ("P", "A"), ("H", "F")  # towards + and - of the patient axes x, y, z (PS3.3 C.7.6.1.1.1)


@dataclass(frozen=True)
class _Field:
    """A square part of a slice, in pixel-edge coordinates (left, top, right, bottom), and its side."""

    extent: tuple[float, float, float, float]
    side_mm: float

    def sample(self, plane: FloatArray | NDArray[np.float32], *, smooth: bool = True) -> FloatArray:
        """Return the part at panel resolution; what lies outside the slice is 0."""
        image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
        return np.asarray(image.transform((_PANEL, _PANEL), Image.Transform.EXTENT, self.extent, resample=resampling), dtype=float)


def draw_heatmap(
    prediction: Prediction, evidence: Evidence, context: ReportContext, *, role: SeriesRole, index: int, say: Messages
) -> NDArray[np.uint8]:
    """Draw the page for slice ``index`` of the sequence; return RGB pixels, shape (rows, columns, 3)."""
    image, ultrasound = evidence.volumes[role], evidence.frame is not None
    mask = evidence.rois[role].array[index]
    field = _choose_field(mask, image.volume, whole=ultrasound)
    grey = _window(field.sample(image.volume.array[index]))
    cam = _sample_map(evidence, role, index, field)
    page = start_page(prediction, context, say, heading=_name_slice(evidence, role, index, say), height=_HEIGHT)
    _paste(page, grey, _LEFT)
    _paste(page, _overlay(grey, cam, field.sample(mask, smooth=False) >= 0.5), _RIGHT)
    if not ultrasound:  # it has no patient directions
        for left in (_LEFT, _RIGHT):
            _write_directions(page, image.volume, left)
    _draw_scale(page, field.side_mm if is_calibrated(evidence) else None, say)
    if role in evidence.activation_maps:
        _draw_colour_bar(page, say)
    _write_foot(page, evidence, role, cam, say)
    return page.pixels()


def draw_unusable(drawing: Drawing, refusal: Refusal, context: ReportContext, *, index: int, say: Messages) -> NDArray[np.uint8]:
    """Draw the page that shows what the segmentation network marked on slice ``index``, and why it was not used."""
    image, mask = drawing.image, drawing.mask.array[index]
    ultrasound = image.role is SeriesRole.TVUS
    field = _choose_field(mask, image.volume, whole=ultrasound or not mask.any())
    grey = _window(field.sample(image.volume.array[index]))
    where = say("map.where_slice", series=image.header.label(), slice=index + 1, slices=len(image.volume.array))
    page = start_refusal_page(refusal, context, say, heading=f"{say('map.outline', role=image.role)}: {where}", height=_HEIGHT)
    _paste(page, grey, _LEFT)
    _paste(page, _overlay(grey, np.zeros_like(grey), field.sample(mask, smooth=False) >= 0.5), _RIGHT)
    if not ultrasound:
        for left in (_LEFT, _RIGHT):
            _write_directions(page, image.volume, left)
        _draw_scale(page, field.side_mm, say)
    top = TOP + _PANEL + 10
    page.text((_LEFT, top), say("map.source"), size=18)
    page.text((_RIGHT, top), say("map.unusable" if mask.any() else "map.unmarked"), size=18)
    title = wording.title(refusal.system, refusal.title, say)
    words = [say("result.no_result", word=state_words(refusal, say), title=title), *(say.translate(r) for r in refusal.reasons)]
    page.paragraph((_LEFT, top + 30), " ".join(words), size=18, width=WIDTH - 2 * _LEFT, lines=2)
    return page.pixels()


def _sample_map(evidence: Evidence, role: SeriesRole, index: int, field: _Field) -> FloatArray:
    """Return the activation map in the field, 0 to 1; without one it is 0."""
    if role not in evidence.activation_maps:
        return np.zeros((_PANEL, _PANEL))
    return np.clip(field.sample(np.nan_to_num(evidence.activation_maps[role].array[index]), smooth=False), 0, 1)


def _choose_field(mask: NDArray[np.generic], volume: hd.Volume, *, whole: bool) -> _Field:
    """Centre a square on the region; of a whole image, on the image."""
    row_mm, column_mm = volume.spacing[1:]
    rows, columns = np.nonzero(mask)
    if not len(rows):
        rows, columns = np.array([0, mask.shape[0] - 1]), np.array([0, mask.shape[1] - 1])
    height_mm, width_mm = np.ptp(rows) * row_mm, np.ptp(columns) * column_mm
    whole_mm = max(mask.shape[0] * row_mm, mask.shape[1] * column_mm)
    side = whole_mm if whole else min(max(_FIELD_PER_EXTENT * max(height_mm, width_mm), _MIN_FIELD_MM), whole_mm)
    y, x = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    dy, dx = side / row_mm / 2, side / column_mm / 2
    y, x = (_keep_inside(centre, half, size) for centre, half, size in ((y, dy, mask.shape[0]), (x, dx, mask.shape[1])))
    return _Field((x - dx, y - dy, x + dx, y + dy), float(side))


def _keep_inside(centre: float, half: float, size: int) -> float:
    return size / 2 if 2 * half >= size else float(np.clip(centre, half, size - half))


def _window(plane: FloatArray) -> FloatArray:
    """Stretch grey levels to 0 to 255."""
    low, high = np.percentile(plane, _WINDOW_PERCENTILES)
    stretched: FloatArray = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255
    return stretched


def _overlay(grey: FloatArray, cam: FloatArray, inside: NDArray[np.bool_]) -> FloatArray:
    """Blend the map over the slice, more opaque where it is higher, and draw the region's outline on top."""
    opacity = (_OPACITY * cam)[..., None]
    blended = _DIMMED * grey[..., None] * (1 - opacity) + colour_map(cam) * opacity
    binary = Image.fromarray(inside.astype(np.uint8) * 255)
    line = np.asarray(binary.filter(ImageFilter.MaxFilter(3))) != np.asarray(binary.filter(ImageFilter.MinFilter(3)))
    halo = np.asarray(Image.fromarray(line.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3))) > 0
    blended[halo] *= 0.25
    blended[line] = OUTLINE
    return blended


def _paste(page: Page, panel: FloatArray, left: int) -> None:
    rgb = np.broadcast_to(panel if panel.ndim == 3 else panel[..., None], (_PANEL, _PANEL, 3))
    page.image.paste(Image.fromarray(np.ascontiguousarray(rgb.round()).astype(np.uint8)), (left, TOP))


def _name_slice(evidence: Evidence, role: SeriesRole, index: int, say: Messages) -> str:
    """Return what the page shows, and of which slice or frame of which series."""
    image = evidence.volumes[role]
    where, values = "map.where", {"slice": index + 1, "slices": len(image.volume.array)}
    if evidence.frame:
        many = int(evidence.frame.source.get("NumberOfFrames") or 1) > 1
        where, values = ("map.where_frame", {"frame": evidence.frame.frame_number}) if many else ("map.where_image", {})
    what = say(f"{_kind(evidence, role)}.title" if role in evidence.activation_maps else "map.outline", role=role)
    return f"{what}: {say(where, series=image.header.label(), **values)}"


def _write_directions(page: Page, volume: hd.Volume, left: int) -> None:
    """Name the patient directions at the edges of a panel."""
    _, down, right = volume.unit_vectors()
    middle, end = _PANEL // 2, _PANEL - 8
    places = ((right, end, middle, "rm"), (-right, 8, middle, "lm"), (down, middle, end, "md"), (-down, middle, 8, "ma"))
    for vector, x, y, anchor in places:
        axis = int(np.argmax(np.abs(vector)))
        letter = _DIRECTIONS[axis][0 if vector[axis] > 0 else 1]
        page.text((left + x, TOP + y), letter, size=18, anchor=anchor, halo=2)


def _draw_scale(page: Page, side_mm: float | None, say: Messages) -> None:
    """Draw a bar of known length, or say that there is none."""
    x, y = _LEFT + 14, TOP + _PANEL - 18
    if side_mm is None:
        page.text((x, y + 6), say("map.uncalibrated"), size=17, anchor="ld", halo=2)
        return
    length_mm = max((mm for mm in _SCALES_MM if mm <= side_mm / 3), default=_SCALES_MM[0])
    length = length_mm * _PANEL / side_mm
    page.box(x - 2, y - 2, x + length + 2, y + 6, (0, 0, 0))
    page.box(x, y, x + length, y + 4, TEXT)
    page.text((x, y - 6), f"{length_mm} mm", size=17, anchor="ld", halo=2)


def _draw_colour_bar(page: Page, say: Messages) -> None:
    left, top, height = _RIGHT + _PANEL + 18, TOP + 28, _PANEL - 56
    ramp = colour_map(np.linspace(1, 0, height)[:, None].repeat(20, axis=1))
    page.image.paste(Image.fromarray(ramp.round().astype(np.uint8)), (left, top))
    page.draw.rectangle((left - 1, top - 1, left + 20, top + height), outline=LINE)
    page.text((left + 10, top - 8), say("map.high"), size=16, anchor="md")
    page.text((left + 10, top + height + 8), say("map.low"), size=16, anchor="ma")


def _kind(evidence: Evidence, role: SeriesRole) -> str:
    """Return the part of the messages that names this sequence's map for what it is."""
    return "occlusion" if role in evidence.occluded else "map"


def _write_foot(page: Page, evidence: Evidence, role: SeriesRole, cam: FloatArray, say: Messages) -> None:
    top, mapped = TOP + _PANEL + 10, role in evidence.activation_maps
    page.text((_LEFT, top), say("map.source"), size=18)
    kind = _kind(evidence, role)
    shown = f"{kind}.{'active' if cam.max() >= _VISIBLE else 'inactive'}" if mapped else "map.outlined"
    page.text((_RIGHT, top), say(shown), size=18)
    words = [say(f"{kind}.note", role=role)] if mapped else []
    words.append(f"{wording.region_words(evidence.roi, say)}.")
    page.paragraph((_LEFT, top + 29), " ".join(words), size=15, width=WIDTH - 2 * _LEFT, lines=2, colour=MUTED)
