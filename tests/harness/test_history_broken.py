"""Pools with one mistake each, used by threads: check_history finds the mistake in what they recorded.

Where a mistake shows only in a race, a gate makes it: threads are held between the look and the act, all of them, and
then released.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg2
import psycopg2.pool
import pytest

from pgpool_rs import PoolError, ThreadedConnectionPool
from pgpool_rs.testing import INTRANS, FakeServer, Gate, HistoryError, Limits, Recorder, check_history
from pgpool_rs.testing.history.exercise import exercise
from tests.lib.broken_pools import (
    CountsWhenConnected,
    LendsWhenClosed,
    LosesASlotWithAConnect,
    LosesASlotWithARollback,
    OpensAKeyTwice,
    ServesThoseWhoHaveLeft,
    TakesBackTwice,
)
from tests.lib.sound_pool import SoundPool
from tests.lib.waits import Task

DOWN = psycopg2.OperationalError("down")


class LendsToTwo(SoundPool):
    """Looks at the idle connection first, and takes it out later; a test may hold its callers in between."""

    gate = Gate()

    def getconn(self, key: Any = None, timeout: float = 0) -> Any:
        if not self.idle:
            return super().getconn(key, timeout)
        connection = self.idle[-1]
        self.gate.pass_through()
        with self.changed:
            self.idle = [other for other in self.idle if other is not connection]
            self.taken += 1
            self.file(key, connection)
        return connection


class KeepsWhatIsToBeClosed(SoundPool):
    """Pays no attention to `close=True`."""

    def take_back(self, connection: Any, *, close: bool) -> None:
        super().take_back(connection, close=False)


class RefusesWhatItLent(SoundPool):
    """Forgets a loan when its key is asked for a second time."""

    def getconn(self, key: Any = None, timeout: float = 0) -> Any:
        again = key in self.keyed
        connection = super().getconn(key, timeout)
        if again:
            del self.lent[id(connection)]
        return connection


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


def slow_connects(recorder: Any, server: FakeServer, *keys: str, number: int = 3) -> None:
    with server.hold("connect") as gate:
        tasks = [Task(recorder.getconn, *keys) for _ in range(number)]
        gate.wait_for(number)
    for task in tasks:
        task.wait()


def slow_connects_of_a_key(recorder: Any, server: FakeServer) -> None:
    slow_connects(recorder, server, "key", number=2)


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


MISTAKES: dict[type[SoundPool], tuple[Callable[[Any, FakeServer], None], str]] = {
    LendsToTwo: (two_loans_at_once, "was lent to thread . and had not come back"),
    CountsWhenConnected: (slow_connects, "as many connections as maxconn allows were lent already"),
    OpensAKeyTwice: (slow_connects_of_a_key, "key 'key' was lent already"),
    LendsWhenClosed: (a_loan_after_closing, "the pool had been closed, and yet"),
    LosesASlotWithAConnect: (connects_that_fail, "there was room"),
    LosesASlotWithARollback: (rollbacks_that_fail, "there was room"),
    ServesThoseWhoHaveLeft: (a_waiter_who_comes_too_late, "there was room"),
    TakesBackTwice: (two_returns, "was not lent"),
    RefusesWhatItLent: (a_shared_key, "was lent, and could have been taken back"),
    KeepsWhatIsToBeClosed: (a_return_that_closes, "had been closed when it came back"),
}


@pytest.mark.parametrize("broken", MISTAKES, ids=lambda broken: broken.__name__)
def test_the_mistake_of_a_pool_is_found_in_its_history(broken: type[SoundPool]) -> None:
    scene, reason = MISTAKES[broken]
    server = FakeServer()
    recorder = Recorder(broken(2, server.connect))
    scene(recorder, server)
    with pytest.raises(HistoryError, match=reason) as caught:
        check_history(recorder.history, Limits(2))
    assert len(caught.value.part) <= 3


# What holds all of its callers at a gate comes to nothing over a pool that lets only one in.
GATED = {two_loans_at_once, slow_connects, slow_connects_of_a_key, two_returns}
CALM = [scene for scene, _ in MISTAKES.values() if scene not in GATED]


@pytest.mark.parametrize("scene", CALM, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("make", [SoundPool, partial(ThreadedConnectionPool, 1)])
def test_nothing_is_found_in_the_history_of_a_pool_without_it(
    scene: Callable[[Any, FakeServer], None], make: Callable[..., Any]
) -> None:
    server = FakeServer()
    recorder = Recorder(make(2, connect=server.connect))
    with contextlib.suppress(PoolError):
        scene(recorder, server)
    check_history(recorder.history, Limits(2))


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_threads_over_the_sound_pool_are_explained(timeout: float) -> None:
    server = FakeServer()
    server.on("connect", lambda _: time.sleep(0.0003))
    recorder = Recorder(SoundPool(2, server.connect))
    exercise(recorder, threads=8, operations=100, hold=0.0003, getconn={"timeout": timeout}, capacity=2)
    check_history(recorder.history, Limits(2))


def test_threads_over_a_pool_that_passes_the_limit_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    recorder = Recorder(CountsWhenConnected(2, server.connect))
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
