"""Overridden hooks that fail late, try again, go round in circles, or are patched in."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolError, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.doubles import Proxy
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, wait_for_waiters


@pytest.mark.parametrize("key", [None, "key"])
def test_a_connect_hook_that_connects_twice_uses_one_slot(server: FakeServer, key: object) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            super()._connect(key)
            return super()._connect(key)

    pool: Any = Pool(0, 2)
    for _ in range(5):
        connection = pool.getconn(key)
        assert list(pool._used.values()) == [connection]
        pool.putconn(connection)
    assert counts(pool)["lent"] == 0


def test_a_second_connection_opened_under_a_key_is_the_one_that_the_key_returns(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3)
    first, second = pool._connect("key"), pool._connect("key")
    assert pool._used == {"key": second}
    pool.putconn(second, "key")
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(first)
    assert_whole(pool)


def test_a_connect_called_beside_another_threads_getconn_of_the_key_spoils_neither(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3)
    with server.hold("connect") as gate:
        opening = Task(pool.getconn, "key")
        gate.wait_for(1)
        beside = Task(pool._connect, "key")
        gate.wait_for(2)
    assert {opening.result(), beside.result()} == set(server.connections)


def test_an_automatic_key_that_another_thread_opens_is_waited_for(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3)
    key = pool._getkey()
    with server.hold("connect") as gate:
        first = Task(pool.getconn, key)
        gate.wait_for()
        second = Task(pool.getconn, key)
        wait_for_waiters(pool, 1)
    assert first.result() is second.result()


@pytest.mark.parametrize("key", [None, "key"])
def test_a_connect_hook_may_hand_its_work_to_another_thread(server: FakeServer, key: object) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            return Task(super()._connect, key).result()

    pool: Any = Pool(0, 1)
    connection = pool.getconn(key)
    assert list(pool._used.values()) == [connection]
    pool.putconn(connection)
    assert_whole(pool)


def test_a_connection_is_shared_only_when_its_connect_hook_has_finished_with_it(server: FakeServer) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            connection: Any = super()._connect(key)
            connection.cursor()
            other = Task(lambda: getattr(self.getconn(key), "configured", False))
            wait_for_waiters(self, 1)
            connection.configured = True
            self.other = other
            return connection

    pool: Any = Pool(0, 2)
    pool.getconn("key")
    assert pool.other.result() is True


@pytest.mark.parametrize("key", [None, "key"])
def test_a_connect_hook_that_asks_for_its_own_key_is_refused_and_does_not_hang(server: FakeServer, key: object) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            return self.getconn(key)

    pool: Any = Pool(0, 2)
    with pytest.raises(PoolError, match="opening"):
        pool.getconn(key)
    assert counts(pool)["opening"] == 0


def test_a_connection_that_was_to_be_idle_is_closed_where_maxconn_was_lowered_meanwhile(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    with server.hold("connect") as gate:
        opening = Task(pool._connect)
        gate.wait_for()
        pool.maxconn = 0
    with pytest.raises(PoolError, match="exhausted"):
        opening.result()
    assert (server.open, len(pool._pool)) == (0, 0)


# --- what the one question of the fast path is worth -----------------------------------------------------------------


def test_a_wrapper_that_says_it_is_closed_is_not_lent_again(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg2, "connect", lambda: Proxy(server.connect()))
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    connection.__dict__["closed"] = 2
    pool.putconn(connection)
    assert pool.getconn() is not connection


def test_a_connection_class_that_says_it_is_closed_is_not_lent_again(dsn: str) -> None:
    class Closable(psycopg2.extensions.connection):
        dead = False

        @property
        def closed(self) -> bool:
            return self.dead

    with ThreadedConnectionPool(1, 1, dsn, connection_factory=Closable) as pool:
        connection: Any = pool.getconn()
        connection.dead = True
        pool.putconn(connection)
        assert pool.getconn() is not connection


# --- blocks ----------------------------------------------------------------------------------------------------------


def test_a_loan_that_is_entered_twice_is_refused_and_loses_nothing(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2)
    loan = pool.connection()
    with loan:
        with pytest.raises(RuntimeError, match="entered already"):
            loan.__enter__()
        assert counts(pool)["lent"] == 1
    with loan:
        assert counts(pool)["lent"] == 1
    assert_whole(pool)


def test_a_loan_that_two_threads_enter_is_lent_to_one(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2)
    loan = pool.connection()
    with server.hold("connect") as gate:
        first = Task(loan.__enter__)
        gate.wait_for()
        with pytest.raises(RuntimeError, match="entered already"):
            loan.__enter__()
    first.result()
    loan.__exit__(None, None, None)
    assert_whole(pool)


def test_a_block_passes_nothing_on_that_was_not_given(server: FakeServer) -> None:
    class Pool(ThreadedConnectionPool):
        def getconn(self) -> Any:  # type: ignore[override]
            return super().getconn()

    with Pool(0, 1).connection() as connection:
        assert id(connection) == id(server.connections[0])
