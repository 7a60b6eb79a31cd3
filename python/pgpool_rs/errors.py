"""The exceptions that a pool raises. All are subclasses of `psycopg2.pool.PoolError`.

Each has the state of the pool at that moment as attributes: `pool_name`; how many connections were `lent` or were being
opened (`opening`); how many callers were `waiting`; and how many seconds this call had `waited`. From Python 3.11 on, a
note says the same in words.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import OperationalError

from pgpool_rs._core import once
from pgpool_rs._psycopg2_pool import PoolError

__all__ = ["PoolClosed", "PoolError", "PoolExhausted", "PoolTimeout", "TooManyRequests"]


@once
class _Told:
    """The state of the pool; None where a program makes the exception itself."""

    pool_name: str | None = None
    lent: int | None = None
    opening: int | None = None
    waiting: int | None = None
    waited: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # psycopg2's exceptions lose their attributes when they are pickled or copied.
        return _remake, (type(self), self.args, vars(self))  # type: ignore[attr-defined]


def _remake(error_class: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    error = error_class.__new__(error_class, *args)
    vars(error).update(attributes)
    return error


@once
class PoolClosed(_Told, PoolError):
    """The pool is closed, was closed while the caller waited, or is not yet open."""


@once
class PoolExhausted(_Told, PoolError):
    """All `maxconn` connections are in use."""


@once
class PoolTimeout(PoolExhausted, OperationalError):
    """No connection came free within `timeout` seconds. The message says what the pool did in that time."""


@once
class TooManyRequests(PoolExhausted, OperationalError):
    """`max_waiting` callers are already waiting for a connection."""
