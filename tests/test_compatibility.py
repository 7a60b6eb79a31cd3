"""What other people's code does to a pool: subclasses that keep the books themselves, in every shape that was found.

Whatever is asserted here of both modules is how psycopg2.pool behaves; pgpool_rs must bear the same code.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

import pgpool_rs
from fakes import IDLE, INTRANS, UNKNOWN, FakeServer

# --- Subclasses that override the hooks and keep the books --------------------------------------------------------


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


def test_a_connect_that_reimplements_the_books_with_its_own_factory(pool_class: Any, server: FakeServer) -> None:
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
    for connection in lent:
        pool.putconn(connection)
    assert len(pool._pool) == 2
    assert server.open == 2


def test_a_putconn_hook_that_reimplements_the_books(pool_module: ModuleType, server: FakeServer) -> None:
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


def test_the_books_of_loans_are_dicts_in_all_that_is_done_to_them(pool_class: Any, server: FakeServer) -> None:
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


def test_loans_can_be_returned_while_walking_over_a_copy_of_the_books(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(4, 4)
    for key in (None, "a", 0, None):
        pool.getconn(key)
    for key, connection in list(pool._used.items()):
        pool.putconn(connection, key)
    assert len(pool._pool) == 4
    assert not pool._used


def test_a_loan_struck_from_the_books_is_forgotten_and_makes_room(pool_class: Any, server: FakeServer) -> None:
    """A wrapper that detaches a connection for good."""
    pool = pool_class(0, 1)
    connection = pool.getconn()
    key = pool._rused.pop(id(connection))
    assert pool._used.pop(key) is connection
    assert pool.getconn().serial == 2
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(connection)


def test_the_counts_that_monitors_read(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(2, 4)
    pool.getconn()
    pool.getconn("key")
    pool.getconn(1.5)
    assert (len(pool._used), len(pool._rused), len(pool._pool)) == (3, 3, 0)
    assert pool.maxconn - len(pool._used) == 1
    pool.putconn(pool._used["key"])
    assert (len(pool._used), len(pool._pool)) == (2, 1)


# --- Constructors of every shape ----------------------------------------------------------------------------------


def test_a_constructor_with_another_signature(pool_class: Any, server: FakeServer) -> None:
    """psycopg2-utils: IdleConnectionPool(idle_time, minconn, maxconn, ...)."""

    class IdlePool(pool_class):  # type: ignore[misc]
        def __init__(self, idle_time: float = 2, *args: Any, **kwargs: Any) -> None:
            self.idle_time = idle_time
            super().__init__(*args, **kwargs)

    pool = IdlePool(7, 1, 2, "somewhere")
    assert (pool.idle_time, pool.minconn, pool.maxconn, pool._args) == (7, 1, 2, ("somewhere",))


def test_a_constructor_with_keywords_of_its_own(pool_class: Any, server: FakeServer) -> None:
    class LoggedPool(pool_class):  # type: ignore[misc]
        def __init__(self, *, min_pool: int, max_pool: int, logger: Any, **kwargs: Any) -> None:
            self.logger = logger
            super().__init__(min_pool, max_pool, **kwargs)

    pool = LoggedPool(min_pool=1, max_pool=3, logger=print, host="h")
    assert (pool.minconn, pool.maxconn, pool._kwargs) == (1, 3, {"host": "h"})


@pytest.mark.parametrize("arguments", [(), ("a connection",), (1, 2, 3, 4)])
def test_a_constructor_without_sizes(pool_class: Any, server: FakeServer, arguments: tuple[Any, ...]) -> None:
    class FixedPool(pool_class):  # type: ignore[misc]
        def __init__(self, *anything: Any) -> None:
            self.anything = anything
            super().__init__(1, 1)

    pool = FixedPool(*arguments)
    assert pool.anything == arguments
    pool.putconn(pool.getconn())


def test_attributes_may_be_set_and_read_before_the_constructor_ran(pool_class: Any, server: FakeServer) -> None:
    class EarlyPool(pool_class):  # type: ignore[misc]
        def __init__(self) -> None:
            self.observers = ["one"]
            self._lock = threading.RLock()
            self.observers.append("two")
            super().__init__(0, 1)

    pool = EarlyPool()
    assert pool.observers == ["one", "two"]
    pool.putconn(pool.getconn())


def test_the_constructor_may_be_called_unbound(pool_module: ModuleType, class_name: str, server: FakeServer) -> None:
    base = getattr(pool_module, class_name)

    class Odd(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self, 1, 2, "somewhere")

    pool = Odd()
    connection = pool.getconn()
    pool.putconn(connection)
    assert (pool.minconn, pool.maxconn, list(pool._pool)) == (1, 2, [connection])


def test_psycopg2s_own_constructor_may_be_called_unbound_on_our_pool(our_class: Any, server: FakeServer) -> None:
    """Only the import was changed; this line of the program still names psycopg2.pool."""
    base = getattr(psycopg2.pool, our_class.__name__)

    class Odd(our_class):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self, 1, 2, "somewhere")

    pool = Odd()
    assert (pool.minconn, pool.maxconn, len(pool._pool)) == (1, 2, 1)
    lent = [pool.getconn(), pool.getconn("key")]
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    for connection in lent:
        pool.putconn(connection)
    assert len(pool._pool) == 1
    pool.closeall()
    assert server.open == 0


def test_a_diamond_of_bases(pool_module: ModuleType, class_name: str, server: FakeServer) -> None:
    """approzium: a mixin over the abstract class, then a class of its own over both."""

    class Mixin(pool_module.AbstractConnectionPool):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.mixed = True
            super().__init__(*args, **kwargs)

        def _connect(self, key: Any = None) -> Any:
            self._kwargs["mixed"] = self.mixed
            return super()._connect(key)

    class Diamond(Mixin, getattr(pool_module, class_name)):  # type: ignore[misc]
        pass

    pool = Diamond(1, 2)
    connection = pool.getconn()
    pool.getconn()
    assert server.arguments == [((), {"mixed": True})] * 2
    pool.putconn(connection)
    pool.closeall()
    assert server.open == 0


def test_a_diamond_with_psycopg2s_own_class(our_class: Any, server: FakeServer) -> None:
    class Mixin(psycopg2.pool.AbstractConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            return super()._connect(key)  # type: ignore[misc]

    class Diamond(Mixin, our_class):  # type: ignore[misc]
        pass

    pool = Diamond(1, 2)
    lent = [pool.getconn(), pool.getconn("key")]
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    for connection in lent:
        pool.putconn(connection)
    assert len(pool._pool) == 1


def test_a_subclass_of_the_abstract_class_with_public_methods_and_a_lock_of_its_own(
    pool_module: ModuleType, server: FakeServer
) -> None:
    class OwnPool(pool_module.AbstractConnectionPool):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._lock = threading.RLock()

        def getconn(self, key: Any = None) -> Any:
            with self._lock:
                return self._getconn(key)

        def putconn(self, conn: Any, key: Any = None, close: bool = False) -> None:
            with self._lock:
                self._putconn(conn, key, close)

        def closeall(self) -> None:
            with self._lock:
                self._closeall()

    pool = OwnPool(1, 2)
    connection, other = pool.getconn(), pool.getconn("key")
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    pool.putconn(connection)
    pool.putconn(other, close=True)
    assert list(pool._pool) == [connection]
    pool.closeall()
    assert server.open == 0


def test_a_subclass_with_slots_and_a_property_for_an_attribute(pool_class: Any, server: FakeServer) -> None:
    class Described(pool_class):  # type: ignore[misc]
        __slots__ = ("label",)

        @property
        def free(self) -> int:
            return int(self.maxconn - len(self._used))

    pool = Described(0, 2)
    pool.label = "mine"
    pool.getconn()
    assert (pool.label, pool.free) == ("mine", 1)


def test_a_singleton_made_in_new(pool_class: Any, server: FakeServer) -> None:
    class Singleton(pool_class):  # type: ignore[misc]
        instance: Any = None

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls.instance is None:
                cls.instance = super().__new__(cls)
            return cls.instance

    assert Singleton(0, 1) is Singleton(0, 1)


def test_a_pool_whose_constructor_never_ran_fails_and_does_not_crash(our_class: Any) -> None:
    pool = our_class.__new__(our_class)
    for call in (pool.getconn, lambda: pool.putconn(object()), pool.closeall, lambda: len(pool._pool)):
        with suppress(AttributeError, PoolError):
            call()
    assert "password" not in repr(pool)


# --- Sizes, arguments, and the rest -------------------------------------------------------------------------------


def test_a_pool_built_with_nothing_is_filled_lazily_once_minconn_is_raised(pool_class: Any, server: FakeServer) -> None:
    """dramatiq-pg: minconn is 0 in the constructor, so that nothing is opened before a fork, and raised then."""
    pool = pool_class(0, 4)
    pool.minconn = 4
    assert server.log == []
    lent = [pool.getconn() for _ in range(4)]
    for connection in lent:
        pool.putconn(connection)
    assert len(pool._pool) == 4
    assert server.calls("close") == []


def test_sizes_may_be_assigned_as_plain_numbers_and_read_back(pool_class: Any, server: FakeServer) -> None:
    pool = pool_class(1, 2)
    pool.minconn, pool.maxconn = 3, 4
    assert (pool.minconn, pool.maxconn) == (3, 4)
    pool.maxconn += 1
    assert pool.maxconn == 5


def test_psycopg2_connect_is_looked_up_when_it_is_called(
    pool_class: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_class(0, 2)
    monkeypatch.setattr(psycopg2, "connect", lambda *args, **kwargs: "patched")
    assert pool.getconn() == "patched"


def test_option_names_never_meet_a_keyword_of_libpq_or_of_connect() -> None:
    """A name that libpq learns to take would otherwise be swallowed by the pool without a word."""
    methods = (
        pgpool_rs.SimpleConnectionPool.__init__,
        pgpool_rs.ThreadedConnectionPool.__init__,
    )
    names = {
        parameter.name
        for method in methods
        for parameter in inspect.signature(method).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert "timeout" in names
    taken = set(inspect.signature(psycopg2.connect).parameters) | {"async", "async_"}
    assert not names & taken
    for name in names:
        with pytest.raises(psycopg2.ProgrammingError, match=f'invalid connection option "{name}"'):
            psycopg2.extensions.parse_dsn(f"{name}=1")


def test_an_unknown_keyword_is_still_refused_by_libpq(pool_class: Any) -> None:
    with pytest.raises(psycopg2.ProgrammingError, match='invalid dsn: invalid connection option "idle_timeout"'):
        pool_class(1, 1, idle_timeout=5)


@pytest.mark.parametrize("text", ["closed", "exhausted", "unkeyed"])
def test_the_words_that_programs_look_for_in_an_error(pool_class: Any, server: FakeServer, text: str) -> None:
    pool = pool_class(0, 0)
    with pytest.raises(PoolError) as raised:
        if text == "exhausted":
            pool.getconn()
        elif text == "unkeyed":
            pool.putconn(object())
        else:
            pool.closeall()
            pool.getconn()
    assert text in str(raised.value)


def test_a_programs_own_pool_error_passes_through(pool_class: Any, server: FakeServer) -> None:
    class OwnError(PoolError):
        pass

    class Strict(pool_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            raise OwnError("no more")

    with pytest.raises(OwnError, match=r"^no more$"):
        Strict(0, 1).getconn()


def test_closeall_from_a_del_and_twice_with_the_error_ignored(pool_class: Any, server: FakeServer) -> None:
    class Tidy(pool_class):  # type: ignore[misc]
        def __del__(self) -> None:
            with suppress(PoolError):
                self.closeall()

    pool = Tidy(2, 2)
    pool.closeall()
    del pool
    assert server.calls("close") == [1, 2]
    other = Tidy(1, 1)
    del other
    assert server.open == 0


def test_a_context_manager_over_getconn_and_putconn(pool_class: Any, server: FakeServer) -> None:
    class Managed(pool_class):  # type: ignore[misc]
        @contextmanager
        def borrowed(self) -> Iterator[Any]:
            connection = self.getconn()
            try:
                yield connection
            finally:
                self.putconn(connection)

    pool = Managed(1, 1)
    with pool.borrowed() as first, pytest.raises(PoolError, match="exhausted"), pool.borrowed():
        pass
    assert list(pool._pool) == [first]
