from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from node.jobs import FINAL, TRANSITIONS, ChosenSeries, JobOrder, JobOutcome, JobState, OrderedRefusal, ResultStatus, job_key
from pipelines.types import SeriesRole


def test_every_state_has_its_transitions_and_final_ones_have_none() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state, targets in TRANSITIONS.items() if not targets} == set(FINAL)


def test_every_state_can_be_reached_and_can_end() -> None:
    reached, frontier = {JobState.PLANNED}, {JobState.PLANNED}
    while frontier:
        frontier = set().union(*(TRANSITIONS[s] for s in frontier)) - reached
        reached |= frontier
    assert reached == set(JobState)
    for start in set(JobState) - FINAL:
        seen, frontier = {start}, {start}
        while frontier:
            frontier = set().union(*(TRANSITIONS[s] for s in frontier)) - seen
            seen |= frontier
        assert seen & FINAL, start


def test_job_key_is_the_identity_of_the_input() -> None:
    key = job_key("1.2", "s", "d", ["2", "1"])
    assert key == job_key("1.2", "s", "d", ["1", "2"])
    others = [
        job_key("1.3", "s", "d", ["1", "2"]),
        job_key("1.2", "t", "d", ["1", "2"]),
        job_key("1.2", "s", "e", ["1", "2"]),
        job_key("1.2", "s", "d", ["1"]),
        job_key("1.2", "s", "d", ["12"]),
    ]
    assert all(a != b for a, b in itertools.combinations([key, *others], 2))


def test_order_survives_the_queue() -> None:
    chosen = ChosenSeries(role=SeriesRole.T2W, series_instance_uid="1.2.3", sop_instance_uids=("1.2.3.4",), score=90.0, reason="spin echo")
    order = JobOrder(
        job_id="a-1",
        system="s",
        bundle_version="1",
        bundle_digest="d",
        study_instance_uid="1.2",
        version=1,
        sop_instance_uids=("1.2.3.4",),
        chosen=(chosen,),
        refusal=OrderedRefusal(code="X", reasons=("why",), found=("what",)),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        station="CERVINODE",
    )
    assert JobOrder.model_validate_json(order.model_dump_json()) == order
    with pytest.raises(ValidationError, match="Extra inputs"):
        JobOrder.model_validate({**order.model_dump(), "patient_name": "X"})


def test_outcome_survives_the_disk() -> None:
    outcome = JobOutcome(job_id="a-1", system="s", status=ResultStatus.DONE, probability=0.123456789012345, timings_s={"read": 0.5})
    assert JobOutcome.model_validate_json(outcome.model_dump_json()) == outcome
