"""A pool left running: it opens what it has lost, replaces what is old, and counts what happened, on real servers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs import PoolExhausted, PoolTimeout
from pgpool_rs._core import advance_clock
from tests.lib.pools import assert_whole, give_back, lend
from tests.lib.postgres import end, happened, make_idle, pool_on, works
from tests.lib.statements import execute
from tests.lib.waits import Task, counts, wait_until, waiting_task

# Seconds. Some option that only the housekeeping can honour has the pool looked after.
LONG = 3600.0
REFUSED = "connection to server .* refused"


@pytest.fixture(params=["own_server", "own_tls_server"], ids=["plain", "tls"])
def postgres(request: pytest.FixtureRequest) -> ThrowawayPostgres:
    """Give a server that the test may ill-treat, without TLS and then with."""
    server: ThrowawayPostgres = request.getfixturevalue(request.param)
    return server


def open_connections(pool: Any) -> int:
    """Count what the pool says is open."""
    return int(pool.get_stats()["pool_size"])


# Opening what is missing


def test_a_kept_pool_opens_minconn_again_by_itself_after_a_restart(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 3, 4, check_after=0, max_lifetime=LONG) as pool:
        before = make_idle(pool, 3)
        postgres.restart()
        with pool.connection() as connection:
            assert works(connection)
        wait_until(lambda: counts(pool)["idle"] == 3)
        assert not set(pool._pool) & set(before)
        assert happened(pool) == {"connections_num": 6, "connections_lost": 3, "checks_failed": 3, "closed_lost": 3}


def test_a_kept_pool_tries_until_the_server_is_there_again(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 2, 2, check_after=0, max_lifetime=LONG) as pool:
        make_idle(pool, 2)
        postgres.kill()
        with pytest.raises(psycopg2.OperationalError, match=REFUSED):
            pool.getconn()
        # It goes on trying, though nobody asks.
        failed = happened(pool)["connections_errors"]
        wait_until(lambda: happened(pool)["connections_errors"] >= failed + 2)
        assert open_connections(pool) == counts(pool)["opening"]
        postgres.start()
        wait_until(lambda: counts(pool)["idle"] == 2)
        assert_whole(pool, timeout=0)


def test_wait_returns_when_minconn_are_open_and_gives_up_when_its_time_is_over(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 3, 3) as pool:
        pool.wait(0)
        postgres.kill()
        pool.check()
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.wait(0.2)
        assert time.monotonic() - started >= 0.2
        waiting = Task(pool.wait)
        failed = happened(pool)["connections_errors"]
        wait_until(lambda: happened(pool)["connections_errors"] > failed)
        postgres.start()
        waiting.result()
        assert counts(pool)["idle"] == 3


# Replacing


def test_the_housekeeping_closes_in_time_what_nobody_uses(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 4, max_idle=0.05) as pool:
        make_idle(pool, 4)
        wait_until(lambda: open_connections(pool) == 1)
        assert happened(pool) == {"connections_num": 4, "closed_idle": 3}


def test_the_housekeeping_replaces_in_time_what_is_too_old(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 2, 2, max_lifetime=0.1) as pool:
        before = set(pool._pool)
        wait_until(lambda: happened(pool).get("closed_lifetime", 0) >= 2 and counts(pool)["idle"] == 2)
        assert not before & set(pool._pool)
        pool.closeall()  # So that the statistics stand still when they are compared.


# What happens to new and to returned connections


@pytest.mark.parametrize(
    "reset",
    [
        partial(execute, query="select nonsense"),
        partial(execute, query="select 1"),
        psycopg2.extensions.connection.close,
        partial(execute, query="select pg_terminate_backend(pg_backend_pid())"),
    ],
    ids=["raises", "leaves a transaction open", "closes", "kills"],
)
def test_a_connection_that_cannot_be_reset_is_closed_and_that_is_logged(
    postgres: ThrowawayPostgres, caplog: pytest.LogCaptureFixture, reset: Callable[[Any], object]
) -> None:
    with pool_on(postgres, 1, 1, reset=reset) as pool:
        connection = pool.getconn()
        with caplog.at_level(logging.WARNING, "pgpool_rs"):
            pool.putconn(connection)
        assert connection.closed
        assert len(caplog.records) == 1
        assert "reset" in caplog.text
        assert str(postgres.port) not in caplog.text
        assert open_connections(pool) == 0
        assert happened(pool)["returns_bad"] == 1


# The statistics


def test_what_is_counted_is_what_happened(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 2, check_after=0) as pool:
        lent = lend(pool, 2)
        with pytest.raises(PoolExhausted):
            pool.getconn(timeout=0)
        waiter = waiting_task(pool)
        assert pool.get_stats()["requests_waiting"] == 1
        advance_clock(5)
        pool.putconn(lent[0])
        assert waiter.result() is lent[0]
        execute(lent[1], "begin")
        end(postgres, *lent)
        # The pool has a use for one of them, and neither of them is of any.
        with pytest.raises(psycopg2.OperationalError):
            execute(lent[0], "select 1")
        give_back(pool, lent)
        with pool.connection() as connection:
            works(connection)
            with pool.connection() as other:
                works(other)
        end(postgres, *pool._pool)
        with pool.connection() as connection:
            works(connection)
        pool.putconn(pool.getconn(), close=True)
        closed = pool.getconn()
        closed.close()
        pool.putconn(closed)
        pool._kwargs["port"] = 1
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn()
        stats = pool.pop_stats()
        durations = {name: stats.pop(name) for name in list(stats) if name.endswith("_ms")}
        assert {name: number for name, number in stats.items() if number} == {
            "pool_min": 1,
            "pool_max": 2,
            "requests_num": 10,
            "requests_queued": 1,
            "requests_errors": 2,
            "requests_refused": 1,
            "returns_bad": 2,
            "connections_num": 7,
            "connections_errors": 1,
            "connections_lost": 3,
            "checks_failed": 1,
            "closed_lost": 3,
            "closed_surplus": 1,
            "closed_requested": 1,
            "closed_by_borrower": 1,
        }
        assert 10_000 <= durations["usage_ms"] < 30_000
        assert durations["connections_ms"] > 0
        assert {name for name, number in pool.get_stats().items() if number} == {"pool_min", "pool_max"}
        pool._kwargs["port"] = postgres.port
        lent = lend(pool, 2)
        pool.putconn(lent[0])
        now = pool.get_stats()
        assert (now["pool_size"], now["pool_available"], now["requests_num"]) == (2, 1, 2)
        pool.putconn(lent[1])
