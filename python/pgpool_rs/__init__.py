"""A drop-in replacement for psycopg2.pool whose lock is never held across the network.

Replace `from psycopg2.pool import ThreadedConnectionPool, PoolError` by
`from pgpool_rs import ThreadedConnectionPool, PoolError`, and change nothing else. See
`help(ThreadedConnectionPool)`, and <https://pgpool-rs.readthedocs.io/en/latest/migrating.html> for all that differs.
"""

# First of all: it refuses a subinterpreter, where the import of psycopg2 may end the process.
from pgpool_rs._core import __version__ as __version__
from pgpool_rs._core import check_socket

try:
    import psycopg2 as _psycopg2  # noqa: F401  (imported here, so that the error can say what to do)
except ModuleNotFoundError as error:
    if error.name != "psycopg2":
        raise
    raise ImportError(
        "pgpool_rs needs psycopg2: install psycopg2-binary (nothing to compile) or psycopg2 (compiled here); not both"
    ) from error

from pgpool_rs._histogram import Histogram
from pgpool_rs._limits import HostLimit, SharedLimit
from pgpool_rs._listener import Listener
from pgpool_rs._loans import LoanInfo
from pgpool_rs._pools import pools
from pgpool_rs._protocol import PooledConnection
from pgpool_rs._psycopg2_pool import replace_psycopg2_pool
from pgpool_rs._settings import PoolOptions
from pgpool_rs.errors import PoolClosed, PoolError, PoolExhausted, PoolTimeout, TooManyRequests
from pgpool_rs.health import check_query
from pgpool_rs.pool import AbstractConnectionPool, SimpleConnectionPool, ThreadedConnectionPool

__all__ = [
    "AbstractConnectionPool",
    "Histogram",
    "HostLimit",
    "Listener",
    "LoanInfo",
    "PoolClosed",
    "PoolError",
    "PoolExhausted",
    "PoolOptions",
    "PoolTimeout",
    "PooledConnection",
    "SharedLimit",
    "SimpleConnectionPool",
    "ThreadedConnectionPool",
    "TooManyRequests",
    "check_query",
    "check_socket",
    "pools",
    "replace_psycopg2_pool",
]
