"""What is found out about the calls of a history before the search: their order, their limits, their freedom."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pgpool_rs.testing.history.operation import Outcome
from pgpool_rs.testing.history.steps import Lend, MayLend, MayReturn, Put

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgpool_rs.testing.history.steps import Call


def moments(calls: Iterable[Call]) -> list[tuple[int, bool, Call]]:
    """Put the beginnings and the ends of calls in order; of those at one place, the beginnings come first."""
    found = []
    for call in calls:
        found.append((call.operation.called, False, call))
        if call.operation.returned is not None:
            found.append((call.operation.returned, True, call))
    found.sort(key=lambda moment: moment[:2])
    return found


def set_limits(events: list[tuple[int, bool, Call]], maxconn: int) -> None:
    """Find out for each call what maxconn may have been in its time."""
    possible = {maxconn}
    resizes: dict[Call, int] = {}
    flying: set[Call] = set()
    for _, is_end, call in events:
        size = call.operation.maxconn if call.operation.name == "resize" else None
        if is_end:
            flying.discard(call)
        else:
            flying.add(call)
            call.least, call.most = min(possible), max(possible)
        if size is None:
            continue
        if not is_end:
            for other in resizes:
                other.rivals.add(size)
            call.rivals = set(resizes.values())
            resizes[call] = size
            possible = possible | {size}
        else:
            del resizes[call]
            if call.operation.outcome is Outcome.DONE:
                possible = {size} | call.rivals | set(resizes.values())
        for other in flying:
            other.least, other.most = min(other.least, *possible), max(other.most, *possible)


def set_order(events: list[tuple[int, bool, Call]]) -> None:
    """Find out for each call whether its step can be taken as soon as possible, or its order matters.

    A connection is tame if it is lent without a key, and each return finds that more loans of it have ended in a
    connection than returns have begun. Then a return that begins finds the connection lent, and nobody else's.
    """
    wild: set[int | None] = {None}
    count: Counter[int | None] = Counter()
    for _, is_end, call in events:
        if isinstance(call, MayReturn) or (isinstance(call, Lend) and call.key is not None):
            wild.add(call.connection)
        elif isinstance(call, Lend):
            count[call.connection] += is_end
        elif isinstance(call, Put) and not is_end:
            count[call.connection] -= 1
            if count[call.connection] < 0:
                wild.add(call.connection)
    for _, is_end, call in events:
        if not is_end and isinstance(call, (Lend, Put)):
            call.loose = call.connection in wild
            call.eager = isinstance(call, Put) and not call.loose


def set_unsure(events: list[tuple[int, bool, Call]]) -> None:
    """Find out for each call which others, of which it is not known what they did, were under way with it."""
    flying: set[Call] = set()
    for _, is_end, call in events:
        if is_end:
            flying.discard(call)
            continue
        for other in flying:
            for unsure, sure in ((call, other), (other, call)):
                touched = (Lend, Put, MayReturn) if isinstance(unsure, MayLend) else (Lend, Put)
                if isinstance(unsure, MayReturn) and isinstance(sure, touched) and unsure.concerns(sure):
                    sure.unsure.append(unsure)
        flying.add(call)
