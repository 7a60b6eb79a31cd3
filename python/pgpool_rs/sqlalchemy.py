"""A pool for SQLAlchemy's engines: see <https://pgpool-rs.readthedocs.io/en/latest/sqlalchemy.html>."""

from __future__ import annotations

import dataclasses
import os
import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from psycopg2 import InterfaceError
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.pool.base import _ConnectionRecord

from pgpool_rs._options import Options
from pgpool_rs.errors import PoolExhausted
from pgpool_rs.pool import ThreadedConnectionPool

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PgPool"]

# An argument of create_engine or an event does what these options do.
_SQLALCHEMYS = {"check", "close_returns", "configure", "connect", "open", "order", "reclaim", "reset", "timeout"}
_OPTIONS = {"minconn", *(option.name for option in dataclasses.fields(Options))} - _SQLALCHEMYS


class _Info(dict[Any, Any]):
    # SQLAlchemy ends transactions before it returns a record, in the way that pool_reset_on_return says.
    transaction_status = TRANSACTION_STATUS_IDLE


class _Record(_ConnectionRecord):
    """SQLAlchemy's place in a pool, with what the ledger asks of a connection."""

    closed = False
    info = cached_property(lambda _: _Info())
    # For check_socket, which passes a record whose connection lacks these methods, or that has no connection.
    fileno = property(lambda self: self.dbapi_connection.fileno)
    poll = property(lambda self: self.dbapi_connection.poll)

    def _checkin_failed(self, err: BaseException, _fairy_was_created: bool = True) -> None:
        # The pool drops a record that could not reconnect, so that the next connect obeys reconnect_backoff.
        self.closed = self.dbapi_connection is None
        super()._checkin_failed(err, _fairy_was_created)


_records = weakref.WeakSet[_Record]()


class _ParentsConnection:
    """What the child of a fork has in the place of a connection that its parent has borrowed."""

    closed = True  # So SQLAlchemy takes the error for a disconnect.
    rollback = commit = close = staticmethod(lambda: None)

    def cursor(self, *_args: Any, **_kwargs: Any) -> Any:
        raise InterfaceError("connection already closed: it belongs to the parent process")


def _leave_to_parent() -> None:
    connection: Any = _ParentsConnection()
    for record in list(_records):
        for holder in (record, record.fairy_ref and record.fairy_ref()):
            if holder:
                holder.dbapi_connection = connection


os.register_at_fork(after_in_child=_leave_to_parent)


class PgPool(QueuePool):
    """Pool psycopg2's connections for an engine. It has the arguments, methods and events of SQLAlchemy's QueuePool.

    `pgpool` is the pool that lends them, for operators: `engine.pool.pgpool.get_stats()`.
    """

    _options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def with_options(cls, **options: Any) -> type[Self]:
        """Return a class for create_engine's `poolclass` whose pools have these options of ThreadedConnectionPool.

        :raises TypeError: it has no such option, or an argument of create_engine or an event does what the option does.
        """
        if unknown := options.keys() - _OPTIONS:
            raise TypeError(f"PgPool takes {', '.join(sorted(_OPTIONS))}, and not {', '.join(sorted(unknown))}")
        return type(cls.__name__, (cls,), {"_options": {**cls._options, **options}})

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of QueuePool, and connect nothing."""
        if pool_size < 0:
            raise ValueError(f"pool_size must be 0 (no limit) or more, not {pool_size}")
        # QueuePool keeps the arguments, with a queue that stays empty.
        super().__init__(creator, pool_size, max_overflow, timeout, use_lifo, **kwargs)  # type: ignore[arg-type]
        options: dict[str, Any] = {"name": self._orig_logging_name, "order": "lifo" if use_lifo else "fifo"}
        options |= {"max_idle": 0 if pool_size else None, "reconnect_backoff": (0.1, 2), **self._options}
        self._minconn = options.pop("minconn", pool_size)
        maxconn = pool_size + self._max_overflow if self._max_overflow >= 0 else 2**31 - 1
        # The pool must not keep this object alive: after dispose() its count of references frees it.
        open_weakly = weakref.WeakMethod(self._open)
        self.pgpool = ThreadedConnectionPool(0, maxconn, connect=lambda: open_weakly()(), timeout=timeout, **options)  # type: ignore[misc]  # noqa: PLW0108

    def _open(self) -> Any:  # commit() and rollback() of a record are not called
        _records.add(record := _Record(self))
        # Not before: housekeeping would open connections, which QueuePool does for a caller alone.
        if self.pgpool.minconn != self._minconn:
            self.pgpool.resize(self._minconn, self.pgpool.maxconn)
        return record

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return self.pgpool.getconn()  # type: ignore[return-value]
        except PoolExhausted as error:
            text = f"PgPool limit of size {self.size()} overflow {self._max_overflow} reached: {error}"
            raise exc.TimeoutError(text, code="3o7r") from error

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self.pgpool.putconn(record)  # type: ignore[arg-type]

    def dispose(self) -> None:
        """Close the idle connections now, and each lent one when it comes back."""
        self.pgpool.resize(0, self.pgpool.maxconn)
        self.pgpool.drain()
        self.logger.info("Pool disposed. %s", self.status())

    def checkedin(self) -> int:
        """Return how many connections are idle."""
        return self.pgpool.get_stats()["pool_available"]

    def checkedout(self) -> int:
        """Return how many connections are not idle."""
        return self.pgpool.get_stats()["pool_size"] - self.checkedin()

    def overflow(self) -> int:
        """Return by how many connections there are more than `pool_size`, or fewer (negative); 0 without a limit."""
        return self.pgpool.get_stats()["pool_size"] - self.size() if self.size() else 0
