"""Drives a pool: makes its calls. `Answers` has their outcomes."""

from __future__ import annotations

__tracebackhide__ = True

import functools
import time
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.pool import PoolError

from pgpool_rs.testing.fake.gate import PATIENCE
from pgpool_rs.testing.fake.session import ACTIVE
from pgpool_rs.testing.machine.answers import Answers
from pgpool_rs.testing.machine.judge import SHORTEST_SLEEP, now
from pgpool_rs.testing.machine.model import Borrower, Model
from pgpool_rs.testing.machine.promises import Abilities
from pgpool_rs.testing.machine.threads import Call, Worker, call_here

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pgpool_rs.testing.fake.server import FakeServer
    from pgpool_rs.testing.machine.judge import Patience
    from pgpool_rs.testing.machine.model import Loan
    from pgpool_rs.testing.machine.promises import Promises

    Known = dict[type, tuple[Promises, Abilities]]

# Timeouts in seconds: one that is never reached in a test, and one that is.
FOR_EVER = 1e7
SHORTLY = 0.002


class Driver(Answers):
    """Drives one pool over one server."""

    def __init__(self, server: FakeServer, promises: Promises, patience: Patience, known: Known) -> None:
        """Listen to the server. The pool is made by `make`; what `known` has on its class needs not be looked for."""
        super().__init__(Model(server, promises), patience)
        self.server = server
        self._known = known
        self._turn = 0
        for name in ("connect", "execute", "rollback", "commit", "close", "check"):
            server.on(name, functools.partial(self._visited, name))

    @property
    def pool(self) -> Any:
        """Return the pool under test."""
        return self.model.pool

    def make(self, make_pool: Callable[[FakeServer], Any]) -> None:
        """Make the pool."""
        call = self._start(Call("other", lambda: make_pool(self.server)))
        call.wait_for_news(PATIENCE)
        if not call.answered:
            self.judge.fail("nobody_forgotten", f"The pool was not made in {PATIENCE:g} s")
        if call.error is not None:
            raise call.error
        self._enter_answers()
        self.model.pool = call.result
        known = self._known.get(type(call.result))
        if known is None:
            known = (self.model.promises.seen_in(call.result), Abilities(call.result))
            self._known[type(call.result)] = known
        self.model.promises, self.can = known

    def _visited(self, name: str, _connection: object) -> None:
        """Count a call of the server's, and stop or fail in it if that is planned."""
        call = call_here()
        if name == "connect":
            self.model.count_connect(asked_for=call is not None)
        if call is not None:
            try:
                call.visit(name)
            except BaseException:
                self.model.failed_connects += name == "connect"
                raise

    # --- calls -------------------------------------------------------------------------------------------------------

    def borrow(
        self,
        borrower: Borrower,
        key: Any = None,
        *,
        timeout: float = 0,
        holds: Collection[str] = (),
        faults: dict[str, BaseException] | None = None,
        in_a_block: bool = False,
    ) -> None:
        """Let someone ask for a connection; for a `connection()` block, where there is room for it or none is due."""
        if borrower.call is not None or borrower.loan is not None or borrower.block is not None:
            raise ValueError(f"{borrower} has a connection, or has asked for one, or is in a block")
        model, pool = self.model, self.pool
        waits = model.promises.waits
        kwargs = {"timeout": timeout} if waits == "timeout" else {}
        args = () if key is None else (key,)
        may_wait = waits == "always" or (waits == "timeout" and timeout == FOR_EVER)

        def enter() -> Any:
            borrower.block = pool.connection(*args)
            return borrower.block.__enter__()

        call = Call(
            "borrow",
            enter if in_a_block else lambda: pool.getconn(*args, **kwargs),
            key=key,
            holds=holds,
            faults=faults,
            may_wait=may_wait,
            lasts=timeout if timeout == SHORTLY else 0,
        )
        others = [other for other in model.borrowers if other.call is not None and _equal(other.call.key, key)]
        call.has_followed = bool(others)
        borrower.apart = bool(others) or not model.strictly()
        for other in others:
            other.apart = True
        if in_a_block and model.loan_of(key) is not None:
            self._refused.add(call)
        elif not model.blocked() and model.strictly() and not model.closing:
            self._fair.add(call)
        model.requests += 1
        self._turn += 1
        borrower.turn = self._turn
        borrower.call = call
        self._run(call)

    def give_back(
        self,
        borrower: Borrower,
        *args: Any,
        holds: Collection[str] = (),
        faults: dict[str, BaseException] | None = None,
        **kwargs: Any,
    ) -> None:
        """Let a borrower give back what it has."""
        pool, loan, handle = self.pool, borrower.loan, borrower.handle
        if loan is None:
            raise ValueError(f"{borrower} has no connection")
        call = Call("return", lambda: pool.putconn(handle, *args, **kwargs), holds=holds, faults=faults)
        self._give_back(borrower, loan, call)

    def end_block(
        self, borrower: Borrower, error: Exception | None, faults: dict[str, BaseException], holds: Collection[str] = ()
    ) -> None:
        """Let a borrower leave its block, by this error or in order."""
        loan, block = borrower.loan, borrower.block
        excused = () if loan is None else self._excused(loan.connection)

        def leave() -> None:
            try:
                block.__exit__(type(error) if error else None, error, None)
            except Exception as raised:
                if raised is not error and (not isinstance(raised, excused) or isinstance(raised, PoolError)):
                    raise

        borrower.block = None
        if loan is None:
            call = borrower.call = Call("other", leave)
            self._strays[call] = error
            self._run(call)
            return
        call = Call("return", leave, holds=holds, faults=faults)
        if loan.connection._closed == 1 and self.model.judges_blocks:
            self._closed_inside.add(call)
        self._give_back(borrower, loan, call)

    def _excused(self, connection: Any) -> tuple[type[Exception], ...]:
        """Give the errors in which a block may end for what its borrower did to the connection."""
        if connection.two_phase is not None or connection.transaction_status == ACTIVE:
            return (psycopg2.Error,)  # psycopg2 commits nothing there
        if connection._closed == 1 and self.model.judges_blocks:
            return ()
        return (psycopg2.InterfaceError,) if connection._closed else ()

    def _give_back(self, borrower: Borrower, loan: Loan, call: Call) -> None:
        self.model.release(loan)
        self.model.returning[call] = loan.connection
        borrower.call = call
        self._run(call)

    def do(
        self,
        what: Callable[[], Any],
        *,
        closes: bool = False,
        holds: Collection[str] = (),
        faults: dict[str, BaseException] | None = None,
    ) -> Call:
        """Make any other call."""
        call = Call("other", what, holds=holds, faults=faults)
        if closes:
            self.model.closing = True
            self._closing.add(call)
        self._run(call)
        return call

    def close_the_pool(self, holds: Collection[str] = (), faults: dict[str, BaseException] | None = None) -> None:
        """Make a call of closeall."""
        self.model.swept = True
        self.do(self.pool.closeall, closes=True, holds=holds, faults=faults)

    def close_gently(self, faults: dict[str, BaseException]) -> None:
        """Make a call of close."""
        self.model.gently = True
        self.do(self.pool.close, closes=True, faults=faults)

    def give_back_under(self, borrower: Borrower, key: Any, *, wrong: bool) -> None:
        """Let a borrower give back under a key; one that is not the loan's own may be refused, and changes nothing."""
        loan = borrower.loan
        if loan is None:
            return
        if _equal(loan.key, key):
            self.give_back(borrower, key)
        elif wrong and not self.model.calls and not self.model.closed:
            handle = borrower.handle
            call = self.do(lambda: self.pool.putconn(handle, key))
            if call.answered and call.error is None:
                # The pool does not look at keys, and has taken it back.
                self.model.forget(loan)
                self.quiesce()

    def advance(self, seconds: float) -> None:
        """Put the clock forward, and call the pool's `maintain()`."""
        self.server.clock.advance(seconds)
        self.model.now += seconds
        if "maintain" in self.can.methods:
            self.do(self.pool.maintain)

    def resize(self, minconn: int, maxconn: int) -> None:
        """Give the pool other limits."""
        model = self.model
        model.limit, model.minconn = maxconn, minconn
        model.highest_limit = max(maxconn, model.highest_limit)
        self.do(lambda: self.pool.resize(minconn, maxconn))

    def held_closing(self) -> Call | None:
        """Return the closeall that is held, if there is one."""
        return next((call for call in self._closing if call.held_in is not None), None)

    def go_on(self, call: Call, fault: BaseException | None = None) -> None:
        """Let a call out of where it is held, or fail there."""
        if fault is not None and call.held_in is not None:
            call.faults[call.held_in] = fault
        call.go_on()
        self.quiesce(call)

    def _run(self, call: Call) -> None:
        self._start(call)
        self.quiesce(call)

    def _start(self, call: Call) -> Call:
        worker = next((worker for worker in self._workers if worker.call is None), None)
        if worker is None:
            worker = Worker.take()
            self._workers.append(worker)
        self.model.calls.append(call)
        worker.start(call)
        return call

    # --- the end -----------------------------------------------------------------------------------------------------

    def _in_blocks(self) -> list[Borrower]:
        blocks = [one for one in self.model.borrowers if one.block is not None]
        return [one for one in blocks if one.call is None or one.call.answered]

    def lend_all(self) -> list[Borrower]:
        """Lend all connections that can be lent, and check that they are as many as the pool promises."""
        model = self.model
        lenders: list[Borrower] = []
        deadline = now() + self.judge.patience.seconds
        while model.room() > 0:
            borrower = model.newcomer()
            self.borrow(borrower)
            if borrower.loan is not None:
                lenders.append(borrower)
            elif not model.promises.backs_off:
                break
            elif now() > deadline:
                self.judge.patience.lose()
                self.judge.fail("nothing_lost", f"The pool lends {model.taken()} of {model.limit} and connects no more")
            else:
                time.sleep(SHORTEST_SLEEP)
        return lenders

    def end(self) -> None:
        """Let all calls end, give everything back, lend the whole pool once more, and close it."""
        model = self.model
        while model.held():
            self.go_on(model.held()[0])
        for borrower in self._in_blocks():
            self.end_block(borrower, None, {})
        if not model.closing:
            while model.loans:
                self.give_back(model.loans[0].holders[0])
            lenders = self.lend_all()
            extra = model.newcomer()
            if model.promises.waits != "always":
                self.borrow(extra)
            for borrower in (*lenders, extra):
                if borrower.loan is not None:
                    self.give_back(borrower)
            if "closeall" in self.can.methods:
                self.close_the_pool()
        self.quiesce()

    def let_go(self) -> None:
        """Release all calls that are held. Their outcomes are not checked."""
        calls = list(self.model.calls)
        for call in calls:
            call.holds.clear()
            if call.held_in is not None:
                call.go_on()
        closeall = getattr(self.pool, "closeall", None)
        if calls and callable(closeall):
            calls.append(self._start(Call("other", closeall)))
        for call in calls:
            call.wait_for_news(0.02)
        # A block that is a generator must not end when it is collected, where nothing can be raised.
        for borrower in self._in_blocks():
            self._start(Call("other", functools.partial(borrower.block.__exit__, None, None, None))).wait_for_news(0.02)
        while self._workers:
            self._workers.pop().give_back()


def _equal(key: Any, other: Any) -> bool:
    try:
        return key is not None and bool(key == other)
    except Exception:  # noqa: BLE001  a key may be anything
        return False
