"""A pool is freed, with all that it holds, also where it is part of a cycle."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgpool_rs.testing import FakeServer

pytestmark = pytest.mark.usefixtures("no_collector")


def test_a_pool_is_freed_at_once_with_all_its_connections(our_class: Any, server: FakeServer) -> None:
    server.keep = False
    pool = our_class(2, 3)
    pool.getconn()
    references = [weakref.ref(thing) for thing in (pool, *pool._pool, *pool._used.values())]
    del pool
    # What was looked at through the views may stand in a cycle with them; the connections may not outlive that.
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_a_pool_that_was_only_lent_from_is_freed_without_the_collector(our_class: Any, server: FakeServer) -> None:
    server.keep = False
    pool = our_class(2, 3)
    connection = pool.getconn()
    references = [weakref.ref(pool), weakref.ref(connection)]
    pool.putconn(connection)
    del pool, connection
    assert [reference() for reference in references] == [None, None]


def through_an_idle_connection(pool: Any) -> None:
    pool._pool[0].pool = pool


def through_a_lent_connection(pool: Any) -> None:
    pool.getconn().pool = pool


def through_a_key(pool: Any) -> None:
    class Key:
        pass

    key = Key()
    key.pool = pool  # type: ignore[attr-defined]
    pool.getconn(key)


def through_the_arguments(pool: Any) -> None:
    pool._args = (pool,)
    pool._kwargs["connection_factory"] = lambda *_: pool


def through_an_attribute(pool: Any) -> None:
    pool.myself = pool


def through_a_shadowed_method(pool: Any) -> None:
    pool.getconn = lambda key=None: type(pool).getconn(pool, key)
    pool._getkey = lambda: type(pool)._getkey(pool)


def through_the_views(pool: Any) -> None:
    pool.views = (pool._pool, pool._used, pool._rused)


def through_the_last_connect_error(pool: Any) -> None:
    error = psycopg2.OperationalError("down")
    error.pool = pool  # type: ignore[attr-defined]
    pool._args[0].server.fail("connect", error)
    pool._pool[:] = []
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()


CYCLES = [
    through_an_idle_connection,
    through_a_lent_connection,
    through_a_key,
    through_the_arguments,
    through_an_attribute,
    through_a_shadowed_method,
    through_the_views,
    through_the_last_connect_error,
]


class Holder:
    """Something that a pool holds on to."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server


@pytest.mark.parametrize("cycle", CYCLES, ids=[cycle.__name__ for cycle in CYCLES])
def test_a_cycle_through_the_pool_is_collected(
    our_class: Any, server: FakeServer, cycle: Callable[[Any], None]
) -> None:
    server.keep = False
    holder = Holder(server)
    pool = our_class(2, 4, holder)
    server.arguments.clear()
    cycle(pool)
    server.arguments.clear()
    references = [weakref.ref(pool), weakref.ref(holder)]
    del pool, holder
    for _ in range(2):
        gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_a_subclass_with_a_del_that_closes_the_pool_is_freed_and_closed(our_class: Any, server: FakeServer) -> None:
    class Tidy(our_class):  # type: ignore[misc]
        def __del__(self) -> None:
            self.closeall()

    pool = Tidy(2, 2)
    pool.getconn()
    del pool
    gc.collect()
    assert server.open == 0
