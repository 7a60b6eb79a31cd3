"""Whatever makes room wakes the first waiter, and closing the pool wakes all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, ThreadedConnectionPool
from pgpool_rs.testing import ACTIVE, INTRANS, FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, waiting_task
from tests.lib.ways_out import WAYS_OUT

DOWN = psycopg2.OperationalError("down")


def lend_all(pool: Any) -> list[Any]:
    return [pool.getconn() for _ in range(pool.maxconn)]


def by_return(pool: Any, connection: Any) -> None:
    pool.putconn(connection)


def by_return_after_a_rollback(pool: Any, connection: Any) -> None:
    connection.status = ACTIVE
    pool.putconn(connection)


def by_interrupted_rollback(pool: Any, connection: Any) -> None:
    connection.status = INTRANS
    connection.faults["rollback"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(connection)


def by_interrupted_close(pool: Any, connection: Any) -> None:
    connection.faults["close"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(connection, close=True)


def by_raising_maxconn(pool: Any, connection: Any) -> None:
    pool.maxconn = 2


def by_writing_into_pool(pool: Any, connection: Any) -> None:
    """Do what a subclass's own putconn does where it edits the views itself."""
    key = pool._rused[id(connection)]
    pool._pool.append(connection)
    del pool._used[key]
    del pool._rused[id(connection)]


WAKERS = [
    by_return,
    by_return_after_a_rollback,
    *WAYS_OUT,
    by_interrupted_rollback,
    by_interrupted_close,
    by_raising_maxconn,
    by_writing_into_pool,
]


@pytest.mark.parametrize("minconn", [0, 1])
@pytest.mark.parametrize("wake", WAKERS, ids=[wake.__name__ for wake in WAKERS])
def test_a_waiter_is_woken(server: FakeServer, wake: Callable[[Any, Any], None], minconn: int) -> None:
    pool: Any = ThreadedConnectionPool(minconn, 1)
    (connection,) = lend_all(pool)
    first, second = waiting_task(pool), waiting_task(pool)
    wake(pool, connection)
    lent = first.result()
    assert lent.closed == 0
    assert not second.done
    pool.putconn(lent)
    pool.putconn(second.result())
    for left in list(pool._used.values()):
        pool.putconn(left)
    assert server.peak <= pool.maxconn
    assert_whole(pool)


@pytest.mark.parametrize("error", [DOWN, KeyboardInterrupt()], ids=["Exception", "BaseException"])
def test_a_failed_connect_wakes_the_next_waiter(server: FakeServer, error: BaseException) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    with server.hold("connect") as gate:
        server.fail("connect", error)
        opener = Task(pool.getconn)
        gate.wait_for()
        waiters = [waiting_task(pool), waiting_task(pool)]
    with pytest.raises(type(error)):
        opener.result()
    for waiter in waiters:
        pool.putconn(waiter.result())
    assert_whole(pool)


def test_a_waiter_whose_own_connect_fails_gets_the_error_and_the_next_one_tries(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool) for _ in range(3)]
    server.fail("connect", DOWN, DOWN)
    pool.putconn(connection, close=True)
    for waiter in waiters[:2]:
        with pytest.raises(psycopg2.OperationalError):
            waiter.result()
    pool.putconn(waiters[2].result())
    assert_whole(pool)


@pytest.mark.parametrize("closing", ["closeall", "closed = True"])
def test_closing_wakes_all_waiters_with_pool_closed(server: FakeServer, closing: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool, key=key) for key in (None, "a", "b", None)]
    if closing == "closeall":
        pool.closeall()
    else:
        pool.closed = True
    for waiter in waiters:
        with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$"):
            waiter.result()
    assert counts(pool)["waiting"] == 0
    if closing != "closeall":
        pool.closed = False
        pool.putconn(connection)
        assert_whole(pool)


def test_a_loan_does_not_wake_a_waiter_above_a_lowered_maxconn(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 2)
    first, second = lend_all(pool)
    pool.maxconn = 1
    waiter = waiting_task(pool)
    pool.putconn(first)
    assert (counts(pool)["waiting"], server.sees(first)) == (1, False)
    pool.putconn(second)
    pool.putconn(waiter.result())
    assert server.open == 1
    assert_whole(pool)
