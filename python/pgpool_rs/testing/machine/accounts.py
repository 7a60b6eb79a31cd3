"""What a pool says of itself, where it does: its `_pool` and `_used`, its statistics, its repr."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pgpool_rs.testing.machine.model import are_open

if TYPE_CHECKING:
    from pgpool_rs.testing.machine.model import Model

_IN_REPR = re.compile(r"\b(idle|lent|opening|returning|waiting)=(\d+)")


def misfiled(model: Model, free: list[Any]) -> str | None:
    """Say what is wrong in `_pool` and `_used`, if the pool keeps connections there as psycopg2.pool does."""
    idle, used = getattr(model.pool, "_pool", None), getattr(model.pool, "_used", None)
    if not isinstance(idle, Sequence) or not isinstance(used, Mapping):
        return None
    idle, used, lent = list(idle), list(used.values()), [loan.connection for loan in model.loans]
    if any(model.known(connection) is not connection for connection in (*idle, *used)):
        return None
    for connection in idle:
        if _among(connection, lent):
            return f"Connection {connection.serial} is lent, and idle as well"
    for connection in used:
        if not _among(connection, lent):
            return f"Connection {connection.serial} counts as lent, and nobody has it"
    lost = [connection for connection in free if not _among(connection, idle)]
    return f"In _pool and _used they are not: {are_open(lost)}" if lost else None


def numbers(model: Model) -> Iterator[tuple[str, int, int]]:
    """Give each number that the pool shows: its name, the pool's value and the true one."""
    connecting, returning = len(model.connecting()), len(model.returning)
    # Whether one counts as waiting that waits for another to open its key is for the pool to say.
    waiting = None if any(one.apart for one in model.waiters()) else len(model.waiters())
    # Whether a connection is still lent that is committed at the end of its block, too.
    committing = any(call.held_in == "commit" for call in model.returning)
    said = {name: int(number) for name, number in _IN_REPR.findall(repr(model.pool))}
    if len(said) == len(_IN_REPR.pattern.split("|")):
        yield from (
            (f"{name} in repr(pool)", said[name], true)
            for name, true in (
                ("lent", None if committing else len(model.loans)),
                ("opening", connecting),
                ("returning", None if committing else returning),
                ("waiting", waiting),
            )
            if true is not None
        )
    get_stats = getattr(model.pool, "get_stats", None)
    stats: Mapping[str, int] = get_stats() if callable(get_stats) else {}
    true: dict[str, int | None] = {
        "pool_max": model.limit,
        "requests_waiting": waiting,
        "requests_num": model.requests,
        "requests_errors": model.failed_requests,
    }
    if stats.get("requests_num") == model.requests - model.refused_blocks:
        true.update(
            requests_num=model.requests - model.refused_blocks,
            requests_errors=model.failed_requests - model.refused_blocks,
        )
    if not model.held():
        true["connections_num"] = model.connects
        true["connections_errors"] = model.failed_connects
    for name, number in true.items():
        if name in stats and number is not None:
            yield (name, stats[name], number)
    if {"pool_size", "pool_available"} <= stats.keys():
        yield (
            "pool_size - pool_available",
            stats["pool_size"] - stats["pool_available"],
            len(model.loans) + connecting + returning,
        )
    closed = sum(number for name, number in stats.items() if name.startswith("closed_"))
    if {"connections_num", "connections_errors", "pool_size", "closed_surplus"} <= stats.keys() and not model.held():
        opened = stats["connections_num"] - stats["connections_errors"]
        yield ("pool_size and all closed_* together", stats["pool_size"] + closed, opened)


def _among(connection: Any, others: list[Any]) -> bool:
    return any(connection is other for other in others)
