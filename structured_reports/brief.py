"""A result in brief: what the overview of a study shows of one system, in words and numbers, without pixels or names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegionBrief:
    """A tumour region: ``key`` tells it from others, ``role`` is the sequence it was drawn on, ``origin`` says by whom.

    ``measurements`` are (name, value with unit).
    """

    key: str
    role: str
    origin: str
    measurements: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Brief:
    """One result, its words in the language of its job.

    ``kind`` is the prediction's call ("positive", "negative", "class" or "withheld"), ``call`` the same in words. Probabilities run from 0
    to 1 and are written with ``places`` decimals of a percentage. ``clinical`` are (name, value), ``series`` (role, series).
    ``key_image`` is the SOP Instance UID of the image on which the region is largest.
    """

    kind: str
    call: str
    probability: float
    threshold: float | None
    interval: tuple[float, float] | None = None
    places: int = 1
    risk: str = ""
    model: str = ""
    limits: tuple[str, ...] = ()
    flags: int = 0
    clinical: tuple[tuple[str, str], ...] = ()
    series: tuple[tuple[str, str], ...] = ()
    region: RegionBrief | None = None
    key_image: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One system on the overview: DONE with its ``brief``, or a state without a result and the reasons for it."""

    system: str
    title: str  # where the language of the page has no other
    state: str
    reasons: tuple[str, ...] = ()
    brief: Brief | None = None
