"""A connection that its borrower has forgotten gives its slot back at once."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg2.extensions
import pytest

from pgpool_rs import PoolError, ThreadedConnectionPool, _housekeeper
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import INTRANS, BareFakeConnection, FakeServer, MortalFakeConnection
from tests.lib.log import handled_by, listening
from tests.lib.pools import assert_balanced, assert_sound, assert_whole, closes, filled, give_back, lend
from tests.lib.waits import Task, counts, wait_until, waiting_task


@pytest.fixture
def mortal(server: FakeServer) -> FakeServer:
    """Give a server that keeps no connection alive."""
    server.connection_class = MortalFakeConnection
    server.keep = False
    return server


@pytest.fixture(autouse=True)
def _nothing_unraisable(unraisable: list[Any]) -> Iterator[None]:
    yield
    assert unraisable == []


@contextmanager
def no_collection() -> Iterator[None]:
    """Leave cycles alone, until they are collected on purpose."""
    gc.collect()
    gc.freeze()  # what there was before takes no time to be looked through
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


# --- what is forgotten -----------------------------------------------------------------------------------------------


def test_a_forgotten_connection_gives_its_slot_back_at_once(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, reclaim=True)
    for _ in range(5):
        pool.getconn()
    stats = pool.get_stats()
    assert (mortal.open, counts(pool)["lent"], stats["reclaimed"]) == (0, 0, 5)
    assert closes(pool) == {"reclaimed": 5}
    assert_sound(pool, mortal)


def test_it_is_logged_with_what_is_known_of_the_loan(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True, leak_after=60, name="forgetful")
    with listening("forgetful", level=30) as log:
        connection = pool.getconn()
        advance_clock(7)
        del connection
        pool.maintain()
    (line,) = log.texts
    head, *stack = line.splitlines()
    assert head.startswith("connection reclaimed, its borrower forgot it: lent for 7.0 s under key 1, borrowed by ")
    assert stack[-1] == "    connection = pool.getconn()"


def test_a_loan_counts_as_used_until_it_is_forgotten(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True)
    connection = pool.getconn()
    advance_clock(5)
    del connection
    assert 5000 <= pool.get_stats()["usage_ms"] < 900_000


def test_a_connection_in_a_cycle_is_given_back_when_it_is_collected(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, reclaim=True)
    with no_collection():
        connection = pool.getconn()
        connection.me = connection
        del connection
        assert counts(pool)["lent"] == 1
        gc.collect()
        assert counts(pool)["lent"] == 0
    assert_sound(pool, mortal)


def test_a_connection_in_a_cycle_with_its_pool_goes_with_it(mortal: FakeServer, our_class: Any) -> None:
    with no_collection():
        pool = our_class(0, 1, reclaim=True)
        connection = pool.getconn()
        connection.pool, pool.connection_of_mine = pool, connection
        gone = weakref.ref(pool)
        del pool, connection
        gc.collect()
    assert (gone(), mortal.open) == (None, 0)


def test_a_connection_that_a_thread_ends_with_is_given_back(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, reclaim=True)

    def work() -> None:
        connection = pool.getconn()
        connection.status = INTRANS

    Task(work).result()
    wait_until(lambda: counts(pool)["lent"] == 0)
    assert_sound(pool, mortal)


def test_a_connection_lives_as_long_as_a_traceback_with_its_frame(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, reclaim=True)

    def work() -> None:
        connection = pool.getconn()
        raise ValueError(connection.serial)

    with no_collection():
        kept: list[BaseException] = []
        try:
            work()
        except ValueError as error:
            kept.append(error)
        assert (counts(pool)["lent"], mortal.open) == (1, 1)
        kept.clear()
        assert (counts(pool)["lent"], mortal.open) == (0, 0)
    assert_sound(pool, mortal)


def test_waiters_are_woken_in_their_order(mortal: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, reclaim=True)
    connection = pool.getconn()
    waiters = [waiting_task(pool) for _ in range(3)]
    for waiter in waiters:
        del connection
        connection = waiter.result()
        waiter._result = None
        assert counts(pool)["lent"] == 1
    pool.putconn(connection)
    assert_sound(pool, mortal)


def test_a_waiter_for_a_key_is_woken_too(mortal: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, reclaim=True)
    connection = pool.getconn()
    waiter = Task(pool.getconn, "key", timeout=None)
    wait_until(lambda: counts(pool)["waiting"] == 1)
    del connection
    pool.putconn(waiter.result(), "key")
    del waiter
    assert_sound(pool, mortal)


def test_what_is_missing_then_is_opened_by_the_thread(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True, max_idle=10)
    pool.getconn()
    wait_until(lambda: counts(pool)["idle"] == 1, "the replacement")
    assert_sound(pool, mortal)


def test_threads_that_forget_all_the_time_lose_no_slot(mortal: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(2, 3, reclaim=True, timeout=None)

    def work(number: int) -> None:
        for step in range(100):
            connection = pool.getconn()
            if (step + number) % 3:
                pool.putconn(connection)
            del connection  # before the next call, which would wait for it

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for task in [Task(work, number) for number in range(5)]:
            task.result()
    finally:
        gc.set_threshold(*before)
    assert_sound(pool, mortal, timeout=0)


def test_a_waiter_opens_none_before_the_old_one_is_closed_though_the_log_takes_its_time(mortal: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 1, reclaim=True)
    with no_collection(), handled_by(lambda _: time.sleep(0.05)):
        connection = pool.getconn()
        connection.me = connection
        waiter = waiting_task(pool)
        del connection
        gc.collect()
        waiter.wait()
    assert mortal.peak == 1
    pool.putconn(waiter.result())
    del waiter
    assert_sound(pool, mortal)


def test_cycles_that_are_collected_while_others_borrow_lose_no_slot(mortal: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 6, reclaim=True, timeout=90)
    collecting = threading.Lock()  # a thread that comes while another collects does not

    def work() -> None:
        for _ in range(10):
            connection = pool.getconn()
            connection.me = connection
            del connection
            with collecting:
                gc.collect()
            pool.putconn(pool.getconn())

    with no_collection():
        for task in [Task(work) for _ in range(3)]:
            task.result()
        gc.collect()
    assert_whole(pool, timeout=0)
    assert_balanced(pool, mortal)


# --- what is not -----------------------------------------------------------------------------------------------------


def test_a_keyed_loan_stays(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2, reclaim=True)
    number = id(pool.getconn("key"))
    gc.collect()
    assert (counts(pool)["lent"], mortal.open) == (1, 1)
    assert id(pool.getconn("key")) == number
    pool.putconn(None, "key")
    assert_sound(pool, mortal)


def test_an_idle_connection_stays(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(2, 2, reclaim=True)
    for _ in range(3):
        give_back(pool, lend(pool, 2))
        gc.collect()
    assert (counts(pool)["idle"], mortal.open, closes(pool)) == (2, 2, {})
    assert_sound(pool, mortal)


@pytest.mark.parametrize("background", [False, True])
def test_a_connection_that_is_on_its_way_back_stays(mortal: FakeServer, our_class: Any, background: bool) -> None:
    pool = our_class(1, 1, reclaim=True, background=background)
    connection = pool.getconn()
    connection.status = INTRANS
    with mortal.hold("rollback") as gate:
        task = Task(pool.putconn, connection)
        del connection
        gate.wait_for()
        gc.collect()
        assert counts(pool)["returning"] == 1
    task.result()
    del task
    assert_sound(pool, mortal)
    assert closes(pool) == {}


def test_a_connection_that_was_handed_to_a_waiter_is_the_waiters(mortal: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, reclaim=True)
    connection = pool.getconn()
    waiter = waiting_task(pool)
    pool.putconn(connection)
    del connection
    assert waiter.result().serial == 1
    assert counts(pool)["lent"] == 1
    waiter._result = None
    assert (counts(pool)["lent"], closes(pool)) == (0, {"reclaimed": 1})


def test_a_block_keeps_its_connection_whether_it_is_named_or_not(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True)
    with pool.connection() as connection:
        del connection
        gc.collect()
        assert counts(pool)["lent"] == 1
    with pool.connection():
        gc.collect()
        assert counts(pool)["lent"] == 1
    assert closes(pool) == {}
    assert_sound(pool, mortal)


def test_a_cursor_keeps_its_connection(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True)
    cursor = pool.getconn().cursor()
    assert counts(pool)["lent"] == 1
    cursor.execute("SELECT 1")
    pool.putconn(cursor.connection)
    assert_sound(pool, mortal)


def test_without_the_option_a_forgotten_connection_stays_lent(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1)
    pool.getconn()
    gc.collect()
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    assert mortal.open == 1


class Slotted:
    """A connection that cannot be referred to weakly."""

    __slots__ = ("inner",)

    def __init__(self, inner: BareFakeConnection) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_what_cannot_be_referred_to_weakly_stays_lent(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, reclaim=True, connect=lambda: Slotted(server.connect()))
    pool.getconn()
    assert counts(pool)["lent"] == 1
    pool.putconn(next(iter(pool._used.values())))
    assert_sound(pool, server)


# --- the views -------------------------------------------------------------------------------------------------------


def test_the_views_show_what_is_lent(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True)
    connection = pool.getconn()
    assert list(pool._used.values()) == [connection]
    assert [loan.key for loan in pool.loans()] == list(pool._used)
    del connection
    gc.collect()
    assert (dict(pool._used), pool.loans()) == ({}, [])


def test_closeall_closes_what_is_lent_and_it_is_counted_once(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True, name="forgetful")
    connection = pool.getconn()
    with listening("forgetful", level=30) as log:
        pool.closeall()
        assert not mortal.sees(connection)
        del connection
        gc.collect()
    assert (closes(pool), pool.get_stats()["reclaimed"], log.texts) == ({"with_pool": 1}, 0, [])
    assert_balanced(pool, mortal)


def test_a_connection_may_outlive_its_pool(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True)
    connection = pool.getconn()
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert mortal.sees(connection)
    del connection


@pytest.mark.parametrize("call", ["drain", "resize", "check", "maintain"])
def test_a_lent_connection_stays_its_borrowers(mortal: FakeServer, our_class: Any, call: str) -> None:
    pool = our_class(1, 2, reclaim=True)
    connection = pool.getconn()
    getattr(pool, call)(*((0, 1) if call == "resize" else ()))
    assert mortal.sees(connection)
    pool.putconn(connection)
    del connection
    assert_balanced(pool, mortal)


def test_a_connection_whose_end_returns_it_is_back(server: FakeServer, our_class: Any) -> None:
    class Loyal(BareFakeConnection):
        pool: Any = None

        def __del__(self) -> None:
            if self.pool is not None and counts(self.pool)["lent"]:
                self.pool.putconn(self)

    server.connection_class = Loyal
    server.keep = False
    pool = our_class(1, 1, reclaim=True)
    connection = pool.getconn()
    connection.pool = pool
    del connection
    assert (counts(pool)["idle"], closes(pool)) == (1, {})
    pool.putconn(pool.getconn())
    pool._pool[0].pool = None


def test_an_end_that_calls_the_pool_does_not_hang(server: FakeServer, our_class: Any) -> None:
    class Busy(MortalFakeConnection):
        pool: Any = None

        def __del__(self) -> None:
            super().__del__()
            if self.pool is not None:
                self.pool.get_stats()
                repr(self.pool)

    server.connection_class = Busy
    server.keep = False
    pool = our_class(0, 1, reclaim=True)
    connection = pool.getconn()
    connection.pool = pool
    del connection
    assert_sound(pool, server)


def test_a_log_that_fails_loses_no_slot(mortal: FakeServer, our_class: Any, unraisable: list[Any]) -> None:
    pool = our_class(0, 1, reclaim=True, name="forgetful")
    for act in (pool.getconn, pool.maintain):
        for error in (ValueError("handler"), KeyboardInterrupt("handler")):
            with listening("forgetful") as log:
                pool.getconn()
                log.fail(error, "reclaimed")
                with pytest.raises(type(error)) as raised:
                    act()
                assert raised.value is error
            del raised
            assert_sound(pool, mortal)


def test_it_is_logged_once_its_slot_is_free(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, reclaim=True)
    seen: list[tuple[int, int]] = []

    def borrow(record: logging.LogRecord) -> None:
        if "reclaimed" in record.getMessage():
            pool.putconn(pool.getconn())
            seen.append((counts(pool)["lent"], mortal.peak))

    with handled_by(borrow):
        pool.getconn()
        pool.maintain()
    assert seen == [(0, 1)]


@pytest.mark.parametrize("act", ["getconn", "maintain", "closeall"])
def test_the_next_call_logs_it(mortal: FakeServer, our_class: Any, act: str) -> None:
    pool = our_class(0, 1, reclaim=True, name="forgetful")
    with listening("forgetful", level=30) as log:
        pool.getconn()
        assert log.texts == []
        kept = getattr(pool, act)()
        (line,) = log.texts
        assert line.startswith("connection reclaimed")
    del kept


@pytest.mark.parametrize("act", ["getconn", "maintain"])
def test_a_handlers_own_call_leaves_it_to_the_next(
    mortal: FakeServer, our_class: Any, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The thread would tell it.
    for poke in ("poke", "poke_quietly"):
        monkeypatch.setattr(_housekeeper.housekeeper, poke, lambda _: None)
    texts: list[str] = []
    heard: list[str] = []
    kept: list[Any] = []

    def call(record: logging.LogRecord) -> None:
        texts.append(record.getMessage().partition(",")[0])
        kept.append(getattr(pool, act)())

    listener = SimpleNamespace(closed=lambda _, reason: heard.append(reason))
    pool = our_class(2, 2, reclaim=True, max_idle=None, listener=listener)
    other = pool.getconn()
    pool.getconn()
    with handled_by(call):
        pool.putconn(other, close=True)
        assert (texts, heard) == (["connection closed: its borrower asked for that"], ["requested"])
        pool.maintain()
    assert (texts[1], heard[1]) == ("connection reclaimed", "reclaimed")


def test_the_thread_logs_it_at_once(mortal: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, reclaim=True, max_idle=10, name="forgetful")
    with listening("forgetful", level=30) as log:
        pool.getconn()
        wait_until(lambda: bool(log.texts), "the line")


def test_a_first_time_borrower_may_be_anywhere(mortal: FakeServer) -> None:
    pool: Any = filled(ThreadedConnectionPool, 2, reclaim=True)
    barrier = threading.Barrier(3, timeout=90)

    def work() -> None:
        connection = pool.getconn() if barrier.wait() < 2 else None
        barrier.wait()
        del connection

    for task in [Task(work) for _ in range(3)]:
        task.result()
    wait_until(lambda: counts(pool)["lent"] == 0)
    assert closes(pool) == {"reclaimed": 2}
    assert_sound(pool, mortal)


# --- what may be forgotten while it is in use -------------------------------------------------------------------------


class Traced:
    """A proxy, as tracing libraries put one round a connection. Its cursors hold the connection in it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Posing(Traced):
    """A proxy that says it is what it wraps, as wrapt's do."""

    @property
    def __class__(self) -> Any:
        return self._connection.__class__

    @__class__.setter
    def __class__(self, _: Any) -> None:
        raise NotImplementedError


class Explicit:
    """A wrapper that has all that it needs by itself."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.info = connection.info

    @property
    def closed(self) -> Any:
        return self._connection.closed

    def cursor(self) -> Any:
        return self._connection.cursor()

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("wrapper", [Traced, Posing, Explicit])
def test_a_proxy_that_is_forgotten_while_its_cursor_is_in_use_stays_lent(
    mortal: FakeServer, our_class: Any, wrapper: Any
) -> None:
    pool = our_class(0, 1, reclaim=True, connect=lambda: wrapper(mortal.connect()))
    cursor = pool.getconn().cursor()
    gc.collect()
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    cursor.execute("SELECT 1")
    assert mortal.open == 1
    (loan,) = pool._used.values()
    pool.putconn(loan)
    assert counts(pool)["lent"] == 0


def test_psycopg2s_own_connection_is_reclaimed_once_its_last_cursor_is_gone(our_class: Any, dsn: str) -> None:
    class Own(psycopg2.extensions.connection):
        pass

    for factory in (None, Own):
        pool = our_class(0, 1, dsn, reclaim=True, connection_factory=factory)
        cursor = pool.getconn().cursor()
        assert counts(pool)["lent"] == 1
        cursor.execute("SELECT 1")
        del cursor
        assert counts(pool)["lent"] == 0
        pool.closeall()
