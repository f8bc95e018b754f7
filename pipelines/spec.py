"""The vocabulary in which a prediction system is declared: data, no code.

If retraining would change it, it belongs into the bundle's manifest; if the paper calls it the method, it stands here. What serving
depends on is part of the method digest: a bundle trained under another digest is refused. The recipe is not, as it decides only how a
bundle is made; the bundle records it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from pipelines.recipe import Recipe
from pipelines.types import Code, SeriesRole


def _later(default: Any) -> Any:
    """Declare a field that came after bundles were made: at its default it is no part of the method digest."""
    return field(default=default, metadata={"later": True})


def _words(default: Any) -> Any:
    """Declare a field that people read or that only training uses: it is no part of the method digest."""
    return field(default=default, metadata={"words": True})


_NO_RECIPE = Recipe()
DRAWN_ON = (SeriesRole.T2W, SeriesRole.T2W_FS, SeriesRole.CE_T1W)  # sequences that show the tumour's outline in MR, the best first


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Intensity steps before features, per sequence. ``normalise`` lists the roles that are z-scored within the body."""

    n4: tuple[SeriesRole, ...] = ()
    normalise: tuple[SeriesRole, ...] = ()


@dataclass(frozen=True)
class Radiomics:
    """A pyradiomics block: the same profile on every listed sequence. ``count`` features per sequence or an error.

    ``plane``: the whole volume, or as a two-dimensional image the slice on which the roi is largest.
    """

    roles: tuple[SeriesRole, ...]
    image_types: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, tuple[str, ...]]  # class -> feature names; an empty tuple means all of the class
    settings: Mapping[str, Any]
    count: int
    plane: Literal["volume", "largest"] = "volume"
    name: Literal["radiomics", "shape"] = "radiomics"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Nine first-order numbers of the roi's histogram in 8 bits, on the slice on which the roi is largest ([CRFE], features)."""

    roles: tuple[SeriesRole, ...]
    name: Literal["histogram"] = "histogram"


@dataclass(frozen=True, slots=True)
class Cube:
    """What a 3D network sees: a cube of ``side_mm`` about the roi's centre, ``size`` voxels a side, min-max to 0..1."""

    side_mm: float
    size: int


@dataclass(frozen=True, slots=True)
class SliceCrop:
    """What a 2D network sees: the roi's box on the slice where it is largest, wider by ``margin`` of itself on each side.

    Resampled to ``size`` pixels a side, z-scored within the crop.
    """

    margin: float
    size: int


@dataclass(frozen=True, slots=True)
class Triplets:
    """What a 2D network sees: for each slice with roi and a neighbour on both sides, the three of them as channels.

    Cropped to the roi's box plus ``margin_px`` native pixels, ``size`` pixels a side, z-scored within the crop.
    """

    margin_px: int
    size: int


@dataclass(frozen=True, slots=True)
class Cnn:
    """A network block: one network per listed sequence; ``network`` is the published one (:mod:`pipelines.training.networks`)."""

    roles: tuple[SeriesRole, ...]
    view: Cube | SliceCrop | Triplets
    layer: Literal["pool", "flat"] = _later("pool")  # features: averages of the last maps, or the maps themselves
    status: str = _later("")  # clinical feature that the network itself may be told, e.g. "node_positive"
    network: str = field(default="", metadata={"words": True})
    name: Literal["cnn"] = "cnn"


FeatureBlock = Radiomics | Histogram | Cnn
_B = TypeVar("_B", Radiomics, Histogram, Cnn)


@dataclass(frozen=True, slots=True)
class RoiRule:
    """Where the roi is drawn when nobody sent one, and what implausible means (millilitres; mm2 where the roi is a single slice).

    It is drawn on the first of ``roles`` that the study has, whether or not the system reads that sequence otherwise: systems with the
    same rule and the same segmenter see the same region.
    """

    roles: tuple[SeriesRole, ...]
    min_volume_ml: float = 0.1
    max_volume_ml: float = 500.0


@dataclass(frozen=True, slots=True)
class ClinicalInput:
    """A clinical value that a system uses, by its name in :data:`pipelines.features.clinical.KNOWN`.

    A job waits ``wait_s`` seconds for a required one; then ``fallback`` applies: go on without it (with the imaging-only model of the
    bundle, if its model uses the value), or refuse. Only the name is method; when to wait and what to do then is not.
    """

    name: str
    required: bool = True
    wait_s: float = 86400.0
    fallback: Literal["without", "refuse"] = "without"


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A rule by which the paper took patients in: the clinical value is at least ``low`` and below ``high``.

    Where the value is known and outside, the system does not apply; where it is not known, a job waits ``wait_s`` seconds for it, and then
    the report says that ``words`` was not verified.
    """

    name: str
    words: str
    low: float = -float("inf")
    high: float = float("inf")
    wait_s: float = _words(0.0)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A binary clinical status under both of whose states the probability is shown, with the code and words of either (0, then 1).

    ``without`` is the code of the probability by the bundle's model that does not know the status, where it has one.
    """

    name: str
    codes: tuple[Code, Code]
    without: Code


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class of a system that tells several apart, with its value on each of the system's binary axes."""

    number: int
    code: Code
    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """One prediction system, as its paper describes it."""

    name: str
    finding: Code
    site: Code  # anatomic region that the finding is about
    required: tuple[SeriesRole, ...]
    roi: RoiRule
    b_value: float | None = None  # s/mm2, the DWI image wanted
    preprocess: Preprocess = Preprocess()
    blocks: tuple[FeatureBlock, ...] = ()
    recipe: Recipe = field(default=_NO_RECIPE, metadata={"words": True})
    title: str = _words("")
    positive: str = _words("")  # the call in words, e.g. "occult lymph node metastasis suspected"
    negative: str = _words("")
    source: str = _words("")  # citation, section
    top_contributions: int = _words(8)
    # Sequences in different frames of reference are refused, or registered rigidly to the one that the roi is on.
    other_frame: Literal["refuse", "register"] = _later("refuse")
    contrast_delay_s: float | None = _later(None)  # seconds after injection, the contrast-enhanced phase wanted
    roi_names: tuple[str, ...] = _later(())  # segment labels or structure names that are the tumour, beside the known codes and words
    clinical: tuple[ClinicalInput, ...] = _later(())
    inclusion: tuple[Inclusion, ...] = _later(())
    unverified: tuple[str, ...] = _words(())  # by what else the paper took patients in, which no value can verify: the report says so
    reduced: tuple[tuple[SeriesRole, ...], ...] = _words(())  # sets of sequences with which a bundle may do when others are missing
    alternative: Alternative | None = field(default=None, metadata={"words": True})
    classes: tuple[ClassLabel, ...] = _later(())
    axes: tuple[Code, ...] = _later(())  # the binary axes that the classes are made of
    withhold_outside: float | None = _later(None)  # share of features outside the training range from which the call is withheld

    def method_digest(self) -> str:
        """Return the SHA-256 (hex) of all that serving depends on: everything but the words shown to people and the recipe."""
        method = _method(self)
        if self.clinical:
            method["clinical"] = sorted(one.name for one in self.clinical)
        return hashlib.sha256(json.dumps(method, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def clinical_names(self) -> tuple[str, ...]:
        """Names of the clinical values that the system looks at: those that it predicts with, and those of its rules of inclusion."""
        return tuple(dict.fromkeys([*(c.name for c in self.clinical), *(rule.name for rule in self.inclusion)]))

    def blocks_of(self, kind: type[_B]) -> tuple[_B, ...]:
        """Return the feature blocks of one kind."""
        return tuple(b for b in self.blocks if isinstance(b, kind))

    @property
    def cnn(self) -> Cnn | None:
        """The network block, of which a system has at most one."""
        return next(iter(self.blocks_of(Cnn)), None)


def _method(one: Any) -> dict[str, Any]:
    kept = [f for f in fields(one) if not f.metadata.get("words") and not (f.metadata.get("later") and getattr(one, f.name) == f.default)]
    return {f.name: _plain(getattr(one, f.name)) for f in kept}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **_method(value)} if not isinstance(value, Code) else asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
