from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from node.jobs import JobOutcome, OutcomeObject, ResultStatus
from node.storage.claims import SILENT_BEATS, Claim, Claims
from node.storage.files import StudyStore, check_uid, write_durably
from pipelines.errors import InputError


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    made = StudyStore(tmp_path / "root")
    made.prepare()
    return made


def _outcome(job_id: str = "a-1", *, code: str | None = None) -> JobOutcome:
    item = OutcomeObject(path="sr.dcm", sop_class_uid="1.2", sop_instance_uid="1.3", sha256="0" * 64)
    return JobOutcome(job_id=job_id, system="s", status=ResultStatus.REFUSED, code=code, objects=(item,))


@pytest.mark.parametrize("uid", ["", "../1", "1/2", "1..2", ".1", "1.", "1.2a", "1" * 65, "1.2\n", "..", "1.2\x00"])
def test_uid_that_is_none_never_becomes_a_path(store: StudyStore, uid: str) -> None:
    with pytest.raises(InputError, match="not a UID"):
        store.instance_path(uid, "1.2")
    with pytest.raises(InputError, match="not a UID"):
        store.instance_path("1.2", uid)


def test_uid_that_is_one_passes() -> None:
    assert check_uid("2.25." + "1" * 59) == "2.25." + "1" * 59


def test_job_id_that_is_none_never_becomes_a_path(store: StudyStore) -> None:
    for job_id in ("", "..", "a/b", ".a", "a" * 81, "a\n"):
        with pytest.raises(InputError, match="not a job id"):
            store.result_folder(job_id)


def test_instance_is_kept_under_its_uids(store: StudyStore) -> None:
    store.keep_instance("1.2", "1.2.3", b"content")
    assert (store.root / "studies/1.2/1.2.3.dcm").read_bytes() == b"content"
    assert list((store.root / "incoming").iterdir()) == []


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    (target / "x").mkdir(parents=True)
    with pytest.raises(OSError):
        write_durably(target, b"content")
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_an_interrupted_reception_are_discarded(store: StudyStore) -> None:
    (store.root / "incoming" / ".1.2.dcm.abc").write_bytes(b"half")
    store.discard_leftovers()
    assert list((store.root / "incoming").iterdir()) == []


def test_result_appears_complete(store: StudyStore) -> None:
    assert store.outcome("a-1") is None
    assert store.keep_result(_outcome(), {"sr.dcm": b"sr"}) == _outcome()
    assert store.outcome("a-1") == _outcome()
    assert (store.result_folder("a-1") / "sr.dcm").read_bytes() == b"sr"


def test_second_result_of_a_job_gives_way_to_the_first(store: StudyStore) -> None:
    store.keep_result(_outcome(code="FIRST"), {"sr.dcm": b"first"})
    assert store.keep_result(_outcome(code="SECOND"), {"sr.dcm": b"second"}).code == "FIRST"
    assert (store.result_folder("a-1") / "sr.dcm").read_bytes() == b"first"
    assert [p.name for p in (store.root / "results").iterdir()] == ["a-1"]


def test_requests_come_oldest_first(store: StudyStore) -> None:
    store.add_request(b"1")
    time.sleep(0.02)
    store.add_request(b"2")
    assert [p.read_bytes() for p in store.requests()] == [b"1", b"2"]


def test_claim_of_a_living_process_is_respected(store: StudyStore) -> None:
    claims = Claims(store.running, heartbeat_s=0.05)
    first = claims.take("a-1")
    assert first is not None
    with first:
        first.stage("radiomics")
        time.sleep(SILENT_BEATS * 0.05 + 0.3)
        found = claims.find("a-1")
        assert found and found.stage == "radiomics" and claims.is_alive(found)
        assert claims.take("a-1") is None
    claims.remove("a-1")
    assert claims.find("a-1") is None


def test_claim_left_by_an_error_is_free_and_counts(store: StudyStore) -> None:
    claims = Claims(store.running, heartbeat_s=10)
    first = claims.take("a-1")
    assert first is not None
    with pytest.raises(ValueError, match="boom"), first:
        raise ValueError("boom")
    second = claims.take("a-1")
    assert second is not None and second.claim.attempt == 2


def test_silent_claim_from_another_host_dies(store: StudyStore) -> None:
    claims = Claims(store.running, heartbeat_s=1)
    claim = Claim(job_id="a-1", attempt=1, host="elsewhere/1", pid=os.getpid())
    claims.write(claim)
    assert claims.is_alive(claim)
    long_ago = time.time() - SILENT_BEATS - 1
    os.utime(store.running / "a-1.json", (long_ago, long_ago))
    assert not claims.is_alive(claim)


def _claim_and_die(folder: Path) -> None:
    beat = Claims(folder, heartbeat_s=100).take("a-1")
    assert beat is not None
    beat.__enter__()
    os._exit(9)


def test_claim_of_a_dead_process_dies_with_it(store: StudyStore) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(store.running,))
    child.start()
    child.join()
    claims = Claims(store.running, heartbeat_s=100)
    claim = claims.find("a-1")
    assert claim is not None and not claims.is_alive(claim)


def test_object_that_results_share_stays_as_the_first_one_wrote_it(store: StudyStore) -> None:
    assert store.keep_shared("1.2.3", b"first") == b"first"
    assert store.keep_shared("1.2.3", b"second") == b"first"
    assert store.keep_shared("1.2.4", b"second") == b"second"
    assert sorted(path.name for path in (store.root / "shared").iterdir()) == ["1.2.3.dcm", "1.2.4.dcm"]
    with pytest.raises(InputError, match="not a UID"):
        store.keep_shared("../1", b"")
