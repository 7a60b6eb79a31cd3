"""`open=False`: the constructor checks everything and connects nothing, until `open()`."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest

from pgpool_rs import AbstractConnectionPool, PoolClosed, ThreadedConnectionPool
from pgpool_rs._housekeeper import housekeeper
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_balanced, assert_sound, lend
from tests.lib.waits import Task, held, wait_until

AGEING: Any = {"background": True, "max_idle": 60, "max_lifetime": 600, "leak_after": 60, "open_workers": 2}


def test_it_connects_nothing_and_starts_no_thread_until_it_is_opened(server: FakeServer, our_class: Any) -> None:
    threads = threading.active_count()
    pool = our_class(2, 3, open=False, **AGEING)
    assert (server.open, threading.active_count(), housekeeper.cares_for(pool)) == (0, threads, False)
    assert (pool.closed, " unopened idle=0 " in repr(pool)) == (True, True)
    pool.resize(1, 2)
    assert housekeeper.cares_for(pool) is False
    pool.open()
    assert (server.open, pool.closed) == (1, False)
    assert housekeeper.cares_for(pool)
    pool.open()
    assert server.open == 1
    assert_sound(pool, server)


def test_every_call_that_needs_a_connection_says_what_is_to_be_done(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 2, open=False, name="shop")
    calls = [
        *(pool.getconn, lambda: pool.getconn("key"), pool.connection().__enter__, pool.check, pool.wait),
        *(pool._connect, lambda: pool.putconn(object()), lambda: pool.putconn(object(), "key")),
    ]
    for call in calls:
        with pytest.raises(PoolClosed, match=r"(?m)^the pool 'shop' is not open: call open\(\)$") as refusal:
            call()
        assert refusal.value.pool_name == "shop"
    pool.drain()
    pool.maintain()
    assert (server.open, pool.get_stats()["pool_size"]) == (0, 0)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"maxconn": -1}, ValueError), ({"max_idle": "5"}, TypeError), ({"hots": "db"}, TypeError)],
)
def test_the_constructor_checks_its_arguments_all_the_same(our_class: Any, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        our_class(**{"minconn": 0, "maxconn": 1, "open": False, **wrong})


def test_a_connect_that_fails_leaves_the_pool_unopened(server: FakeServer, our_class: Any) -> None:
    for workers in (1, 2):
        pool = our_class(3, 3, open=False, max_idle=60, open_workers=workers)
        server.fail("connect", None, psycopg2.OperationalError("down"))
        with pytest.raises(psycopg2.OperationalError, match="down"):
            pool.open()
        assert (server.open, pool.closed, housekeeper.cares_for(pool)) == (0, True, False)
        with pytest.raises(PoolClosed, match="is not open"):
            pool.getconn()
        pool.open()
        assert server.open == 3
        assert_sound(pool, server)
        pool.closeall()


def test_what_others_borrowed_from_an_opening_that_fails_comes_back_as_ever(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(2, 3, open=False)
    server.fail("connect", None, psycopg2.OperationalError("down"))
    gate = server.hold("connect")
    with held(gate, pool.open) as opener:
        gate.let_one_through()
        gate.wait_for(2)
        connection = pool.getconn()
    with pytest.raises(psycopg2.OperationalError, match="down"):
        opener.result()
    assert (pool.closed, server.open) == (True, 1)
    pool.putconn(connection)
    assert server.open == 0
    pool.open()
    assert_sound(pool, server)


@pytest.mark.parametrize("workers", [1, 2])
def test_others_may_open_what_the_opening_has_not_yet_begun(server: FakeServer, workers: int) -> None:
    pool = ThreadedConnectionPool(3, 3, open=False, open_workers=workers)
    with server.hold("connect") as gate:
        opener = Task(pool.open)
        gate.wait_for(workers)
        others = [Task(pool.getconn) for _ in range(3 - workers)]
        gate.wait_for(3)
    opener.result()
    for other in others:
        pool.putconn(other.result())
    assert server.open == 3
    assert_sound(pool, server)


def test_a_pool_that_is_closed_is_not_opened_again(server: FakeServer, our_class: Any) -> None:
    for close in ("close", "closeall"):
        for was_open in (True, False):
            pool = our_class(1, 1, open=was_open)
            getattr(pool, close)()
            for call in (pool.open, pool.getconn):
                with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$"):
                    call()
    assert server.open == 0


def test_a_close_while_it_is_opened_wins(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(2, 2, open=False)
    with held(server.hold("connect"), pool.open) as opener:
        pool.close()
    with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$"):
        opener.result()
    assert (pool.close(timeout=60), server.open) == (0, 0)
    assert_balanced(pool, server)


def test_a_with_block_opens_it(server: FakeServer, our_class: Any) -> None:
    with our_class(1, 2, open=False) as pool:
        assert server.open == 1
        assert_sound(pool, server)
    assert server.open == 0


def test_the_base_class_is_opened_and_closed_as_well(server: FakeServer) -> None:
    pool = AbstractConnectionPool(1, 2, open=False)
    pool.open()
    connection = pool._getconn()
    assert pool.close() == 1
    pool._putconn(connection)
    assert server.open == 0


def test_an_unopened_pool_grows_by_workers_once_it_is_open(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 2, open=False, grow="workers", max_idle=60)
    pool.open()
    for connection in lend(pool, 2):
        pool.putconn(connection)
    wait_until(lambda: server.open == 2, "the connections")
    assert_sound(pool, server)
