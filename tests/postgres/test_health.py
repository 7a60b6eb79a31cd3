"""Nobody is lent a dead connection: real servers, killed, restarted, paused and cut off, with TLS and without."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

import pgpool_rs
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import Proxy
from dev.servers.standby import promote
from pgpool_rs._core import advance_clock
from tests.lib.pools import assert_whole, give_back, lend
from tests.lib.postgres import admin, end, happened, make_idle, pool_on, wait_until_readable, works
from tests.lib.statements import execute
from tests.lib.waits import Task, counts, wait_until

# Longer than the default of check_after.
A_WHILE = 1.0
IMPATIENT = partial(pgpool_rs.check_query, timeout=0.1)
IDLE = psycopg2.extensions.TRANSACTION_STATUS_IDLE


@pytest.fixture(params=["own_server", "own_tls_server"], ids=["plain", "tls"])
def postgres(request: pytest.FixtureRequest) -> ThrowawayPostgres:
    """Give a server that the test may ill-treat, without TLS and then with."""
    server: ThrowawayPostgres = request.getfixturevalue(request.param)
    return server


@pytest.fixture(params=[pgpool_rs.check_socket, pgpool_rs.check_query], ids=["socket", "query"])
def check(request: pytest.FixtureRequest) -> Any:
    """Give each check that there is."""
    return request.param


# Death while idle


@pytest.mark.parametrize("when", ["after a while", "at once"])
def test_a_connection_that_died_while_idle_is_replaced_before_it_is_lent(
    postgres: ThrowawayPostgres, check: Any, when: str
) -> None:
    with pool_on(postgres, 1, 2, check=check, check_after=0.5 if when == "after a while" else 0) as pool:
        (dead,) = make_idle(pool, 1)
        end(postgres, dead)
        if when == "after a while":
            advance_clock(A_WHILE)
        connection = pool.getconn()
        assert connection is not dead
        assert dead.closed
        assert works(connection)
        pool.putconn(connection)
        assert happened(pool) == {"connections_num": 2, "connections_lost": 1, "checks_failed": 1, "closed_lost": 1}


def test_a_death_is_logged_once_and_without_the_address(
    own_server: ThrowawayPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_on(own_server, 1, 1, check_after=0, name="orders") as pool:
        end(own_server, *make_idle(pool, 1))
        with caplog.at_level(logging.INFO, "pgpool_rs"):
            pool.putconn(pool.getconn())
        (record,) = (record for record in caplog.records if record.name == "pgpool_rs.orders")
        assert record.levelno == logging.WARNING
        assert "lost" in record.getMessage()
        assert str(own_server.port) not in caplog.text


def test_of_several_only_the_dead_ones_are_replaced(postgres: ThrowawayPostgres, check: Any) -> None:
    with pool_on(postgres, 4, 4, check=check, check_after=0) as pool:
        well, dead, fine, gone = make_idle(pool, 4)
        end(postgres, dead, gone)
        lent = lend(pool, 4)
        assert all(works(connection) for connection in lent)
        assert {well, fine} < set(lent)
        assert not {dead, gone} & set(lent)
        give_back(pool, lent)
        assert happened(pool)["closed_lost"] == 2


@pytest.mark.parametrize(
    "restart",
    [
        ThrowawayPostgres.restart,
        lambda server: server.restart("immediate"),
        lambda server: (server.kill(), server.start()),
    ],
    ids=["fast", "immediate", "killed"],
)
def test_after_a_restart_of_the_server_every_borrower_has_a_working_connection(
    postgres: ThrowawayPostgres, check: Any, restart: Callable[[ThrowawayPostgres], object]
) -> None:
    with pool_on(postgres, 3, 3, check=check, check_after=0) as pool:
        before = make_idle(pool, 3)
        restart(postgres)
        lent = lend(pool, 3)
        assert all(works(connection) for connection in lent)
        assert not set(before) & set(lent)
        give_back(pool, lent)
        assert_whole(pool, timeout=0)


def test_while_the_server_is_down_getconn_raises_the_connects_error_and_loses_no_slot(
    postgres: ThrowawayPostgres, check: Any
) -> None:
    with pool_on(postgres, 2, 3, check=check, check_after=0) as pool:
        make_idle(pool, 2)
        postgres.kill()
        for _ in range(5):
            with pytest.raises(psycopg2.OperationalError, match="refused"):
                pool.getconn()
        assert happened(pool)["connections_errors"] >= 5
        assert happened(pool)["checks_failed"] == 2
        postgres.start()
        with pool.connection() as connection:
            assert works(connection)
        wait_until(lambda: counts(pool)["opening"] == 0)
        assert_whole(pool, timeout=0)


@pytest.mark.parametrize("fault", ["paused", "swallowed"])
def test_a_server_that_says_nothing_is_given_up_when_the_querys_time_is_over(
    postgres: ThrowawayPostgres, fault: str
) -> None:
    with Proxy(postgres.port) as proxy, pool_on(postgres, 2, 2, proxy=proxy, check=IMPATIENT, check_after=0) as pool:
        before = make_idle(pool, 2)
        begin, heal = (postgres.pause, postgres.resume) if fault == "paused" else (proxy.swallow, proxy.heal)
        begin()
        borrower = Task(pool.getconn)
        # Both are given up, and then a new one is asked for, which takes as long as the fault lasts.
        wait_until(lambda: happened(pool).get("checks_failed") == 2 and counts(pool)["opening"] > 0)
        assert not borrower.done
        heal()
        connection = borrower.result()
        assert connection not in before
        assert works(connection)
        pool.putconn(connection)
        wait_until(lambda: counts(pool)["opening"] == 0)
        assert_whole(pool, timeout=0)


def test_a_connection_that_was_cut_off_is_replaced(postgres: ThrowawayPostgres, check: Any) -> None:
    with Proxy(postgres.port) as proxy, pool_on(postgres, 2, 2, proxy=proxy, check=check, check_after=0) as pool:
        before = make_idle(pool, 2)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            pool.getconn()
        assert happened(pool)["closed_lost"] == 2
        proxy.heal()
        lent = lend(pool, 2)
        assert all(works(connection) for connection in lent)
        assert not set(before) & set(lent)
        give_back(pool, lent)


# After one death


def test_after_a_failed_query_older_connections_are_checked_though_they_were_used_just_now(
    postgres: ThrowawayPostgres,
) -> None:
    with pool_on(postgres, 3, 3, check_after=3600) as pool:
        well, dead, first = make_idle(pool, 3)
        end(postgres, dead, first)
        assert pool.getconn() is first
        with pytest.raises(psycopg2.OperationalError):
            execute(first, "select 1")
        pool.putconn(first)
        assert happened(pool) == {"connections_num": 3, "connections_lost": 1, "closed_lost": 1, "returns_bad": 1}
        lent = lend(pool, 3)
        assert all(works(connection) for connection in lent)
        assert well in lent
        give_back(pool, lent)
        assert happened(pool)["checks_failed"] == 1


def test_after_a_failed_connect_older_connections_are_checked_though_they_were_used_just_now(
    postgres: ThrowawayPostgres,
) -> None:
    with pool_on(postgres, 1, 2, check_after=3600) as pool:
        lent = pool.getconn()
        pool._kwargs["port"] = 1
        with pytest.raises(psycopg2.OperationalError):
            pool.getconn()
        pool._kwargs["port"] = postgres.port
        pool.putconn(lent)
        end(postgres, lent)
        connection = pool.getconn()
        assert connection is not lent
        assert works(connection)
        pool.putconn(connection)


# Signs of life


@contextmanager
def pool_that_listens(postgres: ThrowawayPostgres, listen: str, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Give a pool with one connection, idle, that has executed this statement."""
    with pool_on(postgres, 1, 1, check_after=0, **options) as pool:
        connection = pool.getconn()
        connection.autocommit = True
        execute(connection, listen)
        pool.putconn(connection)
        yield pool, connection


def test_a_pending_notification_is_no_death_and_is_kept(postgres: ThrowawayPostgres, check: Any) -> None:
    with pool_that_listens(postgres, "listen news", check=check) as (pool, connection):
        with admin(postgres.dsn) as other:
            execute(other, "notify news, 'first'")
            wait_until_readable(connection)
            assert pool.getconn() is connection
            pool.putconn(connection)
            execute(other, "notify news, 'second'")
            wait_until_readable(connection)
            pool.check()
            assert pool.getconn() is connection
        assert [notification.payload for notification in connection.notifies] == ["first", "second"]
        assert works(connection)
        pool.putconn(connection)
        assert happened(pool) == {"connections_num": 1}


def test_more_notifications_than_are_read_at_once_are_no_death_and_are_kept(postgres: ThrowawayPostgres) -> None:
    with pool_that_listens(postgres, "listen news") as (pool, connection):
        with admin(postgres.dsn) as other:
            execute(other, "select count(pg_notify('news', n || repeat('x', 7000))) from generate_series(1, 100) n")
        wait_until_readable(connection)
        assert pool.getconn() is connection
        assert works(connection)
        assert len(connection.notifies) == 100
        pool.putconn(connection)


def test_a_death_behind_notifications_is_noticed(postgres: ThrowawayPostgres, check: Any) -> None:
    with pool_that_listens(postgres, "listen news", check=check) as (pool, connection):
        with admin(postgres.dsn) as other:
            execute(other, "select count(pg_notify('news', n || repeat('x', 7000))) from generate_series(1, 5) n")
        wait_until_readable(connection)
        end(postgres, connection)
        replacement = pool.getconn()
        assert replacement is not connection
        assert works(replacement)
        pool.putconn(replacement)


def test_a_pending_notice_is_no_death(postgres: ThrowawayPostgres, check: Any) -> None:
    # A listening session says so when it is woken, be it for a channel of no interest to it.
    with pool_that_listens(
        postgres, "listen mine; set client_min_messages = debug1; set trace_notify = on", check=check
    ) as (pool, connection):
        with admin(postgres.dsn) as other:
            execute(other, "notify others")
        wait_until_readable(connection)
        assert pool.getconn() is connection
        assert any("ProcessIncomingNotify" in notice for notice in connection.notices)
        assert works(connection)
        pool.putconn(connection)
        assert happened(pool) == {"connections_num": 1}


# Other checks


def test_all_idle_connections_can_be_checked_now(postgres: ThrowawayPostgres, check: Any) -> None:
    with pool_on(postgres, 3, 3, check=check, check_after=3600) as pool:
        well, dead, gone = make_idle(pool, 3)
        end(postgres, dead, gone)
        pool.check()
        wait_until(lambda: counts(pool)["idle"] == 3)
        assert happened(pool) == {"connections_num": 5, "connections_lost": 2, "checks_failed": 2, "closed_lost": 2}
        lent = lend(pool, 3)
        assert well in lent
        assert all(works(connection) for connection in lent)
        give_back(pool, lent)


# Death in a borrower's hands


@pytest.mark.parametrize("last_words", ["select pg_terminate_backend(pg_backend_pid())", "select 1"])
def test_a_connection_that_dies_in_a_block_is_replaced(postgres: ThrowawayPostgres, last_words: str) -> None:
    with pool_on(postgres, 2, 2, check_after=3600) as pool:
        other, dead = make_idle(pool, 2)
        with pytest.raises(psycopg2.OperationalError), pool.connection() as connection:
            assert connection is dead
            if last_words == "select 1":
                end(postgres, dead)
            execute(connection, last_words)
        assert happened(pool) == {"connections_num": 2, "connections_lost": 1, "closed_lost": 1, "returns_bad": 1}
        lent = lend(pool, 2)
        assert other in lent
        assert dead not in lent
        give_back(pool, lent)


def test_a_connection_that_dies_in_a_transaction_is_a_death_though_only_the_return_notices(
    postgres: ThrowawayPostgres,
) -> None:
    with pool_on(postgres, 2, 2, check_after=3600) as pool:
        other, dead = lend(pool, 2)
        pool.putconn(other)
        assert works(dead)
        end(postgres, dead, other)
        pool.putconn(dead)
        assert happened(pool) == {"connections_num": 2, "connections_lost": 1, "closed_lost": 1, "returns_bad": 1}
        connection = pool.getconn()
        assert works(connection)
        pool.putconn(connection)


def test_an_answer_that_says_read_only_replaces_that_connection_and_every_older_one(
    postgres: ThrowawayPostgres,
) -> None:
    with pool_on(postgres, 0, 4, check_after=3600, max_idle=None) as pool:
        oldest, older, demoted, younger = lend(pool, 4)
        give_back(pool, [younger, oldest, demoted])
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction) as raised, pool.connection() as connection:
            assert connection is demoted
            execute(connection, "set default_transaction_read_only = on")
            connection.commit()
            execute(connection, "create table refused ()")
        assert raised.value.pgcode == "25006"
        pool.putconn(older)
        lent = lend(pool, 4)
        assert younger in lent
        assert not {oldest, older, demoted} & set(lent)
        assert oldest.closed
        assert older.closed
        assert demoted.closed
        give_back(pool, lent)
        assert happened(pool) == {
            "connections_num": 7,
            "connections_lost": 1,
            "closed_lost": 1,
            "closed_drained": 2,
            "returns_bad": 1,
        }


def test_a_hot_standby_that_takes_no_write_has_its_connections_replaced_and_one_that_was_promoted_has_not(
    own_server: ThrowawayPostgres,
) -> None:
    with ThrowawayPostgres(standby_of=own_server) as standby, pool_on(standby, 0, 2, max_idle=None) as pool:
        older, demoted = make_idle(pool, 2)
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), pool.connection() as connection:
            assert connection is demoted
            execute(connection, "create table refused ()")
        lent = make_idle(pool, 2)
        assert (older.closed, demoted.closed) == (1, 1)
        promote(standby)
        # Each answer of the server's brings its reports along.
        assert [works(connection) for connection in lend(pool, 2)] == [True, True]
        give_back(pool, lent)
        fail_to_write(pool)
        with pool.connection() as connection:
            execute(connection, "create table taken ()")
        assert set(make_idle(pool, 2)) == set(lent)


@pytest.mark.parametrize("how", ["set transaction read only", "readonly"])
def test_a_transaction_that_its_borrower_made_read_only_replaces_nothing(postgres: ThrowawayPostgres, how: str) -> None:
    with pool_on(postgres, 0, 8, check_after=3600, max_idle=None) as pool:
        connections = make_idle(pool, 8)
        fail_to_write(pool, how)
        assert set(make_idle(pool, 8)) == set(connections)
        assert happened(pool) == {"connections_num": 8}


def fail_to_write(pool: Any, how: str = "set transaction read only") -> None:
    """Write in a transaction that was made read only, by a statement or by psycopg2."""
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), pool.connection() as connection:
        if how == "readonly":
            connection.readonly = True
        else:
            execute(connection, how)
        execute(connection, "create table refused ()")


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P03", "08000", "08001", "08006", "08P01", "25006"])
def test_an_error_that_a_function_raises_with_the_code_of_a_lost_server_replaces_nothing(
    own_server: ThrowawayPostgres, code: str
) -> None:
    """As dblink does where another server is away, or takes no writes."""
    test_any_other_answer_replaces_nothing(own_server, code)


@pytest.mark.parametrize("code", ["22012", "23505", "25P02", "40001", "42703", "53300", "57014", "57P04", "XX000"])
def test_any_other_answer_replaces_nothing(own_server: ThrowawayPostgres, code: str) -> None:
    with pool_on(own_server, 2, 2, check_after=3600) as pool:
        before = make_idle(pool, 2)
        with pytest.raises(psycopg2.Error) as raised, pool.connection() as connection:
            execute(connection, f"do $$ begin raise exception using errcode = '{code}'; end $$")
        assert raised.value.pgcode == code
        assert set(make_idle(pool, 2)) == set(before)
        assert happened(pool) == {"connections_num": 2}
