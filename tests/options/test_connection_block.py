"""`with pool.connection()` and `with pool`: commit or roll back, and always give back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolTimeout, SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs.testing import IDLE, INTRANS, FakeServer
from tests.lib.pools import assert_whole


@contextmanager
def expected(error: type[BaseException]) -> Iterator[Any]:
    """Expect an error, with nothing said about its text."""
    with pytest.raises(error) as raised:
        yield raised


def test_a_block_that_succeeds_commits_and_gives_the_connection_back(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    with pool.connection() as connection:
        assert pool._used == {1: connection}
        connection.cursor().execute("insert")
        assert connection.transaction_status == INTRANS
    assert server.log == [("connect", 1), ("commit", 1)]
    assert connection.transaction_status == IDLE
    assert list(pool._pool) == [connection]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_block_that_raises_rolls_back_and_gives_the_connection_back(
    our_class: Any, server: FakeServer, error: type[BaseException]
) -> None:
    pool = our_class(1, 1)
    raised = error("from the block")
    with expected(error) as caught, pool.connection() as connection:
        connection.cursor().execute("insert")
        raise raised
    assert caught.value is raised
    assert server.log == [("connect", 1), ("rollback", 1)]
    assert list(pool._pool) == [connection]
    assert_whole(pool)


@pytest.mark.parametrize("closed", [1, 2])
def test_a_connection_broken_in_the_block_is_dropped_and_the_blocks_error_raised(
    our_class: Any, server: FakeServer, closed: int
) -> None:
    pool = our_class(1, 1)
    with pytest.raises(psycopg2.OperationalError, match="gone"), pool.connection() as connection:
        connection.set_closed(closed)
        raise psycopg2.OperationalError("gone")
    assert (list(pool._pool), dict(pool._used)) == ([], {})
    assert_whole(pool)


def test_a_key_can_be_given_by_position_or_by_name(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    with pool.connection("a") as connection:
        assert pool._used == {"a": connection}
    with pool.connection(key=0) as connection:
        assert pool._used == {0: connection}


def test_a_block_that_gets_no_connection_raises_before_it_runs(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 1)
    pool.closeall()
    with pytest.raises(PoolClosed), pool.connection():
        pytest.fail("the block ran")


def test_a_pool_closed_in_the_block_is_no_reason_to_hide_the_blocks_error(our_class: Any, server: FakeServer) -> None:
    pool = our_class(0, 1)
    with pytest.raises(KeyError, match="from the block"), pool.connection():
        pool.closeall()
        raise KeyError("from the block")


def test_a_manager_lends_only_when_entered(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    manager = pool.connection()
    assert len(pool._used) == 0
    with manager:
        assert len(pool._used) == 1


def test_blocks_can_be_nested(our_class: Any, server: FakeServer) -> None:
    pool = our_class(2, 2)
    with pool.connection() as outer, pool.connection() as inner:
        assert outer is not inner
    assert_whole(pool)


def test_a_subclass_whose_getconn_and_putconn_know_no_timeout_takes_part(our_class: Any, server: FakeServer) -> None:
    calls: list[Any] = []

    class Mine(our_class):  # type: ignore[misc]
        def getconn(self, key: Any = None) -> Any:
            calls.append(("getconn", key))
            return super().getconn(key)

        def putconn(self, conn: Any = None, key: Any = None, close: bool = False) -> None:
            calls.append(("putconn", conn))
            super().putconn(conn, key, close)

    pool = Mine(1, 1)
    with pool.connection() as first:
        pass
    with pool.connection("key") as second:
        pass
    assert calls == [("getconn", None), ("putconn", first), ("getconn", "key"), ("putconn", second)]


def test_methods_set_on_the_instance_take_part(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    original = pool.getconn
    keys: list[Any] = []

    def shadow(key: Any = None) -> Any:
        keys.append(key)
        return original(key)

    pool.getconn = shadow
    with pool.connection("key"):
        pass
    assert keys == ["key"]


def test_the_timeout_is_passed_on_where_it_was_given() -> None:
    given: list[Any] = []

    class Mine(ThreadedConnectionPool):
        def getconn(self, key: Any = None, **options: Any) -> Any:
            given.append(options)
            raise KeyError

    for options in ({}, {"timeout": None}, {"timeout": 0}, {"timeout": 2.5}):
        with pytest.raises(KeyError), Mine(0, 1).connection(**options):
            pass
    assert given == [{}, {"timeout": None}, {"timeout": 0}, {"timeout": 2.5}]


def test_a_block_waits_as_long_as_it_is_told(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 1)
    pool.getconn()
    with pytest.raises(PoolTimeout), pool.connection(timeout=0.01):
        pass


def test_a_simple_pools_block_takes_no_timeout(server: FakeServer) -> None:
    with (
        pytest.raises(TypeError, match=r"SimpleConnectionPool.*thread"),
        SimpleConnectionPool(0, 1).connection(timeout=1),
    ):
        pass
    assert server.log == []


def test_the_pools_own_block_gives_the_pool_and_closes_everything(our_class: Any, server: FakeServer) -> None:
    with our_class(1, 2) as pool:
        pool.getconn()
        pool.getconn()
        assert isinstance(pool, our_class)
    assert pool.closed is True
    assert server.open == 0


def test_the_pools_own_block_closes_everything_when_it_raises(our_class: Any, server: FakeServer) -> None:
    with pytest.raises(KeyError, match="from the block"), our_class(2, 2) as pool:
        raise KeyError("from the block")
    assert pool.closed is True
    assert server.open == 0


def test_a_pool_closed_in_its_own_block_is_left_in_peace(our_class: Any, server: FakeServer) -> None:
    with our_class(1, 1) as pool:
        pool.closeall()
    assert server.calls("close") == [1]


def test_the_pools_own_block_goes_through_an_overridden_closeall(our_class: Any, server: FakeServer) -> None:
    closed: list[Any] = []

    class Mine(our_class):  # type: ignore[misc]
        def closeall(self) -> None:
            closed.append(self)
            super().closeall()

    with Mine(1, 1) as pool:
        pass
    assert closed == [pool]
