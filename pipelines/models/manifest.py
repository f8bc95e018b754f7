"""``manifest.json``: everything that retraining changes, as inert data.

A bundle is a folder ``<system>/<version>/`` with this manifest, ONNX graphs and ``.npy`` arrays. Nothing in it is executed except
ONNX graphs by onnxruntime; there is no pickle anywhere.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.types import BundleStatus, SeriesRole


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """One file of the bundle, by its content."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="bytes")


class TensorSpec(_Frozen):
    """One input of a graph. ``-1`` in ``shape`` is a free dimension."""

    name: str
    dtype: Literal["float32"] = "float32"
    shape: tuple[int, ...]
    axes: str = Field(description="one letter per dimension, e.g. 'nczyx'")
    range: str = Field(description="what the numbers are, e.g. 'min-max 0..1 within the crop'")


class Segmenter(_Frozen):
    """The 2D network that draws the roi, slice by slice, when nobody sent one. Output: one logit per pixel."""

    file: str
    network: str
    role: SeriesRole
    input: TensorSpec
    spacing_mm: float = Field(gt=0, description="in-plane pixel size the network was trained at")
    dice: float | None = Field(default=None, description="mean Dice on unseen cases of the training data's kind")


class CnnModel(_Frozen):
    """A feature extractor. Outputs: ``features`` (n, dim), ``logit`` (n, 1), ``cam`` (n, z, y, x), the class activation map."""

    file: str
    network: str
    role: SeriesRole
    input: TensorSpec
    dim: int = Field(gt=0)
    weights: str = Field(description="where the weights come from")


class Feature(_Frozen):
    """One input of the classifier, in order: standardised as (value - mean) / std in float64, then cast to float32."""

    name: str = Field(description="<role>:<block>:<feature>, e.g. 'DWI:radiomics:original_glcm_JointEntropy'")
    mean: float
    std: float = Field(gt=0)
    low: float = Field(description="1st percentile of the training cases, raw value")
    high: float = Field(description="99th percentile of the training cases, raw value")
    ibsi: str | None = None


class Platt(_Frozen):
    """Platt scaling in log-odds: p = 1 / (1 + exp(-(a * logit(raw) + b)))."""

    a: float
    b: float


class Decision(_Frozen):
    """The classifier, its calibration and its operating point."""

    file: str
    classifier: str
    features: tuple[Feature, ...] = Field(min_length=1)
    platt: Platt
    threshold: float = Field(gt=0, lt=1)
    threshold_rule: str
    background: str = Field(description=".npy, (m, n_features) float64 standardised rows: the reference of the Shapley values")


class Parity(_Frozen):
    """Largest absolute difference between a graph and the library it was exported from."""

    what: str
    rows: int
    max_abs_difference: float


class Training(_Frozen):
    """What the bundle was trained on and what came out, as the training run recorded it."""

    data: Literal["synthetic", "site"]
    description: str
    n: int
    events: int
    seed: int
    metrics: dict[str, float] = Field(default_factory=dict)
    statement: str = Field(description="how to read the metrics, shown wherever they are shown")


class Manifest(_Frozen):
    """The manifest of one bundle."""

    format_version: Literal[1] = 1
    system: str
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,30}$")
    status: BundleStatus
    intended_use: str
    method_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    segmenter: Segmenter | None
    cnns: tuple[CnnModel, ...] = ()
    decision: Decision
    imaging_only: Decision | None = Field(
        default=None, description="used instead of decision when a clinical value that it needs is not known"
    )
    training: Training
    parity: tuple[Parity, ...] = ()
    made_with: dict[str, str]
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _every_file_is_listed(self) -> Manifest:
        decisions = [d for d in (self.decision, self.imaging_only) if d]
        named = {*(d.file for d in decisions), *(d.background for d in decisions), *(c.file for c in self.cnns)}
        if self.segmenter:
            named.add(self.segmenter.file)
        if missing := sorted(named - self.files.keys()):
            raise ValueError(f"files named but not listed under 'files': {', '.join(missing)}")
        return self
