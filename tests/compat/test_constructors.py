"""Constructors of every shape that was found in other people's subclasses."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import ModuleType
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.pool
import pytest
from psycopg2.pool import PoolError

from pgpool_rs.testing import FakeServer


def use(pool: Any, server: FakeServer) -> None:
    """Use a pool that keeps one connection and lends two."""
    connection, other = pool.getconn(), pool.getconn("key")
    with pytest.raises(PoolError, match="exhausted"):
        pool.getconn()
    pool.putconn(connection)
    pool.putconn(other, close=True)
    assert list(pool._pool) == [connection]
    pool.closeall()
    assert server.open == 0


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
    use(pool, server)


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

    use(Diamond(1, 2), server)
    assert server.arguments == [((), {"mixed": True})] * 2


def test_a_diamond_with_psycopg2s_own_class(our_class: Any, server: FakeServer) -> None:
    class Mixin(psycopg2.pool.AbstractConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            return super()._connect(key)  # type: ignore[misc]

    class Diamond(Mixin, our_class):  # type: ignore[misc]
        pass

    pool = Diamond(1, 2)
    use(pool, server)


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

    use(OwnPool(1, 2), server)


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
