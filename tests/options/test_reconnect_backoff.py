"""With reconnect_backoff, one caller at a time connects once a connect has failed, after a pause that grows."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from _thread import allocate_lock as _allocate_lock
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolTimeout, SharedLimit, ThreadedConnectionPool, TooManyRequests
from pgpool_rs._core import advance_clock
from pgpool_rs._notes import copied
from pgpool_rs.testing import PATIENCE, FakeServer
from tests.lib.log import handled_by
from tests.lib.pools import DOWN, assert_sound, give_back, lend
from tests.lib.programs import PROLOGUE, run_forking_program
from tests.lib.waits import Task, counts, held, wait_for_waiters, wait_until

# Long enough for no test to wait for it: tests put the clock forward.
PAUSE = 60.0


def backing_off(pool_class: Any, minconn: int, maxconn: int, **options: Any) -> Any:
    return pool_class(minconn, maxconn, **{"reconnect_backoff": (PAUSE, 4 * PAUSE), **options})


def fail(pool: Any, server: FakeServer) -> psycopg2.Error:
    """Let one connect fail."""
    server.fail("connect", DOWN)
    with pytest.raises(psycopg2.OperationalError, match="down") as caught:
        pool.getconn(timeout=0) if isinstance(pool, ThreadedConnectionPool) else pool.getconn()
    return caught.value


def connects(server: FakeServer) -> int:
    return len(server.arguments)


def test_a_caller_that_does_not_wait_is_told_the_last_error_and_does_not_connect(
    server: FakeServer, our_class: Any
) -> None:
    pool = backing_off(our_class, 0, 3)
    first = fail(pool, server)
    told = []
    for _ in range(3):
        with pytest.raises(psycopg2.OperationalError) as caught:
            pool.getconn()
        told.append(caught.value)
    assert connects(server) == 1
    assert {(type(error), str(error)) for error in told} == {(type(first), str(first))}
    assert len({id(error) for error in (first, *told)}) == 4, "each is raised in one call only"
    advance_clock(PAUSE)
    pool.putconn(pool.getconn())
    assert_sound(pool, server)


@pytest.mark.parametrize("timeout", [0, 5, None])
def test_a_handler_is_told_the_last_error_whatever_its_timeout(server: FakeServer, timeout: float | None) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, timeout=timeout)
    told: list[BaseException] = []

    def write_to_the_database(_: logging.LogRecord) -> None:
        with pytest.raises(psycopg2.OperationalError, match="down") as caught:
            pool.getconn()
        told.append(caught.value)

    with handled_by(write_to_the_database):
        fail(pool, server)
    assert (len(told), connects(server)) == (1, 1)


def test_an_opening_that_fails_holds_connects_back_as_any_connect_does(server: FakeServer, our_class: Any) -> None:
    pool = backing_off(our_class, 2, 3, open=False)
    server.fail("connect", DOWN)
    with pytest.raises(psycopg2.OperationalError, match="down"):
        pool.open()
    for _ in range(3):
        pool.open()  # It is open, as it is in each later outage.
        with pytest.raises(psycopg2.OperationalError, match="down"):
            pool.getconn()
    assert (connects(server), pool.closed) == (1, False)
    advance_clock(PAUSE)
    pool.maintain()
    assert server.open == 2
    assert_sound(pool, server)


def test_a_block_that_cannot_open_the_pool_leaves_it_unopened(server: FakeServer, our_class: Any) -> None:
    pool = backing_off(our_class, 2, 3, open=False)
    server.fail("connect", None, DOWN)
    with pytest.raises(psycopg2.OperationalError, match="down"):
        pool.__enter__()
    assert (server.open, pool.closed) == (0, True)
    with pool:
        assert server.open == 2


class FailsBeside:
    """Is a `connect=` that works, while another caller's connect fails."""

    def __init__(self, server: FakeServer) -> None:
        self.pool: Any = None
        self._server = server
        self._in_use = False

    def __call__(self) -> Any:
        if self._in_use:
            raise DOWN
        self._in_use = True
        Task(self.pool.getconn).wait()
        self._in_use = False
        return self._server.connect()


def test_an_opening_beside_a_connect_that_fails_is_told_of_it(server: FakeServer) -> None:
    class Beside(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            connection = super()._connect(key)
            if key is None:
                server.fail("connect", DOWN)
                Task(lend, self, 2).wait()
            return connection

    pool = backing_off(Beside, 2, 4, open=False, limit=SharedLimit(9))
    with pytest.raises(psycopg2.OperationalError, match="down"):
        pool.open()
    assert not pool.closed


def test_an_opening_that_fails_for_another_reason_leaves_the_pool_unopened(server: FakeServer) -> None:
    def configure(_: object) -> None:
        raise ZeroDivisionError

    connect = FailsBeside(server)
    connect.pool = backing_off(ThreadedConnectionPool, 2, 4, open=False, connect=connect, configure=configure)
    with pytest.raises(ZeroDivisionError):
        connect.pool.open()
    assert (connect.pool.closed, server.open) == (True, 0)


def test_those_that_wait_while_an_opening_fails_wait_for_their_turn(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 1, 1, open=False, timeout=PATIENCE)
    server.fail("connect", DOWN)
    with held(server.hold("connect"), pool.open) as opener:
        waiter = Task(pool.getconn)
        wait_for_waiters(pool, 1)
    with pytest.raises(psycopg2.OperationalError, match="down"):
        opener.result()
    assert connects(server) == 1
    advance_clock(PAUSE)
    pool.maintain()
    pool.putconn(waiter.result())
    assert_sound(pool, server)


def test_the_error_that_is_told_again_has_no_frames_of_the_caller_that_it_struck(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 1, name="shop")
    fail(pool, server)
    with pytest.raises(psycopg2.OperationalError) as caught:
        pool.getconn()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "fail" not in frames
    (note,) = getattr(caught.value, "__notes__", ["'shop' did not connect, since this connect failed"])
    assert "'shop' did not connect, since this connect failed" in note


class Odd(psycopg2.OperationalError):
    """Takes other arguments than it has."""

    def __init__(self, *, host: str) -> None:
        super().__init__(f"no route to {host}")
        self.host = host


@pytest.mark.parametrize("error", [DOWN, Odd(host="db"), ConnectionRefusedError(111, "refused"), psycopg2.Error()])
def test_the_copy_of_an_error_has_its_class_its_text_and_its_attributes(error: Exception) -> None:
    copy = copied(error)
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
    assert getattr(copy, "host", None) == getattr(error, "host", None)
    assert copy is not error
    assert copied(copied(error, "one"), "two").__traceback__ is None


def test_callers_that_wait_are_served_one_after_the_other_once_the_server_is_back(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 5, timeout=PATIENCE)
    fail(pool, server)
    waiters = [Task(pool.getconn) for _ in range(5)]
    wait_for_waiters(pool, 5)
    assert connects(server) == 1
    with server.hold("connect") as gate:
        advance_clock(PAUSE)
        # Any call that finds no connection lets the ledger see the time.
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn(timeout=0)
        gate.wait_for()
        assert (counts(pool)["opening"], counts(pool)["waiting"]) == (1, 4)
        gate.let_one_through()
        gate.wait_for(2)
        assert (counts(pool)["opening"], counts(pool)["waiting"]) == (2, 2)
    give_back(pool, [waiter.result() for waiter in waiters])
    assert_sound(pool, server, timeout=0)


def test_a_waiter_tries_by_itself_when_the_pause_is_over(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, reconnect_backoff=(0.01, 0.02), timeout=PATIENCE)
    server.fail("connect", DOWN, DOWN, DOWN)
    tasks = [Task(pool.getconn) for _ in range(6)]
    for task in tasks:
        task.wait()
        if task.error is None:
            pool.putconn(task.result())
    assert sorted(type(task.error).__name__ for task in tasks) == ["NoneType"] * 3 + ["OperationalError"] * 3
    assert_sound(pool, server, timeout=0)


def test_a_wait_that_is_over_says_why_no_connection_was_opened(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, name="shop")
    fail(pool, server)
    with pytest.raises(
        PoolTimeout, match=r"connection not opened: waited .* a server that takes none .*in pool 'shop'; last"
    ):
        pool.getconn(timeout=0.01)
    assert counts(pool)["waiting"] == 0


def test_an_idle_connection_is_lent_all_the_while(server: FakeServer, our_class: Any) -> None:
    pool = backing_off(our_class, 1, 3)
    kept = pool.getconn()
    fail(pool, server)
    pool.putconn(kept)
    assert pool.getconn() is kept
    pool.putconn(kept)
    advance_clock(PAUSE)
    assert_sound(pool, server)


def test_what_comes_back_goes_to_a_caller_that_waits_for_its_turn_to_connect(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3)
    kept = pool.getconn()
    fail(pool, server)
    waiter = Task(pool.getconn, timeout=PATIENCE)
    wait_for_waiters(pool, 1)
    pool.putconn(kept)
    assert waiter.result() is kept
    assert connects(server) == 2


def test_max_waiting_counts_the_callers_that_wait_for_their_turn(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, max_waiting=1, timeout=PATIENCE)
    fail(pool, server)
    waiter = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    with pytest.raises(TooManyRequests):
        pool.getconn()
    pool.closeall()
    waiter.wait()


def test_closeall_ends_the_waits_and_a_pool_made_anew_connects_at_once(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, timeout=PATIENCE)
    fail(pool, server)
    waiter = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.closeall()
    with pytest.raises(PoolClosed):
        waiter.result()
    pool.__init__(0, 3, reconnect_backoff=(PAUSE, PAUSE))
    pool.putconn(pool.getconn())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError], ids=lambda error: error.__name__)
def test_only_what_a_database_says_holds_connects_back(server: FakeServer, our_class: Any, error: Any) -> None:
    pool = backing_off(our_class, 0, 3)
    server.fail("connect", error("mine"))
    with pytest.raises(error, match="mine"):
        pool.getconn()
    pool.putconn(pool.getconn())
    assert_sound(pool, server)


def test_a_prober_that_is_interrupted_hands_its_turn_on(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, timeout=PATIENCE)
    fail(pool, server)
    advance_clock(PAUSE)
    with server.hold("connect") as gate:
        prober = Task(pool.getconn)
        gate.wait_for()
        waiter = Task(pool.getconn)
        wait_for_waiters(pool, 1)
        server.fail("connect", KeyboardInterrupt())
        gate.let_one_through()
        prober.wait()
    assert isinstance(prober.error, KeyboardInterrupt) or isinstance(waiter.error, KeyboardInterrupt)
    ended = waiter if isinstance(prober.error, KeyboardInterrupt) else prober
    pool.putconn(ended.result())
    assert_sound(pool, server, timeout=0)


def test_a_connect_that_hangs_holds_no_other_back_for_longer_than_the_longest_pause(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 3, reconnect_backoff=(PAUSE, PAUSE))
    fail(pool, server)
    advance_clock(PAUSE)
    with server.hold("connect") as gate:
        hangs = Task(pool.getconn)
        gate.wait_for()
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn()
        advance_clock(PAUSE + 0.01)
        second = Task(pool.getconn)
        gate.wait_for(2)
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn()
    give_back(pool, [hangs.result(), second.result()])
    assert_sound(pool, server)


def test_the_housekeeper_opens_what_is_missing_only_in_its_turn(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 2, 4, max_idle=None)
    connections = lend(pool, 2)
    fail(pool, server)
    for connection in connections:
        connection.close()
        pool.putconn(connection)
    for _ in range(3):
        pool._pgpool_maintain()
    assert (connects(server), server.open) == (3, 0)
    advance_clock(PAUSE)
    wait_until(lambda: (pool._pgpool_maintain(), counts(pool)["idle"])[1] == 2, "both are opened")
    assert_sound(pool, server)


def test_maintain_and_wait_try_at_once(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 2)
    fail(pool, server)
    pool.wait(timeout=PATIENCE)
    assert server.open == 1
    assert_sound(pool, server)


@pytest.mark.parametrize("timeout", [0, PATIENCE])
def test_workers_connect_one_at_a_time_too(server: FakeServer, timeout: float) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 4, grow="workers", open_workers=4, max_idle=None)
    fail(pool, server)
    with pytest.raises((psycopg2.OperationalError, PoolTimeout)):
        pool.getconn(timeout=min(timeout, 0.01))
    assert connects(server) == 1
    advance_clock(PAUSE)
    pool.putconn(pool.getconn(timeout=timeout))
    assert_sound(pool, server)


def test_the_child_of_a_fork_begins_afresh() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(0, 3, reconnect_backoff=(60, 60))
server.fail("connect", psycopg2.OperationalError("down"))
for _ in range(2):
    assert_refused(pool.getconn, error=psycopg2.OperationalError)

def child():
    other_server()
    pool.getconn()

in_a_child(child)
assert_refused(pool.getconn, error=psycopg2.OperationalError)
""")


class Lock:
    """A lock whose second wait ends a loan before it begins."""

    def __init__(self, pool: Any, lent: list[Any]) -> None:
        self._lock, self._pool, self._lent, self._waits = _allocate_lock(), pool, lent, 0
        self.release = self._lock.release

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout > 0:
            self._waits += 1
            if self._waits == 2:
                self._pool.putconn(self._lent.pop())
        return self._lock.acquire(blocking, timeout)


def test_a_waiter_that_its_own_turn_has_woken_may_be_woken_again(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 2, reconnect_backoff=(0.01, 0.01), max_idle=None)
    lent = [pool.getconn()]
    server.fail("connect", *[psycopg2.OperationalError("sorry, too many clients already")] * 2)
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Lock", lambda: Lock(pool, lent))
        borrowed = pool.getconn(timeout=PATIENCE)
    assert lent == []
    pool.putconn(borrowed)
    assert unraisable == []


def test_a_pause_without_an_end_ends_no_wait_late(server: FakeServer) -> None:
    pool = backing_off(ThreadedConnectionPool, 0, 1, reconnect_backoff=(1e300, 1e300))
    fail(pool, server)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.01)
