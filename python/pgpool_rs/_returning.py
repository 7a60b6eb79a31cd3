"""`close_returns=True`: a lent connection's `close()` gives it back to its pool."""

from __future__ import annotations

import functools
import os
import weakref
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from pgpool_rs import _core
from pgpool_rs.errors import PoolClosed

if TYPE_CHECKING:
    from collections.abc import Callable

# The arguments of psycopg2.connect that may be positional.
_POSITIONAL = ("dsn", "connection_factory", "cursor_factory")


class Returning:
    """Gives a connection class a `close()` that returns. The pool itself calls `_pgpool_close()`."""

    _pgpool_home: tuple[weakref.ref[Any], int] | None = None

    def close(self) -> None:
        """Return the connection to its pool if it is lent, do nothing if it is idle there; else close it."""
        pool, process = (self._pgpool_home[0](), self._pgpool_home[1]) if self._pgpool_home else (None, 0)
        if pool is None:
            self._pgpool_close()
        elif process != os.getpid():
            return  # it is the parent's
        elif _core.key_of(pool, id(self)) is not None:
            try:
                pool.putconn(self)
            except PoolClosed:
                self._pgpool_close()
        elif not _core.is_idle(pool, self):
            self._pgpool_close()

    def _pgpool_close(self) -> None:
        super().close()  # type: ignore[misc]


class Connect:
    """Connects for a pool: calls `connect`, or psycopg2.connect, for a connection whose `close()` returns it."""

    def __init__(self, pool: Any, connect: Callable[..., Any] | None) -> None:
        """Keep the pool weakly, since the pool keeps this."""
        self._pool = weakref.ref(pool)
        self._connect = connect

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Connect with the pool's arguments.

        :raises TypeError: `connection_factory` is no class, or `connect` has not used it.
        """
        kwargs.update(zip(_POSITIONAL, args, strict=False))
        kwargs["connection_factory"] = returning(kwargs.get("connection_factory"))
        connect = psycopg2.connect if self._connect is None else self._connect
        connection = connect(*args[len(_POSITIONAL) :], **kwargs)
        if not issubclass(type(connection), Returning):
            connection.close()
            raise TypeError("close_returns=True needs a connect that uses the connection_factory it is given")
        connection._pgpool_home = (self._pool, os.getpid())
        return connection


def returning(factory: Any) -> type:
    """Give the subclass of a connection class, psycopg2's own if it is None, whose `close()` returns."""
    factory = extensions.connection if factory is None else factory
    if not isinstance(factory, type):
        raise TypeError("close_returns=True needs a connection_factory that is a class, of which it makes a subclass")
    return _subclass(factory)


@functools.cache
def _subclass(factory: type) -> type:
    if issubclass(factory, Returning):
        return factory
    return type(factory.__name__, (Returning, factory), {"__module__": factory.__module__, "__doc__": factory.__doc__})
