"""The data that flows through a system, from series headers to evidence.

Frozen dataclasses without behaviour beyond what they are made of. Geometry is always DICOM patient space (LPS, millimetres,
PS3.3 C.7.6.2.1.1); arrays of volumes are ordered (slice, row, column), as in :class:`highdicom.Volume`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

FloatArray = NDArray[np.float64]

OUR_MODEL_NAME = "Cervinode"  # Manufacturer's Model Name (0008,1090) of every result object: by it we know our own when they come back


class SeriesRole(StrEnum):
    """What a series is for, by its physics. The names are stable: they appear in JSON, in the SR and in manifests."""

    T1W = "T1W"
    T2W = "T2W"
    T2W_FS = "T2W_FS"  # T2 with fat suppression (SPAIR, SPIR, FS, STIR)
    DWI = "DWI"
    ADC = "ADC"
    CE_T1W = "CE_T1W"
    TVUS = "TVUS"
    SEG = "SEG"
    RTSTRUCT = "RTSTRUCT"
    SR = "SR"


class BundleStatus(StrEnum):
    """How far a bundle has been proven; stamped on every output."""

    DEMO = "demo"
    RESEARCH = "research"
    VALIDATED = "validated"


class RoiOrigin(StrEnum):
    """Whose region of interest was used."""

    SEG = "SEG"
    RTSTRUCT = "RTSTRUCT"
    SCOORD = "SCOORD"  # outlines in a structured report, on ultrasound
    MODEL = "MODEL"


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """What series choice knows of one series, taken from its headers.

    ``spacing_mm`` is (slice, row, column) spacing or ``None`` where it is not defined; ``b_values`` are s/mm2, sorted, one per
    distinct value found in the series.
    """

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    series_number: int | None
    description: str
    sop_class_uid: str
    n_instances: int
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    sequence_name: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    contrast_agent: str = ""
    b_values: tuple[float, ...] = ()
    orientation: tuple[float, ...] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    rows: int = 0
    columns: int = 0
    frame_of_reference_uid: str = ""
    manufacturer: str = ""
    acquisition_time: str = ""
    n_frames: int = 0  # images of a classic series, frames of multi-frame instances
    n_positions: int = 0  # distinct slice positions
    acquisition_date: str = ""
    injection_time: str = ""  # Contrast/Bolus Start Time, as sent
    samples_per_pixel: int = 1

    def label(self) -> str:
        """Name the series for a person: ``6 "t2_tse_tra" (MR, 19 images)``."""
        number = "?" if self.series_number is None else str(self.series_number)
        return f'{number} "{self.description or "no description"}" ({self.modality}, {self.n_instances} images)'


@dataclass(frozen=True, eq=False)
class Series:
    """One series: its header and its instances' headers (datasets without pixel data; ``filename`` leads to the file).

    ``frames`` are its single images: the instances themselves, or the frames of multi-frame ones (:mod:`pipelines.imaging.multiframe`).
    """

    header: SeriesHeader
    instances: tuple[Dataset, ...]
    frames: tuple[Dataset, ...] = ()


@dataclass(frozen=True, eq=False)
class Choice:
    """A series given a role: exactly these instances make the volume, for this reason.

    ``frames`` are the images among them that do; empty stands for all.
    """

    role: SeriesRole
    header: SeriesHeader
    instances: tuple[Dataset, ...]
    score: float
    reason: str
    frames: tuple[Dataset, ...] = ()


@dataclass(frozen=True, eq=False)
class Drawing:
    """What the segmentation network marked on a sequence, on its grid, where that cannot be used: nothing, or an implausible size."""

    image: ImageVolume
    mask: hd.Volume


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a system did not run.

    ``reasons`` are whole sentences; ``found`` names what was there instead, a line per series; ``drawing`` is shown to the reader.
    """

    system: str
    title: str
    code: str
    reasons: tuple[str, ...]
    found: tuple[str, ...] = ()
    failed: bool = False  # a FAILED job (our fault) rather than a REFUSED one (the input's)
    drawing: Drawing | None = None


@dataclass(frozen=True, eq=False)
class ImageVolume:
    """A sequence as one regular volume.

    ``volume.array`` is float32 in modality units, shape (slice, row, column). ``sources`` has one header per slice, in their order: of the
    source instance, or of the frame of a multi-frame one. Of a slice that several images made, it is the one of the lowest b-value.
    """

    role: SeriesRole
    header: SeriesHeader
    volume: hd.Volume
    sources: tuple[Dataset, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest: a mask (uint8, 0 or 1) on the grid of the sequence it was drawn on, and whose it is.

    ``segment_algorithm_type`` is that of the SEG it came in (PS3.3 C.8.20.2.3.1: AUTOMATIC, SEMIAUTOMATIC or MANUAL), empty for contours.
    ``notes`` are what a reader must know of how it was drawn.
    """

    role: SeriesRole
    volume: hd.Volume
    origin: RoiOrigin
    description: str
    source_sop_instance_uid: str | None = None
    segment_algorithm_type: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClinicalValue:
    """A fact about the patient from outside the images: its number, as a person writes it, and whose it is, in words.

    ``name`` and the encoding of ``value`` are those of :data:`pipelines.features.clinical.KNOWN`.
    """

    name: str
    value: float
    words: str
    source: str


@dataclass(frozen=True, eq=False)
class Case:
    """All that a system needs of one patient's study. ``frame`` is the ultrasound image that the TVUS volume was made of."""

    study_instance_uid: str
    volumes: Mapping[SeriesRole, ImageVolume]
    roi: Roi | None
    clinical: Mapping[str, ClinicalValue] = field(default_factory=dict)
    frame: UltrasoundFrame | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 table 8.8-1). ``meaning`` is at most 64 characters, ``value`` at most 16."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number about the patient, with its UCUM unit."""

    name: Code
    value: float
    unit: Code


@dataclass(frozen=True, slots=True)
class Contribution:
    """The Shapley value of one feature, in log-odds; positive speaks for the finding. ``group`` is the sequence or block."""

    feature: str
    group: str
    value: float
    log_odds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One more probability that a system states: of a class, of a binary axis that classes share, under an assumption or without one."""

    code: Code
    probability: float
    kind: Literal["class", "axis", "alternative", "without"]
    words: str


@dataclass(frozen=True, slots=True)
class NomogramRow:
    """One line of a nomogram: where the patient's value lies between ``low`` and ``high`` and what it adds.

    ``points`` run from 0 to 100, the latter for the range of the most influential line; ``log_odds`` is coefficient times value.
    """

    name: str
    words: str
    value: float
    unit: str
    low: float
    high: float
    points: float
    low_points: float
    high_points: float
    log_odds: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the system says.

    ``probability`` is calibrated, 0 to 1: of the finding, or of the most probable class where ``outcomes`` hold classes (then there is no
    threshold). ``interval`` are its bounds at 95 %. ``plausible`` is a conformal set of answers, right in ``coverage`` of cases.
    ``call`` is "positive", "negative", "class", or "withheld" where the case is too far from what the bundle was trained on.
    """

    system: str
    title: str
    finding: Code
    bundle_version: str
    bundle_digest: str
    bundle_status: BundleStatus
    probability: float
    threshold: float | None
    threshold_rule: str
    call: str
    interval: tuple[float, float] | None = None
    flags: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    unpredictable: tuple[str, ...] = ()  # classes that the training cohort did not have
    plausible: tuple[str, ...] = ()
    coverage: float | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the prediction rests on: everything that the SR, the SEG and the captures show."""

    volumes: Mapping[SeriesRole, ImageVolume]
    roi: Roi
    rois: Mapping[SeriesRole, hd.Volume]  # the roi on each sequence's grid
    activation_maps: Mapping[SeriesRole, hd.Volume]  # float32 0..1 on each sequence's grid
    contributions: tuple[Contribution, ...]  # all, largest absolute value first
    base_log_odds: float
    measurements: tuple[Measurement, ...]
    segmenter: str | None = None  # name and digest of the network that drew the roi, where one did
    clinical: tuple[ClinicalValue, ...] = ()  # what was known of what the system uses
    nomogram: tuple[NomogramRow, ...] = ()
    frame: UltrasoundFrame | None = None
    occluded: frozenset[SeriesRole] = frozenset()  # sequences whose map is an occlusion map, not a class activation map


def as_float(value: object) -> float | None:
    """Return a header value as a finite float, or ``None`` where it is absent or unreadable."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


@dataclass(frozen=True, eq=False)
class FrameRegion:
    """Closed outlines that somebody drew on a frame of an ultrasound image, from a structured report.

    Each contour is a float array of shape (n, 2): (row, column) pixel indices of the whole image, pixel centres being whole numbers.
    An inner contour is a hole. ``frame_number`` counts from 1; ``None`` means that the outline was drawn for every frame.
    """

    sop_instance_uid: str  # of the image
    frame_number: int | None
    contours: tuple[FloatArray, ...]
    description: str
    drawn_by: str
    source_sop_instance_uid: str  # of the structured report


@dataclass(frozen=True, eq=False)
class UltrasoundFrame:
    """The B-mode region of one ultrasound frame, as a model may see it: tissue, without text, rulers or calipers that were recognised.

    ``grey`` holds display values 0..255, shape (rows, columns). ``spacing_mm`` is (row, column) spacing, or ``None`` for an image without
    calibration: nothing in it has a size in millimetres. ``box`` is (top, left, bottom, right) in source pixels, the last two exclusive.
    ``hidden`` marks pixels whose value is not tissue: outside the sector (0) or under graphics (taken from the nearest tissue). ``roi``
    is uint8 0 or 1 on the same grid, from ``region``.
    """

    header: SeriesHeader
    source: Dataset
    frame_number: int  # from 1
    grey: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    box: tuple[int, int, int, int]
    hidden: NDArray[np.bool_]
    roi: NDArray[np.uint8] | None
    region: FrameRegion | None
    score: float  # 0 to 100, see pipelines.imaging.ultrasound
    reasons: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class UltrasoundCandidate:
    """How one ultrasound image ranks among those of its study; ``frame_number`` is ``None`` where it was left out."""

    header: SeriesHeader
    source: Dataset
    frame_number: int | None
    score: float
    reasons: tuple[str, ...]
    problems: tuple[str, ...]
