"""Connections that are idle for too long, or too old, are closed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg2
import pytest

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.callbacks import Killed
from tests.lib.pools import DOWN, assert_sound, closes, filled, give_back, idle, lend, wait_for_quiet
from tests.lib.waits import counts, wait_until, waiting_task

# --- max_idle --------------------------------------------------------------------------------------------------------


def test_without_max_idle_what_is_above_minconn_is_closed_on_its_return(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 3)
    give_back(pool, lend(pool, 3))
    assert (idle(pool), closes(pool)) == ([1], {"surplus": 2})
    assert_sound(pool, server)


def test_with_max_idle_what_is_above_minconn_is_kept_for_so_long(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 3, max_idle=100)
    give_back(pool, lend(pool, 3))
    advance_clock(99)
    pool.maintain()
    assert idle(pool) == [1, 2, 3]
    advance_clock(2)
    pool.maintain()
    wait_for_quiet(pool)
    assert (len(idle(pool)), closes(pool)) == (1, {"idle": 2})
    assert_sound(pool, server)


def test_the_one_that_has_been_idle_for_longest_goes_first(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 3, max_idle=100)
    lent = lend(pool, 3)
    for connection in (lent[1], lent[0], lent[2]):
        pool.putconn(connection)
        advance_clock(40)
    pool.maintain()
    wait_for_quiet(pool)
    assert idle(pool) == [1, 3]


def test_a_connection_that_is_used_again_and_again_is_not_idle(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, max_idle=100, check=None)
    for _ in range(5):
        pool.putconn(pool.getconn())
        advance_clock(60)
        pool.maintain()
    assert (idle(pool), closes(pool)) == ([1], {})


def test_minconn_connections_are_kept_however_idle(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 3, max_idle=1, check=None)
    advance_clock(1000)
    pool.maintain()
    assert (idle(pool), closes(pool)) == ([1, 2], {})


def test_max_idle_none_keeps_all_for_ever(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 3, max_idle=None)
    give_back(pool, lend(pool, 3))
    advance_clock(10_000_000)
    pool.maintain()
    assert (len(idle(pool)), closes(pool)) == (3, {})


def test_the_thread_closes_what_is_idle(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, max_idle=0.02)
    give_back(pool, lend(pool, 2))
    wait_until(lambda: closes(pool) == {"idle": 2}, "the end of both")
    assert_sound(pool, server)


# --- max_lifetime ----------------------------------------------------------------------------------------------------


def test_a_lifetime_is_up_to_a_tenth_shorter_and_no_more(server: FakeServer, our_class: Any) -> None:
    pool = our_class(30, 30, max_lifetime=1000, check=None)
    advance_clock(899)
    pool.maintain()
    assert closes(pool) == {}
    advance_clock(51)
    pool.maintain()
    wait_for_quiet(pool)
    early = closes(pool).get("lifetime", 0)
    assert 0 < early < 30
    advance_clock(51)
    pool.maintain()
    wait_for_quiet(pool)
    assert closes(pool) == {"lifetime": 30}
    assert counts(pool)["idle"] == 30
    assert server.peak <= 30


def test_a_connection_that_is_too_old_is_not_lent(server: FakeServer, our_class: Any) -> None:
    pool = filled(our_class, 2, max_lifetime=1000)
    advance_clock(1001)
    connection = pool.getconn()
    assert (connection.serial, closes(pool)) == (3, {"lifetime": 2})
    pool.putconn(connection)
    assert_sound(pool, server)


def test_a_connection_that_has_grown_too_old_while_it_was_lent_is_closed_on_its_return(
    server: FakeServer, our_class: Any
) -> None:
    pool = our_class(0, 1, max_idle=None, max_lifetime=1000)
    connection = pool.getconn()
    advance_clock(1001)
    pool.maintain()
    assert server.sees(connection), "it is its borrower's"
    pool.putconn(connection)
    assert (closes(pool), server.open) == ({"lifetime": 1}, 0)
    assert_sound(pool, server)


def test_a_waiter_gets_a_new_connection_where_the_one_that_comes_back_is_too_old(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, max_idle=None, max_lifetime=1000)
    connection = pool.getconn()
    waiter = waiting_task(pool)
    advance_clock(1001)
    pool.putconn(connection)
    assert waiter.result().serial == 2
    pool.putconn(waiter.result())
    assert_sound(pool, server)


def test_a_connection_that_grew_too_old_while_it_was_made_clean_is_closed(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, max_idle=None, max_lifetime=1000)
    connection = pool.getconn()
    connection.status = INTRANS
    server.on("rollback", lambda _: advance_clock(1001))
    pool.putconn(connection)
    assert closes(pool) == {"lifetime": 1}
    server.calm()
    assert_sound(pool, server)


def test_an_old_connection_is_closed_while_it_is_idle_and_another_opened(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2, max_lifetime=1000)
    advance_clock(1001)
    pool.maintain()
    wait_for_quiet(pool)
    wait_until(lambda: counts(pool)["idle"] == 2)
    assert (sorted(idle(pool)), closes(pool)) == ([3, 4], {"lifetime": 2})
    assert_sound(pool, server)


def test_the_thread_closes_what_is_old_and_opens_another(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, max_lifetime=0.05, check=None)
    wait_until(lambda: server.calls("connect")[-1] > 3, "the third in its place")
    pool.closeall()
    assert set(closes(pool)) == {"lifetime", "with_pool"}
    wait_until(lambda: server.open == 0, "the end of all")


@pytest.mark.parametrize("error", [DOWN, OSError("odd"), ValueError("late"), KeyboardInterrupt(), Killed()])
def test_a_close_for_age_that_fails_or_is_interrupted_loses_no_slot(
    server: FakeServer, our_class: Any, error: BaseException
) -> None:
    pool = our_class(2, 2, max_lifetime=1000)
    advance_clock(1001)
    server.fail("close", error)
    with nullcontext() if isinstance(error, (psycopg2.Error, OSError)) else pytest.raises(type(error)):
        pool.maintain()
    wait_until(lambda: counts(pool)["idle"] == 2 and closes(pool) == {"lifetime": 2})
    assert_sound(pool, server)
