"""The pools: psycopg2.pool's classes under psycopg2.pool's names.

Rust implements the calls. This module has the names, the options, and the attributes that other people's code uses.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import psycopg2
from psycopg2 import extensions as _ext  # noqa: F401  (psycopg2.pool has the name, and tests patch it there)

from pgpool_rs import _core, _for_rust, _keywords, _publishing, _returning
from pgpool_rs._core import check_socket
from pgpool_rs._fork import renewed_by_fork
from pgpool_rs._limits.folder import folder
from pgpool_rs._options import Options
from pgpool_rs._pools import add
from pgpool_rs._psycopg2_pool import original as _psycopg2_pool
from pgpool_rs._secrets import mask_name
from pgpool_rs._settings import PoolOptions
from pgpool_rs._views import Views
from pgpool_rs.errors import PoolClosed, PoolError, PoolExhausted, PoolTimeout, TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import EllipsisType

    from _typeshed import ConvertibleToInt
    from typing_extensions import Self

    from pgpool_rs._listener import Listener
    from pgpool_rs._protocol import Limit, PooledConnection
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

_T = TypeVar("_T")

# The methods that a loan calls only if they are overridden. A pool finds that out beforehand, and not on every loan.
_OVERRIDABLE = frozenset({"_getkey", "_getconn", "_putconn", "getconn", "putconn"})


class _Attribute(Generic[_T]):
    """An attribute of a pool, which a subclass may override."""

    def __init__(self, read: Callable[[Any], _T], doc: str) -> None:
        self._read = read
        self.__doc__ = doc

    @overload
    def __get__(self, pool: None, owner: type) -> Self: ...
    @overload
    def __get__(self, pool: object, owner: type) -> _T: ...
    def __get__(self, pool: object, owner: type) -> Self | _T:
        return self if pool is None else self._read(pool)


# We call our own methods on this class: a subclass may use their names for anything.
_Pool = _core.AbstractConnectionPool


@_core.fast_path
class AbstractConnectionPool(_core.AbstractConnectionPool, _psycopg2_pool.AbstractConnectionPool):
    """Keep PostgreSQL connections open and lend them. The base of both pools.

    As with psycopg2.pool, a subclass may override `_connect`, `_getkey`, `_getconn`, `_putconn` and `_closeall`, and
    may read and write `_pool`, `_used` and `_rused`.
    """

    name = _Attribute(_Pool._pgpool_name, "The name of the pool, in its log and its figures.")
    options = _Attribute(
        lambda pool: PoolOptions.of(pool, pool.__dict__["_pgpool_options"]),
        "A `PoolOptions`: the sizes, the options and the arguments of `connect` at this moment.",
    )

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
        connect: Callable[..., PooledConnection] | None = None,
        open_workers: int = 1,
        grow: Literal["caller", "workers"] = "caller",
        reconnect_backoff: tuple[float, float] | None = None,
        order: Literal["lifo", "fifo"] = "lifo",
        reserve: int = 0,
        background: bool = False,
        leak_after: float | None = None,
        reclaim: bool = False,
        close_returns: bool = False,
        open: bool = True,  # noqa: A002  (psycopg_pool's name)
        listener: Listener | None = None,
        limit: Limit | None = None,
        **kwargs: Any,
    ) -> None:
        """Open `minconn` connections by calling `psycopg2.connect(*args, **kwargs)`.

        All times are in seconds. <https://pgpool-rs.readthedocs.io/en/latest/options.html> says when to use which
        option, and has a recommended set.

        :param minconn: how many connections the pool opens now, and how many idle ones it keeps later.
        :param maxconn: how many connections the pool has at most; with 0, it refuses every request.
        :param timeout: how long `getconn` waits if all connections are lent. 0, the default, raises at once, as
            psycopg2.pool does; None waits for ever. The pool serves waiting callers in the order in which they came.
            Only `ThreadedConnectionPool` takes it.
        :param max_waiting: how many callers may wait; the next one gets `TooManyRequests`. 0 is no bound. Only
            `ThreadedConnectionPool` takes it.
        :param name: the pool's name. The pool logs to the logger `pgpool_rs.<name>`.
        :param check: called with an idle connection before the pool lends it; raises if the connection is dead.
            `check_socket` costs no round trip, `check_query` costs one. None checks nothing.
        :param check_after: the pool lends a connection that has been idle for less than this without a check.
        :param max_idle: how long a connection beyond `minconn` may be idle. 0 closes it on its return; None keeps it.
        :param max_lifetime: how old a connection may become, less up to a tenth at random. None is no limit.
        :param configure: called with each new connection. If it raises or leaves a transaction open, the pool closes
            the connection, and the connect has failed.
        :param reset: called with each returned connection, after the transaction has ended; "discard" runs DISCARD ALL.
            If it raises or leaves a transaction open, the pool closes the connection.
        :param connect: called in place of `psycopg2.connect`, with the same arguments. Returns a `PooledConnection`.
        :param open_workers: how many threads open the first `minconn` connections, and, with `grow="workers"`, how many
            connect at once later.
        :param grow: what opens a connection when none is idle and there is room. "caller": the caller that needs it.
            "workers": threads of the pool; each caller gets what comes first, a connection that comes back or a new
            one.
        :param reconnect_backoff: (shortest, longest) pause after a connect that failed, doubled by each further one.
            One caller at a time connects then; the others wait, or get the last error at once if their timeout is 0.
            None: each caller connects at once.
        :param order: which idle connection is lent next. "lifo": the one that came back last. "fifo": the one that has
            been idle for longest.
        :param reserve: how many of the `maxconn` connections only `getconn(priority=True)` takes. Less than `maxconn`.
        :param background: whether `putconn` leaves rollbacks and closes, which use the network, to the housekeeper.
        :param leak_after: the pool logs a loan that lasts this long, with the stack that borrowed it. None logs none.
        :param reclaim: whether the pool frees the slot of a connection that its borrower has dropped. Only for
            connections that were borrowed without a key.
        :param close_returns: whether `close()` of a lent connection returns it, as `putconn` does.
        :param open: whether the constructor opens the pool. If not, it connects nothing and starts no thread, and every
            request gets `PoolClosed` until `open()` is called.
        :param listener: an object that is told what happens, with some of the methods of `Listener`.
        :param limit: a limit on the open connections of several pools together: a `HostLimit` for those of all
            processes of this host, a `SharedLimit` for those of this process.
        :raises ValueError: a size is negative, `minconn` is greater than `maxconn`, or an option is out of its range.
        :raises TypeError: an option has a wrong type or is not for this class; or neither the pool nor psycopg2.connect
            knows it, unless the program has its own `connect` or `_connect`.
        :raises psycopg2.Error: a connect failed. The pool has closed the connections that it had opened.
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
            grow=grow,
            reconnect_backoff=reconnect_backoff,
            order=order,
            reserve=reserve,
            background=background,
            leak_after=leak_after,
            reclaim=reclaim,
            close_returns=close_returns,
            open=open,
            listener=listener,
            limit=limit,
        )
        if 0 < maxconn <= options.reserve:
            raise ValueError(f"reserve must be less than maxconn, not reserve={options.reserve} and maxconn={maxconn}")
        if connect is None and _connects_by_psycopg2(self):
            _keywords.check(args, kwargs, _OPTIONS)
        if name is not None:
            options = dataclasses.replace(options, name=mask_name(name, args, kwargs))
        self.__dict__["_pgpool_options"] = options
        if close_returns:
            _returning.returning(args[1] if len(args) > 1 else kwargs.get("connection_factory"))
            options = dataclasses.replace(options, connect=_returning.Connect(self, connect))
        self.__dict__.pop("_pgpool_views", None)
        self._args = args
        self._kwargs = kwargs
        AbstractConnectionPool._pgpool_start(self, minconn, maxconn, options)
        add(self)
        _publishing.pool_added(folder)
        if waits:
            # For subclasses that take it. The pool itself does not use it.
            self._lock = renewed_by_fork(threading.Lock())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _OVERRIDABLE:
            _Pool._pgpool_find_hooks(self)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in _OVERRIDABLE:
            _Pool._pgpool_find_hooks(self)

    @property
    def _pool(self) -> Idle:
        """The idle connections, as a live list. The pool lends the last one next."""
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
    """Return whether psycopg2.connect itself will open the pool's connections."""
    own = "_connect" in pool.__dict__ or type(pool)._connect is not _Pool._connect
    return not own and _keywords.is_psycopg2s(psycopg2.connect)


class SimpleConnectionPool(AbstractConnectionPool, _psycopg2_pool.SimpleConnectionPool):
    """Lend connections to one thread. It never waits for a connection.

    The pool stays consistent if several threads share it by mistake.
    """

    getconn = AbstractConnectionPool._getconn
    putconn = AbstractConnectionPool._putconn
    closeall = AbstractConnectionPool._closeall


@_core.fast_path
class ThreadedConnectionPool(
    _core.ThreadedConnectionPool, AbstractConnectionPool, _psycopg2_pool.ThreadedConnectionPool
):
    """Lend connections to any number of threads.

    A caller of `getconn` must return the connection with `putconn`. A `with` block of `connection()` does both:

        pool = ThreadedConnectionPool(2, 10, "dbname=shop", timeout=5, max_idle=300)
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT 1")

    The end of the block commits, or rolls back if the block raised. The other methods are for operators: `open`,
    `close`, `closeall`, `resize`, `drain`, `check`, `wait`, `maintain`, `loans`, `get_stats`, `pop_stats` and
    `get_histograms`. The pool logs on `pgpool_rs.<name>`.
    The guide is at <https://pgpool-rs.readthedocs.io/en/latest/>.
    """

    # `getconn` and `putconn` are written in Rust: in `fast_path`, which falls back to `methods`.


_core.prepare(_for_rust)
