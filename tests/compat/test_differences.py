"""What psycopg2.pool gets wrong and pgpool_rs does not: a group of tests for each row of docs/migrating.md.

Each group begins with a test that pins down the defect in psycopg2.pool itself, so that a row of the table which is no
longer true (a newer psycopg2 that mended it) is noticed.
"""

from __future__ import annotations

import logging
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from pgpool_rs import PoolClosed, PoolExhausted, PoolTimeout
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import counts

DOWN = psycopg2.OperationalError("server closed the connection unexpectedly")
ASYNC = psycopg2.ProgrammingError("rollback cannot be used in asynchronous mode")


def ruin(connection: Any, call: str, error: BaseException) -> dict[str, Any]:
    """Make the return of this connection fail in this call; return the arguments for putconn that lead there."""
    connection.faults[call] = error
    if call == "rollback":
        connection.status = INTRANS
    return {"close": call == "close"}


# --- 1. A failing rollback or close on return ---------------------------------------------------------------------


@pytest.mark.parametrize("call", ["rollback", "close"])
def test_defect_a_failing_return_leaks_the_slot(their_class: Any, server: FakeServer, call: str) -> None:
    pool = their_class(1, 1)
    connection = pool.getconn()
    with pytest.raises(psycopg2.OperationalError):
        pool.putconn(connection, **ruin(connection, call, DOWN))
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()


@pytest.mark.parametrize("error", [DOWN, ASYNC, OSError("odd")], ids=["down", "async", "odd"])
@pytest.mark.parametrize("call", ["rollback", "close"])
def test_a_failing_return_frees_the_slot_drops_the_connection_and_logs_a_warning(
    our_class: Any, server: FakeServer, caplog: pytest.LogCaptureFixture, call: str, error: Exception
) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    with caplog.at_level(logging.DEBUG, "pgpool_rs"):
        assert pool.putconn(connection, **ruin(connection, call, error)) is None
    assert not server.sees(connection)
    assert (list(pool._pool), dict(pool._used), dict(pool._rused)) == ([], {}, {})
    (record,) = [
        record
        for record in caplog.records
        if record.name.startswith("pgpool_rs.") and record.levelno >= logging.WARNING
    ]
    assert record.levelno == logging.WARNING
    assert str(error) in caplog.text
    assert_whole(pool)


# tests/callbacks has what no database says and is raised alone: the rows of rollback and close.
ODD, STOP = ValueError("odd"), KeyboardInterrupt("stop")


@pytest.mark.parametrize(
    ("rollback", "close", "raised"),
    [
        (DOWN, OSError("odd"), None),
        (ODD, DOWN, ODD),
        (DOWN, ODD, ODD),
        (STOP, ODD, STOP),
    ],
    ids=repr,
)
def test_a_rollback_and_a_close_that_both_fail_free_the_slot_and_what_no_database_says_first_is_raised(
    our_class: Any, server: FakeServer, rollback: BaseException, close: BaseException, raised: BaseException | None
) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    connection.status = INTRANS
    connection.faults = {"rollback": rollback, "close": close}
    if raised is None:
        pool.putconn(connection)
    else:
        with pytest.raises(type(raised)) as caught:
            pool.putconn(connection)
        assert caught.value is raised
    assert server.log == [("connect", 1), ("rollback", 1), ("close", 1)]
    assert_whole(pool)


# --- 5. No lock is held over a call: tests/threads ------------------------------------------------------------------


# --- 7. A constructor that fails half-way -------------------------------------------------------------------------


def test_defect_a_constructor_that_fails_half_way_leaves_connections_open(their_class: Any, server: FakeServer) -> None:
    server.fail("connect", None, None, DOWN)
    with pytest.raises(psycopg2.OperationalError) as raised:
        their_class(3, 3)
    assert raised.value is DOWN
    assert server.open == 2


@pytest.mark.parametrize("error", [DOWN, KeyboardInterrupt("stop")], ids=repr)
def test_a_constructor_that_fails_half_way_closes_what_it_had_opened(
    our_class: Any, server: FakeServer, error: BaseException
) -> None:
    server.fail("connect", None, None, error)
    with pytest.raises(type(error)) as raised:
        our_class(3, 3)
    assert raised.value is error
    assert server.calls("close") == [1, 2]
    assert server.open == 0


@pytest.mark.parametrize(("error", "is_raised"), [(OSError, False), (ValueError, True), (KeyboardInterrupt, True)])
def test_a_constructor_whose_cleaning_up_fails_raises_the_weightier_error(
    our_class: Any, server: FakeServer, error: type[BaseException], *, is_raised: bool
) -> None:
    errors = [psycopg2.OperationalError("down"), error("odd")]
    server.fail("connect", None, None, errors[0])
    server.fail("close", errors[1])
    with pytest.raises((psycopg2.OperationalError, error)) as raised:
        our_class(3, 3)
    assert raised.value is errors[is_raised]
    assert raised.value.__context__ is errors[not is_raised]
    assert server.open == 0


# --- 8. closeall --------------------------------------------------------------------------------------------------


def test_defect_a_base_exception_in_closeall_leaves_the_rest_open(their_class: Any, server: FakeServer) -> None:
    pool = their_class(3, 3)
    server.fail("close", None, KeyboardInterrupt("stop"))
    with pytest.raises(KeyboardInterrupt):
        pool.closeall()
    assert (pool.closed, server.open) == (False, 1)


@pytest.mark.parametrize(
    "errors",
    [
        [ValueError("odd"), KeyboardInterrupt("first"), SystemExit("second")],
        [DOWN, ValueError("first"), ValueError("second")],
    ],
    ids=repr,
)
def test_what_no_database_says_in_closeall_is_raised_when_everything_is_closed_an_interrupt_before_all_others(
    our_class: Any, server: FakeServer, errors: list[BaseException]
) -> None:
    pool = our_class(3, 4)
    pool.getconn()
    server.fail("close", *errors)
    with pytest.raises(type(errors[1])) as caught:
        pool.closeall()
    assert caught.value is errors[1]
    assert (pool.closed, server.open) == (True, 0)
    assert server.calls("close") == [1, 2, 3]


def test_in_closeall_psycopg2s_pool_swallows_every_exception_of_a_close(their_class: Any, server: FakeServer) -> None:
    pool = their_class(3, 3)
    server.fail("close", ValueError("odd"))
    pool.closeall()
    assert pool.closed


# --- Errors that can be told apart --------------------------------------------------------------------------------


def test_a_closed_and_an_exhausted_pool_raise_classes_of_their_own(our_class: Any, server: FakeServer) -> None:
    assert issubclass(PoolClosed, PoolError)
    assert issubclass(PoolExhausted, PoolError)
    assert issubclass(PoolTimeout, PoolExhausted)
    pool = our_class(0, 1)
    connection = pool.getconn()
    with pytest.raises(PoolExhausted):
        pool.getconn()
    pool.closeall()
    for call in (pool.getconn, lambda: pool.putconn(connection), pool.closeall):
        with pytest.raises(PoolClosed):
            call()


def test_an_unknown_connection_is_neither_closed_nor_exhausted(our_class: Any, server: FakeServer) -> None:
    with pytest.raises(PoolError) as raised:
        our_class(0, 1).putconn(object())
    assert type(raised.value) is PoolError


def test_repr_shows_counts_and_limits_and_no_secret(our_class: Any, server: FakeServer) -> None:
    pool = our_class(2, 5, "host=h password=hidden", password="hidden")
    pool.getconn("hidden")
    assert counts(pool) == {
        "idle": 1,
        "lent": 1,
        "opening": 0,
        "returning": 0,
        "waiting": 0,
        "minconn": 2,
        "maxconn": 5,
    }
    assert our_class.__name__ in repr(pool)
    assert "hidden" not in repr(pool)
    pool.closeall()
    assert "closed" in repr(pool)


def test_repr_names_the_subclass(our_class: Any, server: FakeServer) -> None:
    class Mine(our_class):  # type: ignore[misc]
        pass

    assert "Mine" in repr(Mine(0, 1))
