"""Which series plays which role in a system: every candidate ranked, with its score and the reason in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.errors import MissingSequence
from pipelines.imaging.contrast import DEFAULT_DELAY_S, ContrastTimes, delay_penalty, time_contrast
from pipelines.imaging.diffusion_choice import as_choice, choose_dwi, compute_adc, join_adc
from pipelines.imaging.elements import text
from pipelines.imaging.multiframe import expand
from pipelines.imaging.parts import Part, split
from pipelines.imaging.regions import referenced_series
from pipelines.imaging.rules import Verdict, classify_part
from pipelines.imaging.ultrasound_case import choose_image
from pipelines.spec import PipelineSpec
from pipelines.types import Choice, Series, SeriesRole

_DYNAMIC_POINTS = 10.0  # that a phase of a dynamic scan loses where no delay is asked for: single scans have finer pixels


@dataclass(frozen=True, eq=False)
class _Judged:
    part: Part
    verdict: Verdict


def classify(series: Series) -> Verdict:
    """Return the role of one series by itself, with its score (0 to 100) and the reason in words."""
    return classify_study([series])[0]


def classify_study(series: Sequence[Series]) -> list[Verdict]:
    """Return the role of each series of a study; of a series that holds several images, that of the best one."""
    judged, _ = _judge(series)
    best: dict[int, Verdict] = {}
    for one in judged:
        known = best.get(id(one.part.series))
        if known is None or one.verdict.score > known.score:
            best[id(one.part.series)] = one.verdict
    return [best[id(one)] for one in series]


def rank(series: Sequence[Series], spec: PipelineSpec) -> dict[SeriesRole, tuple[Choice, ...]]:
    """Return every candidate for every role, the best first.

    Candidates are ordered by score; equal ones by number of slices, then the later one by acquisition, series number and UID. A role
    that the system does not need is ranked all the same.
    """
    judged, times = _judge(series)
    found: dict[SeriesRole, list[tuple[Choice, Part]]] = {}
    for one in judged:
        for choice in _choices(one, spec, times):
            found.setdefault(choice.role, []).append((choice, one.part))
    found.setdefault(SeriesRole.ADC, []).extend(join_adc(one.part for one in judged if one.verdict.diffusion))
    return {role: tuple(choice for choice, _ in sorted(pairs, key=_merit, reverse=True)) for role, pairs in found.items() if pairs}


def choose(
    series: Sequence[Series], spec: PipelineSpec, ranked: Mapping[SeriesRole, tuple[Choice, ...]] | None = None
) -> dict[SeriesRole, Choice]:
    """Choose one series per required role: the first of :func:`rank`, for TVUS the image with the best frame of the whole study.

    Added is, where it is not among them, the series that the roi lies on: of :func:`outlined`.

    ``ranked`` is what :func:`rank` returned, where the caller has it.

    A study that has one of the system's reduced sets of sequences, and no more, is chosen too; whether the bundle can use it is its affair.

    Raises
    ------
    MissingSequence
        A required role has no candidate; the message names each one.
    MissingRoi
        A report outlines something on the ultrasound that cannot be used.
    """
    ranked = rank(series, spec) if ranked is None else ranked
    chosen: dict[SeriesRole, Choice] = {}
    missing: list[str] = []
    for role in spec.required:
        if role in ranked:
            chosen[role] = ranked[role][0]
        elif role is SeriesRole.TVUS:
            try:
                chosen[role] = choose_image(series, names=spec.roi_names)
            except MissingSequence as error:
                missing.append(str(error))
        else:
            missing.append(_missing_sentence(role, spec))
    if missing and not any(set(roles) == set(chosen) for roles in spec.reduced):
        raise MissingSequence("; ".join(missing))
    return chosen | outlined(series, ranked, chosen, spec)


def outlined(
    series: Sequence[Series], ranked: Mapping[SeriesRole, tuple[Choice, ...]], chosen: Mapping[SeriesRole, Choice], spec: PipelineSpec
) -> dict[SeriesRole, Choice]:
    """Return the series that the roi lies on, if it is none of those ``chosen`` and no other series has its role.

    That is the one on which a person drew; where nobody did, the first of the system's :class:`RoiRule` that the study has. It must share
    the chosen ones' frame of reference.
    """
    frames = {choice.header.frame_of_reference_uid for choice in chosen.values()}
    near = {role: [c for c in ranked.get(role, ()) if {c.header.frame_of_reference_uid} == frames] for role in SeriesRole}
    if drawn_in := referenced_series(series):
        found = next((c for cs in near.values() for c in cs if c.header.series_instance_uid in drawn_in), None)
    else:
        found = next((chosen.get(role) or near[role][0] for role in spec.roi.roles if role in chosen or near[role]), None)
    return {found.role: found} if found and found.role not in chosen else {}


def settle(choice: Choice, series: Sequence[Series], spec: PipelineSpec) -> Choice:
    """Return a choice that names instances only (as an order does) with the frames that play its role.

    Needed for multi-frame instances, which may hold more than the role wants; the same rules that chose the instances choose the frames.
    """
    if choice.frames or len(expand(choice.instances)) == len(choice.instances):
        return choice
    named = {text(d, "SOPInstanceUID") for d in choice.instances}
    for candidate in rank(series, spec).get(choice.role, ()):
        if {text(d, "SOPInstanceUID") for d in candidate.instances} == named:
            return replace(choice, frames=candidate.frames)
    return choice


def describe_found(series: Sequence[Series]) -> tuple[str, ...]:
    """Return a line per series that says what it was taken for, for the reader of a refusal."""
    verdicts = classify_study(series)
    return tuple(f"series {one.header.label()}: {v.role or 'no role'}, {v.reason}" for one, v in zip(series, verdicts, strict=True))


def by_role(choices: Mapping[SeriesRole, Choice]) -> str:
    """Return the choices as one sentence, for logs."""
    return "; ".join(f"{role} = series {c.header.label()}: {c.reason}" for role, c in choices.items())


def _judge(series: Sequence[Series]) -> tuple[list[_Judged], ContrastTimes]:
    parts = [part for one in series for part in split(one)]
    times = time_contrast(parts)
    return [_Judged(part, classify_part(part, times.facts(part))) for part in parts], times


def _missing_sentence(role: SeriesRole, spec: PipelineSpec) -> str:
    wanted = f" with b near {spec.b_value:g} s/mm2" if role is SeriesRole.DWI and spec.b_value else ""
    return f"no {role}{wanted} series found"


def _merit(pair: tuple[Choice, Part]) -> tuple[float, int, float, int, str, int]:
    choice, part = pair
    header = part.header
    slices = header.n_positions or header.n_instances
    frame = getattr(part.frames[0], "frame_number", 0)
    return (choice.score, slices, part.seconds or 0.0, header.series_number or 0, header.series_instance_uid, frame)


def _choices(judged: _Judged, spec: PipelineSpec, times: ContrastTimes) -> list[Choice]:
    part, verdict = judged.part, judged.verdict
    if verdict.role is None:
        return []
    if verdict.role is SeriesRole.DWI:
        return [c for c in (choose_dwi(part, verdict.score, verdict.reason, wanted_b=spec.b_value), compute_adc(part)) if c]
    score, reason = verdict.score, verdict.reason
    if verdict.role is SeriesRole.CE_T1W:
        points, words = delay_penalty(times, part, DEFAULT_DELAY_S if spec.contrast_delay_s is None else spec.contrast_delay_s)
        score, reason = score - points, f"{reason}; {words}" if words else reason
    if verdict.role in (SeriesRole.T1W, SeriesRole.CE_T1W) and spec.contrast_delay_s is None and times.phase(part):
        score -= _DYNAMIC_POINTS
    return [as_choice([part], verdict.role, part.frames, max(score, 1.0), reason)]
