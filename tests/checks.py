"""What the tests of check_query and discard_all share: queries that fail, and servers that fall silent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2 import extensions

# Seconds: long enough that no test waits for it to end, and short enough to wait for.
LONG = 60.0
SHORT = 0.2

SET = extensions.ISOLATION_LEVEL_SERIALIZABLE
CHARACTERISTICS = "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"


def execute(connection: Any, query: str) -> Any:
    """Run a query; return the first column of its first row."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0] if cursor.description else None


@contextmanager
def silenced(connection: Any) -> Iterator[None]:
    """Halt the server's process that serves this connection: the socket stays open, and nobody answers."""
    pid = connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def failing(connection: Any, error: BaseException) -> None:
    """Let each query of this connection fail so."""

    class Cursor(extensions.cursor):
        def execute(self, query: Any, parameters: Any = None) -> None:
            raise error

    connection.cursor_factory = Cursor
