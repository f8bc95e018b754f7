"""What the main report says in numbers and coded answers stands on the captures too, for receivers that show nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydicom import Dataset

from structured_reports import codes, wording
from structured_reports.canvas import drawable
from structured_reports.language import Messages, load_messages
from tests.pages import recorded
from tests.results import EIGHT_CLASSES, make_classes, make_prediction, make_result, make_ultrasound
from tests.shapes import SHAPES

LONG_FLAG = "not verified, made for patients with: no lymph node of 10 mm or more in short axis, and no necrotic or irregular one on MRI"
LONG_NAME = "3 of 150 features lie outside the training range: T2W_FS:radiomics:log-sigma-2-0-mm-3D_glszm_SmallAreaHighGrayLevelEmphasis"


MORE = {
    "long flags": lambda: make_classes(EIGHT_CLASSES, flags=(LONG_FLAG, LONG_NAME)),
    "moderate risk": lambda: replace(make_result(), prediction=make_prediction(interval=(0.4, 0.9), flags=(LONG_FLAG, LONG_NAME))),
    "low risk": lambda: make_ultrasound(probability=0.1, interval=(0.05, 0.2), call="negative"),
}


def items(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from items(child)


def written(number: Dataset, say: Messages) -> tuple[str, str]:
    """Return how a page writes a number of the report, and what else must stand in the line."""
    measured, code = number.MeasuredValueSequence[0], number.ConceptNameCodeSequence[0].CodeValue
    value, unit = float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue
    if unit == "%":
        return (f"{value:.1f}" if value >= 0.1 else "< 0.1"), "%"
    if unit == "1":
        return (f"{value:.0f}", "") if code == codes.POINTS.value else (f"{value:+.2f}", "")
    adc = "x 10-3 mm2/s"
    factor, words = {"mm2/s": (1e3, adc), "10-6.mm2/s": (1e-3, adc), "{pixels}": (1.0, say("term.pixels"))}.get(unit, (1.0, unit))
    return f"{value * factor:#.3g}".rstrip("."), words


@pytest.mark.parametrize("name", [*SHAPES, *MORE])
def test_every_number_and_the_risk_of_the_report_are_on_a_page(name: str) -> None:
    result = (SHAPES | MORE)[name]()
    with recorded() as lines:
        *_, report = result.build()
    say = drawable(load_messages(result.context.language))
    contained = [i for i in items(report) if i.RelationshipType == "CONTAINS"]
    numbers = [i for i in contained if i.ValueType == "NUM"]
    assert len(numbers) >= 9
    for number in numbers:
        (value, unit), name_of = written(number, say), number.ConceptNameCodeSequence[0]
        alone = re.compile(rf"(?<![\d.]){re.escape(value)}(?![\d.])")
        assert any(alone.search(line) and unit in line for line in lines), f"{name_of.CodeMeaning}: {value} {unit}"
        if (term := f"term.{name_of.CodeValue}") in say.table:
            assert say(term) in lines
    for outcome in (o for o in result.prediction.outcomes if o.kind in ("class", "axis")):
        assert wording.outcome_words(outcome, say).split()[0] in " ".join(lines)
    answers = {i.ConceptNameCodeSequence[0].CodeValue: i.ConceptCodeSequence[0].CodeValue for i in contained if i.ValueType == "CODE"}
    told = say("result.risk", risk=say.table.get(f"risk.{answers.get('RISK')}", ""))
    assert any(line.endswith(told) for line in lines) == ("RISK" in answers)
    assert answers["USE"] == "RUO"
    assert [line for line in lines if line.endswith("...")] == []
