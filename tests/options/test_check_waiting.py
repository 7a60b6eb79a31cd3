"""A check that takes its time holds up no callers but those that want what is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolError, PoolTimeout, ThreadedConnectionPool
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import FakeServer
from tests.lib.callbacks import FAILURES, PASSES, STRONG_FAILURES, Callback, gated
from tests.lib.pools import BORROWS, assert_balanced, assert_sound, borrow, filled, give_back, lend
from tests.lib.waits import Task, counts, held, wait_for_waiters, waiting_task


@pytest.fixture
def check() -> Callback:
    return Callback()


OUTCOMES = {**PASSES, **FAILURES, **STRONG_FAILURES}
WAYS: dict[str, Callable[[Any], object]] = {**BORROWS, "check": lambda pool: pool.check()}


@pytest.mark.parametrize("way", ["getconn", "key", "block"])
def test_others_borrow_and_return_while_a_check_takes_its_time(
    server: FakeServer, our_class: Any, check: Callback, way: str
) -> None:
    pool = our_class(2, 3, check=check, check_after=0)
    with held(gated(check), WAYS[way], pool) as checked:
        assert counts(pool)["lent"] == 1
        for _ in range(3):
            lent = lend(pool, 2)
            with pytest.raises(PoolError, match="exhausted"):
                pool.getconn()
            give_back(pool, lent)
    checked.result()
    assert_sound(pool, server)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_who_finds_the_pool_full_waits_for_one_that_nobody_borrows_while_it_is_checked(
    server: FakeServer, our_class: Any, check: Callback, outcome: str
) -> None:
    act, _ = OUTCOMES[outcome]
    pool = filled(our_class, 2, check=check, check_after=1000)
    with held(gated(check, act), pool.check) as checked:
        lent = pool.getconn()
        waiter = Task(pool.getconn)
        wait_for_waiters(pool, 1)
        with pytest.raises(PoolError, match="exhausted"):
            pool.getconn()
    checked.wait()
    pool.putconn(waiter.result())
    pool.putconn(lent)
    assert_sound(pool, server)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_waiter_gets_what_comes_of_a_check_that_took_its_time(
    server: FakeServer, check: Callback, outcome: str
) -> None:
    act, error = OUTCOMES[outcome]
    strong = outcome in STRONG_FAILURES
    pool: Any = ThreadedConnectionPool(1, 1, check=check, check_after=0)
    with held(gated(check, act), pool.getconn) as first:
        second = waiting_task(pool)
    first.wait()
    if strong:
        assert error is not None
        assert isinstance(first.error, error)
    else:
        pool.putconn(first.result())
    pool.putconn(second.result())
    assert_sound(pool, server)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_pool_that_is_closed_during_a_check_closes_the_connection_too(
    server: FakeServer, our_class: Any, check: Callback, way: str, outcome: str
) -> None:
    act, _ = OUTCOMES[outcome]
    pool = our_class(2, 2, check=check, check_after=0)
    with held(gated(check, act), WAYS[way], pool) as checked:
        pool.closeall()
        assert server.open == 1
    checked.wait()
    assert server.open == 0
    assert counts(pool)["idle"] + counts(pool)["lent"] <= 2
    assert_balanced(pool, server)


def test_a_borrower_waits_no_longer_than_its_timeout_for_one_that_is_checked(
    server: FakeServer, check: Callback
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, check=check, check_after=0)
    with held(gated(check), borrow, pool) as checked, pytest.raises(PoolTimeout, match=r"lent 1, opening 0"):
        pool.getconn(timeout=0.01)
    checked.result()
    assert_sound(pool, server)


# --- keyed loans -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [*PASSES, *FAILURES])
@pytest.mark.parametrize("others", [0, 1])
def test_who_asks_for_a_key_whose_connection_is_being_checked_waits_and_gets_it(
    server: FakeServer, check: Callback, outcome: str, others: int
) -> None:
    act, _ = OUTCOMES[outcome]
    pool: Any = ThreadedConnectionPool(1 + others, 2, check=check, check_after=0)
    with held(gated(check, act), pool.getconn, "key") as first:
        second = Task(pool.getconn, "key")
        third = Task(pool.getconn, "key", timeout=5)
        wait_for_waiters(pool, 2)
    connection = first.result()
    assert second.result() is connection
    assert third.result() is connection
    assert (connection is check.calls[0]) == (outcome == "passes")
    pool.putconn(connection)
    assert_sound(pool, server)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [("is interrupted", KeyboardInterrupt("now")), ("loses it", psycopg2.OperationalError("down"))],
)
def test_who_asks_for_a_key_whose_check_is_interrupted_or_whose_dead_connection_cannot_be_replaced_tries_itself(
    server: FakeServer, check: Callback, outcome: str, error: BaseException
) -> None:
    pool: Any = ThreadedConnectionPool(1, 1, check=check, check_after=0)
    if outcome == "loses it":
        server.fail("connect", error)
    with held(gated(check, OUTCOMES[outcome][0]), pool.getconn, "key") as first:
        second = Task(pool.getconn, "key")
        wait_for_waiters(pool, 1)
    with pytest.raises(type(error), match=str(error)):
        first.result()
    connection = second.result()
    assert list(pool._used.values()) == [connection]
    pool.putconn(connection)
    assert_sound(pool, server)


def test_who_waits_for_a_checked_key_has_its_own_timeout(server: FakeServer, check: Callback) -> None:
    pool: Any = ThreadedConnectionPool(1, 2, check=check, check_after=0)
    with held(gated(check), pool.getconn, "key") as first, pytest.raises(PoolTimeout, match="under this key"):
        pool.getconn("key", timeout=0.01)
    pool.putconn(first.result())
    assert_sound(pool, server)


def test_a_key_that_is_lent_is_not_checked_again(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool = our_class(1, 1, check=check, check_after=0)
    connection = pool.getconn("key")
    advance_clock(1000)
    assert pool.getconn("key") is connection
    assert check.calls == [connection]
