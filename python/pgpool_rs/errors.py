"""The exceptions that a pool raises, all of them below `psycopg2.pool.PoolError`.

Each tells of the pool at that moment: `pool_name`; how many connections were `lent` and being opened (`opening`); how
many callers waited (`waiting`); and for how many seconds this call had `waited`. From Python 3.11 on, a note puts it
into words.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import OperationalError

from pgpool_rs._core import once
from pgpool_rs._psycopg2_pool import PoolError

__all__ = ["PoolClosed", "PoolError", "PoolExhausted", "PoolTimeout", "TooManyRequests"]


@once
class _Told:
    """What is known of the pool; None where a program makes the exception."""

    pool_name: str | None = None
    lent: int | None = None
    opening: int | None = None
    waiting: int | None = None
    waited: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # psycopg2's exceptions forget their attributes where they are pickled or copied.
        return _remake, (type(self), self.args, vars(self))  # type: ignore[attr-defined]


def _remake(error_class: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    error = error_class.__new__(error_class, *args)
    vars(error).update(attributes)
    return error


@once
class PoolClosed(_Told, PoolError):
    """The pool is closed, or was closed while its caller waited."""


@once
class PoolExhausted(_Told, PoolError):
    """Every connection is lent and no more may be opened."""


@once
class PoolTimeout(PoolExhausted, OperationalError):
    """No connection came free within `timeout` seconds; the message says what was going on meanwhile."""


@once
class TooManyRequests(PoolExhausted, OperationalError):
    """As many callers wait for a connection as `max_waiting` allows."""
