"""The ways to borrow that the fast path knows do what the slow path does, with psycopg2's own connections."""

from __future__ import annotations

import gc
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest
from psycopg2.extensions import connection as Psycopg2Connection

from pgpool_rs import PoolError, ThreadedConnectionPool
from pgpool_rs.testing import PATIENCE
from tests.lib.statements import execute
from tests.lib.waits import Task


def text(value: str) -> str:
    """Make a new string each time."""
    return f"{value}!"


@pytest.mark.parametrize("key", [text("key"), 7_000_000, ("a", 1)], ids=repr)
def test_a_key_is_dropped_when_its_loan_ends(dsn: str, key: Any) -> None:
    with ThreadedConnectionPool(1, 1, dsn) as pool:
        before = sys.getrefcount(key)
        for _ in range(100):
            pool.putconn(pool.getconn(key), key)
        assert sys.getrefcount(key) == before


@pytest.mark.parametrize(
    ("key", "equal", "other"), [("k!", text("k"), "l"), (7_000, int("7000"), 7_001), (1, True, 2), ("1", "1", 1)]
)
def test_a_loan_ends_under_an_equal_key_and_under_no_other(dsn: str, key: Any, equal: Any, other: Any) -> None:
    with ThreadedConnectionPool(1, 1, dsn) as pool:
        connection = pool.getconn(key)
        assert pool.getconn(equal) is connection
        with pytest.raises(PoolError, match="lent under another key"):
            pool.putconn(connection, other)
        assert len(pool._used) == 1
        pool.putconn(connection, equal)
        assert [*pool._pool] == [connection]
        assert len(pool._used) == 0


def test_a_keyed_loan_ends_without_its_key(dsn: str) -> None:
    with ThreadedConnectionPool(1, 1, dsn) as pool:
        connection = pool.getconn("key")
        pool.putconn(connection)
        assert [*pool._pool] == [connection]
        assert len(pool._used) == len(pool._rused) == 0


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), "1", True, [1]], ids=repr)
def test_a_bad_timeout_is_refused_though_a_connection_is_idle(dsn: str, timeout: Any) -> None:
    with ThreadedConnectionPool(1, 1, dsn) as pool:
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            pool.getconn(timeout=timeout)
        with pytest.raises(TypeError):
            pool.getconn(None, 5)  # type: ignore[call-arg]
        pool.putconn(conn=pool.getconn(key=None, timeout=None), key=None, close=False)
        assert len(pool._pool) == 1


class Counting(Psycopg2Connection):
    """Count the ends of transactions."""

    commits = rollbacks = 0

    def commit(self) -> None:
        self.commits += 1
        super().commit()

    def rollback(self) -> None:
        self.rollbacks += 1
        super().rollback()


def test_a_block_calls_a_commit_of_the_connections_own_class_though_there_is_nothing_to_commit(dsn: str) -> None:
    with ThreadedConnectionPool(1, 1, dsn, connection_factory=Counting) as pool:
        with pool.connection() as connection:
            pass
        with suppress(ZeroDivisionError), pool.connection():
            raise ZeroDivisionError
        assert isinstance(connection, Counting)
        assert (connection.commits, connection.rollbacks) == (1, 1)


class Plain(Psycopg2Connection):
    """Has a dict, in which a program may put anything."""


@pytest.mark.parametrize("whose", ["object", "class"])
def test_a_block_calls_a_commit_that_was_put_on_the_connection_after_the_pool_had_seen_it(
    dsn: str, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[object] = []
    with ThreadedConnectionPool(1, 1, dsn, connection_factory=Plain) as pool:
        for _ in range(2):
            with pool.connection() as connection:
                pass
        target = connection if whose == "object" else Plain
        monkeypatch.setattr(target, "commit", lambda *args: commits.append(args), raising=False)
        with pool.connection():
            pass
        assert len(commits) == 1


def test_what_a_connections_metaclass_runs_in_python_may_use_the_loan_of_the_block_that_ends(dsn: str) -> None:
    asked = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "get_transaction_status":
                asked.append(name)
                with suppress(RuntimeError):
                    loan.__enter__()
            return super().__getattribute__(name)

    class Odd(Psycopg2Connection, metaclass=Meta):
        pass

    with ThreadedConnectionPool(1, 1, dsn, connection_factory=Odd) as pool:
        loan = pool.connection()
        with loan:
            pass
        assert asked
        assert len(pool._pool) == 1


def test_a_block_borrows_from_the_pool_whose_methods_were_assigned(dsn: str) -> None:
    with ThreadedConnectionPool(1, 1, dsn) as other, ThreadedConnectionPool(1, 1, dsn) as pool:
        for name in "getconn", "putconn":
            setattr(pool, name, getattr(other, name))
        with pool.connection() as connection:
            assert list(other._used.values()) == [connection]
        assert other._pool == [connection]


@pytest.mark.parametrize("name", ["getconn", "putconn"])
def test_a_block_calls_what_is_assigned_to_the_pool(dsn: str, name: str) -> None:
    calls = []
    with ThreadedConnectionPool(1, 1, dsn) as pool:
        original = getattr(pool, name)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        setattr(pool, name, replacement)
        with pool.connection():
            pass
        assert calls == [name]
        delattr(pool, name)
        with pool.connection():
            pass
        assert calls == [name]
        assert len(pool._pool) == 1


def test_of_two_threads_that_enter_one_loan_one_is_refused(dsn: str) -> None:
    with ThreadedConnectionPool(2, 2, dsn) as pool:
        for _ in range(50):
            loan, start = pool.connection(), threading.Barrier(2)
            refused: list[str] = []

            def enter(loan: Any = loan, start: threading.Barrier = start, refused: list[str] = refused) -> None:
                start.wait(PATIENCE)
                try:
                    loan.__enter__()
                except RuntimeError as error:
                    refused.append(str(error))

            tasks = [Task(enter), Task(enter)]
            for task in tasks:
                task.result()
            assert len(refused) == 1
            loan.__exit__(None, None, None)
        assert len(pool._pool) == 2


def test_what_is_collected_together_with_its_pool_may_borrow_in_its_end(dsn: str) -> None:
    answers: list[Any] = []

    class App:
        def __init__(self) -> None:
            self.pool, self.cycle = ThreadedConnectionPool(1, 1, dsn, reclaim=True), self
            self.pool.putconn(self.pool.getconn())

        def __del__(self) -> None:
            with self.pool.connection() as connection:
                answers.append(execute(connection, "SELECT 1"))
            answers.append(self.pool._pool == [connection])
            self.pool.closeall()

    App()
    gc.collect()
    assert answers == [1, True]


def test_a_connection_that_is_forgotten_in_a_later_loan_gives_its_slot_back(dsn: str) -> None:
    with ThreadedConnectionPool(0, 1, dsn, max_idle=None, reclaim=True) as pool:
        first = id(pool.getconn())
        for _ in range(3):
            connection = pool.getconn()
            first = id(connection)
            pool.putconn(connection)
            assert id(pool._pool[0]) == first, "it is the same connection each time"
            del connection
        connection = pool.getconn()
        assert len(pool._used) == 1
        del connection
        assert len(pool._used) == 0
        assert pool.get_stats()["reclaimed"] == 2
