"""What psycopg2.pool gets wrong and pgpool_rs does not: limits and sizes. See test_differences.py."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from pgpool_rs import PoolExhausted
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts

DOWN = psycopg2.OperationalError("server closed the connection unexpectedly")


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
        with pytest.raises(PoolError, match=r"(?m)^connection pool exhausted$"):
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


@pytest.mark.parametrize("error", [DOWN, KeyboardInterrupt("stop")], ids=repr)
def test_an_idle_connection_that_fails_to_close_does_not_keep_maxconn_from_being_lowered(
    our_class: Any, server: FakeServer, error: BaseException
) -> None:
    pool = our_class(4, 4)
    server.fail("close", error)
    with nullcontext() if error is DOWN else pytest.raises(KeyboardInterrupt):
        pool.maxconn = 1
    assert (pool.maxconn, len(pool._pool), counts(pool)["idle"], server.open) == (1, 1, 1, 1)
    assert_whole(pool)


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


# --- A slot that is being opened for another ------------------------------------------------------------------------


def test_psycopg2s_pool_has_a_caller_wait_for_anothers_connect_and_then_try_itself(server: FakeServer) -> None:
    pool: Any = psycopg2.pool.ThreadedConnectionPool(0, 1)
    server.fail("connect", DOWN)
    with server.hold("connect") as gate:
        first = Task(pool.getconn)
        gate.wait_for()
        second = Task(pool.getconn)
        assert not second.done
    with pytest.raises(psycopg2.OperationalError):
        first.result()
    assert second.result().serial == 2


def test_a_caller_without_a_timeout_is_refused_while_the_only_slot_is_opened_for_another(
    our_class: Any, server: FakeServer
) -> None:
    pool = our_class(0, 1)
    server.fail("connect", DOWN)
    with server.hold("connect") as gate:
        first = Task(pool.getconn)
        gate.wait_for()
        with pytest.raises(PoolExhausted):
            pool.getconn()
        assert not first.done
    with pytest.raises(psycopg2.OperationalError):
        first.result()
    assert_whole(pool)
