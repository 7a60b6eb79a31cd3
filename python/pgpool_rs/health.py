"""What is asked of a connection by a round trip: whether it lives, and to forget what was set in its session."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_query", "discard_all"]

_IN_TRANSACTION = (
    extensions.TRANSACTION_STATUS_ACTIVE,
    extensions.TRANSACTION_STATUS_INTRANS,
    extensions.TRANSACTION_STATUS_INERROR,
)


def check_query(conn: Any, timeout: float | None = 5.0) -> None:
    """Return if the server answers a query on this connection, and raise if it does not.

    It runs SELECT 1 in autocommit and leaves no transaction open; afterwards, the connection's autocommit is as before.
    Use it as a pool's `check`, with another limit as `functools.partial(check_query, timeout=1)`.

    The limit holds even if nothing comes from the network, since the connection's socket is then shut down. It does not
    hold for what has no `fileno()`, nor under gevent and eventlet unless psycopg2 has a wait callback, without which
    nothing in the process runs while psycopg2 waits.

    :param conn: a connection that is in no transaction.
    :param timeout: seconds that the server may take; None for no limit.
    :raises psycopg2.OperationalError: it took longer, and the connection can be used no more; or it is broken.
    :raises psycopg2.extensions.QueryCanceledError: the query was cancelled, by Ctrl-C or by a statement_timeout,
        which a pool raises to its caller.
    :raises psycopg2.InterfaceError: the connection is closed.
    :raises psycopg2.ProgrammingError: the connection is in a transaction, which is left alone.
    :raises TypeError: `timeout` is not a number.
    :raises ValueError: `timeout` is 0 or less.
    """
    limit = _validate.seconds("timeout", timeout, none="for no limit", zero=False)
    _refuse_in_transaction(conn, "check_query")
    watchdog = _Watchdog(conn)
    failure: Exception | None = None
    try:
        with watchdog.set_to(limit), _autocommit(conn), conn.cursor() as cursor:
            cursor.execute("SELECT 1")
    except extensions.QueryCanceledError:
        # Not by the watchdog, which shuts the socket: psycopg2's wait_select makes this of Ctrl-C.
        raise
    except (psycopg2.Error, OSError) as error:
        if not watchdog.has_bitten:
            raise
        failure = error
    if watchdog.has_bitten:
        raise psycopg2.OperationalError(f"the server did not answer SELECT 1 within {limit:g} seconds") from failure


def discard_all(conn: Any) -> None:
    """Put the session back to what it was after connecting, by DISCARD ALL. This is what `reset="discard"` stands for.

    Settings made by SET, temporary tables, prepared statements, LISTEN and advisory locks are gone, and so are the
    notifications that have come in. What belongs to the connection object stays: autocommit, and its isolation level,
    readonly and deferrable, which hold afterwards too.

    :param conn: a connection that is in no transaction.
    :raises psycopg2.Error: the server could not be asked, or would not; the connection is best closed.
    :raises psycopg2.ProgrammingError: the connection is in a transaction, which is left alone.
    """
    _refuse_in_transaction(conn, "DISCARD ALL")
    with _autocommit(conn) as was_on, conn.cursor() as cursor:
        cursor.execute("DISCARD ALL")
        if isinstance(conn, extensions.connection):
            _tell_session(conn, characteristics=was_on)
            if isinstance(conn.notifies, MutableSequence):  # it may be a program's own
                conn.notifies.clear()


def _tell_session(conn: extensions.connection, *, characteristics: bool) -> None:
    """Make the session agree again with what psycopg2 remembers of it: it does not notice what DISCARD ALL changes."""
    # This asks the server for nothing unless the two differ.
    conn.set_client_encoding(conn.info.parameter_status("client_encoding") or conn.encoding)
    # Out of autocommit these are part of each BEGIN. In autocommit they are settings of the session.
    if characteristics:
        conn.set_session(conn.isolation_level, conn.readonly, conn.deferrable)


def _refuse_in_transaction(conn: Any, what: str) -> None:
    status = getattr(getattr(conn, "info", None), "transaction_status", None)
    if status in _IN_TRANSACTION or getattr(conn, "status", None) == extensions.STATUS_PREPARED:
        raise psycopg2.ProgrammingError(f"{what} cannot be used inside a transaction")


@contextlib.contextmanager
def _autocommit(conn: Any) -> Iterator[bool]:
    """Switch autocommit on for a block, and tell whether it was on before."""
    if isinstance(conn, ReplicationConnection):
        # It is on, and can be neither read nor set.
        yield False
        return
    before = conn.autocommit
    if getattr(conn, "status", extensions.STATUS_READY) == extensions.STATUS_BEGIN:
        # Somebody has ended the transaction in SQL, which the server knows, and psycopg2 does not.
        conn.rollback()
    try:
        conn.autocommit = True
        yield before
    except BaseException:
        # A dead connection lets nothing be set. The first error is the one to be heard.
        with contextlib.suppress(psycopg2.Error, OSError):
            conn.autocommit = before
        raise
    conn.autocommit = before


class _Watchdog:
    """Shuts down a connection's socket if a block takes too long, so that it waits for the server no more."""

    def __init__(self, conn: Any) -> None:
        self.has_bitten = False
        self._conn = conn
        self._socket: socket.socket | None = None
        # Held while it bites, so that it never does so after the block.
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def set_to(self, seconds: float) -> Iterator[None]:
        """Watch a block for so many seconds; for ever, which is not at all, if that is infinity."""
        if seconds < math.inf:
            self._socket = _duplicate_of_socket(self._conn)
        if self._socket is None:
            yield
            return
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._bite)
        timer.daemon = True
        try:
            # Where there can be no more threads, as at the interpreter's end, an unlimited check is better than none.
            with contextlib.suppress(RuntimeError):
                timer.start()
            yield
        finally:
            timer.cancel()
            self._call_off()

    def _bite(self) -> None:
        with self._lock:
            if self._socket is not None:
                self.has_bitten = True
                with contextlib.suppress(OSError):  # The connection has ended by itself.
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _call_off(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _duplicate_of_socket(conn: Any) -> socket.socket | None:
    """Give a socket of our own on the connection: what is shut down can then not be anything else meanwhile."""
    fileno = getattr(conn, "fileno", None)
    number = fileno() if callable(fileno) else None
    if not isinstance(number, int):
        return None
    try:
        # Its family is of no interest to one who only shuts it down.
        return socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
