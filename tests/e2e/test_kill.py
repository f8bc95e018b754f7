"""Kill -9 of every process at every stage: each study that was answered with success ends in exactly one delivered result."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pynetdicom import AE

from node.jobs import FINAL, JobState
from node.storage.claims import Claim
from node.storage.ledger import FILE_NAME, Ledger
from node.storage.records import Job
from pipelines.imaging.series import find_dicom_files
from pipelines.systems import catalogue
from tests import mr
from tests.bundles import write_bundle
from tests.e2e import servers
from tests.e2e.conftest import Pacs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
_POLL_S = 0.002


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> dict[int, str]:
    """Return the command lines of the child processes by id."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and parent_of(int(entry.name)) == pid:
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process while the block runs, whatever happens in it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Site:
    """A node in its own processes, from a configuration file; it can be killed and started again."""

    def __init__(self, folder: Path, pacs: Pacs, stack: ExitStack) -> None:
        self.pacs, self.folder, self._stack = pacs, folder, stack
        self.port = servers.free_port()
        self.config = servers.write_config(
            folder,
            node={"port": self.port, "storage_root": str(folder / "data"), "models_root": str(folder / "models"), "quiet_s": 0.5},
            delivery={"retry_first_s": 0.2, "retry_max_s": 0.5, "timeout_s": 10},
            peers=[
                {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port},
                {"ae_title": "SCANNER", "host": "127.0.0.1", "port": 104},
            ],
            routes=[{"from": ["SCANNER"], "systems": ["olnm_mri"], "to": ["PACS"], "wait_s": 0}],
        )
        self.node: subprocess.Popen[bytes]

    def start(self) -> None:
        self.node = self._stack.enter_context(servers.node(self.config, self.port))

    def send(self, files: list[Path]) -> None:
        ae = AE("SCANNER")
        datasets = [pydicom.dcmread(f) for f in files]
        ae.add_requested_context(datasets[0].SOPClassUID)
        association = ae.associate("127.0.0.1", self.port, ae_title="CERVINODE")
        assert [association.send_c_store(ds).Status for ds in datasets] == [0x0000] * len(datasets)
        association.release()

    def worker(self) -> int:
        return self._child("node.cli worker")

    def redis(self) -> int:
        return self._child("redis-server")

    def _child(self, command: str) -> int:
        """Return the id of a child process of the node, 0 when there is none."""
        return next((pid for pid, line in children_of(self.node.pid).items() if command in line), 0)

    def ledger(self) -> Ledger:
        return Ledger(self.folder / "data" / FILE_NAME, read_only=True)

    def jobs(self) -> list[Job]:
        with self.ledger() as ledger:
            return ledger.jobs()

    def claim(self) -> Claim | None:
        for path in (self.folder / "data" / "running").glob("*.json"):
            try:
                return Claim.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                return None
        return None

    def wait(self, condition: Callable[[], Any], *, seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, (self.folder / "node.log").read_text()[-4000:]
            time.sleep(_POLL_S)
        return value

    def at_stage(self, stage: str) -> Claim:
        def _there() -> Claim | None:
            claim = self.claim()
            return claim if claim and claim.stage == stage else None

        claim: Claim = self.wait(_there)
        return claim

    def one_result(self) -> Job:
        """Wait for the end and check that there is one result, delivered completely and consistent in itself."""
        self.wait(lambda: (jobs := self.jobs()) and all(job.state in FINAL for job in jobs))
        (job,) = self.jobs()
        assert job.state is JobState.DONE and job.outcome is not None
        expected = [item.sop_instance_uid for item in job.outcome.objects]
        assert set(self.pacs.uids()) == set(expected)
        again = {uid: [ds for ds in self.pacs.received if ds.SOPInstanceUID == uid] for uid in expected}
        assert all(ds == versions[0] for versions in again.values() for ds in versions), "what came twice came with the same content"
        return job


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return find_dicom_files(mr.write_study(tmp_path_factory.mktemp("study")))


@pytest.fixture
def site(tmp_path: Path, pacs: Pacs) -> Iterator[Site]:
    write_bundle(tmp_path / "models", catalogue()["olnm_mri"])
    pacs.start()
    with ExitStack() as stack:
        made = Site(tmp_path, pacs, stack)
        made.start()
        yield made


@pytest.mark.parametrize("stage", ["read", "radiomics", "report"])
def test_killed_child_of_the_worker_runs_the_job_again(site: Site, study: list[Path], stage: str) -> None:
    site.send(study)
    kill(site.at_stage(stage).pid)
    site.one_result()


def test_killed_worker_runs_the_job_again(site: Site, study: list[Path]) -> None:
    site.send(study)
    claim = site.at_stage("radiomics")
    worker = site.worker()
    assert parent_of(claim.pid) == worker
    kill(claim.pid, worker)
    site.one_result()


def test_worker_killed_before_it_takes_the_job(site: Site, study: list[Path]) -> None:
    worker = site.wait(site.worker)
    with paused(worker):
        site.send(study)
        site.wait(lambda: [j for j in site.jobs() if j.state is JobState.QUEUED])
        kill(worker)
    site.one_result()


@pytest.mark.parametrize("moment", ["received", JobState.PLANNED, JobState.QUEUED, JobState.RUNNING])
def test_killed_node_goes_on_after_its_restart(site: Site, study: list[Path], moment: str) -> None:
    site.send(study)
    if moment != "received":
        site.wait(lambda: [j for j in site.jobs() if moment in (j.state, JobState.PLANNED)])
    if moment == JobState.RUNNING:
        site.at_stage("radiomics")
    kill(site.node.pid)
    site.start()
    site.one_result()


def test_node_killed_while_sending_delivers_the_rest(site: Site, study: list[Path]) -> None:
    site.pacs.status = lambda ds: (time.sleep(0.5), 0x0000)[1]
    site.send(study)
    site.wait(lambda: len(site.pacs.received) >= 2)
    kill(site.node.pid)
    site.pacs.status = lambda ds: 0x0000
    site.start()
    site.one_result()
    uids = site.pacs.uids()
    assert len(uids) - len(set(uids)) <= 1, "at most the object whose answer was lost is sent again"


@pytest.mark.parametrize("stage", ["", "radiomics"])
def test_killed_redis_loses_nothing(site: Site, study: list[Path], stage: str) -> None:
    site.send(study)
    if stage:
        site.at_stage(stage)
    kill(site.redis())
    job = site.one_result()
    assert job.order.version == 1


def test_redis_that_forgets_everything_loses_nothing(site: Site, study: list[Path]) -> None:
    with paused(site.wait(site.worker)):
        site.send(study)
        site.wait(lambda: [j for j in site.jobs() if j.state is JobState.QUEUED])
        (site.folder / "data" / "redis" / "appendonly.aof").unlink()
        forgetful = site.redis()
        kill(forgetful)
        site.wait(lambda: site.redis() not in (0, forgetful))
    site.one_result()


def test_everything_killed_at_once(site: Site, study: list[Path]) -> None:
    site.send(study)
    claim = site.at_stage("cnn")
    kill(site.node.pid, site.worker(), site.redis(), claim.pid)
    site.start()
    site.one_result()


def test_job_that_kills_its_worker_each_time_fails_visibly(site: Site, study: list[Path]) -> None:
    site.send(study)
    for attempt in (1, 2, 3):
        kill(site.wait(lambda n=attempt: (c := site.claim()) and c.attempt == n and c.stage == "radiomics" and c).pid)
    site.wait(lambda: (jobs := site.jobs()) and all(job.state in FINAL for job in jobs))
    (job,) = site.jobs()
    assert job.state is JobState.FAILED and job.outcome is not None and job.outcome.code == "WORKER_LOST"
    page, report = site.pacs.received
    assert (page.Modality, report.Modality) == ("OT", "SR"), "the radiologist is told"
    assert "died 3 times" in _text(report)


def _text(report: Dataset) -> str:
    return " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")
