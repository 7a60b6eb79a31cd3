"""The load of the trials and the soak records each failure."""

from __future__ import annotations

import psycopg2

import pgpool_rs
from dev.load import READ, WRITE, Outcome, WrongAnswerError, pool_load, prepare
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.standby import ask
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import end, opened
from tests.lib.waits import wait_until


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
