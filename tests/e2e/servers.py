"""Foreign servers and our own, as processes on loopback, ended by id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.foreign import need

ORTHANC = Path("/usr/sbin/Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STORESCU = Path("/usr/bin/storescu")  # by its path: pynetdicom puts a program of the same name into the venv
REDIS = Path("/usr/bin/redis-server")
CERVINODE = Path(sys.executable).parent / "cervinode"


def require(*programs: Path) -> None:
    """Skip the test where a program is not installed (:mod:`tests.foreign`)."""
    for program in programs:
        need(program)


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Return the first true value of ``condition``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def accepts(port: int) -> bool:
    """Return whether somebody listens."""
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own; end the whole group at the end."""
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, start_new_session=True)
        try:
            yield child
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    for how, patience in ((signal.SIGTERM, 40), (signal.SIGKILL, 5)):
        try:
            os.killpg(child.pid, how)
        except ProcessLookupError:
            return
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


class Orthanc:
    """Debian's Orthanc with DICOMweb, in memory of a folder, known modalities only."""

    def __init__(self, folder: Path, modalities: dict[str, int]) -> None:
        self.aet, self.port, self.http = "ORTHANC", free_port(), free_port()
        self._config = folder / "orthanc.json"
        self._config.write_text(
            json.dumps(
                {
                    "Name": "test",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [str(DICOMWEB)],
                    "DicomAet": self.aet,
                    "DicomPort": self.port,
                    "HttpPort": self.http,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomCheckModalityHost": True,  # it binds every address; only these callers get in
                    "DicomAlwaysAllowStore": False,
                    "DefaultEncoding": "Utf8",
                    "DicomModalities": {aet: [aet, "127.0.0.1", port] for aet, port in modalities.items()},
                }
            )
        )

    def command(self) -> list[str]:
        """Return how it is started."""
        return [str(ORTHANC), str(self._config)]

    def get(self, path: str) -> Any:
        """GET a REST path as JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=20) as answer:
            return json.load(answer)

    def file(self, instance: str) -> bytes:
        """Return the DICOM file of an instance."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/instances/{instance}/file", timeout=20) as answer:
            return bytes(answer.read())

    def results(self) -> dict[str, list[str]]:
        """Return Orthanc's instance ids by SOP class, of all series whose description begins with ``[RUO]``."""
        found: dict[str, list[str]] = {}
        for series in self.get("/series?expand"):
            if series["MainDicomTags"].get("SeriesDescription", "").startswith("[RUO]"):
                for instance in series["Instances"]:
                    found.setdefault(self.sop_class(instance), []).append(instance)
        return found

    def sop_class(self, instance: str) -> str:
        """Return the SOP Class UID of an instance."""
        return str(self.get(f"/instances/{instance}/simplified-tags")["SOPClassUID"])


@contextmanager
def orthanc(folder: Path, modalities: dict[str, int]) -> Iterator[Orthanc]:
    """Run Orthanc."""
    require(ORTHANC, DICOMWEB)
    folder.mkdir(parents=True, exist_ok=True)
    server = Orthanc(folder, modalities)
    with process(server.command(), folder / "orthanc.log"):
        wait_until(lambda: accepts(server.http) and accepts(server.port), seconds=30, what="Orthanc listens")
        yield server


def write_config(folder: Path, **tables: Any) -> Path:
    """Write ``node.toml`` from tables (dict) and arrays of tables (list of dict)."""
    lines: list[str] = []
    for name, value in tables.items():
        for table in value if isinstance(value, list) else [value]:
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            lines += [f"{key.rstrip('_')} = {json.dumps(v)}" for key, v in table.items()]
    path = folder / "node.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def node(config: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``cervinode serve`` until it listens."""
    with process([str(CERVINODE), "serve", "--config", str(config)], config.parent / "node.log") as child:
        wait_until(lambda: accepts(port), seconds=30, what=f"the node listens; see {config.parent / 'node.log'}")
        yield child


def storescu(folder: Path, port: int, *, calling: str, called: str = "CERVINODE") -> None:
    """Send every file below a folder with dcmtk."""
    require(STORESCU)
    command = [str(STORESCU), "-R", "+sd", "+r", "-aet", calling, "-aec", called, "127.0.0.1", str(port), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
