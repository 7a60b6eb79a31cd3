"""The judge of the reliability trials: it lets nothing pass that was promised and not kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

import pgpool_rs
from dev.load import Failure, Outcome, WrongAnswerError
from dev.trials.errors import LOST, REFUSED
from dev.trials.fault import Fault, Strike
from dev.trials.faults.servers import CHECK_AFTER, KilledSessions
from dev.trials.trial import Result, judge

STRIKE = Strike(began=100.0, returned=110.0)
DEAD = Failure("use", psycopg2.OperationalError, None, "server closed the connection unexpectedly")
SHUT = Failure("use", psycopg2.errors.AdminShutdown, "57P01", "terminating connection due to administrator command")


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
    assert (result.violations, result.explained) == ([], {"connection lost": 3})


@pytest.mark.parametrize(
    "failure",
    [
        Failure("use", WrongAnswerError, None, "asked for account 1, and got 2"),
        Failure("use", psycopg2.ProgrammingError, None, DEAD.text),
        Failure("borrow", pgpool_rs.PoolTimeout, None, "no connection came free"),
    ],
    ids=lambda failure: f"{failure.phase} {failure.error.__name__}",
)
def test_an_error_that_the_fault_cannot_cause_is_a_violation_and_quoted(failure: Failure) -> None:
    (violation,) = judged(outcome(failure)).violations
    assert failure.text in violation


@pytest.mark.parametrize("seen", [{"back": 5.1}, {"sessions": 4}, {"troubles": ["it met an error"]}], ids=str)
def test_a_pool_that_is_late_or_has_other_sessions_or_trouble_is_a_violation(seen: dict[str, Any]) -> None:
    assert judged(**seen).violations


@pytest.mark.parametrize("began", [90.0, 110.5])
def test_an_error_from_before_or_after_the_fault_is_a_violation(began: float) -> None:
    assert judged(outcome(DEAD, began=began)).violations


@pytest.mark.parametrize(
    ("failures", "unexplained"),
    [
        ([outcome(SHUT, began=105.0 + CHECK_AFTER)], 0),
        ([outcome(SHUT, began=105.0 + CHECK_AFTER + 1)], 1),
        ([outcome(SHUT, pid=2)], 1),
        ([outcome(SHUT), outcome(DEAD)], 1),
    ],
    ids=["within check_after", "later", "another session", "twice"],
)
def test_an_ended_session_explains_one_failure_of_its_own_and_no_later_one(
    failures: Sequence[Outcome], unexplained: int
) -> None:
    assert len(judged(*failures, fault=Killed(_1=105.0)).violations) == unexplained
