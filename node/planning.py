"""What a study orders: which systems a route runs on it, which series they use, what a job waits for, or why there is no run.

Everything here is pure; :mod:`node.intake` brings ledger, files and clock.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydicom import Dataset

from node.config import ANY_PEER, Route
from node.jobs import ChosenSeries, JobOrder, JobState, OrderedRefusal, OrderedValue, job_key
from node.storage.records import Job, PlannedJob
from pipelines.decide import check_inclusion
from pipelines.errors import BundleError, IncompleteStudy, InputError, MissingClinical, MissingSequence, MixedPatients, NotApplicable
from pipelines.features.clinical import KNOWN
from pipelines.imaging.elements import text
from pipelines.imaging.sequences import choose, describe_found
from pipelines.models.bundle import choose_bundle, read_manifest_bytes
from pipelines.spec import ClinicalInput, PipelineSpec
from pipelines.types import OUR_MODEL_NAME, BundleStatus, ClinicalValue, Series, SeriesRole

OUR_MARK = "[RUO]"  # their series descriptions begin with it
_ROI_MODALITIES = {"SEG", "RTSTRUCT"}
JOB_ID_DIGITS = 32  # hex digits of the key: 128 bits


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The bundle that a job will run with; empty when there is none, and then the job fails with that as its reason."""

    version: str = ""
    digest: str = ""
    status: BundleStatus | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """What a study lacks of what its route expects, in words, and what the route does about it."""

    words: str
    action: Literal["hold", "refuse"]
    hold_s: float


@dataclass(frozen=True)
class Circumstances:
    """What is known beside the series when a job is planned.

    ``clinical`` are values by name, of which a system takes those that it declares. ``completeness`` says how it was established that the
    study is complete, ``gap`` what it lacks all the same. ``waited_s`` is how long this study and system have been waited for already; by
    default for ever, so that nothing is waited for. ``longest_wait_s`` is how long the site lets a job wait for clinical values.
    """

    clinical: Mapping[str, ClinicalValue] = field(default_factory=dict)
    completeness: str = ""
    gap: Gap | None = None
    waited_s: float = math.inf
    longest_wait_s: float = math.inf


_NOTHING_MORE = Circumstances()


def refer_to_bundle(models_root: Path, spec: PipelineSpec, *, trusted_keys: Collection[str] = ()) -> BundleReference:
    """Return the bundle in use for a system."""
    try:
        choice = choose_bundle(models_root, spec, trusted_keys=trusted_keys)
        digest = hashlib.sha256(read_manifest_bytes(choice.folder)).hexdigest()
    except BundleError:
        return BundleReference()
    return BundleReference(version=choice.folder.name, digest=digest, status=choice.status)


def is_own_result(instance: Dataset) -> bool:
    """Return whether an instance is a result object of ours, come back from a PACS: it must never trigger a run or serve as input."""
    return instance.get("ManufacturerModelName") == OUR_MODEL_NAME and str(instance.get("SeriesDescription", "")).startswith(OUR_MARK)


def without_own_results(series: Iterable[Series]) -> list[Series]:
    """Return the series that are input."""
    return [s for s in series if not is_own_result(s.instances[0])]


def fitting(routes: Sequence[Route], *, calling_ae_titles: set[str], modalities: set[str]) -> list[Route]:
    """Return the routes that fit a study, in their order."""
    known = [route for route in routes if ANY_PEER in route.from_ or calling_ae_titles & set(route.from_)]
    return [route for route in known if not route.modalities or modalities & set(route.modalities)]


def routed(routes: Sequence[Route], *, calling_ae_titles: set[str], modalities: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the systems that a study runs, each with its destinations: those of all routes that fit, in their order."""
    systems: dict[str, dict[str, None]] = {}
    for route in fitting(routes, calling_ae_titles=calling_ae_titles, modalities=modalities):
        for system in route.systems:
            systems.setdefault(system, {}).update(dict.fromkeys(route.to))
    return {system: tuple(destinations) for system, destinations in systems.items()}


def make_job(
    series: Sequence[Series],
    spec: PipelineSpec,
    *,
    bundle: BundleReference,
    station: str,
    created_at: datetime,
    language: str = "en",
    earlier: Sequence[Job] = (),
    destinations: tuple[str, ...] = (),
    problem: InputError | None = None,
    again: bool = False,
    known: Circumstances = _NOTHING_MORE,
) -> PlannedJob | None:
    """Return the job that a system has on a study, or ``None`` when the newest one has the same input.

    Same input is: the same chosen images, drawn regions and clinical values, or for a refusal the same instances. ``earlier`` are the
    jobs of this study and system, oldest first; if the newest is WAITING, the job returned is to take its place. ``problem`` is what went
    wrong with reading; ``again`` asks for a new version whatever there was.
    """
    waiting = earlier[-1].order if earlier and earlier[-1].state is JobState.WAITING else None
    clinical = {name: known.clinical[name] for name in spec.clinical_names if name in known.clinical}
    chosen, error = _choose(series, spec, problem)
    waits, error = _judge(error, spec, clinical, known)
    key = job_key(series[0].header.study_instance_uid, spec.name, bundle.digest, _identity(series, spec, chosen, clinical, error))
    if not (again or waiting) and earlier and earlier[-1].key == key:
        return None
    version = waiting.version if waiting else earlier[-1].order.version + 1 if earlier else 1
    order = JobOrder(
        job_id=waiting.job_id if waiting else f"{key[:JOB_ID_DIGITS]}-{version}",
        system=spec.name,
        bundle_version=bundle.version,
        bundle_digest=bundle.digest,
        bundle_status=bundle.status,
        study_instance_uid=series[0].header.study_instance_uid,
        version=version,
        sop_instance_uids=tuple(sorted(_instances(series))),
        chosen=() if error else chosen,
        refusal=_refusal(error, series) if error else None,
        clinical=tuple(OrderedValue(name=v.name, value=v.value, words=v.words, source=v.source) for v in clinical.values()),
        completeness=known.completeness,
        predecessor=waiting.predecessor if waiting else earlier[-1].order.job_id if earlier else None,
        created_at=created_at,
        station=station,
        language=language,
    )
    if not waits:
        return PlannedJob(order=order, key=key, destinations=destinations)
    until = created_at.timestamp() + max(remaining for remaining, _ in waits)
    return PlannedJob(order, key, destinations, waits_for=_waits_words(waits, until), waits_until=until)


def _choose(series: Sequence[Series], spec: PipelineSpec, problem: InputError | None) -> tuple[tuple[ChosenSeries, ...], InputError | None]:
    try:
        if problem:
            raise problem
        _check_one_patient(series)
        choices = choose(series, spec)
    except InputError as error:
        return (), error
    chosen = [
        ChosenSeries(
            role=choice.role,
            series_instance_uid=choice.header.series_instance_uid,
            sop_instance_uids=tuple(str(d.SOPInstanceUID) for d in choice.instances),
            score=choice.score,
            reason=choice.reason,
        )
        for choice in choices.values()
    ]
    return tuple(chosen), None


def _check_one_patient(series: Sequence[Series]) -> None:
    """Raise :class:`MixedPatients` when identities differ; the sentence names series, not patients.

    Patient ID, its issuer and the birth date count where they are given, the name only where there is no ID: it is written in many ways.
    """
    for what, keywords in _IDENTITY.items():
        groups: dict[tuple[str, ...], list[str]] = {}
        for one in series:
            stated = (tuple(text(d, k) for k in keywords) for d in one.instances if what != "name" or not text(d, "PatientID"))
            for identity in dict.fromkeys(i for i in stated if any(i) or what == "Patient ID"):
                groups.setdefault(identity, []).append(one.header.label())
        if len(groups) > 1:
            named = " against ".join(f"series {', '.join(labels)}" for labels in groups.values())
            raise MixedPatients(f"the study holds instances of {len(groups)} patients (by {what}): {named}")


_IDENTITY = {
    "Patient ID": ("PatientID",),
    "issuer of the Patient ID": ("IssuerOfPatientID",),
    "birth date": ("PatientBirthDate",),
    "name": ("PatientName",),
}


def _judge(
    error: InputError | None, spec: PipelineSpec, clinical: Mapping[str, ClinicalValue], known: Circumstances
) -> tuple[list[tuple[float, str]], InputError | None]:
    """Return what the job waits for (seconds that remain, and words), and why it is refused if it is to go on as it is.

    Nothing is waited for, nor asked of the sender again, where the patient is known not to be one of those that the system was made for.
    """
    if (error is None or isinstance(error, MissingSequence)) and (stranger := _not_applicable(spec, clinical)):
        return [], stranger
    waits: list[tuple[float, str]] = []
    gap = known.gap if error is None or isinstance(error, MissingSequence) else None
    if gap and gap.action == "refuse":
        return [], IncompleteStudy(f"the study is not complete: {gap.words}")
    if gap and known.waited_s < gap.hold_s:
        waits.append((gap.hold_s - known.waited_s, f"images: {gap.words}"))
    if error:  # clinical values would not change it: once the images are waited for, the job is refused
        return waits, error
    declared = {rule.name: rule.wait_s for rule in spec.inclusion} | {c.name: c.wait_s for c in spec.clinical if c.required}
    until = {name: min(wait_s, known.longest_wait_s) for name, wait_s in declared.items() if name not in clinical}
    waits += [(wait_s - known.waited_s, f"clinical value {name}") for name, wait_s in until.items() if known.waited_s < wait_s]
    if not waits and (refused := [c for c in spec.clinical if c.name in until and c.required and c.fallback == "refuse"]):
        error = MissingClinical("; ".join(_missing_words(c) for c in refused))
    return waits, error


def _not_applicable(spec: PipelineSpec, clinical: Mapping[str, ClinicalValue]) -> NotApplicable | None:
    try:
        check_inclusion(spec, clinical)
    except NotApplicable as error:
        return error
    return None


def _missing_words(missing: ClinicalInput) -> str:
    return f"{KNOWN[missing.name].title} ({missing.name}) is not known: it was not entered, and neither a report nor the images say it"


def _waits_words(waits: Sequence[tuple[float, str]], until: float) -> str:
    when = datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")
    return f"waits until {when} for {'; '.join(words for _, words in waits)}"


def _instances(series: Sequence[Series]) -> list[str]:
    return [str(d.SOPInstanceUID) for s in series for d in s.instances]


def _identity(
    series: Sequence[Series],
    spec: PipelineSpec,
    chosen: Sequence[ChosenSeries],
    clinical: Mapping[str, ClinicalValue],
    error: InputError | None,
) -> list[str]:
    """Return what makes this input another than the one before."""
    if error and not isinstance(error, MissingClinical | NotApplicable):
        return [*_instances(series), *([error.code] if isinstance(error, IncompleteStudy) else [])]
    drawn_in = _ROI_MODALITIES | ({"SR"} if SeriesRole.TVUS in spec.required else set())  # outlines on ultrasound are in reports
    regions = _instances([s for s in series if s.header.modality in drawn_in])
    values = [f"{v.name}={v.value!r}" for v in clinical.values()]
    return [*regions, *(uid for c in chosen for uid in c.sop_instance_uids), *values, *([error.code] if error else [])]


def _refusal(error: InputError, series: Sequence[Series]) -> OrderedRefusal:
    return OrderedRefusal(code=error.code, reasons=tuple(str(error).split("; ")), found=describe_found(series))
