"""One SQL statement."""

from __future__ import annotations

from typing import Any


def execute(connection: Any, query: str = "select pg_backend_pid()", parameters: Any = None) -> Any:
    """Run a statement; return the first column of its first row."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0] if cursor.description else None
