"""The outcomes of a machine's calls: each is entered in the model, and the invariants are checked."""

from __future__ import annotations

__tracebackhide__ = True

from typing import TYPE_CHECKING, Any

from psycopg2.pool import PoolError

from pgpool_rs.testing.fake.gate import PATIENCE
from pgpool_rs.testing.machine.invariant import told
from pgpool_rs.testing.machine.judge import Judge
from pgpool_rs.testing.machine.model import Loan
from pgpool_rs.testing.machine.threads import come_to_rest

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.judge import Look, Patience
    from pgpool_rs.testing.machine.model import Borrower, Model
    from pgpool_rs.testing.machine.threads import Call, Worker

# How long a call may take before it is looked at whether it sleeps, in seconds.
_A_MOMENT = 0.001


class Answers:
    """Waits for the answers to calls, and judges the pool by them."""

    def __init__(self, model: Model, patience: Patience) -> None:
        self.model = model
        self.judge = Judge(model, patience)
        self._workers: list[Worker] = []
        # Requests that are refused only if all are lent, and those for a block under a key that is lent.
        self._fair: set[Call] = set()
        self._refused: set[Call] = set()
        # Ends of blocks: of those whose loan had ended, with the error from inside; of those that had closed it.
        self._strays: dict[Call, Exception | None] = {}
        self._closed_inside: set[Call] = set()
        self._closing: set[Call] = set()

    def close_the_pool(self) -> None:
        """Make a call of closeall."""
        raise NotImplementedError

    def quiesce(self, newest: Call | None = None) -> None:
        """Wait until nothing moves, after this call has begun or gone on; enter what comes of it; look at the pool."""
        self._rest(newest)
        self._enter_answers()
        self._judge(lambda invariant: invariant.at_rest(self.model))

    def _rest(self, newest: Call | None) -> None:
        calls = self.model.calls
        if newest is not None:
            newest.wait_for_news(_A_MOMENT + 100 * newest.lasts)
        come_to_rest(calls, self._workers, PATIENCE)

    def _enter_answers(self) -> None:
        model = self.model
        answered = [call for call in model.calls if call.answered]
        model.calls[:] = [call for call in model.calls if call not in answered]
        model.notice()
        for call in sorted(answered, key=lambda call: ("return", "borrow", "other").index(call.kind)):
            borrower = next((one for one in model.borrowers if one.call is call), None)
            if call.worker is not None:
                call.worker.call = None
            if borrower is not None:
                borrower.call = None
            if call.kind == "return":
                self._enter_return(call)
            elif call.kind == "borrow" and borrower is not None:
                self._enter_borrow(call, borrower)
            elif call in self._strays and borrower is not None:
                self._enter_stray(call, borrower)
            elif call in self._closing:
                self._enter_closing(call)

    def _enter_return(self, call: Call) -> None:
        model, connection = self.model, self.model.returning.pop(call)
        model.lives[connection.serial].unused_since = model.now
        closed_inside = call in self._closed_inside
        self._closed_inside.discard(call)
        if call.error is None or call.fired or connection.is_killed or (model.closing and not model.gently):
            return
        if closed_inside:
            self.judge.fail(
                "blocks_end_their_own_loan",
                f"Connection {connection.serial} was closed inside its block, which ended in {told(call.error)}",
            )
        if model.closing:
            self.judge.fail(
                "closed_stays_closed",
                f"Connection {connection.serial}, lent before close(), is not taken back ({told(call.error)})",
            )
        self.judge.fail(
            "nothing_lost", f"Connection {connection.serial}, which is lent, is not taken back ({told(call.error)})"
        )

    def _enter_borrow(self, call: Call, borrower: Borrower) -> None:
        model = self.model
        fair, refused = call in self._fair, call in self._refused
        self._fair.discard(call)
        self._refused.discard(call)
        if call.error is not None:
            borrower.block = None
            model.failed_requests += 1
            model.refused_blocks += refused
            if refused and not isinstance(call.error, PoolError):
                self.judge.fail(
                    "blocks_end_their_own_loan",
                    f"{borrower} entered a block under {call.key!r}, which was lent, and got {told(call.error)}",
                )
            if fair and not call.fired and _hashable(call.key):
                error = call.error
                self._judge(lambda invariant: invariant.at_refusal(model, error))
            return
        connection = model.known(call.result)
        if connection is None:
            self.judge.fail(
                "nothing_lost", f"{borrower} was given {call.result!r}, which is no connection of this pool"
            )
        self._judge(lambda invariant: invariant.at_loan(model, borrower, call.key, connection))
        loan = model.loan_of(call.key)
        if loan is None:
            loan = Loan(connection, call.key, [], borrower.turn)
            model.lives[connection.serial].left = ""
            model.loans.append(loan)
        loan.holders.append(borrower)
        borrower.loan, borrower.handle = loan, call.result

    def _enter_stray(self, call: Call, borrower: Borrower) -> None:
        error, raised = self._strays.pop(call), call.error
        named = f"{borrower} left its block, whose loan had ended before"
        if self.model.closing:
            return
        if call.visits:
            self.judge.fail("blocks_end_their_own_loan", f"{named}, and that called {', '.join(call.visits)}")
        if not isinstance(raised, PoolError) and not (raised is None and error is not None):
            what = "no error" if raised is None else told(raised)
            self.judge.fail("blocks_end_their_own_loan", f"{named}, and got {what} instead of a PoolError")

    def _enter_closing(self, call: Call) -> None:
        self._closing.discard(call)
        model = self.model
        if call.error is None:
            model.closed = True
            if call.result is not None and not (model.calls or model.swept) and call.result != len(model.loans):
                self.judge.fail("closed_stays_closed", f"close() left {len(model.loans)} lent, and told {call.result}")
        elif model.closed or self._closing:
            pass  # the pool is closed, or another closeall is under way
        elif not call.fired:
            self.judge.fail(
                "closed_stays_closed", f"{'closeall' if model.swept else 'close'}() failed ({told(call.error)})"
            )
        else:
            # It may have ended half-way; a second one finds nothing left to do, or does the rest.
            model.closed = True
            self.close_the_pool()

    def _judge(self, look: Look) -> None:
        self.judge.every_invariant(look, self._move_on)

    def _move_on(self) -> None:
        """Let everything come to rest once more, and enter what was answered meanwhile."""
        come_to_rest(self.model.calls, self._workers, PATIENCE)
        if any(call.answered for call in self.model.calls):
            self._enter_answers()


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
