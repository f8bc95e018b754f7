"""The best B-mode frame of a study as the one volume of a system that reads ultrasound.

Ultrasound has no patient coordinates. The volume's frame is made up and belongs to its image alone: x to the right and y downwards in
millimetres from the centre of the image's first pixel, one slice at z = 0. An image without calibration takes pixels for millimetres,
which its ``UltrasoundFrame.spacing_mm`` of ``None`` and the volume's reason say; nothing measured on it is a length.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import highdicom as hd
import numpy as np

from pipelines.imaging.multiframe import name_image
from pipelines.imaging.ultrasound import choose_ultrasound, find_outlines, read_frame
from pipelines.types import Case, Choice, ImageVolume, Roi, RoiOrigin, Series, SeriesRole, UltrasoundFrame

_NO_SPACING = (1.0, 1.0)  # of an image without calibration, in pixels


def choose_image(series: Sequence[Series], *, names: Collection[str] = ()) -> Choice:
    """Return the ultrasound image of a study that holds the best B-mode frame; the reason says which frame and why.

    ``names`` are labels of outlines that the system takes for the tumour. An image that a person outlined wins, of several the one with
    the largest section in mm2 (:func:`pipelines.imaging.ultrasound.rank_ultrasound`).

    Raises
    ------
    MissingSequence
        There is no B-mode image; the message says why each ultrasound image was left out.
    MissingRoi
        A report outlines something on these images that cannot be used.
    """
    frame = choose_ultrasound(series, names=names)
    return Choice(
        role=SeriesRole.TVUS,
        header=frame.header,
        instances=(frame.source,),
        score=frame.score,
        reason=f"{name_image(frame.source)}: {'; '.join((*frame.reasons, *frame.problems))}",
    )


def load_ultrasound(series: Sequence[Series], choice: Choice, *, names: Collection[str] = ()) -> Case:
    """Read a chosen ultrasound image into a case of one volume, with the outline that a person drew on it, if there is one.

    The volume has role TVUS and shape (1, rows, columns): grey values 0..255 (float32) of the B-mode region alone. The roi, on the same
    grid, is the outline of the newest structured report that draws on the study's ultrasound.

    Raises
    ------
    InputError
        The image cannot be read, or an outline on it cannot be used.
    """
    (source,) = choice.instances
    frame = read_frame(source, choice.header, find_outlines(series, names))
    volume = _volume(frame)
    image = ImageVolume(role=SeriesRole.TVUS, header=choice.header, volume=volume, sources=(source,), reason=choice.reason)
    return Case(
        study_instance_uid=choice.header.study_instance_uid,
        volumes={SeriesRole.TVUS: image},
        roi=_roi(frame, volume),
        frame=frame,
    )


def _volume(frame: UltrasoundFrame) -> hd.Volume:
    down, along = frame.spacing_mm or _NO_SPACING
    top, left = frame.box[:2]
    affine = np.array([[0, 0, along, left * along], [0, down, 0, top * down], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    return hd.Volume(frame.grey[None], affine, "PATIENT")


def _roi(frame: UltrasoundFrame, volume: hd.Volume) -> Roi | None:
    if frame.roi is None or frame.region is None:
        return None
    return Roi(
        role=SeriesRole.TVUS,
        volume=volume.with_array(frame.roi[None]),
        origin=RoiOrigin.SCOORD,
        description=f"{frame.region.description}, drawn by {frame.region.drawn_by}",
        source_sop_instance_uid=frame.region.source_sop_instance_uid,
    )
