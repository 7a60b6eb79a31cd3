"""A server that has too many connections: a caller that may wait gets one of its own pool when that comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest

from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import LONG, admin, opened
from tests.lib.statements import execute
from tests.lib.waits import Task, wait_for_waiters, wait_until

MOST = 8


@pytest.fixture(scope="module")
def server_for_few() -> Iterator[ThrowawayPostgres]:
    """Give a server for few clients."""
    settings = {"superuser_reserved_connections": "2", "max_wal_senders": "0"}
    with ThrowawayPostgres(max_connections=MOST, settings=settings) as server:
        with admin(server.dsn) as connection:
            execute(connection, "create role guest login")
            execute(connection, "create role limited login connection limit 1")
            execute(connection, "create database narrow connection limit 1 owner limited")
        yield server


@pytest.fixture
def small(server_for_few: ThrowawayPostgres) -> Iterator[ThrowawayPostgres]:
    """Give that server once the sessions of the test before have ended."""
    others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    # The session of this one stays: it would end at any moment after it is closed.
    with admin(server_for_few.dsn) as connection:
        wait_until(lambda: execute(connection, others) == 0)
        yield server_for_few


def fill(server: ThrowawayPostgres, stack: ExitStack, user: str) -> list[Any]:
    """Connect until the server takes no more from this user."""
    found = []
    with pytest.raises(psycopg2.OperationalError):
        for _ in range(MOST + 1):
            found.append(psycopg2.connect(**{**server.dsn_kwargs, "user": user}))
            stack.callback(found[-1].close)
    return found


# Which user and database it is, and the text that ends it.
FULL = {
    "max_connections": ({"user": "postgres"}, "too many clients already"),
    "reserved slots": ({"user": "guest"}, "remaining connection slots are reserved"),
    "role": ({"user": "limited"}, 'too many connections for role "limited"'),
    "database": ({"user": "guest", "dbname": "narrow"}, 'too many connections for database "narrow"'),
}


@pytest.mark.parametrize("grow", ["caller", "workers"])
@pytest.mark.parametrize("limit", FULL)
def test_a_caller_waits_for_a_lent_connection(small: ThrowawayPostgres, limit: str, grow: Any) -> None:
    where, text = FULL[limit]
    with (
        ExitStack() as stack,
        opened(ThreadedConnectionPool(0, 5, **{**small.dsn_kwargs, **where}, grow=grow)) as pool,
    ):
        lent = pool.getconn()
        if limit in {"max_connections", "reserved slots"}:
            fill(small, stack, where["user"])
        with pytest.raises(psycopg2.OperationalError, match=text):
            pool.getconn(timeout=0)
        waiters = [Task(pool.getconn, timeout=LONG) for _ in range(2)]
        wait_for_waiters(pool, 2)
        pool.putconn(lent)
        done = next_done(waiters)
        assert done.result() is lent
        pool.putconn(done.result())
        (other,) = (waiter for waiter in waiters if waiter is not done)
        assert other.result() is lent
        pool.putconn(lent)
    assert pool.closed


def next_done(tasks: list[Task[Any]]) -> Task[Any]:
    """Wait until one of them has ended, and give it."""
    wait_until(lambda: any(task.done for task in tasks), "one is served")
    return next(task for task in tasks if task.done)


def test_with_none_lent_or_no_time_to_wait_the_caller_gets_the_error(small: ThrowawayPostgres) -> None:
    with ExitStack() as stack, opened(ThreadedConnectionPool(0, 5, **small.dsn_kwargs)) as pool:
        held = fill(small, stack, "postgres")
        for timeout in (0, PATIENCE):
            with pytest.raises(psycopg2.OperationalError, match="too many clients already"):
                pool.getconn(timeout=timeout)
        held[0].close()
        wait_until(lambda: connects(pool), "its session has ended")


def connects(pool: Any) -> bool:
    """Tell whether the pool can open a connection."""
    try:
        pool.putconn(pool.getconn(timeout=0))
    except psycopg2.OperationalError:
        return False
    return True


def test_a_waiter_connects_when_another_client_has_left(small: ThrowawayPostgres) -> None:
    with ExitStack() as stack, opened(ThreadedConnectionPool(0, 5, **small.dsn_kwargs)) as pool:
        lent = pool.getconn()
        held = fill(small, stack, "postgres")
        waiter = Task(pool.getconn, timeout=LONG)
        wait_for_waiters(pool, 1)
        for connection in held:
            connection.close()
        got = waiter.result()
        assert got is not lent
        pool.putconn(got)
        pool.putconn(lent)
