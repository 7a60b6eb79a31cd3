"""Wait until the server has ended the session of a connection that was closed."""

from __future__ import annotations

import os
import socket
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
    with suppress(OSError), session:
        session.settimeout(_LONGEST)
        session.shutdown(socket.SHUT_WR)
        while session.recv(4096):
            pass
