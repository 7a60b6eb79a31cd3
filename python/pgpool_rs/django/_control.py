"""The pools of this process, and how it answers `manage.py pgpool`: on a socket in Linux's abstract namespace.

A command that asks must know the project's SECRET_KEY.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener, answer_challenge, deliver_challenge
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.utils.encoding import force_bytes

from pgpool_rs._core import if_free
from pgpool_rs._fork import renewed_by_fork
from pgpool_rs._threads import CANNOT_START, start

if TYPE_CHECKING:
    from pgpool_rs import ThreadedConnectionPool

pools: dict[tuple[str, str], ThreadedConnectionPool] = {}
"""By alias and database."""
ADDRESS = "\0pgpool_rs.django."
_PATIENCE = 5  # seconds
_listening = 0  # the process that answers
_starting = renewed_by_fork(threading.Lock())


def listen() -> None:
    """Begin to answer, once in each process, if "pgpool_rs.django" is an installed app and this is Linux."""
    if apps.apps_ready and _listening != os.getpid() and sys.platform == "linux":
        # A request needs no answering thread. The next request tries again.
        with suppress(*CANNOT_START):
            if_free(_starting, _begin)


def _begin() -> None:
    global _listening  # noqa: PLW0603
    if _listening != os.getpid() and apps.is_installed("pgpool_rs.django"):
        start(threading.Thread(target=_answer, name="pgpool_rs.django", daemon=True))
    _listening = os.getpid()


def _answer() -> None:
    # Without the key: with it, accept() would wait for what a client says.
    with Listener(f"{ADDRESS}{os.getpid()}") as listener:
        while True:
            with suppress(*CANNOT_START):
                start(threading.Thread(target=_serve, args=(listener.accept(),), daemon=True))


def _serve(client: Any) -> None:
    key = force_bytes(settings.SECRET_KEY)
    with suppress(OSError, EOFError, AuthenticationError), client:
        # A client that says nothing is given up, and its thread ends.
        with socket.socket(fileno=os.dup(client.fileno())) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _PATIENCE, 0))
        deliver_challenge(client, key)
        answer_challenge(client, key)
        if client.recv() == "drain":
            for pool in list(pools.values()):
                pool.drain()
        client.send({alias: pool.get_stats() for (alias, _), pool in list(pools.items())})
