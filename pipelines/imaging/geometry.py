"""Volumes from slices, by geometry; and the only doors between :class:`highdicom.Volume` and SimpleITK.

``Volume.to_simpleitk`` keeps the slice axis first, which makes pyradiomics' ``force2D`` wrong; :func:`to_sitk` gives images whose axes are
(column, row, slice), as ITK readers do.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import Dataset

from pipelines.errors import BadGeometry, UndecodablePixels
from pipelines.types import Choice, FloatArray, ImageVolume, as_float

_ORIENTATION_TOLERANCE = 1e-3  # per direction cosine; scanners write 4 to 6 digits
_SPACING_TOLERANCE = 0.02  # of the slice spacing
_SAME_POSITION_MM = 1e-2


def build_volume(choice: Choice) -> ImageVolume:
    """Read the pixels of a chosen series into one regular volume, ordered by position along the slice normal.

    Raises
    ------
    BadGeometry
        Slices are missing, doubled, differently oriented or of different size; the message names series and slice.
    UndecodablePixels
        An instance's pixel data is absent, truncated or in a form that cannot be decoded.
    """
    label = f"series {choice.header.label()}"
    _check_uniform(choice.instances, label)
    normal = _normal(choice.instances[0])
    ordered = sorted(choice.instances, key=lambda d: float(np.dot(normal, d.ImagePositionPatient)))
    _check_spacing(ordered, normal, label)
    volume = hd.Volume(
        array=np.stack([_read_pixels(d, label) for d in ordered]),
        affine=_affine(ordered),
        coordinate_system="PATIENT",
        frame_of_reference_uid=choice.header.frame_of_reference_uid or None,
    )
    return ImageVolume(role=choice.role, header=choice.header, volume=volume, sources=tuple(ordered), reason=choice.reason)


def _check_uniform(instances: Sequence[Dataset], label: str) -> None:
    first = instances[0]
    for d in instances:
        where = f"{label}, image {d.get('InstanceNumber', '?')}"
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
            if not d.get(keyword):
                raise BadGeometry(f"{where} has no {keyword}")
        if (d.Rows, d.Columns) != (first.Rows, first.Columns):
            raise BadGeometry(f"{where} is {d.Rows} x {d.Columns}, the first image {first.Rows} x {first.Columns}")
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            if not np.allclose(d[keyword].value, first[keyword].value, atol=_ORIENTATION_TOLERANCE):
                raise BadGeometry(f"{where}: {keyword} {list(d[keyword].value)} differs from {list(first[keyword].value)}")


def _normal(header: Dataset) -> FloatArray:
    cosines = np.asarray(header.ImageOrientationPatient, dtype=float)
    return np.cross(cosines[:3], cosines[3:])


def _check_spacing(ordered: Sequence[Dataset], normal: FloatArray, label: str) -> None:
    if len(ordered) < 2:
        raise BadGeometry(f"{label} has a single slice")
    positions = np.array([np.dot(normal, d.ImagePositionPatient) for d in ordered])
    steps = np.diff(positions)
    expected = float(np.median(steps))
    for below, above, step in zip(ordered[:-1], ordered[1:], steps, strict=True):
        pair = f"{label}, images {below.get('InstanceNumber', '?')} and {above.get('InstanceNumber', '?')}"
        if step < _SAME_POSITION_MM:
            raise BadGeometry(f"{pair} lie at the same position")
        if abs(step - expected) > _SPACING_TOLERANCE * expected:
            raise BadGeometry(f"{pair} are {step:.2f} mm apart, the others {expected:.2f} mm: a slice is missing")


def _affine(ordered: Sequence[Dataset]) -> FloatArray:
    """Return the 4 x 4 matrix from (slice, row, column) indices to patient mm (PS3.3 C.7.6.2.1.1, with slices as a third axis).

    The slice axis comes from the positions themselves: ``Volume.from_attributes`` would assume a right-handed stack, which slices
    ordered along the cross product of row and column direction are not.
    """
    first = ordered[0]
    along_row, down_column = np.asarray(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_spacing, column_spacing = (float(v) for v in first.PixelSpacing)
    start, end = (np.asarray(d.ImagePositionPatient, dtype=float) for d in (first, ordered[-1]))
    affine = np.eye(4)
    affine[:3, 0] = (end - start) / (len(ordered) - 1)
    affine[:3, 1] = down_column * row_spacing
    affine[:3, 2] = along_row * column_spacing
    affine[:3, 3] = start
    return affine


def _read_pixels(header: Dataset, label: str) -> FloatArray:
    """Return one slice in modality units (PS3.3 C.11.1 rescale), shape (rows, columns), float32."""
    where = f"{label}, image {header.get('InstanceNumber', '?')}"
    try:
        full = pydicom.dcmread(header.filename)
        stored = full.pixel_array
    except (
        OSError,
        EOFError,
        AttributeError,
        ValueError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
    ) as error:
        raise UndecodablePixels(f"{where}: {error}") from error
    if stored.ndim != 2:
        raise UndecodablePixels(f"{where}: one grey-level slice expected, got an array of shape {stored.shape}")
    slope, intercept = as_float(full.get("RescaleSlope")), as_float(full.get("RescaleIntercept"))
    scaled = stored.astype(np.float32) * np.float32(slope if slope is not None else 1.0)
    return np.asarray(scaled + np.float32(intercept or 0.0), dtype=np.float32)


def to_sitk(volume: hd.Volume) -> sitk.Image:
    """Return the volume as a SimpleITK image: axes (column, row, slice), LPS millimetres, voxel values unchanged."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array))
    directions = volume.direction  # columns: unit vectors of the slice, row and column index
    image.SetDirection(np.ascontiguousarray(directions[:, ::-1]).flatten().tolist())
    image.SetSpacing([float(s) for s in volume.spacing[::-1]])
    image.SetOrigin([float(p) for p in volume.position])
    return image


def from_sitk(image: sitk.Image, *, frame_of_reference_uid: str | None) -> hd.Volume:
    """Return a 3D SimpleITK image as a volume with axes (slice, row, column)."""
    directions = np.asarray(image.GetDirection()).reshape(3, 3)[:, ::-1]
    spacing = np.asarray(image.GetSpacing())[::-1]
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = image.GetOrigin()
    return hd.Volume(
        array=sitk.GetArrayFromImage(image),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference_uid,
    )


def resample(volume: hd.Volume, like: hd.Volume, *, nearest: bool = False) -> hd.Volume:
    """Resample onto the grid of ``like`` by patient coordinates; outside it is 0. Linear interpolation unless ``nearest``."""
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    moved = sitk.Resample(to_sitk(volume), _grid(like), sitk.Transform(), interpolator, 0.0)
    return like.with_array(sitk.GetArrayFromImage(moved))


def _grid(like: hd.Volume) -> sitk.Image:
    """Return an empty image with the geometry of ``like``: a resampling reference whose values are never looked at."""
    grid = sitk.Image([int(n) for n in like.spatial_shape[::-1]], sitk.sitkUInt8)
    directions = like.direction
    grid.SetDirection(np.ascontiguousarray(directions[:, ::-1]).flatten().tolist())
    grid.SetSpacing([float(s) for s in like.spacing[::-1]])
    grid.SetOrigin([float(p) for p in like.position])
    return grid


def resample_mask(mask: hd.Volume, like: hd.Volume) -> hd.Volume:
    """Resample a 0/1 mask onto another grid: linear, then at least half; shape-preserving where spacings differ."""
    if mask.geometry_equal(like):
        return mask
    fraction = resample(mask.astype(np.float32), like)
    return fraction.with_array((fraction.array >= 0.5).astype(np.uint8))


def regrid(
    volume: hd.Volume,
    *,
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    centre: FloatArray | None = None,
) -> hd.Volume:
    """Return an empty (zero, float32) grid along the volume's own axes around ``centre`` (patient mm; default: the volume's own)."""
    middle = np.asarray(volume.center_position if centre is None else centre, dtype=float)
    axes = volume.direction * np.asarray(spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = middle - axes @ ((np.asarray(shape) - 1) / 2)
    return hd.Volume(
        array=np.zeros(shape, dtype=np.float32),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=volume.frame_of_reference_uid,
    )


def centroid(mask: hd.Volume) -> FloatArray:
    """Return the centre of mass of a mask in patient coordinates (mm)."""
    indices = np.argwhere(mask.array > 0).mean(axis=0)
    return np.asarray(mask.map_indices_to_reference(indices[None])[0], dtype=float)
