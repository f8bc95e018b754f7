"""What is measured of the tumour: what the system measured, and what any region gives: its axes, and the ADC within it."""

from __future__ import annotations

import math

import numpy as np

from pipelines.types import Evidence, Measurement, SeriesRole
from structured_reports import codes
from structured_reports.contour import measure_axes
from structured_reports.images import is_calibrated
from structured_reports.language import Messages

_ADC_UNIT = 1e-6  # mm2/s


def measure(evidence: Evidence) -> tuple[Measurement, ...]:
    """Return all finite measurements of the tumour; of an image without calibration none that would need millimetres."""
    known = {m.name.value for m in evidence.measurements}
    more = [m for m in (*_axes(evidence), *_adc(evidence)) if m.name.value not in known]
    return tuple(m for m in (*evidence.measurements, *more) if math.isfinite(m.value) and _has_size(m, evidence))


def name_omitted(evidence: Evidence, say: Messages) -> list[str]:
    """Return, of what the system measured, what is not reported and why."""
    words = []
    for m in evidence.measurements:
        name = say.known(f"term.{m.name.value}", m.name.meaning)
        if not math.isfinite(m.value):
            words.append(say("quality.omitted", name=name))
        elif not _has_size(m, evidence):
            words.append(say("quality.omitted_uncalibrated", name=name, unit=m.unit.value))
    return words


def _has_size(measurement: Measurement, evidence: Evidence) -> bool:
    return is_calibrated(evidence) or measurement.unit.value not in codes.LENGTHS


def _axes(evidence: Evidence) -> list[Measurement]:
    """Measure long and short axis on the slice on which the region is largest."""
    mask = evidence.roi.volume.array[int(np.argmax(np.count_nonzero(evidence.roi.volume.array, axis=(1, 2))))]
    if not mask.any():
        return []
    spacing, unit = ((1.0, 1.0), codes.PIXELS)
    if is_calibrated(evidence):
        spacing, unit = (tuple(evidence.roi.volume.spacing[1:]), codes.MM)
    long_axis, short_axis = measure_axes(mask, spacing)
    return [Measurement(codes.LONG_AXIS, long_axis, unit), Measurement(codes.SHORT_AXIS, short_axis, unit)]


def _adc(evidence: Evidence) -> list[Measurement]:
    """Return the mean ADC within the region; every map of role ADC is in 1e-6 mm2/s."""
    if SeriesRole.ADC not in evidence.volumes or SeriesRole.ADC not in evidence.rois:
        return []
    values = evidence.volumes[SeriesRole.ADC].volume.array[evidence.rois[SeriesRole.ADC].array > 0]
    return [Measurement(codes.ADC, float(values.mean()) * _ADC_UNIT, codes.MM2_PER_S)] if values.size else []
