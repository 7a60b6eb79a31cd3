"""Rollbacks and closes that are left to the housekeeping: nobody waits for them, and nothing is lost."""

from __future__ import annotations

import re
import threading
from typing import Any, final

import psycopg2
import pytest
from psycopg2.extensions import QueryCanceledError

from pgpool_rs import PoolClosed, PoolError, PoolTimeout, ThreadedConnectionPool, _housekeeper
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import ACTIVE, INERROR, INTRANS, UNKNOWN, FakeServer, Gate
from tests.lib.callbacks import Killed
from tests.lib.housekeepers import raises_once
from tests.lib.log import listening
from tests.lib.pools import assert_balanced, assert_sound, closes, filled, give_back, wait_for_quiet
from tests.lib.waits import Task, counts, wait_for_waiters, wait_until, waiting_task

DOWN = psycopg2.OperationalError("down")


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the thread go on soon after a failure."""
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.01)


def dirty(pool: Any, key: object = None) -> Any:
    """Borrow a connection and begin a transaction on it."""
    connection = pool.getconn(key)
    connection.status = INTRANS
    return connection


@final
class Occupied:
    """Keeps the housekeeping thread busy, with a pool and a server of its own."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.pool: Any = ThreadedConnectionPool(
            1, 1, background=True, connect=FakeServer().connect, reset=lambda _: self.gate.pass_through()
        )
        self.pool.putconn(self.pool.getconn())
        self.gate.wait_for()

    def __enter__(self) -> Occupied:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.release()
        wait_for_quiet(self.pool)
        self.pool.closeall()


# --- what is left, and what is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("status", [INTRANS, INERROR, ACTIVE])
def test_putconn_returns_while_the_rollback_is_being_made(
    server: FakeServer, our_class: Any, status: int, key: object
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool, key)
    connection.status = status
    with server.hold("rollback") as gate:
        pool.putconn(connection, key)
        gate.wait_for()
        assert (counts(pool)["returning"], counts(pool)["idle"], counts(pool)["lent"]) == (1, 0, 0)
    wait_until(lambda: counts(pool)["idle"] == 1)
    assert server.calls("rollback") == [1]
    assert_sound(pool, server)


@pytest.mark.parametrize("why", ["close", "surplus", "old"])
def test_putconn_returns_while_the_connection_is_being_closed(server: FakeServer, our_class: Any, why: str) -> None:
    pool = our_class(0, 1, background=True, max_idle=0 if why == "surplus" else None, max_lifetime=1000)
    connection = pool.getconn()
    if why == "old":
        advance_clock(1001)
    with server.hold("close") as gate:
        pool.putconn(connection, close=why == "close")
        gate.wait_for()
        assert counts(pool)["returning"] == 1
    wait_for_quiet(pool)
    assert closes(pool) == {{"close": "requested", "surplus": "surplus", "old": "lifetime"}[why]: 1}
    assert_sound(pool, server)


def test_putconn_returns_while_the_connection_is_being_reset(server: FakeServer, our_class: Any) -> None:
    gate = Gate()
    pool = our_class(1, 1, background=True, reset=lambda _: gate.pass_through())
    pool.putconn(pool.getconn())
    gate.wait_for()
    assert counts(pool)["returning"] == 1
    gate.release()
    assert_sound(pool, server)


def test_a_block_commits_itself_and_leaves_the_rest(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, background=True)
    with server.hold("close") as gate:
        with pool.connection() as connection:
            connection.status = INTRANS
        assert server.calls("commit") == [1]
        gate.wait_for()
    assert_sound(pool, server)


def test_a_clean_connection_is_back_at_once(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = our_class(1, 1, background=True)
        pool.putconn(pool.getconn())
        assert counts(pool)["idle"] == 1


@pytest.mark.parametrize(("state", "reason"), [("closed", "by_borrower"), ("broken", "lost"), ("unknown", "lost")])
def test_a_connection_that_is_closed_or_broken_is_gone_at_once(
    server: FakeServer, our_class: Any, state: str, reason: str
) -> None:
    with Occupied():
        pool = our_class(1, 1, background=True)
        connection = pool.getconn()
        if state == "unknown":
            connection.status = UNKNOWN
        else:
            connection.set_closed(1 if state == "closed" else 2)
        pool.putconn(connection)
        assert (counts(pool)["returning"], closes(pool)) == (0, {reason: 1})


@pytest.mark.parametrize(("background", "who"), [(True, "pgpool_rs housekeeping"), (False, "MainThread")])
def test_the_thread_does_what_is_left_and_without_background_who_returns(
    server: FakeServer, our_class: Any, background: bool, who: str
) -> None:
    names: list[str] = []
    server.on("rollback", lambda _: names.append(threading.current_thread().name))
    pool = our_class(1, 1, background=background)
    pool.putconn(dirty(pool))
    assert background or names == [who]
    wait_until(lambda: counts(pool)["idle"] == 1)
    assert names == [who]


def test_maintain_does_what_is_left(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = our_class(1, 1, background=True)
        pool.putconn(dirty(pool))
        pool.maintain()
        assert counts(pool)["idle"] == 1


def test_a_connection_is_lent_again_only_when_it_is_clean(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 4, background=True, timeout=None)
    errors: list[str] = []

    def work() -> None:
        for _ in range(100):
            connection = pool.getconn()
            if connection.transaction_status:
                errors.append(f"lent {connection!r}")
            connection.status = INTRANS
            pool.putconn(connection)

    for task in [Task(work) for _ in range(6)]:
        task.result()
    assert errors == []
    assert_sound(pool, server, timeout=0)


# --- a loan right after a return -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "key"])
def test_who_finds_the_pool_full_makes_the_rollback_itself_where_nobody_has_begun(
    server: FakeServer, our_class: Any, key: object
) -> None:
    with Occupied():
        pool = our_class(1, 1, background=True)
        connection = dirty(pool)
        pool.putconn(connection)
        assert pool.getconn(key) is connection
        assert server.calls("rollback") == [connection.serial]
        pool.putconn(connection, key)
    assert_sound(pool, server)


@pytest.mark.parametrize("key", [None, "key"])
def test_who_finds_the_pool_full_waits_for_the_rollback_that_is_being_made(
    server: FakeServer, our_class: Any, key: object
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool)
    with server.hold("rollback") as gate:
        pool.putconn(connection)
        gate.wait_for()
        borrower = Task(pool.getconn, key)
        wait_for_waiters(pool, 1)
        with pytest.raises(PoolError, match="exhausted"):
            pool.getconn()
    assert borrower.result() is connection
    pool.putconn(connection, key)
    assert_sound(pool, server)


def test_who_may_wait_no_longer_is_told_so_while_the_rollback_is_being_made(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, background=True)
    with server.hold("rollback") as gate:
        pool.putconn(dirty(pool))
        gate.wait_for()
        with pytest.raises(PoolTimeout, match="exhausted"):
            pool.getconn(timeout=0.01)
    assert_sound(pool, server)


@pytest.mark.parametrize("made_by", ["borrower", "thread"])
@pytest.mark.parametrize("error", [DOWN, ValueError("odd"), KeyboardInterrupt(), Killed()])
def test_who_finds_the_pool_full_gets_a_new_connection_where_the_rollback_fails(
    server: FakeServer, our_class: Any, error: BaseException, made_by: str
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool)
    if made_by == "borrower":
        with Occupied():
            pool.putconn(connection)
            server.fail("rollback", error)
            if error is DOWN:
                assert pool.getconn() is not connection
                pool.putconn(server.connections[-1])
            else:
                with pytest.raises(type(error)):
                    pool.getconn()
    else:
        server.fail("rollback", error)
        with server.hold("rollback") as gate:
            pool.putconn(connection)
            gate.wait_for()
            borrower = Task(pool.getconn)
            wait_for_waiters(pool, 1)
        assert borrower.result() is not connection
        pool.putconn(borrower.result())
    assert_sound(pool, server)


@pytest.mark.parametrize("error", [psycopg2.DatabaseError("not mine"), ValueError("a time limit of mine")])
def test_of_another_borrowers_return_only_what_the_database_says_is_not_raised(
    server: FakeServer, our_class: Any, error: Exception
) -> None:
    with Occupied():
        pool = our_class(1, 1, background=True, name="wrong")
        connection = dirty(pool)
        pool.putconn(connection)
        server.on("closed", raises_once(error))
        with listening("wrong", level=30) as log:
            if isinstance(error, ValueError):
                with pytest.raises(ValueError, match="of mine"):
                    pool.getconn()
            pool.putconn(pool.getconn())
        said = ["a connection could not be returned: DatabaseError: not mine"]
        assert log.texts == ([] if isinstance(error, ValueError) else said)
    assert_sound(pool, server)


def test_waiters_come_first_and_in_their_order(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, background=True)
    connection = dirty(pool)
    waiters = [waiting_task(pool) for _ in range(3)]
    for waiter in waiters:
        pool.putconn(connection)
        assert waiter.result() is connection
        connection.status = INTRANS
    pool.putconn(connection)
    assert_sound(pool, server)


def test_a_newcomer_makes_the_rollback_for_the_first_waiter_and_is_refused(server: FakeServer) -> None:
    with Occupied():
        pool: Any = ThreadedConnectionPool(1, 1, background=True)
        connection = dirty(pool)
        waiter = waiting_task(pool)
        pool.putconn(connection)
        with pytest.raises(PoolError, match="exhausted"):
            pool.getconn()
        assert waiter.result() is connection
        pool.putconn(connection)
    assert_sound(pool, server)


def test_as_many_get_a_connection_as_are_on_their_way(server: FakeServer, our_class: Any) -> None:
    pool = our_class(3, 3, background=True)
    lent = [dirty(pool) for _ in range(3)]
    with server.hold("rollback") as gate:
        give_back(pool, lent[:2])
        gate.wait_for()
        borrower = Task(pool.getconn)  # makes the rollback that the thread has not begun
        gate.wait_for(2)
        second = Task(pool.getconn)
        wait_for_waiters(pool, 1)
    assert {borrower.result(), second.result()} == set(lent[:2])
    give_back(pool, lent)
    assert_sound(pool, server)


def test_no_more_than_maxconn_are_open_while_many_are_being_closed(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3, background=True, timeout=None)

    def work() -> None:
        for number in range(60):
            connection = pool.getconn()
            connection.status = INTRANS
            pool.putconn(connection, close=number % 3 == 0)

    for task in [Task(work) for _ in range(5)]:
        task.result()
    assert_sound(pool, server, timeout=0)


def test_a_key_may_be_borrowed_again_while_its_last_connection_is_being_returned(
    server: FakeServer, our_class: Any
) -> None:
    pool = our_class(1, 2, background=True)
    connection = dirty(pool, "key")
    with server.hold("rollback") as gate:
        pool.putconn(connection, "key")
        gate.wait_for()
        other = pool.getconn("key")
        assert other is not connection
    pool.putconn(other, "key")
    assert_sound(pool, server)


def test_what_was_left_is_nobodys_to_return(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = our_class(1, 1, background=True)
        connection = dirty(pool)
        pool.putconn(connection)
        with pytest.raises(PoolError, match="unkeyed"):
            pool.putconn(connection)
        pool.maintain()
    assert_sound(pool, server)


# --- errors of what was left -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DOWN, psycopg2.DatabaseError("odd"), ValueError("odd"), QueryCanceledError("odd")])
@pytest.mark.parametrize("call", ["rollback", "close"])
def test_an_error_of_what_was_left_is_in_the_log(
    server: FakeServer, our_class: Any, call: str, error: Exception
) -> None:
    pool = our_class(1, 1, background=True, name="left")
    server.fail(call, error)
    with listening("left", level=30) as log:
        pool.putconn(dirty(pool), close=call == "close")
        assert_sound(pool, server)
        log.wait_for(1)
    (line,) = log.texts
    what = f"{type(error).__name__}: {error}"
    if error is DOWN or type(error) is psycopg2.DatabaseError:
        assert line == f"{call}() failed; the connection was dropped and its slot is free: {what}"
    else:
        # No caller hears of it, so the line says where it was raised.
        assert re.fullmatch(rf"a connection could not be returned: {what} \(.*\.py:\d+ in \w+\)", line)


@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt(), SystemExit(), Killed()])
@pytest.mark.parametrize("call", ["rollback", "close", "closed", "info"])
def test_the_thread_goes_on_whatever_becomes_of_what_was_left(
    server: FakeServer, our_class: Any, call: str, error: BaseException
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool)
    errors = [error]

    def act(_: Any) -> None:
        if errors and threading.current_thread().name == "pgpool_rs housekeeping":
            raise errors.pop()

    server.on(call, act)
    pool.putconn(connection, close=call == "close")
    wait_until(lambda: not errors, "the error")
    assert_sound(pool, server)
    assert not server.sees(connection)
    connection = dirty(pool)
    pool.putconn(connection)
    wait_until(lambda: counts(pool)["idle"] == 1)
    assert server.calls("rollback")[-1] == connection.serial


@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt(), Killed()])
@pytest.mark.parametrize("call", ["closed", "info"])
def test_a_connection_that_cannot_be_looked_at_is_closed_before_its_slot_is_free(
    server: FakeServer, our_class: Any, call: str, error: BaseException
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool)
    server.fail(call, error)
    with pytest.raises(type(error)):
        pool.putconn(connection)
    wait_for_quiet(pool)
    assert not server.sees(connection)
    assert_sound(pool, server)


def test_an_interrupt_that_comes_while_the_housekeeping_is_woken_is_not_swallowed(
    server: FakeServer, our_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool)
    poke = _housekeeper.housekeeper.poke

    def interrupted(poked: Any) -> None:
        monkeypatch.setattr(_housekeeper.housekeeper, "poke", poke)
        poke(poked)
        raise KeyboardInterrupt

    monkeypatch.setattr(_housekeeper.housekeeper, "poke", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(connection)
    wait_for_quiet(pool)
    assert_sound(pool, server)


# --- limits and the end ----------------------------------------------------------------------------------------------


def test_closeall_closes_what_was_left_and_not_begun(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = our_class(3, 3, background=True)
        lent = [dirty(pool) for _ in range(3)]
        give_back(pool, lent[:2])
        pool.closeall()
        assert not any(server.sees(connection) for connection in lent)
        assert closes(pool) == {"with_pool": 3}
    assert_balanced(pool, server)


def test_closeall_lets_what_was_begun_be_closed_by_who_is_at_it(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, background=True)
    with server.hold("rollback") as gate:
        pool.putconn(dirty(pool))
        gate.wait_for()
        pool.closeall()
        assert server.open == 1
    wait_until(lambda: server.open == 0)
    wait_until(lambda: closes(pool) == {"with_pool": 1})
    assert_balanced(pool, server)


@pytest.mark.parametrize("call", ["closed", "info"])
def test_a_pool_that_is_closed_in_the_midst_of_a_return_closes_that_connection_too(
    server: FakeServer, our_class: Any, call: str
) -> None:
    pool = our_class(1, 1, background=True)
    connection = dirty(pool)
    server.on(call, lambda _: None if pool.closed else pool.closeall())
    pool.putconn(connection)
    server.calm()
    wait_until(lambda: server.open == 0, "the end of the connection that was on its way back")
    wait_until(lambda: closes(pool) == {"with_pool": 1}, "the statistics")
    assert_balanced(pool, server)


def test_closeall_refuses_who_waits_for_what_was_left(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, background=True)
    with server.hold("rollback") as gate:
        pool.putconn(dirty(pool))
        gate.wait_for()
        borrower = Task(pool.getconn)
        wait_for_waiters(pool, 1)
        pool.closeall()
        with pytest.raises(PoolClosed):
            borrower.result()
    wait_until(lambda: server.open == 0)


def test_what_was_left_is_not_kept_above_a_maxconn_that_was_lowered(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = filled(our_class, 3, background=True)
        lent = [dirty(pool) for _ in range(3)]
        give_back(pool, lent)
        pool.resize(0, 1)
        pool.maintain()
        assert (counts(pool)["idle"], closes(pool)) == (1, {"surplus": 2})
        server.peak = 0
    assert_sound(pool, server)


def test_what_was_left_is_replaced_by_drain(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = filled(our_class, 2, background=True)
        pool.putconn(dirty(pool))
        pool.drain()
        assert closes(pool) == {"drained": 2}
    assert_sound(pool, server)


def test_sizes_count_what_is_on_its_way(server: FakeServer, our_class: Any) -> None:
    with Occupied():
        pool = our_class(2, 2, background=True)
        pool.putconn(dirty(pool))
        stats = pool.get_stats()
        assert (stats["pool_size"], stats["pool_available"]) == (2, 1)
        pool.wait(0)


def test_a_pool_may_be_dropped_with_something_left(server: FakeServer) -> None:
    with Occupied():
        pool: Any = ThreadedConnectionPool(1, 1, background=True)
        pool.putconn(dirty(pool))
        del pool
