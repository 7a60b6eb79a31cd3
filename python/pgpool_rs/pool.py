"""The pools: psycopg2.pool's classes under psycopg2.pool's names.

What happens in a call is decided in Rust. Here stand the names, the options, and the attributes that other people's
code expects to find.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg2.pool
from psycopg2 import extensions as _ext  # noqa: F401  (psycopg2.pool has the name, and tests patch it there)
from psycopg2.pool import PoolError

from pgpool_rs import _core
from pgpool_rs._books import Books
from pgpool_rs.errors import PoolClosed, PoolExhausted, PoolTimeout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from _typeshed import ConvertibleToInt

    from pgpool_rs._books import Idle, Rused, Used

__all__ = [
    "AbstractConnectionPool",
    "PoolClosed",
    "PoolError",
    "PoolExhausted",
    "PoolTimeout",
    "SimpleConnectionPool",
    "ThreadedConnectionPool",
]

# The hooks that psycopg2.pool calls on every loan. Whether one is overridden is found out beforehand, so that a
# pool without hooks does not look for them on every loan.
_HOOKS_OF_A_LOAN = frozenset({"_getkey", "_getconn", "_putconn"})


@_core.front_door
class AbstractConnectionPool(_core.AbstractConnectionPool, psycopg2.pool.AbstractConnectionPool):
    """Keep PostgreSQL connections open and lend them; the base of both pools.

    A subclass may override `_connect`, `_getkey`, `_getconn`, `_putconn` and `_closeall`, and may keep books of its
    own through `_pool`, `_used` and `_rused`, as with psycopg2.pool.
    """

    def __init__(self, minconn: ConvertibleToInt, maxconn: ConvertibleToInt, *args: Any, **kwargs: Any) -> None:
        """Open `minconn` connections by calling `psycopg2.connect(*args, **kwargs)`.

        :param minconn: how many connections are opened now, and how many idle ones are kept later on.
        :param maxconn: how many connections there are at most; with 0, every request is refused.
        :raises ValueError: a size is negative, or `minconn` is greater than `maxconn`.
        :raises psycopg2.Error: a connection could not be opened. Those that had been opened are closed.
        """
        minconn = int(minconn)
        maxconn = int(maxconn)
        if not 0 <= minconn <= maxconn:
            raise ValueError(f"a pool needs 0 <= minconn <= maxconn, not minconn={minconn} and maxconn={maxconn}")
        if "timeout" in kwargs:
            raise TypeError(
                f"{type(self).__name__} takes no timeout: it serves one thread, which would wait for itself; "
                "use ThreadedConnectionPool"
            )
        self.__dict__.pop("_live_books", None)
        self._args = args
        self._kwargs = kwargs
        self._start(minconn, maxconn)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _HOOKS_OF_A_LOAN:
            self._find_hooks()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in _HOOKS_OF_A_LOAN:
            self._find_hooks()

    @property
    def _books(self) -> Books:
        try:
            return self.__dict__["_live_books"]  # type: ignore[no-any-return]
        except KeyError:
            return self.__dict__.setdefault("_live_books", Books(self))  # type: ignore[no-any-return]

    @property
    def _pool(self) -> Idle:
        """The idle connections, as a live list; the next to be lent stands last."""
        return self._books.idle

    @_pool.setter
    def _pool(self, connections: Iterable[Any]) -> None:
        self._books.idle[:] = connections

    @property
    def _used(self) -> Used:
        """The lent connections by key, as a live dict."""
        return self._books.used

    @_used.setter
    def _used(self, loans: Mapping[Any, Any]) -> None:
        self._books.used.clear()
        self._books.used.update(loans)

    @property
    def _rused(self) -> Rused:
        """The keys of the lent connections by `id(connection)`, as a live dict."""
        return self._books.rused

    @_rused.setter
    def _rused(self, keys: Mapping[int, Any]) -> None:
        self._books.rused.clear()
        self._books.rused.update(keys)


class SimpleConnectionPool(AbstractConnectionPool, psycopg2.pool.SimpleConnectionPool):
    """Lend connections to one thread.

    It keeps its books straight if several threads share it by mistake, yet it never waits for a connection.
    """

    getconn = AbstractConnectionPool._getconn
    putconn = AbstractConnectionPool._putconn
    closeall = AbstractConnectionPool._closeall


@_core.front_door
class ThreadedConnectionPool(
    _core.ThreadedConnectionPool, AbstractConnectionPool, psycopg2.pool.ThreadedConnectionPool
):
    """Lend connections to any number of threads.

    Whoever borrows a connection must return it with `putconn`, or borrow it with `connection()`, which does so.
    """

    def __init__(
        self, minconn: ConvertibleToInt, maxconn: ConvertibleToInt, *args: Any, timeout: float | None = 0, **kwargs: Any
    ) -> None:
        """Open `minconn` connections by calling `psycopg2.connect(*args, **kwargs)`.

        :param minconn: how many connections are opened now, and how many idle ones are kept later on.
        :param maxconn: how many connections there are at most; with 0, every request is refused.
        :param timeout: how many seconds `getconn` waits for a connection where all are lent. 0 refuses at once, as
            psycopg2.pool does; None waits for ever. Those who wait are served in the order in which they came.
        :raises ValueError: a size is negative, `minconn` is greater than `maxconn`, or `timeout` is negative.
        :raises TypeError: `timeout` is not a number.
        :raises psycopg2.Error: a connection could not be opened. Those that had been opened are closed.
        """
        self._set_timeout(timeout)
        AbstractConnectionPool.__init__(self, minconn, maxconn, *args, **kwargs)
        # For subclasses that take it. This pool needs it for nothing.
        self._lock = threading.Lock()
