"""The one command: what it serves, to whom, and how it ends."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import mr
from tests.e2e import servers
from tests.viewer.conftest import Viewer, wait_for_viewer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first test makes all studies


def _ask(url: str, **headers: str) -> tuple[int, Message, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_page_is_isolated_and_asks_no_other_host(viewer: Viewer) -> None:
    status, headers, body = _ask(viewer.ohif)
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert b"OHIF" in body


def test_routes_of_the_application_are_its_page_and_missing_files_are_missing(viewer: Viewer) -> None:
    assert _ask(f"{viewer.ohif}viewer?StudyInstanceUIDs=1.2.3")[2] == _ask(viewer.ohif)[2]
    assert _ask(f"{viewer.ohif}missing.js")[0] == 404
    assert _ask(f"{viewer.ohif}../serve.py")[0] == 404
    assert b"/dicom-web" in _ask(f"{viewer.ohif}app-config.js")[2]


def test_dicomweb_links_lead_back_through_the_proxy(viewer: Viewer) -> None:
    status, headers, body = _ask(f"{viewer.ohif}dicom-web/studies?includefield=00081030%2C00080060", Accept="application/dicom+json")
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert f"{viewer.ohif}dicom-web/studies/".encode() in body
    assert b"MR pelvis" in body  # the list of fields arrives decoded


def test_foreign_names_and_changes_are_refused(viewer: Viewer) -> None:
    assert _ask(viewer.ohif, Host="attacker.example")[0] == 403
    request = urllib.request.Request(f"{viewer.ohif}dicom-web/studies", data=b"", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly(tmp_path: Path, command: list[str], how: signal.Signals) -> None:
    mr.write_study(tmp_path / "study", (mr.DWI_B0,))
    (tmp_path / "study" / "README.txt").write_text("not DICOM")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with servers.process([*command, str(tmp_path / "study")], tmp_path / "log", {"TMPDIR": str(temporary)}) as child:
        viewer = wait_for_viewer(child, tmp_path / "log")
        child.send_signal(how)
        assert child.wait(30) == 0
    text = viewer.log.read_text()
    assert "16 DICOM objects loaded" in text
    assert text.endswith("ended\n")
    assert list(temporary.iterdir()) == []
    for address in (viewer.ohif, viewer.orthanc):
        assert not servers.accepts(urlsplit(address).port or 0)


def test_study_of_the_demonstration_is_loaded_with_its_results(tmp_path: Path, command: list[str]) -> None:
    study = mr.write_study(tmp_path / "study", (mr.DWI_B0,))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.json").write_text(json.dumps({"study_folder": str(study)}))
    with servers.process([*command, str(tmp_path / "out")], tmp_path / "log") as child:
        wait_for_viewer(child, tmp_path / "log")
    assert "16 DICOM objects loaded" in (tmp_path / "log").read_text()


def test_nothing_to_show_is_said(tmp_path: Path, command: list[str]) -> None:
    with servers.process([*command, str(tmp_path)], tmp_path / "log") as child:
        assert child.wait(60) == 1
    assert "no DICOM file in" in (tmp_path / "log").read_text()
