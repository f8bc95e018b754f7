"""What a training run finds, as data: ``training.json``, from which the report is drawn."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import CohortError
from pipelines.training.calibration import Calibration
from pipelines.training.decision_curve import DecisionCurve
from pipelines.training.discrimination import Auc, Comparison, RocCurve
from pipelines.training.intervals import Estimate, Interval
from pipelines.training.nomogram import Nomogram
from pipelines.training.operating_point import OperatingPoint
from pipelines.training.sample_size import SampleSize
from pipelines.training.several import Macro, SeveralClasses
from pipelines.types import SeriesRole

FILE_NAME = "training.json"


@dataclass(frozen=True, slots=True)
class CohortFlow:
    """From the table's rows to the patients that gave the decision; ``network_rows`` trained only segmenter and networks.

    ``acquisition`` are the judged patients' ranges by sequence and DICOM keyword. ``excluded`` are lines of the table by the rule of
    inclusion, in words, that kept them out.
    """

    file: str
    rows: int
    row_events: int
    network_rows: int
    judged: int
    events: int
    sites: tuple[str, ...]
    scanners: Mapping[str, int]
    second_reader: int
    class_counts: Mapping[int, int]
    excluded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    acquisition: Mapping[SeriesRole, Mapping[str, tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgedPatient:
    """One patient, with the mean over repeats of the probability by models that had not seen the patient (of several classes, one each)."""

    patient: str
    site: str
    label: int
    probabilities: tuple[float, ...]
    call: int


@dataclass(frozen=True, slots=True)
class Performance:
    """A binary score judged: everything that a table or a curve needs."""

    auc: Auc
    bootstrap: Interval
    roc: RocCurve
    operating_point: OperatingPoint
    calibration: Calibration
    decision_curve: DecisionCurve


@dataclass(frozen=True, slots=True)
class Rival:
    """Another score on the same patients, and the nested model against it."""

    name: str
    words: str
    auc: Auc
    comparison: Comparison
    p_holm: float | None
    operating_point: OperatingPoint | None = None  # where the score has an honest threshold of its own
    p_bonferroni: float | None = None


@dataclass(frozen=True, slots=True)
class Printed:
    """One classifier judged as the papers did it: a single 30 % test part. The best of them is optimistic, as the test part chose it."""

    classifier: str
    auc: Auc
    chosen: bool
    operating_point: OperatingPoint | None = None


@dataclass(frozen=True, slots=True)
class SiteLeftOut:
    """A model of all other sites, judged at one."""

    site: str
    n: int
    events: int
    auc: Auc


@dataclass(frozen=True, slots=True)
class JudgedClasses:
    """Calls of several classes on ``n`` patients in the papers' form; ``mean_auc`` is that of one class against the rest."""

    name: str
    n: int
    mean_auc: float
    macro: Macro
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """One axis, or one class against the rest, judged as a system with that one finding would be; fields as in :class:`Outcome`.

    ``labels`` (1 for yes), ``probabilities`` and ``calls`` are the patients', in their order.
    """

    name: str
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]
    calls: tuple[int, ...]
    nested_auc_by_repeat: tuple[float, ...]
    apparent_auc: float
    apparent_point: OperatingPoint
    performance: Performance
    rivals: tuple[Rival, ...]
    sites_left_out: tuple[SiteLeftOut, ...]


@dataclass(frozen=True, slots=True)
class LieDetector:
    """The whole recipe on shuffled labels. ``valid`` unless its AUC shows that the recipe finds a signal where there is none.

    ``explained`` is the AUC, below 0.5, of knowing nothing but how common the label is in the same folds; a recipe may fall as low.
    """

    areas: tuple[float, ...]
    mean: float
    interval: Interval
    valid: bool
    words: str
    explained: float = 0.5


@dataclass(frozen=True, slots=True)
class ChosenFeature:
    """A feature of the final model: in how many of the outer folds' models it was chosen too."""

    name: str
    words: str
    ibsi_code: str | None
    ibsi_name: str | None
    frequency: float
    importance: float  # mean absolute Shapley value, log-odds
    in_final: bool


@dataclass(frozen=True, slots=True)
class LassoCurve:
    """The LASSO path of the final selection: ``coefficients`` is (steps, features), the latter called ``names``."""

    penalties: tuple[float, ...]
    loss: tuple[float, ...]
    standard_error: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    chosen: int
    rule: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShapCheck:
    """The node's Shapley values against those of shap's exact explainer, log-odds: ``features`` of ``patients`` were compared.

    ``standard_error`` is the largest that the node's own values state.
    """

    version: str
    patients: int
    features: int
    difference: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Beeswarm:
    """Shapley values (patients, features) of the final model, and the features' z-scores.

    They are shares in the log-odds of the label ``target``: of the finding, or of one of several classes; ``words`` say which.
    """

    features: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    shapley: tuple[tuple[float, ...], ...]
    base: tuple[float, ...]
    target: int = 1
    words: str = "the finding"
    check: ShapCheck | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A training run. ``statement`` says how far to believe it and stands wherever a number is shown."""

    format_version: Literal[1]
    system: str
    title: str
    version: str
    bundle_digest: str
    date: datetime.date
    seed: int
    synthetic: bool
    statement: str
    leakage: tuple[str, ...]
    warnings: tuple[str, ...]
    flow: CohortFlow
    recipe: Mapping[str, object]
    classifier: str
    families: Mapping[str, int]  # how often the inner cross-validation chose each
    threshold_rule: str
    thresholds: Mapping[str, float]
    apparent_auc: float
    nested_auc: float
    nested_auc_by_repeat: tuple[float, ...]
    optimism: float
    stability: Estimate | None
    lie_detector: LieDetector | None
    features: tuple[ChosenFeature, ...]
    lasso: LassoCurve | None
    beeswarm: Beeswarm | None
    sample_size: SampleSize
    events_per_variable: float
    conformal_coverage: float | None
    segmenter_dice: float | None
    performance: Performance | None
    several: SeveralClasses | None
    rivals: tuple[Rival, ...] = ()
    printed: tuple[Printed, ...] = ()
    sites_left_out: tuple[SiteLeftOut, ...] = ()
    patients: tuple[JudgedPatient, ...] = ()
    known: Mapping[str, float] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    apparent_point: OperatingPoint | None = None  # the final model on its own training rows
    nomogram: Nomogram | None = None
    conformal_aim: float | None = None
    method_digest: str = ""
    unrepeatable: int | None = None  # features that the final fit dropped because two readers' regions do not agree on them
    sensitive_points: Mapping[str, OperatingPoint] = field(default_factory=dict)  # calls at the folds' own thresholds for a sensitivity
    class_rows: tuple[JudgedClasses, ...] = ()  # of several classes, all patients: nested, size alone, on the training rows
    class_printed: tuple[JudgedClasses, ...] = ()
    class_sites: tuple[JudgedClasses, ...] = ()
    questions: tuple[JudgedQuestion, ...] = ()


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write ``training.json``; the file is there when it is whole."""
    partial_file = path.with_suffix(".partial")
    partial_file.write_bytes(_OUTCOME.dump_json(outcome, indent=1) + b"\n")
    partial_file.replace(path)


def read_outcome(path: Path) -> Outcome:
    """Read what :func:`write_outcome` wrote.

    Raises
    ------
    CohortError
        The file cannot be read or is no outcome of a training run.
    """
    try:
        return _OUTCOME.validate_json(path.read_bytes())
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise CohortError(f"{path} is no training outcome: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from error


_OUTCOME = TypeAdapter(Outcome)
