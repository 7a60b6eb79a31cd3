"""Check a connection, and reset its session, by a round trip to the server."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions
from psycopg2._psycopg import ReplicationConnection

from pgpool_rs import _validate
from pgpool_rs._threads import CANNOT_START, is_ending, start

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_query", "discard_all"]

_IN_TRANSACTION = (
    extensions.TRANSACTION_STATUS_ACTIVE,
    extensions.TRANSACTION_STATUS_INTRANS,
    extensions.TRANSACTION_STATUS_INERROR,
)


def check_query(conn: Any, timeout: float | None = 5.0) -> None:
    """Return if the server answers a query on this connection; raise if it does not.

    The function runs SELECT 1 in autocommit, leaves no transaction open, and restores the connection's autocommit. Use
    it as a pool's `check`; for another limit, use `functools.partial(check_query, timeout=1)`.

    At the limit it shuts down the connection's socket, so the limit holds even if the network delivers nothing. It does
    not hold for a connection without `fileno()`, nor under gevent and eventlet if psycopg2 has no wait callback: then
    nothing in the process runs while psycopg2 waits.

    While the interpreter ends, psycopg2 runs no query. Then the function returns at once.

    :param conn: a connection that is in no transaction.
    :param timeout: seconds that the server may take; None for no limit.
    :raises psycopg2.OperationalError: the server took longer, and the connection is unusable now; or it is broken.
    :raises psycopg2.extensions.QueryCanceledError: Ctrl-C or a statement_timeout cancelled the query. A pool raises
        this to its caller.
    :raises psycopg2.InterfaceError: the connection is closed.
    :raises psycopg2.ProgrammingError: the connection is in a transaction. The function does not touch it.
    :raises TypeError: `timeout` is not a number.
    :raises ValueError: `timeout` is 0 or less.
    """
    limit = _validate.seconds("timeout", timeout, none="for no limit", zero=False)
    if is_ending():
        return
    _refuse_in_transaction(conn, "check_query")
    watchdog = _Watchdog(conn)
    failure: Exception | None = None
    try:
        with watchdog.set_to(limit), _autocommit(conn), conn.cursor() as cursor:
            cursor.execute("SELECT 1")
    except extensions.QueryCanceledError:
        # The watchdog cancels nothing. psycopg2's wait_select raises this after Ctrl-C.
        raise
    except (psycopg2.Error, OSError) as error:
        if not watchdog.has_expired:
            raise
        failure = error
    if watchdog.has_expired:
        raise psycopg2.OperationalError(f"the server did not answer SELECT 1 within {limit:g} seconds") from failure


def discard_all(conn: Any) -> None:
    """Reset the session to its state after connecting, by DISCARD ALL. `reset="discard"` calls this function.

    It drops settings made by SET, temporary tables, prepared statements, LISTEN, advisory locks, and the notifications
    that have arrived. The attributes of the connection object keep their values and still hold: autocommit, isolation
    level, readonly and deferrable.

    :param conn: a connection that is in no transaction.
    :raises psycopg2.Error: the server did not run the statement. Close the connection.
    :raises psycopg2.ProgrammingError: the connection is in a transaction. The function does not touch it.
    """
    _refuse_in_transaction(conn, "DISCARD ALL")
    if is_ending():
        raise psycopg2.OperationalError("DISCARD ALL cannot be sent while the interpreter is ending")
    with _autocommit(conn) as was_on, conn.cursor() as cursor:
        cursor.execute("DISCARD ALL")
        if isinstance(conn, extensions.connection):
            _tell_session(conn, characteristics=was_on)
            if isinstance(conn.notifies, MutableSequence):  # a program may have replaced it
                conn.notifies.clear()


def _tell_session(conn: extensions.connection, *, characteristics: bool) -> None:
    """Set the session to what psycopg2 remembers of it: psycopg2 does not notice what DISCARD ALL changes."""
    # This sends nothing to the server unless the two differ.
    conn.set_client_encoding(conn.info.parameter_status("client_encoding") or conn.encoding)
    # In autocommit these are settings of the session. Otherwise psycopg2 sends them with each BEGIN.
    if characteristics:
        conn.set_session(conn.isolation_level, conn.readonly, conn.deferrable)


def _refuse_in_transaction(conn: Any, what: str) -> None:
    status = getattr(getattr(conn, "info", None), "transaction_status", None)
    if status in _IN_TRANSACTION or getattr(conn, "status", None) == extensions.STATUS_PREPARED:
        raise psycopg2.ProgrammingError(f"{what} cannot be used inside a transaction")


@contextlib.contextmanager
def _autocommit(conn: Any) -> Iterator[bool]:
    """Switch autocommit on for a block; yield whether it was on before."""
    if isinstance(conn, ReplicationConnection):
        # Autocommit is on, and a program can neither read nor set it.
        yield False
        return
    before = conn.autocommit
    if getattr(conn, "status", extensions.STATUS_READY) == extensions.STATUS_BEGIN:
        # A program has ended the transaction in SQL. The server knows that, psycopg2 does not.
        conn.rollback()
    try:
        conn.autocommit = True
        yield before
    except BaseException:
        # Report the first error; ignore errors raised while restoring autocommit on a dead connection.
        with contextlib.suppress(psycopg2.Error, OSError):
            conn.autocommit = before
        raise
    conn.autocommit = before


class _Watchdog:
    """Shuts down a connection's socket if a block takes too long, so that the block stops waiting for the server."""

    def __init__(self, conn: Any) -> None:
        self.has_expired = False
        self._conn = conn
        self._socket: socket.socket | None = None
        # Held while the watchdog shuts the socket down, so that it never does so after the block.
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def set_to(self, seconds: float) -> Iterator[None]:
        """Watch a block for so many seconds. Do nothing if that is infinity."""
        if seconds < math.inf:
            self._socket = _duplicate_of_socket(self._conn)
        if self._socket is None:
            yield
            return
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._expire)
        timer.daemon = True
        try:
            # If no thread can be started, as at the interpreter's end, check without a limit.
            with contextlib.suppress(*CANNOT_START):
                start(timer)
            yield
        finally:
            timer.cancel()
            self._call_off()

    def _expire(self) -> None:
        with self._lock:
            if self._socket is not None:
                self.has_expired = True
                with contextlib.suppress(OSError):  # the connection has ended already
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _call_off(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _duplicate_of_socket(conn: Any) -> socket.socket | None:
    """Return a socket with a descriptor of our own, so that another file cannot take its number before the shutdown."""
    fileno = getattr(conn, "fileno", None)
    number = fileno() if callable(fileno) else None
    if not isinstance(number, int):
        return None
    try:
        # The family does not matter for a shutdown.
        return socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
