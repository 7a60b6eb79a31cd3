"""Test doubles, proxies and patches: mocks of the pool, things that are no psycopg2 connections, shadowed methods."""

from __future__ import annotations

from types import ModuleType
from typing import Any
from unittest import mock

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import IDLE, INTRANS, FakeServer
from tests.lib.doubles import Proxy

# --- Connections that are none ------------------------------------------------------------------------------------


def mocked(monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
    monkeypatch.setattr(psycopg2, "connect", made)


def test_a_magic_mock_in_place_of_psycopg2_connect(pool_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MagicMock is `closed`: its attribute is a mock, which is true."""
    connect = mock.MagicMock()
    mocked(monkeypatch, connect)
    pool = pool_class(1, 2, host="h")
    connect.assert_called_once_with(host="h")
    connection = pool.getconn()
    assert connection is connect.return_value
    pool.putconn(connection)
    assert list(pool._pool) == []
    connection.rollback.assert_not_called()
    connection.close.assert_not_called()


@pytest.mark.parametrize(("status", "rolled_back"), [(0, False), (2, True), (mock.MagicMock(), True)])
@pytest.mark.parametrize("answers", [False, True])
def test_a_magic_mock_that_says_it_is_open(
    pool_class: Any, monkeypatch: pytest.MonkeyPatch, status: Any, rolled_back: bool, answers: bool
) -> None:
    connect = mock.MagicMock(side_effect=lambda *_, **__: mock.MagicMock(closed=0))
    mocked(monkeypatch, connect)
    pool = pool_class(1, 2)
    connection = pool.getconn()
    connection.info.transaction_status = status
    if answers:
        connection.get_transaction_status.return_value = status
    if status == 2:
        connection.rollback.side_effect = lambda: setattr(connection.info, "transaction_status", 0)
    pool.putconn(connection)
    assert list(pool._pool) == [connection]
    assert connection.rollback.called is rolled_back
    connection.close.assert_not_called()
    pool.closeall()
    connection.close.assert_called_once_with()


def test_a_mock_with_psycopg2s_connection_as_its_spec(pool_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = mock.create_autospec(psycopg2.extensions.connection, instance=True)
    connection.closed = 0
    mocked(monkeypatch, lambda: connection)
    pool = pool_class(1, 1)
    assert pool.getconn() is connection
    pool.putconn(connection)
    connection.rollback.assert_called_once_with()


def test_plain_strings_as_connections(pool_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They can be lent, and they fail on return as psycopg2.pool lets them fail."""
    names = iter(["one", "two", "three"])
    mocked(monkeypatch, lambda: next(names))
    pool = pool_class(1, 2)
    assert (pool.getconn("a"), pool.getconn("b")) == ("one", "two")
    assert pool._used == {"a": "one", "b": "two"}
    with pytest.raises(AttributeError, match="'str' object has no attribute 'closed'"):
        pool.putconn("one")


def test_a_string_that_cannot_be_closed_stops_no_closeall(pool_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mocked(monkeypatch, lambda: "one")
    pool = pool_class(1, 2)
    pool.closeall()
    assert pool.closed is True


class Minimal:
    """Has what psycopg2.pool uses, and neither a hash, an equality, a truth value nor weak references."""

    __slots__ = ("_closed", "calls", "info")
    __hash__ = None  # type: ignore[assignment]

    class Info:
        transaction_status = INTRANS

    def __init__(self) -> None:
        self.info = self.Info()
        self._closed = 0
        self.calls: list[str] = []

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")

    @property
    def closed(self) -> int:
        return self._closed

    def rollback(self) -> None:
        self.calls.append("rollback")
        self.info.transaction_status = IDLE

    def close(self) -> None:
        self.calls.append("close")
        self._closed = 1


def test_a_connection_needs_no_hash_no_equality_and_no_weak_reference(
    pool_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mocked(monkeypatch, Minimal)
    pool = pool_class(1, 2)
    first, second = pool.getconn(), pool.getconn("key")
    assert pool._used["key"] is second
    pool.putconn(first)
    pool.putconn(second, "key")
    assert (first.calls, second.calls) == (["rollback"], ["close"])
    assert pool._pool[0] is first
    assert pool.getconn() is first
    pool.closeall()
    assert first.calls == ["rollback", "close"]


@pytest.mark.parametrize("status", range(5))
@pytest.mark.parametrize("closed", [0, 2])
def test_a_wrapped_connection_is_met_like_the_connection_in_it(
    pool_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch, status: int, closed: int
) -> None:
    mocked(monkeypatch, lambda *args: Proxy(server.connect(*args)))
    pool = pool_class(1, 1)
    proxy = pool.getconn()
    assert type(proxy) is Proxy
    proxy.status = status
    proxy.set_closed(closed)
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(proxy.__wrapped__)
    pool.putconn(proxy)
    kept = not closed and status != 4
    assert [id(connection) for connection in pool._pool] == ([id(proxy)] if kept else [])
    assert server.calls("rollback") == ([1] if kept and status else [])


class ReturningProxy(Proxy):
    """Gives itself back when it is closed."""

    def close(self) -> None:
        pool = self.__dict__.pop("pool", None)
        if pool is not None:
            pool.putconn(self)
        else:
            self.__wrapped__.close()


def test_a_proxy_whose_close_puts_it_back(our_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mocked(monkeypatch, lambda *args: ReturningProxy(server.connect(*args)))
    pool = our_class(1, 1)
    for _ in range(3):
        proxy = pool.getconn()
        proxy.__dict__["pool"] = pool
        proxy.close()
    assert server.calls("connect") == [1]
    assert server.calls("close") == []
    pool.closeall()
    assert server.open == 0


# --- Mocks of the pool --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["getconn", "putconn", "closeall", "_connect"])
def test_a_method_can_be_patched_on_the_class_and_comes_back(
    pool_module: ModuleType, class_name: str, server: FakeServer, method: str
) -> None:
    pool = getattr(pool_module, class_name)(0, 1)
    with mock.patch(f"{pool_module.__name__}.{class_name}.{method}", return_value="patched") as patched:
        assert getattr(pool, method)() == "patched"
        patched.assert_called_once_with()
    pool.putconn(pool.getconn())
    pool.closeall()
    assert server.open == 0


def test_a_connect_hook_patched_on_the_class_takes_part_in_pools_that_exist(
    pool_class: Any, server: FakeServer
) -> None:
    pool = pool_class(0, 2)
    with mock.patch.object(pool_class, "_connect", return_value="patched") as patched:
        assert pool.getconn("key") == "patched"
        patched.assert_called_once_with("key")
    assert pool.getconn("key").serial == 1


def test_hooks_patched_on_the_class_take_part_in_pools_made_then(pool_module: ModuleType, server: FakeServer) -> None:
    threaded = pool_module.ThreadedConnectionPool
    for patched_class in (threaded, pool_module.AbstractConnectionPool):
        with mock.patch.object(patched_class, "_getkey", return_value="patched"):
            pool = threaded(0, 3)
            connection = pool.getconn()
            assert pool._used == {"patched": connection}
    with mock.patch.object(threaded, "_getconn", return_value="patched") as patched:
        assert threaded(0, 1).getconn() == "patched"
        patched.assert_called_once_with(None)
    with mock.patch.object(threaded, "_putconn") as patched:
        threaded(0, 1).putconn("patched")
        patched.assert_called_once_with("patched", None, False)


def test_the_class_can_be_patched_in_its_module(pool_module: ModuleType, class_name: str) -> None:
    with mock.patch(f"{pool_module.__name__}.{class_name}") as patched:
        assert getattr(pool_module, class_name)(1, 2) is patched.return_value


def test_psycopg2_connect_can_be_patched_through_the_module(pool_module: ModuleType, class_name: str) -> None:
    with mock.patch(f"{pool_module.__name__}.psycopg2.connect") as patched:
        getattr(pool_module, class_name)(1, 2, "somewhere")
        patched.assert_called_once_with("somewhere")


def test_a_mock_specified_by_the_class_has_its_methods_and_no_others(pool_class: Any) -> None:
    for double in (mock.MagicMock(spec=pool_class), mock.create_autospec(pool_class, instance=True)):
        assert isinstance(double, pool_class)
        double.getconn("key")
        double.putconn("connection", key="key", close=True)
        double.closeall()
        with pytest.raises(AttributeError):
            double.get_connection()


def test_an_autospecced_class_makes_autospecced_pools(pool_class: Any) -> None:
    double = mock.create_autospec(pool_class)
    pool = double(1, 2, host="h")
    pool.getconn.return_value = "connection"
    assert pool.getconn() == "connection"


# --- Methods shadowed by attributes of the instance ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["getconn", "putconn", "closeall"])
def test_a_public_method_can_be_shadowed(pool_class: Any, server: FakeServer, method: str) -> None:
    pool = pool_class(0, 1)
    setattr(pool, method, lambda *_: "shadow")
    assert getattr(pool, method)() == "shadow"
    delattr(pool, method)
    pool.putconn(pool.getconn())
    pool.closeall()


@pytest.mark.parametrize("hook", ["_connect", "_getkey", "_getconn", "_putconn", "_closeall"])
def test_a_shadowed_hook_takes_part_until_it_is_deleted_and_in_a_simple_pool_two_do(
    pool_class: Any, class_name: str, server: FakeServer, hook: str
) -> None:
    pool = pool_class(0, 2)
    original, results = getattr(pool, hook), []

    def shadow(*args: Any) -> Any:
        results.append(original(*args))
        return results[-1]

    setattr(pool, hook, shadow)
    for _ in range(2):
        connection = pool.getconn()
        pool.putconn(connection)
        pool.closeall()
        pool.closed = False
        if hook in vars(pool):
            takes_part = class_name == "ThreadedConnectionPool" or hook in ("_connect", "_getkey")
            used = {"_connect": connection, "_getkey": 1, "_getconn": connection}.get(hook)
            assert results == ([used] if takes_part else [])
            delattr(pool, hook)
    assert len(results) == takes_part


def test_a_mock_wraps_a_method_of_the_instance(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 1)
    with mock.patch.object(pool, "getconn", wraps=pool.getconn) as spy:
        connection = pool.getconn("key")
    spy.assert_called_once_with("key")
    pool.putconn(connection)
