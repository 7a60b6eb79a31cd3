"""closeall against everything that is under way at that moment."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, ThreadedConnectionPool
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.waits import Task, counts, waiting_task


@pytest.mark.parametrize("key", [None, "key"])
def test_a_connection_that_was_being_opened_is_closed_when_it_comes(server: FakeServer, key: object) -> None:
    pool: Any = ThreadedConnectionPool(1, 3)
    pool.getconn()
    with server.hold("connect") as gate:
        opening = [Task(pool.getconn, key), Task(pool.getconn)]
        gate.wait_for(2)
        Task(pool.closeall).result()
        assert pool.closed is True
    for task in opening:
        with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$"):
            task.result()
    assert server.open == 0
    assert sorted(server.calls("close")) == [1, 2, 3]


@pytest.mark.parametrize("call", ["rollback", "closed", "info"])
def test_a_connection_that_was_being_returned_is_closed_when_it_comes_back(server: FakeServer, call: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 3)
    connection = pool.getconn()
    connection.status = INTRANS
    with server.hold(call) as gate:
        returning = Task(pool.putconn, connection)
        gate.wait_for()
        Task(pool.closeall).result()
    returning.wait()
    assert returning.error is None or isinstance(returning.error, PoolClosed)
    assert server.open == 0
    assert connection not in list(pool._pool)


def test_a_connection_that_was_being_closed_is_not_waited_for(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 3)
    connection = pool.getconn()
    with server.hold("close") as gate:
        returning = Task(pool.putconn, connection, None, True)
        gate.wait_for()
        server.calm_gate("close")
        Task(pool.closeall).result()
        assert pool.closed is True
    returning.wait()
    assert server.open == 0


@pytest.mark.parametrize("call", ["connect", "close"])
def test_a_connect_that_ends_after_closeall_raises_its_own_error_or_pool_closed(server: FakeServer, call: str) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    server.fail(call, psycopg2.OperationalError("down"))
    with server.hold("connect") as gate:
        opening = Task(pool.getconn)
        gate.wait_for()
        pool.closeall()
    with pytest.raises(PoolClosed if call == "close" else (psycopg2.OperationalError, PoolClosed)):
        opening.result()
    assert (counts(pool)["opening"], server.open) == (0, 0)


def test_of_many_threads_that_close_the_pool_one_does_and_the_others_are_refused(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(4, 4)
    pool.getconn()
    tasks = [Task(pool.closeall) for _ in range(8)]
    for task in tasks:
        task.wait()
    refused = [task.error for task in tasks if task.error is not None]
    assert len(refused) == 7
    assert all(isinstance(error, PoolClosed) for error in refused)
    assert sorted(server.calls("close")) == [1, 2, 3, 4]


@pytest.mark.parametrize("calls", [10, 50, 100, 200, 500])
def test_closing_in_the_midst_of_traffic_leaves_nothing_open_and_nobody_waiting(server: FakeServer, calls: int) -> None:
    pool: Any = ThreadedConnectionPool(1, 3, timeout=None)

    def work() -> None:
        while True:
            connection = pool.getconn()
            connection.status = INTRANS
            pool.putconn(connection, close=connection.serial % 3 == 0)

    tasks: list[Task[Any]] = [Task(work) for _ in range(6)]
    while len(server.log) < calls:
        assert not any(task.done for task in tasks)
    pool.closeall()
    for task in tasks:
        with pytest.raises(PoolClosed):
            task.result()
    assert server.open == 0
    assert server.peak <= 3


def test_waiters_and_newcomers_are_refused_also_while_something_is_still_being_opened(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    with server.hold("connect") as gate:
        opening = Task(pool.getconn)
        gate.wait_for()
        waiter = waiting_task(pool)
        pool.closeall()
        with pytest.raises(PoolClosed):
            waiter.result()
        with pytest.raises(PoolClosed):
            pool.getconn()
    with pytest.raises(PoolClosed):
        opening.result()
    assert server.open == 0


def test_a_connection_that_a_hook_has_filed_by_itself_is_closed_if_the_pool_was_closed_meanwhile(
    server: FakeServer,
) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            connection = psycopg2.connect()
            self.closeall()
            self._used[key] = connection
            self._rused[id(connection)] = key
            return connection

    pool = Pool(0, 1)
    with pytest.raises(PoolClosed):
        pool.getconn("key")
    assert server.open == 0
