"""Every shape that a result can have, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.types import Code, Measurement, Outcome
from structured_reports import codes
from tests import us
from tests.results import (
    ADC,
    EIGHT_CLASSES,
    ML,
    MM,
    VOLUME,
    Result,
    make_classes,
    make_enhanced,
    make_prediction,
    make_result,
    make_ultrasound,
)

_ALTERNATIVES = tuple(
    Outcome(Code(f"P.LNM.N{i}", "99CERVINODE", f"Probability if MRI nodes are {words}"), p, "alternative", f"MRI nodes {words}")
    for i, (words, p) in enumerate((("negative", 0.31), ("positive", 0.81)))
)


def make_withheld() -> Result:
    """Make a run without a call, with everything else that a binary system can say."""
    result = make_result(measurements=(Measurement(VOLUME, 10.56, ML), Measurement(ADC, 912.0, codes.MICRO_MM2_PER_S)))
    prediction = make_prediction(call="withheld", outcomes=_ALTERNATIVES, plausible=("positive", "negative"), coverage=0.9)
    return replace(result, prediction=prediction)


def make_cine() -> Result:
    """Make an ultrasound run with what its system measures of a section."""
    result = make_ultrasound(us.Picture(frames=3))
    measurements = (Measurement(codes.AREA, 412.0, codes.MM2), Measurement(codes.LONG_AXIS, 24.1, MM))
    return replace(result, evidence=replace(result.evidence, measurements=measurements))


def make_chinese() -> Result:
    """Make a run in Chinese, of a patient whose name is in GB18030."""
    result = make_result(SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东")
    return replace(result, context=replace(result.context, language="zh"))


SHAPES: dict[str, Callable[[], Result]] = {
    "mr": make_result,
    "withheld": make_withheld,
    "classes": make_classes,
    "eight classes": lambda: make_classes(EIGHT_CLASSES),
    "ultrasound": make_ultrasound,
    "cine": make_cine,
    "uncalibrated": lambda: make_ultrasound(us.Picture(regions=()), activation=False),
    "chinese": make_chinese,
    "enhanced": make_enhanced,
}
