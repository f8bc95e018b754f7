"""What can be said about the input by machine, coded where the standard has a code (CID 6315), and in words.

Nothing is ever called of diagnostic quality: that is the reader's to judge.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from pipelines.types import Code, Evidence, Prediction, Refusal, SeriesRole
from structured_reports import codes, wording
from structured_reports.images import is_calibrated
from structured_reports.language import Messages
from structured_reports.measure import name_omitted
from structured_reports.received import has_misdeclared_text
from structured_reports.source import IDENTITY, has_undeclared_text

_REASONS = (  # words of a refusal's reasons, and the finding that they state
    (re.compile(r"\bADC\b"), codes.MISSING_ADC),
    (re.compile(r"\bb (=|near) \d"), codes.MISSING_B_VALUE),
)


@dataclass(frozen=True)
class Quality:
    """Findings on the input, coded; flags, in words; and what was left out of the report."""

    findings: tuple[Code, ...]
    flags: tuple[str, ...]
    omitted: tuple[str, ...]

    @property
    def missing(self) -> str:
        """What a report lacks of its planned content, for its Completion Flag Description; empty where it is complete."""
        return f"{len(self.omitted)} planned numbers are left out, see the QC group" if self.omitted else ""


def judge(prediction: Prediction, evidence: Evidence, source: Dataset, say: Messages) -> Quality:
    """Return what stands in the way of relying on a result. ``source`` is a normalised header of the study."""
    findings, flags = [], [say.translate(flag) for flag in prediction.flags]
    if computed_adc(evidence):
        findings.append(codes.MISSING_ADC)
        flags.append(say("quality.adc_computed"))
    if cut := _cut_off(evidence):
        findings.append(codes.INCOMPLETE_COVERAGE)
        flags.append(say("quality.coverage", roles=", ".join(cut)))
    if not is_calibrated(evidence):
        flags.append(say("quality.uncalibrated"))
    flags += judge_text(source, say)
    omitted = name_omitted(evidence, say)
    unusable = (c for c in evidence.contributions if not math.isfinite(c.log_odds))
    omitted += [say("quality.omitted", name=wording.feature_words(c, say)) for c in unusable]
    return Quality(tuple(findings), tuple(flags), tuple(omitted))


def judge_text(source: Dataset, say: Messages) -> list[str]:
    """Return what a reader should know of names and identifiers that may not read as they should."""
    if has_undeclared_text(source):
        return [say("quality.undeclared")]
    return [say("quality.misdeclared")] if has_misdeclared_text(source, IDENTITY) else []


def judge_refusal(refusal: Refusal) -> tuple[Code, ...]:
    """Return the findings on the input that a refusal states."""
    if refusal.code != "MISSING_SEQUENCE":
        return ()
    return tuple(code for pattern, code in _REASONS if any(pattern.search(reason) for reason in refusal.reasons))


def computed_adc(evidence: Evidence) -> bool:
    """Tell whether the ADC map is one that was computed from diffusion images."""
    return SeriesRole.ADC in evidence.volumes and len(evidence.volumes[SeriesRole.ADC].header.b_values) > 1


def _cut_off(evidence: Evidence) -> list[SeriesRole]:
    """Return the sequences on whose first or last slice the region lies; a single slice has no neighbours to miss."""
    volumes = {role: mask.array for role, mask in evidence.rois.items() if len(mask.array) > 1}
    return [role for role, mask in volumes.items() if np.any(mask[0]) or np.any(mask[-1])]
