"""Drives a pool: makes its calls, enters what comes of them in the book, and looks at the invariants."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import psycopg2

from pgpool_rs.testing._fake.gate import PATIENCE
from pgpool_rs.testing._machine.book import Book, Borrower, Loan
from pgpool_rs.testing._machine.invariants import told
from pgpool_rs.testing._machine.judge import Judge
from pgpool_rs.testing._machine.promises import Abilities
from pgpool_rs.testing._machine.threads import Call, Worker, call_here, come_to_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pgpool_rs.testing._fake.server import FakeServer
    from pgpool_rs.testing._machine.judge import Look, Patience
    from pgpool_rs.testing._machine.promises import Promises

    Known = dict[type, tuple[Promises, Abilities]]

# How long a call may take before it is looked at whether it sleeps, in seconds.
_A_MOMENT = 0.001
# A timeout that no test lives to see, in seconds, and one that it does.
FOR_EVER = 1e7
SHORTLY = 0.002


class Driver:
    """Drives one pool over one server."""

    def __init__(self, server: FakeServer, promises: Promises, patience: Patience, known: Known) -> None:
        """Listen to the server. The pool is made by `make`; what `known` has on its class needs not be looked for."""
        self.server = server
        self._known = known
        self.book = Book(server, promises)
        self.judge = Judge(self.book, patience)
        self._turn = 0
        self._fair: set[Call] = set()
        self._closing: set[Call] = set()
        self._workers: list[Worker] = []
        for name in ("connect", "rollback", "commit", "close", "check"):
            server.on(name, functools.partial(self._visited, name))

    @property
    def pool(self) -> Any:
        """Return the pool under test."""
        return self.book.pool

    def make(self, make_pool: Callable[[FakeServer], Any]) -> None:
        """Make the pool."""
        call = self._start(Call("other", lambda: make_pool(self.server)))
        call.wait_for_news(PATIENCE)
        if not call.answered:
            self.judge.fail("nobody_forgotten", f"The pool was not made in {PATIENCE:g} s")
        if call.error is not None:
            raise call.error
        self._enter_answers()
        self.book.pool = call.result
        known = self._known.get(type(call.result))
        if known is None:
            known = (self.book.promises.seen_in(call.result), Abilities(call.result))
            self._known[type(call.result)] = known
        self.book.promises, self.can = known

    def _visited(self, name: str, _connection: object) -> None:
        """Count a call of the server's, and stop or fail in it if that is planned."""
        call = call_here()
        if name == "connect":
            self.book.count_connect(asked_for=call is not None)
        if call is not None:
            try:
                call.visit(name)
            except BaseException:
                self.book.failed_connects += name == "connect"
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
        """Let someone ask for a connection; for a `connection()` block, where there is room for it."""
        if borrower.call is not None or borrower.loan is not None:
            raise ValueError(f"{borrower} has a connection, or has asked for one")
        book, pool = self.book, self.pool
        waits = book.promises.waits
        kwargs = {"timeout": timeout} if waits == "timeout" else {}
        args = () if key is None else (key,)
        may_wait = waits == "always" or (waits == "timeout" and timeout == FOR_EVER)
        borrower.block = pool.connection() if in_a_block else None
        call = Call(
            "borrow",
            borrower.block.__enter__ if in_a_block else lambda: pool.getconn(*args, **kwargs),
            key=key,
            holds=holds,
            faults=faults,
            may_wait=may_wait,
            lasts=timeout if timeout == SHORTLY else 0,
        )
        others = [other for other in book.borrowers if other.call is not None and _equal(other.call.key, key)]
        borrower.apart = bool(others) or not book.strictly()
        for other in others:
            other.apart = True
        if not book.blocked() and book.strictly() and not book.closing:
            self._fair.add(call)
        book.requests += 1
        self._turn += 1
        borrower.turn = self._turn
        borrower.call = call
        self._start(call)
        self.settle(call)

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
        self._give_back(borrower, loan, lambda: pool.putconn(handle, *args, **kwargs), holds, faults)

    def end_block(self, borrower: Borrower, error: Exception | None, faults: dict[str, BaseException]) -> None:
        """Let a borrower leave its block, by this error or in order."""
        loan, block = borrower.loan, borrower.block
        if loan is None:
            raise ValueError(f"{borrower} has no connection")
        was_closed = bool(loan.connection._closed)

        def leave() -> None:
            try:
                block.__exit__(type(error) if error else None, error, None)
            except psycopg2.InterfaceError:
                # What is closed cannot be committed.
                if not was_closed:
                    raise
            except Exception as raised:
                if raised is not error:
                    raise

        self._give_back(borrower, loan, leave, (), faults)

    def _give_back(
        self,
        borrower: Borrower,
        loan: Loan,
        what: Callable[[], None],
        holds: Collection[str],
        faults: dict[str, BaseException] | None,
    ) -> None:
        call = Call("return", what, holds=holds, faults=faults)
        for holder in loan.holders:
            holder.loan = holder.handle = holder.block = None
        borrower.call = call
        self.book.loans.remove(loan)
        self.book.returning[call] = loan.connection
        self._start(call)
        self.settle(call)

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
            self.book.closing = True
            self._closing.add(call)
        self._start(call)
        self.settle(call)
        return call

    def give_back_under(self, borrower: Borrower, key: Any, *, wrong: bool) -> None:
        """Let a borrower give back under a key; one that is not the loan's own may be refused, and changes nothing."""
        loan = borrower.loan
        if loan is None:
            return
        if _equal(loan.key, key):
            self.give_back(borrower, key)
        elif wrong and not self.book.calls and not self.book.closed:
            handle = borrower.handle
            call = self.do(lambda: self.pool.putconn(handle, key))
            if call.answered and call.error is None:
                # The pool does not look at keys, and has taken it back.
                self.book.forget(loan)
                self.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, and let the pool do what it does in time."""
        self.server.clock.advance(seconds)
        self.book.now += seconds
        if "maintain" in self.can.methods:
            self.do(self.pool.maintain)

    def resize(self, minconn: int, maxconn: int) -> None:
        """Give the pool other limits."""
        book = self.book
        book.limit, book.minconn = maxconn, minconn
        book.highest_limit = max(maxconn, book.highest_limit)
        self.do(lambda: self.pool.resize(minconn, maxconn))

    def held_closing(self) -> Call | None:
        """Return the closeall that is held, if there is one."""
        return next((call for call in self._closing if call.held_in is not None), None)

    def go_on(self, call: Call, fault: BaseException | None = None) -> None:
        """Let a call out of where it is held, or fail there."""
        if fault is not None and call.held_in is not None:
            call.faults[call.held_in] = fault
        call.go_on()
        self.settle(call)

    def _start(self, call: Call) -> Call:
        worker = next((worker for worker in self._workers if worker.call is None), None)
        if worker is None:
            worker = Worker.take()
            self._workers.append(worker)
        self.book.calls.append(call)
        worker.start(call)
        return call

    # --- what comes of them ------------------------------------------------------------------------------------------

    def settle(self, newest: Call | None = None) -> None:
        """Wait until nothing moves, after this call has begun or gone on; enter what comes of it; look at the pool."""
        self._rest(newest)
        self._enter_answers()
        self._judge(lambda invariant: invariant.at_rest(self.book))

    def _rest(self, newest: Call | None) -> None:
        calls = self.book.calls
        if newest is not None:
            newest.wait_for_news(_A_MOMENT + 100 * newest.lasts)
        come_to_rest(calls, self._workers, PATIENCE)

    def _enter_answers(self) -> None:
        book = self.book
        answered = [call for call in book.calls if call.answered]
        book.calls[:] = [call for call in book.calls if call not in answered]
        book.notice()
        for call in sorted(answered, key=lambda call: ("return", "borrow", "other").index(call.kind)):
            borrower = next((one for one in book.borrowers if one.call is call), None)
            if call.worker is not None:
                call.worker.call = None
            if borrower is not None:
                borrower.call = None
            if call.kind == "return":
                self._enter_return(call)
            elif call.kind == "borrow" and borrower is not None:
                self._enter_borrow(call, borrower)
            elif call in self._closing:
                self._enter_closing(call)

    def _enter_return(self, call: Call) -> None:
        book, connection = self.book, self.book.returning.pop(call)
        book.lives[connection.serial].unused_since = book.now
        if call.error is not None and not (call.fired or connection.is_killed or book.closing):
            self.judge.fail(
                "nothing_lost", f"Connection {connection.serial}, which is lent, is not taken back ({told(call.error)})"
            )

    def _enter_borrow(self, call: Call, borrower: Borrower) -> None:
        book = self.book
        fair = call in self._fair
        self._fair.discard(call)
        if call.error is not None:
            book.failed_requests += 1
            if fair and not call.fired and _hashable(call.key):
                error = call.error
                self._judge(lambda invariant: invariant.at_refusal(book, error))
            return
        connection = book.known(call.result)
        if connection is None:
            self.judge.fail(
                "nothing_lost", f"{borrower} was given {call.result!r}, which is no connection of this pool"
            )
        self._judge(lambda invariant: invariant.at_loan(book, borrower, call.key, connection))
        loan = book.loan_of(call.key)
        if loan is None:
            loan = Loan(connection, call.key, [], borrower.turn)
            book.loans.append(loan)
        loan.holders.append(borrower)
        borrower.loan, borrower.handle = loan, call.result

    def _enter_closing(self, call: Call) -> None:
        self._closing.discard(call)
        if call.error is None:
            self.book.closed = True
        elif self.book.closed or self._closing:
            pass  # it is closed already, or another closeall is at it
        elif not call.fired:
            self.judge.fail("closed_stays_closed", f"closeall() failed ({told(call.error)})")
        else:
            # It may have ended half-way; a second one finds nothing left to do, or does the rest.
            self.book.closed = True
            self.do(self.pool.closeall, closes=True)

    def _judge(self, look: Look) -> None:
        self.judge.every_invariant(look, self._move_on)

    def _move_on(self) -> None:
        """Let everything come to rest once more, and enter what was answered meanwhile."""
        come_to_rest(self.book.calls, self._workers, PATIENCE)
        if any(call.answered for call in self.book.calls):
            self._enter_answers()

    # --- the end -----------------------------------------------------------------------------------------------------

    def lend_all(self) -> list[Borrower]:
        """Lend whatever can be lent, and see that it is what should be."""
        book, lenders = self.book, []
        while book.room() > 0:
            borrower = Borrower(len(book.borrowers) + 1)
            book.borrowers.append(borrower)
            lenders.append(borrower)
            self.borrow(borrower)
            if borrower.loan is None:
                break
        return lenders

    def end(self) -> None:
        """Let all calls end, give everything back, and see that the whole pool can still be lent, and closed."""
        book = self.book
        while book.held():
            self.go_on(book.held()[0])
        if not book.closing:
            while book.loans:
                self.give_back(book.loans[0].holders[0])
            lenders = self.lend_all()
            extra = Borrower(len(book.borrowers) + 1)
            book.borrowers.append(extra)
            if book.promises.waits != "always":
                self.borrow(extra)
            for borrower in (*lenders, extra):
                if borrower.loan is not None:
                    self.give_back(borrower)
            if "closeall" in self.can.methods:
                self.do(self.pool.closeall, closes=True)
        self.settle()

    def let_go(self) -> None:
        """Release whoever is held, without a look at what comes of it."""
        calls = list(self.book.calls)
        for call in calls:
            call.holds.clear()
            if call.held_in is not None:
                call.go_on()
        closeall = getattr(self.pool, "closeall", None)
        if calls and callable(closeall):
            calls.append(self._start(Call("other", closeall)))
        for call in calls:
            call.wait_for_news(0.02)
        while self._workers:
            self._workers.pop().give_back()


def _equal(key: Any, other: Any) -> bool:
    try:
        return key is not None and bool(key == other)
    except Exception:  # noqa: BLE001  a key may be anything
        return False


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
