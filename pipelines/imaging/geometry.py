"""Volumes from slices, by geometry; and the only doors between :class:`highdicom.Volume` and SimpleITK.

``Volume.to_simpleitk`` keeps the slice axis first, which makes pyradiomics' ``force2D`` wrong; :func:`to_sitk` gives images whose axes are
(column, row, slice), as ITK readers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import BadGeometry
from pipelines.imaging.adc import bring_to_unit, fit_adc, geometric_mean
from pipelines.imaging.diffusion import b_value, nominal
from pipelines.imaging.elements import integer, numbers, text, upper, value
from pipelines.imaging.multiframe import Frame, expand, name_image
from pipelines.imaging.pixels import read_slices
from pipelines.imaging.series import SAME_POSITION_MM
from pipelines.types import Choice, FloatArray, ImageVolume, SeriesRole

MOSAIC = frozenset({"MOSAIC", "VFRAME"})  # Image Type (0008,0008) of Siemens and United Imaging
_COUNTS = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
_ORIENTATION_TOLERANCE = 1e-3  # per direction cosine; scanners write 4 to 6 digits
_AXES_TOLERANCE = 1e-2  # of the scalar products of row and column direction
_ASIDE_MM = 0.5  # gantry tilt and rounding stay below
_SPACING_TOLERANCE = 0.02  # of the slice spacing


def build_volume(choice: Choice) -> ImageVolume:
    """Read the pixels of a chosen series into one regular volume, ordered by position along the slice normal.

    Diffusion images of several directions at one position become their geometric mean, the trace image. A choice of role ADC whose images
    have several b-values becomes the map computed from them (:mod:`pipelines.imaging.adc`). Every ADC map is in 1e-6 mm2/s; the reason
    says in which unit the scanner's own one was sent.

    Raises
    ------
    BadGeometry
        Slices are missing, doubled, differently oriented or of different size; the message names series and slice.
    UndecodablePixels
        An instance's pixel data is absent, truncated or in a form that cannot be decoded.
    InputError
        An ADC map has no plausible unit.
    """
    label = f"series {choice.header.label()}"
    frames = choice.frames or expand(choice.instances)
    b_values = nominal(b for b in map(b_value, frames) if b is not None)
    computed = choice.role is SeriesRole.ADC and len(set(b_values.values())) > 1
    slices = stack(frames, label)
    reason = choice.reason
    if computed:
        array = _fit(slices, b_values, label)
    else:
        _check_repeats(slices, label, diffusion=choice.role is SeriesRole.DWI)
        array = _mean(slices, label, is_map=choice.role is SeriesRole.ADC)
        if choice.role is SeriesRole.ADC:
            array, words = bring_to_unit(array, frames, label)
            reason = f"{reason}; {words}"
    affine, frame = _affine([images[0] for images in slices]), choice.header.frame_of_reference_uid or None
    try:
        volume = hd.Volume(array, affine, "PATIENT", frame_of_reference_uid=frame)
    except ValueError:  # axes rounded in the header: off the right angle by more than highdicom takes and less than stack() refuses
        volume = hd.Volume(array, _squared(affine), "PATIENT", frame_of_reference_uid=frame)
    sources = tuple(images[0] for images in slices)
    return ImageVolume(role=choice.role, header=choice.header, volume=volume, sources=sources, reason=reason)


def stack(frames: Sequence[Dataset], label: str) -> list[list[Dataset]]:
    """Return the images by slice, slices ordered along the normal, images of one slice by b-value and number.

    Raises
    ------
    BadGeometry
        The slices do not form a regular volume.
    """
    _check_uniform(frames, label)
    normal = _normal(frames[0])
    groups: list[list[Dataset]] = []
    for frame in sorted(frames, key=lambda d: _depth(d, normal)):
        if groups and _depth(frame, normal) - _depth(groups[-1][0], normal) < SAME_POSITION_MM:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    slices = [sorted(images, key=_within_slice) for images in groups]
    _check_spacing([images[0] for images in slices], normal, label)
    return slices


def _within_slice(header: Dataset) -> tuple[float, float, str, int]:
    number = integer(header, "InstanceNumber")
    order = float("inf") if number is None else float(number)
    return (b_value(header) or 0.0, order, text(header, "SOPInstanceUID"), getattr(header, "frame_number", 0))


def _depth(header: Dataset, normal: FloatArray) -> float:
    return float(np.dot(normal, _numbers(header, "ImagePositionPatient")))


def _numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    found = numbers(header, keyword, _COUNTS[keyword])
    assert found is not None, "checked by _check_uniform"
    return found


def _check_uniform(frames: Sequence[Dataset], label: str) -> None:
    if not frames:
        raise BadGeometry(f"{label} has no image")
    first = frames[0]
    for d in frames:
        where = f"{label}, {name_image(d)}"
        if MOSAIC & set(upper(d, "ImageType")):
            raise BadGeometry(f"{where} is a mosaic, several slices in one image, which is not read")
        for keyword, count in _COUNTS.items():
            if numbers(d, keyword, count) is None:
                raise BadGeometry(f"{where} has no {'' if value(d, keyword) is None else 'usable '}{keyword}")
        size, expected = ((integer(h, "Rows"), integer(h, "Columns")) for h in (d, first))
        if size != expected:
            raise BadGeometry(f"{where} is {size[0]} x {size[1]}, the first image {expected[0]} x {expected[1]}")
        for keyword in ("ImageOrientationPatient", "PixelSpacing"):
            if not np.allclose(_numbers(d, keyword), _numbers(first, keyword), atol=_ORIENTATION_TOLERANCE):
                raise BadGeometry(f"{where}: {keyword} {list(_numbers(d, keyword))} differs from {list(_numbers(first, keyword))}")
    _check_plane(first, f"{label}, {name_image(first)}")


def _check_plane(header: Dataset, where: str) -> None:
    cosines = np.reshape(_numbers(header, "ImageOrientationPatient"), (2, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(2), atol=_AXES_TOLERANCE):
        raise BadGeometry(f"{where}: ImageOrientationPatient {cosines.ravel().tolist()} is no pair of perpendicular unit vectors")
    if min(_numbers(header, "PixelSpacing")) <= 0:
        raise BadGeometry(f"{where}: PixelSpacing {list(_numbers(header, 'PixelSpacing'))} is not positive")


def _normal(header: Dataset) -> FloatArray:
    cosines = np.asarray(_numbers(header, "ImageOrientationPatient"), dtype=float)
    return np.cross(cosines[:3], cosines[3:])


def _check_spacing(ordered: Sequence[Dataset], normal: FloatArray, label: str) -> None:
    if len(ordered) < 2:
        raise BadGeometry(f"{label} has a single slice")
    positions = np.array([np.asarray(_numbers(d, "ImagePositionPatient")) for d in ordered])
    steps = np.diff(positions @ normal)
    expected = float(np.median(steps))
    for below, above, step in zip(ordered[:-1], ordered[1:], steps, strict=True):
        if abs(step - expected) > _SPACING_TOLERANCE * expected:
            why = "a slice is missing" if step > expected else "the spacing varies"
            raise BadGeometry(f"{_pair(below, above, label)} are {step:.2f} mm apart, the others {expected:.2f} mm: {why}")
    whole = positions[-1] - positions[0]
    if np.dot(whole, normal) < (1 - _AXES_TOLERANCE**2 / 2) * np.linalg.norm(whole) * np.linalg.norm(normal):
        raise BadGeometry(f"{label}: the slices are not stacked at right angles to their plane")
    straight = positions[0] + np.linspace(0, 1, len(ordered))[:, None] * (positions[-1] - positions[0])
    aside = np.linalg.norm(positions - straight, axis=1)
    if aside.max() > max(_ASIDE_MM, _SPACING_TOLERANCE * expected):
        where = f"{label}, {name_image(ordered[int(aside.argmax())])}"
        raise BadGeometry(f"{where} lies {aside.max():.2f} mm beside the line of the other slices")


def _check_repeats(slices: Sequence[Sequence[Dataset]], label: str, *, diffusion: bool) -> None:
    """Several images of a slice can only be the directions of a diffusion image, and then every slice has as many."""
    for images in slices:
        if len(images) > 1 and (not diffusion or any(len(other) != len(images) for other in slices)):
            raise BadGeometry(f"{_pair(images[0], images[1], label)} lie at the same position")


def _pair(one: Dataset, other: Dataset, label: str) -> str:
    if isinstance(one, Frame) or isinstance(other, Frame):
        return f"{label}, {name_image(one)} and {name_image(other)}"
    return f"{label}, images {text(one, 'InstanceNumber') or '?'} and {text(other, 'InstanceNumber') or '?'}"


def _affine(ordered: Sequence[Dataset]) -> FloatArray:
    """Return the 4 x 4 matrix from (slice, row, column) indices to patient mm (PS3.3 C.7.6.2.1.1, with slices as a third axis).

    The slice axis comes from the positions themselves: ``Volume.from_attributes`` would assume a right-handed stack, which slices
    ordered along the cross product of row and column direction are not.
    """
    first = ordered[0]
    along_row, down_column = np.asarray(_numbers(first, "ImageOrientationPatient"), dtype=float).reshape(2, 3)
    row_spacing, column_spacing = _numbers(first, "PixelSpacing")
    start, end = (np.asarray(_numbers(d, "ImagePositionPatient"), dtype=float) for d in (first, ordered[-1]))
    affine = np.eye(4)
    affine[:3, 0] = (end - start) / (len(ordered) - 1)
    affine[:3, 1] = down_column * row_spacing
    affine[:3, 2] = along_row * column_spacing
    affine[:3, 3] = start
    return affine


def _squared(affine: FloatArray) -> FloatArray:
    """Return the affine with its axes at right angles: the rows' direction stays, spacings stay."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    along_row = affine[:3, 2] / lengths[2]
    down_column = affine[:3, 1] - np.dot(affine[:3, 1], along_row) * along_row
    down_column /= np.linalg.norm(down_column)
    normal = np.cross(along_row, down_column)
    normal *= np.sign(np.dot(normal, affine[:3, 0]))
    out = affine.copy()
    out[:3, :3] = np.column_stack([normal, down_column, along_row]) * lengths
    return out


def _mean(slices: Sequence[Sequence[Dataset]], label: str, *, is_map: bool) -> NDArray[np.float32]:
    """Return the stack; images of one slice as their geometric mean."""
    pixels = iter(read_slices([d for images in slices for d in images], label, is_map=is_map))
    return np.stack([geometric_mean([next(pixels) for _ in images]) for images in slices])


def _fit(slices: Sequence[Sequence[Dataset]], b_values: Mapping[float, float], label: str) -> NDArray[np.float32]:
    """Return the ADC map of a series with several b-values, each slice fitted over the images it has."""
    pixels = iter(read_slices([d for images in slices for d in images], label))
    fitted = []
    for images in slices:
        by_b: dict[float, list[NDArray[np.float32]]] = {}
        for d in images:
            b, array = b_value(d), next(pixels)
            if b is not None:
                by_b.setdefault(b_values[b], []).append(array)
        if set(by_b) != set(b_values.values()):
            raise BadGeometry(f"{label}, {name_image(images[0])}: the slice has not been imaged at every b-value")
        fitted.append(fit_adc({b: geometric_mean(arrays) for b, arrays in by_b.items()}))
    return np.stack(fitted)


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
