"""All that the Rust part uses of Python. `_core.prepare` reads it once, at the end of the package's import.

Three of these are modules, since Rust looks up their functions at each call: a program or a test may replace
`psycopg2.connect`, and gevent and eventlet replace `threading.Lock`, `threading.get_ident` and `time.sleep`.
"""

import threading
import time
from sys import _getframe as get_frame

import psycopg2
from psycopg2 import Error, OperationalError, ProgrammingError
from psycopg2.extensions import QueryCanceledError, connection, cursor

from pgpool_rs._core import check_socket
from pgpool_rs._histogram import Histogram
from pgpool_rs._housekeeper import housekeeper
from pgpool_rs._loans import describe as describe_loan
from pgpool_rs._loans import make as make_loan
from pgpool_rs._log import is_heard, place
from pgpool_rs._log import write as write_line
from pgpool_rs._notes import annotate, annotate_limited, copied
from pgpool_rs._opening import in_parallel as open_in_parallel
from pgpool_rs._opening import start_worker
from pgpool_rs._secrets import mask
from pgpool_rs._server_full import is_server_full
from pgpool_rs._session import await_end, leave_in_parent, session_of
from pgpool_rs._views import AutomaticKey
from pgpool_rs.errors import PoolClosed, PoolError, PoolExhausted, PoolTimeout, TooManyRequests

__all__ = [
    "AutomaticKey",
    "Error",
    "Histogram",
    "OperationalError",
    "PoolClosed",
    "PoolError",
    "PoolExhausted",
    "PoolTimeout",
    "ProgrammingError",
    "QueryCanceledError",
    "TooManyRequests",
    "annotate",
    "annotate_limited",
    "await_end",
    "check_socket",
    "connection",
    "copied",
    "cursor",
    "describe_loan",
    "get_frame",
    "housekeeper",
    "is_heard",
    "is_server_full",
    "leave_in_parent",
    "make_loan",
    "mask",
    "open_in_parallel",
    "place",
    "psycopg2",
    "session_of",
    "start_worker",
    "threading",
    "time",
    "write_line",
]
