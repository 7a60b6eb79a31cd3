"""Ways in which a lent connection comes to its end when it comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2

from pgpool_rs.testing import INTRANS, UNKNOWN

WayOut = Callable[[Any, Any], None]


def discarded(pool: Any, connection: Any) -> None:
    pool.putconn(connection, close=True)


def found_closed(pool: Any, connection: Any) -> None:
    connection.set_closed(2)
    pool.putconn(connection)


def found_lost(pool: Any, connection: Any) -> None:
    connection.status = UNKNOWN
    pool.putconn(connection)


def failing_rollback(pool: Any, connection: Any) -> None:
    connection.status = INTRANS
    connection.faults["rollback"] = psycopg2.OperationalError("down")
    pool.putconn(connection)


def failing_close(pool: Any, connection: Any) -> None:
    connection.faults["close"] = psycopg2.OperationalError("down")
    pool.putconn(connection, close=True)


WAYS_OUT: list[WayOut] = [discarded, found_closed, found_lost, failing_rollback, failing_close]
