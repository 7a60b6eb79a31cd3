"""`close()`: idle connections are closed now and lent ones as they come back, and waiters are told."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolError, PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.pools import assert_balanced, closes, lend
from tests.lib.postgres import backends
from tests.lib.waits import Task, counts, held, wait_until, waiting_task

RETURNS: dict[str, Callable[[Any, Any], object]] = {
    "putconn": lambda pool, connection: pool.putconn(connection),
    "a key, too": lambda pool, connection: pool.putconn(connection, "key"),
    "a key alone": lambda pool, _: pool.putconn(None, "key"),
    "close=True": lambda pool, connection: pool.putconn(connection, "key", close=True),
}


@pytest.mark.parametrize("way", RETURNS)
def test_a_return_after_the_close_closes_the_connection_and_does_not_raise(
    server: FakeServer, our_class: Any, way: str
) -> None:
    pool = our_class(2, 2)
    connection = pool.getconn("key")
    assert (pool.close(), server.open) == (1, 1)
    connection.status = INTRANS
    RETURNS[way](pool, connection)
    assert (pool.close(), server.open, connection.closed) == (0, 0, 1)
    assert_balanced(pool, server)


@pytest.mark.parametrize(
    "options", [{}, {"background": True}, {"reset": "discard"}, {"leak_after": 60}, {"max_idle": 60}]
)
def test_a_return_in_a_transaction_works_whatever_the_options_are(
    server: FakeServer, our_class: Any, options: Any
) -> None:
    pool = our_class(1, 2, **options)
    first, second = lend(pool, 2)
    first.status = INTRANS
    second.status = INTRANS
    assert pool.close() == 2
    pool.putconn(first)
    pool.putconn(second)
    assert (pool.close(), server.open) == (0, 0)
    assert_balanced(pool, server)


def test_getconn_after_the_close_is_refused_in_psycopg2_pools_words(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 2)
    assert (pool.close(), pool.closed, server.open) == (0, True, 0)
    for call in (pool.getconn, pool.connection().__enter__, pool.check, pool.wait, pool.open, pool.__enter__):
        with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$") as refusal:
            call()
        assert isinstance(refusal.value, psycopg2.pool.PoolError)
        assert not isinstance(refusal.value, PoolExhausted)
    pool.drain()
    pool.maintain()
    assert server.open == 0
    assert pool.get_stats()["pool_size"] == 0


def test_what_the_pool_did_not_lend_or_got_back_is_refused_as_by_a_closed_pool(
    server: FakeServer, our_class: Any
) -> None:
    pool = our_class(1, 2)
    connection = pool.getconn()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.putconn(server.connect())
    pool.putconn(connection)
    with pytest.raises(PoolClosed):
        pool.putconn(connection)


def test_waiters_are_told_at_once(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool), waiting_task(pool, key="key")]
    assert pool.close() == 1
    for waiter in waiters:
        with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$"):
            waiter.result()
    pool.putconn(connection)
    assert server.open == 0


def test_a_connection_that_is_being_opened_is_closed_when_it_is_open(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 1)
    with held(server.hold("connect"), pool.getconn) as opener:
        assert pool.close() == 1
        waiter = Task(pool.close, 60)
    with pytest.raises(PoolClosed):
        opener.result()
    assert (waiter.result(), server.open) == (0, 0)
    assert_balanced(pool, server)


def test_a_connection_that_is_being_rolled_back_is_closed_then(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(1, 1)
    connection: Any = pool.getconn()
    connection.status = INTRANS
    with held(server.hold("rollback"), pool.putconn, connection) as returner:
        assert pool.close() == 1
    returner.result()
    assert (pool.close(), server.open) == (0, 0)
    assert_balanced(pool, server)


def test_a_deferred_return_is_closed_now(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(2, 2, background=True)
    first, second = lend(pool, 2)
    for connection in (first, second):
        connection.status = INTRANS
    # The housekeeper hangs in the first, so the second waits for it.
    with server.hold("close") as gate:
        pool.putconn(first, close=True)
        gate.wait_for()
        server.calm_gate("close")
        pool.putconn(second)
        assert (pool.close(), second.closed) == (1, 1)
    assert (pool.close(timeout=60), server.open) == (0, 0)
    assert_balanced(pool, server)


# --- the wait --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closers", [1, 3])
def test_a_close_with_a_time_limit_waits_until_all_are_back(server: FakeServer, closers: int) -> None:
    pool = ThreadedConnectionPool(1, 3)
    lent = lend(pool, 3)
    tasks = [Task(pool.close, timeout) for timeout in (60, float("inf"), 10**9)[:closers]]
    wait_until(lambda: pool.closed, "the close")
    for connection in lent:
        assert not any(task.done for task in tasks)
        pool.putconn(connection)
    assert [task.result() for task in tasks] == [0] * closers
    assert server.open == 0


@pytest.mark.parametrize("timeout", [None, 0, 0.02])
def test_a_close_tells_how_many_are_left(server: FakeServer, our_class: Any, timeout: Any) -> None:
    pool = our_class(1, 3)
    lent = lend(pool, 3)
    for left in (3, 2, 1, 0):
        assert pool.close(timeout) == left == pool.close(timeout=timeout)
        assert (server.open, pool.get_stats()["pool_size"]) == (left, left)
        if lent:
            pool.putconn(lent.pop())


@pytest.mark.parametrize("timeout", [-1, "5", True, float("nan")])
def test_a_wrong_time_limit_is_refused_and_closes_nothing(server: FakeServer, our_class: Any, timeout: Any) -> None:
    pool = our_class(1, 1)
    with pytest.raises((TypeError, ValueError), match=r"^timeout must be "):
        pool.close(timeout)
    assert (pool.closed, server.open) == (False, 1)


def test_an_interrupt_ends_the_wait_and_leaves_the_pool_closed(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()

    def interrupt() -> None:
        wait_until(lambda: pool.closed, "the close")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # A job in the background is started without.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task = Task(interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.close(timeout=60)
        task.result()
    finally:
        signal.signal(signal.SIGINT, handler)
    pool.putconn(connection)
    assert (pool.close(timeout=60), server.open) == (0, 0)


def test_a_forgotten_connection_ends_the_wait(dsn: str) -> None:
    pool = ThreadedConnectionPool(0, 1, dsn, reclaim=True)
    connection: Any = pool.getconn()
    closer = Task(pool.close, 60)
    wait_until(lambda: pool.closed, "the close")
    del connection
    gc.collect()
    assert closer.result() == 0
    assert closes(pool) == {"reclaimed": 1}


# --- blocks, close(), closeall() -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"close_returns": True}, {"leak_after": 60, "reclaim": True}])
def test_a_block_that_is_open_at_the_close_commits_and_returns(
    our_class: Any, conn: Any, dsn: str, options: Any
) -> None:
    pool = our_class(1, 2, dsn, application_name="test_close", **options)
    with conn.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS closing; CREATE TABLE closing (n int)")
    conn.commit()
    with pool.connection() as connection, connection.cursor() as cursor:
        assert pool.close() == 1
        cursor.execute("INSERT INTO closing VALUES (1)")
    with conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM closing")
        assert cursor.fetchone() == (1,)
        cursor.execute("DROP TABLE closing")
    conn.commit()
    assert pool.close() == 0
    wait_until(lambda: backends(dsn, "test_close") == 0, "the end of the sessions")


def test_a_block_that_raises_after_the_close_raises_its_own_error(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1)
    with pytest.raises(ZeroDivisionError), pool.connection():
        pool.close()
        raise ZeroDivisionError
    assert (pool.close(), server.open) == (0, 0)


def test_close_of_a_lent_connection_returns_it_after_the_close(our_class: Any, dsn: str) -> None:
    pool = our_class(1, 1, dsn, close_returns=True)
    connection = pool.getconn()
    assert pool.close() == 1
    connection.close()
    connection.close()
    assert (pool.close(), connection.closed, closes(pool)) == (0, 1, {"with_pool": 1})


def test_closeall_closes_what_is_still_lent_and_its_return_is_accepted(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 4)
    first, second, third = lend(pool, 3)
    block = pool.connection()
    block.__enter__()
    assert pool.close() == 4
    pool.putconn(first)
    pool.closeall()
    assert (pool.close(), server.open, second.closed, third.closed) == (0, 0, 1, 1)
    pool.putconn(second)
    block.__exit__(None, None, None)
    assert closes(pool) == {"with_pool": 4}
    with pytest.raises(PoolClosed, match=r"(?m)^connection pool is closed$"):
        pool.closeall()
    pool.putconn(third)
    assert_balanced(pool, server)


def test_closeall_ends_the_wait_of_a_close(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(1, 1)
    pool.getconn()
    closer = Task(pool.close, 60)
    wait_until(lambda: pool.closed, "the close")
    pool.closeall()
    assert (closer.result(), server.open) == (0, 0)


def test_a_pool_that_closeall_has_closed_stays_psycopg2_pools(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    pool.closeall()
    assert (pool.close(), pool.close(timeout=60)) == (0, 0)
    with pytest.raises(PoolError, match=r"(?m)^connection pool is closed$"):
        pool.putconn(connection)


def test_a_with_block_of_the_pool_leaves_a_closed_pool_alone(server: FakeServer, our_class: Any) -> None:
    with our_class(1, 1) as pool:
        connection = pool.getconn()
        pool.close()
    assert server.open == 1
    pool.putconn(connection)
    assert server.open == 0


def test_an_override_of_putconn_gets_what_comes_back(server: FakeServer, our_class: Any) -> None:
    class Own(our_class):  # type: ignore[misc]
        def putconn(self, *args: Any, **kwargs: Any) -> None:
            returned.append(args)
            super().putconn(*args, **kwargs)

    returned: list[Any] = []
    pool = Own(1, 1)
    with pool.connection() as connection:
        pool.close()
    assert returned == [(connection,)]
    assert (pool.close(), server.open) == (0, 0)


def test_a_hook_that_closes_the_pool_and_fails_loses_nothing(server: FakeServer, our_class: Any) -> None:
    class Own(our_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            connection = super()._connect(key)
            self.close()
            if fails:
                raise ZeroDivisionError
            return connection

    for fails in (True, False):
        pool = Own(0, 1)
        if fails:
            with pytest.raises(ZeroDivisionError):
                pool.getconn()
        else:
            # The pool had lent it before it was closed.
            pool.putconn(pool.getconn())
        assert (pool.close(), server.open) == (0, 0)
        assert_balanced(pool, server)


def test_the_log_says_that_the_pool_is_closed_once(server: FakeServer, caplog: Any) -> None:
    caplog.set_level("INFO", "pgpool_rs")
    pool = ThreadedConnectionPool(2, 3, name="log")
    pool.getconn()
    pool.close()
    pool.close()
    assert [record.getMessage() for record in caplog.records] == ["pool closed, with 2 connections"]


def test_counts_of_a_gently_closed_pool_are_those_of_what_is_left(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(2, 3)
    pool.getconn()
    pool.close()
    assert " closed idle=0 lent=1 " in repr(pool)
    assert counts(pool)["lent"] == 1
    assert len(pool.loans()) == 1
