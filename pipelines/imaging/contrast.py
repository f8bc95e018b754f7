"""What only the whole study tells of contrast agent: when it was injected, and which series are phases of one dynamic scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.imaging.parts import Part, seconds_of_day
from pipelines.imaging.rules import has_agent

DEFAULT_DELAY_S = 120.0  # after injection: tumour against myometrium, where a system names no delay
_MIN_PHASES = 3
_DAY_S = 86400.0
_MAX_DELAY_S = 7200.0  # an injection longer ago belongs to another examination
_CONTRAST_T1_MS = (30.0, 1500.0)  # TE and TR of T1 weighting
_OFF_DELAY_POINTS = 15.0  # at most


@dataclass(frozen=True, eq=False)
class Dynamic:
    """T1-weighted images of one protocol at several points in time. ``phases`` are in the order of time."""

    phases: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class ContrastTimes:
    """When images of a study were acquired relative to the injection."""

    injected_s: float | None  # seconds of the day
    dynamics: tuple[Dynamic, ...]
    _facts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def facts(self, part: Part) -> Mapping[str, Any]:
        """Return what :func:`pipelines.imaging.rules.classify_part` cannot know from the part alone."""
        return self._facts.get(id(part), {})

    def phase(self, part: Part) -> tuple[int, int] | None:
        """Return (number from 1, of how many) for a phase of a dynamic scan."""
        for dynamic in self.dynamics:
            for i, phase in enumerate(dynamic.phases, start=1):
                if phase is part:
                    return i, len(dynamic.phases)
        return None

    def delay_s(self, part: Part) -> tuple[float, str] | None:
        """Return the delay of a part and what it is counted from; the first phase where nobody wrote down the injection."""
        if part.seconds is None:
            return None
        if self.injected_s is not None:
            return _since(self.injected_s, part.seconds), "the injection"
        dynamic = next((d for d in self.dynamics if any(phase is part for phase in d.phases)), None)
        if dynamic is None or dynamic.phases[0].seconds is None:
            return None
        return part.seconds - dynamic.phases[0].seconds, "the first phase (the injection time is not in the headers)"


def time_contrast(parts: Sequence[Part]) -> ContrastTimes:
    """Find the injection and the dynamic scans among the parts of one study."""
    t1 = [part for part in parts if _is_t1(part)]
    starts = [seconds_of_day(part.header.injection_time) for part in t1 if has_agent(part.header)]
    known = [s for s in starts if s is not None]
    injected = min(known) if known else None
    dynamics = tuple(_dynamics(t1))
    facts = {id(part): _contrast_facts(part, injected) for part in t1}
    return ContrastTimes(injected, dynamics, facts)


def delay_penalty(times: ContrastTimes, part: Part, wanted_s: float) -> tuple[float, str]:
    """Return the points that a contrast-enhanced candidate loses for its distance to the wanted delay, and the words for it."""
    phase, delay = times.phase(part), times.delay_s(part)
    words = f"phase {phase[0]} of {phase[1]} of a dynamic scan" if phase else ""
    if delay is None:
        return (_OFF_DELAY_POINTS if phase else 0.0), words
    seconds, since = delay
    words = f"{words + ', ' if words else ''}{seconds:.0f} s after {since}, {wanted_s:.0f} s wanted"
    return _OFF_DELAY_POINTS * min(1.0, abs(seconds - wanted_s) / max(wanted_s, 1.0)), words


def _is_t1(part: Part) -> bool:
    te, tr = part.header.echo_time_ms, part.header.repetition_time_ms
    is_t1 = te is not None and tr is not None and te < _CONTRAST_T1_MS[0] and tr < _CONTRAST_T1_MS[1]
    return is_t1 and part.header.modality == "MR" and not any(part.header.b_values)


def _contrast_facts(part: Part, injected_s: float | None) -> dict[str, Any]:
    agent = has_agent(part.header)
    if injected_s is None or part.seconds is None:
        return {}
    delay = _since(injected_s, part.seconds)
    if delay < 0:
        return {"contrast": False, "contrast_silent": False, "contrast_words": "acquired before the injection"}
    if agent or (not part.header.contrast_agent and delay < _MAX_DELAY_S):
        words = f"{delay:.0f} s after the injection" + ("" if agent else " that other series name")
        return {"contrast": True, "contrast_words": words}
    return {}


def _since(injected_s: float, acquired_s: float) -> float:
    """Return the delay in seconds by the time of the day; a study may pass midnight."""
    return (acquired_s - injected_s + _DAY_S / 2) % _DAY_S - _DAY_S / 2


def _dynamics(parts: Sequence[Part]) -> list[Dynamic]:
    groups: dict[tuple[Any, ...], list[Part]] = {}
    for part in parts:
        if part.seconds is not None:
            groups.setdefault(_protocol(part), []).append(part)
    found = []
    for group in groups.values():
        if len({part.seconds for part in group}) >= _MIN_PHASES:
            ordered = sorted(group, key=lambda p: (p.seconds, p.header.series_number or 0, p.header.series_instance_uid))
            found.append(Dynamic(tuple(ordered)))
    return found


def _protocol(part: Part) -> tuple[Any, ...]:
    """Return what the phases of one dynamic scan have in common: everything but the time."""
    h = part.header
    orientation = None if h.orientation is None else tuple(round(c, 2) + 0.0 for c in h.orientation)
    spacing = None if h.spacing_mm is None else tuple(round(s, 2) for s in h.spacing_mm)
    timing = (round(h.echo_time_ms or 0, 1), round(h.repetition_time_ms or 0, 1), round(h.flip_angle_deg or 0))
    dixon = tuple(sorted(set(h.image_type[2:])))
    return (orientation, spacing, timing, h.rows, h.columns, h.n_positions, dixon, h.frame_of_reference_uid)
