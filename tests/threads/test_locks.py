"""A slow call delays only its own caller: no lock is held over a connect, a rollback, a close or a key's methods."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg2.pool
import pytest

from pgpool_rs import PoolClosed, PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import INTRANS, FakeServer, Gate
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, wait_until, waiting_task


def use_in_every_way(pool: Any) -> None:
    """Do with the pool whatever another thread might: it has one idle connection and room for two more."""
    first = pool.getconn()
    second = pool.getconn("key")
    assert pool.getconn("key") is second
    assert counts(pool)["lent"] >= 2
    assert pool.closed is False
    assert first in pool._used.values()
    assert id(second) in pool._rused
    assert len(pool._pool) >= 0
    second.status = INTRANS
    pool.putconn(second, "key")
    pool.putconn(first, close=True)
    with pool._lock:
        pass
    pool.maxconn = pool.maxconn + 1
    pool.maxconn = pool.maxconn - 1
    pool.minconn = pool.minconn


def hold_in(pool: Any, server: FakeServer, call: str, task: Callable[[], object]) -> tuple[Gate, Task[Any]]:
    """Hold a thread in a call of the server's, and let all others through."""
    gate = server.hold(call)
    held = Task(task)
    gate.wait_for()
    server.calm_gate(call)
    return gate, held


def held_connect(pool: Any, server: FakeServer) -> tuple[Gate, Task[Any]]:
    """Hold a thread in a connect; leave one connection idle."""
    first = pool.getconn()
    hold = hold_in(pool, server, "connect", pool.getconn)
    pool.putconn(first)
    return hold


def held_return(pool: Any, server: FakeServer, call: str, status: int = 0, **options: Any) -> tuple[Gate, Task[Any]]:
    """Hold a thread in a call that its return leads to; leave one connection idle."""
    connection, other = pool.getconn(), pool.getconn()
    connection.status = status
    hold = hold_in(pool, server, call, lambda: pool.putconn(connection, **options))
    pool.putconn(other)
    return hold


def held_sweep(pool: Any, server: FakeServer) -> tuple[Gate, Task[Any]]:
    """Hold a thread in the close of an idle connection above a lowered maxconn; leave one connection idle."""
    pool.minconn = 2
    for connection in [pool.getconn(), pool.getconn()]:
        pool.putconn(connection)
    maxconn = pool.maxconn
    hold = hold_in(pool, server, "close", lambda: setattr(pool, "maxconn", 1))
    pool.maxconn = maxconn
    return hold


HELD: dict[str, Callable[[Any, FakeServer], tuple[Gate, Task[Any]]]] = {
    "connect": held_connect,
    "rollback": partial(held_return, call="rollback", status=INTRANS),
    "close": partial(held_return, call="close", close=True),
    "look": partial(held_return, call="info"),
    "sweep": held_sweep,
}


@pytest.mark.parametrize("hold", HELD)
def test_a_held_call_delays_nobody_else(server: FakeServer, hold: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 4)
    gate, task = HELD[hold](pool, server)
    with gate:
        Task(use_in_every_way, pool).result()
        assert not task.done
    connection = task.result()
    if connection is not None:
        pool.putconn(connection)
    assert_whole(pool)


@pytest.mark.parametrize("call", ["connect", "rollback", "close"])
def test_defect_psycopg2s_pool_holds_its_lock_over_a_call(server: FakeServer, call: str) -> None:
    pool: Any = psycopg2.pool.ThreadedConnectionPool(0 if call == "close" else 1, 2)
    connection = pool.getconn()
    connection.status = INTRANS
    with server.hold(call) as gate:
        held = Task(pool.getconn) if call == "connect" else Task(pool.putconn, connection)
        gate.wait_for()
        assert pool._lock.locked()
    held.wait()


@pytest.mark.parametrize("keyed", [False, True])
def test_connects_run_in_parallel(server: FakeServer, keyed: bool) -> None:
    pool: Any = ThreadedConnectionPool(0, 8)
    with server.hold("connect") as gate:
        tasks = [Task(pool.getconn, number if keyed else None) for number in range(8)]
        gate.wait_for(8)
        assert counts(pool)["opening"] == 8
    for task in tasks:
        pool.putconn(task.result())
    assert_whole(pool)


@pytest.mark.parametrize("call", ["rollback", "close"])
def test_returns_run_in_parallel(server: FakeServer, call: str) -> None:
    pool: Any = ThreadedConnectionPool(4, 4)
    lent = [pool.getconn() for _ in range(4)]
    with server.hold(call) as gate:
        for connection in lent:
            connection.status = INTRANS
        tasks = [Task(pool.putconn, connection, None, call == "close") for connection in lent]
        gate.wait_for(4)
        assert counts(pool)["returning"] == 4
    for task in tasks:
        task.result()
    assert_whole(pool)


def test_a_held_close_in_closeall_keeps_no_waiter_and_no_newcomer_waiting(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    connection = pool.getconn()
    waiter = waiting_task(pool)
    with server.hold("close") as gate:
        closer = Task(pool.closeall)
        gate.wait_for()
        with pytest.raises(PoolClosed):
            waiter.result()
        for call in (pool.getconn, lambda: pool.putconn(connection), pool.closeall):
            with pytest.raises(PoolClosed):
                Task(call).result()
    closer.result()
    assert server.open == 0


class SlowKey:
    """A key whose method is held at a gate."""

    def __init__(self, method: str, gate: Gate) -> None:
        self.method, self.gate = method, gate

    def __hash__(self) -> int:
        if self.method == "__hash__":
            self.gate.pass_through()
        return 7

    def __eq__(self, other: object) -> bool:
        if self.method == "__eq__":
            self.gate.pass_through()
        return self is other


@pytest.mark.parametrize("method", ["__hash__", "__eq__"])
def test_a_key_that_is_slow_to_hash_or_compare_delays_nobody_else(server: FakeServer, method: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 5)
    resident = pool.getconn(7)
    assert hash(7) == 7
    pool.putconn(pool.getconn())
    with Gate() as gate:
        held = Task(pool.getconn, SlowKey(method, gate))
        gate.wait_for()
        Task(use_in_every_way, pool).result()
        assert not held.done
    pool.putconn(held.result())
    pool.putconn(resident)
    assert_whole(pool)


def test_a_loan_taken_while_its_key_was_being_compared_is_found(server: FakeServer) -> None:
    """The comparison runs unlocked, so its answer may be old by the time it is there."""
    pool: Any = ThreadedConnectionPool(1, 5)
    resident = pool.getconn(7)
    gate = Gate()

    class Key(SlowKey):
        def __eq__(self, other: object) -> bool:
            if other == 7 and threading.get_ident() == held.ident:
                self.gate.pass_through()
            return isinstance(other, Key)

        __hash__ = SlowKey.__hash__

    ready = threading.Event()
    held: Task[Any] = Task(lambda: ready.wait() and pool.getconn(Key("", gate)))
    ready.set()
    with gate:
        gate.wait_for()
        first = Task(pool.getconn, Key("", gate)).result()
    assert held.result() is first
    pool.putconn(resident)
    pool.putconn(first)
    assert_whole(pool)


def test_the_pool_works_while_somebody_holds_its_lock_attribute(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 4)
    with pool._lock:
        Task(lambda: pool.putconn(pool.getconn())).result()


def test_many_threads_that_share_a_simple_pool_by_mistake_leave_it_consistent(
    our_class: Any, server: FakeServer
) -> None:
    pool = our_class(2, 4)
    lent: set[int] = set()

    def borrow() -> None:
        for _ in range(500):
            try:
                connection = pool.getconn()
            except PoolExhausted:
                continue
            assert connection.serial not in lent
            lent.add(connection.serial)
            lent.discard(connection.serial)
            pool.putconn(connection)

    for task in [Task(borrow) for _ in range(8)]:
        task.result()
    assert server.peak <= 4
    wait_until(lambda: counts(pool)["lent"] == 0)
    assert_whole(pool)
