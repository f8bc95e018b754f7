"""The region of interest when nobody sent one: a 2D network, slice by slice, then plausibility."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import onnxruntime
import SimpleITK as sitk
from numpy.typing import NDArray

from pipelines.errors import MissingRoi
from pipelines.imaging.geometry import regrid, resample, to_sitk
from pipelines.models.manifest import Segmenter
from pipelines.models.session import run_segmenter
from pipelines.spec import RoiRule
from pipelines.types import ImageVolume, Roi, RoiOrigin


def to_slices(image: hd.Volume, *, spacing_mm: float, size: int) -> hd.Volume:
    """Return what a segmenter sees: (n_slices, size, size) float32, ``spacing_mm`` in plane, around the centre, z-scored.

    Slices keep their own spacing: a 5 mm gap is not invented upon. The z-score is that of the whole field of view within the crop.
    """
    grid = regrid(image, spacing_mm=(image.spacing[0], spacing_mm, spacing_mm), shape=(image.spatial_shape[0], size, size))
    slices = resample(image.astype(np.float32), grid).array
    return grid.with_array(((slices - slices.mean()) / max(float(slices.std()), np.finfo(np.float32).tiny)).astype(np.float32))


def segment(image: ImageVolume, model: Segmenter, *, session: onnxruntime.InferenceSession, rule: RoiRule) -> Roi:
    """Draw the tumour on one sequence: largest connected component of the network's mask, on the sequence's own grid.

    Raises
    ------
    MissingRoi
        The network marks nothing, or a volume outside the system's plausible range (``rule``).
    """
    slices = to_slices(image.volume, spacing_mm=model.spacing_mm, size=model.input.shape[-1])
    logits = slices.with_array(run_segmenter(session, slices.array))
    inside = slices.with_array(np.ones_like(slices.array))
    drawn = (resample(logits, image.volume).array > 0) & (resample(inside, image.volume).array > 0.5)
    mask = image.volume.with_array(_largest_component(image.volume.with_array(drawn.astype(np.uint8))))
    volume_ml = float(mask.array.sum()) * image.volume.voxel_volume / 1000.0
    if volume_ml == 0:
        raise MissingRoi(f"no roi was sent and the segmenter found no tumour on {image.role}")
    if not rule.min_volume_ml <= volume_ml <= rule.max_volume_ml:
        raise MissingRoi(
            f"no roi was sent and the segmenter's {volume_ml:.2f} ml on {image.role} are implausible "
            f"(expected {rule.min_volume_ml:g} to {rule.max_volume_ml:g} ml)"
        )
    return Roi(
        role=image.role,
        volume=mask,
        origin=RoiOrigin.MODEL,
        description=f"drawn by the segmentation network ({model.network})",
    )


def _largest_component(mask: hd.Volume) -> NDArray[np.uint8]:
    components = sitk.RelabelComponent(sitk.ConnectedComponent(to_sitk(mask)), sortByObjectSize=True)
    return np.asarray(sitk.GetArrayFromImage(components) == 1, dtype=np.uint8)
