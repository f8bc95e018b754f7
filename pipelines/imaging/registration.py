"""Put sequences of different frames of reference into one, where a system allows it."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import SimpleITK as sitk

from pipelines.errors import BadGeometry
from pipelines.imaging.geometry import to_sitk
from pipelines.types import FloatArray, ImageVolume

_BINS = 32
_SAMPLED = 0.2  # of the voxels
_SEED = 20
_SHRINK = (4, 2, 1)
_SMOOTH_MM = (4.0, 2.0, 0.0)
_SAME_PLACE_MM = 100.0  # centres further apart: the couch was moved, or the coordinates have nothing in common
_MAX_MOVE_MM = 60.0  # beyond the difference of centres that was taken out first: no plausible motion between two sequences
_MAX_TURN_DEG = 30.0


def register(moving: ImageVolume, fixed: ImageVolume) -> ImageVolume:
    """Return ``moving`` in the frame of reference of ``fixed``: rigid, by mutual information (Mattes), deterministic.

    Voxels stay as they are; only the affine changes. The reason says how far the image was moved.

    Raises
    ------
    BadGeometry
        The images could not be brought together, or only by a motion that no patient makes.
    """
    what = f"{moving.role} (series {moving.header.label()})"
    start = _start(moving.volume, fixed.volume)
    try:
        found = _optimise(to_sitk(moving.volume.astype(np.float32)), to_sitk(fixed.volume.astype(np.float32)), start)
    except RuntimeError as error:
        raise BadGeometry(f"{what} cannot be registered to {fixed.role}: the images do not overlap") from error
    motion = _as_matrix(found)  # from the fixed frame to the moving one
    centre = np.append(np.asarray(fixed.volume.center_position, dtype=float), 1.0)
    moved_mm = float(np.linalg.norm((motion @ centre - centre)[:3]))
    extra_mm = float(np.linalg.norm((motion @ centre - _as_matrix(start) @ centre)[:3]))
    turned_deg = float(np.rad2deg(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))))
    if extra_mm > _MAX_MOVE_MM or turned_deg > _MAX_TURN_DEG:
        raise BadGeometry(f"{what} cannot be registered to {fixed.role}: {extra_mm:.0f} mm and {turned_deg:.0f} degrees are no motion")
    volume = hd.Volume(
        array=moving.volume.array,
        affine=np.linalg.inv(motion) @ moving.volume.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=fixed.volume.frame_of_reference_uid,
    )
    words = f"another frame of reference than {fixed.role}: registered rigidly, moved by {moved_mm:.1f} mm and {turned_deg:.1f} degrees"
    return replace(moving, volume=volume, reason=f"{moving.reason}; {words}")


def _start(moving: hd.Volume, fixed: hd.Volume) -> sitk.Euler3DTransform:
    """Return the identity where the images lie near each other, else the shift between their centres."""
    start = sitk.Euler3DTransform()
    centre = np.asarray(fixed.center_position, dtype=float)
    start.SetCenter(centre.tolist())
    apart = np.asarray(moving.center_position, dtype=float) - centre
    if np.linalg.norm(apart) > _SAME_PLACE_MM:
        start.SetTranslation(apart.tolist())
    return start


def _optimise(moving: sitk.Image, fixed: sitk.Image, start: sitk.Euler3DTransform) -> sitk.Transform:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLED, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=2.0, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(_SHRINK)
    method.SetSmoothingSigmasPerLevel(_SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(sitk.Euler3DTransform(start), inPlace=False)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums in a fixed order: the same input gives the same motion
    try:
        return method.Execute(fixed, moving)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _as_matrix(transform: sitk.Transform) -> FloatArray:
    """Return a rigid transform as a 4 x 4 matrix, from its action on four points."""
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack([np.asarray(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)])
    matrix[:3, 3] = origin
    return matrix
