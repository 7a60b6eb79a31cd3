"""A linearizability checker (Wing and Gong): whether some order of single steps explains what threads got."""

from __future__ import annotations

__tracebackhide__ = True

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from pgpool_rs.testing.history.operation import History, Operation, lines
from pgpool_rs.testing.history.prepare import moments, set_limits, set_order, set_unsure
from pgpool_rs.testing.history.search import Search
from pgpool_rs.testing.history.shrink import shrink
from pgpool_rs.testing.history.state import Flight, State
from pgpool_rs.testing.history.steps import MayReturn, call_of, unknown_of

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable

    from pgpool_rs.testing.history.steps import Call


# How many operations the text of an error shows.
MOST_LINES = 40


@final
@dataclass(frozen=True)
class Limits:
    """What a pool has promised, as far as a history can show whether it was kept."""

    maxconn: int
    """How many connections are lent, opened and returned at once at most. A recorded `resize` changes it."""
    unseen: int = 0
    """How many connections the pool may be busy with on its own account: a housekeeping thread that opens what is
    missing of `minconn`, or finishes what `background=True` has left to it. Each makes refusals more excusable."""
    forgiving: bool = False
    """Whether a closed pool takes connections back, and may be closed again, without an error. psycopg2.pool and
    pgpool_rs refuse both."""


@final
class HistoryError(AssertionError):
    """A history that no order of single steps explains.

    :ivar part: the operations that are enough to show it.
    :ivar operation: the one among them that nothing explains.
    :ivar reason: why nothing does, in a sentence.
    """

    def __init__(self, part: History, operation: Operation, reason: str, size: int) -> None:
        self.part = part
        self.operation = operation
        self.reason = reason
        rest = size - len(part)
        also = f"\n  ({rest} other operations do not change this)" if rest else ""
        notes = {place: "<- this" for place, one in enumerate(part) if one is operation}
        told = [f"  {line}" for line in lines(part, notes)]
        if len(told) > MOST_LINES:
            told[:-MOST_LINES] = [f"  ... {len(told) - MOST_LINES} earlier ones, which are in the error's part"]
        shown = "\n".join(told)
        super().__init__(f"no order of single steps explains what the pool did: {reason}\n{shown}{also}")


def check_history(history: Iterable[Operation], limits: Limits) -> None:
    """Find an order of single steps, one for each call and at a moment while it lasted, that explains a history.

    The steps are those of a pool that does one thing at a time, which
    <https://pgpool-rs.readthedocs.io/en/latest/testing.html#what-is-checked> lists. The check takes less than a second
    for thousands of operations, unless many threads share many keys.

    :raises HistoryError: there is none. The message shows the shortest part of which that is true.
    :raises ValueError: an operation returned before it was called.
    """
    operations = History(sorted(history, key=lambda operation: operation.called))
    for operation in operations:
        if operation.returned is not None and operation.returned < operation.called:
            raise ValueError(f"it returned before it was called: {operation}")
    failure = search(operations, limits).run()
    if failure is not None:
        # What began later has no part in it.
        past = History(operations[: max(call.number for _, _, call in failure.events) + 1])
        numbers, reason = shrink(failure, lambda kept: search(past, limits, kept))
        part = History(operations[number] for number in sorted(numbers))
        if search(part, limits).run() is None:
            # The limit was not the one that the history began with.
            part = History(op for number, op in enumerate(past) if number in numbers or op.name == "resize")
        raise HistoryError(part, operations[failure.call.number], reason, len(operations))


def search(operations: History, limits: Limits, kept: Collection[int] | None = None) -> Search:
    """Set up the search. Of operations that are not kept, nothing is known but with which connection they had to do."""
    keys: dict[object, int] = {}
    calls = [call_of(number, op, _number_of(keys, op.key)) for number, op in enumerate(operations)]
    start = State()
    if kept is not None:
        calls = _forget(calls, kept, start)
    events = moments(calls)
    set_limits(events, limits.maxconn)
    set_order(events)
    set_unsure(events)
    return Search(events, Flight(limits.unseen, forgiving=limits.forgiving), start)


def _forget(calls: list[Call], kept: Collection[int], start: State) -> list[Call]:
    """Forget of all calls but those that are kept what they did."""
    known = {calls[number].connection for number in kept}
    begin = min(calls[number].operation.called for number in kept)
    left: list[Call] = []
    for call in calls:
        unknown = call if call.number in kept else unknown_of(call)
        if unknown is None:
            continue
        if unknown is call or not isinstance(unknown, MayReturn) or unknown.connection is None:
            left.append(unknown)
        elif unknown.connection in known:
            returned = call.operation.returned
            if returned is None or returned >= begin:
                left.append(unknown)
            else:
                start.leave_open(unknown.connection)
    return left


def _number_of(keys: dict[object, int], key: Hashable) -> int | None:
    if key is None:
        return None
    try:
        return keys.setdefault(key, len(keys))
    except TypeError:
        # Nothing is lent under a key that has no hash, nor anything that a history must explain.
        return keys.setdefault(id(key), len(keys))
