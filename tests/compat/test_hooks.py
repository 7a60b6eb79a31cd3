"""Which of the overridable methods each public method goes through, and how it calls them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import INTRANS, FakeServer

HOOKS = ("_connect", "_getkey", "_getconn", "_putconn", "_closeall")
SUBSETS = [hooks for size in range(len(HOOKS) + 1) for hooks in itertools.combinations(HOOKS, size)]

Trace = list[tuple[Any, ...]]


def tracing(base: Any, hooks: tuple[str, ...], trace: Trace) -> Any:
    """Make a subclass whose hooks write down how they are called and then do what they did before."""

    def hook(name: str) -> Any:
        def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
            shown = tuple(getattr(argument, "serial", argument) for argument in args)
            trace.append((name, shown, kwargs, hasattr(self, "_args")))
            return getattr(base, name)(self, *args, **kwargs)

        return traced

    traced: Any = type("Traced", (base,), {name: hook(name) for name in hooks})
    return traced


def scenario(module: ModuleType, class_name: str, hooks: tuple[str, ...]) -> tuple[Trace, list[tuple[str, int]]]:
    """Use a pool with these hooks overridden in every way; return the calls of the hooks and on the server."""
    trace: Trace = []
    with FakeServer().installed() as server:
        pool = tracing(getattr(module, class_name), hooks, trace)(2, 4, "somewhere")
        trace.append(("constructed",))
        lent = [pool.getconn(), pool.getconn("key"), pool.getconn(key=0), pool.getconn()]
        trace.append(("lent", *(connection.serial for connection in lent)))
        first, second, third, _ = lent
        pool.getconn("key")
        first.status = INTRANS
        pool.putconn(first)
        pool.putconn(second, "key")
        trace.append(("put", pool.putconn(third, close=True)))
        refusals: list[Callable[[], Any]] = [lambda: pool.putconn(third), lambda: pool.getconn([])]
        for refused in refusals:
            with pytest.raises((PoolError, TypeError)) as raised:
                refused()
            trace.append((type(raised.value).__name__,))
        trace.append(("closed", pool.closeall()))
        with pytest.raises(PoolError):
            pool.getconn()
        with pytest.raises(PoolError):
            pool.closeall()
    return trace, list(server.log)


@pytest.mark.parametrize("hooks", SUBSETS, ids=["+".join(hooks) or "none" for hooks in SUBSETS])
def test_every_set_of_overridden_hooks_is_called_as_psycopg2_calls_it(
    our_module: ModuleType, class_name: str, hooks: tuple[str, ...]
) -> None:
    assert scenario(our_module, class_name, hooks) == scenario(psycopg2.pool, class_name, hooks)


def test_threaded_calls_its_hooks_by_position_and_drops_what_putconn_and_closeall_return(
    pool_module: ModuleType, server: FakeServer
) -> None:
    calls: Trace = []

    class Hooked(pool_module.ThreadedConnectionPool):  # type: ignore[misc, name-defined]
        def _getconn(self, *args: Any) -> Any:
            calls.append(("_getconn", args))
            return "got"

        def _putconn(self, *args: Any) -> Any:
            calls.append(("_putconn", args))
            return "put"

        def _closeall(self, *args: Any) -> Any:
            calls.append(("_closeall", args))
            return "closed"

    pool = Hooked(0, 1)
    assert (pool.getconn("k"), pool.putconn("c", "k", close=1), pool.closeall()) == ("got", None, None)
    assert pool.getconn() == "got"
    assert calls == [
        ("_getconn", ("k",)),
        ("_putconn", ("c", "k", 1)),
        ("_closeall", ()),
        ("_getconn", (None,)),
    ]


def test_what_connect_returns_is_returned_as_it_is_and_the_bookkeeping_is_the_hooks(
    pool_class: Any, server: FakeServer
) -> None:
    class Hooked(pool_class):  # type: ignore[misc]
        result: Any = None

        def _connect(self, key: Any = None) -> Any:
            return self.result

    pool = Hooked(2, 2)
    assert (list(pool._pool), pool.getconn(), dict(pool._used)) == ([], None, {})
    pool.result = "a string"
    assert (pool.getconn("k"), dict(pool._used), dict(pool._rused)) == ("a string", {}, {})
    for _ in range(5):
        assert pool.getconn() == "a string"
    with pytest.raises(PoolError, match=r"(?m)^trying to put unkeyed connection$"):
        pool.putconn("a string")


def test_a_key_made_by_an_overridden_getkey_is_used(pool_class: Any, server: FakeServer) -> None:
    class Hooked(pool_class):  # type: ignore[misc]
        def _getkey(self) -> Any:
            return "mine"

    pool = Hooked(0, 2)
    connection = pool.getconn()
    assert pool.getconn() is connection
    assert pool._used == {"mine": connection}
    pool.putconn(connection, "mine")


def test_an_overridden_public_method_is_used_by_nothing_else(pool_class: Any, server: FakeServer) -> None:
    class Loud(pool_class):  # type: ignore[misc]
        def getconn(self, key: Any = None) -> Any:
            return ("wrapped", super().getconn(key))

    pool = Loud(0, 1)
    word, connection = pool.getconn()
    assert word == "wrapped"
    assert pool._used == {1: connection}
    pool.putconn(connection)


def test_the_hooks_can_be_called_directly(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 3)
    connection = pool._getconn("k")
    pool._connect("other")
    pool._connect()
    assert [c.serial for c in pool._pool] == [3]
    assert {key: c.serial for key, c in pool._used.items()} == {"k": 1, "other": 2}
    pool._putconn(connection, "k", True)
    pool._closeall()
    assert server.calls("close") == [1, 3, 2]
