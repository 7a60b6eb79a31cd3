"""`max_waiting` callers wait; one more is told at once, and disturbs none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolExhausted, PoolTimeout, SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs import TooManyRequests as TooMany
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.pools import assert_sound, assert_whole
from tests.lib.waits import Task, counts, held, wait_for_waiters, waiting_task

TEXT = r"(?m)^connection pool exhausted: 2 callers wait for a connection of pool '[^']+', and no more may$"


def crowded(**options: Any) -> tuple[Any, Any, list[Task[Any]]]:
    """Make a pool whose connection is lent, and for which `max_waiting` callers wait: two."""
    pool: Any = ThreadedConnectionPool(1, 1, max_waiting=2, **options)
    return pool, pool.getconn(), [waiting_task(pool), waiting_task(pool)]


def serve(pool: Any, connection: Any, waiters: list[Task[Any]]) -> None:
    """Serve all waiters, in their order."""
    for waiter in waiters:
        pool.putconn(connection)
        connection = waiter.result()
    pool.putconn(connection)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("timeout", [5, None])
def test_one_more_than_may_wait_is_told_at_once(server: FakeServer, timeout: float | None, key: object) -> None:
    pool, connection, waiters = crowded()
    with pytest.raises(TooMany, match=TEXT):
        pool.getconn(key, timeout=timeout)
    assert counts(pool)["waiting"] == 2
    serve(pool, connection, waiters)
    assert_sound(pool, server)


def test_the_pools_own_timeout_counts_too(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, max_waiting=1, timeout=30)
    connection = pool.getconn()
    waiter = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    with pytest.raises(TooMany), pool.connection():
        pass
    pool.putconn(connection)
    pool.putconn(waiter.result())
    assert_sound(pool, server, timeout=0)


def test_who_would_not_wait_is_refused_as_ever(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, max_waiting=1)
    connection = pool.getconn()
    with pytest.raises(PoolExhausted) as refused:
        pool.getconn()
    assert not isinstance(refused.value, TooMany)
    waiter = waiting_task(pool)
    with pytest.raises(PoolExhausted):
        pool.getconn()
    pool.putconn(connection)
    pool.putconn(waiter.result())


def test_who_has_left_makes_room_for_another(server: FakeServer) -> None:
    pool, connection, (first, second) = crowded()
    pool.putconn(connection)
    connection = first.result()
    third = waiting_task(pool)
    with pytest.raises(TooMany, match=TEXT):
        pool.getconn(timeout=5)
    serve(pool, connection, [second, third])
    assert_sound(pool, server)


def test_who_has_timed_out_makes_room_for_another(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, max_waiting=1)
    connection = pool.getconn()
    for _ in range(3):
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.005)
    serve(pool, connection, [waiting_task(pool)])
    assert_sound(pool, server)


def test_without_a_bound_any_number_may_wait(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    serve(pool, connection, [waiting_task(pool) for _ in range(30)])
    assert_sound(pool, server)


def test_who_waits_for_a_key_that_another_opens_does_not_wait_for_room(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2, max_waiting=1)
    with held(server.hold("connect"), pool.getconn, "key") as opening:
        others = [waiting_task(pool, key="key") for _ in range(3)]
    assert {id(task.result()) for task in (opening, *others)} == {id(opening.result())}
    pool.putconn(opening.result())
    assert_sound(pool, server)


def test_who_waited_for_a_key_that_did_not_come_is_not_turned_away(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, max_waiting=1)
    server.fail("connect", psycopg2.OperationalError("down"))
    with held(server.hold("connect"), pool.getconn, "key") as opening:
        others = [waiting_task(pool, key="key") for _ in range(3)]
    with pytest.raises(psycopg2.OperationalError):
        opening.result()
    assert len({id(other.result()) for other in others}) == 1
    pool.putconn(others[0].result())
    assert_sound(pool, server)


def test_a_crowd_never_grows_beyond_its_bound(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 2, max_waiting=3, timeout=5)
    outcomes: list[str] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(40):
            try:
                connection = pool.getconn()
            except TooMany:
                outcomes.append("turned away")
            else:
                most.append(counts(pool)["waiting"])
                connection.status = INTRANS
                pool.putconn(connection)
                outcomes.append("served")

    server.on("rollback", lambda _: most.append(counts(pool)["waiting"]))
    for task in [Task(work) for _ in range(8)]:
        task.result()
    assert len(outcomes) == 8 * 40
    assert max(most) <= 3
    assert_sound(pool, server, timeout=0)


def test_it_is_counted_as_an_error_and_not_as_a_wait(server: FakeServer) -> None:
    pool, connection, waiters = crowded()
    before = pool.get_stats()
    with pytest.raises(TooMany):
        pool.getconn(timeout=5)
    after = pool.get_stats()
    counted = [name for name in after if not name.endswith("_ms") and after[name] != before[name]]
    changed = {name: after[name] - before[name] for name in counted}
    assert changed == {"requests_num": 1, "requests_errors": 1, "requests_crowded": 1}
    serve(pool, connection, waiters)
    assert pool.get_stats()["requests_queued"] == 2


def test_a_pool_of_one_thread_takes_no_bound(server: FakeServer) -> None:
    with pytest.raises(TypeError, match="SimpleConnectionPool takes no max_waiting"):
        SimpleConnectionPool(1, 1, max_waiting=1)
    assert server.arguments == []


@pytest.mark.parametrize("act", [lambda pool: pool.drain(), lambda pool: pool.maintain(), lambda pool: pool.check()])
def test_housekeeping_is_not_held_up_by_a_crowd(server: FakeServer, act: Callable[[Any], object]) -> None:
    pool, connection, waiters = crowded()
    act(pool)
    serve(pool, connection, waiters)
    assert_whole(pool)
