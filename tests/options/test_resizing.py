"""Connections are replaced by drain, and pools get other sizes, whatever is going on meanwhile."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from pgpool_rs import PoolClosed, PoolError, ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.callbacks import Callback, Killed
from tests.lib.pools import (
    DOWN,
    assert_balanced,
    assert_sound,
    assert_whole,
    closes,
    filled,
    give_back,
    idle,
    lend,
    wait_for_quiet,
)
from tests.lib.waits import Task, counts, held, wait_for_waiters, wait_until, waiting_task

# --- drain -----------------------------------------------------------------------------------------------------------


def test_drain_replaces_idle_connections_now_and_lent_ones_as_they_come_back(
    server: FakeServer, our_class: Any
) -> None:
    pool = our_class(3, 3)
    lent = pool.getconn()
    pool.drain()
    assert (sorted(idle(pool)), closes(pool)) == ([4, 5], {"drained": 2})
    pool.putconn(lent)
    assert closes(pool) == {"drained": 3}
    pool.maintain()
    assert sorted(idle(pool)) == [4, 5, 6]
    assert_sound(pool, server)


def test_a_connection_that_is_being_opened_during_drain_is_replaced_too(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, max_idle=None)
    with held(server.hold("connect"), pool.getconn) as opening:
        pool.drain()
    pool.putconn(opening.result())
    assert closes(pool) == {"drained": 1}
    assert_sound(pool, server)


def test_a_connection_that_is_being_returned_during_drain_is_replaced_too(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, max_idle=None)
    connection = pool.getconn()
    connection.status = INTRANS
    with held(server.hold("rollback"), pool.putconn, connection) as returning:
        pool.drain()
    returning.result()
    assert closes(pool) == {"drained": 1}
    assert_sound(pool, server)


def test_a_connection_that_is_being_checked_during_drain_is_replaced_too(server: FakeServer, our_class: Any) -> None:
    check = Callback()
    pool = filled(our_class, 1, check=check, check_after=0)
    check.then(lambda _: pool.drain())
    connection = pool.getconn()
    assert (connection.serial, closes(pool)) == (2, {"drained": 1})
    pool.putconn(connection)
    assert_sound(pool, server)


def test_a_waiter_gets_a_new_connection_after_drain(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiter = waiting_task(pool)
    pool.drain()
    pool.putconn(connection)
    assert waiter.result().serial == 2
    pool.putconn(waiter.result())
    assert_sound(pool, server)


def test_what_is_opened_after_drain_stays(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2)
    pool.drain()
    for _ in range(3):
        give_back(pool, lend(pool, 2))
    assert (sorted(idle(pool)), closes(pool)) == ([3, 4], {"drained": 2})


def test_drain_where_the_server_is_down_logs_and_does_not_raise(server: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2)
    server.fail("connect", DOWN)
    pool.drain()
    assert (server.open, closes(pool)) == (0, {"drained": 2})
    assert_whole(pool)


def test_who_finds_the_pool_full_waits_for_what_drain_closes(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1)
    with held(server.hold("close"), pool.drain) as draining:
        borrower = Task(pool.getconn)
        wait_for_waiters(pool, 1)
    draining.result()
    connection = borrower.result()
    assert connection.serial == 2
    pool.putconn(connection)
    assert_sound(pool, server)


@pytest.mark.parametrize("error", [DOWN, ValueError("odd"), KeyboardInterrupt(), Killed()])
@pytest.mark.parametrize(("call", "closed"), [("drain", {"drained": 3}), ("resize", {"surplus": 3})])
def test_all_are_closed_though_a_close_fails(
    server: FakeServer, our_class: Any, error: BaseException, call: str, closed: dict[str, int]
) -> None:
    pool = our_class(3, 3)
    server.fail("close", error)
    with nullcontext() if error is DOWN else pytest.raises(type(error)):
        pool.drain() if call == "drain" else pool.resize(0, 0)
    assert closes(pool) == closed
    server.peak = 0
    pool.resize(0, 2)
    assert_sound(pool, server)


@pytest.mark.parametrize("call", ["drain", "maxconn", "resize"])
def test_what_a_closed_pool_had_is_closed_and_counted_once(server: FakeServer, our_class: Any, call: str) -> None:
    pool = our_class(2, 2)
    lent = pool.getconn()
    pool.closeall()
    try:
        if call == "drain":
            pool.drain()
        elif call == "maxconn":
            pool.maxconn = 0
        else:
            pool.resize(0, 0)
    except PoolClosed:
        pass
    assert closes(pool) == {"with_pool": 2}
    with pytest.raises(PoolClosed):
        pool.putconn(lent)
    assert_balanced(pool, server)


# --- resize ----------------------------------------------------------------------------------------------------------


def test_what_is_above_the_new_maxconn_is_closed_now_or_on_its_return(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 5, max_idle=None)
    lent = lend(pool, 5)
    give_back(pool, lent[:2])
    pool.resize(0, 2)
    assert (server.open, closes(pool)) == (3, {"surplus": 2})
    give_back(pool, lent[2:])
    assert (server.open, closes(pool)) == (2, {"surplus": 3})
    assert counts(pool)["maxconn"] == 2
    with pytest.raises(PoolError, match="exhausted"):
        lend(pool, 3)


def test_idle_connections_above_the_new_minconn_are_closed_as_they_come_back(
    server: FakeServer, our_class: Any
) -> None:
    pool = our_class(4, 4)
    pool.resize(1, 4)
    assert server.open == 4
    give_back(pool, lend(pool, 4))
    assert (server.open, closes(pool)) == (1, {"surplus": 3})
    assert_sound(pool, server)


def test_idle_connections_above_the_new_minconn_stay_for_max_idle(server: FakeServer, our_class: Any) -> None:
    pool = our_class(4, 4, max_idle=100, check=None)
    pool.resize(1, 4)
    assert server.open == 4
    advance_clock(101)
    pool.maintain()
    wait_for_quiet(pool)
    assert (server.open, closes(pool)) == (1, {"idle": 3})


@pytest.mark.parametrize("way", ["resize", "assignment"])
def test_waiters_get_room_that_a_new_maxconn_makes_in_their_order(server: FakeServer, way: str) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    lent = [pool.getconn()]
    waiters = [waiting_task(pool) for _ in range(3)]
    if way == "resize":
        pool.resize(0, 3)
    else:
        pool.maxconn = 3
    lent += [waiters[0].result(), waiters[1].result()]
    assert counts(pool)["waiting"] == 1
    give_back(pool, lent)
    pool.putconn(waiters[2].result())
    assert_sound(pool, server)


def test_a_new_minconn_is_filled_by_maintain_or_by_the_thread(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 4)
    pool.resize(3, 4)
    pool.maintain()
    assert counts(pool)["idle"] == 3
    kept = our_class(1, 4, max_idle=100)
    kept.minconn = 3
    wait_until(lambda: counts(kept)["idle"] == 3, "the thread")


@pytest.mark.parametrize("sizes", [(3, 2), (-1, 2), ("x", 2)])
def test_sizes_that_make_no_sense_are_refused_and_nothing_changes(
    server: FakeServer, our_class: Any, sizes: tuple[Any, Any]
) -> None:
    pool = our_class(1, 2)
    with pytest.raises(ValueError, match=r"minconn|maxconn"):
        pool.resize(*sizes)
    assert (pool.minconn, pool.maxconn) == (1, 2)
    assert_sound(pool, server)


def test_who_was_told_to_wait_is_refused_where_a_new_maxconn_leaves_nothing_to_wait_for(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2, background=True, max_idle=None)
    first, second = lend(pool, 2)
    first.status = INTRANS
    with server.hold("rollback") as gate:
        pool.putconn(first)
        gate.wait_for()
        borrower = Task(pool.getconn, timeout=0)
        wait_for_waiters(pool, 1)
        pool.resize(0, 1)
    with pytest.raises(PoolError, match="exhausted"):
        borrower.result()
    pool.putconn(second)
    wait_for_quiet(pool)
    assert_balanced(pool, server)
