"""What psycopg2.pool gets wrong and pgpool_rs does not: keys. See test_differences.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_whole

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
    with pytest.raises(PoolError, match=r"(?m)^trying to put unkeyed connection$"):
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
