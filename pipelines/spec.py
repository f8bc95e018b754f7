"""The vocabulary in which a prediction system is declared: data, no code.

If retraining would change it, it belongs into the bundle's manifest; if the paper calls it the method, it stands here and is
part of the method digest: a bundle trained under another digest is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.types import Code, SeriesRole


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

    def method_digest(self) -> str:
        """Return the SHA-256 (hex) of everything that is method: all fields but the words shown to people."""
        method = asdict(self)
        for words in ("title", "positive", "negative", "source", "top_contributions"):
            del method[words]
        return hashlib.sha256(json.dumps(method, sort_keys=True, default=str).encode()).hexdigest()
