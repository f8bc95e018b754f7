"""The region of interest when nobody sent one: a 2D network, slice by slice, then plausibility."""

from __future__ import annotations

import math

import highdicom as hd
import numpy as np
import onnxruntime
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.errors import UnusableDrawing
from pipelines.imaging.geometry import regrid, resample, to_sitk
from pipelines.models.manifest import Segmenter
from pipelines.models.session import run_segmenter
from pipelines.spec import RoiRule
from pipelines.types import Drawing, ImageVolume, Roi, RoiOrigin

_MOST = 0.9  # of what the network marked; below it a reader is told that there was more
USUAL_MM = (10.0, 40.0)  # diameter of a lesion, the prior of size with which the network is trained ([CRFE] loss)


def to_slices(image: hd.Volume, *, spacing_mm: float, size: int) -> hd.Volume:
    """Return what a segmenter sees: (n_slices, size, size) float32, ``spacing_mm`` in plane, around the centre, z-scored.

    Slices keep their own spacing: a 5 mm gap is not invented upon. The z-score is that of the whole field of view within the crop.
    """
    grid = regrid(image, spacing_mm=(image.spacing[0], spacing_mm, spacing_mm), shape=(image.spatial_shape[0], size, size))
    slices = resample(image.astype(np.float32), grid).array
    return grid.with_array(((slices - slices.mean()) / max(float(slices.std()), np.finfo(np.float32).tiny)).astype(np.float32))


def segment(image: ImageVolume, model: Segmenter, *, session: onnxruntime.InferenceSession, rule: RoiRule) -> Roi:
    """Draw the tumour on one sequence: what the network marks, without gaps and strays, on the sequence's own grid.

    A slice without a mark between two that have one is filled in between their outlines, then the largest connected component is taken.
    The region's ``description`` says what each of the two did and how the diameter compares with the prior of size; ``notes``, which a
    reader must know, are that slices were filled and that more than a tenth of what was marked lay elsewhere.

    Raises
    ------
    UnusableDrawing
        The network marks nothing, or a volume outside the system's plausible range (``rule``).
    """
    slices = to_slices(image.volume, spacing_mm=model.spacing_mm, size=model.input.shape[-1])
    logits = slices.with_array(run_segmenter(session, slices.array))
    inside = slices.with_array(np.ones_like(slices.array))
    marked = np.logical_and(resample(logits, image.volume).array > 0, resample(inside, image.volume).array > 0.5)
    drawn = fill_gaps(marked)
    mask = image.volume.with_array(_largest_component(image.volume.with_array(drawn.astype(np.uint8))))
    volume_ml = float(mask.array.sum()) * image.volume.voxel_volume / 1000.0
    if volume_ml == 0:
        raise UnusableDrawing(f"no roi was sent and the segmenter found no tumour on {image.role}", Drawing(image, mask))
    if not rule.min_volume_ml <= volume_ml <= rule.max_volume_ml:
        raise UnusableDrawing(
            f"no roi was sent and the segmenter's {volume_ml:.2f} ml on {image.role} are implausible "
            f"(expected {rule.min_volume_ml:g} to {rule.max_volume_ml:g} ml)",
            Drawing(image, mask),
        )
    kept, notes = float(mask.array.sum() / drawn.sum()), []
    filled = int(((mask.array > 0) & ~marked).any(axis=(1, 2)).sum())
    if filled:
        notes.append(f"the drawn region lacked {filled} slice{'s' if filled > 1 else ''} between others, which were filled in")
    if kept < _MOST:
        notes.append(f"the network marked several regions; the largest, with {kept:.0%} of what it marked, was taken")
    return Roi(
        role=image.role,
        volume=mask,
        origin=RoiOrigin.MODEL,
        description=(
            f"drawn by the segmentation network ({model.network}); largest part, {kept:.0%} of what it marked; slices filled: {filled}; "
            f"{_diameter_mm(mask):.0f} mm across (usual: {USUAL_MM[0]:.0f} to {USUAL_MM[1]:.0f} mm)"
        ),
        notes=tuple(notes),
    )


def _diameter_mm(mask: hd.Volume) -> float:
    """Return the diameter of the circle that has the area of the largest section, as the prior of size measures it."""
    pixels = int(mask.array.sum(axis=(1, 2)).max())
    return 2 * math.sqrt(pixels * mask.spacing[1] * mask.spacing[2] / math.pi)


def fill_gaps(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask (slices, rows, columns) with each lesion filled in on single slices where it has no mark.

    Marks on the slices before and after that overlap are of one lesion; where the slice between has none of it (what it has elsewhere is
    another matter), it gets the shape halfway: where the mean of their signed distances is not positive (shape-based interpolation,
    Raya and Udupa 1990).
    """
    filled = marked.copy()
    for k in range(1, len(marked) - 1):
        for common in _parts(marked[k - 1] & marked[k + 1]):
            if not (common & marked[k]).any():
                before, after = (_touching(marked[i], common) for i in (k - 1, k + 1))
                filled[k] |= (_signed_distance(before) + _signed_distance(after)) <= 0
    return filled


def _parts(plane: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return the connected parts of a plane."""
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(plane.astype(np.uint8))))
    return [labels == number for number in range(1, int(labels.max(initial=0)) + 1)]


def _touching(plane: NDArray[np.bool_], common: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(np.any([part for part in _parts(plane) if (part & common).any()], axis=0), dtype=np.bool_)


def _signed_distance(plane: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance in pixels to the outline, negative inside."""
    distances = sitk.SignedMaurerDistanceMap(sitk.GetImageFromArray(plane.astype(np.uint8)), squaredDistance=False, useImageSpacing=False)
    return np.asarray(sitk.GetArrayFromImage(distances), dtype=np.float32)


def _largest_component(mask: hd.Volume) -> NDArray[np.uint8]:
    components = sitk.RelabelComponent(sitk.ConnectedComponent(to_sitk(mask)), sortByObjectSize=True)
    return np.asarray(sitk.GetArrayFromImage(components) == 1, dtype=np.uint8)
