"""With limit=, a pool opens a connection only in a place that its limit has given it, and gives each place back."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolExhausted, PoolTimeout, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.limits import PretendedLimit, assert_exact
from tests.lib.log import handled_by
from tests.lib.pools import DOWN, give_back, lend
from tests.lib.waits import Task, wait_for_waiters, wait_until

pytestmark = pytest.mark.usefixtures("server")
noted = pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take no notes")


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def test_two_pools_never_have_more_open_than_their_limit(server: FakeServer, our_class: Any) -> None:
    limit = PretendedLimit(3)
    first, second = our_class(0, 3, limit=limit), our_class(1, 3, limit=limit)
    assert limit.pools == [first.name, second.name]
    lent = lend(first, 2)
    with pytest.raises(PoolExhausted):
        first.getconn()
    assert (limit.taken, server.open) == (3, 3)
    give_back(first, lent)
    assert_exact(limit, server)
    second.closeall()
    first.closeall()
    assert (limit.taken, server.open) == (0, 0)


@noted
def test_a_refusal_says_that_it_was_the_limit_and_who_holds_it(server: FakeServer, our_class: Any) -> None:
    limit = PretendedLimit(1)
    first, second = our_class(1, 3, limit=limit), our_class(0, 3, limit=limit)
    with pytest.raises(PoolExhausted, match=r"^connection pool exhausted") as refused:
        second.getconn()
    assert f"the limit is held by {first.name} 1" in notes(refused.value)
    with first.connection(), pytest.raises(PoolExhausted):
        first.getconn("key")
    assert_exact(limit, server)


@noted
@pytest.mark.parametrize("timeout", [0, 5, None])
def test_a_log_handler_is_told_so_whatever_its_timeout(server: FakeServer, timeout: float | None) -> None:
    limit = PretendedLimit(1)
    first, second = (ThreadedConnectionPool(0, 3, limit=limit, timeout=timeout) for _ in range(2))
    said: list[str] = []

    def write_to_the_database(_: logging.LogRecord) -> None:
        with pytest.raises(PoolExhausted) as refused:
            second.getconn()
        said.append(notes(refused.value))

    with handled_by(write_to_the_database):
        first.getconn()
    assert f"the limit is held by {first.name} 1" in said[0]


@noted
def test_a_pool_that_is_full_itself_does_not_blame_the_limit(our_class: Any) -> None:
    pool = our_class(1, 1, limit=PretendedLimit(1))
    with pool.connection(), pytest.raises(PoolExhausted) as refused:
        pool.getconn()
    assert "limit" not in notes(refused.value)


def test_a_timeout_says_that_it_was_the_limit(server: FakeServer) -> None:
    limit = PretendedLimit(1)
    first, second = (ThreadedConnectionPool(0, 3, limit=limit) for _ in range(2))
    with first.connection():
        with pytest.raises(PoolTimeout, match="for the limit that it shares with others") as late:
            second.getconn(timeout=0.01)
        said = notes(late.value) if sys.version_info >= (3, 11) else str(late.value)
        assert f"the limit is held by {first.name} 1" in said
        assert limit.waits == 1
    assert_exact(limit, server)


def test_waiters_get_what_the_limit_gives_in_their_order(server: FakeServer) -> None:
    limit = PretendedLimit(0)
    pool = ThreadedConnectionPool(0, 3, timeout=None, limit=limit)
    tasks = []
    for number in range(3):
        tasks.append(Task(pool.getconn))
        wait_for_waiters(pool, number + 1)
    assert (pool._pgpool_wanted(), limit.waits) == (3, 1)
    for number in range(3):
        limit.limit += 1
        assert limit.serve(pool) == 1
        pool.putconn(tasks[number].result()) if number == 2 else tasks[number].result()
    assert_exact(limit, server)


def test_a_connection_that_is_closed_leaves_its_place_to_the_pools_own_waiter(server: FakeServer) -> None:
    limit = PretendedLimit(1)
    pool = ThreadedConnectionPool(0, 3, timeout=None, limit=limit)
    first = pool.getconn()
    task = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.putconn(first, close=True)
    pool.putconn(task.result())
    assert_exact(limit, server)


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_under_pressure_a_pool_closes_what_is_idle_and_keeps_no_return(server: FakeServer, order: Any) -> None:
    limit = PretendedLimit(4)
    pool = ThreadedConnectionPool(1, 4, max_idle=None, order=order, limit=limit)
    give_back(pool, lend(pool, 4))
    lent = pool.getconn()
    pool._pgpool_press(2)
    assert_exact(limit, server)
    assert limit.taken == 2
    pool._pgpool_press(0)
    pool.putconn(lent)
    assert limit.taken == 1, "minconn is its own"
    pool._pgpool_press(None)
    give_back(pool, lend(pool, 4))
    assert limit.taken == 4
    pool.closeall()
    pool._pgpool_press(1)
    assert (pool._pgpool_wanted(), pool._pgpool_grant(2), limit.taken) == (0, 2, 0)


def test_a_failed_connect_gives_its_place_back(server: FakeServer, our_class: Any) -> None:
    limit = PretendedLimit(2)
    pool = our_class(0, 2, limit=limit)
    server.fail("connect", DOWN)
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    assert limit.taken == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_that_gets_too_few_places_for_minconn_begins_with_fewer(
    server: FakeServer, our_class: Any, workers: int
) -> None:
    limit = PretendedLimit(2)
    pool = our_class(3, 3, limit=limit, open_workers=workers)
    assert_exact(limit, server)
    lent = lend(pool, 2)
    with pytest.raises(PoolExhausted):
        pool.getconn()
    give_back(pool, lent)
    late = our_class(1, 3, limit=limit, open_workers=workers, open=False)
    late.open()
    assert (limit.taken, server.open) == (2, 2)


def test_a_failed_connect_fails_the_constructor_with_a_limit_too(server: FakeServer, our_class: Any) -> None:
    limit = PretendedLimit(2)
    server.fail("connect", psycopg2.OperationalError("down"))
    with pytest.raises(psycopg2.OperationalError):
        our_class(3, 3, limit=limit)
    assert (limit.taken, server.open) == (0, 0)


def test_workers_open_in_places_of_the_limit(server: FakeServer) -> None:
    limit = PretendedLimit(1)
    pool = ThreadedConnectionPool(0, 3, timeout=None, max_idle=None, grow="workers", limit=limit)
    tasks = [Task(pool.getconn)]
    first = tasks[0].result()
    tasks.append(Task(pool.getconn))
    wait_for_waiters(pool, 1)
    limit.limit = 2
    assert limit.serve(pool) == 1
    pool.putconn(tasks[1].result())
    pool.putconn(first)
    wait_until(lambda: limit.taken == server.open, "the place of a worker is given back")


def test_the_housekeeper_replaces_only_what_the_limit_allows(server: FakeServer) -> None:
    limit = PretendedLimit(2)
    pool = ThreadedConnectionPool(1, 3, max_lifetime=60, limit=limit)
    limit.limit = 1
    pool.putconn(pool.getconn(), close=True)
    pool.maintain()
    assert_exact(limit, server)
    limit.limit = 0
    pool.putconn(pool.getconn(), close=True)
    pool.maintain()
    assert (limit.taken, server.open) == (0, 0)
    limit.limit = 1
    pool.maintain()
    assert (limit.taken, server.open) == (1, 1)


def test_a_loan_that_needs_no_connect_asks_the_limit_nothing(our_class: Any) -> None:
    limit = PretendedLimit(1)
    pool = our_class(1, 1, limit=limit)
    asked = limit.asked
    for _ in range(3):
        pool.putconn(pool.getconn())
    assert (limit.asked, limit.waits) == (asked, 0)


def test_close_gives_places_back_as_connections_are_closed(server: FakeServer) -> None:
    limit = PretendedLimit(3)
    pool = ThreadedConnectionPool(2, 3, limit=limit)
    lent = pool.getconn()
    pool.close()
    assert limit.taken == 1
    pool.putconn(lent)
    assert (limit.taken, server.open) == (0, 0)


def test_a_pool_that_is_made_anew_gives_its_places_back_to_the_limit_that_it_had() -> None:
    first, second = PretendedLimit(3), PretendedLimit(3)
    pool = ThreadedConnectionPool(2, 3, name="p", limit=first)
    pool.__init__(1, 3, name="p", limit=second)  # type: ignore[misc]
    assert (first.taken, second.taken) == (0, 1)
    pool.__init__(1, 3, name="p")  # type: ignore[misc]
    assert (second.taken, pool._pgpool_wanted()) == (0, 0)


def test_a_forgotten_connection_gives_its_place_back(server: FakeServer) -> None:
    server.keep = False
    limit = PretendedLimit(1)
    pool = ThreadedConnectionPool(0, 1, timeout=5, reclaim=True, limit=limit)
    pool.getconn()
    gc.collect()
    pool.putconn(pool.getconn())
    assert limit.taken == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_holds_no_place_and_gives_none_back() -> None:
    limit = PretendedLimit(3)
    pool = ThreadedConnectionPool(1, 3, limit=limit)
    lent = pool.getconn()
    child = os.fork()
    if child == 0:
        limit.held.clear()
        pool.putconn(lent)
        pool.putconn(pool.getconn(), close=True)
        os._exit(limit.held.total())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pool.putconn(lent)
    assert limit.taken == 1


@pytest.mark.parametrize("error", [RuntimeError("limit"), KeyboardInterrupt()], ids=["exception", "interrupt"])
@pytest.mark.parametrize("method", ["_attach", "_take", "_give", "_wait"])
def test_a_limit_that_raises_loses_no_place_and_no_slot(server: FakeServer, method: str, error: BaseException) -> None:
    limit = PretendedLimit(1)

    def use(*, raising: bool) -> None:
        if raising:
            limit.raising[method] = error
        with ThreadedConnectionPool(0, 2, limit=limit) as pool:
            lent = pool.getconn()
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.01)
            pool.putconn(lent, close=True)

    with pytest.raises(type(error)):
        use(raising=True)
    assert not limit.raising
    assert_exact(limit, server)
    use(raising=False)
    assert_exact(limit, server)


def test_a_caller_that_the_reserve_keeps_out_does_not_blame_the_limit(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 3, timeout=0.01, reserve=1, limit=PretendedLimit(3))
    lent = [pool.getconn() for _ in range(2)]
    with pytest.raises(PoolTimeout, match="for one of 3 connections"):
        pool.getconn()
    lent.append(pool.getconn(priority=True))
    for connection in lent:
        pool.putconn(connection)


@pytest.mark.parametrize("given", [3, "limit", PretendedLimit], ids=str)
def test_what_is_no_limit_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="limit must be a HostLimit, a SharedLimit or None"):
        ThreadedConnectionPool(0, 1, limit=given)


def test_the_options_have_the_limit(our_class: Any) -> None:
    limit = PretendedLimit(1)
    assert our_class(0, 1, limit=limit).options["limit"] is limit
    assert our_class(0, 1).options["limit"] is None


def test_a_caller_that_waits_for_the_limit_is_told_when_the_pool_is_closed() -> None:
    limit = PretendedLimit(0)
    pool = ThreadedConnectionPool(0, 1, timeout=None, limit=limit)
    task = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.closeall()
    with pytest.raises(PoolClosed):
        task.result()
    assert limit.taken == 0
