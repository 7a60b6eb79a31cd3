"""A waiter that gives up, by a timeout or an interrupt, hands on what it no longer wants."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pgpool_rs import PoolExhausted, PoolTimeout, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer, Gate
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, wait_for_waiters, waiting_task


class Latch:
    """A lock that does something of the test's when one particular thread's wait on it ends, and not before it may."""

    def __init__(self, after_wait: Callable[[bool], bool], may_end: Gate) -> None:
        self._lock = _thread.allocate_lock()
        self._after_wait = after_wait
        self._may_end = may_end
        self.release = self._lock.release
        self.locked = self._lock.locked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire, and let the test have its say where it had to be waited for."""
        if self._lock.acquire(False):
            return True
        acquired = blocking and self._lock.acquire(blocking, timeout)
        self._may_end.pass_through()
        return self._after_wait(acquired)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def latched_waiter(
    monkeypatch: pytest.MonkeyPatch, pool: Any, after_wait: Callable[[bool], bool], timeout: float | None
) -> tuple[Task[Any], Gate]:
    """Start a waiter of which `after_wait` decides how its wait ends, once the gate is released."""
    plain = threading.Lock
    started = threading.Event()
    may_end = Gate()

    def lock() -> Any:
        return Latch(after_wait, may_end) if threading.get_ident() == task.ident else plain()

    def wait() -> Any:
        started.wait()
        return pool.getconn(timeout=timeout)

    before = counts(pool)["waiting"]
    task: Task[Any] = Task(wait)
    monkeypatch.setattr(threading, "Lock", lock)
    started.set()
    wait_for_waiters(pool, before + 1)
    return task, may_end


def test_a_waiter_that_timed_out_gets_nothing_and_the_next_one_does(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    impatient, may_end = latched_waiter(monkeypatch, pool, bool, timeout=0.05)
    patient = waiting_task(pool)
    may_end.release()
    with pytest.raises(PoolTimeout):
        impatient.result()
    pool.putconn(connection)
    assert patient.result() is connection
    pool.putconn(connection)
    assert_whole(pool)


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

    late, may_end = latched_waiter(monkeypatch, pool, promise_too_late, timeout=0.05)
    patient = waiting_task(pool)
    may_end.release()
    late.wait()
    if late.error is None:
        pool.putconn(late.result())
    else:
        assert isinstance(late.error, PoolTimeout)
    pool.putconn(patient.result())
    assert_whole(pool)


@pytest.mark.parametrize("made", ["connection", "room", "nothing"])
@pytest.mark.parametrize("followed", [False, True])
def test_a_waiter_that_is_interrupted_hands_its_promise_on_and_leaves_the_queue(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, made: str, followed: bool
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()

    def interrupt(acquired: bool) -> bool:
        assert acquired == (made != "nothing")
        raise KeyboardInterrupt

    timeout = 0.05 if made == "nothing" else None
    interrupted, may_end = latched_waiter(monkeypatch, pool, interrupt, timeout=timeout)
    patient = waiting_task(pool) if followed else None
    may_end.release()
    if made != "nothing":
        pool.putconn(connection, close=made == "room")
    with pytest.raises(KeyboardInterrupt):
        interrupted.result()
    if made == "nothing":
        assert counts(pool)["waiting"] == followed
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

    waiter, may_end = latched_waiter(monkeypatch, pool, note, timeout=60)
    may_end.release()
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
