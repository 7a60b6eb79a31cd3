"""The sequential pool between two steps, and the calls that are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs.testing.history.steps import Call, Lend

# The key of a loan of which nothing is known.
ANY = -1


class Loan(NamedTuple):
    """A connection that is lent: under which key, and by which call."""

    key: int | None
    by: Lend | None


class State:
    """A pool between two steps."""

    __slots__ = ("closed", "done", "fullest", "lent", "maybe")

    def __init__(self) -> None:
        self.lent: dict[int, Loan] = {}
        # Those among them that may have come back: a call that failed, or is not seen, may have returned them.
        self.maybe: set[int] = set()
        # Those calls that have not returned and have taken their step.
        self.done: set[int] = set()
        self.closed = False
        # What took most room at one moment on the way here, while a certain call asked for some.
        self.fullest: frozenset[int] = frozenset()

    def copy(self) -> State:
        """Make another one that can be changed."""
        other = State()
        other.lent = dict(self.lent)
        other.maybe = set(self.maybe)
        other.done = set(self.done)
        other.closed = self.closed
        other.fullest = self.fullest
        return other

    def fingerprint(self) -> object:
        """Give what tells this state from others."""
        loans = frozenset([(connection, loan.key) for connection, loan in self.lent.items()])
        return (loans, frozenset(self.maybe), frozenset(self.done), self.closed)

    def under(self, *keys: int) -> int | None:
        """Find the connection that is lent under the first of these keys under which one is."""
        for key in keys:
            for connection, loan in self.lent.items():
                if loan.key == key:
                    return connection
        return None

    def surely_under(self, key: int) -> int | None:
        """Find the connection that is lent under a key, unless it may have come back."""
        connection = self.under(key)
        return None if connection in self.maybe else connection

    def leave_open(self, connection: int) -> None:
        """Take it that a connection may be lent or not, under whatever key."""
        self.lent[connection] = Loan(ANY, None)
        self.maybe.add(connection)

    def strike(self, connection: int) -> None:
        """Forget a loan."""
        self.lent.pop(connection, None)
        self.maybe.discard(connection)


class Flight:
    """The calls that have begun and not returned, at one moment of a history."""

    def __init__(self, unseen: int, *, forgiving: bool) -> None:
        self.unseen = unseen
        self.forgiving = forgiving
        self.calls: dict[int, Call] = {}
        self.eager: dict[int, Call] = {}
        self.loose: dict[int, Call] = {}
        # Connections that were closed by a putconn that has returned.
        self.gone: set[int] = set()
        self.upkeep = 0

    def enter(self, call: Call) -> None:
        """Add a call that begins."""
        self.calls[call.number] = call
        if call.eager:
            self.eager[call.number] = call
        elif call.loose:
            self.loose[call.number] = call
        self.upkeep += call.upkeep

    def leave(self, call: Call) -> None:
        """Take out a call that returns."""
        del self.calls[call.number]
        self.eager.pop(call.number, None)
        self.loose.pop(call.number, None)
        self.upkeep -= call.upkeep
        if call.close and call.connection is not None:
            self.gone.add(call.connection)

    def is_gone(self, connection: int, state: State) -> bool:
        """Tell whether a connection was closed on its return."""
        return connection in self.gone or any(
            call.close and call.connection == connection and call.number in state.done for call in self.calls.values()
        )

    def may_have_lent(self, returned: Call) -> bool:
        """Tell whether a getconn that has not returned may have lent what is being returned."""
        return any(
            call.operation.name == "getconn" and call.operation.returned is None and returned.key in {None, call.key}
            for call in self.calls.values()
        )

    def room_taken(self, asking: Call, state: State) -> int:
        """Count the connections that the asking call may find lent, being opened, looked at or returned."""
        # What is being returned has its room until that ends, or until the next borrower has it.
        returning = {call.connection for call in self._returning(state)}
        return self.unseen + len(state.lent) + sum(1 for _ in self._holding(asking, state)) + len(returning)

    def takers(self, asking: Call, state: State) -> frozenset[int]:
        """Tell which calls have taken that room."""
        loans = {loan.by.number for loan in state.lent.values() if loan.by is not None}
        others = [*self._holding(asking, state), *self._returning(state)]
        return frozenset(loans.union(call.number for call in others))

    def _holding(self, asking: Call, state: State) -> Iterator[Call]:
        for call in self.calls.values():
            if call is not asking and not call.returns and call.holds(state):
                yield call

    def _returning(self, state: State) -> Iterator[Call]:
        for call in self.calls.values():
            if call.returns and call.number in state.done and call.connection not in state.lent:
                yield call
