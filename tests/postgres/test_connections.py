"""Real connections to a real server, for both modules: what no fake can vouch for."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from psycopg2.pool import PoolError

import pgpool_rs
from pgpool_rs.testing import PATIENCE
from tests.lib.pools import assert_whole, give_back, lend
from tests.lib.postgres import admin, backends, opened, terminate
from tests.lib.statements import execute
from tests.lib.waits import Task, wait_until

IDLE = psycopg2.extensions.TRANSACTION_STATUS_IDLE


def test_a_connection_is_lent_used_and_lent_again(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 2, dsn)) as pool:
        connection = pool.getconn()
        pid = execute(connection, "select pg_backend_pid()")
        pool.putconn(connection)
        again = pool.getconn()
        assert again is connection
        assert execute(again, "select pg_backend_pid()") == pid
        pool.putconn(again)


def test_closeall_ends_every_session_at_the_server(pool_class: Any, dsn: str, request: pytest.FixtureRequest) -> None:
    name = request.node.name[:60]
    pool = pool_class(2, 3, dsn, application_name=name)
    pool.getconn()
    assert backends(dsn, name) == 2
    pool.closeall()
    wait_until(lambda: backends(dsn, name) == 0)


def test_an_open_transaction_is_rolled_back_on_return(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool:
        connection = pool.getconn()
        execute(connection, "create table unwanted (n int)")
        pool.putconn(connection)
        assert connection.info.transaction_status == IDLE
        assert execute(pool.getconn(), "select to_regclass('unwanted')") is None


def test_a_failed_transaction_is_rolled_back_on_return(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool:
        connection = pool.getconn()
        with pytest.raises(psycopg2.ProgrammingError):
            execute(connection, "select nonsense")
        pool.putconn(connection)
        assert execute(pool.getconn(), "select 1") == 1


def test_what_was_committed_stays(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool:
        connection = pool.getconn()
        execute(connection, "create table if not exists wanted (n int)")
        connection.commit()
        pool.putconn(connection)
        assert execute(pool.getconn(), "select to_regclass('wanted')::text") == "wanted"


def test_session_state_is_not_reset(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool:
        connection = pool.getconn()
        connection.autocommit = True
        execute(connection, "set work_mem = '7MB'")
        pool.putconn(connection)
        again = pool.getconn()
        assert (again.autocommit, execute(again, "show work_mem")) == (True, "7MB")


def test_a_connection_killed_while_idle_is_lent_fails_and_is_dropped_on_return(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool:
        connection = pool.getconn()
        pid = execute(connection, "select pg_backend_pid()")
        pool.putconn(connection)
        terminate(dsn, pid)
        connection = pool.getconn()
        assert connection.closed == 0
        with pytest.raises(psycopg2.OperationalError):
            execute(connection, "select 1")
        assert connection.closed == 2
        pool.putconn(connection)
        assert list(pool._pool) == []
        assert execute(pool.getconn(), "select 1") == 1


def test_a_connection_closed_by_its_borrower_is_dropped(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool:
        connection = pool.getconn()
        connection.close()
        pool.putconn(connection)
        assert list(pool._pool) == []


def test_connection_and_cursor_factories_are_kept(pool_class: Any, dsn: str) -> None:
    options = {"connection_factory": psycopg2.extras.LoggingConnection, "cursor_factory": psycopg2.extras.LoggingCursor}
    with opened(pool_class(1, 1, dsn, **options)) as pool:
        connection = pool.getconn()
        assert type(connection) is psycopg2.extras.LoggingConnection
        assert connection.cursor_factory is psycopg2.extras.LoggingCursor
        pool.putconn(connection)
        assert list(pool._pool) == [connection]


def test_a_connection_subclass_with_a_rollback_of_its_own_is_rolled_back_through_it(pool_class: Any, dsn: str) -> None:
    class Counting(psycopg2.extensions.connection):
        rollbacks = 0

        def rollback(self) -> None:
            self.rollbacks += 1
            super().rollback()

    with opened(pool_class(1, 1, dsn, connection_factory=Counting)) as pool:
        connection = pool.getconn()
        execute(connection, "select 1")
        pool.putconn(connection)
        assert connection.rollbacks == 1


def test_a_connection_subclass_may_say_that_it_is_closed(pool_class: Any, dsn: str) -> None:
    class Retired(psycopg2.extensions.connection):
        closed = 1

        def get_transaction_status(self) -> int:
            return 4

    with opened(pool_class(1, 1, dsn, connection_factory=Retired)) as pool:
        pool.putconn(pool.getconn())
        assert list(pool._pool) == []


def test_async_connections_are_kept_and_never_polled(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn, async_=True)) as pool:
        (connection,) = pool._pool
        assert pool.getconn() is connection
        assert connection.async_ == 1
        assert connection.status == psycopg2.extensions.STATUS_SETUP
        psycopg2.extras.wait_select(connection)
        pool.putconn(connection)
        assert list(pool._pool) == [connection]


def test_an_unknown_database_is_the_drivers_error(pool_class: Any, dsn: str) -> None:
    with pytest.raises(psycopg2.OperationalError):
        pool_class(1, 1, dsn, dbname="no_such_database")


def test_the_limit_of_the_server_is_the_drivers_error_and_loses_no_slot(our_class: Any, dsn: str) -> None:
    """The role may have only two sessions; the pool would have four."""
    with admin(dsn) as connection:
        execute(connection, "drop role if exists narrow")
        execute(connection, "create role narrow login connection limit 2")
    with opened(our_class(1, 4, dsn, user="narrow")) as pool:
        lent = lend(pool, 2)
        for _ in range(6):
            with pytest.raises(psycopg2.OperationalError, match="too many connections for role"):
                pool.getconn()
        assert len(pool._used) == 2
        give_back(pool, lent)
        assert execute(pool.getconn(), "select 1") == 1


def test_a_slow_connect_delays_only_its_own_caller(dsn: str) -> None:
    """The server itself is slow to let somebody in: until then the others are served."""
    with opened(pgpool_rs.ThreadedConnectionPool(1, 3, dsn)) as pool:
        pool._kwargs["options"] = "-c post_auth_delay=1"
        first = pool.getconn()
        slow = Task(pool.getconn)
        wait_until(lambda: "opening=1" in repr(pool) or slow.done)
        rounds = 0
        while not slow.done:
            pool.putconn(first)
            first = pool.getconn()
            execute(first, "select 1")
            rounds += 1
        assert rounds > 10
        pool.putconn(slow.result())
        pool.putconn(first)


def test_a_return_that_waits_for_a_running_statement_delays_only_its_own_caller(dsn: str) -> None:
    """The rollback of a connection that another thread still uses waits until the statement ends."""
    with opened(pgpool_rs.ThreadedConnectionPool(2, 3, dsn)) as pool, admin(dsn) as blocker:
        busy, other = pool.getconn(), pool.getconn()
        execute(blocker, "select pg_advisory_lock(1)")
        pid = busy.info.backend_pid
        running = Task(execute, busy, "select pg_advisory_lock(1)")
        wait_until(lambda: execute(blocker, "select count(*) from pg_locks where not granted and pid = %s", [pid]) == 1)
        returning = Task(pool.putconn, busy)
        wait_until(lambda: "returning=1" in repr(pool))
        pool.putconn(other)
        Task(lambda: pool.putconn(pool.getconn())).result()
        assert not returning.done
        execute(blocker, "select pg_advisory_unlock(1)")
        running.result()
        returning.result()


def test_many_threads_share_few_connections(dsn: str, request: pytest.FixtureRequest) -> None:
    name = request.node.name[:60]
    with opened(pgpool_rs.ThreadedConnectionPool(4, 4, dsn, application_name=name, timeout=PATIENCE)) as pool:
        most = 0
        barrier = threading.Barrier(17)

        def work() -> int:
            barrier.wait()
            total = 0
            for _ in range(25):
                with pool.connection() as connection:
                    total += execute(connection, "select 1")
            return total

        tasks = [Task(work) for _ in range(16)]
        barrier.wait()
        while not all(task.done for task in tasks):
            most = max(most, backends(dsn, name))
        assert [task.result() for task in tasks] == [25] * 16
        assert most <= 4
        assert_whole(pool, timeout=0)


def test_a_block_commits_and_rolls_back_for_real(our_class: Any, dsn: str) -> None:
    with opened(our_class(1, 1, dsn)) as pool:
        with pool.connection() as connection:
            execute(connection, "create table if not exists kept (n int)")
            execute(connection, "truncate kept")
            execute(connection, "insert into kept values (1)")
        with pytest.raises(ZeroDivisionError), pool.connection() as connection:
            execute(connection, "insert into kept values (2)")
            raise ZeroDivisionError
        with pool.connection() as connection:
            assert execute(connection, "select sum(n) from kept") == 1


def test_what_is_not_a_connection_of_the_pool_is_refused(pool_class: Any, dsn: str) -> None:
    with opened(pool_class(1, 1, dsn)) as pool, admin(dsn) as foreign:
        with pytest.raises(PoolError, match="unkeyed"):
            pool.putconn(foreign)
        assert foreign.closed == 0
