"""Histories for tests of the checker: a pool that is honest, simulated; and a checker that tries everything."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pgpool_rs.testing.history.check import Limits
from pgpool_rs.testing.history.operation import History, Operation, Outcome

LENT, DONE, REFUSED = Outcome.LENT, Outcome.DONE, Outcome.REFUSED
TIMED_OUT, CLOSED, FAILED, PENDING = Outcome.TIMED_OUT, Outcome.CLOSED, Outcome.FAILED, Outcome.PENDING


@dataclass
class Doing:
    """A call that a simulated thread is in."""

    name: str
    called: int
    connection: int | None = None
    key: Hashable = None
    close: bool = False
    maxconn: int | None = None
    outcome: Outcome | None = None
    holds: bool = False
    saw_full: bool = False


@dataclass
class Honest:
    """A pool and its threads, simulated: every call is called, takes its steps, and returns, at random moments."""

    chance: random.Random
    maxconn: int
    threads: int = 3
    connections: int = 3
    keys: tuple[Hashable, ...] = (None, None, "a", "b")
    closing: float = 0.0
    failing: float = 0.0
    resizing: float = 0.0
    clock: int = 0
    closed: bool = False
    opened: int = 0
    lent: dict[int, Hashable] = field(default_factory=dict)
    idle: list[int] = field(default_factory=list)
    doing: dict[int, Doing] = field(default_factory=dict)
    hands: dict[int, list[tuple[int, Hashable]]] = field(default_factory=dict)
    past: list[Operation] = field(default_factory=list)

    def run(self, moments: int) -> History:
        """Let so many moments pass."""
        for _ in range(moments):
            thread = self.chance.randrange(self.threads)
            doing = self.doing.get(thread)
            if doing is None:
                self.doing[thread] = self._begin(thread)
            elif doing.outcome is None:
                self._step(doing)
            else:
                self._end(thread, self.doing.pop(thread), doing.outcome)
        for thread, doing in self.doing.items():
            lent = None if doing.name == "getconn" else doing.connection
            self.past.append(
                Operation(thread, doing.name, doing.called, None, PENDING, lent, doing.key, doing.close, doing.maxconn)
            )
        return History(sorted(self.past, key=lambda operation: operation.called))

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def _begin(self, thread: int) -> Doing:
        luck = self.chance.random()
        if luck < self.closing:
            return Doing("closeall", self._tick())
        if luck < self.closing + self.resizing:
            return Doing("resize", self._tick(), maxconn=self.chance.randint(0, 4))
        held = self.hands.get(thread, [])
        if held and self.chance.random() < 0.6:
            connection, key = held.pop(self.chance.randrange(len(held)))
            close = self.chance.random() < 0.2
            given = key if self.chance.random() < 0.5 else None
            return Doing("putconn", self._tick(), connection, given, close)
        return Doing("getconn", self._tick(), key=self.chance.choice(self.keys))

    def _end(self, thread: int, doing: Doing, outcome: Outcome) -> None:
        doing.holds = False
        if outcome is LENT:
            assert doing.connection is not None
            self.hands.setdefault(thread, []).append((doing.connection, doing.key))
        elif doing.name == "getconn":
            doing.connection = None
        self.past.append(
            Operation(
                thread,
                doing.name,
                doing.called,
                self._tick(),
                outcome,
                doing.connection,
                doing.key,
                doing.close,
                doing.maxconn,
            )
        )

    def _step(self, doing: Doing) -> None:
        if doing.name == "getconn":
            self._lend(doing)
        elif doing.name == "putconn":
            self._take_back(doing)
        elif doing.name == "closeall":
            doing.outcome = CLOSED if self.closed else DONE
            self.closed = True
        else:
            assert doing.maxconn is not None
            self.maxconn = doing.maxconn
            doing.outcome = DONE

    @property
    def _taken(self) -> int:
        return len(self.lent) + sum(doing.holds for doing in self.doing.values())

    def _lend(self, doing: Doing) -> None:
        if doing.holds and self.chance.random() < self.failing:
            doing.holds, doing.outcome = False, FAILED
        elif self.closed:
            doing.holds, doing.outcome = False, CLOSED
        elif doing.key is not None and doing.key in self.lent.values():
            doing.holds = False
            doing.connection = next(connection for connection, key in self.lent.items() if key == doing.key)
            doing.outcome = LENT
        elif not doing.holds and self._taken >= self.maxconn:
            if doing.saw_full or self.chance.random() < 0.3:
                doing.outcome = self.chance.choice([REFUSED, TIMED_OUT])
            doing.saw_full = self.chance.random() < 0.5
        elif not doing.holds and self.chance.random() < 0.5:
            doing.holds = True
        else:
            doing.holds = False
            if self.idle and self.chance.random() < 0.8:
                doing.connection = self.idle.pop(self.chance.randrange(len(self.idle)))
            else:
                self.opened += 1
                doing.connection = self.opened
            self.lent[doing.connection] = doing.key
            doing.outcome = LENT

    def _take_back(self, doing: Doing) -> None:
        assert doing.connection is not None
        missing = object()
        key = self.lent.get(doing.connection, missing)
        if self.closed:
            doing.outcome = CLOSED
        elif key is missing or (doing.key is not None and key != doing.key):
            doing.outcome = REFUSED
        else:
            failed = self.chance.random() < self.failing
            doing.outcome = FAILED if failed else DONE
            if failed and self.chance.random() < 0.5:
                return
            del self.lent[doing.connection]
            # It holds its slot until it ends.
            doing.holds = True
            if not doing.close and not failed:
                self.idle.append(doing.connection)
                doing.holds = False


def explained_by_brute_force(history: History, limits: Limits) -> bool:
    """Try every order of every step at every moment. Exponential, and written without a look at the checker."""
    return any(True for _ in _Brute(history, limits).explanations())


class _Brute:
    """A state is: moments passed, loans, connections closed on return, whether closed, and which calls have stepped."""

    def __init__(self, history: History, limits: Limits) -> None:
        self.history = history
        self.limits = limits
        ends = [(op.called, 0, number) for number, op in enumerate(history)]
        ends += [(op.returned, 1, number) for number, op in enumerate(history) if op.returned is not None]
        self.moments = sorted(ends)

    def explanations(self) -> Iterator[bool]:
        start: Any = (0, frozenset(), frozenset(), False, frozenset())
        seen = {start}
        left = [start]
        while left:
            place, loans, dead, closed, stepped = state = left.pop()
            if place == len(self.moments):
                yield True
                continue
            followers = []
            _, is_end, number = self.moments[place]
            optional = self.history[number].outcome in {FAILED, PENDING}
            if not is_end or number in stepped or optional:
                followers.append((place + 1, loans, dead, closed, stepped))
            begun = {number for _, is_end, number in self.moments[:place] if not is_end}
            ended = {number for _, is_end, number in self.moments[:place] if is_end}
            flying = begun - ended
            for number in flying - stepped:
                after = self._step(number, state, flying)
                if after is not None:
                    followers.append((place, *after, stepped | {number}))
            for follower in followers:
                if follower not in seen:
                    seen.add(follower)
                    left.append(follower)

    def _step(self, number: int, state: Any, flying: set[int]) -> Any:  # noqa: PLR0911, PLR0912
        _, loans, dead, closed, _ = state
        op = self.history[number]
        lent = dict(loans)
        under = {key: connection for connection, key in loans if key is not None}
        same = (loans, dead, closed)
        if op.outcome is CLOSED:
            return same if closed else None
        if op.name == "closeall":
            return (loans, dead, True) if not closed else None
        if op.name == "getconn" and op.outcome is LENT:
            assert op.connection is not None
            if closed:
                return None
            if op.key is not None and op.key in under:
                return same if under[op.key] == op.connection else None
            if op.connection in lent or op.connection in dead or len(lent) >= self.limits.maxconn:
                return None
            return (loans | {(op.connection, op.key)}, dead, closed)
        if op.name == "getconn" and op.outcome in {REFUSED, TIMED_OUT}:
            if closed or op.key in under:
                return None
            if op.outcome is TIMED_OUT and op.key is not None:
                others = flying - {number}
                if any(self.history[n].name == "getconn" and self.history[n].key == op.key for n in others):
                    return same
            return same if self._taken(number, state, flying) >= self.limits.maxconn else None
        if op.name == "putconn" and op.outcome is REFUSED:
            found = op.connection in lent and op.key in {None, lent[op.connection]}
            return None if closed or found else same
        if op.name == "putconn":
            gone = {op.connection} if op.close and op.outcome is DONE else set()
            if closed:
                return None
            if op.connection in lent and op.key in {None, lent[op.connection]}:
                return (loans - {(op.connection, lent[op.connection])}, dead | gone, closed)
            pending = (self.history[other] for other in flying)
            lost = any(o.name == "getconn" and o.outcome is PENDING and op.key in {None, o.key} for o in pending)
            return (loans, dead | gone, closed) if lost else None
        return None

    def _taken(self, asking: int, state: Any, flying: set[int]) -> int:
        _, loans, _, _, stepped = state
        lent = dict(loans)
        taken = len(lent)
        returning = set()
        for number in flying - {asking}:
            op = self.history[number]
            if op.name == "getconn":
                if op.outcome is LENT:
                    taken += number not in stepped
                elif op.outcome in {REFUSED, TIMED_OUT}:
                    taken += number in stepped
                else:
                    taken += 1
            elif op.name == "putconn" and op.connection not in lent and number in stepped and op.outcome is not REFUSED:
                returning.add(op.connection)
        return taken + len(returning - {None})


def spoilt(history: History, chance: random.Random) -> History:
    """Change one operation at random, so that the history may be one that no pool can have."""
    if not history:
        return history
    operations = list(history)
    place = chance.randrange(len(operations))
    old = operations[place]
    connections = sorted({op.connection for op in history if op.connection is not None} | {1})
    if old.name == "getconn" and old.returned is not None:
        outcome = chance.choice([LENT, LENT, LENT, REFUSED, TIMED_OUT, CLOSED])
        connection = chance.choice(connections) if outcome is LENT else None
        operations[place] = replace(old, outcome=outcome, connection=connection)
    elif old.name == "putconn" and old.returned is not None:
        outcome = chance.choice([DONE, DONE, REFUSED, CLOSED])
        operations[place] = replace(
            old, outcome=outcome, connection=chance.choice(connections), close=chance.random() < 0.3
        )
    elif chance.random() < 0.5:
        del operations[place]
    return History(operations)
