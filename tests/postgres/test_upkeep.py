"""A pool left running: it opens what it has lost, replaces what is old, and keeps its books, on real servers."""

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
from dev.servers.proxy import Proxy
from pgpool_rs import PoolExhausted, PoolTimeout
from pgpool_rs._core import advance_clock
from tests.lib.pools import assert_whole
from tests.lib.postgres import admin, borrow, end, give_back, happened, idle, pool_on, works
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
        before = idle(pool, 3)
        postgres.restart()
        with pool.connection() as connection:
            assert works(connection)
        wait_until(lambda: counts(pool)["idle"] == 3)
        assert not set(pool._pool) & set(before)
        assert happened(pool) == {"connections_num": 6, "connections_lost": 3, "checks_failed": 3, "closed_lost": 3}


def test_a_kept_pool_tries_until_the_server_is_there_again(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 2, 2, check_after=0, max_lifetime=LONG) as pool:
        idle(pool, 2)
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


def test_a_pool_that_asked_for_nothing_is_filled_by_hand(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 3, 3, check_after=0) as pool:
        end(postgres, *idle(pool, 3))
        with pool.connection() as connection:
            assert works(connection)
        assert open_connections(pool) == 1
        pool.maintain()
        assert counts(pool)["idle"] == 3
        pool.maintain()
        assert happened(pool)["connections_num"] == 6


def test_a_round_by_hand_tries_at_once_though_the_last_connect_has_failed(own_server: ThrowawayPostgres) -> None:
    with pool_on(own_server, 2, 2, check_after=0) as pool:
        idle(pool, 2)
        own_server.kill()
        pool.check()
        assert open_connections(pool) == 0
        pool.maintain()
        assert open_connections(pool) == 0
        own_server.start()
        pool.maintain()
        assert counts(pool)["idle"] == 2


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


def test_nobody_is_refused_because_the_housekeeping_is_opening_what_he_could_have(postgres: ThrowawayPostgres) -> None:
    with Proxy(postgres.port) as proxy, pool_on(postgres, 1, 1, proxy=proxy, max_lifetime=LONG, timeout=0) as pool:
        proxy.swallow()
        pool.putconn(pool.getconn(), close=True)
        wait_until(lambda: counts(pool)["opening"] == 1)
        # Nothing is lent, so the pool is not exhausted: this takes as long as opening a connection takes.
        borrower = Task(pool.getconn)
        proxy.heal()
        assert works(borrower.result())
        give_back(pool, borrower.result())


# Replacing


def test_drain_replaces_what_is_idle_now_and_what_is_lent_when_it_comes_back(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 3, 3) as pool:
        one, other, lent = borrow(pool, 3)
        give_back(pool, one, other)
        pool.drain()
        assert one.closed
        assert other.closed
        assert works(lent)
        assert counts(pool)["idle"] == 2
        give_back(pool, lent)
        assert lent.closed
        assert happened(pool) == {"connections_num": 5, "closed_drained": 3}
        pool.maintain()
        fresh = borrow(pool, 3)
        assert all(works(connection) for connection in fresh)
        assert not {one, other, lent} & set(fresh)
        give_back(pool, *fresh)
        assert happened(pool) == {"connections_num": 6, "closed_drained": 3}


def test_the_first_connection_is_replaced_on_borrow_once_it_is_too_old(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 1, max_lifetime=100) as pool:
        (old,) = idle(pool, 1)
        advance_clock(89)
        assert idle(pool, 1) == [old]
        advance_clock(12)
        connection = pool.getconn()
        assert connection is not old
        assert old.closed
        assert works(connection)
        give_back(pool, connection)
        assert happened(pool) == {"connections_num": 2, "closed_lifetime": 1}


def test_a_connection_that_became_too_old_in_its_borrowers_hands_is_closed_on_return(
    postgres: ThrowawayPostgres,
) -> None:
    with pool_on(postgres, 1, 1, max_lifetime=100) as pool:
        old = pool.getconn()
        advance_clock(101)
        assert works(old)
        give_back(pool, old)
        assert old.closed
        with pool.connection() as connection:
            assert works(connection)
        assert happened(pool)["closed_lifetime"] == 1


def test_idle_connections_that_are_too_old_are_replaced_by_the_housekeeping(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 2, 3, max_lifetime=100) as pool:
        before = idle(pool, 2)
        advance_clock(101)
        pool.maintain()
        wait_until(lambda: counts(pool)["idle"] == 2)
        assert not set(before) & set(pool._pool)
        assert happened(pool) == {"connections_num": 4, "closed_lifetime": 2}


def test_connections_that_were_opened_together_do_not_all_end_together(own_server: ThrowawayPostgres) -> None:
    with pool_on(own_server, 10, 10, max_lifetime=1000) as pool:
        before = set(idle(pool, 10))
        advance_clock(890)
        left = set()
        for _ in range(12):
            advance_clock(10)
            pool.maintain()
            left.add(len(before & set(pool._pool)))
        assert 0 in left
        assert len(left) > 3


def test_connections_above_minconn_are_kept_for_max_idle(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 4, max_idle=60) as pool:
        oldest, *others = idle(pool, 4)
        advance_clock(59)
        pool.maintain()
        assert counts(pool)["idle"] == 4
        # One is used, and starts anew.
        used = pool.getconn()
        assert used is others[-1]
        give_back(pool, used)
        advance_clock(2)
        pool.maintain()
        assert list(pool._pool) == [used]
        advance_clock(LONG)
        pool.maintain()
        assert list(pool._pool) == [used]
        assert oldest.closed
        assert happened(pool) == {"connections_num": 4, "closed_idle": 3}


@pytest.mark.parametrize(("max_idle", "kept"), [(None, 4), (0, 1)])
def test_without_a_term_connections_are_kept_for_ever_or_not_at_all(
    own_server: ThrowawayPostgres, max_idle: float | None, kept: int
) -> None:
    with pool_on(own_server, 1, 4, max_idle=max_idle) as pool:
        idle(pool, 4)
        assert counts(pool)["idle"] == kept
        advance_clock(1e6)
        pool.maintain()
        assert counts(pool)["idle"] == kept
        assert happened(pool).get("closed_surplus", 0) == 4 - kept


def test_the_housekeeping_closes_in_time_what_nobody_uses(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 4, max_idle=0.05) as pool:
        idle(pool, 4)
        wait_until(lambda: open_connections(pool) == 1)
        assert happened(pool) == {"connections_num": 4, "closed_idle": 3}


def test_the_housekeeping_replaces_in_time_what_is_too_old(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 2, 2, max_lifetime=0.1) as pool:
        before = set(pool._pool)
        wait_until(lambda: happened(pool).get("closed_lifetime", 0) >= 2 and counts(pool)["idle"] == 2)
        assert not before & set(pool._pool)
        pool.closeall()  # So that the books stand still when they are compared.


# What happens to new and to returned connections


def test_configure_is_called_with_every_new_connection_before_anybody_else_has_it(postgres: ThrowawayPostgres) -> None:
    seen = []

    def configure(connection: Any) -> None:
        connection.autocommit = True
        execute(connection, "set work_mem = '7MB'")
        seen.append(connection)

    with pool_on(postgres, 2, 3, check_after=0, configure=configure) as pool:
        assert set(seen) == set(pool._pool)
        lent = borrow(pool, 3)
        end(postgres, *lent)
        give_back(pool, *lent)
        pool.check()
        assert len(seen) == 5
        lent = borrow(pool, 3)
        assert [execute(connection, "show work_mem") for connection in lent] == ["7MB"] * 3
        assert set(seen) >= set(lent)
        give_back(pool, *lent)


@pytest.mark.parametrize("fault", ["raises", "leaves a transaction open", "closes"])
def test_a_connection_that_cannot_be_configured_is_closed_and_the_borrower_told(
    postgres: ThrowawayPostgres, fault: str
) -> None:
    seen = []

    def configure(connection: Any) -> None:
        seen.append(connection)
        if len(seen) != 2:
            return
        if fault == "raises":
            raise LookupError("no such setting")
        if fault == "closes":
            connection.close()
        else:
            execute(connection, "select 1")

    with pool_on(postgres, 1, 2, configure=configure) as pool:
        lent = pool.getconn()
        with pytest.raises(LookupError if fault == "raises" else psycopg2.Error):
            pool.getconn()
        assert seen[1].closed
        give_back(pool, lent)
        assert_whole(pool, timeout=0)


def test_discard_puts_the_session_back(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 1, reset="discard") as pool:
        connection = pool.getconn()
        execute(connection, "set work_mem = '7MB'; create temporary table mine (); listen news")
        execute(connection, "prepare it as select 1; select pg_advisory_lock(7)")
        connection.commit()
        give_back(pool, connection)
        again = pool.getconn()
        assert again is connection
        assert not again.autocommit
        assert execute(again, "show work_mem") != "7MB"
        assert execute(again, "select to_regclass('mine')") is None
        assert execute(again, "select count(*) from pg_listening_channels()") == 0
        assert execute(again, "select count(*) from pg_prepared_statements") == 0
        assert execute(again, "select count(*) from pg_locks where locktype = 'advisory'") == 0
        give_back(pool, again)
        assert happened(pool) == {"connections_num": 1}


def test_reset_is_called_after_the_rollback(postgres: ThrowawayPostgres) -> None:
    def reset(connection: Any) -> None:
        statuses.append(connection.info.transaction_status)
        connection.autocommit = True
        tables.append(execute(connection, "select to_regclass('unwanted')::text"))
        connection.autocommit = False

    statuses: list[int] = []
    tables: list[str | None] = []
    with pool_on(postgres, 1, 1, reset=reset) as pool:
        with pool.connection() as connection:
            execute(connection, "create table if not exists wanted ()")
        connection = pool.getconn()
        execute(connection, "create table unwanted ()")
        give_back(pool, connection)
        assert statuses == [psycopg2.extensions.TRANSACTION_STATUS_IDLE] * 2
        assert tables == [None, None]


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
            give_back(pool, connection)
        assert connection.closed
        assert len(caplog.records) == 1
        assert "reset" in caplog.text
        assert str(postgres.port) not in caplog.text
        assert open_connections(pool) == 0
        assert happened(pool)["returns_bad"] == 1


def test_connect_is_used_in_place_of_psycopg2s_with_what_the_pool_was_given(postgres: ThrowawayPostgres) -> None:
    with admin(postgres.dsn) as connection:
        for number in range(4):
            execute(connection, f"drop role if exists token{number}")
            execute(connection, f"create role token{number} login")
    tokens = iter(range(4))

    def connect(*args: Any, **kwargs: Any) -> Any:
        return psycopg2.connect(*args, **{**kwargs, "user": f"token{next(tokens)}"})

    with pool_on(postgres, 2, 4, check_after=0, connect=connect) as pool:
        dead = idle(pool, 2)
        end(postgres, *dead)
        lent = borrow(pool, 2)
        assert [execute(connection, "select current_user") for connection in lent] == ["token2", "token3"]
        give_back(pool, *lent)


def test_arguments_that_are_changed_hold_for_the_next_connect(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 3) as pool:
        old = pool.getconn()
        pool._kwargs["options"] = "-c work_mem=7MB"
        new = pool.getconn()
        assert execute(old, "show work_mem") != "7MB"
        assert execute(new, "show work_mem") == "7MB"
        give_back(pool, old, new)


# The books


def test_what_is_counted_is_what_happened(postgres: ThrowawayPostgres) -> None:
    with pool_on(postgres, 1, 2, check_after=0) as pool:
        lent = borrow(pool, 2)
        with pytest.raises(PoolExhausted):
            pool.getconn(timeout=0)
        waiter = waiting_task(pool)
        assert pool.get_stats()["requests_waiting"] == 1
        advance_clock(5)
        give_back(pool, lent[0])
        assert waiter.result() is lent[0]
        execute(lent[1], "begin")
        end(postgres, *lent)
        # The pool has a use for one of them, and neither of them is of any.
        with pytest.raises(psycopg2.OperationalError):
            execute(lent[0], "select 1")
        give_back(pool, *lent)
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
        give_back(pool, closed)
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
        lent = borrow(pool, 2)
        give_back(pool, lent[0])
        now = pool.get_stats()
        assert (now["pool_size"], now["pool_available"], now["requests_num"]) == (2, 1, 2)
        give_back(pool, lent[1])
