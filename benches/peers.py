"""The pools that are compared, each opened as its own documentation recommends. The page shows this source."""

import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import psycopg
import psycopg2
import psycopg2.pool
from dbutils.pooled_db import PooledDB  # type: ignore[import-untyped]
from psycopg2.extensions import connection as Session
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

import pgpool_rs

PATIENCE = 60.0  # seconds, longer than any wait here


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Say what pool is asked for."""

    dsn: str
    least: int
    most: int
    timeout: float = PATIENCE
    connect_seconds: float | None = None  # What each connect takes longer; then `opened` has a time for each.

    @cached_property
    def opened(self) -> list[float]:
        """Collect the time of each connect."""
        return []

    @property
    def keywords(self) -> dict[str, Any]:
        """Give what psycopg2.connect is called with."""
        if self.connect_seconds is None:
            return {"dsn": self.dsn}
        delay = self._delay

        class Late(Session):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                delay()
                super().__init__(*args, **kwargs)

        return {"dsn": self.dsn, "connection_factory": Late}

    @property
    def psycopg3_class(self) -> type[psycopg.Connection[Any]]:
        """Give the class that psycopg 3 connects with."""
        if self.connect_seconds is None:
            return psycopg.Connection
        delay = self._delay

        class Late(psycopg.Connection[Any]):
            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Any:
                delay()
                return super().connect(*args, **kwargs)

        return Late

    def connect(self) -> Any:
        """Connect with psycopg2."""
        return psycopg2.connect(**self.keywords)

    def _delay(self) -> None:
        self.opened.append(time.monotonic())
        time.sleep(self.connect_seconds or 0.0)


class WaitingPool(psycopg2.pool.ThreadedConnectionPool):
    """Waits at a semaphore, as many programs let psycopg2.pool do."""

    def __init__(self, minconn: int, maxconn: int, *args: Any, timeout: float, **kwargs: Any) -> None:
        self.timeout = timeout
        self.semaphore = threading.Semaphore(maxconn)
        super().__init__(minconn, maxconn, *args, **kwargs)

    def getconn(self, key: Any = None) -> Any:
        if not self.semaphore.acquire(timeout=self.timeout):
            raise psycopg2.pool.PoolError("connection pool exhausted")
        try:
            return super().getconn(key)
        except BaseException:
            self.semaphore.release()
            raise

    def putconn(self, conn: Any = None, key: Any = None, close: bool = False) -> None:
        try:
            super().putconn(conn, key, close)
        finally:
            self.semaphore.release()


def bare(at: Opening) -> Any:
    """Open as https://www.psycopg.org/docs/pool.html has it."""
    return psycopg2.pool.ThreadedConnectionPool(at.least, at.most, **at.keywords)


def with_semaphore(at: Opening) -> Any:
    """Open the same, with the usual semaphore round it."""
    return WaitingPool(at.least, at.most, timeout=at.timeout, **at.keywords)


def sqlalchemy(at: Opening) -> Any:
    """Open as https://docs.sqlalchemy.org/en/21/core/pooling.html#constructing-a-pool has it."""
    return QueuePool(at.connect, pool_size=at.most, max_overflow=0, timeout=at.timeout)


def sqlalchemy_ping(at: Opening) -> Any:
    """Open as https://docs.sqlalchemy.org/en/21/core/pooling.html#disconnect-handling-pessimistic has it."""
    return create_engine(
        "postgresql+psycopg2://", creator=at.connect, pool_size=at.most, max_overflow=0, pool_pre_ping=True
    ).pool


def dbutils(at: Opening, **options: Any) -> Any:
    """Open as https://webwareforpython.github.io/dbutils/main.html#pooleddb-pooled-db has it."""
    return PooledDB(psycopg2, mincached=at.least, maxconnections=at.most, blocking=True, **at.keywords, **options)


def psycopg_pool(at: Opening, **options: Any) -> Any:
    """Open as https://www.psycopg.org/psycopg3/docs/advanced/pool.html has it."""
    pool = ConnectionPool(
        at.dsn,
        connection_class=at.psycopg3_class,
        min_size=at.least,
        max_size=at.most,
        timeout=at.timeout,
        open=True,
        **options,
    )
    pool.wait()
    return pool


def ours(at: Opening, **options: Any) -> Any:
    """Open as docs/options.md has it."""
    return pgpool_rs.ThreadedConnectionPool(at.least, at.most, timeout=at.timeout, **at.keywords, **options)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Say how a pool is opened and used."""

    name: str
    open: Callable[[Opening], Any]
    package: str
    borrow: str = "getconn"
    give_back: str | None = "putconn"  # a method of the pool; None for the connection's own close()
    close: str = "closeall"
    # What it does better, or has and pgpool_rs has not, beyond the figures.
    better: str = ""

    def having(self, **options: Any) -> "Peer":
        """Return the same pool with options, which its name tells."""
        told = ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items())
        return replace(self, name=f"{self.name}, {told}", open=partial(self.open, **options))

    def opened(self, dsn: str, least: int, most: int, **more: float) -> "Opened":
        """Open a pool, with all of `least` connections."""
        opening = Opening(dsn=dsn, least=least, most=most, **more)
        side = Opened(self, opening)
        held = [side.borrow() for _ in range(least)]  # SQLAlchemy's connects only when it is asked.
        for connection in held:
            side.give_back(connection)
        return side


class Opened:
    """A pool that is used in the same way as all others."""

    def __init__(self, peer: Peer, opening: Opening) -> None:
        self.peer = peer
        self.opening = opening
        self.pool = peer.open(opening)
        self.borrow: Callable[[], Any] = getattr(self.pool, peer.borrow)
        self.give_back: Callable[[Any], Any]
        if peer.give_back is None:
            self.give_back = lambda connection: connection.close()
        else:
            self.give_back = getattr(self.pool, peer.give_back)

    @property
    def pair(self) -> str:
        """Give the statement that borrows and gives back."""
        borrow = f"pool.{self.peer.borrow}()"
        return f"{borrow}.close()" if self.peer.give_back is None else f"pool.{self.peer.give_back}({borrow})"

    def close(self) -> None:
        """Close the pool."""
        getattr(self.pool, self.peer.close)()


BARE = Peer(
    name="psycopg2.pool",
    open=bare,
    package="psycopg2-binary",
    better="comes with psycopg2: nothing to install, and nothing compiled",
)
SEMAPHORE = Peer(name="psycopg2.pool, semaphore", open=with_semaphore, package="psycopg2-binary")
SQLALCHEMY = Peer(
    name="SQLAlchemy QueuePool",
    open=sqlalchemy,
    package="SQLAlchemy",
    borrow="connect",
    give_back=None,
    close="dispose",
    better="pools for every database that has a DB-API driver, and has events for each step of a connection's life",
)
DBUTILS = Peer(
    name="DBUtils PooledDB",
    open=dbutils,
    package="DBUtils",
    borrow="connection",
    give_back=None,
    close="close",
    better="opens a lost connection again in the midst of a request, if no transaction was begun, and executes the "
    "statement again; it is plain Python, for every DB-API driver",
)
PSYCOPG_POOL = Peer(
    name="psycopg_pool",
    open=psycopg_pool,
    package="psycopg-pool",
    close="close",
    better="works with psycopg 3 and with asyncio; its own threads connect, so that a caller takes what comes first, a "
    "new connection or a returned one",
)
OURS = Peer(name="pgpool_rs", open=ours, package="pgpool-rs")

PEERS = (BARE, SEMAPHORE, SQLALCHEMY, DBUTILS, PSYCOPG_POOL, OURS)
"""Each pool as it comes."""
BACKGROUND = OURS.having(background=True)
# Another option of pgpool_rs that matters in a burst is one more peer here, as BACKGROUND is.
BURSTING = (*PEERS, OURS.having(grow="workers"))
CHECKING = (
    *PEERS,
    replace(SQLALCHEMY, name="SQLAlchemy QueuePool, pool_pre_ping=True", open=sqlalchemy_ping),
    DBUTILS.having(ping="select 1"),
    PSYCOPG_POOL.having(check=ConnectionPool.check_connection),
)
"""Each pool as it comes, and with the check that its documentation has."""


def versions() -> dict[str, str]:
    """Name the version of each package."""
    packages = [*dict.fromkeys(peer.package for peer in PEERS), "psycopg"]
    return {package: version(package) for package in packages}


def sources() -> str:
    """Give the source of what opens each pool."""
    ways: list[Any] = [WaitingPool, *(peer.open for peer in (*PEERS, *CHECKING) if not isinstance(peer.open, partial))]
    return "\n\n".join(map(inspect.getsource, dict.fromkeys(ways))).rstrip()
