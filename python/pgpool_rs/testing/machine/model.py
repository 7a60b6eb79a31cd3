"""The machine's model of the pool: which borrower has which connection, by the calls and by what the server saw."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgpool_rs.testing.fake.server import FakeServer
    from pgpool_rs.testing.machine.promises import Promises
    from pgpool_rs.testing.machine.threads import Call


@dataclasses.dataclass(eq=False)
class Loan:
    """A connection that is lent: under a key, or to one borrower without a key."""

    connection: Any
    key: Any
    holders: list[Borrower]
    # Which of all calls brought it: later calls have higher numbers.
    turn: int

    def __str__(self) -> str:
        return str(self.holders[0]) if self.key is None else repr(self.key)


@dataclasses.dataclass(eq=False)
class Borrower:
    """A borrower, with a thread of its own: it has a loan, or a call that is under way, or nothing."""

    number: int
    loan: Loan | None = None
    # What getconn returned, which may be a wrapper of the loan's connection.
    handle: Any = None
    # The connection() block that it is in, or None. Its loan may have ended before it.
    block: Any = None
    call: Call | None = None
    turn: int = 0
    # Whether another call with the same key was under way as well, or the call began behind one that was held.
    apart: bool = False

    def __str__(self) -> str:
        return f"borrower {self.number}"

    def doing(self) -> str:
        """Say what it has or waits for; nothing, if it has nothing."""
        if self.call is not None:
            return "waits" if self.call.held_in is None else f"is held in {self.call.held_in}"
        return "" if self.loan is None else f"has connection {self.loan.connection.serial}"


@dataclasses.dataclass(eq=False)
class Life:
    """When a connection was opened, and since when it has not been used, by the clock that the machine moves."""

    opened: float
    unused_since: float
    # What its last borrower did to it that the pool must undo.
    left: str = ""


class Model:
    """Keeps which borrower holds what, and what the server saw."""

    def __init__(self, server: FakeServer, promises: Promises) -> None:
        self.server = server
        self.promises = promises
        self.pool: Any = None
        self.limit = promises.maxconn
        self.minconn = promises.minconn
        # What a thread of the pool's own that began before a resize may still go by.
        self.highest_limit = promises.maxconn
        self.now = 0.0
        self.closed = False
        self.closing = False
        # Whether close() came first, after which every return is accepted; and whether closeall() has come.
        self.gently = False
        self.swept = False
        self.borrowers: list[Borrower] = []
        self.loans: list[Loan] = []
        self.returning: dict[Call, Any] = {}
        self.calls: list[Call] = []
        self.lives: dict[int, Life] = {}
        self.connects = 0
        self.failed_connects = 0
        self.requests = 0
        self.failed_requests = 0
        # Blocks that were refused, since their key was lent. Whether such a one is a request is for the pool to say.
        self.refused_blocks = 0
        self.overflow: str | None = None
        # The transactions that borrowers have prepared, which are theirs to end.
        self.prepared: set[str] = set()
        self.judges_blocks = "blocks_end_their_own_loan" not in promises.waive

    # --- what the server saw ---

    def notice(self) -> None:
        """Begin a life for each connection that is new."""
        for connection in self.server.connections[len(self.lives) :]:
            self.lives[connection.serial] = Life(self.now, self.now)

    def count_connect(self, *, asked_for: bool) -> None:
        """Note a connect, whether it is one too many, and whether a call asked for it or a thread of the pool's own."""
        self.connects += 1
        limit = self.limit if asked_for else self.highest_limit
        if self.server.open > limit and self.overflow is None:
            self.overflow = f"The server sees {self.server.open}, with {limit} allowed"

    def known(self, handle: Any) -> Any:
        """Return the server's connection that was given to a borrower, as itself or in a wrapper; or None."""
        if getattr(handle, "server", None) is not self.server:
            return None
        return next((known for known in self.server.connections if known.serial == handle.serial), None)

    def free_open(self) -> list[Any]:
        """List the connections that the server sees and no borrower has."""
        taken = [*(loan.connection for loan in self.loans), *self.returning.values()]
        return [
            connection
            for connection in self.server.connections
            if self.server.sees(connection) and not any(connection is other for other in taken)
        ]

    # --- who holds what ---

    def loan_of(self, key: Any) -> Loan | None:
        """Return the loan under this key of a user's."""
        return next((loan for loan in self.loans if same(loan.key, key)), None)

    def forget(self, loan: Loan) -> None:
        """End a loan."""
        self.release(loan)
        self.lives[loan.connection.serial].unused_since = self.now

    def newcomer(self) -> Borrower:
        """Add a borrower, with the next number."""
        self.borrowers.append(Borrower(len(self.borrowers) + 1))
        return self.borrowers[-1]

    def release(self, loan: Loan) -> None:
        """Take a loan from all its holders. A holder in a block stays in it."""
        for holder in loan.holders:
            holder.loan = holder.handle = None
            if not self.judges_blocks:
                holder.block = None
        self.loans.remove(loan)

    def held(self) -> list[Call]:
        """List the calls that are held in a call of the server."""
        return [call for call in self.calls if call.held_in is not None]

    def blocked(self) -> list[Call]:
        """List the calls that have not answered and are held nowhere."""
        return [call for call in self.calls if call.blocked]

    def connecting(self) -> list[Call]:
        """List the requests that are held in a connect."""
        return [call for call in self.held() if call.kind == "borrow" and call.held_in == "connect"]

    def taken(self) -> int:
        """Count the slots that are taken: lent, being opened, or being given back."""
        return len(self.loans) + len(self.connecting()) + len(self.returning)

    def room(self) -> int:
        """Count the connections that may still be lent."""
        return self.limit - self.taken()

    def waiters(self) -> list[Borrower]:
        """List the borrowers whose request sleeps, in the order in which they came."""
        waiting = [one for one in self.borrowers if one.call is not None and one.call.blocked]
        return sorted((one for one in waiting if one.call and one.call.kind == "borrow"), key=lambda one: one.turn)

    def strictly(self) -> bool:
        """Tell whether no call may now wait for one that is held."""
        return self.promises.parallel is True or not self.held()


def same(key: Any, other: Any) -> bool:
    """Tell whether two users' keys are one, as a dict says it; None is no key."""
    if key is None or other is None:
        return False
    try:
        return bool(hash(key) == hash(other) and key == other)
    except TypeError:
        return False


def are_open(connections: list[Any]) -> str:
    """Say of some connections, by their numbers, that they are open."""
    numbers = ", ".join(str(connection.serial) for connection in connections)
    return f"connections {numbers} are open" if len(connections) > 1 else f"connection {numbers} is open"
