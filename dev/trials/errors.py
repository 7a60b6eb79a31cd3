"""The kinds of errors that faults explain. An error that is not in a fault's list fails its trial."""

from __future__ import annotations

from psycopg2 import InterfaceError, OperationalError

from dev.trials.fault import Explanation
from pgpool_rs import PoolTimeout

# A connection that was in use, or shortly before, when its session ended. The text depends on whether the server could
# still say so, and on what the kernel still had to deliver.
LOST = Explanation(
    "connection lost",
    (OperationalError,),
    "terminating connection due to"
    "|server closed the connection unexpectedly"
    "|could not receive data from server: Connection reset by peer"
    "|could not send data to server: Broken pipe",
    ("use", "return"),
)
# psycopg2 closes a connection that is lost in a block, and raises this for every later use.
CLOSED = Explanation(
    "connection lost",
    (InterfaceError,),
    "^connection already closed$",
    ("use", "return"),
)
REFUSED = Explanation("connect refused", (OperationalError,), "Connection refused", ("borrow",))
BROKEN_OFF = Explanation(
    "connect broken off",
    (OperationalError,),
    "server closed the connection unexpectedly"
    "|terminating connection due to"
    "|could not receive data from server"
    "|the database system is (shutting down|starting up|not yet accepting connections|in recovery mode)",
    ("borrow",),
)
UNANSWERED = Explanation("connect timed out", (OperationalError,), "timeout expired", ("borrow",))
WAITED = Explanation("PoolTimeout", (PoolTimeout,), "", ("borrow",))
READ_ONLY = Explanation(
    "read-only server", (OperationalError,), "session is read-only|server is in hot standby mode", ("borrow",)
)
