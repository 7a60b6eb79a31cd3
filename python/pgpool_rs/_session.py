"""Wait until the server has ended the session of a connection that was closed."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any, Final

import psycopg2

# How long the server may take, in seconds.
_LONGEST: Final = 0.3


def session_of(connection: Any) -> socket.socket | None:
    """Return the socket of a connection, for `await_end`. None: it has none, or is closed."""
    try:
        return socket.socket(fileno=os.dup(connection.fileno()))
    except (AttributeError, TypeError, ValueError, OSError, psycopg2.Error):
        return None


def await_end(session: socket.socket) -> None:
    """Wait until the server has ended the session, for a moment at most."""
    deadline = time.monotonic() + _LONGEST
    with suppress(OSError), session:
        session.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            session.settimeout(left)
            if not session.recv(4096):
                break
