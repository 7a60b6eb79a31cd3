"""Open a pool's first connections in several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgpool_rs import _core


def in_parallel(pool: Any, number: int, workers: int) -> None:
    """Open this many connections in `workers` threads. Wait for all; raise the first error if there was one."""
    workers = min(workers, max(number, 1))
    with ThreadPoolExecutor(
        workers, thread_name_prefix=f"pgpool_rs {_core.AbstractConnectionPool._pgpool_name(pool)} opening"
    ) as executor:
        opening = [executor.submit(pool._connect) for _ in range(number)]
        try:
            for connection in opening:
                connection.result()
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise
