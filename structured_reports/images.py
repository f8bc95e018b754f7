"""Which image of each sequence is shown and referred to: the one on which the region is largest."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset

from pipelines.types import Evidence, SeriesRole
from structured_reports.source import normalise_source


def key_slice(evidence: Evidence, role: SeriesRole) -> int:
    """Return the index of the slice on which the roi is largest."""
    return int(np.argmax(np.count_nonzero(evidence.rois[role].array, axis=(1, 2))))


def key_image(evidence: Evidence, role: SeriesRole) -> Dataset:
    """Return the normalised header of the key slice; of ultrasound, that of the image with the number of the frame that was used."""
    image = normalise_source(evidence.volumes[role].sources[key_slice(evidence, role)])
    if evidence.frame and role is SeriesRole.TVUS:
        image.frame_number = evidence.frame.frame_number if "NumberOfFrames" in image else None
    return image


def key_images(evidence: Evidence) -> dict[SeriesRole, Dataset]:
    """Return the key image of every sequence."""
    return {role: key_image(evidence, role) for role in evidence.volumes}


def is_calibrated(evidence: Evidence) -> bool:
    """Tell whether lengths are known: always but for ultrasound without calibration."""
    return evidence.frame is None or evidence.frame.spacing_mm is not None
