"""Threads that open connections: a pool's first ones, and later those that callers wait for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgpool_rs import _core
from pgpool_rs._threads import start

_Pool = _core.AbstractConnectionPool


def in_parallel(pool: Any, number: int, workers: int) -> None:
    """Open this many connections in `workers` threads. Wait for all; raise the first error if there was one."""
    workers = min(workers, max(number, 1))
    with ThreadPoolExecutor(workers, thread_name_prefix=_thread_name(pool)) as executor:
        opening = [executor.submit(pool._connect) for _ in range(number)]
        try:
            for connection in opening:
                connection.result()
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise


def start_worker(pool: Any) -> bool:
    """Start a thread that opens connections as long as callers wait for them. Return whether it has begun."""
    try:
        # A daemon, since a connect that hangs must not keep the process from ending.
        start(threading.Thread(target=_Pool._pgpool_work, args=(pool,), name=_thread_name(pool), daemon=True))
    except (RuntimeError, MemoryError, OSError):  # too many threads, no memory or stack, or the end of the process
        return False
    return True


def _thread_name(pool: Any) -> str:
    return f"pgpool_rs {_Pool._pgpool_name(pool)} opening"
