"""A whole node with two small systems: one page sums up what came out of both, each time that is something else."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.app import build
from node.cli import main
from node.clinical import enter
from node.jobs import FINAL, OVERVIEW, JobState
from node.storage.records import Job
from pipelines.errors import ConfigError
from structured_reports.attributes import OVERVIEW_SERIES
from tests import mr
from tests.e2e.conftest import Pacs
from tests.e2e.servers import write_config
from tests.e2e.test_node import store, wait_for
from tests.e2e.test_versions import NODE_SIZE, Site, _declare, _settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root, pacs = tmp_path_factory.mktemp("overview"), Pacs()
    _declare(root, "plain", "")
    _declare(root, "with_node", NODE_SIZE.format(wait_s=600.0, fallback="without"))
    pacs.start()
    settings = _settings(root, pacs, "plain", "with_node")
    patient = settings.node.model_copy(update={"quiet_s": 3.0})  # a busy machine must not plan half a study
    app = build(settings.model_copy(update={"node": patient}))
    app.start()
    yield Site(app, pacs)
    app.stop()
    pacs.stop()


@pytest.fixture
def images() -> list[Dataset]:
    return mr.make_series(mr.T2W, StudyInstanceUID=generate_uid())


def overviews(site: Site, study: str, n: int) -> list[Job]:
    """Wait until a study has n overviews that have ended, and nothing more to show; return them."""
    jobs: list[Job] = []

    def _ended() -> bool:
        jobs[:] = [j for j in site.app.ledger.jobs(study_instance_uid=study) if j.order.system == OVERVIEW]
        return len(jobs) >= n and all(j.state in FINAL for j in jobs) and not site.app.ledger.studies_with_new_results()

    wait_for(_ended, timeout_s=120)
    assert len(jobs) == n
    return jobs


def pages(site: Site, study: str) -> list[Dataset]:
    """Return the overviews that the PACS got."""
    return [ds for ds in site.pacs.received if ds.StudyInstanceUID == study and ds.SeriesNumber == OVERVIEW_SERIES]


def states(job: Job) -> dict[str, str]:
    return {member.system: member.state for member in job.order.members}


def test_one_overview_when_both_have_ended_and_another_when_a_value_comes_late(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    enter(site.app.ledger, study, {"node_short_axis_mm": 8}, how="entered", actor="tests")
    (first,) = overviews(site, study, 1)
    assert (first.state, states(first)) == (JobState.DONE, {"plain": "DONE", "with_node": "DONE"})
    (page,) = pages(site, study)
    assert page.SeriesDescription == "[RUO] DEMO Overview page" and page.PatientID == images[0].PatientID
    time.sleep(1.0)
    assert len(site.app.ledger.jobs(study_instance_uid=study)) == 3, "delivery of the results orders nothing"
    site.put(study, {"node_short_axis_mm": 15})
    _, second = overviews(site, study, 2)
    assert (second.order.version, second.order.predecessor) == (2, first.order.job_id)
    newest = {j.order.system: j.order.job_id for j in site.app.ledger.jobs(study_instance_uid=study)}
    assert {m.job_id for m in second.order.members} == {newest["plain"], newest["with_node"]}
    _, later = pages(site, study)
    assert later.SOPInstanceUID != page.SOPInstanceUID and (later.PixelData != page.PixelData)


def test_system_that_waits_is_listed_as_waiting(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    (first,) = overviews(site, study, 1)
    assert states(first) == {"plain": "DONE", "with_node": "WAITING"}
    assert "for clinical value node_short_axis_mm" in first.order.members[1].reason
    site.put(study, {"node_short_axis_mm": 8})
    assert states(overviews(site, study, 2)[1]) == {"plain": "DONE", "with_node": "DONE"}
    assert len(pages(site, study)) == 2


def test_overview_is_made_again_when_asked_for(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    (first,) = overviews(site, study, 1)
    site.app.store.add_request(json.dumps({"retry": first.order.job_id}).encode())
    _, second = overviews(site, study, 2)
    assert second.order.predecessor == first.order.job_id and states(second) == states(first)
    assert len({page.SOPInstanceUID for page in pages(site, study)}) == 2
    root = site.app.settings.node.storage_root
    settings = str(write_config(root.parent, node={"storage_root": str(root)}))
    assert main(["jobs", "retry", second.order.job_id, "--config", settings]) == 0
    overviews(site, study, 3)
    assert main(["jobs", "retry", second.order.job_id, "--config", settings]) != 0, "there is a newer one"


def test_worker_killed_at_the_overview_leaves_exactly_one(site: Site, images: list[Dataset]) -> None:
    study = images[0].StudyInstanceUID
    store(site.app, images)
    found: list[Job] = []

    def _ordered() -> bool:
        found[:] = [j for j in site.app.ledger.jobs(study_instance_uid=study) if j.order.system == OVERVIEW]
        return bool(found) and found[0].state is not JobState.PLANNED

    end = time.monotonic() + 120
    while not _ordered():
        assert time.monotonic() < end
        time.sleep(0.002)
    os.killpg(site.app.workers[0].pid, signal.SIGKILL)
    (job,) = overviews(site, study, 1)
    assert job.state is JobState.DONE and len(pages(site, study)) == 1


def test_system_cannot_take_the_name_of_the_overview(tmp_path_factory: pytest.TempPathFactory, pacs: Pacs) -> None:
    root = tmp_path_factory.mktemp("named")
    _declare(root, OVERVIEW, "")
    with pytest.raises(ConfigError, match="a system cannot be called 'overview'"):
        build(_settings(root, pacs, OVERVIEW))
