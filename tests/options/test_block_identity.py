"""A `connection()` block ends its own loan, and no other; one that nobody can leave any more gives its loan back."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import STATUS_BEGIN, STATUS_READY, TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS
from psycopg2.pool import PoolError

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import IDLE, INTRANS, PATIENCE, FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts


def borrow_in_vain(pool: Any, key: object) -> None:
    """Enter a block under a key that is lent."""
    with pytest.raises(PoolError, match="lent already"), pool.connection(key):
        pytest.fail("the block ran")


def test_a_block_under_a_key_that_is_lent_is_refused_at_once_and_the_other_goes_on(
    our_class: Any, server: FakeServer
) -> None:
    pool = our_class(0, 2)
    with pool.connection("k") as connection:
        connection.cursor().execute("insert")
        borrow_in_vain(pool, "k")
        assert (connection.status, dict(pool._used)) == (INTRANS, {"k": connection})
    lent = pool.getconn("k")
    borrow_in_vain(pool, "k")
    pool.putconn(lent)
    assert server.calls("commit") == [1]
    assert_whole(pool)


def test_a_block_whose_connection_was_returned_touches_the_next_borrowers_nowhere(
    our_class: Any, server: FakeServer
) -> None:
    pool = our_class(1, 1)
    with pytest.raises(PoolError, match="ended before the block"), pool.connection("k") as connection:
        pool.putconn(connection)
        assert pool.getconn() is connection
        connection.cursor().execute("insert")
    assert (connection.status, server.calls("commit"), server.calls("rollback")) == (INTRANS, [], [])
    pool.putconn(connection)
    assert_whole(pool)


def test_a_failing_block_whose_connection_was_returned_raises_its_own_error_and_logs_that(
    our_class: Any, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    class GonePrimary(psycopg2.OperationalError):
        pgcode = "25006"

    pool = our_class(1, 1)
    with caplog.at_level(logging.WARNING), pytest.raises(GonePrimary), pool.connection() as connection:
        pool.putconn(connection)
        assert pool.getconn() is connection
        connection.cursor().execute("insert")
        raise GonePrimary
    assert "ended before the block" in caplog.text
    assert (connection.status, server.calls("rollback")) == (INTRANS, [])
    pool.putconn(connection)
    assert list(pool._pool) == [connection], "the error was none of this loan's"


def test_a_connection_that_the_block_closes_ends_it_without_an_error(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    with pool.connection() as connection:
        connection.close()
    with pytest.raises(KeyError), pool.connection() as connection:
        connection.close()
        raise KeyError
    assert (server.calls("commit"), server.calls("rollback")) == ([], [])
    assert_whole(pool)


def test_two_threads_that_enter_blocks_under_one_new_key_do_not_share(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 2)
    gate = server.hold("connect")
    inside, refused, leave = threading.Event(), threading.Event(), threading.Event()
    entered: list[bool] = []

    def enter() -> None:
        try:
            with pool.connection("k"):
                entered.append(True)
                inside.set()
                assert leave.wait(PATIENCE)
        except PoolError:
            refused.set()

    tasks = [Task(enter), Task(enter)]
    gate.wait_for()
    gate.release()
    assert inside.wait(PATIENCE)
    assert refused.wait(PATIENCE)
    leave.set()
    for task in tasks:
        task.result()
    assert entered == [True]
    assert counts(pool)["lent"] == 0


def test_twins_of_a_mock_are_each_returned_by_their_own_block(our_class: Any, server: FakeServer) -> None:
    one = server.connect()
    pool = our_class(0, 2, connect=lambda: one)
    with pool.connection("outer"):
        inner = pool.connection("inner")
        inner.__enter__()
    assert list(pool._used) == ["inner"]
    inner.__exit__(None, None, None)
    assert counts(pool)["lent"] == 0


def test_a_getconn_of_a_subclass_that_borrows_in_another_thread_serves_blocks(server: FakeServer) -> None:
    class Mine(ThreadedConnectionPool):
        def getconn(self, key: Any = None, **options: Any) -> Any:
            return Task(super().getconn, key, **options).result()

    pool = Mine(1, 1)
    with pool.connection() as connection:
        connection.cursor().execute("insert")
    assert server.calls("commit") == [1]
    assert_whole(pool)


def test_an_object_that_the_pool_does_not_know_goes_back_as_itself(server: FakeServer) -> None:
    class Proxy:
        def __init__(self, raw: Any) -> None:
            self.raw = raw

        def __getattr__(self, name: str) -> Any:
            return getattr(self.raw, name)

    class Mine(ThreadedConnectionPool):
        def getconn(self, key: Any = None, **options: Any) -> Any:
            return Proxy(super().getconn(key, **options))

        def putconn(self, conn: Any = None, key: Any = None, close: object = False) -> None:
            super().putconn(conn.raw, key, close)

    pool = Mine(1, 1)
    with pool.connection() as connection:
        connection.cursor().execute("insert")
    assert server.calls("commit") == [1]
    pool.connection().__enter__()
    assert_whole(pool)


# --- a block that nobody can leave any more ---


def test_a_loan_that_dies_entered_is_rolled_back_and_returned(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    loan = pool.connection()
    loan.__enter__().cursor().execute("insert")
    del loan
    assert (server.log[1:], counts(pool)["lent"]) == ([("rollback", 1)], 0)
    try:
        raise KeyError
    except KeyError:
        pool.connection("k").__enter__()
        assert sys.exc_info()[0] is KeyError
    Task(lambda: pool.connection().__enter__() and None).result()
    assert_whole(pool)


def test_a_loan_that_dies_in_a_cycle_is_returned_by_the_garbage_collector(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    cycle: list[Any] = [pool.connection()]
    cycle.append(cycle)
    cycle[0].__enter__().cursor().execute("insert")
    del cycle
    gc.collect()
    assert (server.log[1:], counts(pool)["lent"]) == ([("rollback", 1)], 0)
    assert_whole(pool)


def test_a_loan_that_dies_with_its_pool_leaves_the_connection_alone(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    loan = pool.connection()
    loan.__enter__().cursor().execute("insert")
    pool.loan = loan
    del pool, loan
    gc.collect()
    assert server.log == [("connect", 1)]


def test_a_loan_that_dies_after_its_connection_was_returned_touches_nothing(our_class: Any, server: FakeServer) -> None:
    pool = our_class(1, 1)
    loan = pool.connection()
    connection = loan.__enter__()
    pool.putconn(connection)
    assert pool.getconn() is connection
    connection.cursor().execute("insert")
    del loan
    gc.collect()
    assert (connection.transaction_status, connection.status, counts(pool)["lent"]) == (INTRANS, STATUS_BEGIN, 1)
    pool.putconn(connection)
    assert (connection.transaction_status, connection.status) == (IDLE, STATUS_READY)


@pytest.mark.parametrize("error", [psycopg2.OperationalError("gone"), KeyboardInterrupt("stop")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loan_that_dies_raises_nothing(our_class: Any, server: FakeServer, error: BaseException) -> None:
    pool = our_class(1, 1)
    loan = pool.connection()
    connection = loan.__enter__()
    connection.cursor().execute("insert")
    connection.faults["rollback"] = error
    del loan
    assert counts(pool)["lent"] == 0
    assert_whole(pool)


# --- a block whose connection is closed, where close_returns has that return it ---


def begin(connection: Any) -> None:
    connection.cursor().execute("SELECT 1")
    assert connection.info.transaction_status == TRANSACTION_STATUS_INTRANS


def test_a_close_that_returns_ends_the_block_without_an_error(
    our_class: Any, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    with our_class(1, 1, dsn, close_returns=True) as pool:
        with pool.connection("k") as connection:
            begin(connection)
            connection.close()
            connection.close()
            assert counts(pool)["lent"] == 0
        with pytest.raises(ZeroDivisionError), pool.connection() as connection:
            connection.close()
            raise ZeroDivisionError
        with our_class(0, 1, dsn, close_returns=True) as other, other.connection() as connection:
            connection.close()
            assert connection.closed, "the pool keeps none"
        assert caplog.text == ""
        assert_whole(pool)


def test_a_close_that_returns_ends_the_block_though_others_borrow_the_connection_and_close_it(
    our_class: Any, dsn: str
) -> None:
    with our_class(1, 1, dsn, close_returns=True) as pool:
        for closes in range(3):
            for error in (None, ZeroDivisionError()):
                with contextlib.suppress(ZeroDivisionError), pool.connection() as connection:
                    connection.close()
                    for _ in range(closes):
                        pool.getconn().close()
                    assert pool.getconn("k") is connection
                    begin(connection)
                    if error is not None:
                        raise error
                assert connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
                assert dict(pool._used) == {"k": connection}
                connection.close()
        assert_whole(pool)


def test_blocks_of_one_connection_that_is_closed_in_each_end_in_any_order(our_class: Any, dsn: str) -> None:
    with our_class(1, 1, dsn, close_returns=True) as pool:
        with pool.connection() as connection:
            connection.close()
            with pool.connection() as again:
                assert again is connection
                begin(again)
            with pool.connection() as again:
                again.close()
                assert pool.getconn() is connection
            assert counts(pool)["lent"] == 1
            connection.close()
        first, second = pool.connection(), pool.connection()
        first.__enter__().close()
        second.__enter__().close()
        with pool.connection() as connection:
            first.__exit__(None, None, None)
            begin(connection)
            second.__exit__(None, None, None)
            assert connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
        assert_whole(pool)


def test_a_close_in_another_thread_ends_the_block_without_an_error(dsn: str) -> None:
    with ThreadedConnectionPool(1, 1, dsn, close_returns=True) as pool:
        with pool.connection() as connection:
            Task(connection.close).result()
        assert_whole(pool)


def test_a_close_excuses_its_own_block_and_no_other_way_back(our_class: Any, dsn: str) -> None:
    with our_class(1, 1, dsn, close_returns=True) as pool:
        with pytest.raises(PoolError, match="ended before the block"), pool.connection() as connection:
            pool.putconn(connection)
        with pytest.raises(PoolError, match="ended before the block"), pool.connection() as connection:
            pool.putconn(connection)
            pool.getconn().close()
        with pool.connection() as connection:
            connection.close()
            with pytest.raises(PoolError, match="ended before the block"), pool.connection():
                pool.putconn(connection)
        assert_whole(pool)


def test_a_close_by_a_putconn_that_fails_leaves_the_loan_to_the_block(our_class: Any, dsn: str) -> None:
    class Mine(our_class):  # type: ignore[misc]
        fails = True

        def putconn(self, *args: Any, **kwargs: Any) -> None:
            if self.fails:
                raise KeyError
            super().putconn(*args, **kwargs)

    with Mine(1, 1, dsn, close_returns=True) as pool:
        with pool.connection() as connection:
            begin(connection)
            with pytest.raises(KeyError):
                connection.close()
            pool.fails = False
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        with pool.connection() as connection:
            connection.close()
        assert_whole(pool)


def test_a_loan_that_dies_after_its_connection_was_closed_touches_nothing(our_class: Any, dsn: str) -> None:
    with our_class(1, 1, dsn, close_returns=True) as pool:
        loan = pool.connection()
        connection = loan.__enter__()
        connection.close()
        assert pool.getconn() is connection
        begin(connection)
        del loan
        gc.collect()
        assert connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
        assert counts(pool)["lent"] == 1
        connection.close()
        assert_whole(pool)


def test_a_close_in_a_block_in_the_child_of_a_fork_leaves_the_parents_connection_alone(
    our_class: Any, dsn: str
) -> None:
    with our_class(1, 1, dsn, close_returns=True) as pool:
        with pool.connection() as connection:
            begin(connection)
            child = os.fork()
            if child == 0:
                status = 1
                with contextlib.suppress(BaseException):
                    connection.close()
        if child == 0:
            with contextlib.suppress(BaseException), pool.connection() as own:
                own.close()
                status = int(bool(connection.closed) or own is connection)
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE, "the block committed"
        assert_whole(pool)
