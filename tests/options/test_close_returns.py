"""`close_returns=True`: what a lent connection's `close()` does, and what closes it all the same."""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions, extras

from pgpool_rs import PoolError, ThreadedConnectionPool
from pgpool_rs._core import Returning, advance_clock
from pgpool_rs.testing import FakeServer
from tests.lib.postgres import terminate
from tests.lib.statements import execute
from tests.lib.waits import counts


def pool_on(our_class: Any, dsn: str, least: int = 0, most: int = 2, **options: Any) -> Any:
    return our_class(least, most, dsn, close_returns=True, **options)


def is_open(connection: Any) -> bool:
    return not connection.closed


def test_close_returns_a_lent_connection(our_class: Any, dsn: str) -> None:
    pool = pool_on(our_class, dsn, 1, 1)
    for _ in range(3):
        connection = pool.getconn()
        connection.cursor().execute("SELECT 1")
        connection.close()
        assert is_open(connection)
        assert connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
        assert counts(pool)["idle"] == 1
    assert pool.get_stats()["connections_num"] == 1
    pool.closeall()
    assert connection.closed


def test_what_the_pool_closes_is_closed(our_class: Any, dsn: str) -> None:
    pool = pool_on(our_class, dsn)
    first, second = pool.getconn(), pool.getconn()
    first.close()  # the pool keeps none
    assert first.closed
    pool.putconn(second, close=True)
    assert second.closed
    pool.minconn = 1
    third = pool.getconn()
    third.close()
    pool.drain()
    assert third.closed
    fourth = pool.getconn()
    pool.closeall()
    assert fourth.closed
    fourth.close()


def test_a_connection_that_has_been_idle_for_too_long_is_closed(dsn: str) -> None:
    with pool_on(ThreadedConnectionPool, dsn, max_idle=10) as pool:
        connection = pool.getconn()
        connection.close()
        advance_clock(20)
        pool.maintain()
        assert connection.closed


def test_a_second_close_does_nothing(our_class: Any, dsn: str) -> None:
    with pool_on(our_class, dsn, 1) as pool:
        connection = pool.getconn()
        connection.close()
        connection.close()
        assert is_open(connection)
        assert pool.getconn() is connection


def test_a_connection_that_is_broken_gives_its_slot_back(our_class: Any, dsn: str) -> None:
    with pool_on(our_class, dsn, 1, 1) as pool:
        connection = pool.getconn()
        terminate(dsn, connection.info.backend_pid)
        with pytest.raises(psycopg2.Error):
            connection.cursor().execute("SELECT 1")
        connection.close()
        assert counts(pool)["lent"] == 0
        assert is_open(pool.getconn())


def test_a_connection_that_was_struck_out_of_the_views_is_closed(our_class: Any, dsn: str) -> None:
    with pool_on(our_class, dsn) as pool:
        connection = pool.getconn("key")
        del pool._used["key"]
        connection.close()
        assert connection.closed


def test_a_connection_whose_pool_is_gone_is_closed(our_class: Any, dsn: str) -> None:
    pool = pool_on(our_class, dsn)
    connection = pool.getconn()
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    connection.close()
    assert connection.closed


def test_what_configure_and_reset_close_is_closed(our_class: Any, dsn: str) -> None:
    pool = pool_on(our_class, dsn, configure=lambda connection: connection.close())
    with pytest.raises(psycopg2.ProgrammingError, match="configure left it closed"):
        pool.getconn()
    pool = pool_on(our_class, dsn, 1, reset=lambda connection: connection.close())
    connection = pool.getconn()
    connection.close()
    assert connection.closed
    assert counts(pool)["idle"] == 0
    pool.closeall()


def test_a_key_need_not_be_told(our_class: Any, dsn: str) -> None:
    with pool_on(our_class, dsn, 1) as pool:
        pool.getconn("key").close()
        assert not pool._used


def test_closing_at_the_end_of_a_with_statement(our_class: Any, dsn: str) -> None:
    with pool_on(our_class, dsn, 1, 1) as pool:
        for _ in range(3):
            with contextlib.closing(pool.getconn()) as connection:
                assert counts(pool)["lent"] == 1
        assert is_open(connection)


def test_a_putconn_of_a_subclass_is_called(our_class: Any, dsn: str) -> None:
    returned = []

    class Own(our_class):  # type: ignore[misc]
        def putconn(self, *args: Any, **kwargs: Any) -> None:
            returned.append(args)
            super().putconn(*args, **kwargs)

    pool = pool_on(Own, dsn)
    connection = pool.getconn()
    connection.close()
    assert returned == [(connection,)]
    last = pool.getconn()
    pool.closeall()
    last.close()
    assert returned == [(connection,), (last,)]


def test_what_a_putconn_of_a_subclass_raises_is_raised(our_class: Any, dsn: str) -> None:
    class Own(our_class):  # type: ignore[misc]
        def putconn(self, *args: Any, **kwargs: Any) -> None:
            raise KeyError

    with pool_on(Own, dsn) as pool:
        with pytest.raises(KeyError):
            pool.getconn().close()
        assert counts(pool)["lent"] == 1


class Factory(extras.LoggingConnection):
    """A connection class of a program's own."""

    really_closed = 0

    def close(self) -> None:
        type(self).really_closed += 1
        super().close()


def test_a_connection_class_may_be_made_in_any_way(our_class: Any, dsn: str) -> None:
    class Made(Factory):
        __slots__ = ("made",)
        made: list[str]

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().__new__(cls, *args, **kwargs)
            made.made = ["new"]
            return made

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.made.append("init")

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "made":
                raise AttributeError(name)
            super().__setattr__(name, value)

    pool = pool_on(our_class, dsn, 1, connection_factory=Made)
    connection = pool.getconn()
    assert connection.made == ["new", "init"]
    connection.close()
    assert counts(pool) | {"lent": 0, "idle": 1} == counts(pool)
    pool.closeall()
    assert connection.closed


@pytest.mark.parametrize("how", ["by name", "positional"])
def test_a_connection_class_of_the_programs_own_is_kept(our_class: Any, dsn: str, how: str) -> None:
    cursors = extras.DictCursor
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = (
        ((dsn, Factory, cursors), {})
        if how == "positional"
        else ((dsn,), {"connection_factory": Factory, "cursor_factory": cursors})
    )
    pool = our_class(1, 1, *arguments[0], close_returns=True, **arguments[1])
    connection = pool.getconn()
    assert isinstance(connection, Factory)
    assert type(connection).__name__ == "Factory"
    assert connection.cursor_factory is cursors
    connection.close()
    before = type(connection).really_closed
    assert is_open(connection)
    assert pool._kwargs == arguments[1]
    pool.closeall()
    assert connection.closed
    assert type(connection).really_closed == before + 1


def test_a_factory_that_is_no_class_is_refused(our_class: Any, dsn: str) -> None:
    for arguments, named in (((dsn, lambda given: given), {}), ((dsn,), {"connection_factory": lambda given: given})):
        with pytest.raises(TypeError, match="close_returns=True needs a connection_factory that is a class"):
            our_class(0, 1, *arguments, close_returns=True, **named)


def test_a_connect_of_the_programs_own_gets_the_class(our_class: Any, dsn: str, server: FakeServer) -> None:
    real = extensions.connection

    def connect(*args: Any, connection_factory: Any, **kwargs: Any) -> Any:
        assert issubclass(connection_factory, (Returning, real))
        return connection_factory(dsn)

    pool = our_class(1, 1, "elsewhere", connect=connect, close_returns=True)
    connection = pool.getconn()
    connection.close()
    assert is_open(connection)
    pool.closeall()
    with pytest.raises(
        TypeError, match="close_returns=True needs a connect that uses the connection_factory it is given"
    ):
        our_class(1, 1, connect=server.connect, close_returns=True)
    assert server.open == 0


@pytest.mark.parametrize(
    "options", [{"reset": "discard"}, {"background": True}, {"leak_after": 60}, {"check_after": 0}]
)
def test_it_goes_with_other_options(dsn: str, options: dict[str, Any]) -> None:
    with pool_on(ThreadedConnectionPool, dsn, 1, 1, **options) as pool:
        for _ in range(3):
            pool.getconn(timeout=10).close()
        pool.check()
        assert pool.get_stats()["connections_num"] == 1


def test_what_is_forgotten_is_reclaimed(dsn: str) -> None:
    with pool_on(ThreadedConnectionPool, dsn, 0, 1, reclaim=True) as pool:
        pool.getconn()
        assert counts(pool)["lent"] == 0
        pool.getconn().close()
        assert counts(pool)["lent"] == 0


def test_a_close_in_the_child_of_a_fork_leaves_the_parents_connection_alone(our_class: Any, dsn: str) -> None:
    with pool_on(our_class, dsn, 1, 1) as pool:
        connection = pool.getconn()
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                connection.close()
                status = int(bool(connection.closed))
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        execute(connection, "SELECT 1")
        connection.close()
        assert counts(pool)["lent"] == 0


def test_a_close_in_the_child_of_a_fork_leaves_the_connection_of_a_pool_that_is_gone_alone(
    our_class: Any, dsn: str
) -> None:
    pool = pool_on(our_class, dsn, 1, 1)
    connection = pool.getconn()
    del pool
    gc.collect()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            connection.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    connection.cursor().execute("SELECT 1")
    connection.close()
    assert connection.closed


def test_without_the_option_close_closes(our_class: Any, dsn: str) -> None:
    with our_class(1, 1, dsn) as pool:
        connection = pool.getconn()
        assert type(connection) is extensions.connection
        connection.close()
        assert connection.closed
        with pytest.raises(PoolError):
            pool.getconn()
        pool.putconn(connection)


def test_a_pool_that_makes_a_connection_for_each_request_gives_all_back(dsn: str) -> None:
    """What SQLAlchemy's NullPool does with `creator=pool.getconn`."""
    with pool_on(ThreadedConnectionPool, dsn, 1, 2) as pool:
        for _ in range(5):
            connection = pool.getconn()
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
            connection.close()
        assert counts(pool)["idle"] == 1
        assert pool.get_stats()["connections_num"] == 1


def test_an_overridden_putconn_may_close_what_it_returns(our_class: Any, dsn: str) -> None:
    class Strict(our_class):  # type: ignore[misc]
        def putconn(self, conn: Any = None, key: Any = None, close: bool = False) -> None:
            conn.close()
            super().putconn(conn, key, close)

    pool = pool_on(Strict, dsn, 0, 1)
    connection = pool.getconn()
    connection.close()
    assert not is_open(connection)
    connection = pool.getconn()
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(connection)  # whose close() has returned it
    assert not is_open(connection)
    assert counts(pool)["lent"] == 0
