"""What an ultrasound image's header declares: its regions and their calibration (PS3.3 C.8.5.5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from pipelines.errors import InputError
from pipelines.imaging.elements import integer, items, number, words

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels; the last two exclusive

_FLAT, _M_MODE = 1, 2  # Region Spatial Format, PS3.3 C.8.5.5.1.1
_TISSUE, _FLOW = 1, 2  # Region Data Type
_CM = 3  # Physical Units X and Y Direction
_FORMATS = {3: "spectral Doppler", 4: "trace", 5: "graphics"}
_DATA_TYPES = {  # PS3.3 C.8.5.5.1.2; 5 to 12 and 16 to 18 are traces
    2: "colour Doppler",
    3: "PW spectral Doppler",
    4: "CW spectral Doppler",
    13: "grey bar",
    14: "colour bar",
    15: "integrated backscatter",
}
_MODES = {  # bits of the fourth value of ImageType, PS3.3 C.8.5.6.1.1
    0x0002: "M-mode",
    0x0004: "CW Doppler",
    0x0008: "PW Doppler",
    0x0010: "colour Doppler",
    0x0020: "colour M-mode",
    0x0040: "3D rendering",
    0x0100: "colour power Doppler",
    0x0200: "tissue characterisation",
}
_MIN_SIDE = 64  # pixels; a smaller region is an icon or a preview


@dataclass(frozen=True, slots=True)
class Region:
    """One declared region; ``spacing_mm`` is (row, column) spacing, ``None`` where it is not calibrated in cm in both directions."""

    spatial_format: int
    data_type: int
    box: Box
    spacing_mm: tuple[float, float] | None

    @property
    def is_tissue(self) -> bool:
        """Whether it is 2D tissue: B-mode."""
        return (self.spatial_format, self.data_type) == (_FLAT, _TISSUE)

    @property
    def name(self) -> str:
        """Name it for a person."""
        if self.spatial_format == _M_MODE:
            return "M-mode"
        return _DATA_TYPES.get(self.data_type) or _FORMATS.get(self.spatial_format, "unnamed")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the B-mode region lies: ``box`` is ``None`` when the header does not say; ``holes`` are other regions on top of it."""

    box: Box | None = None
    spacing_mm: tuple[float, float] | None = None
    holes: tuple[Box, ...] = ()
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def lay_out(source: Dataset, where: str) -> Layout:
    """Find the B-mode region among the declared ones: tissue, 2D, without colour flow on it, the largest, of equals the first.

    Raises
    ------
    InputError
        Regions are declared and none is B-mode, or ImageType says another mode; the sentence names what there is.
    """
    regions = [r for item in items(source, "SequenceOfUltrasoundRegions") if (r := _read(item, source)) is not None]
    if not regions:
        _require_plain_modes(source, where)
        return Layout()
    tissue = [r for r in regions if r.is_tissue and min(sides(r.box)) >= _MIN_SIDE]
    others = [r for r in regions if not r.is_tissue]
    clear = [r for r in tissue if not any(o.data_type == _FLOW and _overlap(r.box, o.box) for o in others)]
    if not clear:
        found = "colour flow on its B-mode region" if tissue else (_name_all(others) or "nothing but icons")
        raise InputError(f"{where} has no B-mode region: it declares {found}")
    chosen = max(clear, key=lambda r: sides(r.box)[0] * sides(r.box)[1])
    which = "first" if len({sides(r.box) for r in clear}) == 1 else "largest"
    return Layout(
        box=chosen.box,
        spacing_mm=chosen.spacing_mm,
        holes=tuple(o.box for o in others if _overlap(o.box, chosen.box)),
        left_out=(f"left out: {_name_all(others)}",) if others else (),
        problems=(f"{len(clear)} B-mode regions side by side: the {which} was taken",) if len(clear) > 1 else (),
    )


def _require_plain_modes(source: Dataset, where: str) -> None:
    """Refuse by ImageType an image that declares no regions; its fourth value has one bit per mode, in hexadecimal."""
    values = words(source, "ImageType")
    modes = int(values[3], 16) if len(values) > 3 and re.fullmatch(r"[0-9a-fA-F]{4}", values[3]) else 0
    if special := [name for bit, name in _MODES.items() if modes & bit]:
        raise InputError(f"{where} is {' and '.join(special)} by its ImageType")


def _read(item: Dataset, source: Dataset) -> Region | None:
    """Return one region, or ``None`` where it says neither format nor type, or its corners are unreadable or outside the image."""
    spatial_format, data_type = (integer(item, k) or 0 for k in ("RegionSpatialFormat", "RegionDataType"))
    corners = [integer(item, f"RegionLocation{k}") for k in ("MinY0", "MinX0", "MaxY1", "MaxX1")]
    if (spatial_format, data_type) == (0, 0) or None in corners:
        return None
    top, left, bottom, right = (c or 0 for c in corners)
    size = (integer(source, "Rows") or 0, integer(source, "Columns") or 0)
    box = (max(0, top), max(0, left), min(bottom + 1, size[0]), min(right + 1, size[1]))  # the corners themselves are inclusive
    return Region(spatial_format, data_type, box, _spacing_mm(item)) if min(sides(box)) > 0 else None


def _spacing_mm(item: Dataset) -> tuple[float, float] | None:
    """Return (row, column) spacing. A negative delta says that the physical axis runs up or left; the distance is its size."""
    if (integer(item, "PhysicalUnitsYDirection"), integer(item, "PhysicalUnitsXDirection")) != (_CM, _CM):
        return None
    down, along = number(item, "PhysicalDeltaY"), number(item, "PhysicalDeltaX")
    return (abs(down) * 10.0, abs(along) * 10.0) if down and along else None


def _name_all(regions: Sequence[Region]) -> str:
    return " and ".join(dict.fromkeys(f"{'an' if r.name[0] in 'Mu' else 'a'} {r.name} region" for r in regions))


def sides(box: Box) -> tuple[int, int]:
    """Return (rows, columns) of a box; not positive where it is empty."""
    return box[2] - box[0], box[3] - box[1]


def _overlap(one: Box, other: Box) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])
