"""psycopg2's own pool module, and the function that replaces it by ours."""

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
    # If our module has replaced it already, ours knows the original.
    original = getattr(psycopg2.pool, "_psycopg2_pool", psycopg2.pool)
    PoolError = original.PoolError

__all__ = ["PoolError", "original", "replace_psycopg2_pool"]


def replace_psycopg2_pool() -> Callable[[], None]:
    """Replace the module `psycopg2.pool` by `pgpool_rs.pool` in this process.

    From then on, all of these give ours: `import psycopg2.pool`, `from psycopg2 import pool`,
    `from psycopg2.pool import ThreadedConnectionPool`, and the attribute `psycopg2.pool`. Names that
    a program imported before do not change, so call it before you import a library that imports psycopg2.pool.

    :return: a function that puts psycopg2's own module back.
    """
    from pgpool_rs import pool  # noqa: PLC0415  (it imports this module)

    def put(pool_module: Any) -> None:
        sys.modules["psycopg2.pool"] = pool_module
        psycopg2.pool = pool_module

    put(pool)
    return lambda: put(original)
