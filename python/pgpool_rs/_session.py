"""Let sessions end with their processes, and wait for the end of one whose connection was closed."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any, Final

import psycopg2

# How long the server may take, in seconds.
_LONGEST: Final = 1.0
# The connection is closed, or has no socket.
_NONE: Final = AttributeError, TypeError, ValueError, OSError, psycopg2.Error

_sockets: Final[dict[int, tuple[os.stat_result, int]]] = {}
"""By descriptor: the state, by which it is known again, and the process that opened it."""


def leave_in_parent(connection: Any) -> None:
    """Take the connection from each child of a fork, where a copy of its socket would keep the session open."""
    with suppress(*_NONE):
        descriptor = connection.fileno()
        _sockets[descriptor] = os.fstat(descriptor), os.getpid()


def leave() -> None:
    """Leave to the parent what it had. For the child of a fork."""
    if not _sockets:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, (seen, process) in list(_sockets.items()):
        if process != os.getpid():
            _sockets.pop(descriptor, None)  # unless another thread has done so
            with suppress(OSError):
                # The inode is 0 for every socket where the system gives none.
                if seen.st_ino and os.path.samestat(os.fstat(descriptor), seen):
                    os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)


os.register_at_fork(after_in_child=leave)


def session_of(connection: Any) -> socket.socket | None:
    """Return the socket of a connection, for `await_end`. None: it has none, or is closed."""
    try:
        return socket.socket(fileno=os.dup(connection.fileno()))
    except _NONE:
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
