"""Close a connection of a limited pool: its place is free once the server has ended the session."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any, Final

from psycopg2 import Error

PATIENCE: Final = 0.3  # seconds: a server that takes longer runs a statement, or is far away


def close(connection: Any) -> None:
    """Close the connection, and wait until the server hangs up, `PATIENCE` seconds at most."""
    twin = _twin(connection)
    if twin is None:
        connection.close()
        return
    with twin, suppress(OSError):  # the server may reset the connection
        connection.close()
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            twin.settimeout(left)
            if not twin.recv(8192):
                break


def _twin(connection: Any) -> socket.socket | None:
    """Return another descriptor of the connection's socket, which stays open when the connection is closed."""
    try:
        descriptor = os.dup(connection.fileno())
    except (AttributeError, Error, OSError, TypeError, ValueError):  # closed, or no connection of psycopg2's
        return None
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
