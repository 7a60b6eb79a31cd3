"""psycopg2's own pool module, and what puts ours in its place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2 import pool as original
    from psycopg2.pool import PoolError
else:
    # Where ours has its place already, it knows the original.
    original = getattr(psycopg2.pool, "_psycopg2_pool", psycopg2.pool)
    PoolError = original.PoolError

__all__ = ["PoolError", "original", "replace_psycopg2_pool"]


def replace_psycopg2_pool() -> Callable[[], None]:
    """Put `pgpool_rs.pool` in the place of the module `psycopg2.pool`, for this process.

    All four forms of import give it from then on: `import psycopg2.pool`, `from psycopg2 import pool`,
    `from psycopg2.pool import ThreadedConnectionPool`, and `psycopg2.pool` as an attribute. What has been imported
    before stays what it was, so call it before the library that imports psycopg2.pool by itself.

    :return: a function that puts psycopg2's own module back.
    """
    from pgpool_rs import pool  # noqa: PLC0415  (it imports this module)

    def put(pool_module: Any) -> None:
        sys.modules["psycopg2.pool"] = pool_module
        psycopg2.pool = pool_module

    put(pool)
    return lambda: put(original)
