"""Use pools in every way, again and again, and end. Anything that is not freed by then is a leak.

dev/sanitize.py runs it under LeakSanitizer.
"""

from __future__ import annotations

import contextlib
import gc
from typing import Any

from pgpool_rs.pool import PoolError, SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer

POOLS = 50


def use(pool: Any) -> None:
    """Borrow, return, refuse, report and close, with keys and without."""
    first, second = pool.getconn(), pool.getconn(("a", "key"))
    pool.putconn(first)
    pool.putconn(second, key=("a", "key"), close=True)
    with contextlib.suppress(PoolError):
        pool.putconn(object())
    with pool.connection():
        pool.loans()
    with contextlib.suppress(PoolError):
        for _ in range(pool.maxconn + 1):
            pool.getconn()
    pool.maintain()
    pool.check()
    pool.get_stats()
    pool.closeall()


with FakeServer().installed():
    for _ in range(POOLS):
        use(SimpleConnectionPool(1, 3, max_lifetime=60.0, leak_after=60.0))
        use(ThreadedConnectionPool(1, 3, reclaim=True))
gc.collect()
