"""The pools that are compared, each opened in the same way."""

from collections.abc import Mapping
from typing import Any, Protocol

import psycopg2.pool

import pgpool_rs


class Pool(Protocol):
    """Lend connections: the two methods that all contenders have."""

    def getconn(self) -> Any: ...

    def putconn(self, conn: Any, /) -> None: ...


class KeyedPool(Pool, Protocol):
    """Lend under a key too, as psycopg2.pool and its replacement do."""

    def getconn(self, key: Any = None) -> Any: ...

    def closeall(self) -> None: ...


class PoolClass(Protocol):
    """Open a pool as psycopg2.pool's classes do."""

    def __call__(self, minconn: int, maxconn: int, /, *args: Any, **kwargs: Any) -> KeyedPool: ...


PSYCOPG2 = "psycopg2.pool"
PGPOOL = "pgpool_rs"
LOWER_BOUND = "lower bound"
IDEAL = "a connection each"

CLASSES: Mapping[str, PoolClass] = {
    PSYCOPG2: psycopg2.pool.ThreadedConnectionPool,
    PGPOOL: pgpool_rs.ThreadedConnectionPool,
}
