"""Waiters are served in order, and no caller overtakes."""

from __future__ import annotations

from typing import Any

import pytest

from pgpool_rs import PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, waiting_task


def test_waiters_with_and_without_keys_and_timeouts_are_served_in_the_order_in_which_they_came(
    server: FakeServer,
) -> None:
    pool: Any = ThreadedConnectionPool(2, 2)
    lent = [pool.getconn(), pool.getconn()]
    waiters = [
        waiting_task(pool, key="a"),
        waiting_task(pool, timeout=60),
        waiting_task(pool, key=0, timeout=60),
        *(waiting_task(pool) for _ in range(3)),
    ]
    for served, waiter in enumerate(waiters):
        connection = lent.pop(0)
        pool.putconn(connection)
        assert waiter.result() is connection
        lent.append(connection)
        assert [waiter.done for waiter in waiters] == [True] * (served + 1) + [False] * (5 - served)
        assert counts(pool)["waiting"] == 5 - served
    for connection in lent:
        pool.putconn(connection)
    assert_whole(pool)


def test_a_newcomer_never_overtakes_a_waiter(server: FakeServer) -> None:
    """What comes back is promised to the waiter at once, so the thread that gave it back cannot take it again."""
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    for _ in range(200):
        waiter = waiting_task(pool)
        pool.putconn(connection)
        with pytest.raises(PoolExhausted):
            pool.getconn()
        with pytest.raises(PoolExhausted):
            pool.getconn("key", timeout=0)
        assert waiter.result() is connection
    pool.putconn(connection)
    assert_whole(pool)


def return_and_borrow(pool: Any, connection: Any) -> Any:
    pool.putconn(connection)
    return pool.getconn(timeout=None)


def test_a_newcomer_that_is_ready_to_wait_stands_behind(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    for _ in range(50):
        first = waiting_task(pool)
        second = Task(return_and_borrow, pool, connection)
        assert first.result() is connection
        assert not second.done
        pool.putconn(connection)
        assert second.result() is connection
    pool.putconn(connection)
    assert_whole(pool)


def test_raising_maxconn_by_two_serves_two_waiters_and_no_newcomer(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    connection = pool.getconn()
    with server.hold("connect"):
        waiters = [waiting_task(pool) for _ in range(3)]
        pool.maxconn = 3
        with pytest.raises(PoolExhausted):
            pool.getconn()
    assert len({waiter.result().serial for waiter in waiters[:2]}) == 2
    assert (waiters[2].done, counts(pool)["waiting"], server.peak) == (False, 1, 3)
    pool.putconn(connection)
    waiters[2].result()
