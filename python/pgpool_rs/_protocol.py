"""What the pool asks of a connection, for a `connect=` that opens other connections than psycopg2's."""

from __future__ import annotations

from typing import Any, Protocol


class TransactionInfo(Protocol):
    """The `info` of a connection."""

    @property
    def transaction_status(self) -> int:
        """Libpq's account of the transaction: 0 idle, 1 active, 2 in a transaction, 3 in a failed one, 4 broken."""


class PooledConnection(Protocol):
    """What a callable given as `connect=`, or an override of `_connect`, may return.

    psycopg2's own connections are such, and so are wrappers that pass these on.
    <https://pgpool-rs.readthedocs.io/en/latest/connections.html> says what the pool does with more than this.
    """

    @property
    def closed(self) -> int:
        """0 while it is open, 1 once it is closed, 2 if it was found broken."""

    @property
    def info(self) -> TransactionInfo:
        """Where the pool reads `transaction_status`."""

    def commit(self) -> object:
        """Commit; called at the end of a `connection()` block."""

    def rollback(self) -> object:
        """Roll back; called on the return of a connection that is in a transaction, and when a block raises."""

    def close(self) -> object:
        """Close; called once by the pool, or again by `closeall()`."""


class Limit(Protocol):
    """What a pool asks of its `limit=`: places, one for each connection that is open, or being opened or closed."""

    def _attach(self, pool: Any, /) -> object:
        """Know a pool that is made with the limit, or raise."""

    def _take(self, pool: Any, /) -> bool:
        """Take a place, if one is free; never wait. If it raises, it has taken none."""

    def _give(self, pool: Any, count: int, /) -> object:
        """Free so many places of a pool. If it raises, it has freed none, and the pool calls it again."""

    def _wait(self, pool: Any, /) -> object:
        """Seek places for the waiters of a pool from now on, as long as `pool._pgpool_wanted()` tells of some."""

    def _holders(self) -> str:
        """Name the pools that hold places, and how many each holds."""
