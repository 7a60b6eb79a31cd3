"""What psycopg2.pool gets wrong and pgpool_rs does not: one group of tests for each row of README's table.

Each group begins with a test that pins down the defect in psycopg2.pool itself, so that a row of the table which is no
longer true (a newer psycopg2 that mended it) is noticed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from fakes import INTRANS, FakeServer
from pgpool_rs import PoolClosed, PoolExhausted, PoolTimeout, ThreadedConnectionPool
from support import assert_whole, counts

DOWN = psycopg2.OperationalError("server closed the connection unexpectedly")
ASYNC = psycopg2.ProgrammingError("rollback cannot be used in asynchronous mode")


@pytest.fixture(params=["SimpleConnectionPool", "ThreadedConnectionPool"], ids=["Simple", "Threaded"])
def their_class(request: pytest.FixtureRequest) -> Any:
    """Give both classes of psycopg2.pool."""
    return getattr(psycopg2.pool, request.param)


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


@pytest.mark.parametrize("error", [DOWN, ASYNC, ValueError("odd")], ids=["down", "async", "odd"])
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
    (record,) = [record for record in caplog.records if record.name == "pgpool_rs"]
    assert record.levelno == logging.WARNING
    assert str(error) in caplog.text
    assert_whole(pool)


def test_a_rollback_and_a_close_that_both_fail_still_free_the_slot(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    connection.status = INTRANS
    connection.faults = {"rollback": DOWN, "close": ValueError("odd")}
    assert pool.putconn(connection) is None
    assert server.log == [("connect", 1), ("rollback", 1), ("close", 1)]
    assert_whole(pool)


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("call", ["rollback", "close"])
def test_a_base_exception_on_return_passes_on_and_frees_the_slot(
    our_class: Any, server: FakeServer, call: str, error: BaseException
) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    with pytest.raises(type(error)) as raised:
        pool.putconn(connection, **ruin(connection, call, error))
    assert raised.value is error
    assert not server.sees(connection)
    assert (list(pool._pool), dict(pool._used), dict(pool._rused)) == ([], {}, {})
    assert_whole(pool)


def test_a_base_exception_from_the_rollback_is_not_hidden_by_a_failing_close(
    our_class: Any, server: FakeServer
) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    connection.status = INTRANS
    connection.faults = {"rollback": KeyboardInterrupt("stop"), "close": ValueError("odd")}
    with pytest.raises(KeyboardInterrupt, match="stop"):
        pool.putconn(connection)
    assert_whole(pool)


@pytest.mark.parametrize("look", ["closed", "info", "status"])
@pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt("stop")], ids=repr)
def test_a_connection_that_cannot_be_looked_at_frees_its_slot(
    our_class: Any, server: FakeServer, look: str, error: BaseException
) -> None:
    pool = our_class(1, 1)
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail(look, error)
    try:
        pool.putconn(connection)
    except (ValueError, KeyboardInterrupt) as raised:
        assert raised is error  # noqa: PT017  whether an Exception is raised or logged is not asked here
    server.calm()
    # Whoever gets the slot must not be one too many for the server.
    assert connection.closed or connection in pool._pool
    assert dict(pool._used) == {}
    assert_whole(pool)


# --- 2. Keys in putconn -------------------------------------------------------------------------------------------


def test_defect_a_wrong_key_makes_a_connection_idle_and_lent_at_once(their_class: Any, server: FakeServer) -> None:
    pool = their_class(1, 1)
    connection = pool.getconn("a")
    with pytest.raises(KeyError):
        pool.putconn(connection, "b")
    assert pool._pool == [connection]
    assert pool._used == {"a": connection}


def unchanged(pool: Any, server: FakeServer) -> Callable[[], bool]:
    """Remember the state of a pool; the answer tells whether it is still the same."""

    def state() -> Any:
        return list(pool._pool), list(pool._used.items()), dict(pool._rused), pool._keys, repr(pool), list(server.log)

    before = state()
    return lambda: bool(state() == before)


WRONG_KEYS = ["swapped", "unknown", "automatic", "number of the automatic", "unhashable"]


@pytest.mark.parametrize("wrong", WRONG_KEYS)
@pytest.mark.parametrize("close", [False, True])
def test_a_wrong_key_is_a_pool_error_and_nothing_changes(
    our_class: Any, server: FakeServer, wrong: str, close: bool
) -> None:
    pool = our_class(2, 4)
    a, b, c = pool.getconn("a"), pool.getconn("b"), pool.getconn()
    connection, key = {
        "swapped": (a, "b"),
        "unknown": (a, "x"),
        "automatic": (a, pool._rused[id(c)]),
        "number of the automatic": (c, 1),
        "unhashable": (a, []),
    }[wrong]
    same = unchanged(pool, server)
    with pytest.raises(TypeError if wrong == "unhashable" else PoolError) as raised:
        pool.putconn(connection, key, close)
    if wrong == "unhashable":
        assert "unhashable type: 'list'" in str(raised.value)
    else:
        assert "lent under" in str(raised.value)
    assert same()
    for connection in (a, b, c):
        pool.putconn(connection)
    assert_whole(pool)


@pytest.mark.parametrize("thing", ["foreign", "idle", "object"])
def test_a_foreign_connection_with_a_lent_key_is_refused_and_nothing_changes(
    our_class: Any, server: FakeServer, thing: str
) -> None:
    pool = our_class(2, 3)
    connection = pool.getconn("a")
    given = {"foreign": server.connect(), "idle": pool._pool[0], "object": object()}[thing]
    same = unchanged(pool, server)
    with pytest.raises(PoolError, match=r"^trying to put unkeyed connection$"):
        pool.putconn(given, "a")
    assert same()
    pool.putconn(connection)


def test_defect_a_key_without_a_connection_is_an_attribute_error(server: FakeServer) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1)
    pool.getconn("a")
    with pytest.raises(AttributeError):
        pool.putconn(key="a")


@pytest.mark.parametrize("close", [False, True])
def test_a_key_without_a_connection_returns_the_one_lent_under_it(
    our_class: Any, server: FakeServer, close: bool
) -> None:
    pool = our_class(1, 2)
    connection, other = pool.getconn("a"), pool.getconn(0)
    assert pool.putconn(None, "a", close) is None
    assert list(pool._pool) == ([] if close else [connection])
    assert pool._used == {0: other}
    pool.putconn(None, key=False, close=True)
    assert_whole(pool)


def test_a_key_alone_is_enough_when_threaded(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn("a")
    pool.putconn(key="a")
    assert list(pool._pool) == [connection]


@pytest.mark.parametrize("key", ["x", 1, 1.0])
def test_a_key_without_a_connection_that_lends_nothing_is_a_pool_error(
    our_class: Any, server: FakeServer, key: object
) -> None:
    pool = our_class(1, 1)
    pool.getconn()
    same = unchanged(pool, server)
    with pytest.raises(PoolError):
        pool.putconn(None, key)
    assert same()


# --- 3. Automatic keys --------------------------------------------------------------------------------------------


def test_defect_an_automatic_key_meets_a_users_key(their_class: Any, server: FakeServer) -> None:
    pool = their_class(0, 2)
    assert pool.getconn(1) is pool.getconn()


@pytest.mark.parametrize("key", [1, True, 1.0])
def test_automatic_keys_never_meet_users_keys(our_class: Any, server: FakeServer, key: object) -> None:
    pool = our_class(0, 4)
    first = pool.getconn(key)
    automatic = pool.getconn()
    assert first is not automatic
    assert pool.getconn(key) is first
    assert len(pool._used) == 2
    pool.putconn(automatic)
    assert pool.getconn(key) is first
    assert pool.getconn(2) is not pool.getconn()
    pool.putconn(first, key)


def test_an_automatic_key_object_means_the_automatic_loan(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 3)
    users, automatic = pool.getconn(1), pool.getconn()
    key = pool._rused[id(automatic)]
    assert key == 1
    assert pool.getconn(key) is automatic
    assert pool.getconn(1) is users
    assert pool._used[key] is automatic
    pool.putconn(automatic, key)
    assert list(pool._used.items()) == [(1, users)]


# --- 4. The limit -------------------------------------------------------------------------------------------------


def test_defect_a_lowered_maxconn_is_no_limit(their_class: Any, server: FakeServer) -> None:
    pool = their_class(0, 2)
    pool.getconn()
    pool.getconn()
    pool.maxconn = 1
    pool.getconn()
    assert len(pool._used) == 3


def test_a_lowered_maxconn_refuses_until_enough_came_back(our_class: Any, server: FakeServer) -> None:
    pool = our_class(3, 3)
    lent = [pool.getconn() for _ in range(3)]
    pool.maxconn = 1
    for connection in lent[:2]:
        with pytest.raises(PoolError, match=r"^connection pool exhausted$"):
            pool.getconn()
        pool.putconn(connection)
        assert not server.sees(connection)
    pool.putconn(lent[2])
    assert list(pool._pool) == [lent[2]]
    assert_whole(pool)


def test_a_lowered_maxconn_closes_idle_connections_above_it(our_class: Any, server: FakeServer) -> None:
    pool = our_class(4, 4)
    connection = pool.getconn()
    pool.maxconn = 2
    assert (server.open, len(pool._pool), counts(pool)["idle"]) == (2, 1, 1)
    pool.maxconn = 0
    assert (server.open, len(pool._pool)) == (1, 0)
    pool.putconn(connection)
    assert server.open == 0
    with pytest.raises(PoolExhausted):
        pool.getconn()


def test_an_idle_connection_that_fails_to_close_does_not_keep_maxconn_from_being_lowered(
    our_class: Any, server: FakeServer
) -> None:
    pool = our_class(3, 3)
    server.fail("close", DOWN)
    pool.maxconn = 1
    assert (pool.maxconn, len(pool._pool), server.open) == (1, 1, 1)


def test_sizes_can_be_assigned_in_any_order(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 2)
    pool.minconn = 5
    pool.maxconn = 5
    assert (pool.minconn, pool.maxconn) == (5, 5)
    lent = [pool.getconn() for _ in range(5)]
    for connection in lent:
        pool.putconn(connection)
    assert len(pool._pool) == 5
    pool.maxconn = 1
    pool.minconn = 0
    assert len(pool._pool) == 1


def test_minconn_above_maxconn_keeps_no_more_than_maxconn(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 2)
    pool.minconn = 10
    for connection in [pool.getconn(), pool.getconn()]:
        pool.putconn(connection)
    assert len(pool._pool) == 2
    assert_whole(pool)


@pytest.mark.parametrize("name", ["minconn", "maxconn"])
def test_a_negative_size_cannot_be_assigned(our_class: Any, server: FakeServer, name: str) -> None:
    pool = our_class(1, 2)
    with pytest.raises(ValueError, match="-3"):
        setattr(pool, name, -3)
    assert (pool.minconn, pool.maxconn) == (1, 2)


def test_defect_more_than_maxconn_are_opened_and_lent_when_minconn_is_above_it(
    their_class: Any, server: FakeServer
) -> None:
    pool = their_class(4, 2)
    for _ in range(6):
        pool.getconn()
    assert server.open == 6


@pytest.mark.parametrize(("minconn", "maxconn"), [(-1, 2), (0, -1), (-2, -1), (3, 2), (1, 0), ("3", 2.9)])
def test_bad_sizes_are_a_value_error_that_says_what_was_given(
    our_class: Any, server: FakeServer, minconn: Any, maxconn: Any
) -> None:
    with pytest.raises(ValueError, match=rf"{int(minconn)}\b") as raised:
        our_class(minconn, maxconn)
    assert not isinstance(raised.value, psycopg2.Error)
    if minconn != -1:
        assert str(int(maxconn)) in str(raised.value)
    assert server.log == []


def test_defect_connect_called_by_a_program_opens_one_more_than_maxconn(their_class: Any, server: FakeServer) -> None:
    pool = their_class(1, 1)
    pool._connect()
    pool._connect("key")
    assert server.open == 3


def test_connect_called_by_a_program_on_a_full_pool_is_refused(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 2)
    pool._connect("key")
    for arguments in ((), ("other",), (None,)):
        with pytest.raises(PoolExhausted):
            pool._connect(*arguments)
    assert (server.open, len(pool._pool), len(pool._used)) == (2, 1, 1)
    pool.putconn(None, "key")
    assert_whole(pool)


# --- 5. No lock is held over a call: test_threads.py --------------------------------------------------------------


# --- 7. A constructor that fails half-way -------------------------------------------------------------------------


def test_defect_a_constructor_that_fails_half_way_leaves_connections_open(their_class: Any, server: FakeServer) -> None:
    server.fail("connect", None, None, DOWN)
    with pytest.raises(psycopg2.OperationalError):
        their_class(3, 3)
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


def test_a_constructor_whose_cleaning_up_fails_still_raises_the_first_error(our_class: Any, server: FakeServer) -> None:
    server.fail("connect", None, None, DOWN)
    server.fail("close", ValueError("odd"))
    with pytest.raises(psycopg2.OperationalError) as raised:
        our_class(3, 3)
    assert raised.value is DOWN
    assert server.open == 0


# --- 8. closeall --------------------------------------------------------------------------------------------------


def test_defect_a_base_exception_in_closeall_leaves_the_rest_open(their_class: Any, server: FakeServer) -> None:
    pool = their_class(3, 3)
    server.fail("close", None, KeyboardInterrupt("stop"))
    with pytest.raises(KeyboardInterrupt):
        pool.closeall()
    assert (pool.closed, server.open) == (False, 1)


def test_a_base_exception_in_closeall_is_raised_when_everything_is_closed(our_class: Any, server: FakeServer) -> None:
    pool = our_class(3, 4)
    pool.getconn()
    server.fail("close", ValueError("odd"), KeyboardInterrupt("first"), SystemExit("second"))
    with pytest.raises(KeyboardInterrupt, match="first"):
        pool.closeall()
    assert (pool.closed, server.open) == (True, 0)
    assert server.calls("close") == [1, 2, 3]


# --- One object for several connections ---------------------------------------------------------------------------


def one_for_all(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Any:
    """Let every connect give the same object, as connect.return_value of a mock does."""
    connection = server.connect()
    monkeypatch.setattr(psycopg2, "connect", lambda: connection)
    return connection


def test_defect_an_object_lent_twice_is_returned_only_once(
    their_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = one_for_all(monkeypatch, server)
    pool = their_class(2, 2)
    assert pool.getconn() is pool.getconn() is connection
    pool.putconn(connection)
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(connection)
    assert len(pool._used) == 1


def test_an_object_lent_twice_is_returned_twice(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = one_for_all(monkeypatch, server)
    pool = our_class(2, 2)
    assert pool.getconn() is pool.getconn() is connection
    pool.putconn(connection)
    assert len(pool._used) == 1
    pool.putconn(connection)
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(connection)
    assert pool._pool == [connection, connection]


def test_an_object_lent_under_two_keys_is_returned_under_each(
    our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = one_for_all(monkeypatch, server)
    pool = our_class(0, 2)
    pool.getconn("a")
    pool.getconn("b")
    pool.putconn(connection, "a")
    assert list(pool._used) == ["b"]
    pool.putconn(None, "b")
    assert not pool._used


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
