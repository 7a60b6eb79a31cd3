"""The end of a connection may call the pool, whichever way it ends. The table of callbacks has all else that may."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pgpool_rs import PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task
from tests.lib.ways_out import failing_rollback, found_closed


def drop_by_lowered_maxconn(pool: Any) -> None:
    pool.maxconn = 2
    pool.maxconn = 8


def drop_by_clearing_the_list(pool: Any) -> None:
    pool._pool[:] = []


def drop_by_writing_into_used(pool: Any) -> None:
    pool.getconn("key")
    del pool._used["key"]
    pool._rused.clear()


DROPS: dict[str, Callable[[Any], None]] = {
    "a failing rollback": lambda pool: failing_rollback(pool, pool.getconn()),
    "a broken connection": lambda pool: found_closed(pool, pool.getconn()),
    "a lowered maxconn": drop_by_lowered_maxconn,
    "clearing the list": drop_by_clearing_the_list,
    "writing into _used": drop_by_writing_into_used,
}


@pytest.mark.parametrize("drop", DROPS)
def test_the_end_of_a_connection_may_call_the_pool(our_class: Any, server: FakeServer, drop: str) -> None:
    server.keep = False
    pool = our_class(3, 8)
    came: list[Any] = []

    def intrude() -> None:
        if not came:
            came.append(pool.getconn())
            pool.putconn(came[0])

    for connection in pool._pool:
        weakref.finalize(connection, intrude)
    del connection
    Task(DROPS[drop], pool).result()
    gc.collect()
    assert len(came) == 1
    came[:] = [True]  # it may come to its end with the others
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
