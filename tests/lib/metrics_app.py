"""A web service whose pool Prometheus watches, in one process or in several: also gunicorn's configuration for it.

`APP_DSN` is the address of the database. `/query` uses a connection; `/busy` finds no free one; `/metrics` shows the
figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from pgpool_rs import PoolTimeout, ThreadedConnectionPool
from pgpool_rs.prometheus import instrument
from tests.lib.statements import execute

MOST = 4

pool = ThreadedConnectionPool(1, MOST, os.environ["APP_DSN"], name="web", timeout=10, max_idle=1)
instrument(interval=0.1)


def child_exit(_server: object, worker: Any) -> None:
    """Let gunicorn forget what a worker had open when it ended."""
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def figures() -> bytes:
    """Give the figures of all processes."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def use() -> bytes:
    """Use a connection; tell which process did."""
    with pool.connection() as connection:
        execute(connection, "select 1 from pg_sleep(0.005)")
    return str(os.getpid()).encode()


def crowd() -> bytes:
    """Wait in vain while all connections are lent."""
    lent = [pool.getconn() for _ in range(MOST)]
    with suppress(PoolTimeout):
        pool.getconn(timeout=0.01)
    for number, connection in enumerate(lent):
        pool.putconn(connection, close=number == 0)
    return b""


PAGES: dict[str, Callable[[], bytes]] = {"/metrics": figures, "/query": use, "/busy": crowd}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request."""
    body = PAGES[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "text/plain; version=0.0.4"), ("Content-Length", str(len(body)))])
    return [body]
