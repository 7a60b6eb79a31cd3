"""Getting a connection: the order of the checks, keys, and which connection comes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import psycopg2
import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import INTRANS, FakeServer

FALSY_KEYS: list[Hashable] = [0, "", False, 0.0, (), b"", frozenset[int]()]


def test_a_closed_pool_refuses_also_a_key_that_is_lent(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 2)
    pool.getconn("a")
    pool.closeall()
    keys: list[Any] = [None, "a", "b", []]
    for key in keys:
        with pytest.raises(PoolError, match=r"(?m)^connection pool is closed$"):
            pool.getconn(key)
    assert pool._keys == 0


def test_the_connection_returned_last_is_lent_first(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(3, 3)
    a, b, c = (pool.getconn() for _ in range(3))
    assert [connection.serial for connection in (a, b, c)] == [3, 2, 1]
    pool.putconn(b)
    pool.putconn(c)
    pool.putconn(a)
    assert [pool.getconn() for _ in range(3)] == [a, c, b]


def test_automatic_keys_count_from_one_and_look_like_numbers(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 3)
    a, b = pool.getconn(), pool.getconn()
    assert pool._used == {1: a, 2: b}
    assert pool._rused == {id(a): 1, id(b): 2}
    assert pool._keys == 2
    assert pool._getkey() == 3
    assert isinstance(pool._getkey(), int)
    assert pool._keys == 4


def test_an_automatic_key_is_spent_also_when_the_pool_is_exhausted(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    pool.getconn()
    with pytest.raises(PoolError, match=r"(?m)^connection pool exhausted$"):
        pool.getconn()
    assert pool._keys == 2


def test_an_automatic_key_is_spent_also_when_connecting_fails(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    server.fail("connect", psycopg2.OperationalError("down"))
    with pytest.raises(psycopg2.OperationalError, match="down"):
        pool.getconn()
    assert (pool._keys, dict(pool._used)) == (1, {})
    connection = pool.getconn()
    assert pool._used == {2: connection}


def test_the_counter_of_automatic_keys_can_be_set(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    pool._keys = 41
    connection = pool.getconn()
    assert pool._used == {42: connection}


def test_a_key_that_is_lent_gives_the_same_connection_with_no_question_asked(
    pool_class: Any, server: FakeServer
) -> None:
    pool = pool_class(0, 1)
    connection = pool.getconn("a")
    connection.set_closed(2)
    connection.status = INTRANS
    assert pool.getconn("a") is connection
    assert pool.getconn(key="a") is connection
    assert server.calls("connect") == [1]
    pool.putconn(connection)
    assert dict(pool._used) == {}


@pytest.mark.parametrize("key", FALSY_KEYS, ids=repr)
def test_a_falsy_key_is_a_key(pool_class: Any, server: FakeServer, key: Hashable) -> None:
    pool = pool_class(0, 2)
    connection = pool.getconn(key)
    assert pool.getconn(key) is connection
    assert pool._used == {key: connection}
    assert pool._rused == {id(connection): key}
    assert pool._keys == 0
    pool.putconn(connection, key)
    assert dict(pool._used) == {}


@pytest.mark.parametrize(("first", "second"), [(0, False), (0, 0.0), (-1, -1.0), ("a" * 2, "aa"), ((1,), (True,))])
def test_keys_that_are_equal_are_the_same_key(
    pool_class: Any, server: FakeServer, first: Hashable, second: Hashable
) -> None:
    pool = pool_class(0, 2)
    connection = pool.getconn(first)
    assert pool.getconn(second) is connection
    assert [type(key) for key in pool._used] == [type(first)]
    pool.putconn(connection, second)
    assert dict(pool._used) == {}


def test_keys_with_the_same_hash_that_are_not_equal_are_different_keys(pool_class: Any, server: FakeServer) -> None:
    assert hash(-1) == hash(-2)
    pool = pool_class(0, 2)
    a, b = pool.getconn(-1), pool.getconn(-2)
    assert a is not b
    assert (pool.getconn(-1), pool.getconn(-2)) == (a, b)


def test_a_key_that_is_not_equal_to_itself_is_still_found_by_identity(pool_class: Any, server: FakeServer) -> None:
    nan = float("nan")
    pool = pool_class(0, 2)
    connection = pool.getconn(nan)
    assert pool.getconn(nan) is connection
    assert pool.getconn(float("nan")) is not connection


def test_an_unhashable_key_is_a_type_error_and_takes_nothing(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        pool.getconn([])
    assert (len(pool._pool), dict(pool._used), pool._keys) == (1, {}, 0)


@pytest.mark.parametrize("where", ["__hash__", "__eq__"])
def test_an_error_in_a_keys_hash_or_comparison_is_raised_as_it_is(
    pool_class: Any, server: FakeServer, where: str
) -> None:
    class Broken(Exception):
        pass

    class Key:
        armed = False

        def __hash__(self) -> int:
            if self.armed and where == "__hash__":
                raise Broken
            return 7

        def __eq__(self, other: object) -> bool:
            if Key.armed:
                raise Broken
            return False

    pool = pool_class(0, 3)
    held = pool.getconn(Key())
    Key.armed = True
    with pytest.raises(Broken):
        pool.getconn(Key())
    Key.armed = False
    assert list(pool._used.values()) == [held]
    pool.putconn(held)


def test_an_idle_connection_is_lent_unseen(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    (connection,) = server.connections
    connection.set_closed(2)
    connection.status = INTRANS
    assert pool.getconn() is connection
    assert server.log == [("connect", 1)]


def test_nothing_is_opened_while_a_connection_is_idle(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 5)
    for _ in range(10):
        pool.putconn(pool.getconn())
    assert server.calls("connect") == [1]


def test_the_pool_grows_to_maxconn_and_then_refuses(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 3)
    lent = [pool.getconn() for _ in range(3)]
    with pytest.raises(PoolError) as raised:
        pool.getconn()
    assert str(raised.value) == "connection pool exhausted"
    assert (raised.value.pgcode, raised.value.pgerror, raised.value.cursor) == (None, None, None)
    assert isinstance(raised.value, psycopg2.Error)
    assert sorted(connection.serial for connection in lent) == [1, 2, 3]
    assert server.open == server.peak == 3


@pytest.mark.parametrize("error", [psycopg2.OperationalError("down"), KeyboardInterrupt("stop")])
def test_a_failing_connect_is_raised_as_it_is_and_takes_no_slot(
    pool_class: Any, server: FakeServer, error: BaseException
) -> None:
    pool = pool_class(0, 1)
    server.fail("connect", error)
    with pytest.raises(type(error)) as raised:
        pool.getconn("a")
    assert raised.value is error
    assert (dict(pool._used), dict(pool._rused)) == ({}, {})
    assert pool.getconn("a").serial == 2


def test_no_argument_besides_the_key_is_taken_by_position(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 1)
    with pytest.raises(TypeError):
        pool.getconn("a", 5)
    with pytest.raises(TypeError):
        pool.getconn(keys="a")
    assert server.log == []


def test_a_call_from_c_without_a_vector_of_arguments_is_answered(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 2)
    lent: list[Any] = []
    with pytest.raises(PoolError, match="exhausted"):
        lent.extend(iter(pool.getconn, None))
    assert len(pool._used) == 2
