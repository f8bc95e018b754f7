"""What is measured on the roi for the radiologist: sizes, and the mean ADC where there is a map."""

from __future__ import annotations

from collections.abc import Mapping

import highdicom as hd
import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from pipelines.features import radiomics
from pipelines.spec import Radiomics
from pipelines.types import Case, Code, Measurement, Roi, SeriesRole

_SHAPE = Radiomics((), image_types={"Original": {}}, classes={"shape": ("Maximum3DDiameter",)}, settings={}, count=1)
_VOLUME = Code("118565006", "SCT", "Volume")
_DIAMETER = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
_LONG_AXIS = Code("103339001", "SCT", "Long axis")
_AREA = Code("42798000", "SCT", "Area")
_ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
_ML = Code("ml", "UCUM", "ml")
_MM = Code("mm", "UCUM", "mm")
_MM2 = Code("mm2", "UCUM", "mm2")
_ADC_UNIT = Code("10-6.mm2/s", "UCUM", "10-6.mm2/s")


def measure(roi: Roi, case: Case, *, rois: Mapping[SeriesRole, hd.Volume]) -> tuple[Measurement, ...]:
    """Return the measurements on ``roi``; ``rois`` has it on each sequence's grid.

    In three dimensions: volume (ml), the mesh's largest diameter (mm), mean ADC (1e-6 mm2/s) where the case has a map. On
    ultrasound: area (mm2) and long axis (mm) of the section, or nothing where the image has no calibration.
    """
    if case.frame:
        return _section(roi) if case.frame.spacing_mm else ()
    measured = [Measurement(_VOLUME, float(np.count_nonzero(roi.volume.array)) * roi.volume.voxel_volume / 1000.0, _ML)]
    measured.append(Measurement(_DIAMETER, next(iter(radiomics.extract(roi.volume, roi.volume, _SHAPE).values())), _MM))
    if SeriesRole.ADC in case.volumes:
        inside = case.volumes[SeriesRole.ADC].volume.array[rois[SeriesRole.ADC].array > 0]
        measured.append(Measurement(_ADC, float(inside.mean()), _ADC_UNIT))
    return tuple(measured)


def _section(roi: Roi) -> tuple[Measurement, ...]:
    down_mm, along_mm = (float(s) for s in roi.volume.spacing[1:])
    pixels = np.argwhere(roi.volume.array[0] > 0)
    area = Measurement(_AREA, len(pixels) * down_mm * along_mm, _MM2)
    # The corners of the pixels, not their centres: a section of one pixel has a size.
    corners = np.concatenate([pixels + shift for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]) * (down_mm, along_mm)
    return (area, Measurement(_LONG_AXIS, float(pdist(corners[ConvexHull(corners).vertices]).max()), _MM))
