"""Code that the pool calls may call the pool: a connect, a rollback, a close, a key, a log handler, a __del__."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import PoolError

from pgpool_rs import PoolClosed, PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task

DOWN = psycopg2.OperationalError("server closed the connection unexpectedly")


class Intruder:
    """Calls the pool in every way, once, from within whatever the pool has called."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.came = 0

    def __call__(self, *_: object) -> None:
        """Do it, unless it is being done."""
        pool, self.pool = self.pool, None
        if pool is None:
            return
        self.came += 1
        connection = pool.getconn()
        assert pool.getconn("intruder's") is not connection
        assert connection in pool._used.values()
        assert id(connection) in pool._rused
        list(pool._pool)
        assert "lent=" in repr(pool)
        pool.putconn(None, "intruder's", close=True)
        pool.putconn(connection)
        with pytest.raises(PoolError, match="unkeyed"):
            pool.putconn(connection)
        pool.maxconn = pool.maxconn
        pool.minconn = pool.minconn


@pytest.fixture
def intruder() -> Intruder:
    """Give an intruder that is let into no pool yet."""
    return Intruder()


class Key:
    """A key that calls the intruder when it is hashed or compared."""

    def __init__(self, method: str, intruder: Intruder) -> None:
        self.method, self.intruder = method, intruder

    def __hash__(self) -> int:
        if self.method == "__hash__":
            self.intruder()
        return 7

    def __eq__(self, other: object) -> bool:
        if self.method == "__eq__":
            self.intruder()
        return self is other


@pytest.mark.parametrize("call", ["connect", "rollback", "close", "closed", "info"])
def test_a_connections_methods_may_call_the_pool(
    our_class: Any, server: FakeServer, intruder: Intruder, call: str
) -> None:
    pool = our_class(2, 8)
    first, second, third = pool.getconn(), pool.getconn(), pool.getconn()
    server.on(call, intruder)
    intruder.pool = pool
    first.status = INTRANS

    def use() -> None:
        pool.putconn(first)
        pool.putconn(second, close=True)
        pool.getconn("1"), pool.getconn("2"), pool.getconn("3")
        for key in ("1", "2", "3"):
            pool.putconn(None, key)
        pool.putconn(third)

    Task(use).result()
    assert intruder.came == 1
    assert_whole(pool)


@pytest.mark.parametrize("method", ["__hash__", "__eq__"])
@pytest.mark.parametrize("moment", ["getconn", "getconn again", "putconn", "putconn by key", "_used"])
def test_a_keys_methods_may_call_the_pool(
    our_class: Any, server: FakeServer, intruder: Intruder, method: str, moment: str
) -> None:
    pool = our_class(1, 8)
    resident = pool.getconn(7)
    key = Key(method, intruder)
    connection = pool.getconn(key) if moment != "getconn" else None

    def use() -> None:
        if moment.startswith("getconn"):
            assert pool.getconn(key) is pool.getconn(key)
        elif moment == "putconn":
            pool.putconn(connection, key)
        elif moment == "putconn by key":
            pool.putconn(None, key)
        else:
            assert (key in pool._used, pool._used[key]) == (True, connection)

    intruder.pool = pool
    Task(use).result()
    if "putconn" not in moment:
        pool.putconn(None, key)
    pool.putconn(resident)
    assert_whole(pool)


@pytest.fixture
def handler(intruder: Intruder) -> Iterator[logging.Handler]:
    """Install a log handler that calls the intruder."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            intruder()

    handler = Handler()
    logger = logging.getLogger("pgpool_rs")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("call", ["rollback", "close"])
def test_a_log_handler_may_call_the_pool(
    our_class: Any, server: FakeServer, intruder: Intruder, handler: logging.Handler, call: str
) -> None:
    pool = our_class(1, 8)
    connection = pool.getconn()
    connection.status = INTRANS
    connection.faults[call] = DOWN
    intruder.pool = pool
    Task(pool.putconn, connection, None, call == "close").result()
    assert intruder.came == 1
    assert_whole(pool)


def drop_by_return(pool: Any) -> None:
    pool.putconn(pool.getconn(), close=True)


def drop_by_failing_rollback(pool: Any) -> None:
    connection = pool.getconn()
    connection.status = INTRANS
    connection.faults["rollback"] = psycopg2.DatabaseError("odd")
    pool.putconn(connection)


def drop_by_broken_connection(pool: Any) -> None:
    connection = pool.getconn()
    connection.set_closed(2)
    pool.putconn(connection)


def drop_by_lowered_maxconn(pool: Any) -> None:
    pool.maxconn = 2
    pool.maxconn = 8


def drop_by_clearing_the_list(pool: Any) -> None:
    pool._pool[:] = []


def drop_by_writing_into_used(pool: Any) -> None:
    pool.getconn("key")
    del pool._used["key"]
    pool._rused.clear()


DROPS = [
    drop_by_return,
    drop_by_failing_rollback,
    drop_by_broken_connection,
    drop_by_lowered_maxconn,
    drop_by_clearing_the_list,
    drop_by_writing_into_used,
]


@pytest.mark.parametrize("drop", DROPS, ids=[drop.__name__ for drop in DROPS])
def test_the_end_of_a_connection_may_call_the_pool(
    our_class: Any, server: FakeServer, intruder: Intruder, drop: Callable[[Any], None]
) -> None:
    server.keep = False
    pool = our_class(3, 8)
    for connection in pool._pool:
        weakref.finalize(connection, intruder)
    del connection
    intruder.pool = pool
    Task(drop, pool).result()
    gc.collect()
    assert intruder.came == 1
    assert_whole(pool)


def test_the_end_of_a_key_may_call_the_pool(our_class: Any, server: FakeServer, intruder: Intruder) -> None:
    pool = our_class(1, 8)
    intruder.pool = pool

    def use() -> None:
        key = Key("", Intruder())
        weakref.finalize(key, intruder)
        connection = pool.getconn(key)
        del key
        pool.putconn(connection)

    Task(use).result()
    assert intruder.came == 1
    assert_whole(pool)


@pytest.mark.parametrize("call", ["connect", "close"])
def test_a_hook_or_a_connection_may_close_the_pool(our_class: Any, server: FakeServer, call: str) -> None:
    pool = our_class(0, 4)
    lent = pool.getconn()
    server.on(call, lambda _: None if pool.closed else pool.closeall())

    def use() -> None:
        if call == "connect":
            with pytest.raises(PoolClosed):
                pool.getconn()
        else:
            pool.putconn(lent)

    Task(use).result()
    assert pool.closed is True
    assert server.open == 0


def test_closing_the_pool_while_it_is_being_closed_is_refused(our_class: Any, server: FakeServer) -> None:
    pool = our_class(2, 2)
    refusals: list[bool] = []

    def close_again(_: object) -> None:
        with pytest.raises(PoolClosed):
            pool.closeall()
        refusals.append(pool.closed)

    server.on("close", close_again)
    Task(pool.closeall).result()
    assert refusals == [True, True]


def test_asking_for_a_key_that_this_very_thread_is_opening_is_refused(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 4)
    refusals: list[PoolError] = []

    def ask_again(_: object) -> None:
        with pytest.raises(PoolError) as raised:
            pool.getconn("key")
        refusals.append(raised.value)

    server.on("connect", ask_again)
    connection = Task(pool.getconn, "key").result()
    assert len(refusals) == 1
    assert not isinstance(refusals[0], PoolExhausted | PoolClosed)
    pool.putconn(connection, "key")
    server.calm()
    assert_whole(pool)


def test_a_connect_that_needs_a_connection_of_the_same_pool_gets_one(our_class: Any, server: FakeServer) -> None:
    class Nested(our_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            if key == "outer":
                self.putconn(self.getconn("inner"))
            return super()._connect(key)

    pool = Nested(0, 2)
    pool.putconn(Task(pool.getconn, "outer").result())
    assert_whole(pool)


def test_a_connect_that_would_wait_for_its_own_slot_is_refused_not_hung(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    refusals: list[bool] = []

    def ask(_: object) -> None:
        with pytest.raises(PoolExhausted):
            pool.getconn()
        refusals.append(True)

    server.on("connect", ask)
    pool.putconn(Task(pool.getconn).result())
    assert refusals == [True]
