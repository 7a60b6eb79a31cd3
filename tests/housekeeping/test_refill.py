"""Connections that are missing are opened again: by hand, by the thread, and by callers that wait for them."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolError, PoolTimeout, _housekeeper
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import FakeServer
from tests.lib.log import listening
from tests.lib.pools import DOWN, assert_balanced, assert_sound, closes, emptied, give_back, lend
from tests.lib.programs import run_program
from tests.lib.waits import Task, counts, held, wait_for_waiters, wait_until


def lose(pool: Any, number: int) -> None:
    """Lose connections, by borrowers who close them."""
    for connection in lend(pool, number):
        connection.close()
        pool.putconn(connection)


def test_without_housekeeping_what_is_missing_is_opened_by_maintain(server: FakeServer, our_class: Any) -> None:
    pool = our_class(3, 4)
    connections = lend(pool, 3)
    give_back(pool, connections, close=True)
    assert server.open == 0
    pool.maintain()
    assert (counts(pool)["idle"], server.open) == (3, 3)
    assert_sound(pool, server)


def test_lent_connections_are_not_missing(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 4)
    connections = lend(pool, 2)
    pool.maintain()
    assert server.open == 2
    give_back(pool, connections)


@pytest.mark.parametrize(
    "options",
    [
        {"max_idle": 10},
        {"max_idle": None},
        {"max_lifetime": 10},
        {"leak_after": 10},
        {"background": True},
        {"check": id},
    ],
    ids=str,
)
def test_a_pool_with_housekeeping_opens_what_is_missing_by_itself(
    server: FakeServer, our_class: Any, options: dict[str, Any]
) -> None:
    pool = our_class(2, 3, **options)
    connections = lend(pool, 2)
    for connection in connections:
        connection.close()
        pool.putconn(connection)
    wait_until(lambda: counts(pool)["idle"] == 2, "the replacement of both")
    assert_sound(pool, server)


def test_only_pools_with_an_option_that_needs_it_start_the_thread() -> None:
    run_program("""
import threading
import psycopg2
from pgpool_rs.testing import FakeServer
from pgpool_rs import ThreadedConnectionPool, check_query, check_socket

psycopg2.connect = FakeServer().connect
there = lambda: "pgpool_rs housekeeping" in [thread.name for thread in threading.enumerate()]
for options in (
    {}, {"check": None}, {"check": check_socket}, {"check_after": 0}, {"max_idle": 0}, {"max_lifetime": None},
    {"configure": id}, {"reset": id}, {"connect": psycopg2.connect}, {"open_workers": 2}, {"reclaim": True},
    {"timeout": 1}, {"max_waiting": 1}, {"name": "x"},
):
    pool = ThreadedConnectionPool(1, 2, **options)
    for connection in [pool.getconn(), pool.getconn()]:
        connection.set_closed(2)
        pool.putconn(connection)
    pool.maintain()
    pool.check()
    pool.drain()
    assert not there(), options
pool = ThreadedConnectionPool(1, 2, check=check_query)
assert there()
""")


def test_a_failed_refill_is_logged_and_not_raised(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(1, 1, name="refilled"))
    server.fail("connect", DOWN)
    with listening("refilled") as log:
        pool.maintain()
        assert log.texts == ["connect failed: OperationalError"]
        pool.maintain()
    assert log.texts[1].startswith("connect succeeds again, after ")
    assert log.texts[2:] == ["connection opened", "opened a connection to restore minconn"]
    assert_sound(pool, server)


def test_after_failed_refills_there_is_a_doubling_pause(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(1, 1))
    server.fail("connect", *[DOWN] * 7)
    for longest in (0.25, 0.5, 1, 2, 4, 4, 4):
        pause = pool._pgpool_maintain()
        assert longest * 0.89 < pause <= longest
        tried = len(server.calls("connect"))
        advance_clock(longest / 2)
        pool._pgpool_maintain()
        assert len(server.calls("connect")) == tried, "too early"
        advance_clock(longest / 2 + 0.02)
    pool._pgpool_maintain()
    assert counts(pool)["idle"] == 1


def test_maintain_takes_no_notice_of_the_pause(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(1, 1))
    server.fail("connect", *[DOWN] * 3)
    for _ in range(4):
        pool.maintain()
    assert counts(pool)["idle"] == 1


def test_a_connect_that_succeeds_ends_the_pause(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(2, 3))
    server.fail("connect", DOWN)
    assert pool._pgpool_maintain() > 0.1
    connections = [pool.getconn()]
    pool._pgpool_maintain()
    assert counts(pool)["idle"] == 1
    give_back(pool, connections)
    assert_sound(pool, server)


def test_the_thread_opens_again_once_the_server_is_back(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2, background=True)
    connections = lend(pool, 2)
    server.fail("connect", DOWN, DOWN)
    for connection in connections:
        connection.set_closed(2)
        pool.putconn(connection)
    wait_until(lambda: len(server.calls("connect")) == 3, "the first try")
    advance_clock(1)
    _housekeeper.housekeeper.poke(pool)
    wait_until(lambda: len(server.calls("connect")) == 4, "the second try")
    advance_clock(1)
    _housekeeper.housekeeper.poke(pool)
    wait_until(lambda: counts(pool)["idle"] == 2, "the server's return")
    assert_sound(pool, server)


def test_two_who_maintain_open_no_more_than_is_missing(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(3, 6))
    with server.hold("connect") as gate:
        tasks = [Task(pool.maintain) for _ in range(3)]
        gate.wait_for()
    for task in tasks:
        task.result()
    pool.maintain()
    assert (counts(pool)["idle"], server.open) == (3, 3)
    assert_sound(pool, server)


def test_borrowers_go_on_while_a_refill_takes_its_time(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2)
    first, second = lend(pool, 2)
    pool.putconn(first, close=True)
    with held(server.hold("connect"), pool.maintain) as refill:
        pool.putconn(second)
        for _ in range(3):
            pool.putconn(pool.getconn())
    refill.result()
    assert_sound(pool, server)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("fails", [False, True])
def test_who_finds_the_pool_full_waits_for_a_refill(
    server: FakeServer, our_class: Any, key: object, fails: bool
) -> None:
    pool = emptied(our_class(1, 1))
    if fails:
        server.fail("connect", DOWN)
    with held(server.hold("connect"), pool.maintain) as refill:
        borrower = Task(pool.getconn, key)
        wait_for_waiters(pool, 1)
        with pytest.raises(PoolError, match="exhausted"):
            pool.getconn()
    refill.result()
    pool.putconn(borrower.result(), key)
    assert_sound(pool, server)


def test_a_pool_that_is_closed_during_a_refill_keeps_nothing(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(2, 2))
    with held(server.hold("connect"), pool.maintain) as refill:
        pool.closeall()
    refill.result()
    assert (server.open, closes(pool)) == (0, {"requested": 2, "unplaced": 1})
    assert_balanced(pool, server)


def test_a_pool_that_is_closed_has_nothing_to_maintain(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, max_lifetime=1000, check=None)
    pool.closeall()
    advance_clock(2000)
    pool.maintain()
    assert pool._pgpool_maintain() == -1
    assert_balanced(pool, server)


def test_a_subclass_that_opens_nothing_does_not_keep_the_refill_busy(server: FakeServer, our_class: Any) -> None:
    class Pool(our_class):  # type: ignore[misc]
        opens = True

        def _connect(self, key: Any = None) -> Any:
            return super()._connect(key) if self.opens else None

    pool = Pool(1, 1)
    pool.putconn(pool.getconn(), close=True)
    Pool.opens = False
    pool.maintain()
    Pool.opens = True
    pool.maintain()
    assert counts(pool)["idle"] == 1


# --- wait ------------------------------------------------------------------------------------------------------------


def test_wait_returns_at_once_where_nothing_is_missing(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2)
    lent = lend(pool, 2)
    pool.wait(0)
    give_back(pool, lent)


def test_wait_opens_what_is_missing(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(3, 3))
    pool.wait()
    assert counts(pool)["idle"] == 3
    assert_sound(pool, server)


def test_wait_tries_until_the_server_is_back(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(1, 1))
    server.fail("connect", DOWN, DOWN)
    waiting = Task(pool.wait)
    for tries in (2, 3):
        wait_until(lambda tries=tries: len(server.calls("connect")) == tries)  # type: ignore[misc]
        advance_clock(5)
    waiting.result()
    assert counts(pool)["idle"] == 1


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_wait_says_at_its_end_what_is_missing_and_why(server: FakeServer, our_class: Any, timeout: float) -> None:
    pool = emptied(our_class(2, 2))
    server.fail("connect", *[psycopg2.OperationalError('connection to server at "h" failed: down')] * 3)
    with pytest.raises(PoolTimeout, match=r"for 2 connections, 0 are open; last connect error, .* failed: down"):
        pool.wait(timeout)
    server.calm()
    assert_sound(pool, server)


def test_wait_for_what_somebody_else_opens(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(1, 1))
    with held(server.hold("connect"), pool.maintain) as refill:
        with pytest.raises(PoolTimeout, match="0 are open"):
            pool.wait(0.01)
        waiting = Task(pool.wait)
    refill.result()
    waiting.result()
    assert len(server.calls("connect")) == 2


def test_wait_ends_where_the_pool_is_closed(server: FakeServer, our_class: Any) -> None:
    pool = emptied(our_class(1, 1))
    with held(server.hold("connect"), pool.maintain) as refill:
        waiting = Task(pool.wait)
        pool.closeall()
        with pytest.raises(PoolClosed):
            waiting.result()
    refill.result()
    with pytest.raises(PoolClosed):
        pool.wait()


@pytest.mark.parametrize(("timeout", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_a_wait_for_no_sensible_time_is_refused(
    server: FakeServer, our_class: Any, timeout: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="timeout must be"):
        our_class(0, 1).wait(timeout)
