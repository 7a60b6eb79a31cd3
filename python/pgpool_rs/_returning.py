"""`close_returns=True`: `close()` of a lent connection returns it to its pool."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from pgpool_rs._core import Home, Returning

if TYPE_CHECKING:
    from collections.abc import Callable

# The arguments of psycopg2.connect that may be positional.
_POSITIONAL = ("dsn", "connection_factory", "cursor_factory")


class Connect:
    """Calls `connect`, or psycopg2.connect, so that it makes connections whose `close()` returns them to the pool."""

    def __init__(self, pool: Any, connect: Callable[..., Any] | None) -> None:
        """Keep a weak reference to the pool, since the pool has a reference to this object."""
        self._pool = weakref.ref(pool)
        self._connect = connect

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Connect with the pool's arguments.

        :raises TypeError: `connection_factory` is no class, or `connect` did not use it.
        """
        kwargs.update(zip(_POSITIONAL, args, strict=False))
        kwargs["connection_factory"] = returning(kwargs.get("connection_factory"))
        connect = psycopg2.connect if self._connect is None else self._connect
        connection = connect(*args[len(_POSITIONAL) :], **kwargs)
        if not issubclass(type(connection), Returning):
            connection.close()
            raise TypeError("close_returns=True needs a connect that uses the connection_factory it is given")
        object.__setattr__(connection, "_pgpool_home", Home(self._pool))
        return connection


def returning(factory: Any) -> type:
    """Return the subclass of a connection class, None for psycopg2's own, whose `close()` returns the connection."""
    factory = extensions.connection if factory is None else factory
    if not isinstance(factory, type):
        raise TypeError("close_returns=True needs a connection_factory that is a class, of which it makes a subclass")
    return _subclass(factory)


@functools.cache
def _subclass(factory: type) -> type:
    if issubclass(factory, Returning):
        return factory
    return type(factory.__name__, (Returning, factory), {"__module__": factory.__module__, "__doc__": factory.__doc__})
