"""The command line as a stranger uses it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node.cli import main, make_parser
from node.dispatch import carry_out_requests
from node.jobs import JobOrder, JobState
from node.storage.files import StudyStore
from node.storage.ledger import FILE_NAME, Ledger
from node.storage.records import PlannedJob, ReceivedInstance
from pipelines.systems import catalogue
from structured_reports import canvas
from tests import mr
from tests.bundles import write_bundle
from tests.e2e.conftest import Pacs
from tests.e2e.servers import free_port, write_config
from tests.e2e.test_versions import NODE_SIZE, _declare

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")


def _parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for child in action.choices.values():
                yield child
                yield from _parsers(child)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "models", catalogue()["olnm_mri"])
    return write_config(
        tmp_path,
        node={"storage_root": "data", "models_root": "models"},
        peers=[{"ae_title": "PACS", "host": "127.0.0.1", "port": 104}],
        routes=[{"systems": ["olnm_mri"], "to": ["PACS"]}],
    )


@pytest.fixture
def job(tmp_path: Path) -> Iterator[str]:
    """A finished job in the ledger of ``config``."""
    store = StudyStore(tmp_path / "data")
    store.prepare()
    order = JobOrder(
        job_id="abc-1", system="olnm_mri", bundle_version="1", bundle_digest="d", study_instance_uid="1.2", version=1,
        sop_instance_uids=("1.2.3",), created_at=datetime(2026, 1, 1, tzinfo=UTC), station="CERVINODE",
    )  # fmt: skip
    with Ledger(tmp_path / "data" / FILE_NAME) as ledger:
        ledger.plan("1.2", [PlannedJob(order, "key", ("PACS",))])
        ledger.move("abc-1", JobState.CANCELLED, detail="not wanted")
    yield "abc-1"


def test_every_command_has_an_example_that_parses() -> None:
    parsers = [p for p in _parsers(make_parser()) if p.get_default("run")]
    assert len(parsers) == 24
    for parser in parsers:
        assert parser.epilog and parser.epilog.startswith("example: cervinode ")
        arguments = shlex.split(parser.epilog.removeprefix("example: cervinode "))
        assert make_parser().parse_args(arguments).run.__qualname__ == parser.get_default("run").__qualname__


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    program = "import sys; from node.cli import make_parser; make_parser().format_help(); print([m for m in %r if m in sys.modules])"
    heavy = ["numpy", "pydicom", "celery", "pydantic", "onnxruntime", "SimpleITK"]
    done = subprocess.run([sys.executable, "-c", program % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused" in make_parser().format_help()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["echo", "PACS@127.0.0.1:1", "--timeout", "2"], 1, "PACS@127.0.0.1:1 cannot be reached"),
        (["send", "{tmp}/none", "--to", "A@127.0.0.1:1"], 3, "is not a folder"),
        (["config", "check", "--config", "{tmp}/none.toml"], 2, "cannot be read"),
        (["jobs", "list", "--config", "{tmp}/node.toml"], 1, "no node has run here"),
        (["models", "verify", "--config", "{tmp}/empty.toml"], 1, "no bundle below"),
        (["predict", "{tmp}", "--out", "{tmp}/out", "--system", "x", "--config", "{tmp}/node.toml"], 2, "there is no system 'x'"),
        (["worker", "--config", "{tmp}/node.toml"], 2, "[broker] url"),
    ],
)
def test_expected_error_is_one_sentence(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "empty.toml").write_text('[node]\nmodels_root = "empty"\n')
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", *(a.format(tmp=tmp_path) for a in arguments)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("cervinode: ") and words in line


def test_wrong_address_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["echo", "PACS"])
    assert caught.value.code == 2
    assert "'PACS' is not of the form AET@HOST:PORT" in capsys.readouterr().err


def test_config_check_names_systems_and_bundles(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--config", str(config)]) == 0
    assert "system olnm_mri: bundle test-1 (demo)" in (out := capsys.readouterr().out)
    assert "WARNING" not in out


def test_config_check_warns_of_a_language_that_captures_cannot_be_in(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(config.read_text().replace("[node]", '[node]\nlanguage = "zh"', 1))
    monkeypatch.setattr(canvas, "_font_file", lambda language: None)
    assert main(["config", "check", "--config", str(config)]) == 0
    assert "WARNING: [node] language: there is no font for the language 'zh'" in (out := capsys.readouterr().out)
    assert "fonts-wqy-microhei or fonts-noto-cjk" in out


def test_models_are_listed_and_verified(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--config", str(config)]) == 0
    assert "test-1  demo" in capsys.readouterr().out
    assert main(["models", "verify", "--config", str(config)]) == 0
    (tmp_path / "models/olnm_mri/test-1/classifier.onnx").write_bytes(b"altered")
    assert main(["models", "verify", "--config", str(config)]) == 1
    assert "FAILED" in (out := capsys.readouterr().out) and "was altered" in out


def test_jobs_are_listed_and_shown(config: Path, job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list", "--config", str(config)]) == 0
    assert "abc-1  CANCELLED  olnm_mri  v1" in capsys.readouterr().out
    assert main(["jobs", "list", "--state", "failed", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["jobs", "show", "ab", "--config", str(config)]) == 0
    assert "detail: not wanted" in capsys.readouterr().out
    assert main(["jobs", "show", job, "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "CANCELLED"
    assert main(["jobs", "show", "zz", "--config", str(config)]) == 1
    assert "there is no job 'zz'" in capsys.readouterr().err


def test_retry_leaves_a_request_for_the_node(config: Path, job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "retry", "abc", "--config", str(config)]) == 0
    (request,) = StudyStore(tmp_path / "data").requests()
    assert json.loads(request.read_bytes()) == {"retry": job}


def test_clinical_values_are_checked_and_left_for_the_node(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", str(config)]
    store = StudyStore(tmp_path / "data")
    store.prepare()
    with Ledger(tmp_path / "data" / FILE_NAME) as ledger:
        ledger.add_instance(ReceivedInstance("1.2.3.4", "1", "1", "1.2.3", "1.2", "PACS", "0", 1.0))
        assert main(["clinical", "1.2", "age_y=47", "figo_stage=1b2", "hpv=", *options]) == 0
        (request,) = store.requests()
        asked = json.loads(request.read_bytes())
        assert (asked["clinical"], asked["values"]) == ("1.2", {"age_y": "47", "figo_stage": "1b2", "hpv": None})
        store.add_request(b'{"clinical": "1.9", "values": {"age_y": 1}}')
        store.add_request(b'{"clinical": "1.2"}')
        carry_out_requests(store=store, ledger=ledger, intake=None)  # type: ignore[arg-type]
        assert store.requests() == []
        events = [(line.event, line.detail) for line in ledger.audit_trail()]
    assert [event for event, _ in events] == ["CLINICAL_ENTERED", "CLINICAL_REFUSED", "CLINICAL_REFUSED"]
    assert "age_y, figo_stage, hpv withdrawn" in events[0][1] and "47" not in events[0][1]
    capsys.readouterr()
    assert main(["clinical", "1.2", *options]) == 0
    shown = json.loads(capsys.readouterr().out)["values"]
    assert (shown["age_y"]["value"], shown["figo_stage"]["value"]) == (47, "IB2")
    assert shown["age_y"]["source"].startswith("entered on the command line by ")
    for arguments, words in (
        (["1.9"], "study 1.9 is not here"),
        (["1.2", "age_y=900"], "900 is not between"),
        (["1.2", "age"], "NAME=VALUE"),
    ):
        assert main(["clinical", *arguments, *options]) != 0
        assert words in capsys.readouterr().err


def test_predict_takes_clinical_values_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _declare(tmp_path, "strict", NODE_SIZE.format(wait_s=100.0, fallback="refuse"))
    settings = write_config(tmp_path, node={"storage_root": "data", "models_root": "models", "systems_path": "systems"})
    study, values = mr.write_study(tmp_path / "study", (mr.T2W,)), tmp_path / "values.json"
    arguments = ["predict", str(study), "--out", str(tmp_path / "out"), "--system", "strict", "--config", str(settings)]
    assert main(arguments) == 3
    assert "node_short_axis_mm" in capsys.readouterr().out
    values.write_text('{"node_short_axis_mm": 8}')
    assert main([*arguments, "--clinical", str(values)]) == 0
    values.write_text('{"node_short_axis_mm": -8}')
    assert main([*arguments, "--clinical", str(values)]) == 3
    assert "values.json: node_short_axis_mm: -8 is not between" in capsys.readouterr().err
    values.write_text("[]")
    assert main([*arguments, "--clinical", str(values)]) == 3


def test_send_and_echo_reach_a_peer(pacs: Pacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pacs.start()
    assert main(["echo", f"PACS@127.0.0.1:{pacs.port}"]) == 0
    study = mr.write_study(tmp_path / "study", (mr.T2W,))
    assert main(["send", str(study), "--to", f"PACS@127.0.0.1:{pacs.port}"]) == 0
    assert len(pacs.received) == 16 and "16 of 16 instances accepted" in capsys.readouterr().out
    pacs.status = lambda ds: 0xC000
    assert main(["send", str(study), "--to", f"PACS@127.0.0.1:{pacs.port}"]) == 1
    assert "status 0xC000" in capsys.readouterr().out
    pacs.status = lambda ds: 0xA700
    assert main(["send", str(study), "--to", f"PACS@127.0.0.1:{pacs.port}"]) == 1
    assert "out of resources: status 0xA700" in capsys.readouterr().err


def test_predict_says_refused_with_its_exit_code(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = mr.write_study(tmp_path / "study", (mr.T2W,))
    arguments = ["predict", str(study), "--out", str(tmp_path / "out"), "--config", str(config)]
    assert main(arguments) == 3
    assert "olnm_mri: REFUSED" in (out := capsys.readouterr().out) and "no T1W series found" in out
    assert main([*arguments, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["results"][0]["status"] == "REFUSED"


def test_serve_ends_on_sigterm_with_everything_it_started(tmp_path: Path) -> None:
    port = free_port()
    settings = write_config(
        tmp_path, node={"port": port, "storage_root": "data"}, peers=[{"ae_title": "PACS", "host": "127.0.0.1", "port": 104}]
    )
    command = [sys.executable, "-m", "node.cli", "serve", "--config", str(settings)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as node:
        end = time.monotonic() + 30
        while b"node started" not in (tmp_path / "log").read_bytes():
            assert time.monotonic() < end and node.poll() is None
            time.sleep(0.1)
        assert main(["echo", f"CERVINODE@127.0.0.1:{port}", "--from", "PACS"]) == 0
        node.terminate()
        assert node.wait(30) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in lines][-1] == "node stopped"
    assert not list((tmp_path / "data" / "redis").glob("*.sock"))
