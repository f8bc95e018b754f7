"""Intensities made comparable: bias field correction and z-scores within the body."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import SimpleITK as sitk

from pipelines.imaging.geometry import to_sitk
from pipelines.spec import Preprocess
from pipelines.types import ImageVolume, SeriesRole

SCALE = 100.0  # per standard deviation: a bin width of 25 then gives some 20 to 40 grey levels, on raw z-scores it gives two
_N4_VOXEL_MM = 8.0  # in-plane voxel size at which the field is fitted: coil fields vary over centimetres
_N4_SLICE_STEP = 2
_N4_ITERATIONS = (30, 30, 20)


def preprocess(image: ImageVolume, rule: Preprocess) -> hd.Volume:
    """Return the sequence as features see it: float32, same grid, N4 and z-score x 100 where the rule says so.

    The z-score's mean and standard deviation are those of the body ([OLNM] Radiomics feature extraction), so that the amount of air in
    the field of view does not matter. An ADC map is in physical units and is never normalised: its system's rule leaves it out. The body
    of an ultrasound image is its sector: what is not black.
    """
    if image.role not in (*rule.n4, *rule.normalise):
        return image.volume.astype(np.float32)
    work = to_sitk(image.volume.astype(np.float32))
    body = work > 0 if image.role is SeriesRole.TVUS else body_mask(work)
    if image.role in rule.n4:
        work = _correct_bias(work, body)
    array = sitk.GetArrayFromImage(work)
    if image.role in rule.normalise:
        inside = array[sitk.GetArrayFromImage(body) > 0]
        array = (array - inside.mean()) / max(float(inside.std()), np.finfo(np.float32).tiny) * SCALE
    return image.volume.with_array(array.astype(np.float32))


def body_mask(image: sitk.Image) -> sitk.Image:
    """Return the body (uint8 0/1): Otsu's threshold of the smoothed image, largest component, holes filled."""
    smooth = sitk.SmoothingRecursiveGaussian(
        sitk.Cast(image, sitk.sitkFloat32), [2.0 * s for s in image.GetSpacing()[:2]] + [0.5 * image.GetSpacing()[2]]
    )
    # Half of Otsu's threshold: pelvic muscle is dark beside bladder and fat, and belongs to the body.
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(smooth)
    rough = sitk.BinaryThreshold(smooth, 0.5 * otsu.GetThreshold(), float("inf"), 1, 0)
    components = sitk.RelabelComponent(sitk.ConnectedComponent(rough), sortByObjectSize=True)
    filled: sitk.Image = sitk.BinaryFillhole(components == 1)
    return filled if sitk.GetArrayViewFromImage(filled).any() else sitk.Cast(image * 0 + 1, sitk.sitkUInt8)


def _correct_bias(image: sitk.Image, body: sitk.Image) -> sitk.Image:
    """N4 on a shrunken copy, its field applied at full size."""
    positive = image - float(sitk.GetArrayViewFromImage(image).min()) + 1.0  # N4 works on logarithms
    in_plane = max(1, round(_N4_VOXEL_MM / image.GetSpacing()[0]))
    shrink = [in_plane, in_plane, _N4_SLICE_STEP]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(_N4_ITERATIONS)
    n4.Execute(sitk.Shrink(positive, shrink), sitk.Shrink(body, shrink))
    field = sitk.Cast(n4.GetLogBiasFieldAsImage(positive), sitk.sitkFloat32)
    return sitk.Cast(positive / sitk.Exp(field), sitk.sitkFloat32)
