"""Closing the pool, and what a closed pool still shows."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import FakeServer


def test_idle_connections_are_closed_first_then_the_lent_ones_in_the_order_of_lending(
    pool_class: Any, server: FakeServer
) -> None:
    pool = pool_class(4, 6)
    lent = [pool.getconn(key) for key in ("b", None, "a", None, None)]
    pool.putconn(lent.pop(1))
    pool.putconn(lent.pop(0))
    pool.getconn("c")
    idle = [connection.serial for connection in pool._pool]
    expected = idle + [connection.serial for connection in pool._used.values()]
    assert pool.closeall() is None
    assert server.calls("close") == expected == [3, 2, 1, 5, 4]
    assert server.open == 0


def test_pool_and_used_keep_what_they_held(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 3)
    connection = pool.getconn("a")
    idle = list(pool._pool)
    pool.closeall()
    assert pool.closed is True
    assert list(pool._pool) == idle
    assert pool._used == {"a": connection}
    assert pool._rused == {id(connection): "a"}


def test_a_close_that_fails_does_not_stop_the_others(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(3, 3)
    server.fail("close", psycopg2.OperationalError("down"), OSError("odd"))
    pool.closeall()
    assert server.calls("close") == [1, 2, 3]
    assert pool.closed is True


def test_everything_is_refused_afterwards(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    connection = pool.getconn()
    pool.closeall()
    for call in (pool.getconn, lambda: pool.putconn(connection), pool.closeall):
        with pytest.raises(PoolError) as raised:
            call()
        assert str(raised.value) == "connection pool is closed"
    assert server.calls("close") == [1]


def test_an_empty_pool_can_be_closed(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    pool.closeall()
    assert pool.closed is True
    assert server.log == []


def test_closed_can_be_assigned_to_refuse_everything(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    pool.closed = True
    with pytest.raises(PoolError, match=r"(?m)^connection pool is closed$"):
        pool.getconn()
    assert server.calls("close") == []
    pool.closed = False
    assert pool.getconn().serial == 1


def test_a_pool_revived_by_assigning_closed_lends_what_it_held(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 2)
    lent = pool.getconn()
    pool.closeall()
    pool.closed = False
    assert pool.closed is False
    idle = pool.getconn()
    assert (idle.serial, idle.closed) == (1, 1)
    pool.putconn(idle)
    pool.putconn(lent)
    assert (list(pool._pool), dict(pool._used)) == ([], {})
    assert pool.getconn().serial == 3


def test_a_close_that_closes_the_pool_is_borne_by_the_simple_pool(pool_module: ModuleType, server: FakeServer) -> None:
    pool = pool_module.SimpleConnectionPool(0, 2)
    kept, connection = pool.getconn("kept"), pool.getconn("a")

    def close_once(_: object) -> None:
        server.on("close", bool)
        pool.closeall()

    server.on("close", close_once)
    pool.putconn(connection)
    assert pool.closed is True
    assert not server.sees(kept)
    assert not server.sees(connection)
