"""Pools with one mistake each, used by threads: check_history finds the mistake in what they recorded.

Where a mistake shows only in a race, a gate makes it: threads are held between the look and the act, all of them, and
then released.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import psycopg2
import psycopg2.pool
import pytest

from pgpool_rs import PoolClosed, PoolError, PoolExhausted, PoolTimeout, ThreadedConnectionPool
from pgpool_rs.testing import INTRANS, FakeServer, Gate, HistoryError, Limits, Recorder, check_history
from pgpool_rs.testing._history.exercise import exercise
from tests.lib.waits import Task

DOWN = psycopg2.OperationalError("down")


class Waiter:
    """Somebody who waits for a connection."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.served = threading.Event()
        self.connection: Any = None


class Sound:
    """A pool for threads, simple and right: room is reserved before it is filled, and freed when that fails."""

    def __init__(self, server: FakeServer, maxconn: int = 2) -> None:
        self.server = server
        self.maxconn = maxconn
        self.lock = threading.Lock()
        self.idle: list[Any] = []
        self.lent: dict[int, tuple[Any, Hashable]] = {}
        self.opening = 0
        self.opening_keys: dict[Hashable, threading.Event] = {}
        self.waiting: list[Waiter] = []
        self.closed = False
        self.gate = Gate()
        self.gate.release()

    def pause(self) -> None:
        """Be held here, if a test wants it so. The broken pools look before it and act after it."""
        self.gate.pass_through()

    def getconn(self, key: Hashable = None, timeout: float = 0) -> Any:
        while True:
            with self.lock:
                if self.closed:
                    raise PoolClosed("connection pool is closed")
                found = self.find(key)
                if found is not None:
                    return found
                opened = self.opening_keys.get(key) if key is not None else None
                if opened is None:
                    if self.idle:
                        return self.lend(self.idle.pop(), key)
                    if self.has_room():
                        self.opening += 1
                        if key is not None:
                            self.opening_keys[key] = threading.Event()
                        break
                    waiter = Waiter(key)
                    self.waiting.append(waiter)
            if opened is not None:
                opened.wait()
                continue
            return self.wait(waiter, timeout)
        return self.open(key)

    def has_room(self) -> bool:
        return len(self.lent) + self.opening + len(self.idle) < self.maxconn

    def find(self, key: Hashable) -> Any:
        return next((connection for connection, under in self.lent.values() if key is not None and under == key), None)

    def lend(self, connection: Any, key: Hashable) -> Any:
        self.lent[id(connection)] = (connection, key)
        return connection

    def open(self, key: Hashable) -> Any:
        try:
            connection = self.server.connect()
        except BaseException:
            with self.lock:
                self.opening -= 1
                self.opened(key)
            raise
        with self.lock:
            self.opening -= 1
            self.opened(key)
            if not self.closed:
                return self.lend(connection, key)
        connection.close()
        raise PoolClosed("connection pool is closed")

    def opened(self, key: Hashable) -> None:
        if key is not None:
            self.opening_keys.pop(key).set()

    def wait(self, waiter: Waiter, timeout: float) -> Any:
        waiter.served.wait(timeout)
        with self.lock:
            if waiter in self.waiting:
                self.waiting.remove(waiter)
            elif waiter.connection is not None:
                return waiter.connection
        raise PoolTimeout("too late") if timeout else PoolExhausted("connection pool exhausted")

    def putconn(self, conn: Any, key: Hashable = None, close: bool = False) -> None:
        with self.lock:
            if self.closed:
                raise PoolClosed("connection pool is closed")
            if id(conn) not in self.lent:
                raise PoolError("trying to put unkeyed connection")
        if not close and conn.transaction_status != 0:
            try:
                conn.rollback()
            except psycopg2.Error:
                close = True
        with self.lock:
            self.lent.pop(id(conn), None)
            if not close:
                self.keep(conn)
        if close:
            conn.close()

    def keep(self, conn: Any) -> None:
        if self.waiting:
            waiter = self.waiting.pop(0)
            # Lent at once, and not only when it wakes: nobody may take the room meanwhile.
            waiter.connection = self.lend(conn, waiter.key)
            waiter.served.set()
        else:
            self.idle.append(conn)

    def closeall(self) -> None:
        with self.lock:
            if self.closed:
                raise PoolClosed("connection pool is closed")
            self.closed = True


class PassesTheLimit(Sound):
    """Counts what is lent, and not what is being opened."""

    def has_room(self) -> bool:
        return len(self.lent) + len(self.idle) < self.maxconn


class LendsToTwo(Sound):
    """Looks at the idle connection first, and takes it out later."""

    def getconn(self, key: Hashable = None, timeout: float = 0) -> Any:
        if not self.idle:
            return super().getconn(key, timeout)
        connection = self.idle[-1]
        self.pause()
        with self.lock:
            self.idle = [other for other in self.idle if other is not connection]
            return self.lend(connection, key)


class OpensAKeyTwice(Sound):
    """Does not know which keys are being opened."""

    def opened(self, key: Hashable) -> None:
        pass

    def getconn(self, key: Hashable = None, timeout: float = 0) -> Any:
        self.opening_keys.clear()
        return super().getconn(key, timeout)


class LendsThoughClosed(Sound):
    """Asks whether it is closed only before it opens a connection."""

    def getconn(self, key: Hashable = None, timeout: float = 0) -> Any:
        with self.lock:
            if self.idle:
                return self.lend(self.idle.pop(), key)
        return super().getconn(key, timeout)


class LosesASlotOnAFailedConnect(Sound):
    """Gives no room back when a connect fails."""

    def open(self, key: Hashable) -> Any:
        connection = self.server.connect()
        with self.lock:
            self.opening -= 1
            self.opened(key)
            return self.lend(connection, key)


class LosesASlotOnAFailedRollback(Sound):
    """Closes a connection whose rollback failed, and goes on counting it."""

    def putconn(self, conn: Any, key: Hashable = None, close: bool = False) -> None:
        try:
            conn.rollback()
        except psycopg2.Error:
            conn.close()
            return
        super().putconn(conn, key, close)


class ServesTheDead(Sound):
    """Leaves those who have given up in the queue, where they are served."""

    def wait(self, waiter: Waiter, timeout: float) -> Any:
        if waiter.served.wait(timeout):
            return waiter.connection
        raise PoolTimeout("too late")


class TakesBackTwice(Sound):
    """Takes back what is not lent."""

    def putconn(self, conn: Any, key: Hashable = None, close: bool = False) -> None:
        with self.lock:
            self.lent.pop(id(conn), None)
            self.keep(conn)


class KeepsWhatIsToBeClosed(Sound):
    """Pays no attention to `close=True`."""

    def putconn(self, conn: Any, key: Hashable = None, close: bool = False) -> None:
        super().putconn(conn, key, False)


class RefusesWhatItLent(Sound):
    """Forgets a loan when its key is asked for a second time."""

    def find(self, key: Hashable) -> Any:
        found = super().find(key)
        self.lent.pop(id(found), None)
        return found


class RefusesInTheRush(Sound):
    """Refuses whoever finds its lock taken."""

    def getconn(self, key: Hashable = None, timeout: float = 0) -> Any:
        if not self.lock.acquire(blocking=False):
            raise PoolExhausted("connection pool exhausted")
        self.pause()
        self.lock.release()
        return super().getconn(key, timeout)


class ClosesByHalves(Sound):
    """Says that it is closed before it is, and opens again when the closing fails."""

    def closeall(self) -> None:
        self.closed = True
        self.pause()
        self.closed = False


# --- what is done with each of them ----------------------------------------------------------------------------------


def together(pool: Any, *calls: Callable[[], object]) -> None:
    """Make the calls in threads, hold all of them at the pool's gate, and release them."""
    pool.gate = Gate()
    tasks = [Task(call) for call in calls]
    pool.gate.wait_for(len(tasks))
    pool.gate.release()
    for task in tasks:
        task.wait()


def two_loans_at_once(recorder: Any, _server: FakeServer) -> None:
    recorder.putconn(recorder.getconn())
    together(recorder._pool, recorder.getconn, recorder.getconn)


def slow_connects(recorder: Any, server: FakeServer) -> None:
    with server.hold("connect") as gate:
        tasks = [Task(recorder.getconn) for _ in range(3)]
        gate.wait_for(3)
    for task in tasks:
        task.wait()


def slow_connects_of_a_key(recorder: Any, server: FakeServer) -> None:
    with server.hold("connect") as gate:
        tasks = [Task(recorder.getconn, "key") for _ in range(2)]
        gate.wait_for(2)
    for task in tasks:
        task.wait()


def a_loan_after_closing(recorder: Any, _server: FakeServer) -> None:
    recorder.putconn(recorder.getconn())
    recorder.closeall()
    recorder.getconn()


def connects_that_fail(recorder: Any, server: FakeServer) -> None:
    server.fail("connect", DOWN, DOWN)
    for _ in range(3):
        with contextlib.suppress(psycopg2.Error):
            recorder.getconn()


def rollbacks_that_fail(recorder: Any, server: FakeServer) -> None:
    server.fail("rollback", DOWN, DOWN)
    for _ in range(2):
        connection = recorder.getconn()
        connection.status = INTRANS
        recorder.putconn(connection)
    with contextlib.suppress(PoolError):
        recorder.getconn()


def a_waiter_who_comes_too_late(recorder: Any, _server: FakeServer) -> None:
    lent = [recorder.getconn(), recorder.getconn()]
    with contextlib.suppress(PoolError):
        recorder.getconn(timeout=0.001)
    for connection in lent:
        recorder.putconn(connection)
    for _ in range(2):
        with contextlib.suppress(PoolError):
            recorder.getconn(timeout=0.001)


def two_returns(recorder: Any, _server: FakeServer) -> None:
    connection = recorder.getconn()
    recorder.putconn(connection)
    recorder.putconn(connection)


def a_return_that_closes(recorder: Any, _server: FakeServer) -> None:
    recorder.putconn(recorder.getconn(), close=True)
    recorder.getconn()


def a_shared_key(recorder: Any, _server: FakeServer) -> None:
    recorder.getconn("key")
    connection = recorder.getconn("key")
    with contextlib.suppress(PoolError):
        recorder.putconn(connection)


def a_refusal_in_a_rush(recorder: Any, _server: FakeServer) -> None:
    pool = recorder._pool
    pool.gate = Gate()
    first = Task(recorder.getconn)
    pool.gate.wait_for()
    # One of two connections is being opened, perhaps; there is room for the second.
    with contextlib.suppress(PoolError):
        recorder.getconn()
    pool.gate.release()
    first.wait()


def a_closing_that_is_taken_back(recorder: Any, _server: FakeServer) -> None:
    pool = recorder._pool
    pool.gate = Gate()
    closing = Task(recorder.closeall)
    pool.gate.wait_for()
    with contextlib.suppress(PoolError):
        recorder.getconn()
    pool.gate.release()
    closing.wait()
    recorder.getconn()


MISTAKES: dict[type[Sound], tuple[Callable[[Any, FakeServer], None], str]] = {
    LendsToTwo: (two_loans_at_once, "was lent to thread . and had not come back"),
    PassesTheLimit: (slow_connects, "as many connections as maxconn allows were lent already"),
    OpensAKeyTwice: (slow_connects_of_a_key, "key 'key' was lent already"),
    LendsThoughClosed: (a_loan_after_closing, "the pool had been closed, and yet"),
    ClosesByHalves: (a_closing_that_is_taken_back, "the pool had been closed, and yet"),
    LosesASlotOnAFailedConnect: (connects_that_fail, "there was room"),
    LosesASlotOnAFailedRollback: (rollbacks_that_fail, "there was room"),
    ServesTheDead: (a_waiter_who_comes_too_late, "there was room"),
    RefusesInTheRush: (a_refusal_in_a_rush, "there was room"),
    TakesBackTwice: (two_returns, "was not lent"),
    RefusesWhatItLent: (a_shared_key, "was lent, and could have been taken back"),
    KeepsWhatIsToBeClosed: (a_return_that_closes, "had been closed when it came back"),
}


@pytest.mark.parametrize("broken", MISTAKES, ids=lambda broken: broken.__name__)
def test_the_mistake_of_a_pool_is_found_in_its_history(broken: type[Sound]) -> None:
    scene, reason = MISTAKES[broken]
    server = FakeServer()
    recorder = Recorder(broken(server))
    scene(recorder, server)
    with pytest.raises(HistoryError, match=reason) as caught:
        check_history(recorder.history, Limits(2))
    assert len(caught.value.part) <= 3


# What holds all of its callers at a gate comes to nothing over a pool that lets only one in.
CALM = [
    scene
    for scene, _ in MISTAKES.values()
    if scene not in {two_loans_at_once, slow_connects, slow_connects_of_a_key, a_refusal_in_a_rush,
                     a_closing_that_is_taken_back, two_returns}
]  # fmt: skip


@pytest.mark.parametrize("scene", CALM, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("make", [Sound, lambda server: ThreadedConnectionPool(1, 2, connect=server.connect)])
def test_nothing_is_found_in_the_history_of_a_pool_without_it(
    scene: Callable[[Any, FakeServer], None], make: Callable[[FakeServer], Any]
) -> None:
    server = FakeServer()
    recorder = Recorder(make(server))
    with contextlib.suppress(PoolError):
        scene(recorder, server)
    check_history(recorder.history, Limits(2))


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_threads_over_the_sound_pool_are_explained(timeout: float) -> None:
    server = FakeServer()
    server.on("connect", lambda _: time.sleep(0.0003))
    recorder = Recorder(Sound(server))
    exercise(recorder, threads=8, operations=100, hold=0.0003, getconn={"timeout": timeout}, capacity=2)
    check_history(recorder.history, Limits(2))


def test_threads_over_a_pool_that_passes_the_limit_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    recorder = Recorder(PassesTheLimit(server))
    borrow, lent = recorder.getconn, Gate()

    def borrow_and_stay(*args: Any) -> Any:
        connection = borrow(*args)
        lent.pass_through()
        return connection

    monkeypatch.setattr(recorder, "getconn", borrow_and_stay)
    with server.hold("connect") as connects:
        task = Task(exercise, recorder, threads=4, operations=50)
        connects.wait_for(4)
    # No loan has ended before the last one has begun.
    lent.wait_for(4)
    lent.release()
    task.result()
    with pytest.raises(HistoryError, match="as many connections as maxconn allows"):
        check_history(recorder.history, Limits(2))


def test_a_number_as_a_key_meets_an_automatic_key_of_psycopg2_pool_and_is_lent_to_two(server: FakeServer) -> None:
    recorder = Recorder(psycopg2.pool.ThreadedConnectionPool(0, 2))
    recorder.getconn(1)
    recorder.getconn()
    with pytest.raises(HistoryError, match="under key 1 and had not come back"):
        check_history(recorder.history, Limits(2))
