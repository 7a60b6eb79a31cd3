"""Threads that ask for the same new key at once: one connection is opened and all get it."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from psycopg2.pool import PoolError

from pgpool_rs import PoolClosed, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, wait_until, waiting_task

DOWN = psycopg2.OperationalError("down")


class Stop(BaseException):
    """Stands for KeyboardInterrupt, GreenletExit and the like."""


class Key:
    """A key of which all copies are equal, and which counts how often one was found to be."""

    compared = 0

    def __init__(self) -> None:
        type(self).compared = 0

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return isinstance(other, Key)


class Crowd:
    """Threads that ask for the same key while the first of them is held in connect."""

    def __init__(self, pool: Any, server: FakeServer, size: int = 6, **options: Any) -> None:
        self.gate = server.hold("connect")
        self.first: Task[Any] = Task(pool.getconn, Key(), **options)
        self.gate.wait_for()
        self.others: list[Task[Any]] = []
        for _ in range(size):
            # One after the other, each until it has seen the key that is being opened or, if the pool is wrong,
            # until it connects for itself or has an answer.
            seen, arrived = Key.compared, self.gate.arrived
            task: Task[Any] = Task(lambda: pool.getconn(_copy(), **options))
            self.others.append(task)
            wait_until(lambda: Key.compared > seen or self.gate.arrived > arrived or task.done)  # noqa: B023

    @property
    def tasks(self) -> list[Task[Any]]:
        """All of them, the first one first."""
        return [self.first, *self.others]


def _copy() -> Key:
    return Key.__new__(Key)


@pytest.mark.parametrize("options", [{}, {"timeout": 0}, {"timeout": None}, {"timeout": 60}], ids=repr)
@pytest.mark.parametrize("maxconn", [1, 9])
def test_one_connection_is_opened_and_all_get_it_with_no_room_of_their_own(
    server: FakeServer, options: dict[str, Any], maxconn: int
) -> None:
    pool: Any = ThreadedConnectionPool(0, maxconn)
    crowd = Crowd(pool, server, **options)
    assert counts(pool)["opening"] == 1
    crowd.gate.release()
    connection = crowd.first.result()
    assert all(task.result() is connection for task in crowd.others)
    assert server.calls("connect") == [1]
    assert len(pool._used) == 1
    pool.putconn(connection, _copy())
    assert_whole(pool)


@pytest.mark.parametrize("error", [DOWN, Stop("stop")], ids=["Exception", "BaseException"])
@pytest.mark.parametrize("failures", [1, 3, 100])
def test_where_opening_fails_each_gets_the_error_or_tries_itself_and_nothing_hangs(
    server: FakeServer, error: BaseException, failures: int
) -> None:
    pool: Any = ThreadedConnectionPool(0, 9)
    server.fail("connect", *[error] * failures)
    crowd = Crowd(pool, server)
    crowd.gate.release()
    for task in crowd.tasks:
        task.wait()
    assert crowd.first.error is error
    assert all(task.error in (None, error) for task in crowd.others)
    served = {id(task.result()) for task in crowd.others if task.error is None}
    assert len(served) <= 1
    assert server.peak == 1
    if failures == 100:
        assert served == set()
    elif failures == 1:
        # A KeyboardInterrupt or a killed greenlet is one thread's affair.
        assert isinstance(error, Exception) or all(task.error is None for task in crowd.others)
        assert server.open == len(served) == 1
    for connection in list(pool._used.values()):
        pool.putconn(connection)
    server.calm()
    assert_whole(pool)


def test_closeall_while_it_is_opened_refuses_all_of_them_and_closes_it_when_it_comes(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 9)
    crowd = Crowd(pool, server)
    pool.closeall()
    crowd.gate.release()
    for task in crowd.tasks:
        with pytest.raises(PoolClosed):
            task.result()
    assert server.open == 0


def test_waiters_for_the_same_key_are_all_served_by_the_first_one_that_is(server: FakeServer) -> None:
    """The others were queued for room of their own, which they hand on."""
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool, key="shared") for _ in range(3)]
    behind = waiting_task(pool)
    pool.putconn(connection)
    assert all(waiter.result() is connection for waiter in waiters)
    assert counts(pool)["waiting"] == 1
    pool.putconn(connection, "shared")
    pool.putconn(behind.result())
    assert_whole(pool)


def test_waiters_for_the_same_key_whose_opening_fails_are_not_left_waiting(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool, key="shared") for _ in range(3)]
    server.fail("connect", DOWN)
    pool.putconn(connection, close=True)
    for waiter in waiters:
        waiter.wait()
    errors = [waiter.error for waiter in waiters]
    assert DOWN in errors
    assert set(errors) <= {DOWN, None}
    for left in list(pool._used.values()):
        pool.putconn(left)
    assert_whole(pool)


def test_a_waiter_for_a_key_that_another_thread_gets_meanwhile_is_served_at_once(server: FakeServer) -> None:
    """With a key that is lent, nobody needs room."""
    pool: Any = ThreadedConnectionPool(2, 2)
    first, second = pool.getconn(), pool.getconn()
    ahead = waiting_task(pool, key="shared")
    unrelated = waiting_task(pool)
    behind = waiting_task(pool, key="shared")
    pool.putconn(first)
    assert ahead.result() is behind.result() is first
    assert not unrelated.done
    pool.putconn(second)
    assert unrelated.result() is second
    pool.putconn(first)
    pool.putconn(second)
    assert_whole(pool)


def test_a_returned_key_asked_for_at_once_by_many_is_lent_to_all_or_opened_once(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 9)

    def use() -> None:
        for _ in range(200):
            connection = pool.getconn("shared")
            assert connection.server is server
            try:
                pool.putconn(connection, "shared")
            except PoolError as error:
                assert "unkeyed" in str(error) or "lent under" in str(error)  # noqa: PT017

    for task in [Task(use) for _ in range(6)]:
        task.result()
    assert server.peak <= 9
    for connection in list(pool._used.values()):
        pool.putconn(connection)
    assert_whole(pool)
