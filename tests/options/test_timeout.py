"""Waiting for a connection: what timeout means, what PoolTimeout says, and which timeouts are refused."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolExhausted, PoolTimeout, SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole, give_back
from tests.lib.waits import Task, counts, held, wait_for_waiters, waiting_task

# Long enough that no test waits for it to end, short enough that a hanging test does end.
LONG = 60.0


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0])
def test_timeout_zero_refuses_at_once_whatever_the_pools_own_is(server: FakeServer, timeout: float) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=None)
    pool.getconn()
    with pytest.raises(PoolExhausted) as raised:
        pool.getconn(timeout=timeout)
    assert str(raised.value) == "connection pool exhausted"


def test_a_timeout_that_ends_is_a_pool_timeout_and_not_early(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=0.05)
    pool.getconn()
    begin = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.getconn()
    assert time.monotonic() - begin >= 0.05
    assert counts(pool)["waiting"] == 0


@pytest.mark.parametrize(("own", "of_the_call"), [(None, 0.01), (0.01, ...)])
def test_the_calls_timeout_goes_before_the_pools_and_an_ellipsis_means_the_pools(
    server: FakeServer, own: float | None, of_the_call: Any
) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=own)
    pool.getconn()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=of_the_call)


@pytest.mark.parametrize("timeout", [None, LONG, int(LONG), float("inf"), 1e300])
def test_a_connection_that_comes_back_in_time_is_lent(server: FakeServer, timeout: float | None) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, timeout=timeout)
    connection = pool.getconn()
    task = Task(pool.getconn, "key")
    wait_for_waiters(pool, 1)
    pool.putconn(connection)
    assert task.result() is connection
    assert pool._used == {"key": connection}
    pool.putconn(connection)
    assert_whole(pool, timeout=0)


def test_a_pool_that_keeps_nothing_idle_still_serves_its_waiters(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=None)
    connection = pool.getconn()
    task = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.putconn(connection)
    lent = task.result()
    assert lent in server.connections
    assert server.peak == 1
    pool.putconn(lent)
    assert_whole(pool, timeout=0)


def test_a_timeout_is_of_no_interest_while_there_is_room(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, timeout=0)
    assert pool.getconn(timeout=None) is not pool.getconn(timeout=1e-9)


def test_a_key_that_is_lent_never_waits(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, timeout=None)
    connection = pool.getconn("key")
    assert pool.getconn("key") is connection


def test_the_message_says_how_long_and_how_many(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3)
    pool.getconn()
    pool.getconn("key")
    with held(server.hold("connect"), pool.getconn) as opening:
        others = [waiting_task(pool) for _ in range(2)]
        with pytest.raises(PoolTimeout) as raised:
            pool.getconn(timeout=0.02)
    text = str(raised.value)
    assert text.startswith("connection pool exhausted: ")
    seconds = re.search(r"(\d+\.\d+) ?s", text)
    assert seconds is not None, text
    assert 0.0 < float(seconds[1]) < LONG
    assert says(text, "lent", 2), text
    assert says(text, "opening", 1), text
    assert says(text, "waiting", 3), text  # itself included
    opening.wait()
    give_back(pool, list(pool._used.values()))
    for task in others:
        pool.putconn(task.result())
    assert_whole(pool)


def says(text: str, word: str, number: int) -> bool:
    """Tell whether "2 lent" or "lent=2" or the like stands in the text."""
    return bool(re.search(rf"\b{number} {word}\b|\b{word}[=: ]+{number}\b", text))


UNREACHABLE = psycopg2.OperationalError('connection to server at "db", port 5432 failed: No route to host')


def test_the_message_says_the_last_connect_error(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    server.fail("connect", psycopg2.OperationalError("first"), UNREACHABLE)
    for _ in range(2):
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn()
    pool.getconn()
    with pytest.raises(PoolTimeout, match=str(UNREACHABLE)):
        pool.getconn(timeout=0.01)


def test_the_message_says_nothing_of_connect_errors_when_there_was_none(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    with pytest.raises(PoolTimeout) as raised:
        pool.getconn(timeout=0.01)
    assert "error" not in str(raised.value)


def test_the_message_holds_no_secret(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, "password=hidden", password="hidden")
    pool.getconn("hidden")
    with pytest.raises(PoolTimeout) as raised:
        pool.getconn("hidden too", timeout=0.01)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "values"),
    [(ValueError, [-1, -0.001, float("nan"), float("-inf")]), (TypeError, ["5", b"5", [], object, 1j])],
)
def test_a_timeout_that_is_no_number_of_seconds_is_refused_and_shown(
    server: FakeServer, error: type[Exception], values: list[Any]
) -> None:
    for bad in values:
        with pytest.raises(error, match=re.escape(repr(bad))):
            ThreadedConnectionPool(1, 1, timeout=bad)
    assert server.log == []
    pool: Any = ThreadedConnectionPool(1, 1)
    for bad in values:
        with pytest.raises(error, match=re.escape(repr(bad))):
            pool.getconn(timeout=bad)
    assert_whole(pool)


def test_a_bad_timeout_is_refused_even_where_nobody_would_wait(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    pool.getconn("key")
    with pytest.raises(ValueError, match="-1"):
        pool.getconn("key", timeout=-1)


def test_the_timeout_is_not_passed_to_the_server(server: FakeServer) -> None:
    ThreadedConnectionPool(1, 1, "somewhere", timeout=5, option=1)
    assert server.arguments == [(("somewhere",), {"option": 1})]


def test_the_timeout_is_keyword_only(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, 5)
    assert pool._args == (5,)
    with pytest.raises(TypeError):
        pool.getconn(None, 5)


@pytest.mark.parametrize("timeout", [0, 5, None])
def test_a_simple_pool_given_a_timeout_says_why_not(server: FakeServer, timeout: Any) -> None:
    with pytest.raises(TypeError, match=r"SimpleConnectionPool.*thread"):
        SimpleConnectionPool(0, 1, timeout=timeout)
    pool = SimpleConnectionPool(0, 1)
    with pytest.raises(TypeError, match=r"SimpleConnectionPool.*thread"):
        pool.getconn(timeout=timeout)
    assert server.log == []


def test_a_promise_that_comes_as_the_time_runs_out_is_taken(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()

    class TooLate:
        """A lock that is released just when nobody waits for it any more."""

        def acquire(self, _blocking: bool = True, timeout: float = -1) -> bool:
            if timeout >= 0:
                pool.putconn(connection)
                return False
            return True

        def release(self) -> None:
            pass

    monkeypatch.setattr(threading, "Lock", TooLate)
    assert pool.getconn(timeout=60) is connection
