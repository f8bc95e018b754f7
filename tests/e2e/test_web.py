"""The HTTP interface as a stranger uses it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.config import WebTable
from node.storage.ledger import Ledger
from node.storage.records import ReceivedInstance
from node.web.server import WebServer
from pipelines.errors import ConfigError

TOKEN = "a token of the tests"
PATH = "/api/studies/1.2.3/clinical"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3") as made:
        made.add_instance(ReceivedInstance("1.2.3.4.5", "1", "1", "1.2.3.4", "1.2.3", "PACS", "0", 1.0))
        yield made


@pytest.fixture
def server(ledger: Ledger) -> Iterator[WebServer]:
    made = WebServer(WebTable(port=0, token=TOKEN), ledger=ledger, specs={})
    made.start()
    yield made
    made.stop()


def ask(
    server: WebServer,
    method: str,
    path: str = PATH,
    *,
    body: object = None,
    token: str | None = TOKEN,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    """Send a request; return status and JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request(method, path, content, {**authorization, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def test_values_are_stored_and_returned(server: WebServer, ledger: Ledger) -> None:
    status, record = ask(server, "PUT", body={"age_y": 47, "figo_stage": "ib2"})
    assert status == 200 and record["study_instance_uid"] == "1.2.3"
    age, stage = record["values"]["age_y"], record["values"]["figo_stage"]
    assert (age["value"], age["unit"], stage["value"]) == (47, "years", "IB2")
    assert age["source"] == f"entered through the API from 127.0.0.1 at {age['entered_at']}"
    assert ask(server, "GET") == (200, record)
    (line,) = ledger.audit_trail()
    assert (line.event, line.actor, line.study_instance_uid) == ("CLINICAL_ENTERED", "API 127.0.0.1", "1.2.3")
    assert "age_y, figo_stage" in line.detail and "47" not in line.detail


def test_values_add_up_and_null_withdraws(server: WebServer) -> None:
    ask(server, "PUT", body={"age_y": 47, "hpv": True})
    _, record = ask(server, "PUT", body={"age_y": None, "hpv": "no", "parity": 2})
    assert {name: one["value"] for name, one in record["values"].items()} == {"hpv": "no", "parity": 2}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"age_y": 900, "shoe_size": 38, "hpv": "yes"}, "age_y: 900 is not between 10 and 120 years; shoe_size: there is no such value"),
        ({"shoe_size": None}, "shoe_size: there is no such value"),
        ({"age_y": {"value": 47}}, "is not a number"),
        ({}, "not a JSON object of names and values"),
        (["age_y"], "not a JSON object of names and values"),
        (b"{age_y: 47}", "not valid JSON"),
        (b"[" * 50000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_wrong_body_is_named_and_nothing_is_stored(server: WebServer, ledger: Ledger, body: object, words: str) -> None:
    status, answer = ask(server, "PUT", body=body)
    assert status == 400 and words in answer["error"]
    assert ledger.clinical("1.2.3") == []


@pytest.mark.parametrize("token", [None, "", "another token of 20", TOKEN[:-1], TOKEN + "x", "tökén"])
def test_wrong_token_gets_nothing(server: WebServer, ledger: Ledger, token: str | None) -> None:
    encoded = None if token is None else token.encode().decode("latin-1")
    for method in ("GET", "PUT"):
        status, answer = ask(server, method, body={"age_y": 47}, token=encoded)
        assert status == 401 and "token" in answer["error"]
    assert ledger.clinical("1.2.3") == []


@pytest.mark.parametrize(
    "path", ["/api/studies/1.2.4/clinical", "/api/", "/api/studies/../clinical", "/api/studies/1.2.3", f"{PATH}/", f"{PATH}?token=x"]
)
def test_what_is_not_here_is_404(server: WebServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == ask(server, "PUT", path, body={"age_y": 47})[0] == 404


def test_other_methods_are_not_understood(server: WebServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("DELETE", PATH)
    assert connection.getresponse().status == 501
    connection.close()


def test_body_without_or_of_too_great_length_is_refused(server: WebServer) -> None:
    assert ask(server, "PUT", headers={"Content-Length": "65537"})[0] == 413
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(f"PUT {PATH} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert b" 411 " in raw.recv(100)


def test_without_a_token_there_is_no_interface(ledger: Ledger) -> None:
    server = WebServer(WebTable(port=0), ledger=ledger, specs={})
    server.start()
    assert server.port == 0
    server.stop()


def test_taken_port_is_a_config_error(server: WebServer, ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match=r"\[web\] host, port: cannot listen on 127.0.0.1"):
        WebServer(WebTable(port=server.port, token=TOKEN), ledger=ledger, specs={}).start()
