"""What the services are told by their environment, and what each of them can tell of its pool."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

SETTINGS: dict[str, Any] = {
    "minconn": 1,
    "maxconn": int(os.environ["SERVICE_MAXCONN"]),
    "dsn": os.environ["SERVICE_DSN"],
    "application_name": os.environ["SERVICE_NAME"],
    "timeout": float(os.environ["SERVICE_TIMEOUT"]),
    "max_idle": 300,
}


def ask(connection: Any, query: str, *parameters: Any) -> Any:
    """Return the first column of the answer's first row."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]


def work(connection: Any, seconds: float) -> dict[str, int]:
    """Let the database work."""
    return {"process": os.getpid(), "backend": ask(connection, "select pg_backend_pid() from pg_sleep(%s)", seconds)}


def whole(pool: Any) -> dict[str, Any]:
    """Borrow everything that the pool may lend, at once, and tell which sessions these are."""
    with ExitStack() as held:
        lent = [held.enter_context(pool.connection(timeout=20)) for _ in range(pool.maxconn)]
        backends = [ask(connection, "select pg_backend_pid()") for connection in lent]
    return {"process": os.getpid(), "backends": backends, "size": pool.get_stats()["pool_size"]}
