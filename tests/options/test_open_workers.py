"""The first minconn connections are opened at the same time, by as many threads as were asked for."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolError, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_sound
from tests.lib.waits import Task, counts, wait_until


@pytest.mark.parametrize(("minconn", "workers", "together"), [(4, 4, 4), (4, 2, 2), (2, 8, 2), (3, 1, 1), (1, 5, 1)])
def test_so_many_are_opened_at_the_same_time(
    server: FakeServer, our_class: Any, minconn: int, workers: int, together: int
) -> None:
    with server.hold("connect") as gate:
        making = Task(our_class, minconn, 10, open_workers=workers)
        gate.wait_for(together)
        for number in range(minconn):
            assert server._connecting <= together
            gate.let_one_through()
            wait_until(lambda number=number: len(server.connections) > number)  # type: ignore[misc]
        pool: Any = making.result()
    assert (counts(pool)["idle"], len(server.arguments)) == (minconn, minconn)
    pool.resize(minconn, minconn)
    assert_sound(pool, server)


def test_none_is_opened_where_none_is_kept(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 3, open_workers=3)
    assert server.arguments == []
    assert_sound(pool, server)


def test_one_worker_is_the_caller(server: FakeServer, our_class: Any) -> None:
    threads: list[str] = []
    server.on("connect", lambda _: threads.append(threading.current_thread().name))
    our_class(3, 3)
    assert set(threads) == {threading.current_thread().name}


def test_the_workers_are_named_after_the_pool_and_end_with_the_constructor(server: FakeServer, our_class: Any) -> None:
    threads: set[threading.Thread] = set()
    server.on("connect", lambda _: threads.add(threading.current_thread()))
    our_class(6, 6, open_workers=3, name="web")
    assert all(thread.name.startswith("pgpool_rs web opening") for thread in threads)
    assert not any(thread.is_alive() for thread in threads)


def test_later_connections_are_opened_by_who_needs_them(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 3, open_workers=2)
    lent = [pool.getconn() for _ in range(2)]
    threads: list[threading.Thread] = []
    server.on("connect", lambda _: threads.append(threading.current_thread()))
    lent.append(pool.getconn())
    for connection in lent:
        connection.close()
        pool.putconn(connection)
    pool.maintain()
    assert set(threads) == {threading.current_thread()}
    assert_sound(pool, server)


@pytest.mark.parametrize("begun", [0, 1])
def test_where_not_all_threads_can_be_started_the_caller_opens_some(
    server: FakeServer, our_class: Any, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = threading.Thread.start, [True] * begun

    def start_some(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    pool = our_class(4, 4, open_workers=3)
    assert (counts(pool)["idle"], len(server.arguments)) == (4, 4)
    assert_sound(pool, server)


def test_where_one_fails_the_others_are_waited_for(server: FakeServer, our_class: Any) -> None:
    server.fail("connect", psycopg2.OperationalError("down"))
    with server.hold("connect") as gate:
        making = Task(our_class, 3, 3, open_workers=3)
        gate.wait_for(3)
        gate.let_one_through()
        wait_until(lambda: server._connecting == 2)
        assert not making.done
    with pytest.raises(psycopg2.OperationalError):
        making.result()
    assert server.open == 0


def test_where_one_fails_no_more_are_begun(server: FakeServer, our_class: Any) -> None:
    server.fail("connect", psycopg2.OperationalError("down"))
    with pytest.raises(psycopg2.OperationalError):
        our_class(50, 50, open_workers=1)
    assert len(server.arguments) == 1


@pytest.mark.parametrize(("error", "is_raised"), [(psycopg2.OperationalError("x"), False), (KeyboardInterrupt(), True)])
def test_of_the_errors_of_a_connect_and_of_a_close_the_weightier_is_raised(
    server: FakeServer, our_class: Any, error: BaseException, *, is_raised: bool
) -> None:
    first = ValueError("first")
    server.fail("connect", None, None, first)
    server.fail("close", error)
    with pytest.raises((ValueError, KeyboardInterrupt)) as raised:
        our_class(3, 3, open_workers=2)
    assert raised.value is (error if is_raised else first)
    assert server.open == 0


def test_a_hook_of_a_subclass_opens_them(server: FakeServer, our_class: Any) -> None:
    class Pool(our_class):  # type: ignore[misc]
        opened = 0

        def _connect(self, key: Any = None) -> Any:
            type(self).opened += 1
            return super()._connect(key)

    Pool(3, 3, open_workers=3)
    assert Pool.opened == 3


def test_a_connect_may_use_the_pool_that_is_being_made(server: FakeServer) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            self.get_stats()
            repr(self)
            return super()._connect(key)

    pool: Any = Pool(3, 4, open_workers=2)
    assert_sound(pool, server)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_that_is_closed_while_it_is_made_keeps_nothing(server: FakeServer, our_class: Any, workers: int) -> None:
    made: list[Any] = []

    class Pool(our_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            made.append(self)
            return super()._connect(key)

    def act(_: Any) -> None:
        if not made[0].closed:
            made[0].closeall()

    server.on("connect", act)
    with pytest.raises(PoolError, match="closed"):
        Pool(3, 3, open_workers=workers)
    assert server.open == 0


def test_options_that_the_thread_needs_work_with_it(server: FakeServer, our_class: Any) -> None:
    pool = our_class(3, 3, open_workers=3, max_idle=10, background=True)
    assert counts(pool)["idle"] == 3
    assert_sound(pool, server)
