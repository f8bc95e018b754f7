"""The queue: Celery on Redis with one task, ``cervinode.execute(order_json)``.

The queue carries orders and nothing else. What is true stands in the ledger (what was ordered) and in the study store (what came out),
so the queue may lose everything, or deliver an order twice, and nothing is lost or done twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from node.jobs import JobOrder
from pipelines.errors import TransportError

TASK = "cervinode.execute"
_QUEUE = "cervinode"
_CONNECT_TIMEOUT_S = 3
_UNIX_SCHEME = "redis+socket://"


def make_celery(broker_url: str, *, job_timeout_s: int) -> Celery:
    """Return the Celery application.

    An order is acknowledged after the work (``acks_late``), so that one whose worker dies goes to another. ``visibility_timeout`` exceeds
    the longest job, or Redis would hand a running one out again.
    """
    app = Celery("cervinode", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=_QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=job_timeout_s,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=_CONNECT_TIMEOUT_S,
        broker_transport_options={"visibility_timeout": 2 * job_timeout_s + 60, "socket_connect_timeout": _CONNECT_TIMEOUT_S},
    )
    return app


class JobQueue:
    """The node's end of the queue."""

    def __init__(self, broker_url: str, *, job_timeout_s: int) -> None:
        self._celery = make_celery(broker_url, job_timeout_s=job_timeout_s)
        self._redis: Any = redis.Redis.from_url(
            _redis_url(broker_url), socket_connect_timeout=_CONNECT_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )

    def put(self, order: JobOrder) -> None:
        """Queue an order.

        Raises
        ------
        TransportError
            The broker cannot be reached.
        """
        try:
            self._celery.send_task(TASK, args=[order.model_dump_json()], task_id=order.job_id, retry=False)
        except (OperationalError, redis.RedisError, OSError) as error:
            raise TransportError(f"the queue cannot be reached: {error}") from error

    def waiting(self) -> set[str]:
        """Return the ids of the jobs that no worker has taken yet.

        Raises
        ------
        TransportError
            The broker cannot be reached.
        """
        try:
            messages = self._redis.lrange(_QUEUE, 0, -1)
        except (redis.RedisError, OSError) as error:
            raise TransportError(f"the queue cannot be reached: {error}") from error
        return {json.loads(message)["headers"]["id"] for message in messages}

    def close(self) -> None:
        """Close the connections."""
        self._celery.close()
        self._redis.close()


def _redis_url(broker_url: str) -> str:
    """Return the URL as redis-py wants it: kombu calls unix sockets ``redis+socket://``, redis-py ``unix://``."""
    return broker_url.replace(_UNIX_SCHEME, "unix://", 1)


def serve_worker(broker_url: str, execute: Callable[[JobOrder], object], *, job_timeout_s: int) -> None:
    """Run orders until the process is told to stop (SIGTERM: after the job in hand). One job at a time, in a child process of its own."""
    app = make_celery(broker_url, job_timeout_s=job_timeout_s)

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def _execute(order_json: str) -> None:
        execute(JobOrder.model_validate_json(order_json))

    app.worker_main(
        ["--quiet", "worker", "--pool=prefork", "--concurrency=1", "--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    )
