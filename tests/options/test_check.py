"""Connections are checked before they are lent: when, and what follows from each outcome. None loses a slot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolError, ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import INTRANS, BareFakeConnection, FakeServer
from tests.lib.callbacks import FAILURES, LEFTOVERS, Callback
from tests.lib.log import listening
from tests.lib.pools import (
    BORROWS,
    assert_balanced,
    assert_sound,
    assert_whole,
    borrow,
    closes,
    filled,
    give_back,
    lend,
    wait_for_quiet,
)
from tests.lib.waits import counts, waiting_task


@pytest.fixture
def check() -> Callback:
    return Callback()


def serials(check: Callback) -> list[int]:
    return [connection.serial for connection in check.calls]


# --- when ------------------------------------------------------------------------------------------------------------


def test_a_connection_that_was_used_just_now_is_not_checked(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = our_class(1, 1, check=check, check_after=100)
    for _ in range(3):
        advance_clock(99)
        pool.putconn(pool.getconn())
    assert check.calls == []
    advance_clock(101)
    pool.putconn(pool.getconn())
    assert serials(check) == [1]


def test_a_check_after_half_a_second_is_the_default(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool = our_class(1, 1, check=check)
    pool.putconn(pool.getconn())
    assert check.calls == []
    advance_clock(0.6)
    pool.putconn(pool.getconn())
    assert serials(check) == [1]


def test_check_after_0_checks_each_time(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool = our_class(1, 1, check=check, check_after=0)
    for _ in range(3):
        pool.putconn(pool.getconn())
    assert serials(check) == [1, 1, 1]


def test_a_new_connection_is_not_checked(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool = our_class(0, 1, check=check, check_after=0)
    pool.getconn()
    assert check.calls == []


def test_a_connection_that_goes_straight_to_a_waiter_is_not_checked(server: FakeServer, check: Callback) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, check=check, check_after=100)
    connection = pool.getconn()
    advance_clock(1000)
    waiter = waiting_task(pool)
    pool.putconn(connection)
    assert waiter.result() is connection
    assert check.calls == []


def test_without_a_check_nothing_is_asked(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, check=None)
    pool._pool[0].set_closed(2)
    advance_clock(1000)
    assert pool.getconn().serial == 1


@pytest.mark.parametrize("method", ["getconn", "check"])
def test_async_connections_are_not_looked_at(
    server: FakeServer, our_class: Any, check: Callback, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BareFakeConnection, "async_", 1, raising=False)
    pool = our_class(1, 1, check=check, check_after=0)
    getattr(pool, method)()
    assert check.calls == []
    assert_balanced(pool, server)


def test_what_a_check_returns_is_ignored(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 1, check=lambda _: False, check_after=0)
    assert pool.getconn().serial == 1


# --- every outcome, by every way to a check --------------------------------------------------------------------------


WAYS: dict[str, Callable[[Any], object]] = {**BORROWS, "check": lambda pool: pool.check()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_connection_that_fails_its_check_is_closed_and_the_borrower_gets_another(
    server: FakeServer, our_class: Any, check: Callback, way: str, failure: str
) -> None:
    act, _ = FAILURES[failure]
    pool = our_class(2, 2, check=check, check_after=0)
    check.then(act)
    WAYS[way](pool)
    assert not server.sees(check.calls[0])
    stats = pool.get_stats()
    assert (closes(pool), stats["checks_failed"], stats["connections_lost"]) == ({"lost": 1}, 1, 1)
    assert stats["requests_errors"] == 0
    assert_sound(pool, server)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_transaction_that_a_check_leaves_is_rolled_back(
    server: FakeServer, our_class: Any, check: Callback, way: str, leftover: str
) -> None:
    pool = our_class(1, 1, check=check, check_after=0)
    check.then(LEFTOVERS[leftover])
    WAYS[way](pool)
    assert (server.calls("rollback"), closes(pool)) == ([1], {})
    assert_sound(pool, server)


@pytest.mark.parametrize("error", [psycopg2.OperationalError("gone"), psycopg2.DatabaseError("odd"), OSError("gone")])
@pytest.mark.parametrize("way", WAYS)
def test_a_transaction_of_a_check_that_cannot_be_rolled_back_is_a_failed_check(
    server: FakeServer, our_class: Any, check: Callback, way: str, error: Exception
) -> None:
    pool = our_class(1, 1, check=check, check_after=0)
    check.then(lambda connection: setattr(connection, "status", INTRANS))
    server.fail("rollback", error)
    WAYS[way](pool)
    assert closes(pool) == {"lost": 1}
    assert_sound(pool, server)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [None, ValueError("odd"), KeyboardInterrupt()])
def test_a_check_may_close_the_pool_and_fail_or_not(
    server: FakeServer, our_class: Any, check: Callback, way: str, error: BaseException | None
) -> None:
    pool = our_class(2, 2, check=check, check_after=0)

    def act(_: Any) -> None:
        pool.closeall()
        if error is not None:
            raise error

    check.then(act)
    with suppress(PoolClosed, type(error or PoolClosed())):
        WAYS[way](pool)
        assert error is None
        assert way == "check"
    assert (server.open, closes(pool)) == (0, {"with_pool": 1, "unclean": 1} if error else {"with_pool": 2})
    assert counts(pool)["lent"] in {0, 1}
    assert_balanced(pool, server)


def test_a_check_that_asks_for_its_own_key_is_refused_and_does_not_hang(server: FakeServer, check: Callback) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, check=check, check_after=0)
    errors: list[BaseException] = []

    def act(_: Any) -> None:
        with pytest.raises(PoolError, match="opening") as raised:
            pool.getconn("key")
        errors.append(raised.value)

    check.then(act)
    connection = pool.getconn("key")
    assert (connection.serial, len(errors)) == (1, 1)
    pool.putconn(connection)
    assert_sound(pool, server)


# --- what comes in its place -----------------------------------------------------------------------------------------


def test_each_idle_connection_is_tried_and_then_one_is_opened(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = filled(our_class, 3, check=check, check_after=0)
    check.raises(*[psycopg2.OperationalError("gone")] * 3)
    connection = pool.getconn()
    assert serials(check) == [3, 2, 1]
    assert (connection.serial, server.open, server.peak) == (4, 1, 3)
    pool.putconn(connection)
    assert closes(pool) == {"lost": 3}
    assert_sound(pool, server)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("error", [psycopg2.OperationalError("down"), KeyboardInterrupt("now")])
def test_where_the_new_connection_fails_its_error_is_the_borrowers(
    server: FakeServer, our_class: Any, check: Callback, key: object, error: BaseException
) -> None:
    pool = filled(our_class, 2, check=check, check_after=0)
    assert pool.pop_stats()["requests_num"] == 2
    check.raises(psycopg2.DatabaseError("dead"), OSError("dead"))
    server.fail("connect", error)
    with pytest.raises(type(error), match=str(error)):
        pool.getconn(key)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"], stats["pool_size"]) == (1, 1, 0)
    assert server.open == 0
    assert_whole(pool)


def test_what_is_asked_of_a_connection_that_is_no_connection_is_raised(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = our_class(1, 1, check=check, check_after=0)
    pool._pool[0].faults["closed"] = AttributeError("no such thing")
    with pytest.raises(AttributeError):
        borrow(pool)
    assert closes(pool) == {"unclean": 1}
    assert_sound(pool, server)


# --- check() ---------------------------------------------------------------------------------------------------------


def test_check_asks_each_idle_connection_however_fresh_and_leaves_their_order(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = our_class(3, 3, check=check, check_after=1000)
    lent = pool.getconn()
    before = list(pool._pool)
    pool.check()
    assert set(serials(check)) == {connection.serial for connection in before}
    assert list(pool._pool) == before
    pool.putconn(lent)
    assert_sound(pool, server)


def test_check_replaces_what_is_dead(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool = our_class(3, 3, check=check)
    check.then(lambda _: None)
    check.raises(psycopg2.DatabaseError("dead"), OSError("dead"))
    pool.check()
    assert (counts(pool)["idle"], closes(pool)) == (3, {"lost": 2})
    assert_sound(pool, server)


def test_check_does_not_make_a_connection_look_used(server: FakeServer, our_class: Any) -> None:
    pool = our_class(1, 2, max_idle=100, check=None)
    give_back(pool, lend(pool, 2))
    advance_clock(90)
    pool.check()
    advance_clock(20)
    pool.maintain()
    wait_for_quiet(pool)
    assert closes(pool) == {"idle": 1}


def test_a_connection_that_is_lent_during_check_is_left_to_its_borrower(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = our_class(2, 2, check=check, check_after=1000)
    lent: list[Any] = []
    check.then(lambda _: lent.append(pool.getconn()))
    pool.check()
    assert len(check.calls) == 1
    pool.putconn(lent[0])
    assert_sound(pool, server)


def test_check_where_the_server_is_down_logs_and_does_not_raise(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = our_class(2, 2, check=check, name="checked")
    check.raises(psycopg2.DatabaseError("dead"), OSError("dead"))
    server.fail("connect", *[psycopg2.OperationalError("down")] * 100)
    with listening("checked") as log:
        pool.check()
    assert [text for text in log.texts if text.startswith("connect failed")]
    assert counts(pool)["idle"] == 0
    server.calm()
    assert_whole(pool)
