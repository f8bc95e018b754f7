"""What ``cervinode evaluate`` finds, as data: ``evaluation.json`` (docs/evaluation.md) and everything a report shows."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import CohortError
from pipelines.training.calibration import Calibration
from pipelines.training.decision_curve import DecisionCurve
from pipelines.training.discrimination import Auc, Comparison, RocCurve
from pipelines.training.intervals import Estimate, Interval, Proportion
from pipelines.training.operating_point import OperatingPoint
from pipelines.training.several import SeveralClasses
from pipelines.training.tally import Tally
from pipelines.types import BundleStatus

Variable = Literal["site", "manufacturer", "model", "field strength"]


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """The bundle that was evaluated; ``threshold`` is that of its decision, frozen in training.

    Where it tells several classes apart it has no threshold, and ``classes`` are those it knows, in the order of its graph.
    """

    system: str
    title: str
    finding: str
    version: str
    status: BundleStatus
    threshold: float | None
    threshold_rule: str
    trained_on: Literal["synthetic", "site"]
    training_sites: tuple[str, ...]
    training_metrics: dict[str, float]
    training_statement: str
    classes: tuple[int, ...] = ()
    coverage: float | None = None  # that its conformal sets aim at


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of the table that the bundle could not judge."""

    line: int
    patient: str
    site: str
    label: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Flow:
    """From the table's rows to the patients that the numbers are about. ``training_rows`` are those whose split is "train".

    ``withheld`` patients have a probability but no call: they count for areas and calibration, not for the operating point. ``labels``,
    ``row_labels`` and ``refused_labels`` are how many patients evaluated, rows and refused ones have each label.
    """

    rows: int
    row_labels: dict[int, int]
    training_rows: int
    refused: tuple[RefusedRow, ...]
    refused_labels: dict[int, int]
    evaluated: int
    labels: dict[int, int]
    withheld: int
    roi_origins: dict[str, int]


@dataclass(frozen=True, slots=True)
class PatientRow:
    """One patient that was evaluated; ``threshold`` differs from the bundle's where a model for incomplete studies had to step in.

    Of several classes ``classes`` are the probabilities by number, ``probability`` that of the most probable one, which is the call.
    """

    line: int
    patient: str
    site: str
    label: int
    probability: float
    threshold: float | None
    call: str
    roi_origin: str
    measurements: dict[str, float]
    manufacturer: str
    model: str
    field_strength_t: float | None
    flags: tuple[str, ...]
    classes: dict[int, float] = field(default_factory=dict)
    plausible: tuple[int, ...] = ()  # labels in the conformal set
    interval: tuple[float, float] | None = None  # bounds of the probability, of the calibration's own fit
    alone: float | None = None  # the probability by images alone, where clinical values had a part in the other


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the patients' conformal sets held: the true label of ``held``, ``each`` by that label; ``aim`` is the share aimed at."""

    aim: float
    held: Proportion
    each: dict[int, Proportion]
    mean_size: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """A measure of size, or the images alone, as the score, and the model against it: ``comparison.difference`` is model minus that.

    ``p_holm`` and ``p_bonferroni`` are adjusted for all that were compared.
    """

    name: str
    auc: Auc
    roc: RocCurve
    comparison: Comparison
    p_holm: float | None
    p_bonferroni: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """The patients of one site or scanner. ``auc`` needs two of each class; ``against_others`` compares it with all other patients."""

    variable: Variable
    name: str
    n: int
    events: int
    mean_predicted: float
    auc: Auc | None
    against_others: Comparison | None
    sensitivity: Proportion
    specificity: Proportion


@dataclass(frozen=True, slots=True)
class Finding:
    """One yes-or-no question judged: the system's finding, or of several classes one axis, or one class against the rest.

    ``probabilities`` and ``labels`` (1 for yes) are the patients', in their order.
    """

    name: str
    probabilities: tuple[float, ...]
    labels: tuple[int, ...]
    auc: Auc
    auc_bootstrap: Interval
    roc: RocCurve
    operating_point: OperatingPoint | None
    calibration: Calibration
    decision_curve: DecisionCurve
    baselines: tuple[Baseline, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A bundle judged on a cohort. ``statement`` says how far to believe it and stands wherever a number is shown.

    ``bundle_digest`` is the SHA-256 of the bundle's manifest, ``cohort_digest`` that over the table and every file of its studies. ``n``
    patients were evaluated, ``events`` of them with the finding. ``sites`` are theirs, empty where one is not known; ``external`` is
    ``True`` where none of them gave training cases, ``None`` where that is not known. ``synthetic``: there is a phantom among them.

    ``auc`` is that of the one finding, or of ``several`` classes the mean of one against the rest; of these there are no ``events``, and
    ``findings`` are axes and classes.
    """

    format_version: Literal[2]
    date: datetime.date
    statement: str
    warnings: tuple[str, ...]
    bundle_digest: str
    cohort_digest: str
    cohort: str  # the table's file name
    n: int
    events: int | None
    sites: tuple[str, ...]
    external: bool | None
    synthetic: bool
    bundle: BundleFacts
    flow: Flow
    tally: Tally
    auc: Estimate
    findings: tuple[Finding, ...]
    several: SeveralClasses | None
    patients: tuple[PatientRow, ...]
    seed: int
    made_with: Mapping[str, str]
    coverage: Coverage | None = None  # where the bundle has conformal sets


def tell_labels(counts: Mapping[int, int], *, classes: Sequence[int]) -> str:
    """Say how many patients have which label: ``4 with the finding``, or, of several ``classes``, ``3 of class 4, 7 of class 6``."""
    if not classes:
        return f"{counts.get(1, 0)} with the finding"
    return ", ".join(f"{n} of class {label}" for label, n in sorted(counts.items())) or "none"


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write ``evaluation.json``; the file is there when it is whole."""
    partial_file = path.with_suffix(".partial")
    partial_file.write_bytes(_EVALUATION.dump_json(evaluation, indent=1) + b"\n")
    partial_file.replace(path)


def read_evaluation(path: Path) -> Evaluation:
    """Read what :func:`write_evaluation` wrote.

    Raises
    ------
    CohortError
        The file cannot be read or is no evaluation.
    """
    try:
        return _EVALUATION.validate_json(path.read_bytes())
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise CohortError(f"{path} is no evaluation: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from error


_EVALUATION = TypeAdapter(Evaluation)
