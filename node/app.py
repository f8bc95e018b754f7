"""The node: the one place where its parts are put together, started, watched and stopped."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

from node.audit import AuditEvent, record
from node.completeness import Completer
from node.config import Settings, WebTable, to_environment
from node.delivery import Deliverer
from node.dicom.scp import Listener
from node.dispatch import Dispatcher, carry_out_requests
from node.intake import Intake
from node.jobs import OVERVIEW
from node.log import fields
from node.queues.celery import JobQueue
from node.queues.redis import EmbeddedRedis
from node.storage.claims import Claims
from node.storage.files import StudyStore
from node.storage.ledger import FILE_NAME, Ledger
from node.web.server import WebServer
from pipelines.errors import CervinodeError, ConfigError, TransportError
from pipelines.systems import catalogue
from structured_reports.canvas import describe_missing_font

_BEAT_S = 0.2  # pause of the loops
_RESTART_S = 2.0  # pause before a worker or Redis that ended is started again
_REPEAT_S = 30.0  # pause before a study is tried again whose planning failed unexpectedly
_WORKER_STOP_S = 20.0  # for the job in hand; after that the worker is killed and the job runs again at the next start

log = logging.getLogger(__name__)


class App:
    """A node. ``start`` returns when it listens; ``stop`` when everything it started has ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        specs = catalogue(settings.node.systems_path)
        unknown = sorted({s for route in settings.routes for s in route.systems} - specs.keys())
        if unknown:
            raise ConfigError(f"[[routes]]: 'systems' names {unknown[0]!r}; known are {', '.join(sorted(specs))}")
        if OVERVIEW in specs:
            raise ConfigError(f"[node] systems_path: a system cannot be called {OVERVIEW!r}, which is the page on all of them")
        self.store = StudyStore(settings.node.storage_root)
        try:
            self.store.prepare()
        except OSError as error:
            raise ConfigError(f"[node] storage_root: {settings.node.storage_root} cannot be used ({error.strerror})") from error
        self.ledger = Ledger(settings.node.storage_root / FILE_NAME)
        self.claims = Claims(self.store.running, heartbeat_s=settings.worker.heartbeat_s)
        self.redis = None if settings.broker.url else EmbeddedRedis(settings.node.storage_root / "redis")
        self._broker_url = self.redis.url if self.redis else settings.broker.url
        self._queue = JobQueue(self._broker_url, job_timeout_s=settings.worker.job_timeout_s)
        self._listener = Listener(settings, store=self.store, ledger=self.ledger)
        self._intake = Intake(settings, store=self.store, ledger=self.ledger, specs=specs)
        self._completer = Completer(settings, ledger=self.ledger)
        self._web = WebServer(settings.web, ledger=self.ledger, specs=specs)
        self._refreshed = False  # the destinations in use were asked
        self._deliverer = Deliverer(settings, store=self.store, ledger=self.ledger)
        self._dispatcher = Dispatcher(
            ledger=self.ledger,
            store=self.store,
            claims=self.claims,
            queue=self._queue,
            max_attempts=settings.worker.max_attempts,
            ae_title=settings.node.ae_title,
        )
        self.workers: list[subprocess.Popen[bytes]] = []
        self._not_before: dict[str, float] = {}
        self._lock: IO[bytes] | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """Return the TCP port of the listener."""
        return self._listener.port

    @property
    def web_port(self) -> int:
        """Return the TCP port of the HTTP interface, 0 where there is none."""
        return self._web.port

    def start(self) -> None:
        """Start everything.

        Raises
        ------
        ConfigError
            A port is taken, another node runs on the same storage, or a destination not used before would show a radiologist nothing.
        TransportError
            The embedded Redis does not start.
        """
        self._lock = self._take_storage()
        try:
            self._deliverer.destinations.activate()
            self.store.discard_leftovers()
            if self.redis:
                self.redis.start()
            self.workers = [self._start_worker() for _ in range(self.settings.worker.embedded)]
            self._listener.start()
            self._web.start()
        except CervinodeError:
            self.stop()
            raise
        self._record(AuditEvent.NODE_STARTED)
        for name, step in (("supervise", self._supervise), ("deliver", self._deliver)):
            thread = threading.Thread(target=self._loop, args=(step,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        if words := describe_missing_font(self.settings.node.language):
            log.warning("captures not in the language of the reports", extra=fields(reason=words))
        log.info("node started", extra=fields(ae_title=self.settings.node.ae_title, host=self.settings.node.host, port=self.port))

    def _take_storage(self) -> IO[bytes]:
        """Lock ``storage_root``; the lock goes with the process, however that ends."""
        lock = (self.settings.node.storage_root / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigError(f"[node] storage_root: another node runs on {self.settings.node.storage_root}") from None
        return lock

    def stop(self) -> None:
        """Stop listening, let what is in hand end, and stop workers and Redis."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._listener.stop()
        self._web.stop()
        for thread in self._threads:
            thread.join()
        self._completer.stop()
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(_WORKER_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        self._queue.close()
        if self.redis and self._lock:  # without the lock it is another node's
            self.redis.stop()
        if self._threads:
            self._record(AuditEvent.NODE_STOPPED)
        self.ledger.close()
        if self._lock:
            self._lock.close()
        log.info("node stopped")

    def run_until(self, wanted: threading.Event) -> None:
        """Run until somebody sets ``wanted``."""
        self.start()
        try:
            wanted.wait()
        finally:
            self.stop()

    def _loop(self, step: Callable[[float], None]) -> None:
        while not self._stopping.wait(_BEAT_S):
            self._attempt(step.__name__, lambda: step(time.monotonic()))

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        """Do something that must not stop the rest of the node; after a failure it waits a while before the next try."""
        if time.monotonic() < self._not_before.get(name, 0.0):
            return
        try:
            action()
        except TransportError as error:
            self._not_before[name] = time.monotonic() + _RESTART_S
            log.warning("not possible now", extra=fields(step=name, reason=str(error)))
        except Exception:
            self._not_before[name] = time.monotonic() + _REPEAT_S
            log.exception("step failed", extra=fields(step=name))

    def _supervise(self, now: float) -> None:
        self._attempt("processes", self._restart_what_ended)
        self._attempt("completeness", lambda: self._completer.run(time.time()))
        for study in self._intake.due(time.time()):
            self._attempt(f"plan {study.study_instance_uid}", lambda study=study: self._intake.plan(study))  # type: ignore[misc]
        for study in self.ledger.studies_with_new_values():
            self._attempt(f"values {study.study_instance_uid}", lambda study=study: self._intake.plan_values(study))  # type: ignore[misc]
        for job in self._intake.overdue(time.time()):
            self._attempt(f"release {job.order.job_id}", lambda job=job: self._intake.release(job))  # type: ignore[misc]
        self._attempt("requests", lambda: carry_out_requests(store=self.store, ledger=self.ledger, intake=self._intake))
        self._attempt("dispatch", lambda: self._dispatcher.run(now))
        for uid in self.ledger.studies_with_new_results():
            self._attempt(f"overview {uid}", lambda uid=uid: self._intake.plan_overview(uid))  # type: ignore[misc]

    def _deliver(self, now: float) -> None:
        if not self._refreshed:
            self._refreshed = True
            self._attempt("destinations", self._deliverer.destinations.refresh)
        self._deliverer.run(now)

    def _restart_what_ended(self) -> None:
        if self.redis and not self.redis.is_running():
            log.error("the embedded Redis ended; it is started again")
            self.redis.start()
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                log.error("a worker ended; it is started again", extra=fields(exit_status=worker.returncode))
                self.workers[index] = self._start_worker()
                self._not_before["processes"] = time.monotonic() + _RESTART_S

    def _start_worker(self) -> subprocess.Popen[bytes]:
        broker = self.settings.broker.model_copy(update={"url": self._broker_url})
        environment = to_environment(self.settings.model_copy(update={"broker": broker, "web": WebTable()}))  # it needs no token
        command = [sys.executable, "-m", "node.cli", "worker", "--with-parent"]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)

    def _record(self, event: AuditEvent) -> None:
        record(self.ledger, event, actor=self.settings.node.ae_title)


def build(settings: Settings) -> App:
    """Return a node that is ready to start.

    Raises
    ------
    ConfigError
        A setting names something that does not exist.
    """
    return App(settings)
