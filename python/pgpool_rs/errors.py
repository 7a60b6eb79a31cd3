"""The exceptions that a pool raises, all of them below `psycopg2.pool.PoolError`."""

from psycopg2.pool import PoolError

__all__ = ["PoolClosed", "PoolError", "PoolExhausted", "PoolTimeout", "TooManyRequests"]


class PoolClosed(PoolError):
    """The pool is closed, or was closed while its caller waited."""


class PoolExhausted(PoolError):
    """Every connection is lent and no more may be opened."""


class PoolTimeout(PoolExhausted):
    """No connection came free within `timeout` seconds; the message says what was going on meanwhile."""


class TooManyRequests(PoolExhausted):
    """As many callers wait for a connection as `max_waiting` allows."""
