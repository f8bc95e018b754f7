"""The overview of a study: when it is ordered, and what stands on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from node.jobs import OVERVIEW, UNDER_WAY, JobOrder, JobOutcome, JobState, ResultStatus
from node.overview import make_overview
from node.storage.records import Job, PlannedJob
from pipelines.systems import catalogue
from pipelines.types import BundleStatus, Measurement
from structured_reports.brief import Brief, Entry, RegionBrief
from structured_reports.build import brief_result, build_overview
from structured_reports.canvas import AGAINST, BACKGROUND, FOR, Page
from structured_reports.language import load_messages
from structured_reports.overview import draw_overview
from tests.results import ML, VOLUME, Result, make_classes, make_context, make_result, make_ultrasound

NOW = datetime(2026, 1, 2, tzinfo=UTC)
EN = load_messages("en")
ENDED = {JobState.DONE: ResultStatus.DONE, JobState.REFUSED: ResultStatus.REFUSED, JobState.SENDING: ResultStatus.DONE}


def _job(system: str, state: JobState, *, version: int = 1, to: tuple[str, ...] = ("PACS",), **changes: Any) -> Job:
    fields: dict[str, Any] = {"bundle_version": "1", "bundle_digest": "d", "bundle_status": BundleStatus.RESEARCH, "created_at": NOW}
    order = JobOrder(
        **fields | changes,
        job_id=f"{system}-{version}",
        system=system,
        study_instance_uid="1.2",
        version=version,
        sop_instance_uids=("1.2.3", f"1.2.{len(system)}"),
        station="NODE",
    )
    outcome = JobOutcome(job_id=order.job_id, system=system, status=ENDED[state]) if state in ENDED else None
    return Job(order, "key", to, state, outcome, dispatches=0, detail=f"{state} because", created_at=0.0, changed_at=0.0)


def _plan(*jobs: Job, again: bool = False) -> PlannedJob | None:
    return make_overview(jobs, station="NODE", language="en", created_at=NOW, again=again)


def _ended(planned: PlannedJob, state: JobState = JobState.DONE) -> Job:
    outcome = JobOutcome(job_id=planned.order.job_id, system=OVERVIEW, status=ResultStatus.DONE)
    return Job(planned.order, planned.key, planned.destinations, state, outcome, 1, "", 0.0, 0.0)


def test_overview_is_ordered_when_all_systems_have_ended_or_wait() -> None:
    planned = _plan(
        _job("a", JobState.SENDING),
        _job("bb", JobState.REFUSED, to=("B", "PACS"), bundle_status=BundleStatus.DEMO),
        _job("ccc", JobState.WAITING),
        _job("dddd", JobState.FAILED),
    )
    assert planned is not None
    order = planned.order
    assert (order.system, order.version, order.predecessor) == (OVERVIEW, 1, None)
    assert [(m.system, m.state, m.has_outcome, m.reason) for m in order.members] == [
        ("a", "DONE", True, ""),
        ("bb", "REFUSED", True, ""),
        ("ccc", "WAITING", False, "WAITING because"),
        ("dddd", "FAILED", False, "FAILED because"),
    ]
    assert planned.destinations == ("PACS", "B")
    assert order.sop_instance_uids == ("1.2.1", "1.2.2", "1.2.3", "1.2.4")
    assert order.bundle_status is BundleStatus.DEMO, "one demo model makes it a demo"


@pytest.mark.parametrize("state", sorted(UNDER_WAY))
def test_overview_waits_for_what_is_under_way(state: JobState) -> None:
    assert _plan(_job("a", JobState.DONE), _job("b", JobState.DONE), _job("c", state)) is None
    assert _plan(_job("a", JobState.DONE), _job("b", JobState.DONE), _job("b", state, version=2), again=True) is None


def test_study_of_one_system_or_without_any_outcome_has_no_overview() -> None:
    assert _plan() is None
    assert _plan(_job("a", JobState.DONE), _job("a", JobState.DONE, version=2)) is None
    assert _plan(_job("a", JobState.WAITING), _job("b", JobState.WAITING)) is None


def test_overview_is_ordered_again_when_something_else_came_out() -> None:
    jobs = [_job("a", JobState.SENDING), _job("b", JobState.WAITING)]
    first = _plan(*jobs)
    assert first is not None
    delivered = [_job("a", JobState.DONE), _job("b", JobState.WAITING), _ended(first)]
    assert _plan(*delivered) is None, "delivery changes nothing"
    second = _plan(_job("a", JobState.DONE), _job("b", JobState.DONE), _ended(first))
    assert second is not None, "a job that waited keeps its id"
    assert (second.order.version, second.order.predecessor) == (2, first.order.job_id)
    third = _plan(_job("a", JobState.DONE), _job("b", JobState.DONE), _ended(first), _ended(second), _job("a", JobState.DONE, version=2))
    assert third is not None
    assert [m.job_id for m in third.order.members] == ["a-2", "b-1"]
    again = _plan(*delivered, again=True)
    assert again is not None
    assert again.order.version == 2
    assert again.order.job_id != first.order.job_id


def test_outcome_of_an_earlier_build_loads() -> None:
    outcome = JobOutcome.model_validate_json('{"job_id": "a-1", "system": "a", "status": "DONE", "probability": 0.4, "threshold": 0.5}')
    assert outcome.brief is None


def _entry(result: Result) -> Entry:
    brief = brief_result(result.prediction, result.evidence, result.context)
    outcome = JobOutcome(job_id="a-1", system=result.prediction.system, status=ResultStatus.DONE, brief=brief)
    stored = JobOutcome.model_validate_json(outcome.model_dump_json())
    assert stored == outcome
    return Entry(result.prediction.system, result.prediction.title, "DONE", (), stored.brief)


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result(measurements=(Measurement(VOLUME, 10.56, ML),))


@pytest.fixture(scope="module")
def entries(result: Result) -> list[Entry]:
    reasons = ("no TVUS series found", "second reason")
    return [
        _entry(result),
        _entry(make_classes()),
        Entry("plnm_us", catalogue()["plnm_us"].title, "REFUSED", reasons),
        Entry("unknown", "Sixth system", "WAITING", ("waits until noon for clinical value hpv",)),
    ]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what is written on pages, as far as it has room."""
    words: list[str] = []
    write = Page.text

    def record(page: Page, xy: tuple[float, float], line: str, *, size: int, width: float | None = None, **style: Any) -> float:
        cut = width is not None and page.width(line, size=size) > width
        words.append(f"{line} (cut)" if cut else line)
        return write(page, xy, line, size=size, width=width, **style)

    monkeypatch.setattr(Page, "text", record)
    return words


def test_page_has_a_row_for_each_system_and_shared_facts_once(entries: list[Entry], written: list[str]) -> None:
    draw_overview(entries, make_context(version=2), status=BundleStatus.DEMO, say=EN)
    assert not [line for line in written if line.endswith("(cut)")]
    assert {
        "DEMO MODEL - NOT FOR CLINICAL USE",
        "Version 2. Research software, unverified",
        "Occult lymph node metastasis (MRI)",
        "Occult lymph node metastasis suspected",
        "71.3 %",
        "High risk",
        "95 %: 58.1 to 82.2 %",
        "threshold 48.2 %",
        "Model olnm_mri 1.0.0, demo. 1 flag in its report",
        "79.1 %",
        "Pelvic lymph node metastasis (transvaginal ultrasound)",
        "REFUSED",
        "No result. This is not a negative result.",
        "no TVUS series found",
        "+ 1 more, see the report",
        "Sixth system",
        "WAITING",
        "No result yet.",
        "waits until noon for clinical value hpv",
        "rows 1, 2",
        "by a network",
    } <= set(written)
    for once in ("Volume, ml", "10.6", "Tumour", "Series used", "T1W", "DWI"):
        assert written.count(once) == 1, once


def test_page_tells_regions_apart_and_keeps_its_margins(entries: list[Entry], written: list[str]) -> None:
    brief = entries[0].brief
    assert brief is not None and brief.region is not None
    others = [replace(brief, region=replace(brief.region, key=str(i)), limits=("a limit",) * 2) for i in range(3)]
    many = [replace(entries[0], brief=b) for b in others] + [replace(entries[2], reasons=("a long reason " * 60,))] * 3
    pixels = draw_overview(many, make_context(), status=None, say=EN)
    assert written.count("10.6") == 3
    assert pixels.shape[0] > 768, "the page grows"
    for edge in (pixels[:4], pixels[-3:], pixels[:, :12], pixels[:, -12:], pixels[:92, :110], pixels[-48:, :110], pixels[-48:, -110:]):
        assert (edge == np.array(BACKGROUND)).all()


def test_bar_is_as_long_as_the_probability() -> None:
    for kind, colour in (("positive", FOR), ("negative", AGAINST)):
        brief = Brief(kind=kind, call="a call", probability=0.25, threshold=0.9)
        pixels = draw_overview([Entry("s", "Title", "DONE", (), brief)], make_context(), status=None, say=EN)
        assert (pixels[116, 664:1000] == np.array(colour)).all(axis=-1).sum() == pytest.approx(84, abs=2)


def test_region_that_two_systems_share_is_one(result: Result) -> None:
    first = brief_result(result.prediction, result.evidence, result.context).region
    shifted = replace(result.evidence.roi, volume=result.evidence.roi.volume.with_array(np.roll(result.evidence.roi.volume.array, 1, 0)))
    other = brief_result(result.prediction, replace(result.evidence, roi=shifted), result.context).region
    assert isinstance(first, RegionBrief) and other is not None
    assert first == brief_result(result.prediction, result.evidence, result.context).region
    assert first.key != other.key


def _build(result: Result, entries: list[Entry], **changes: Any) -> Dataset:
    (page,) = build_overview(result.sources, entries, make_context(bundle_status=BundleStatus.DEMO, **changes))
    return page


def test_object_is_a_capture_of_the_study_and_its_uid_follows_its_content(result: Result, entries: list[Entry]) -> None:
    page = _build(result, entries)
    assert (page.Modality, page.SeriesNumber, page.ImageType[3]) == ("OT", 9300, "OVERVIEW")
    assert page.SeriesDescription == "[RUO] DEMO Overview page"
    assert (page.PatientID, page.StudyInstanceUID) == (result.sources[0].PatientID, result.sources[0].StudyInstanceUID)
    assert page.SourceImageSequence[0].ReferencedSOPInstanceUID == result.sources[0].SOPInstanceUID
    same, other, second = _build(result, entries), _build(result, entries[:2]), _build(result, entries, version=2)
    assert (same.SOPInstanceUID, same.PixelData) == (page.SOPInstanceUID, page.PixelData)
    assert len({page.SOPInstanceUID, other.SOPInstanceUID, second.SOPInstanceUID}) == 3
    assert second.SeriesDescription == "[RUO] DEMO Overview v2 page"


def test_page_of_ultrasound_in_chinese(written: list[str]) -> None:
    made = make_ultrasound()
    result = Result(made.sources, made.prediction, made.evidence, replace(made.context, language="zh"))
    entry = _entry(result)
    assert entry.brief is not None and entry.brief.clinical == (("Red blood cells", "3.9 10^12/L"),)
    (page,) = build_overview(result.sources, [entry, entry], result.context)
    assert page.Rows >= 768
    assert written.count("3.9 10^12/L") == 1
