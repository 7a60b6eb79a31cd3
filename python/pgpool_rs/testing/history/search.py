"""The search of the linearizability checker (Wing and Gong): for an order of single steps that explains a history.

The search goes through the moments of a history and keeps every state that the pool may be in. A call must have taken
its step when it returns. Three things keep the states few:

- What changes nothing (a refusal, say) takes its step as soon as it can; so does the return of a connection that can
  only be the caller's. What lends a connection waits until it must. None of these has a choice that spoils another's.
- Where the order matters (a key that several share), only calls that have to do with each other are tried in turn.
- Of calls that are alike, the one that returns first goes first.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pgpool_rs.testing.history.steps import Call, Close, Closed, Exit, Full, Lend, MayClose, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgpool_rs.testing.history.state import Flight, State


class Failure:
    """A call that nothing explains, and a state in which its time was over."""

    def __init__(self, call: Call, events: list[tuple[int, bool, Call]], states: list[State], flight: Flight) -> None:
        self.call = call
        self.events = events
        self.states = states
        self.state = states[0]
        self.flight = flight
        self.is_plain = len(states) == 1 and not flight.loose.keys() - {call.number}
        """Whether this is the only state that the pool could be in, and nothing under way could have changed it."""


class OutOfPatienceError(Exception):
    """More steps had to be tried than were allowed."""


class Search:
    """Goes through a history."""

    def __init__(self, events: list[tuple[int, bool, Call]], flight: Flight, start: State) -> None:
        self.events = events
        self.flight = flight
        self.states = [start]
        self.tried = 0
        """How many steps were tried, which is what a search takes its time for."""
        self.patience = float("inf")

    def run(self, show: Callable[[State, Flight], None] | None = None) -> Failure | None:
        """Find the first call that nothing explains, and call `show` with each state on the way.

        :raises OutOfPatienceError: there is a limit of patience, and it was reached.
        """
        self._show = show
        for place, (_, is_end, call) in enumerate(self.events):
            self._try(len(self.states))
            if is_end:
                if not self._end(call):
                    return Failure(call, self.events[: place + 1], self.states, self.flight)
            else:
                self.flight.enter(call)
                for state in self.states:
                    self._run_eager(state)
        return None

    def _try(self, steps: int) -> None:
        self.tried += steps
        if self.tried > self.patience:
            raise OutOfPatienceError

    def _end(self, call: Call) -> bool:
        """Keep the states in which this call has taken its step, or can."""
        self._foresee()
        number = call.number
        consistent: list[State] = []
        for state in self.states:
            if number in state.done:
                consistent.append(state)
            elif not call.loose and not isinstance(call, MayClose) and self._can_at_once(call, state):
                self._take(call, state)
                consistent.append(state)
            else:
                consistent += self._explore(state, call)
                if isinstance(call, MayClose):
                    consistent.append(state)
        if not consistent:
            return False
        for state in consistent:
            state.done.discard(number)
        self.flight.leave(call)
        if len(consistent) > 1:
            consistent = list({state.fingerprint(): state for state in consistent}.values())
        self.states = consistent
        return True

    def _foresee(self) -> None:
        """Explain refusals under a key by the states before this call's end, since that end may make room."""
        asking = [call for call in self.flight.eager.values() if isinstance(call, Full) and call.key is not None]
        if not asking or not self.flight.loose:
            return
        states = {state.fingerprint(): state for state in self.states}
        for call in asking:
            for state in list(states.values()):
                if call.number not in state.done and call.is_full(state, self.flight):
                    for other in self._explore_among(state, call, self._related(state, [call]))[0]:
                        states.setdefault(other.fingerprint(), other)
        self.states = list(states.values())

    def _take(self, call: Call, state: State) -> None:
        call.do(state)
        state.done.add(call.number)
        self._run_eager(state)

    def _run_eager(self, state: State) -> None:
        """Let every call that can go at once take its step."""
        if self._show is not None:
            self._show(state, self.flight)
        again = True
        while again:
            again = False
            for call in self.flight.eager.values():
                if call.number not in state.done and call.can(state, self.flight):
                    call.do(state)
                    state.done.add(call.number)
                    again = True
                    if self._show is not None:
                        self._show(state, self.flight)

    def _can_at_once(self, call: Call, state: State) -> bool:
        return call.can(state, self.flight) and not self._is_tight(call, state)

    def _explore(self, state: State, call: Call) -> list[State]:
        """Try the calls under way in every order that may matter, until this one has taken its step."""
        if call.loose:
            found, tight = self._explore_among(state, call, self._related(state, [call]))
            if not tight:
                return found
        if isinstance(call, Lend):
            # Calls that have nothing else to do with this one may make the room that is missing, or need it before.
            returns = [one for one in self.flight.loose.values() if isinstance(one, Put) or one.unsure]
            return self._explore_among(state, call, self._related(state, [call, *returns]))[0]
        return self._explore_among(state, call, set(self.flight.loose))[0]

    def _is_tight(self, call: Call, state: State) -> bool:
        """Tell whether a loan finds no room; or the last, which a loan and return by others may need before it."""
        if not isinstance(call, Lend):
            return False
        loose = [one for one in self.flight.loose.values() if one.number not in state.done]
        most = min([call.most, *[one.most for one in loose if isinstance(one, Lend)]])
        left = most - len(state.lent) + len(state.maybe)
        if left > 1:
            return False
        if left < 1:
            return True
        if any(one.unsure for one in loose):
            return True
        returning = Counter(one.connection for one in loose if isinstance(one, Put))
        # A return of what may have come back already may need a loan by another, too.
        surely = state.lent.keys() - state.maybe
        return any(count > (connection in surely) for connection, count in returning.items())

    def _explore_among(self, state: State, goal: Call, among: set[int]) -> tuple[list[State], bool]:
        found: dict[object, State] = {}
        seen = {state.fingerprint()}
        left = [state]
        blocked = False
        while left:
            here = left.pop()
            for call in self._next(here, goal, among):
                self._try(1)
                blocked = blocked or self._is_tight(call, here)
                if not call.can(here, self.flight):
                    continue
                there = here.copy()
                self._take(call, there)
                fingerprint = there.fingerprint()
                if fingerprint in seen:
                    continue
                seen.add(fingerprint)
                if goal.number in there.done:
                    found[fingerprint] = there
                else:
                    left.append(there)
        return list(found.values()), blocked

    def _next(self, state: State, goal: Call, among: set[int]) -> Iterator[Call]:
        alike: dict[object, Call] = {}
        for call in self.flight.loose.values():
            if call.number in state.done or call.number not in among:
                continue
            likeness = call.likeness()
            other = alike.get(likeness)
            if other is None or _end_of(call) < _end_of(other):
                alike[likeness] = call
        yield from alike.values()
        if isinstance(goal, (Close, Closed)):
            yield from self._next_to_close(state, any(not isinstance(call, Exit) for call in alike.values()))
        elif not goal.loose:
            yield goal

    def _next_to_close(self, state: State, early: bool) -> Iterator[Call]:
        """Lend whatever is still to be lent, since nothing is lent later on; then close the pool."""
        if early:
            return
        left = [call for call in self.flight.calls.values() if call.number not in state.done]
        lends: list[Call] = [call for call in left if isinstance(call, Lend)]
        yield from lends[:1] or [call for call in left if isinstance(call, Close)]

    def _related(self, state: State, calls: list[Call]) -> set[int]:
        """Find the calls that have to do with these: with their connections or keys, or with those of related ones."""
        related: set[int] = set()
        connections: set[int | None] = set()
        keys: set[int | None] = set()
        left = list(calls)
        while left:
            one = left.pop()
            related.add(one.number)
            loan = state.lent.get(one.connection) if one.connection is not None else None
            connections |= {one.connection, None if one.key is None else state.under(one.key)} - {None}
            keys |= {one.key, None if loan is None else loan.key} - {None}
            left += [
                other
                for other in self.flight.loose.values()
                if other.number not in related and (other.connection in connections or other.key in keys)
            ]
        return related


def _end_of(call: Call) -> float:
    returned = call.operation.returned
    return float("inf") if returned is None else returned
