"""The shortest part of a history that no order explains, and the reason in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgpool_rs.testing.history.search import OutOfPatienceError
from pgpool_rs.testing.history.steps import Close, Closed, Full, Lend, NotLent, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pgpool_rs.testing.history.search import Failure, Search
    from pgpool_rs.testing.history.state import Flight, State
    from pgpool_rs.testing.history.steps import Call


# How many steps to try in search of a shorter part: a second's worth or two.
LONGEST_SEARCH = 100_000


def shrink(failure: Failure, searching: Callable[[Collection[int] | None], Search]) -> tuple[set[int], str]:
    """Find the numbers of the operations that are enough to show a failure, and the reason.

    Whatever is left out is not taken for something that did not happen, which would make new failures: it may have lent
    or returned its connection at any time. What was refused for want of room is another matter, since it is shown by
    what was not lent; there all that took room at the fullest moment is shown.
    """
    call = failure.call
    if isinstance(call, Full):
        return _fullest(failure, searching(None))
    if isinstance(call, Closed):
        return {call.number}, "nobody had closed the pool"
    if failure.is_plain and isinstance(call, Lend) and _is_one_too_many(call, failure.state):
        sure = failure.state.lent.keys() - failure.state.maybe
        loans = {loan.by for connection, loan in failure.state.lent.items() if connection in sure}
        shown = {call.number, *(loan.number for loan in loans if loan is not None)}
        return shown | _last_resize(failure), why(call, failure.state, failure.flight)
    return _fewest(failure, searching)


def _fewest(failure: Failure, searching: Callable[[Collection[int] | None], Search]) -> tuple[set[int], str]:
    """Leave out what can be left out, in large pieces first."""
    call = failure.call
    patience = LONGEST_SEARCH

    def fails(kept: list[int]) -> Failure | None:
        nonlocal patience
        if patience <= 0:
            return None
        search = searching({*kept, call.number})
        patience -= len(search.events)
        search.patience = patience
        try:
            found = search.run()
        except OutOfPatienceError:
            found = None
        patience -= search.tried
        return found if found is not None and found.call.number == call.number else None

    others = [other for _, is_end, other in failure.events if not is_end and other is not call]
    near = [other.number for other in others if _is_near(other, call)]
    kept, found = [other.number for other in others], failure
    for last in [2**power for power in range(len(near).bit_length() + 1)]:
        again = fails(near[-last:])
        if again is not None:
            kept, found = near[-last:], again
            break
    size = len(kept)
    while size:
        place = 0
        while place < len(kept):
            fewer = kept[:place] + kept[place + size :]
            again = fails(fewer)
            if again is None:
                place += size
            else:
                kept, found = fewer, again
        size //= 2
    return {*kept, call.number}, why(found.call, found.state, found.flight)


def _is_near(other: Call, call: Call) -> bool:
    """Tell whether a call has to do with the same connection or the same key as another, or with the pool's end."""
    return (
        isinstance(other, (Close, Closed))
        or (call.connection is not None and other.connection == call.connection)
        or (call.key is not None and other.key == call.key)
    )


def _is_one_too_many(call: Lend, state: State) -> bool:
    return not state.closed and call.connection not in state.lent and call.lacks_room(state)


def _last_resize(failure: Failure) -> set[int]:
    """Find the resize that set the limit, if there is one."""
    done = [call.number for _, is_end, call in failure.events if is_end and call.operation.maxconn is not None]
    return set(done[-1:])


def _fullest(failure: Failure, search: Search) -> tuple[set[int], str]:
    """Find the moment of a call in which most room was taken, and by what."""
    number = failure.call.number

    def show(state: State, flight: Flight) -> None:
        asking = flight.calls.get(number)
        if asking is not None:
            state.fullest = max(state.fullest, flight.takers(asking, state), key=len)

    again = search.run(show)
    call, state = failure.call, failure.state
    if state.closed:
        return {number}, "the pool had been closed, which is another answer"
    if call.key is not None and (connection := state.surely_under(call.key)) is not None:
        by = state.lent[connection].by
        shown = set() if by is None else {by.number}
        return shown | {number}, f"key {call.operation.key!r} was lent, as connection {connection}, which is the answer"
    part = max((one.fullest for one in again.states), key=len) if again is not None else frozenset()
    best = len(part) + failure.flight.unseen
    unseen = f" ({failure.flight.unseen} of them unseen)" if failure.flight.unseen else ""
    return {*part, number}, (
        f"there was room: at the fullest moment of the call, {best} of {call.least} connections were lent, "
        f"or may have been in the making or on their way back{unseen}"
    )


def why(call: Call, state: State, flight: Flight) -> str:
    """Say why a call cannot take its step in a state."""
    if isinstance(call, Lend):
        return _why_not_lent(call, state, flight)
    if isinstance(call, Put):
        return _why_not_taken_back(call, state)
    if isinstance(call, NotLent):
        which = f"connection {call.connection}" if call.connection is not None else f"key {call.operation.key!r}"
        return f"{which} was lent, and could have been taken back"
    if state.closed:
        return "the pool had been closed already"
    return "a caller got or gave back a connection, which can have been neither before the pool was closed nor after it"


def _why_not_lent(call: Lend, state: State, flight: Flight) -> str:
    which = f"connection {call.connection}"
    if state.closed:
        return f"the pool had been closed, and yet {which} was lent"
    loan = state.lent.get(call.connection)
    if loan is not None and call.connection not in state.maybe:
        by = "" if loan.by is None else f" to thread {loan.by.operation.thread}"
        key = "" if loan.by is None or loan.key is None else f" under key {loan.by.operation.key!r}"
        return f"{which} was lent{by}{key} and had not come back"
    if flight.is_gone(call.connection, state):
        return f"{which} had been closed when it came back"
    if call.key is not None and (other := state.surely_under(call.key)) not in {None, call.connection}:
        return f"key {call.operation.key!r} was lent already, as connection {other}"
    lent = len(state.lent) - len(state.maybe)
    return f"as many connections as maxconn allows were lent already: {lent} of {call.most}"


def _why_not_taken_back(call: Put, state: State) -> str:
    if state.closed:
        return "the pool had been closed, and takes nothing back"
    if call.connection is None:
        return f"nothing was lent under key {call.operation.key!r}"
    under = f" under key {call.operation.key!r}" if call.connection in state.lent else ""
    return f"connection {call.connection} was not lent{under}"
