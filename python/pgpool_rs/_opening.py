"""Threads that open connections: a pool's first ones, and later those that callers wait for."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from pgpool_rs import _core
from pgpool_rs._threads import CANNOT_START, start

if TYPE_CHECKING:
    from collections.abc import Callable

_Pool = _core.AbstractConnectionPool


def in_parallel(pool: Any, number: int, workers: int) -> None:
    """Open this many connections in `workers` threads, and in this one as well if not all of them can be started.

    Wait for all; raise the first error if there was one.
    """
    workers = min(workers, number)
    turns = itertools.count()  # one step of it is atomic
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not failed and next(turns) < number:
                pool._connect()
        except BaseException as error:  # noqa: BLE001  (this thread raises it)
            failed.append(error)

    threads = [_thread(pool, work) for _ in range(workers)]
    try:
        if not all(map(_begins, threads)):
            work()
        _wait_for(threads)
    except BaseException as error:
        failed.append(error)
        _wait_for(threads)
        raise
    if failed:
        raise failed[0]


def start_worker(pool: Any) -> bool:
    """Start a thread that opens connections as long as callers wait for them. Return whether it has begun."""
    return _begins(_thread(pool, partial(_Pool._pgpool_work, pool)))


def _begins(thread: threading.Thread) -> bool:
    try:
        start(thread)
    except CANNOT_START:
        return False
    return True


def _wait_for(threads: list[threading.Thread]) -> None:
    for thread in threads:
        if thread.is_alive():
            thread.join()


def _thread(pool: Any, work: Callable[[], None]) -> threading.Thread:
    # A daemon, since a connect that hangs must not keep the process from ending.
    return threading.Thread(target=work, name=f"pgpool_rs {_Pool._pgpool_name(pool)} opening", daemon=True)
