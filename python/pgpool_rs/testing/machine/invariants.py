"""What must hold of a pool, by name. Each docstring says what the invariant means to the pool's user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg2.extensions import STATUS_BEGIN, STATUS_PREPARED, STATUS_READY
from psycopg2.pool import PoolError

from pgpool_rs.testing.fake.session import IDLE
from pgpool_rs.testing.machine.accounts import misfiled, numbers
from pgpool_rs.testing.machine.invariant import Invariant, Maybe, told
from pgpool_rs.testing.machine.model import are_open, same

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.model import Borrower, Model
    from pgpool_rs.testing.machine.threads import Call

LIBPQ_SAYS = ("IDLE", "ACTIVE", "INTRANS", "INERROR", "UNKNOWN")
PSYCOPG2_SAYS = {STATUS_READY: "READY", STATUS_BEGIN: "BEGIN", STATUS_PREPARED: "PREPARED"}


class OneHolder(Invariant):
    """No other borrower uses a connection that you hold.

    Only borrowers of the same key share one. A connection that is still being rolled back or
    closed on its return is not lent either.
    """

    name = "one_holder"
    claim = "a connection is lent to at most one borrower"

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:
        """Look for another loan of it."""
        for loan in model.loans:
            if loan.connection is connection and not same(loan.key, key):
                other = str(borrower) if key is None else repr(key)
                return f"Connection {connection.serial} is lent to {loan} and to {other}"
        for call, returned in model.returning.items():
            if returned is connection and call.held_in is not None:
                return f"Connection {connection.serial} is lent to {borrower} while its {call.held_in} is under way"
        return None


class WithinMaxconn(Invariant):
    """The server never has more connections of this pool than you allowed, not even for a moment.

    Those that are being opened count, and so do those that are being closed. It is looked at in each connect.
    """

    name = "within_maxconn"
    claim = "the server never sees more than maxconn connections, those being opened included"

    def at_rest(self, model: Model) -> str | None:
        """Look whether a connect was one too many."""
        return model.overflow


class NothingLost(Invariant):
    """Whatever failed, the pool can still lend maxconn connections, and leaves none open that it has forgotten.

    When all is quiet, every connection that was opened is idle, lent or closed. A request is refused only if maxconn
    connections are lent, being opened or being given back; a connection that is lent can be given back.
    """

    name = "nothing_lost"
    claim = "every connection that was opened is idle, lent or closed, and the pool can lend maxconn of them"

    def at_refusal(self, model: Model, error: BaseException) -> str | None:
        """Look whether there is room."""
        backs_off = model.promises.backs_off and not isinstance(error, PoolError)
        if model.closing or backs_off or model.room() <= 0:
            return None
        return f"A request was refused, with {model.taken()} of {model.limit} lent ({told(error)})"

    def at_rest(self, model: Model) -> str | None:
        """Look for connections that are lost, in `_pool` and `_used` too if the pool has them."""
        if model.calls or model.closing:
            return None
        free = model.free_open()
        if free and model.room() <= 0:
            return Maybe(f"All {model.limit} are lent, and {are_open(free)} besides")
        seen = misfiled(model, free)
        return None if seen is None else Maybe(seen)


class SameKey(Invariant):
    """A caller that asks for a lent key gets its connection, which is opened once, however many callers ask at once.

    Keys are the same if a dict says so: 1, 1.0 and True are one key.
    """

    name = "same_key"
    claim = "the same key gives the same connection, which is opened once"

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:
        """Look for another connection under this key."""
        loan = model.loan_of(key)
        if loan is None or loan.connection is connection:
            return None
        mine, others = connection.serial, loan.connection.serial
        return f"{borrower} asked for {key!r}, which has connection {others}, and was given connection {mine}"

    def at_rest(self, model: Model) -> str | None:
        """Look for a key that is being opened a second time."""
        connecting = model.connecting()
        for number, call in enumerate(connecting):
            if any(same(call.key, other.key) for other in connecting[:number]):
                return f"Two connections are being opened for {call.key!r}"
            if model.loan_of(call.key) is not None:
                return f"Another connection is being opened for {call.key!r}, which is lent"
        return None


class OnlySoundLent(Invariant):
    """A connection that the pool lends you works: it is not closed, and not older than you allowed.

    Nothing is lent that has been closed or has broken, that is older than `max_lifetime` or, beyond `minconn`, idle for
    longer than `max_idle`; where `check` is promised, nothing either that the server has ended while it was idle.
    A caller that asks for a lent key gets its connection as it is.
    """

    name = "only_sound_lent"
    claim = "nothing that is closed, dead, expired or over-idle is lent"

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:
        """Look at its state and its age."""
        if model.closing or model.loan_of(key) is not None:
            return None
        named = f"Connection {connection.serial} is lent to {borrower}"
        if connection._closed:
            return f"{named}, and is closed (closed={connection._closed})"
        if model.promises.check and not model.server.sees(connection):
            return f"{named}, and the server had ended it before"
        life, promises = model.lives[connection.serial], model.promises
        age, unused = model.now - life.opened, model.now - life.unused_since
        if promises.max_lifetime is not None and age > promises.max_lifetime:
            return f"{named}, and is {age:g} s old, with max_lifetime={promises.max_lifetime:g}"
        if promises.max_idle is not None and unused > promises.max_idle and len(model.free_open()) > model.minconn:
            return Maybe(f"{named}, and was idle for {unused:g} s, with max_idle={promises.max_idle:g}")
        return None


class LentClean(Invariant):
    """A connection that the pool lends you is in no transaction of another borrower.

    What one borrower left open is rolled back, or the connection closed, before another gets it. libpq and psycopg2
    each keep account of a transaction, and psycopg2 does not see what was done in SQL: a transaction that
    either knows of counts. A transaction that a borrower has prepared stays prepared.
    """

    name = "lent_clean"
    claim = "what is lent is in no transaction, by libpq's account and by psycopg2's"

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:
        """Look at both accounts of its transaction."""
        if model.loan_of(key) is not None or connection._closed:
            return None
        by_libpq = connection.transaction_status != IDLE
        by_psycopg2 = connection.status != STATUS_READY or connection.two_phase is not None
        if not by_libpq and not by_psycopg2:
            return None
        whose = "both accounts" if by_libpq and by_psycopg2 else "libpq's account" if by_libpq else "psycopg2's account"
        libpq, psycopg2 = LIBPQ_SAYS[connection.transaction_status], PSYCOPG2_SAYS[connection.status]
        if connection.two_phase is not None:
            psycopg2 = f"{psycopg2} in a two-phase transaction"
        left = model.lives[connection.serial].left
        return (
            f"Connection {connection.serial} is lent to {borrower} in a transaction by {whose}: "
            f"libpq says {libpq}, psycopg2 says {psycopg2}{left and f'; {left}'}"
        )

    def at_rest(self, model: Model) -> str | None:
        """Look whether the server still has what was prepared."""
        gone = sorted(model.prepared - model.server.prepared)
        return f"The pool has ended the prepared transaction {gone[0]!r}" if gone else None


class ClosedStaysClosed(Invariant):
    """After closeall() the server has no connection of this pool left, and the pool lends none.

    Lent connections are closed as well. One that was being opened or given back at that moment is closed as soon as
    that is over.

    If the pool has a `close(timeout=None)`, that leaves open what is lent, and tells how many these are. Each is closed
    when it comes back, and its return does not fail.
    """

    name = "closed_stays_closed"
    claim = "after closeall() nothing is open, and nothing is lent; after close() nothing but what was lent before"

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:  # noqa: ARG002
        """Look whether the pool is closed."""
        name = "closeall" if model.swept else "close"
        return f"Connection {connection.serial} is lent to {borrower} after {name}()" if model.closed else None

    def at_rest(self, model: Model) -> str | None:
        """Look for connections that are open."""
        if not model.closed or model.blocked():
            return None
        held = model.held()
        lent = [loan.connection for loan in model.loans if model.swept or not model.gently]
        left = [*model.free_open(), *lent]
        left += [connection for call, connection in model.returning.items() if call not in held]
        left = [connection for connection in left if model.server.sees(connection)]
        name = "closeall" if model.swept else "close"
        return Maybe(f"After {name}(), {are_open(left)}") if left else None


class BlocksEndTheirOwnLoan(Invariant):
    """A `connection()` block ends the loan that it began, and no other.

    One that is entered under a key that is lent is refused at once. Where its loan has ended before it, since the
    connection was given back inside, the block's end does nothing to the connection, which may be another borrower's by
    then, and raises PoolError. A block in which the connection was closed ends without an error. Looked at where the
    pool has `connection()`.
    """

    name = "blocks_end_their_own_loan"
    claim = "a block has a loan of its own, and its end touches no other"

    def at_loan(self, model: Model, borrower: Borrower, key: Any, connection: Any) -> str | None:
        """Look whether a block was entered under a key that is lent."""
        loan = model.loan_of(key)
        if borrower.block is None or loan is None:
            return None
        return f"{borrower} is in a block with connection {connection.serial}, which is lent to {loan.holders[0]}"


class StatisticsTrue(Invariant):
    """What the pool says of itself is true: its get_stats(), and the numbers in its repr.

    Looked at where the names are those of pgpool_rs, most of which are psycopg_pool's.
    """

    name = "statistics_true"
    claim = "get_stats() and repr() equal the events"

    def at_rest(self, model: Model) -> str | None:
        """Compare the numbers with what the machine has done and the server has seen."""
        if model.closing or not model.strictly():
            return None
        for name, said, true in numbers(model):
            if said != true:
                return Maybe(f"{name} is {said}, and should be {true}")
        return None


class InOrder(Invariant):
    """The pool serves waiters in the order of arrival, and a new caller after them.

    Looked at where no other caller asks for the same key.
    """

    name = "in_order"
    claim = "the pool serves waiters in the order of arrival"

    def at_rest(self, model: Model) -> str | None:
        """Look for a waiter that still waits while a later one has been served."""
        if model.closed:
            return None
        served = [(loan.turn, loan.holders[0]) for loan in model.loans if loan.holders]
        served += [(one.turn, one) for one in model.borrowers if one.call in model.connecting()]
        for waiter in model.waiters():
            if waiter.apart or waiter.call is None or not waiter.call.may_wait:
                continue
            for turn, other in served:
                if turn > waiter.turn:
                    return Maybe(f"{waiter} still waits, and {other}, who came later, has been served")
        return None


class NobodyForgotten(Invariant):
    """Every call answers. A request waits only while every connection is taken, and not for ever.

    What a returned connection, a failed connect, a higher limit or closeall() makes possible is done at once.
    """

    name = "nobody_forgotten"
    claim = "no caller waits while a connection or room is free, and every call answers"

    def at_rest(self, model: Model) -> str | None:
        """Look for a call that sleeps and has nothing to wait for."""
        if not model.strictly():
            return None
        for call in model.blocked():
            if not _may_sleep(model, call):
                who = next((str(one) for one in model.borrowers if one.call is call), "A call")
                state = "after closeall()" if model.closed else f"with {model.taken()} of {model.limit} taken"
                return Maybe(f"{who} has no answer, {state}")
        return None


# In the order of this file, in which they are looked at.
INVARIANTS: dict[str, Invariant] = {kind.name: kind() for kind in Invariant.__subclasses__()}


def _may_sleep(model: Model, call: Call) -> bool:
    if call.kind != "borrow" or model.closed:
        return False
    # It waits for an earlier call; or, where that has failed, for a later one that was quicker to connect.
    others = [*model.calls[: model.calls.index(call)], *model.connecting()]
    if any(same(call.key, other.key) for other in others):
        return True
    # A caller that has waited for its key to be opened is refused only because of loans.
    if call.has_followed and any(other.kind == "borrow" for other in model.held()):
        return True
    return call.may_wait and model.room() <= 0 and model.loan_of(call.key) is None
