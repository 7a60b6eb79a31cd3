"""Putting a connection back: what is kept, what is closed, and what is refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import ACTIVE, IDLE, INERROR, INTRANS, UNKNOWN, BareFakeConnection, FakeConnection, FakeServer


@pytest.fixture(params=[FakeConnection, BareFakeConnection], ids=["psycopg2-like", "bare"])
def either_server(request: pytest.FixtureRequest, server: FakeServer) -> FakeServer:
    """Open connections that have get_transaction_status(), and such as lack it."""
    server.connection_class = request.param
    return server


def test_a_closed_pool_refuses_every_return_and_leaves_the_connection_alone(
    pool_class: Any, server: FakeServer
) -> None:
    pool = pool_class(0, 2)
    connection = pool.getconn("a")
    pool.closeall()
    log = list(server.log)
    for arguments in ((connection,), (connection, "a"), (connection, "b"), (None,), (object(),)):
        with pytest.raises(PoolError, match=r"(?m)^connection pool is closed$"):
            pool.putconn(*arguments)
    assert server.log == log
    assert list(pool._used.values()) == [connection]


def test_what_the_pool_never_lent_is_refused(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    foreign, others = server.connect(), pool_class(0, 1).getconn()
    log = list(server.log)
    for thing in (foreign, others, None, object(), "a string", 1, [], pool._pool[0]):
        with pytest.raises(PoolError) as raised:
            pool.putconn(thing)
        assert str(raised.value) == "trying to put unkeyed connection"
    assert server.log == log


def test_a_second_return_is_refused(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    connection = pool.getconn()
    pool.putconn(connection)
    with pytest.raises(PoolError, match=r"(?m)^trying to put unkeyed connection$"):
        pool.putconn(connection)
    assert list(pool._pool) == [connection]


def test_putconn_without_arguments_is_a_pool_error_when_threaded(pool_module: ModuleType, server: FakeServer) -> None:
    with pytest.raises(PoolError, match=r"(?m)^trying to put unkeyed connection$"):
        pool_module.ThreadedConnectionPool(0, 1).putconn()


@pytest.mark.parametrize("arguments", [{}, {"key": "a"}, {"close": True}], ids=repr)
def test_putconn_without_a_connection_is_a_type_error_when_simple(
    pool_module: ModuleType, server: FakeServer, arguments: Any
) -> None:
    pool = pool_module.SimpleConnectionPool(0, 1)
    pool.getconn("a")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'conn'"):
        pool.putconn(**arguments)


def test_every_argument_may_be_given_by_name(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    connection = pool.getconn(key="a")
    assert pool.putconn(conn=connection, key="a", close=True) is None
    assert server.log == [("connect", 1), ("close", 1)]
    assert (list(pool._pool), dict(pool._used), dict(pool._rused)) == ([], {}, {})


@pytest.mark.parametrize(
    ("status", "calls", "kept"),
    [
        (IDLE, [], True),
        (ACTIVE, ["rollback"], True),
        (INTRANS, ["rollback"], True),
        (INERROR, ["rollback"], True),
        (UNKNOWN, ["close"], False),
    ],
)
def test_an_open_connection_is_met_by_its_transaction_status(
    pool_class: Any, either_server: FakeServer, status: int, calls: list[str], kept: bool
) -> None:
    pool = pool_class(1, 1)
    connection = pool.getconn()
    connection.status = status
    assert pool.putconn(connection) is None
    assert either_server.log[1:] == [(call, 1) for call in calls]
    assert list(pool._pool) == ([connection] if kept else [])
    assert (dict(pool._used), dict(pool._rused)) == ({}, {})


@pytest.mark.parametrize("status", range(5))
@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_connection_is_dropped_without_a_call(
    pool_class: Any, either_server: FakeServer, status: int, closed: int
) -> None:
    pool = pool_class(1, 1)
    connection = pool.getconn()
    connection.status = status
    connection.set_closed(closed)
    looked: list[object] = []
    either_server.on("info", looked.append)
    pool.putconn(connection)
    assert either_server.log == [("connect", 1)]
    assert looked == []
    assert (list(pool._pool), dict(pool._used), dict(pool._rused)) == ([], {}, {})


@pytest.mark.parametrize("status", range(5))
@pytest.mark.parametrize("closed", [0, 1, 2])
@pytest.mark.parametrize("reason", ["close=True", "enough are idle"])
def test_a_connection_that_is_not_to_be_kept_is_closed_whatever_its_state_with_no_rollback(
    pool_class: Any, either_server: FakeServer, status: int, closed: int, reason: str
) -> None:
    pool = pool_class(0 if reason == "enough are idle" else 1, 1)
    connection = pool.getconn()
    connection.status = status
    connection.set_closed(closed)
    pool.putconn(connection, close=reason == "close=True")
    assert either_server.log == [("connect", 1), ("close", 1)]
    assert (list(pool._pool), dict(pool._used), dict(pool._rused)) == ([], {}, {})


@pytest.mark.parametrize("close", [True, 1, "yes", [0], False, 0, "", None, []])
def test_close_is_taken_by_its_truth(pool_class: Any, server: FakeServer, close: object) -> None:
    pool = pool_class(1, 1)
    pool.putconn(pool.getconn(), close=close)
    assert server.calls("close") == ([1] if close else [])


def test_minconn_idle_connections_are_kept_and_the_others_closed(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 4)
    lent = [pool.getconn() for _ in range(4)]
    for connection in lent:
        pool.putconn(connection)
    assert list(pool._pool) == lent[:2]
    assert server.calls("close") == [connection.serial for connection in lent[2:]]


def test_the_pool_is_not_filled_up_again(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 2)
    pool.putconn(pool.getconn(), close=True)
    pool.putconn(pool.getconn())
    assert len(pool._pool) == 1
    assert server.calls("connect") == [1, 2]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1)])
def test_minconn_set_later_says_how_many_are_kept(pool_class: Any, server: FakeServer, before: int, after: int) -> None:
    pool = pool_class(before, 3)
    lent = [pool.getconn() for _ in range(3)]
    pool.minconn = after
    assert server.count("connect") == 3
    for connection in lent:
        pool.putconn(connection)
    assert list(pool._pool) == lent[:after]


def test_maxconn_raised_later_lends_more(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    pool.getconn()
    pool.maxconn = 2
    pool.getconn()
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()


def test_the_right_key_given_again_is_accepted(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    connection = pool.getconn("a")
    pool.putconn(connection, "a")
    assert list(pool._pool) == [connection]


def test_the_automatic_key_given_back_is_accepted(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    connection = pool.getconn()
    pool.putconn(connection, pool._rused[id(connection)])
    assert list(pool._pool) == [connection]
    connection = pool.getconn(pool._getkey())
    pool.putconn(connection)
    assert list(pool._pool) == [connection]


def test_session_state_is_not_reset(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    connection = pool.getconn()
    connection.autocommit = True
    pool.putconn(connection)
    assert pool.getconn().autocommit is True


@pytest.mark.parametrize(
    "answer", [None, False, 0.0, "", [], "0", 5, ValueError("odd"), AttributeError("no such thing")]
)
def test_whatever_get_transaction_status_says_other_than_zero_the_connection_is_looked_at(
    pool_class: Any, server: FakeServer, answer: Any
) -> None:
    """psycopg2.pool never asks it, so what a wrapper makes of it may decide nothing."""

    class Wrapper(BareFakeConnection):
        def get_transaction_status(self) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

    server.connection_class = Wrapper
    pool = pool_class(1, 1)
    connection = pool.getconn()
    connection.status = INTRANS
    pool.putconn(connection)
    assert server.calls("rollback") == [1]
    pool.putconn(pool.getconn())
    assert server.calls("rollback") == [1]
    assert list(pool._pool) == [connection]
