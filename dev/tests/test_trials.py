"""The judge of the reliability trials: it lets nothing pass that was promised and not kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

import pgpool_rs
from dev.load import Failure, Outcome, WrongAnswerError
from dev.servers.postgres import ThrowawayPostgres
from dev.trials import trial
from dev.trials.errors import LOST, REFUSED
from dev.trials.fault import Fault, Strike, count_sessions
from dev.trials.faults.servers import CHECK_AFTER, KilledSessions
from dev.trials.trial import Result, WrongServerError, ask_where, count_when_quiet, judge, time_to_capacity
from tests.lib.postgres import end, opened

STRIKE = Strike(began=100.0, returned=110.0)
DEAD = Failure("use", psycopg2.OperationalError, None, "server closed the connection unexpectedly")
SHUT = Failure("use", psycopg2.errors.AdminShutdown, "57P01", "terminating connection due to administrator command")
BROKEN_OFF = Failure("borrow", psycopg2.OperationalError, None, SHUT.text)


class Nothing(Fault):
    """Is a fault without a server, that explains two kinds of errors."""

    title = "nothing"
    explanations = (LOST, REFUSED)

    def __init__(self) -> None: ...


class Killed(KilledSessions):  # type: ignore[misc]  # final, but for a test that needs no server of its own
    def __init__(self, **killed: float) -> None:
        self._killed = {int(pid.strip("_")): moment for pid, moment in killed.items()}
        self._blamed = set()
        self._broken_off = 0


def outcome(failure: Failure | None, *, began: float = 105.0, lent: float | None = None, pid: int = 1) -> Outcome:
    """Give a request of 10 ms."""
    lent = began if lent is None and (failure is None or failure.phase != "borrow") else lent
    return Outcome("read", began, lent, began + 0.01, pid, failure)


def judged(*outcomes: Outcome, fault: Fault | None = None, **seen: Any) -> Result:
    """Judge a trial in which all else went well."""
    well: dict[str, Any] = {"back": 0.1, "pool_size": 3, "sessions": 3, "pace": 1.0}
    return judge(fault or Nothing(), STRIKE, [outcome(None), *outcomes], **{**well, **seen})


def test_what_the_fault_explains_is_counted_and_no_violation() -> None:
    result = judged(outcome(DEAD), outcome(DEAD), outcome(SHUT))
    assert result.violations == []
    assert result.explained == {"connection lost": 3}
    assert result.late == 0


@pytest.mark.parametrize(
    "failure",
    [
        Failure("use", WrongAnswerError, None, "asked for account 1, and got 2"),
        Failure("use", psycopg2.OperationalError, None, "out of memory"),
        Failure("use", psycopg2.ProgrammingError, None, DEAD.text),
        Failure("borrow", psycopg2.OperationalError, None, DEAD.text),
        Failure("borrow", pgpool_rs.PoolTimeout, None, "no connection came free"),
    ],
    ids=lambda failure: f"{failure.phase} {failure.error.__name__}",
)
def test_an_error_that_the_fault_cannot_cause_is_a_violation_and_quoted(failure: Failure) -> None:
    (violation,) = judged(outcome(failure)).violations
    assert failure.text in violation


@pytest.mark.parametrize("began", [90.0, 110.5])
def test_an_error_from_before_or_after_the_fault_is_a_violation(began: float) -> None:
    assert judged(outcome(DEAD, began=began)).violations


def test_a_pool_that_is_late_is_a_violation() -> None:
    assert judged(back=5.1).violations
    assert judged(back=float("inf")).violations


def test_another_number_of_sessions_than_the_pools_is_a_violation() -> None:
    assert judged(sessions=4).violations


def test_an_error_of_the_housekeeping_is_a_violation() -> None:
    assert judged(troubles=["it met an error"]).violations


@pytest.mark.parametrize(
    ("failures", "unexplained"),
    [
        ([outcome(SHUT, began=105.0)], 0),
        ([outcome(SHUT, began=105.0 + CHECK_AFTER)], 0),
        ([outcome(SHUT, began=105.0 + CHECK_AFTER + 1)], 1),
        ([outcome(SHUT, began=103.0)], 1),
        ([outcome(SHUT, pid=2)], 1),
        ([outcome(SHUT), outcome(DEAD)], 1),
        ([outcome(BROKEN_OFF)], 0),
        ([outcome(BROKEN_OFF, began=111.0)], 1),
        ([outcome(SHUT), outcome(BROKEN_OFF)], 1),
    ],
    ids=[
        "at once",
        "within check_after",
        "later",
        "before",
        "another session",
        "twice",
        "while connecting",
        "while connecting, later",
        "once, and while connecting",
    ],
)
def test_an_ended_session_explains_one_failure_of_its_own_and_no_later_one(
    failures: Sequence[Outcome], unexplained: int
) -> None:
    assert len(judged(*failures, fault=Killed(_1=105.0)).violations) == unexplained


def test_a_connection_that_leads_elsewhere_or_takes_no_writes_is_no_capacity(own_server: ThrowawayPostgres) -> None:
    connection = psycopg2.connect(own_server.dsn)
    ask_where(connection, port=own_server.port)
    with pytest.raises(WrongServerError):
        ask_where(connection, port=own_server.port + 1)
    connection.rollback()
    connection.readonly = True
    with pytest.raises(WrongServerError):
        ask_where(connection, port=own_server.port)
    connection.close()


def test_capacity_is_back_when_all_connections_can_be_held_and_are_given_back(
    own_server: ThrowawayPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "PATIENCE", 0.2)
    outcomes: list[Outcome] = []
    with opened(pgpool_rs.ThreadedConnectionPool(1, 3, own_server.dsn)) as pool:
        assert time_to_capacity(pool, own_server.port, time.monotonic(), outcomes) < float("inf")
        assert "lent=0" in repr(pool)
        pool.getconn()
        assert time_to_capacity(pool, own_server.port, time.monotonic(), outcomes) == float("inf")
    assert outcomes[-1].failure is not None
    assert outcomes[-1].failure.error is pgpool_rs.PoolExhausted


def test_sessions_that_the_pool_does_not_know_of_are_counted(
    own_server: ThrowawayPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "PROMISED", 0.2)
    fault = Nothing()
    fault.server = own_server
    pool = pgpool_rs.ThreadedConnectionPool(2, 3, own_server.dsn, application_name="counted")
    with opened(pool), ExitStack() as stack:
        assert count_when_quiet(pool, fault, "counted") == (2, 2)
        stranger = psycopg2.connect(own_server.dsn, application_name="counted")
        stack.callback(stranger.close)
        assert count_when_quiet(pool, fault, "counted") == (2, 3)
        end(own_server, stranger, *pool._pool[:1])
        assert count_when_quiet(pool, fault, "counted") == (2, 1)
        assert count_sessions(own_server, "nobody") == 0
