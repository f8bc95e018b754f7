"""``manifest.json``: everything that retraining changes, as inert data.

A bundle is a folder ``<system>/<version>/`` with this manifest, ONNX graphs and ``.npy`` arrays. Nothing in it is executed except
ONNX graphs by onnxruntime; there is no pickle anywhere.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.types import BundleStatus, SeriesRole

VERSION = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,30}$"  # what a bundle's folder may be called

LIE_DETECTOR = "lie_detector_valid"  # among the metrics of training: 1, or 0 where the recipe found a signal in shuffled labels


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
    roles: tuple[SeriesRole, ...] = Field(min_length=1, description="sequences that it was trained on")
    input: TensorSpec
    spacing_mm: float = Field(gt=0, description="in-plane pixel size the network was trained at")
    dice: dict[SeriesRole, float] = Field(
        default_factory=dict, description="by sequence, the mean Dice on unseen cases of the training data's kind"
    )


class CnnModel(_Frozen):
    """A feature extractor. Outputs: ``features`` (n, dim), ``logit`` (n, 1), ``cam`` (n, ...spatial), the class activation map.

    A network with ``map_kind`` occlusion has no ``cam``: its map is made when serving, by hiding one part of the view after the other.
    A network that is told a clinical status has a second input ``status`` (n, 1) and the output ``joint_logit`` (n, 1).
    """

    file: str
    network: str
    role: SeriesRole
    input: TensorSpec
    dim: int = Field(gt=0)
    weights: str = Field(description="where the weights come from")
    map_kind: Literal["class activation", "occlusion"] = Field(default="class activation", description="what is shown of where it looked")


class Projection(_Frozen):
    """Principal components of one sequence's deep features: ``<role>:pca:<i>`` = row i of the matrix times (features - mean)."""

    role: SeriesRole
    file: str = Field(description=".npy, float64 (1 + components, dim): the mean, then the components")
    components: int = Field(gt=0)


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
    covariance: tuple[float, float, float] | None = Field(default=None, description="variance of a, covariance of a and b, variance of b")


class Linear(_Frozen):
    """A logistic regression on standardised features, in the open: log-odds = intercept + sum of coefficient times feature."""

    intercept: float
    coefficients: tuple[float, ...]


class _Set(_Frozen):
    """A class-conditional conformal set, and what it did for ``n`` patients, unseen by the model that judged them."""

    coverage: float = Field(gt=0, lt=1, description="share of patients of each class whose set holds the truth, as aimed at")
    covered: float | None = Field(default=None, description="share of the n patients whose set held the truth")
    covered_each: tuple[float, ...] = Field(default=(), description="within each class: negative and positive, or classes in order")
    mean_size: float | None = Field(default=None, description="mean number of answers in their sets")
    n: int = 0


class Conformal(_Set):
    """The set of a binary decision: positive is plausible from one probability on, negative up to another."""

    positive_from: float = Field(ge=0, le=1)
    negative_to: float = Field(ge=0, le=1)


class ClassConformal(_Set):
    """The set of several classes: each is plausible from a probability of its own on, in the decision's order; the most probable always."""

    plausible_from: tuple[float, ...]


class Decision(_Frozen):
    """A classifier, its calibration and its operating point: an ONNX graph or a linear formula."""

    file: str | None = None
    linear: Linear | None = None
    classifier: str
    features: tuple[Feature, ...] = Field(min_length=1)
    platt: Platt | None = Field(default=None, description="of a binary classifier")
    classes: tuple[int, ...] = Field(
        default=(), description="of a classifier with several classes: those seen in training, in the graph's order"
    )
    class_odds: tuple[float, ...] = Field(default=(), description="factors that bring the classes back to their true prevalence")
    threshold: float | None = Field(default=None, gt=0, lt=1)
    threshold_rule: str
    background: str = Field(description=".npy, (m, n_features) float64 standardised rows: the reference of the Shapley values")
    conformal: Conformal | None = None
    class_conformal: ClassConformal | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Decision:
        if (self.file is None) == (self.linear is None):
            raise ValueError("a decision is either an ONNX file or linear")
        if self.linear and len(self.linear.coefficients) != len(self.features):
            raise ValueError("a linear decision has one coefficient per feature")
        if bool(self.classes) == bool(self.platt) or (self.threshold is None) != bool(self.classes):
            raise ValueError("a binary decision has platt and threshold, one with several classes has neither")
        if self.conformal and self.classes:
            raise ValueError("a conformal set of several classes is class_conformal")
        if self.class_conformal and len(self.class_conformal.plausible_from) != len(self.classes):
            raise ValueError("a conformal set of several classes has one probability per class")
        return self


class Reduced(_Frozen):
    """A decision for studies that have only these sequences."""

    roles: tuple[SeriesRole, ...]
    decision: Decision


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
    sites: tuple[str, ...] = Field(default=(), description="sites of the cohort; an external cohort has none of them")
    date: datetime.date | None = Field(default=None, description="of the training run")
    scanners: dict[str, int] = Field(default_factory=dict, description="patients by manufacturer, model and field strength (T)")
    acquisition: dict[SeriesRole, dict[str, tuple[float, float]]] = Field(
        default_factory=dict, description="by sequence and DICOM keyword, the least and the largest value of the patients"
    )
    nested_auc_interval: tuple[float, float] | None = Field(default=None, description="at 95 %, of probabilities averaged over repeats")
    permuted_aucs: tuple[float, ...] = Field(default=(), description="of the recipe, from selection on, one per shuffling of the labels")
    candidate_features: int = Field(default=0, description="how many features and clinical values the recipe could choose from")
    candidate_features_sha256: str | None = Field(default=None, description="over their names in order, joined by line feeds, UTF-8")


class Golden(_Frozen):
    """What a network or decision gave where the bundle was made, see :mod:`pipelines.models.golden`."""

    part: str = Field(description="which one, e.g. 'segmenter', 'cnn T1W', 'decision'")
    expected: str = Field(description=".npy, its outputs on the probe")


class Manifest(_Frozen):
    """The manifest of one bundle."""

    format_version: Literal[1] = 1
    system: str
    version: str = Field(pattern=VERSION)
    status: BundleStatus
    intended_use: str
    method_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    segmenter: Segmenter | None
    cnns: tuple[CnnModel, ...] = ()
    projections: tuple[Projection, ...] = ()
    score: Decision | None = Field(
        default=None, description="a first stage whose calibrated log-odds are the feature SCORE:model:log_odds of the decision"
    )
    decision: Decision
    imaging_only: Decision | None = Field(
        default=None, description="used instead of decision when a clinical value that it needs is not known"
    )
    reduced: tuple[Reduced, ...] = ()
    training: Training
    recipe: dict[str, Any] = Field(default_factory=dict, description="the recipe that made the decision, as declared by the system")
    parity: tuple[Parity, ...] = ()
    made_with: dict[str, str]
    files: dict[str, FileEntry]
    golden: tuple[Golden, ...] = ()

    @model_validator(mode="after")
    def _every_file_is_listed(self) -> Manifest:
        decisions = [d for d in (self.score, self.decision, self.imaging_only, *(r.decision for r in self.reduced)) if d]
        named = {*(d.file for d in decisions if d.file), *(d.background for d in decisions), *(c.file for c in self.cnns)}
        named |= {*(p.file for p in self.projections), *(g.expected for g in self.golden)}
        if self.segmenter:
            named.add(self.segmenter.file)
        if missing := sorted(named - self.files.keys()):
            raise ValueError(f"files named but not listed under 'files': {', '.join(missing)}")
        return self
