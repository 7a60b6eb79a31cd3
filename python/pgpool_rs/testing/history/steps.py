"""The steps of the sequential pool: when each kind of call may take its own, and what that changes.

A call takes its step at one moment between its beginning and its end. What it may do besides is to hold room for one
connection while it lasts: to open one, to look at one that then proves dead, to close or roll back what was returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pgpool_rs.testing.history.operation import Outcome
from pgpool_rs.testing.history.state import ANY, Loan

if TYPE_CHECKING:
    from pgpool_rs.testing.history.operation import Operation
    from pgpool_rs.testing.history.state import Flight, State


class Call:
    """A call whose end is no evidence of anything; it may have held room for a connection meanwhile."""

    eager = False
    """Whether its step is taken as soon as possible, since that spoils nothing for any other call."""
    loose = False
    """Whether it matters in which order it and others take their steps."""
    returns: ClassVar[bool] = False
    """Whether it gives a connection back."""

    def __init__(self, number: int, operation: Operation, key: int | None) -> None:
        self.number = number
        self.operation = operation
        self.connection = operation.connection
        self.key = key
        self.close = False
        self.upkeep = operation.name not in {"getconn", "putconn", "exit", "closeall"}
        # What maxconn may have been in the time of this call.
        self.least = self.most = 0
        # Those that had to do with its connection in the same time, and of which it is not known what they did when.
        self.unsure: list[MayReturn] = []
        # For a resize: what others set of which it is not known whether they came before it.
        self.rivals: set[int] = set()

    def can(self, _state: State, _flight: Flight) -> bool:
        """Tell whether it can take its step now."""
        return True

    def do(self, state: State) -> None:
        """Take its step."""

    def holds(self, _state: State) -> bool:
        """Tell whether it may hold room for a connection that is not lent, in this state."""
        return self.operation.name == "getconn"

    def leave_open(self, state: State) -> None:
        """Leave open what others may have done since it took its step: they may have returned before it did."""
        for other in self.unsure:
            other.do(state)

    def likeness(self) -> object:
        """Tell what calls are interchangeable with this one."""
        unsure = tuple(other.number for other in self.unsure)
        return (type(self), self.connection, self.key, self.close, self.most, unsure)


class Lend(Call):
    """getconn, which got a connection."""

    connection: int

    def can(self, state: State, flight: Flight) -> bool:
        """Tell whether the connection is not lent, or lent under this key; and whether there is room."""
        if state.closed:
            return False
        loan = state.lent.get(self.connection)
        if loan is not None:
            if self.key is not None and loan.key in {self.key, ANY}:
                return True
            if self.connection not in state.maybe:
                return False
        if flight.is_gone(self.connection, state):
            return False
        if self.key is not None and state.surely_under(self.key) not in {None, self.connection}:
            return False
        return not self.lacks_room(state)

    def lacks_room(self, state: State) -> bool:
        """Tell whether as many are lent as may be."""
        return len(state.lent) - len(state.maybe) >= self.most

    def do(self, state: State) -> None:
        """Lend it; or share the loan of the same key."""
        loan = state.lent.get(self.connection)
        if self.key is not None:
            other = state.under(self.key)
            if other is not None and other != self.connection:
                # It may have come back, and now it is certain that it has.
                state.strike(other)
        if loan is None or loan.key != self.key or self.key is None or self.connection in state.maybe:
            state.lent[self.connection] = Loan(self.key, self)
        state.maybe.discard(self.connection)
        self.leave_open(state)

    def holds(self, state: State) -> bool:
        """Hold room until it is lent, for another connection even: one that proved dead."""
        return self.number not in state.done


class Put(Call):
    """putconn, which returned."""

    returns = True

    def __init__(self, number: int, operation: Operation, key: int | None) -> None:
        super().__init__(number, operation, key)
        self.close = operation.close

    def can(self, state: State, flight: Flight) -> bool:
        """Tell whether the connection is lent, and under this key if there is one."""
        if state.closed:
            return flight.forgiving
        return self.finds(state) is not None or flight.may_have_lent(self)

    def finds(self, state: State) -> int | None:
        """Find the connection that it gives back."""
        if self.connection is None:
            return None if self.key is None else state.under(self.key, ANY)
        loan = state.lent.get(self.connection)
        return self.connection if loan is not None and (self.key is None or loan.key in {self.key, ANY}) else None

    def do(self, state: State) -> None:
        """Take it out of its borrower's hands."""
        found = self.finds(state)
        if found is not None:
            state.strike(found)
            self.leave_open(state)


class Exit(Put):
    """The end of a `connection()` block: it gives the connection back, unless another call has."""

    def can(self, _state: State, _flight: Flight) -> bool:
        """Tell that it always can."""
        return True


class MayReturn(Call):
    """A return that failed, or has not ended: it may have given the connection back at any moment since it began."""

    eager = True
    returns = True

    def do(self, state: State) -> None:
        """Leave it open whether the connection is lent."""
        found = state.under(self.key) if self.connection is None and self.key is not None else self.connection
        if found in state.lent:
            state.maybe.add(found)
            self.leave_open(state)

    def concerns(self, call: Call) -> bool:
        """Tell whether it may have returned what the other one lends."""
        if self.connection is None:
            return self.key is not None and call.key == self.key
        return call.connection == self.connection


class MayLend(MayReturn):
    """A loan of which nothing is known but the connection: it may have been lent at any moment since it began."""

    connection: int

    def do(self, state: State) -> None:
        """Leave it open whether the connection is lent, and under which key, unless another call has it for sure."""
        if self.connection not in state.lent or self.connection in state.maybe:
            state.leave_open(self.connection)


class NotLent(Call):
    """putconn, which was refused."""

    eager = True

    def can(self, state: State, _flight: Flight) -> bool:
        """Tell whether the connection is not lent, or not under this key."""
        if state.closed:
            return False
        if self.connection is None:
            return self.key is None or state.surely_under(self.key) is None
        loan = state.lent.get(self.connection)
        return loan is None or self.connection in state.maybe or (self.key is not None and loan.key != self.key)


class Full(Call):
    """getconn, which found every connection lent."""

    eager = True

    def can(self, state: State, flight: Flight) -> bool:
        """Tell whether all are, and the pool is not closed, and the key not lent."""
        if state.closed or (self.key is not None and state.surely_under(self.key) is not None):
            return False
        return self.is_full(state, flight)

    def is_full(self, state: State, flight: Flight) -> bool:
        """Tell whether there is no room, or there may be none: the pool is being looked after, or gets another size."""
        return flight.upkeep > 0 or flight.room_taken(self, state) >= self.least

    def holds(self, state: State) -> bool:
        """Hold what was promised to it after it had found the pool full, and came too late."""
        return self.number in state.done


class TimedOut(Full):
    """getconn, which waited for a connection, or for the one that another call opens under its key, and in vain."""

    def is_full(self, state: State, flight: Flight) -> bool:
        """Tell whether there was something to wait for."""
        return super().is_full(state, flight) or any(
            call.key == self.key and call is not self and call.operation.name == "getconn"
            for call in flight.calls.values()
            if self.key is not None
        )


class Close(Call):
    """closeall, which returned."""

    def can(self, state: State, flight: Flight) -> bool:
        """Tell whether the pool is open, and no loan or return would come too late."""
        if state.closed:
            return flight.forgiving
        late = (Lend,) if flight.forgiving else (Lend, Put)
        return not any(
            isinstance(call, late) and not isinstance(call, Exit) and call.number not in state.done
            for call in flight.calls.values()
        )

    def do(self, state: State) -> None:
        """Close it."""
        state.closed = True


class MayClose(Close):
    """closeall, which failed or has not returned: it may have closed the pool, or not."""


class Closed(Call):
    """A call that was refused because the pool was closed."""

    eager = True

    def can(self, state: State, _flight: Flight) -> bool:
        """Tell whether it is."""
        return state.closed


def call_of(number: int, operation: Operation, key: int | None) -> Call:
    """Find out what is asked of an operation."""
    kind: type[Call] = Call
    name = operation.name
    outcome = operation.outcome if operation.returned is not None else Outcome.PENDING
    if outcome is Outcome.CLOSED:
        kind = Closed
    elif name == "getconn":
        if outcome is Outcome.LENT and operation.connection is not None:
            kind = Lend
        elif outcome in {Outcome.REFUSED, Outcome.TIMED_OUT}:
            kind = Full if outcome is Outcome.REFUSED else TimedOut
    elif name == "putconn":
        kind = {Outcome.DONE: Put, Outcome.REFUSED: NotLent}.get(outcome, MayReturn)
    elif name == "exit":
        kind = Exit if outcome is Outcome.DONE else MayReturn
    elif name == "closeall":
        kind = Close if outcome is Outcome.DONE else MayClose
    return kind(number, operation, key)


def unknown_of(call: Call) -> Call | None:
    """Give what a call may have done if only its connection and its key are known; None if that is nothing."""
    number, operation, key = call.number, call.operation, call.key
    if call.upkeep:
        # It may have set the limit, which is known all the same.
        return call
    if isinstance(call, Lend):
        return MayLend(number, operation, key)
    if isinstance(call, (Put, MayReturn)):
        return MayReturn(number, operation, key)
    if isinstance(call, Close):
        return MayClose(number, operation, key)
    return None
