"""Subclasses that override the hooks and edit the views themselves, through `_pool`, `_used`, `_rused` and `_lock`.

Whatever is asserted here of both modules is how psycopg2.pool behaves; pgpool_rs must bear the same code.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import IDLE, INTRANS, UNKNOWN, FakeServer


def test_a_connect_that_calls_super_may_change_the_arguments_first(pool_class: Any, server: FakeServer) -> None:
    """approzium, the Aurora DSQL connector: a fresh token for every connection."""

    class TokenPool(pool_class):  # type: ignore[misc]
        def __init__(self, minconn: int, maxconn: int, *args: Any, **kwargs: Any) -> None:
            self.tokens = iter(range(100))
            super().__init__(minconn, maxconn, *args, **kwargs)

        def _connect(self, key: Any = None) -> Any:
            self._kwargs["password"] = f"token {next(self.tokens)}"
            return super()._connect(key)

    pool = TokenPool(1, 2, host="h")
    pool.getconn()
    pool.getconn()
    assert server.arguments == [((), {"host": "h", "password": f"token {number}"}) for number in (0, 1)]


def test_a_connect_that_reimplements_the_views_with_its_own_factory(pool_class: Any, server: FakeServer) -> None:
    class FactoryPool(pool_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            connection = server.connect("factory", *self._args, **self._kwargs)
            if key is not None:
                self._used[key] = connection
                self._rused[id(connection)] = key
            else:
                self._pool.append(connection)
            return connection

    pool = FactoryPool(2, 3, "somewhere")
    lent = [pool.getconn(key) for key in (None, "a", 0)]
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    assert [arguments for arguments, _ in server.arguments] == [("factory", "somewhere")] * 3
    pool.putconn(lent[0], close=True)
    for connection in lent[1:]:
        pool.putconn(connection)
    assert list(pool._pool) == lent[1:]
    assert server.open == 2
    assert pool.getconn() is lent[2]


def test_a_putconn_hook_that_reimplements_the_views(pool_module: ModuleType, server: FakeServer) -> None:
    """A pool that keeps up to maxconn idle connections instead of minconn."""

    class KeepingPool(pool_module.ThreadedConnectionPool):  # type: ignore[misc, name-defined]
        def _putconn(self, conn: Any, key: Any = None, close: bool = False) -> None:
            if self.closed:
                raise PoolError("connection pool is closed")
            if key is None:
                key = self._rused.get(id(conn))
                if key is None:
                    raise PoolError("trying to put unkeyed connection")
            if len(self._pool) < self.maxconn and not close:
                if not conn.closed:
                    status = conn.info.transaction_status
                    if status == UNKNOWN:
                        conn.close()
                    elif status != IDLE:
                        conn.rollback()
                        self._pool.append(conn)
                    else:
                        self._pool.append(conn)
            else:
                conn.close()
            if not self.closed or key in self._used:
                del self._used[key]
                del self._rused[id(conn)]

    pool = KeepingPool(0, 3)
    lent = [pool.getconn() for _ in range(3)]
    for connection in lent:
        connection.status = INTRANS
        pool.putconn(connection)
    assert list(pool._pool) == lent
    assert (dict(pool._used), dict(pool._rused)) == ({}, {})
    assert pool.getconn() is lent[2]
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(lent[0])
    pool.putconn(lent[2], close=True)
    assert [pool.getconn() for _ in range(2)] == [lent[1], lent[0]]
    assert pool.getconn().serial == 4
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()


def test_a_getconn_that_reimplements_everything_under_the_lock(pool_module: ModuleType, server: FakeServer) -> None:
    """A pool that checks what it lends, written against psycopg2.pool's attributes."""

    class CheckingPool(pool_module.ThreadedConnectionPool):  # type: ignore[misc, name-defined]
        def getconn(self, key: Any = None) -> Any:
            with self._lock:
                if self.closed:
                    raise PoolError("connection pool is closed")
                if key is None:
                    key = self._getkey()
                if key in self._used:
                    return self._used[key]
                while self._pool:
                    conn = self._pool.pop()
                    if conn.closed:
                        continue
                    self._used[key] = conn
                    self._rused[id(conn)] = key
                    return conn
                if len(self._used) == self.maxconn:
                    raise PoolError("connection pool exhausted")
                return self._connect(key)

    pool = CheckingPool(3, 3)
    pool._pool[-1].set_closed(2)
    lent = [pool.getconn() for _ in range(2)] + [pool.getconn("key")]
    assert [connection.serial for connection in lent] == [2, 1, 4]
    assert pool.getconn("key") is lent[2]
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    for connection in lent:
        pool.putconn(connection)
    assert (len(pool._pool), dict(pool._used), dict(pool._rused)) == (3, {}, {})


def test_a_reaper_that_empties_the_idle_list_under_the_lock(pool_module: ModuleType, server: FakeServer) -> None:
    pool = pool_module.ThreadedConnectionPool(3, 4)
    lent = pool.getconn()
    with pool._lock:
        for connection in pool._pool:
            connection.close()
        pool._pool[:] = []
    assert list(pool._pool) == []
    assert server.open == 1
    pool.putconn(lent)
    assert pool.getconn() is lent
    assert [pool.getconn().serial for _ in range(3)] == [4, 5, 6]
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()


def test_the_idle_list_is_a_list_in_all_that_is_done_to_it(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(3, 6)
    a, b, c = server.connections
    idle = pool._pool
    assert (len(idle), bool(idle), idle[0], idle[-1], idle[1:]) == (3, True, a, c, [b, c])
    assert a in idle
    assert idle == [a, b, c]
    assert list(reversed(idle)) == [c, b, a]
    assert (idle.index(b), idle.count(b)) == (1, 1)
    assert idle.pop() is c
    assert idle.pop(0) is a
    idle.insert(0, c)
    idle.append(a)
    assert pool._pool == [c, b, a]
    del idle[0]
    idle.remove(b)
    idle.extend([b, c])
    assert pool._pool == [a, b, c]
    idle += [server.connect()]
    idle[0], idle[2] = idle[2], idle[0]
    assert [connection.serial for connection in pool._pool] == [3, 2, 1, 4]
    idle.sort(key=lambda connection: connection.serial)
    idle.reverse()
    assert [connection.serial for connection in pool._pool] == [4, 3, 2, 1]
    assert [connection.serial for connection in idle.copy()] == [4, 3, 2, 1]
    assert pool.getconn() is a
    idle.clear()
    assert not pool._pool
    assert pool.getconn().serial == 5


def test_the_idle_list_can_be_replaced(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 2)
    a, b = server.connections
    pool._pool = [b, a]
    assert (pool.getconn(), pool.getconn()) == (a, b)
    pool._pool = []
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()


def test_the_views_of_loans_are_dicts_in_all_that_is_done_to_them(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(0, 5)
    a, b = pool.getconn("a"), pool.getconn("b")
    used, rused = pool._used, pool._rused
    assert (len(used), bool(used), used["a"], used.get("x"), used.get("x", 1)) == (2, True, a, None, 1)
    assert ("a" in used, "x" in used) == (True, False)
    assert (list(used), list(used.keys()), list(used.values())) == (["a", "b"], ["a", "b"], [a, b])
    assert list(used.items()) == [("a", a), ("b", b)]
    assert used == {"a": a, "b": b}
    assert used.copy() == {"a": a, "b": b}
    assert used | {"c": 1} == {"a": a, "b": b, "c": 1}
    assert {**used} == {"a": a, "b": b}
    assert rused == {id(a): "a", id(b): "b"}
    assert (id(a) in rused, id(server) in rused, rused.get(id(server))) == (True, False, None)
    for missing in (used, rused):
        with pytest.raises(KeyError):
            missing["x"]
        with pytest.raises(KeyError):
            del missing["x"]
        with pytest.raises(KeyError):
            missing.pop("x")
        assert missing.pop("x", None) is None
    with pytest.raises(TypeError, match="unhashable"):
        used[[]]
    assert used.pop("a") is a
    assert rused.pop(id(a)) == "a"
    used["c"] = a
    rused[id(a)] = "c"
    assert pool.getconn("c") is a
    pool.putconn(a)
    pool.putconn(b, "b")
    assert (dict(used), dict(rused)) == ({}, {})
    used.update(d=server.connect())
    rused.update({id(used["d"]): "d"})
    assert used.setdefault("d") is used["d"]
    assert used.popitem()[0] == "d"
    assert rused.popitem()[1] == "d"
    assert not pool._used


def test_loans_can_be_returned_while_walking_over_a_copy_of_the_views(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(4, 4)
    for key in (None, "a", 0, None):
        pool.getconn(key)
    for key, connection in list(pool._used.items()):
        pool.putconn(connection, key)
    assert len(pool._pool) == 4
    assert not pool._used


def test_a_loan_struck_from_the_views_is_forgotten_and_makes_room(pool_class: Any, server: FakeServer) -> None:
    """A wrapper that detaches a connection for good."""
    pool = pool_class(0, 1)
    connection = pool.getconn()
    key = pool._rused.pop(id(connection))
    assert pool._used.pop(key) is connection
    assert pool.getconn().serial == 2
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(connection)
