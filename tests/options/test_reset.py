"""What is done to a connection that comes back: every outcome, by every way, and no slot is lost."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from pgpool_rs import ThreadedConnectionPool, _housekeeper
from pgpool_rs.testing import ACTIVE, IDLE, INERROR, INTRANS, BareFakeConnection, FakeServer
from tests.lib.callbacks import FAILURES, PASSES, SPOILS, STRONG_FAILURES, Callback, gated
from tests.lib.log import listening
from tests.lib.pools import BORROWS, assert_balanced, assert_sound, borrow, closes, filled
from tests.lib.waits import Task, counts, held, wait_until, waiting_task

OUTCOMES = {**PASSES, **SPOILS, **STRONG_FAILURES}


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the thread go on soon after a failure."""
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.01)


@pytest.fixture
def reset() -> Callback:
    return Callback()


def test_reset_is_called_with_each_connection_that_comes_back_once_it_is_in_no_transaction(
    server: FakeServer, our_class: Any
) -> None:
    seen: list[int] = []
    pool = our_class(1, 1, reset=lambda connection: seen.append(connection.transaction_status))
    for status in (IDLE, INTRANS, INERROR, ACTIVE):
        connection = pool.getconn()
        connection.status = status
        pool.putconn(connection)
    assert (seen, server.calls("rollback")) == ([IDLE] * 4, [1, 1, 1])


@pytest.mark.parametrize("end", ["close", "surplus", "closed", "broken"])
def test_what_is_not_kept_is_not_reset(server: FakeServer, our_class: Any, reset: Callback, end: str) -> None:
    pool = our_class(1, 2, reset=reset)
    lent = [pool.getconn(), pool.getconn()]
    if end == "surplus":
        pool.putconn(lent[0])
        reset.calls.clear()
    elif end != "close":
        lent[1].set_closed(1 if end == "closed" else 2)
    pool.putconn(lent[1], close=end == "close")
    assert reset.calls == []
    assert server.open == 1


def test_async_connections_are_not_reset(
    server: FakeServer, our_class: Any, reset: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BareFakeConnection, "async_", 1, raising=False)
    pool = our_class(1, 1, reset=reset)
    pool.putconn(pool.getconn())
    assert (reset.calls, counts(pool)["idle"]) == ([], 1)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("way", BORROWS)
@pytest.mark.parametrize("spoil", SPOILS)
def test_where_reset_fails_the_connection_is_closed_and_a_warning_logged(
    server: FakeServer, our_class: Any, reset: Callback, *, way: str, spoil: str, background: bool
) -> None:
    act, _ = SPOILS[spoil]
    pool = filled(our_class, 1, reset=reset, background=background, name="reset")
    reset.then(act)
    with listening("reset", level=30) as log:
        BORROWS[way](pool)
        assert_sound(pool, server)
        log.wait_for(1)
    assert len(log.texts) == 1
    assert log.texts[0].startswith("reset failed; the connection was dropped and its slot is free: ")
    reason = "lost" if spoil in {"loses it", "breaks it"} else "unclean"
    assert (closes(pool), pool.get_stats()["returns_bad"]) == ({reason: 1}, 1)


@pytest.mark.parametrize("background", [False, True])
def test_reset_may_close_the_pool(server: FakeServer, our_class: Any, reset: Callback, background: bool) -> None:
    pool = our_class(2, 2, reset=reset, background=background)
    reset.then(lambda _: pool.closeall())
    task = Task(borrow, pool)
    task.result()
    wait_until(lambda: server.open == 0, "the end of all")
    wait_until(lambda: closes(pool) == {"with_pool": 2}, "the statistics")
    assert_balanced(pool, server)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("background", [False, True])
def test_a_waiter_gets_what_comes_of_a_reset_that_took_its_time(
    server: FakeServer, reset: Callback, outcome: str, background: bool
) -> None:
    act, _ = OUTCOMES[outcome]
    pool: Any = ThreadedConnectionPool(1, 1, reset=reset, background=background)
    with held(gated(reset, act), borrow, pool) as returning:
        waiter = waiting_task(pool)
    returning.wait()
    pool.putconn(waiter.result())
    assert_sound(pool, server)


def test_a_pool_that_is_closed_during_reset_closes_the_connection_too(
    server: FakeServer, our_class: Any, reset: Callback
) -> None:
    pool = our_class(1, 1, reset=reset)
    with held(gated(reset), borrow, pool) as returning:
        pool.closeall()
    returning.result()
    assert (server.open, closes(pool)) == (0, {"with_pool": 1})
    assert_balanced(pool, server)


def test_after_a_reset_that_found_its_connection_dead_the_others_are_checked(
    server: FakeServer, our_class: Any, reset: Callback
) -> None:
    check = Callback()
    pool = filled(our_class, 2, reset=reset, check=check, check_after=1000)
    reset.then(FAILURES["loses it"][0])
    borrow(pool)
    borrow(pool)
    assert len(check.calls) == 1


def test_discard_runs_discard_all_out_of_a_transaction(server: FakeServer, our_class: Any) -> None:
    modes: list[bool] = []
    server.on("execute", lambda connection: modes.append(connection.autocommit))
    pool = our_class(1, 1, reset="discard")
    connection = pool.getconn()
    connection.status = INTRANS
    pool.putconn(connection)
    assert (connection.queries, modes, connection.autocommit) == (["DISCARD ALL"], [True], False)
    assert server.calls("rollback") == [1]
    assert_sound(pool, server)


@pytest.mark.parametrize("error", [psycopg2.OperationalError("gone"), psycopg2.ProgrammingError("no")])
def test_where_discard_fails_the_connection_is_closed(server: FakeServer, our_class: Any, error: Exception) -> None:
    pool = our_class(1, 1, reset="discard")
    server.fail("execute", error)
    borrow(pool)
    assert server.open == 0
    assert_sound(pool, server)


def test_reset_is_given_what_configure_has_made(server: FakeServer, our_class: Any) -> None:
    def configure(connection: Any) -> None:
        connection.autocommit = True

    seen: list[bool] = []
    pool = our_class(1, 1, configure=configure, reset=lambda connection: seen.append(connection.autocommit))
    borrow(pool)
    assert seen == [True]
