"""Nothing is kept that is not needed: no reference to a dropped connection, no cycle, no memory for each loan."""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import sys
import weakref
from collections.abc import Callable
from typing import Any, cast

import psycopg2
import pytest

from pgpool_rs import PoolError, PoolTimeout, ThreadedConnectionPool
from pgpool_rs.testing import IDLE, INTRANS, FakeServer
from tests.lib.waits import Task, waiting_task
from tests.lib.ways_out import WAYS_OUT

pytestmark = pytest.mark.usefixtures("no_collector")

LOANS = 100_000


def plain(pool: Any) -> None:
    pool.putconn(pool.getconn())


def under_a_key(pool: Any) -> None:
    pool.putconn(pool.getconn("key"), "key")


def by_key_alone(pool: Any) -> None:
    pool.getconn(7)
    pool.putconn(None, 7)


def with_rollback(pool: Any) -> None:
    connection = pool.getconn()
    connection.status = INTRANS
    pool.putconn(connection)


def in_a_block(pool: Any) -> None:
    with pool.connection():
        pass


def refused(pool: Any) -> None:
    connection = pool.getconn()
    for call in (pool.getconn, lambda: pool.putconn(None), lambda: pool.putconn(connection, "wrong")):
        with contextlib.suppress(PoolError):
            call()
    pool.putconn(connection)


def looked_at(pool: Any) -> None:
    connection = pool.getconn("key")
    assert (len(pool._pool), len(pool._used), len(pool._rused)) == (0, 1, 1)
    assert pool._used["key"] is connection
    repr(pool)
    pool.putconn(connection)


LOAN_KINDS: list[tuple[Callable[[Any], None], int]] = [
    (plain, LOANS),
    (under_a_key, LOANS),
    (by_key_alone, LOANS),
    (with_rollback, LOANS // 5),
    (in_a_block, LOANS // 5),
    (refused, LOANS // 10),
    (looked_at, LOANS // 10),
]


@pytest.mark.parametrize(("loan", "times"), LOAN_KINDS, ids=[loan.__name__ for loan, _ in LOAN_KINDS])
def test_many_loans_leave_reference_counts_and_memory_as_they_were(
    our_class: Any, server: FakeServer, loan: Callable[[Any], None], times: int
) -> None:
    pool = our_class(1, 1)
    (connection,) = pool._pool
    watched = [connection, pool, None, IDLE, "key", 7, type(connection), our_class]
    for _ in range(1000):
        loan(pool)
    server.log.clear()
    gc.collect()  # what other tests have left refers to None and to small numbers

    def references() -> list[int]:
        return [sys.getrefcount(thing) for thing in watched]

    before, blocks, memory = references(), sys.getallocatedblocks(), peak_memory()
    for _ in range(times):
        loan(pool)
        server.log.clear()
    after = references()
    # None, small numbers and strings are shared with the interpreter, which may take or drop a few for itself.
    assert max(abs(now - then) for then, now in zip(before, after, strict=True)) < 20
    assert after[0] == before[0]
    assert sys.getallocatedblocks() - blocks < 200
    assert peak_memory() - memory < 4 * 1024 * 1024


def peak_memory() -> int:
    """Return the most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_many_opened_and_closed_connections_leave_memory_as_it_was(our_class: Any, server: FakeServer) -> None:
    server.keep = False
    pool = our_class(0, 1)
    for _ in range(500):
        plain(pool)
    server.log.clear()
    server.arguments.clear()
    blocks = sys.getallocatedblocks()
    for _ in range(10_000):
        plain(pool)
        server.log.clear()
        server.arguments.clear()
    assert sys.getallocatedblocks() - blocks < 200


def test_many_waits_that_end_in_vain_leave_memory_as_it_was(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 1)
    pool.getconn()

    def wait_in_vain(times: int) -> None:
        for number in range(times):
            with contextlib.suppress(PoolTimeout):
                pool.getconn(number if number % 2 else None, timeout=0.00001)

    wait_in_vain(200)
    blocks = sys.getallocatedblocks()
    wait_in_vain(3000)
    assert sys.getallocatedblocks() - blocks < 200


# --- A dropped connection -----------------------------------------------------------------------------------------


def above_minconn(pool: Any, connection: Any) -> None:
    pool.minconn = 0
    pool.putconn(connection)


def swept(pool: Any, connection: Any) -> None:
    pool.putconn(connection)
    pool.maxconn = 0


def taken_out_of_the_views(pool: Any, connection: Any) -> None:
    key = pool._rused[id(connection)]
    del pool._used[key]
    del pool._rused[id(connection)]


def taken_out_of_the_list(pool: Any, connection: Any) -> None:
    pool.putconn(connection)
    pool._pool.remove(connection)


def detached_by_popping(pool: Any, connection: Any) -> None:
    pool.putconn(connection)
    assert pool._pool.pop() is connection


MORE_WAYS_OUT = [
    *WAYS_OUT,
    above_minconn,
    swept,
    taken_out_of_the_views,
    taken_out_of_the_list,
    detached_by_popping,
]


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("way_out", MORE_WAYS_OUT, ids=[way.__name__ for way in MORE_WAYS_OUT])
def test_a_connection_that_left_the_pool_has_no_reference_left_in_it(
    our_class: Any,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    way_out: Callable[[Any, Any], None],
    key: Any,
) -> None:
    monkeypatch.setattr(logging.getLogger("pgpool_rs"), "disabled", True)  # pytest keeps what is logged
    server.keep = False
    pool = our_class(1, 1)
    connection = pool.getconn(key)
    gone = weakref.ref(connection)
    way_out(pool, connection)
    assert sys.getrefcount(connection) == 2
    del connection
    assert gone() is None


def test_a_connection_that_came_for_a_closed_pool_has_no_reference_left(server: FakeServer) -> None:
    server.keep = False
    pool = ThreadedConnectionPool(0, 1)
    seen: list[weakref.ref[Any]] = []
    server.on("connect", lambda connection: seen.append(weakref.ref(connection)))
    with server.hold("connect") as gate:
        task: Task[Any] = Task(pool.getconn)
        gate.wait_for()
        pool.closeall()
    task.wait()
    task.error = None
    gc.collect()
    assert seen[0]() is None


def test_what_a_failed_constructor_opened_is_freed(our_class: Any, server: FakeServer) -> None:
    server.keep = False
    seen: list[weakref.ref[Any]] = []
    server.on("connect", lambda connection: seen.append(weakref.ref(connection)))
    server.fail("connect", None, None, psycopg2.OperationalError("down"))
    with pytest.raises(psycopg2.OperationalError):
        our_class(3, 3)
    gc.collect()
    assert [reference() for reference in seen] == [None] * 3


def test_a_key_is_let_go_with_its_loan(our_class: Any, server: FakeServer) -> None:
    class Key:
        pass

    pool = our_class(1, 1)
    key = Key()
    gone = weakref.ref(key)
    connection = pool.getconn(key)
    pool.putconn(connection)
    del key
    assert gone() is None


def test_the_key_of_a_refused_or_failed_loan_is_let_go(server: FakeServer) -> None:
    class Key:
        pass

    pool = ThreadedConnectionPool(0, 1)
    pool.getconn()
    for options in cast("list[dict[str, Any]]", [{}, {"timeout": 0.001}]):
        key = Key()
        gone = weakref.ref(key)
        with pytest.raises(PoolError):
            pool.getconn(key, **options)
        del key
        gc.collect()
        assert gone() is None


def test_a_waiter_that_was_served_leaves_nothing_behind(server: FakeServer) -> None:
    server.keep = False
    pool = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    task = waiting_task(pool)
    pool.putconn(connection)
    assert task.result() is connection
    pool.putconn(connection, close=True)
    del task
    gone = weakref.ref(connection)
    del connection
    gc.collect()
    assert gone() is None
