"""Whoever waits is served in order, woken by everything that makes room, and hands on what it no longer wants."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from fakes import ACTIVE, INTRANS, UNKNOWN, FakeServer
from pgpool_rs import PoolClosed, PoolExhausted, PoolTimeout, ThreadedConnectionPool
from support import Task, assert_whole, counts, wait_for_waiters, waiting_task

DOWN = psycopg2.OperationalError("down")


# --- Order --------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_in_which_they_came(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 2)
    lent = [pool.getconn(), pool.getconn()]
    waiters = [waiting_task(pool) for _ in range(6)]
    for served, waiter in enumerate(waiters):
        pool.putconn(lent.pop(0))
        lent.append(waiter.result())
        assert [waiter.done for waiter in waiters] == [True] * (served + 1) + [False] * (5 - served)
    for connection in lent:
        pool.putconn(connection)
    assert_whole(pool)


def test_waiters_with_and_without_keys_and_timeouts_stand_in_one_queue(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiters = [
        waiting_task(pool, key="a"),
        waiting_task(pool, timeout=60),
        waiting_task(pool, key=0, timeout=60),
        waiting_task(pool),
    ]
    for served, waiter in enumerate(waiters):
        pool.putconn(connection)
        assert waiter.result() is connection
        assert counts(pool)["waiting"] == 3 - served
    pool.putconn(connection)
    assert_whole(pool)


def test_a_newcomer_never_overtakes_a_waiter(server: FakeServer) -> None:
    """What comes back is promised to the waiter at once, so the thread that gave it back cannot take it again."""
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    for _ in range(200):
        waiter = waiting_task(pool)
        pool.putconn(connection)
        with pytest.raises(PoolExhausted):
            pool.getconn()
        with pytest.raises(PoolExhausted):
            pool.getconn("key", timeout=0)
        assert waiter.result() is connection
    pool.putconn(connection)
    assert_whole(pool)


def return_and_borrow(pool: Any, connection: Any) -> Any:
    pool.putconn(connection)
    return pool.getconn(timeout=None)


def test_a_newcomer_that_is_ready_to_wait_stands_behind(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    for _ in range(50):
        first = waiting_task(pool)
        second = Task(return_and_borrow, pool, connection)
        assert first.result() is connection
        assert not second.done
        pool.putconn(connection)
        assert second.result() is connection
    pool.putconn(connection)
    assert_whole(pool)


def test_room_made_by_raising_maxconn_goes_to_waiters_before_newcomers(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    with server.hold("connect"):
        waiters = [waiting_task(pool), waiting_task(pool)]
        pool.maxconn = 3
        with pytest.raises(PoolExhausted):
            pool.getconn()
    assert len({waiter.result().serial for waiter in waiters}) == 2
    assert server.peak == 3


# --- Waking -------------------------------------------------------------------------------------------------------


def lend_all(pool: Any) -> list[Any]:
    return [pool.getconn() for _ in range(pool.maxconn)]


def by_return(pool: Any, connection: Any) -> None:
    pool.putconn(connection)


def by_return_after_a_rollback(pool: Any, connection: Any) -> None:
    connection.status = ACTIVE
    pool.putconn(connection)


def by_discard(pool: Any, connection: Any) -> None:
    pool.putconn(connection, close=True)


def by_return_of_a_broken_connection(pool: Any, connection: Any) -> None:
    connection.set_closed(2)
    pool.putconn(connection)


def by_return_of_a_lost_connection(pool: Any, connection: Any) -> None:
    connection.status = UNKNOWN
    pool.putconn(connection)


def by_failing_rollback(pool: Any, connection: Any) -> None:
    connection.status = INTRANS
    connection.faults["rollback"] = DOWN
    pool.putconn(connection)


def by_interrupted_rollback(pool: Any, connection: Any) -> None:
    connection.status = INTRANS
    connection.faults["rollback"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(connection)


def by_failing_close(pool: Any, connection: Any) -> None:
    connection.faults["close"] = DOWN
    pool.putconn(connection, close=True)


def by_interrupted_close(pool: Any, connection: Any) -> None:
    connection.faults["close"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(connection, close=True)


def by_raising_maxconn(pool: Any, connection: Any) -> None:
    pool.maxconn = 2


def by_writing_into_pool(pool: Any, connection: Any) -> None:
    """Do what a subclass's own putconn does where it keeps psycopg2.pool's books."""
    key = pool._rused[id(connection)]
    pool._pool.append(connection)
    del pool._used[key]
    del pool._rused[id(connection)]


WAKERS = [
    by_return,
    by_return_after_a_rollback,
    by_discard,
    by_return_of_a_broken_connection,
    by_return_of_a_lost_connection,
    by_failing_rollback,
    by_interrupted_rollback,
    by_failing_close,
    by_interrupted_close,
    by_raising_maxconn,
    by_writing_into_pool,
]


@pytest.mark.parametrize("minconn", [0, 1])
@pytest.mark.parametrize("wake", WAKERS, ids=[wake.__name__ for wake in WAKERS])
def test_a_waiter_is_woken(server: FakeServer, wake: Callable[[Any, Any], None], minconn: int) -> None:
    pool: Any = ThreadedConnectionPool(minconn, 1)
    (connection,) = lend_all(pool)
    first, second = waiting_task(pool), waiting_task(pool)
    wake(pool, connection)
    lent = first.result()
    assert lent.closed == 0
    assert not second.done
    pool.putconn(lent)
    pool.putconn(second.result())
    for left in list(pool._used.values()):
        pool.putconn(left)
    assert server.peak <= pool.maxconn
    assert_whole(pool)


@pytest.mark.parametrize("error", [DOWN, KeyboardInterrupt()], ids=["Exception", "BaseException"])
def test_a_failed_connect_wakes_the_next_waiter(server: FakeServer, error: BaseException) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    with server.hold("connect") as gate:
        server.fail("connect", error)
        opener = Task(pool.getconn)
        gate.wait_for()
        waiters = [waiting_task(pool), waiting_task(pool)]
    with pytest.raises(type(error)):
        opener.result()
    for waiter in waiters:
        pool.putconn(waiter.result())
    assert_whole(pool)


def test_a_waiter_whose_own_connect_fails_gets_the_error_and_the_next_one_tries(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool) for _ in range(3)]
    server.fail("connect", DOWN, DOWN)
    pool.putconn(connection, close=True)
    for waiter in waiters[:2]:
        with pytest.raises(psycopg2.OperationalError):
            waiter.result()
    pool.putconn(waiters[2].result())
    assert_whole(pool)


def test_closeall_wakes_all_waiters_with_pool_closed(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    waiters = [waiting_task(pool, key=key) for key in (None, "a", "b", None)]
    pool.closeall()
    for waiter in waiters:
        with pytest.raises(PoolClosed, match=r"^connection pool is closed$"):
            waiter.result()
    assert counts(pool)["waiting"] == 0


def test_assigning_closed_wakes_all_waiters_with_pool_closed(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiters = [waiting_task(pool) for _ in range(2)]
    pool.closed = True
    for waiter in waiters:
        with pytest.raises(PoolClosed):
            waiter.result()
    pool.closed = False
    pool.putconn(connection)
    assert_whole(pool)


def test_raising_maxconn_by_two_wakes_two(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1)
    pool.getconn()
    waiters = [waiting_task(pool) for _ in range(3)]
    pool.maxconn = 3
    for waiter in waiters[:2]:
        waiter.result()
    assert (waiters[2].done, counts(pool)["waiting"]) == (False, 1)
    pool.putconn(pool._used[1])
    waiters[2].result()


def test_a_loan_does_not_wake_a_waiter_above_a_lowered_maxconn(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 2)
    first, second = lend_all(pool)
    pool.maxconn = 1
    waiter = waiting_task(pool)
    pool.putconn(first)
    assert (counts(pool)["waiting"], server.sees(first)) == (1, False)
    pool.putconn(second)
    pool.putconn(waiter.result())
    assert server.open == 1
    assert_whole(pool)


# --- Giving up ----------------------------------------------------------------------------------------------------


def test_a_waiter_that_timed_out_gets_nothing_and_the_next_one_does(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    impatient = waiting_task(pool, timeout=0.05)
    patient = waiting_task(pool)
    with pytest.raises(PoolTimeout):
        impatient.result()
    pool.putconn(connection)
    assert patient.result() is connection
    pool.putconn(connection)
    assert_whole(pool)


class Latch:
    """A lock that does something of the test's when one particular thread's wait on it ends."""

    def __init__(self, after_wait: Callable[[bool], bool]) -> None:
        self._lock = _thread.allocate_lock()
        self._after_wait = after_wait
        self.release = self._lock.release
        self.locked = self._lock.locked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire, and let the test have its say where it had to be waited for."""
        if self._lock.acquire(False):
            return True
        return self._after_wait(blocking and self._lock.acquire(blocking, timeout))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def latched_waiter(
    monkeypatch: pytest.MonkeyPatch, pool: Any, after_wait: Callable[[bool], bool], timeout: float | None
) -> Task[Any]:
    """Start a waiter of which `after_wait` decides how its wait ends."""
    plain = threading.Lock
    started = threading.Event()

    def lock() -> Any:
        return Latch(after_wait) if threading.get_ident() == task.ident else plain()

    def wait() -> Any:
        started.wait()
        return pool.getconn(timeout=timeout)

    before = counts(pool)["waiting"]
    task: Task[Any] = Task(wait)
    monkeypatch.setattr(threading, "Lock", lock)
    started.set()
    wait_for_waiters(pool, before + 1)
    return task


@pytest.mark.parametrize("made", ["connection", "room"])
def test_a_promise_made_at_the_moment_of_timing_out_is_taken_or_handed_on(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()

    def promise_too_late(acquired: bool) -> bool:
        assert not acquired
        pool.putconn(connection, close=made == "room")
        return False

    late = latched_waiter(monkeypatch, pool, promise_too_late, timeout=0.05)
    patient = waiting_task(pool)
    late.wait()
    if late.error is None:
        pool.putconn(late.result())
    else:
        assert isinstance(late.error, PoolTimeout)
    pool.putconn(patient.result())
    assert_whole(pool)


@pytest.mark.parametrize("made", ["connection", "room"])
@pytest.mark.parametrize("followed", [False, True])
def test_a_waiter_interrupted_with_a_promise_in_hand_hands_it_on(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, made: str, followed: bool
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()

    def interrupt(acquired: bool) -> bool:
        assert acquired
        raise KeyboardInterrupt

    interrupted = latched_waiter(monkeypatch, pool, interrupt, timeout=None)
    patient = waiting_task(pool) if followed else None
    pool.putconn(connection, close=made == "room")
    with pytest.raises(KeyboardInterrupt):
        interrupted.result()
    if patient is not None:
        pool.putconn(patient.result())
    assert_whole(pool)


@pytest.mark.parametrize("followed", [False, True])
def test_a_waiter_interrupted_without_a_promise_leaves_the_queue(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, followed: bool
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()

    def interrupt(acquired: bool) -> bool:
        assert not acquired
        raise KeyboardInterrupt

    interrupted = latched_waiter(monkeypatch, pool, interrupt, timeout=0.05)
    patient = waiting_task(pool) if followed else None
    with pytest.raises(KeyboardInterrupt):
        interrupted.result()
    assert counts(pool)["waiting"] == (1 if followed else 0)
    pool.putconn(connection)
    if patient is not None:
        pool.putconn(patient.result())
    assert_whole(pool)


def test_waiting_is_done_on_a_lock_made_by_threading_lock_as_it_is_then(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that monkey-patching, at whatever moment, makes it yield."""
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waits: list[bool] = []

    def note(acquired: bool) -> bool:
        waits.append(acquired)
        return acquired

    waiter = latched_waiter(monkeypatch, pool, note, timeout=60)
    pool.putconn(connection)
    assert waiter.result() is connection
    assert waits == [True]


def test_a_lock_that_cannot_be_made_loses_no_slot(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Lock", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            pool.getconn(timeout=None)
    pool.putconn(connection)
    assert_whole(pool)


def test_many_impatient_waiters_lose_nothing(server: FakeServer) -> None:
    """Returns and timeouts meet at all moments; the promise that comes too late must never be lost."""
    pool: Any = ThreadedConnectionPool(1, 2)
    outcomes: list[bool] = []

    def borrow(number: int) -> None:
        for step in range(150):
            try:
                connection = pool.getconn(timeout=0.0002 * ((number + step) % 5))
            except PoolExhausted:
                outcomes.append(False)
            else:
                outcomes.append(True)
                pool.putconn(connection, close=step % 7 == 0)

    for task in [Task(borrow, number) for number in range(8)]:
        task.result()
    assert True in outcomes
    assert server.peak <= 2
    assert_whole(pool)
