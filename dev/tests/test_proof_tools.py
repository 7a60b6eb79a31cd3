"""What the proofs rest on: a standby that follows and takes over, and a load that notices each failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.pool
import pytest

import pgpool_rs
from dev.load import MIXED, READ, WRITE, Outcome, Work, WrongAnswerError, pool_load, prepare
from dev.servers import pgbouncer
from dev.servers.pgbouncer import BINARY_VARIABLE, find_pgbouncer
from dev.servers.postgres import PostgresError, ThrowawayPostgres
from dev.servers.standby import ask, either_of, promote, wait_until_followed
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import end, opened
from tests.lib.waits import wait_until

# The standby


@pytest.fixture
def pair() -> Iterator[tuple[ThrowawayPostgres, ThrowawayPostgres]]:
    """Give a primary and its standby, both running."""
    with ThrowawayPostgres() as primary, ThrowawayPostgres(standby_of=primary) as standby:
        yield primary, standby


def test_a_standby_follows_its_primary_and_takes_over_when_that_is_dead(
    pair: tuple[ThrowawayPostgres, ThrowawayPostgres],
) -> None:
    primary, standby = pair
    ask(primary, "create table followed as select 42 as answer")
    wait_until_followed(primary, standby)
    assert ask(standby, "select answer from followed") == 42
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        ask(standby, "drop table followed")
    connection = psycopg2.connect(**either_of(standby, primary))
    assert connection.info.port == primary.port
    connection.close()
    primary.kill()
    promote(standby)
    connection = psycopg2.connect(**either_of(primary, standby))
    assert connection.info.port == standby.port
    connection.close()
    ask(standby, "drop table followed")


def test_a_standby_is_found_by_what_it_is(pair: tuple[ThrowawayPostgres, ThrowawayPostgres]) -> None:
    primary, standby = pair
    connection = psycopg2.connect(**either_of(primary, standby, attributes="standby"))
    assert connection.info.port == standby.port
    connection.close()


def test_a_standby_of_a_server_that_does_not_run_cannot_be_made_and_leaves_nothing() -> None:
    primary = ThrowawayPostgres()
    standby = ThrowawayPostgres(standby_of=primary)
    with pytest.raises(PostgresError):
        standby.start()
    with pytest.raises(PostgresError):
        _ = standby.folder


# PgBouncer, as far as it goes where it is not installed


def test_a_pgbouncer_that_is_nowhere_is_reported_with_the_places_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, "/nowhere/pgbouncer")
    with pytest.raises(PostgresError, match="/nowhere/pgbouncer"):
        find_pgbouncer()


def test_where_pgbouncer_cannot_be_fetched_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, "/nowhere/pgbouncer")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PostgresError, match=f"name it in {BINARY_VARIABLE}"):
        pgbouncer.install()


# The load


@pytest.mark.parametrize("pool_class", [pgpool_rs.ThreadedConnectionPool, psycopg2.pool.ThreadedConnectionPool])
def test_all_that_a_load_does_succeeds_on_a_sound_server(own_server: ThrowawayPostgres, pool_class: Any) -> None:
    prepare(own_server.dsn)
    outcomes: list[Outcome] = []
    with opened(pool_class(2, 4, own_server.dsn)) as pool, pool_load(pool, outcomes.append, threads=4):
        wait_until(lambda: {work.name for work in MIXED} <= {outcome.work for outcome in outcomes})
    assert not [outcome for outcome in outcomes if outcome.failure]
    assert all(outcome.lent and outcome.began <= outcome.lent <= outcome.ended for outcome in outcomes)
    assert ask(own_server, "select sum(visits) > 0 from load_accounts")


def test_a_failure_is_recorded_with_its_class_its_place_and_whom_it_met(own_server: ThrowawayPostgres) -> None:
    prepare(own_server.dsn)
    outcomes: list[Outcome] = []
    with opened(pgpool_rs.ThreadedConnectionPool(1, 1, own_server.dsn, check=None, timeout=PATIENCE)) as pool:
        load = pool_load(pool, outcomes.append, threads=2, works=[WRITE])
        load.start()
        with load.resting():
            (connection,) = pool._pool
            pid = connection.info.backend_pid
            end(own_server, connection)
            before = len(outcomes)
        wait_until(lambda: len(outcomes) > before + 4)
        load.stop()
    (failed,) = [outcome for outcome in outcomes if outcome.failure]
    assert failed.failure is not None
    assert failed.failure.phase == "use"
    assert issubclass(failed.failure.error, psycopg2.OperationalError)
    assert failed.pid == pid
    assert failed.lent is not None


def test_a_request_that_gets_no_connection_is_recorded_as_such(own_server: ThrowawayPostgres) -> None:
    outcomes: list[Outcome] = []
    with (
        opened(pgpool_rs.ThreadedConnectionPool(0, 0, own_server.dsn)) as pool,
        pool_load(pool, outcomes.append, threads=1),
    ):
        wait_until(lambda: bool(outcomes))
    failure = outcomes[0].failure
    assert failure is not None
    assert (failure.phase, failure.error, outcomes[0].lent) == ("borrow", pgpool_rs.PoolExhausted, None)


def test_a_wrong_answer_is_a_failure(own_server: ThrowawayPostgres) -> None:
    prepare(own_server.dsn)
    ask(own_server, "delete from load_accounts")
    outcomes: list[Outcome] = []
    with (
        opened(pgpool_rs.ThreadedConnectionPool(1, 1, own_server.dsn)) as pool,
        pool_load(pool, outcomes.append, threads=1, works=[READ]),
    ):
        wait_until(lambda: bool(outcomes))
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.error is WrongAnswerError


def test_a_resting_load_makes_no_request_and_goes_on_afterwards(own_server: ThrowawayPostgres) -> None:
    prepare(own_server.dsn)
    outcomes: list[Outcome] = []
    with (
        opened(pgpool_rs.ThreadedConnectionPool(1, 3, own_server.dsn)) as pool,
        pool_load(pool, outcomes.append, threads=3) as load,
    ):
        wait_until(lambda: bool(outcomes))
        with load.resting():
            assert "lent=0" in repr(pool)
            rested = time.monotonic()
        wait_until(lambda: outcomes[-1].began > rested)


def test_a_load_raises_what_ended_one_of_its_threads(own_server: ThrowawayPostgres) -> None:
    def leave(*_: Any) -> None:
        raise SystemExit

    with opened(pgpool_rs.ThreadedConnectionPool(1, 1, own_server.dsn)) as pool:
        load = pool_load(pool, print, threads=1, works=[Work("leave", leave)])
        load.start()
        wait_until(lambda: not any(thread.name.startswith("load ") for thread in threading.enumerate()))
        with pytest.raises(SystemExit):
            load.stop()
