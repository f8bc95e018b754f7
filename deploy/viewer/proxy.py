"""One origin for the browser: OHIF's files at ``/``, Orthanc's DICOMweb at ``/dicom-web``, read only, on loopback."""

from __future__ import annotations

import http.client
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
DICOMWEB = "/dicom-web"
_CONFIG = Path(__file__).with_name("app-config.js")
_FORWARDED = ("Accept", "Host")  # Orthanc writes links with the host that it was asked by
_HEADERS = {
    # OHIF renders volumes in shared memory, which browsers allow to cross-origin isolated pages only.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Nothing leaves this machine, whatever the viewer's packages would like to fetch.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:",
}


def make_server(ohif: Path, orthanc_port: int, *, port: int) -> ThreadingHTTPServer:
    """Return the proxy, bound and not yet serving; ``port`` 0 takes a free one.

    Raises
    ------
    OSError
        The port is taken.
    """
    server = ThreadingHTTPServer((LOOPBACK, port), partial(_Handler, orthanc_port, directory=str(ohif)))
    server.daemon_threads = True
    return server


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, orthanc_port: int, *args: object, directory: str) -> None:
        self._orthanc_port = orthanc_port
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer from Orthanc or from OHIF's files."""
        path = urlsplit(self.path).path
        if not self._is_local():
            self._answer(403, "text/plain", b"this viewer answers to this machine's own browser only\n")
        elif path.startswith(f"{DICOMWEB}/"):
            self._forward()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", _CONFIG.read_bytes())
        else:
            if not Path(self.translate_path(path)).is_file() and not Path(path).suffix:
                self.path = "/index.html"  # a route of the single-page application
            super().do_GET()

    def do_HEAD(self) -> None:
        """Refuse: the viewer never asks."""
        self.send_error(405)

    def _is_local(self) -> bool:
        """Return whether the page was asked for by a name of this machine; a foreign name that leads here is an attack."""
        return urlsplit(f"//{self.headers.get('Host', '')}").hostname in (LOOPBACK, "localhost")

    def _forward(self) -> None:
        upstream = http.client.HTTPConnection(LOOPBACK, self._orthanc_port, timeout=60)
        try:
            path = self.path.replace("%2C", ",")  # Orthanc's DICOMweb plugin does not decode the lists of includefield
            upstream.request("GET", path, headers={k: v for k in _FORWARDED if (v := self.headers.get(k))})
            response = upstream.getresponse()
            body, kind = response.read(), response.getheader("Content-Type", "application/octet-stream")
            self._answer(response.status, kind, body)
        except (OSError, http.client.HTTPException) as error:
            self._answer(502, "application/json", json.dumps({"error": f"Orthanc does not answer: {error}"}).encode())
        finally:
            upstream.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")  # no patient's data on the browser's disk
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Add the headers that every answer has."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: paths hold UIDs of patients' studies."""
