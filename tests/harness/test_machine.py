"""PoolMachine passes every pool that keeps what it promises, and says of others what they break."""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg2.pool
import pytest
from hypothesis import Phase, settings
from hypothesis.errors import Flaky

from pgpool_rs import SharedLimit, SimpleConnectionPool, ThreadedConnectionPool
from pgpool_rs.testing import INVARIANTS, BrokenInvariant, FakeServer, PoolMachine, Promises
from pgpool_rs.testing.machine import judge
from pgpool_rs.testing.machine.rules import rule
from tests.lib.limits import PretendedLimit

# What psycopg2.pool does not survive: docs/migrating.md has each in its table of differences.
THEIR_FAULTS = {"rollback", "close", "wrong_key", "number_keys", "accounts"}


class Wrapper:
    """Passes on what any pool has, and no more."""

    def __init__(self, pool: Any) -> None:
        self._inner = pool

    def getconn(self, key: Any = None) -> Any:
        return self._inner.getconn(key)

    def putconn(self, conn: Any, key: Any = None, close: bool = False) -> None:
        self._inner.putconn(conn, key, close)

    def closeall(self) -> None:
        self._inner.closeall()


class Urgent(ThreadedConnectionPool):
    """Lends with priority."""

    # The machine also resizes to one connection, which a reserve of one refuses.
    resize: Any = None

    def getconn(self, key: Any = None, *, timeout: Any = ..., priority: bool = True) -> Any:
        """Take the reserve, too."""
        return super().getconn(key, timeout=timeout, priority=priority)


class Subclass(ThreadedConnectionPool):
    """Overrides what people override."""

    def _connect(self, key: Any = None) -> Any:
        return super()._connect(key)

    def getconn(self, key: Any = None, *, timeout: Any = 0) -> Any:  # type: ignore[override]
        return super().getconn(key, timeout=timeout)


def threaded(minconn: int, maxconn: int, **options: Any) -> Callable[[FakeServer], Any]:
    return lambda server: ThreadedConnectionPool(minconn, maxconn, **options)


KINDS: dict[str, tuple[Callable[[FakeServer], Any], dict[str, Any]]] = {
    "simple": (lambda _: SimpleConnectionPool(1, 3), {"minconn": 1}),
    "simple, shared": (lambda _: SimpleConnectionPool(1, 3), {"minconn": 1, "threads": True}),
    "threaded": (threaded(1, 3), {"minconn": 1}),
    "connect given": (lambda server: ThreadedConnectionPool(0, 3, connect=server.connect), {}),
    "timeout": (threaded(0, 3, timeout=5), {}),
    "max_idle": (threaded(1, 3, max_idle=60), {"minconn": 1, "max_idle": 60}),
    "max_lifetime": (threaded(2, 3, max_lifetime=600), {"minconn": 2, "max_lifetime": 600}),
    "check_socket": (threaded(2, 3, max_idle=60, check_after=0), {"minconn": 2, "max_idle": 60, "check": True}),
    "check": (lambda server: ThreadedConnectionPool(1, 3, max_idle=None, check=server.check, check_after=0),
              {"minconn": 1, "check": True}),
    "background": (threaded(1, 3, background=True, max_idle=60, reset="discard", leak_after=30),
                   {"minconn": 1, "max_idle": 60}),
    "others": (threaded(1, 3, name="others", max_waiting=9, configure=lambda _: None, open_workers=2,
                        listener=SimpleNamespace(borrowed=lambda *_: None, returned=lambda *_: None)),
               {"minconn": 1}),
    "grow": (threaded(1, 3, grow="workers"), {"minconn": 1}),
    "grow, waiting": (threaded(0, 3, grow="workers", open_workers=2, timeout=5, max_idle=60), {"max_idle": 60}),
    "opened": (lambda _: ThreadedConnectionPool(1, 3, open=False).__enter__(), {"minconn": 1}),
    "reconnect_backoff": (threaded(1, 3, reconnect_backoff=(0.001, 0.01)), {"minconn": 1, "backs_off": True}),
    "order": (threaded(2, 3, order="fifo"), {"minconn": 2}),
    "reserve": (lambda _: Urgent(1, 3, reserve=1), {"minconn": 1}),
    "limit": (lambda _: ThreadedConnectionPool(1, 3, limit=PretendedLimit(3)), {"minconn": 1}),
    "shared limit": (lambda _: ThreadedConnectionPool(1, 3, limit=SharedLimit(3)), {"minconn": 1}),
    "reclaim": (threaded(1, 3, reset="discard", reclaim=True), {"minconn": 1}),
    "subclass": (lambda _: Subclass(1, 3), {"minconn": 1}),
    "wrapper": (lambda _: Wrapper(ThreadedConnectionPool(1, 3)), {"minconn": 1, "parallel": True}),
    "wrapper that waits": (lambda _: Wrapper(ThreadedConnectionPool(1, 3, timeout=None)),
                           {"minconn": 1, "parallel": True, "waits": "always"}),
    "psycopg2 simple": (lambda _: psycopg2.pool.SimpleConnectionPool(1, 3), {"minconn": 1, "spare": THEIR_FAULTS}),
    "psycopg2 threaded": (lambda _: psycopg2.pool.ThreadedConnectionPool(1, 3),
                          {"minconn": 1, "spare": THEIR_FAULTS}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for what has gone wrong to come right: what is broken here stays so."""
    monkeypatch.setattr(judge, "PATIENCE", 1.0)


def run(case: Any, max_examples: int | None = None, **more: Any) -> None:
    if max_examples is not None:
        more["max_examples"] = max_examples
    case.settings = settings(case.settings, database=None, derandomize=True, **more)
    case("runTest").runTest()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_that_keeps_its_promises_passes(kind: str) -> None:
    factory, promises = KINDS[kind]
    run(PoolMachine.over(factory, maxconn=3, **promises), 8)


def test_a_pool_that_backs_off_for_ever_loses_room() -> None:
    case = PoolMachine.over(threaded(0, 3, reconnect_backoff=(1e6, 1e6)), maxconn=3, backs_off=True)
    with pytest.raises(BrokenInvariant, match="connects no more"):
        run(case, 100, phases=[Phase.generate])


THEIR_MISTAKES = {
    "rollback": "nothing_lost: ",
    "close": "nothing_lost: ",
    "wrong_key": "nothing_lost: ",
    "number_keys": "one_holder: ",
    "accounts": "lent_clean: ",
    "check": "only_sound_lent: .* the server had ended it before",
}


@pytest.mark.parametrize("fault", THEIR_MISTAKES)
def test_the_machine_finds_what_psycopg2_pool_gets_wrong(fault: str) -> None:
    promises: dict[str, Any] = {"maxconn": 3, "minconn": 1, "spare": THEIR_FAULTS - {fault}, "check": fault == "check"}
    case = PoolMachine.over(lambda _: psycopg2.pool.SimpleConnectionPool(1, 3), **promises)
    with pytest.raises(BrokenInvariant, match=f"^{THEIR_MISTAKES[fault]}"):
        run(case, 1000, phases=[Phase.generate])


def test_it_is_said_which_account_has_a_transaction_and_what_was_left() -> None:
    class Machine(PoolMachine):
        promises = Promises(maxconn=1, minconn=1)

        def make_pool(self, server: FakeServer) -> Any:
            return psycopg2.pool.SimpleConnectionPool(1, 1)

    for what, said in (
        ("BEGIN in autocommit", "libpq's account: libpq says INTRANS, psycopg2 says READY"),
        ("ROLLBACK in SQL", "psycopg2's account: libpq says IDLE, psycopg2 says BEGIN"),
        ("tpc_prepare", "psycopg2's account: libpq says IDLE, psycopg2 says PREPARED in a two-phase transaction"),
        ("COPY", "libpq's account: libpq says ACTIVE, psycopg2 says READY"),
    ):
        machine: Any = Machine()
        machine.borrow(borrower=1, key=None)
        machine.leave_behind(borrower=1, what=what)
        with pytest.raises(BrokenInvariant) as raised:
            machine.teardown()
        assert str(raised.value) == (
            "lent_clean: what is lent is in no transaction, by libpq's account and by psycopg2's. "
            f"Connection 1 is lent to borrower 2 in a transaction by {said}; borrower 1 had left {what}."
        )


class Forgetful(Wrapper):
    """Does not give back what its borrower has closed."""

    def putconn(self, conn: Any, key: Any = None, close: bool = False) -> None:
        if not conn.closed:
            super().putconn(conn, key, close)


def test_a_failure_is_shrunk_to_the_steps_that_matter() -> None:
    case = PoolMachine.over(lambda _: Forgetful(SimpleConnectionPool(3, 3)), maxconn=3, minconn=3)
    with pytest.raises(BrokenInvariant) as raised:
        run(case, 1000)
    assert str(raised.value) == (
        "nothing_lost: every connection that was opened is idle, lent or closed, and the pool can lend maxconn of "
        "them. A request was refused, with 2 of 3 lent (PoolExhausted: connection pool exhausted)."
    )
    assert str(raised.value.program).splitlines()[-3:] == [
        "machine.borrow(borrower=1, key=None)  # borrower 1 has connection 3",
        "machine.close_the_connection(borrower=1)",
        "machine.teardown()  # raises BrokenInvariant: nothing_lost",
    ]


def test_what_is_waived_is_not_looked_at() -> None:
    def make(_: FakeServer) -> Forgetful:
        return Forgetful(SimpleConnectionPool(3, 3))

    run(PoolMachine.over(make, maxconn=3, minconn=3, keys=False, waive={"nothing_lost", "closed_stays_closed"}), 20)


class Stuck:
    """Never answers: its lock is not reentrant."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def getconn(self) -> Any:
        with self._lock:
            return self.getconn()

    def putconn(self, conn: Any) -> None:
        """Do nothing: nothing was lent."""


def test_a_call_that_never_answers_is_shown_and_does_not_hang_the_test() -> None:
    with pytest.raises(BrokenInvariant, match=r"(?s)^nobody_forgotten: .*in getconn\n"):
        run(PoolMachine.over(lambda _: Stuck(), maxconn=1), 1, phases=[Phase.generate])


@pytest.mark.parametrize("fails", [False, True])
def test_who_has_waited_for_a_key_is_refused_only_because_of_loans(fails: bool) -> None:
    machine = PoolMachine.replay(lambda server: ThreadedConnectionPool(1, 3, connect=server.connect), maxconn=3)
    machine.borrow(borrower=1, key=None)
    machine.borrow(borrower=3, key=None)
    machine.start_to_borrow(borrower=4, key=True)
    machine.start_to_borrow(borrower=5, key=None)
    machine.borrow(borrower=2, key=1)
    machine.go_on_and_fail(borrower=4, error="OperationalError")
    # It waits while borrower 5 has room that may come free.
    assert machine._borrower(2).call is not None
    if fails:
        machine.go_on_and_fail(borrower=5, error="OperationalError")
        assert machine._borrower(2).loan is not None
    else:
        machine.go_on(borrower=5)
        assert machine._borrower(2).loan is None
        assert machine._borrower(2).call is None
    machine.teardown()


def test_a_subclass_may_have_rules_of_its_own() -> None:
    seen: list[int] = []

    class Machine(PoolMachine):
        promises = Promises(maxconn=2)

        def make_pool(self, server: FakeServer) -> Any:
            return ThreadedConnectionPool(0, 2)

        @rule()
        def look(self) -> None:
            seen.append(self.pool.maxconn)

    run(Machine.TestCase, 20, stateful_step_count=20)
    assert 2 in seen


def test_the_test_is_one_that_pytest_and_unittest_collect() -> None:
    case = PoolMachine.over(lambda _: None, maxconn=1)
    assert issubclass(case, unittest.TestCase)
    assert (case.__name__, case.__qualname__, case.__module__) == ("PoolMachineTest", "PoolMachineTest", __name__)
    assert unittest.defaultTestLoader.loadTestsFromTestCase(case).countTestCases() == 1


def test_psycopg2_connect_is_as_before_when_a_machine_has_ended_or_could_not_begin() -> None:
    connect = psycopg2.connect

    def fail(server: FakeServer) -> None:
        assert psycopg2.connect is not connect
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(PoolMachine.over(fail, maxconn=1), 5, phases=[Phase.generate])
    assert psycopg2.connect is connect


def test_each_invariant_has_a_claim_and_an_explanation() -> None:
    for name, invariant in INVARIANTS.items():
        assert invariant.name == name
        assert invariant.claim
        assert len((type(invariant).__doc__ or "").splitlines()) > 2


@pytest.mark.parametrize(
    ("error", "text", "given"),
    [
        (TypeError, "maxconn must be a whole number, not '3'", {"maxconn": "3"}),
        (TypeError, "maxconn must be a whole number, not True", {"maxconn": True}),
        (ValueError, "maxconn must be 1 or more, not 0", {"maxconn": 0}),
        (ValueError, "minconn must be from 0 to maxconn, which is 1, not 2", {"minconn": 2}),
        (TypeError, "max_idle must be a number of seconds or None, not 'x'", {"max_idle": "x"}),
        (
            ValueError,
            "max_lifetime must be 0 or more seconds, or None to promise nothing, not -1",
            {"max_lifetime": -1},
        ),
        (ValueError, "waits must be one of None, 'never', 'timeout', 'always', not 'maybe'", {"waits": "maybe"}),
        (ValueError, "check must be one of True, False, not 1", {"check": 1}),
        (TypeError, "waive must be a set of names, not 'in_order'", {"waive": "in_order"}),
    ],
)
def test_a_promise_that_makes_no_sense_is_refused(error: type[Exception], text: str, given: dict[str, Any]) -> None:
    with pytest.raises(error) as raised:
        Promises(**{"maxconn": 1, **given})
    assert str(raised.value) == text


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"spare has unknown names: 'thunder'. Known are connect, rollback"):
        Promises(maxconn=1, spare=frozenset({"thunder"}))
    with pytest.raises(ValueError, match=r"waive has unknown names: 'order'. Known are one_holder"):
        Promises(maxconn=1, waive=frozenset({"order"}))


def test_promises_cannot_be_changed() -> None:
    promises: Any = Promises(maxconn=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        promises.maxconn = 2


class KeepsWhatCannotBeCommitted(ThreadedConnectionPool):
    @contextmanager
    def connection(self, key: Any = None, **_: Any) -> Iterator[Any]:  # type: ignore[override]
        connection = self.getconn(key)
        try:
            yield connection
        except Exception:
            self.putconn(connection)
            raise
        connection.commit()
        self.putconn(connection)


def test_a_block_that_loses_its_connection_with_the_commit_is_found() -> None:
    case: Any = PoolMachine.over(
        lambda _: KeepsWhatCannotBeCommitted(1, 3), maxconn=3, minconn=1, waive={"blocks_end_their_own_loan"}
    )
    with pytest.raises(BrokenInvariant, match=r"^nothing_lost: ") as raised:
        run(case, 2000)
    assert re.search(r"leave_the_block_as_the_commit_fails|start_to_leave_the_block", str(raised.value.program))


def test_a_factory_that_fails_now_and_then_is_no_pass() -> None:
    made = itertools.count()

    def make(_: FakeServer) -> Any:
        if next(made) % 2:
            raise RuntimeError("no pool this time")
        return ThreadedConnectionPool(1, 3)

    case: Any = PoolMachine.over(make, maxconn=3, minconn=1)
    with pytest.raises((RuntimeError, Flaky)):
        run(case)


def test_what_is_no_pool_is_refused() -> None:
    case: Any = PoolMachine.over(lambda _: object(), maxconn=1)
    with pytest.raises(TypeError, match=r"a pool needs getconn\(\) and putconn\(\): object has no getconn\(\)"):
        run(case)
