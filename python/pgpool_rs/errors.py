"""The exceptions that a pool raises, all of them below `psycopg2.pool.PoolError`."""

from psycopg2.pool import PoolError

from pgpool_rs._core import once

__all__ = ["PoolClosed", "PoolError", "PoolExhausted", "PoolTimeout", "TooManyRequests"]


@once
class PoolClosed(PoolError):
    """The pool is closed, or was closed while its caller waited."""


@once
class PoolExhausted(PoolError):
    """Every connection is lent and no more may be opened."""


@once
class PoolTimeout(PoolExhausted):
    """No connection came free within `timeout` seconds; the message says what was going on meanwhile."""


@once
class TooManyRequests(PoolExhausted):
    """As many callers wait for a connection as `max_waiting` allows."""
