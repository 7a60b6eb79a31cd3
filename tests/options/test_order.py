"""With order="fifo", the pool lends the connection that has been idle for longest."""

from __future__ import annotations

from typing import Any

import pytest

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_sound, filled, give_back, lend
from tests.lib.waits import Task, wait_for_waiters


@pytest.mark.parametrize("order", ["lifo", "fifo"])
def test_idle_connections_are_lent_in_this_order(server: FakeServer, our_class: Any, order: str) -> None:
    pool = filled(our_class, 3, order=order)
    first, second, third = lend(pool, 3)
    give_back(pool, [second, first, third])
    expected = [second, first, third] if order == "fifo" else [third, first, second]
    assert lend(pool, 3) == expected
    give_back(pool, expected)
    assert pool._pool == ([third, first, second] if order == "fifo" else expected), "the last one is lent next"
    assert_sound(pool, server)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("options", [{}, {"leak_after": 60}, {"reclaim": True}, {"background": True}], ids=str)
def test_fifo_holds_for_every_way_to_borrow(server: FakeServer, key: Any, options: dict[str, Any]) -> None:
    pool = filled(ThreadedConnectionPool, 3, order="fifo", **options)
    seen = []
    for _ in range(6):
        with pool.connection(key) as connection:
            seen.append(connection)
        connection = pool.getconn(key)
        seen.append(connection)
        pool.putconn(connection, key)
    assert len(set(map(id, seen))) == 3
    assert all(one is other for one, other in zip(seen, seen[3:], strict=False)), "in turn"
    assert_sound(pool, server)


def test_a_waiter_gets_what_comes_back_whatever_the_order(server: FakeServer) -> None:
    pool = filled(ThreadedConnectionPool, 2, order="fifo")
    one, other = lend(pool, 2)
    waiter = Task(pool.getconn, timeout=None)
    wait_for_waiters(pool, 1)
    pool.putconn(other)
    assert waiter.result() is other
    give_back(pool, [one, other])
    assert_sound(pool, server)
