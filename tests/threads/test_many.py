"""Many connections cost a loan no more than few, and many pools let the housekeeping thread sleep.

rust/core/src/tests/many.rs has the same for waiters.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from pgpool_rs import ThreadedConnectionPool, _housekeeper
from pgpool_rs.testing import FakeServer
from tests.lib.waits import wait_until

# Act, and tell the CPU time that it took.
Timed = Callable[[], float]
ROUNDS, TIMES = 25, 30


def ratio(few: Timed, many: Timed) -> float:
    """Compare two in turns, by the quickest round of each: what disturbs a round only makes it longer."""
    times = [[sum(timed() for _ in range(TIMES)) for timed in (few, many)] for _ in range(ROUNDS)]
    return min(long for _, long in times) / min(short for short, _ in times)


def timed(act: Callable[[], object]) -> Timed:
    """Tell the CPU time that this takes in this thread."""

    def timed_act() -> float:
        began = time.thread_time()
        act()
        return time.thread_time() - began

    return timed_act


def lending(connections: int, options: dict[str, Any]) -> Any:
    """Make a pool of which half the connections are lent."""
    pool = ThreadedConnectionPool(connections, connections, **options)
    pool.oldest = deque(pool.getconn() for _ in range(connections // 2))
    return pool


def borrow_by_key(pool: Any) -> None:
    pool.putconn(pool.getconn("key"), "key")


def return_the_oldest(pool: Any) -> None:
    pool.putconn(pool.oldest.popleft())
    pool.oldest.append(pool.getconn())


def return_the_oldest_slowly(pool: Any) -> None:
    connection = pool.oldest.popleft()
    connection.rollback()
    pool.putconn(connection, None, close=False)
    pool.oldest.append(pool.getconn(timeout=1))


@pytest.mark.parametrize("options", [{}, {"max_idle": 60, "max_lifetime": 600}, {"leak_after": 60}, {"reclaim": True}])
def test_ten_thousand_connections_make_a_loan_no_slower(server: FakeServer, options: dict[str, Any]) -> None:
    few, many = lending(10, options), lending(10_000, options)
    for act in (borrow_by_key, return_the_oldest, return_the_oldest_slowly):
        measured = ratio(timed(lambda act=act: act(few)), timed(lambda act=act: act(many)))  # type: ignore[misc]
        # What is looked for among all is a hundred times as slow. That so many objects fit into no cache is the rest.
        assert measured < 2, (act, measured)


def test_two_hundred_idle_pools_let_the_housekeeping_thread_sleep(server: FakeServer) -> None:
    options = {"max_idle": 60, "max_lifetime": 1800, "leak_after": 60, "background": True}
    pools = [ThreadedConnectionPool(1, 3, **options) for _ in range(200)]  # type: ignore[arg-type]
    for pool in pools:
        for connection in [pool.getconn() for _ in range(3)]:
            pool.putconn(connection)
    house = _housekeeper.housekeeper._house()

    def sleeps() -> bool:
        visits = [visit for visit in list(house.visits.values()) if visit.pool() in pools]
        soon = min((visit.due for visit in visits), default=0.0) - _housekeeper.clock()
        return len(visits) == len(pools) and not house.pokes and soon > 10

    wait_until(sleeps, "ten seconds of rest")
