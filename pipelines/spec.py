"""The vocabulary in which a prediction system is declared: data, no code.

If retraining would change it, it belongs into the bundle's manifest; if the paper calls it the method, it stands here and is
part of the method digest: a bundle trained under another digest is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pipelines.types import Code, SeriesRole


def _later(default: Any) -> Any:
    """Declare a field that came after bundles were made: at its default it is no part of the method digest."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Intensity steps before features, per sequence. ``normalise`` lists the roles that are z-scored within the body."""

    n4: tuple[SeriesRole, ...] = ()
    normalise: tuple[SeriesRole, ...] = ()


@dataclass(frozen=True)
class Radiomics:
    """A pyradiomics block: the same profile on every listed sequence. ``count`` features per sequence or an error."""

    roles: tuple[SeriesRole, ...]
    image_types: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, tuple[str, ...]]  # class -> feature names; an empty tuple means all of the class
    settings: Mapping[str, Any]
    count: int


@dataclass(frozen=True, slots=True)
class Cnn:
    """A 3D CNN block: a cube of ``crop_mm`` around the roi's centre, resampled to ``size`` voxels a side, min-max to 0..1."""

    roles: tuple[SeriesRole, ...]
    crop_mm: float
    size: int
    keep: int  # deep features kept by mRMR per sequence, at training


@dataclass(frozen=True, slots=True)
class RoiRule:
    """Where the roi is drawn when nobody sent one, and what implausible means (millilitres)."""

    role: SeriesRole
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


@dataclass(frozen=True)
class PipelineSpec:
    """One prediction system, as its paper describes it."""

    name: str
    title: str
    finding: Code
    site: Code  # anatomic region that the finding is about
    required: tuple[SeriesRole, ...]
    b_value: float | None  # s/mm2, the DWI image wanted
    preprocess: Preprocess
    roi: RoiRule
    radiomics: Radiomics | None
    cnn: Cnn | None
    positive: str  # the call in words, e.g. "occult lymph node metastasis suspected"
    negative: str
    source: str  # citation, section; not part of the method
    top_contributions: int = field(default=8)
    # Sequences in different frames of reference are refused, or registered rigidly to the one that the roi is on.
    other_frame: Literal["refuse", "register"] = _later("refuse")
    contrast_delay_s: float | None = _later(None)  # seconds after injection, the contrast-enhanced phase wanted
    roi_names: tuple[str, ...] = _later(())  # segment labels or structure names that are the tumour, beside the known codes and words
    clinical: tuple[ClinicalInput, ...] = _later(())

    def method_digest(self) -> str:
        """Return the SHA-256 (hex) of everything that is method: all fields but the words shown to people."""
        method = asdict(self)
        for item in fields(self):
            if item.metadata.get("later") and getattr(self, item.name) == item.default:
                del method[item.name]
        if self.clinical:
            method["clinical"] = sorted(one.name for one in self.clinical)
        for words in ("title", "positive", "negative", "source", "top_contributions"):
            del method[words]
        return hashlib.sha256(json.dumps(method, sort_keys=True, default=str).encode()).hexdigest()
