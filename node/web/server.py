"""The HTTP interface: JSON for programs that present the token, and the console for people (:mod:`node.web.console`). Plain HTTP.

================================  =====================================================================================
``GET /api/studies/U/clinical``  what was entered for study U
``PUT /api/studies/U/clinical``  enter values, ``{"age_y": 47, "figo_stage": "IB2"}``; names that are not given stay, null withdraws
================================  =====================================================================================

Answers to programs: 200 with the stored record; 400 what is wrong with the body; 401 no or another token; 404 no such study or path; 411,
413 a body without or of too great length.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from node.clinical import UnknownStudy, enter, stored_record
from node.config import WebTable
from node.log import fields
from node.storage.ledger import Ledger
from node.web import pages
from node.web.console import COOKIE_NAME, Answer, Console, Request
from pipelines.errors import ConfigError, InputError
from pipelines.spec import PipelineSpec

_CLINICAL = re.compile(r"/api/studies/([0-9.]{1,64})/clinical")
_MAX_BODY = 65536  # bytes
_TIMEOUT_S = 15.0  # for a caller to send its request
_MAX_FIELDS = 200  # of a form
_SAFETY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}  # on every answer

log = logging.getLogger(__name__)


class _Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for requests in hand: they write the ledger

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what a request's thread died of: the caller went away, or our disk is full."""
        log.exception("web request failed", extra=fields(caller=client_address))


class WebServer:
    """Serves in threads of its own."""

    def __init__(self, settings: WebTable, *, ledger: Ledger, specs: Mapping[str, PipelineSpec]) -> None:
        self._settings, self._ledger = settings, ledger
        self._console = Console(settings.token, ledger=ledger, specs=specs)
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """Return the TCP port that is listened on, 0 while there is none."""
        return int(self._server.server_address[1]) if self._server else 0

    def start(self) -> None:
        """Listen, if there is a token.

        Raises
        ------
        ConfigError
            The address cannot be listened on.
        """
        if not self._settings.token:
            return
        address = (self._settings.host, self._settings.port)
        try:
            self._server = _Server(address, _handler(self._settings.token, self._ledger, self._console))
        except OSError as error:
            raise ConfigError(f"[web] host, port: cannot listen on {address[0]}:{address[1]} ({error.strerror})") from error
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="web", daemon=True).start()

    def stop(self) -> None:
        """Stop listening and let requests in hand end."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _handler(token: str, ledger: Ledger, console: Console) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.token, Handler.ledger, Handler.console = token.encode(), ledger, console
    return Handler


class _Handler(BaseHTTPRequestHandler):
    token: bytes
    ledger: Ledger
    console: Console
    timeout = _TIMEOUT_S  # of the socket
    server_version, sys_version = "Cervinode", ""

    def do_GET(self) -> None:
        """Answer GET."""
        if self.path.startswith("/api/"):
            self._answer(lambda study: stored_record(self.ledger, study))
        elif self.path == "/console.css":
            self._send(HTTPStatus.OK, pages.STYLE, "text/css")
        else:
            self._show(self.console.answer(self._request()))

    def do_POST(self) -> None:
        """Answer POST: the console's forms."""
        try:
            form = dict(parse_qsl(self._read_body().decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
        except _Refused as error:
            self._send_json(error.status, {"error": str(error)})
        except ValueError:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": "the body is not a form"})
        else:
            self._show(self.console.answer(self._request(form)))

    def do_PUT(self) -> None:
        """Answer PUT."""
        self._answer(self._enter)

    def _enter(self, study: str) -> dict[str, object]:
        caller = str(self.client_address[0])
        enter(self.ledger, study, self._body(), how=f"entered through the API from {caller}", actor=f"API {caller}")
        return stored_record(self.ledger, study)

    def _request(self, form: Mapping[str, str] | None = None) -> Request:
        """Return what a browser asks for."""
        parts = urlsplit(self.path)
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        cookie = cookies[COOKIE_NAME].value if COOKIE_NAME in cookies else ""
        caller, query = str(self.client_address[0]), dict(parse_qsl(parts.query))
        return Request(str(self.command), parts.path, caller, cookie=cookie, query=query, form=form or {})

    def _show(self, answer: Answer) -> None:
        headers = {"Location": answer.location} if answer.location else {}
        if answer.cookie:
            value, seconds = answer.cookie
            headers["Set-Cookie"] = f"{COOKIE_NAME}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}"
        self._send(answer.status, answer.html.encode(), "text/html; charset=utf-8", headers)

    def _answer(self, act: Callable[[str], Mapping[str, object]]) -> None:
        try:
            self._check_token()
            path = _CLINICAL.fullmatch(self.path)
            if not path:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing at this path")
            status, content = HTTPStatus.OK, act(path[1])
        except _Refused as error:
            status, content = error.status, {"error": str(error)}
        except UnknownStudy as error:
            status, content = HTTPStatus.NOT_FOUND, {"error": str(error)}
        except InputError as error:
            status, content = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        self._send_json(status, content)

    def _check_token(self) -> None:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token)
        if scheme.lower() != "bearer" or not same:
            raise _Refused(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong")

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        if int(length) > _MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has {length} bytes, {_MAX_BODY} are allowed")
        return self.rfile.read(int(length))

    def _body(self) -> dict[str, Any]:
        body = self._read_body()
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not valid JSON") from error
        if not isinstance(content, dict) or not content:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not a JSON object of names and values")
        return content

    def _send_json(self, status: HTTPStatus, content: Mapping[str, object]) -> None:
        headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
        self._send(status, json.dumps(content, indent=2).encode() + b"\n", "application/json", headers)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        lengths = {"Content-Type": content_type, "Content-Length": str(len(body))}
        for name, value in {**lengths, **_SAFETY, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log a request as the node logs: no header, no body."""
        log.debug("web request", extra=fields(caller=self.client_address[0], request=" ".join(map(str, args))))
