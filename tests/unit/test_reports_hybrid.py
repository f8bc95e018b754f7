"""What the report of the hybrid system says beside its probability: both states of the node, the DL score, and when the status decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.systems import catalogue
from pipelines.types import Outcome
from tests.results import Result, make_context, make_prediction, make_result
from tests.unit.test_reports_shapes import names, texts

HYBRID = catalogue()["lnm_hybrid"]


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


def _hybrid(result: Result, *, language: str = "en", states: tuple[float, float], **changes: Any) -> Result:
    """Return a result of the hybrid whose patient has no positive node, at a threshold of 40 %."""
    assert HYBRID.alternative
    named = zip(
        (*HYBRID.alternative.codes, HYBRID.alternative.without), (*states, 0.45), ("alternative", "alternative", "without"), strict=True
    )
    outcomes = tuple(Outcome(code, p, kind, code.meaning) for code, p, kind in named)
    given = {"probability": states[0], "threshold": 0.4, "call": "positive" if states[0] >= 0.4 else "negative", "interval": None}
    prediction = make_prediction(**{"system": HYBRID.name, "finding": HYBRID.finding, "outcomes": outcomes, **given, **changes})
    return replace(result, prediction=prediction, context=replace(make_context(language=language), spec=HYBRID))


@pytest.mark.parametrize(
    ("language", "dl", "straddle"),
    [
        (
            "en",
            "DL score: probability by the images alone: 45.0 %",
            "The threshold of 40.0 % lies between the probabilities of both states",
        ),
        ("zh", "DL 评分：仅凭影像的概率：45.0 %", "判定阈值 40.0 % 介于两种状态的概率之间"),
    ],
)
def test_hybrid_states_its_dl_score_and_that_the_node_status_decides(result: Result, language: str, dl: str, straddle: str) -> None:
    *_, report = _hybrid(result, language=language, states=(0.31, 0.81)).build()
    assert {"P.LNM", "P.LNM.NODE0", "P.LNM.NODE1", "P.LNM.DL"} <= set(names(report))
    assert dl in texts(report)
    assert any(words.startswith(straddle) for words in texts(report))


@pytest.mark.parametrize(
    ("states", "changes"),
    [
        ((0.1, 0.3), {}),
        ((0.5, 0.9), {}),
        ((0.31, 0.81), {"call": "withheld"}),
        ((0.31, 0.81), {"probability": 0.45}),  # the status is not known: another model, with a threshold of its own, was used
    ],
)
def test_node_status_is_not_said_to_decide_where_it_does_not(result: Result, states: tuple[float, float], changes: dict[str, Any]) -> None:
    *_, report = _hybrid(result, states=states, **changes).build()
    assert not any("lies between" in words for words in texts(report))
