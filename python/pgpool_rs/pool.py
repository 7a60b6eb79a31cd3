"""The pools: psycopg2.pool's classes under psycopg2.pool's names.

What happens in a call is decided in Rust. Here stand the names, the options, and the attributes that other people's
code expects to find.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any, Literal, overload

import psycopg2
from psycopg2 import extensions as _ext  # noqa: F401  (psycopg2.pool has the name, and tests patch it there)

from pgpool_rs import _core, _for_rust, _keywords, _returning
from pgpool_rs._core import check_socket
from pgpool_rs._fork import renewed_by_fork
from pgpool_rs._options import Options
from pgpool_rs._pools import add
from pgpool_rs._psycopg2_pool import original as _psycopg2_pool
from pgpool_rs._secrets import mask_name
from pgpool_rs._views import Views
from pgpool_rs.errors import PoolClosed, PoolError, PoolExhausted, PoolTimeout, TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import EllipsisType

    from _typeshed import ConvertibleToInt
    from typing_extensions import Self

    from pgpool_rs._views import Idle, Rused, Used

__all__ = [
    "AbstractConnectionPool",
    "PoolClosed",
    "PoolError",
    "PoolExhausted",
    "PoolTimeout",
    "SimpleConnectionPool",
    "ThreadedConnectionPool",
    "TooManyRequests",
]

# The hooks that psycopg2.pool calls on every loan. Whether one is overridden is found out beforehand, so that a
# pool without hooks does not look for them on every loan.
_HOOKS_OF_A_LOAN = frozenset({"_getkey", "_getconn", "_putconn"})


class _Name:
    """The pool's name, unless a subclass has something else under this name."""

    @overload
    def __get__(self, pool: None, owner: type) -> Self: ...
    @overload
    def __get__(self, pool: AbstractConnectionPool, owner: type) -> str: ...
    def __get__(self, pool: AbstractConnectionPool | None, owner: type) -> Self | str:
        return self if pool is None else _Pool._pgpool_name(pool)


# What we call of our own is called on the class: a subclass may have anything under the same name.
_Pool = _core.AbstractConnectionPool


@_core.fast_path
class AbstractConnectionPool(_core.AbstractConnectionPool, _psycopg2_pool.AbstractConnectionPool):
    """Keep PostgreSQL connections open and lend them; the base of both pools.

    A subclass may override `_connect`, `_getkey`, `_getconn`, `_putconn` and `_closeall`, and may keep books of its
    own through `_pool`, `_used` and `_rused`, as with psycopg2.pool.
    """

    name = _Name()

    @_keywords.names_missing_sizes
    def __init__(
        self,
        minconn: ConvertibleToInt,
        maxconn: ConvertibleToInt,
        *args: Any,
        timeout: float | EllipsisType | None = ...,
        max_waiting: int | EllipsisType = ...,
        name: str | None = None,
        check: Callable[[Any], object] | None = check_socket,
        check_after: float = 0.5,
        max_idle: float | None = 0,
        max_lifetime: float | None = None,
        configure: Callable[[Any], object] | None = None,
        reset: Callable[[Any], object] | Literal["discard"] | None = None,
        connect: Callable[..., Any] | None = None,
        open_workers: int = 1,
        background: bool = False,
        leak_after: float | None = None,
        reclaim: bool = False,
        close_returns: bool = False,
        **kwargs: Any,
    ) -> None:
        """Open `minconn` connections by calling `psycopg2.connect(*args, **kwargs)`.

        docs/options.md says when to use which option. All times are in seconds.

        :param minconn: how many connections are opened now, and how many idle ones are kept later on.
        :param maxconn: how many connections there are at most; with 0, every request is refused.
        :param timeout: how long `getconn` waits for a connection where all are lent. 0, the default, refuses at once,
            as psycopg2.pool does; None waits for ever. Those who wait are served in the order in which they came.
            Only `ThreadedConnectionPool` waits.
        :param max_waiting: how many callers may wait; one more gets `TooManyRequests`. 0 is no bound.
        :param name: what the log calls the pool: it is written to the logger `pgpool_rs.<name>`.
        :param check: what is asked of an idle connection before it is lent: a callable that raises if the connection is
            dead. `check_socket` costs no round trip, `check_query` costs one; None asks nothing.
        :param check_after: a connection that has been idle for less is lent without a check.
        :param max_idle: how long a connection above `minconn` is kept unused. 0 closes it on its return; None keeps it.
        :param max_lifetime: how old a connection may become, less up to a tenth. None is no limit.
        :param configure: called with each new connection. If it raises, or leaves a transaction open, the connection is
            closed and the connect has failed.
        :param reset: called with each connection that comes back, once it is in no transaction; "discard" runs DISCARD
            ALL. If it raises, or leaves a transaction open, the connection is closed.
        :param connect: called in place of `psycopg2.connect`, with the same arguments.
        :param open_workers: how many of the first `minconn` connections are opened at the same time.
        :param background: whether `putconn` leaves what takes the network, rollbacks and closes, to the housekeeping.
        :param leak_after: a loan that lasts this long is logged, with the stack that borrowed it. None watches none.
        :param reclaim: whether a connection that was borrowed without a key, and forgotten, gives its slot back.
        :param close_returns: whether `close()` of a lent connection returns it, as `putconn` does.
        :raises ValueError: a size is negative, `minconn` is greater than `maxconn`, or an option is out of its range.
        :raises TypeError: an option has a wrong type, is not for this class, or is known neither to the pool nor to
            psycopg2.connect, unless `connect` or `_connect` is the program's own.
        :raises psycopg2.Error: a connection could not be opened. Those that had been opened are closed.
        """
        minconn = _core.whole("minconn", minconn)
        maxconn = _core.whole("maxconn", maxconn)
        if not 0 <= minconn <= maxconn:
            raise ValueError(f"a pool needs 0 <= minconn <= maxconn, not minconn={minconn} and maxconn={maxconn}")
        waits = isinstance(self, _core.ThreadedConnectionPool)
        for option, value in (("timeout", timeout), ("max_waiting", max_waiting)):
            if not waits and value is not ...:
                raise TypeError(
                    f"{type(self).__name__} takes no {option}: it serves one thread, which would wait for itself; "
                    "use ThreadedConnectionPool"
                )
        options = Options.checked(
            timeout=0 if timeout is ... else timeout,
            max_waiting=0 if max_waiting is ... else max_waiting,
            name=name,
            check=check,
            check_after=check_after,
            max_idle=max_idle,
            max_lifetime=max_lifetime,
            configure=configure,
            reset=reset,
            connect=connect,
            open_workers=open_workers,
            background=background,
            leak_after=leak_after,
            reclaim=reclaim,
            close_returns=close_returns,
        )
        if connect is None and _connects_by_psycopg2(self):
            _keywords.check(args, kwargs, _OPTIONS)
        if close_returns:
            _returning.returning(args[1] if len(args) > 1 else kwargs.get("connection_factory"))
            options = dataclasses.replace(options, connect=_returning.Connect(self, connect))
        if name is not None:
            options = dataclasses.replace(options, name=mask_name(name, args, kwargs))
        self.__dict__.pop("_pgpool_views", None)
        self._args = args
        self._kwargs = kwargs
        AbstractConnectionPool._pgpool_start(self, minconn, maxconn, options)
        add(self)
        if waits:
            # For subclasses that take it. This pool needs it for nothing.
            self._lock = renewed_by_fork(threading.Lock())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _HOOKS_OF_A_LOAN:
            _Pool._pgpool_find_hooks(self)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in _HOOKS_OF_A_LOAN:
            _Pool._pgpool_find_hooks(self)

    @property
    def _pool(self) -> Idle:
        """The idle connections, as a live list; the next to be lent stands last."""
        return _views(self).idle

    @_pool.setter
    def _pool(self, connections: Iterable[Any]) -> None:
        _views(self).idle[:] = connections

    @property
    def _used(self) -> Used:
        """The lent connections by key, as a live dict."""
        return _views(self).used

    @_used.setter
    def _used(self, loans: Mapping[Any, Any]) -> None:
        _views(self).used.clear()
        _views(self).used.update(loans)

    @property
    def _rused(self) -> Rused:
        """The keys of the lent connections by `id(connection)`, as a live dict."""
        return _views(self).rused

    @_rused.setter
    def _rused(self, keys: Mapping[int, Any]) -> None:
        _views(self).rused.clear()
        _views(self).rused.update(keys)


# The names of the options.
_OPTIONS = tuple(option.name for option in dataclasses.fields(Options))


def _views(pool: AbstractConnectionPool) -> Views:
    try:
        return pool.__dict__["_pgpool_views"]  # type: ignore[no-any-return]
    except KeyError:
        return pool.__dict__.setdefault("_pgpool_views", Views(pool))  # type: ignore[no-any-return]


def _connects_by_psycopg2(pool: AbstractConnectionPool) -> bool:
    """Tell whether it is psycopg2.connect itself that will open the pool's connections."""
    own = "_connect" in pool.__dict__ or type(pool)._connect is not _Pool._connect
    return not own and _keywords.is_psycopg2s(psycopg2.connect)


class SimpleConnectionPool(AbstractConnectionPool, _psycopg2_pool.SimpleConnectionPool):
    """Lend connections to one thread.

    It keeps its books straight if several threads share it by mistake, yet it never waits for a connection.
    """

    getconn = AbstractConnectionPool._getconn
    putconn = AbstractConnectionPool._putconn
    closeall = AbstractConnectionPool._closeall


@_core.fast_path
class ThreadedConnectionPool(
    _core.ThreadedConnectionPool, AbstractConnectionPool, _psycopg2_pool.ThreadedConnectionPool
):
    """Lend connections to any number of threads.

    Whoever borrows a connection must return it with `putconn`, or borrow it with `connection()`, which does so.
    """


_core.prepare(_for_rust)
