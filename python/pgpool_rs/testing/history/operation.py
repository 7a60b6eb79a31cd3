"""What threads did with a pool, and in which order: plain data, recorded or written by hand."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Hashable


class Outcome(enum.Enum):
    """How a call ended."""

    LENT = "lent"
    """getconn returned a connection."""
    DONE = "done"
    """putconn, closeall or another call returned."""
    REFUSED = "refused"
    """getconn found every connection lent; or putconn was given what was not lent, or not under that key."""
    TIMED_OUT = "timed out"
    """getconn waited, and got nothing in time."""
    CLOSED = "closed"
    """The pool was closed."""
    FAILED = "failed"
    """Anything else was raised: a connect that failed, say, or a KeyboardInterrupt."""
    PENDING = "pending"
    """The call had not returned when the history was read."""


@final
@dataclass(frozen=True)
class Operation:
    """One call of a pool's method: its thread, its arguments, its outcome, and the moments between which it ran.

    `called` and `returned` are places in one order of everything that was recorded, not times: a call that returned
    before another began has the smaller number. A call that has not returned has None and `Outcome.PENDING`.
    """

    thread: int
    name: str
    called: int
    returned: int | None
    outcome: Outcome
    connection: int | None = None
    """Which connection was lent or given back, by a number that no other connection of this history has."""
    key: Hashable = None
    """The key that the call named."""
    close: bool = False
    """Whether putconn was told to close it."""
    maxconn: int | None = None
    """What `resize` sets."""
    error: str | None = None
    """The class of what was raised."""

    def __str__(self) -> str:
        """Say it in a line, as `thread 3: getconn() -> connection 2  [12..17]`."""
        return f"{self.call} -> {self.result}  {self.span}"

    @property
    def call(self) -> str:
        """Say which thread called what."""
        given = []
        if self.connection is not None and self.name != "getconn":
            given.append(f"connection {self.connection}")
        if self.key is not None:
            given.append(repr(self.key) if self.name == "getconn" else f"key={self.key!r}")
        if self.close:
            given.append("close=True")
        if self.maxconn is not None:
            given.append(f"maxconn={self.maxconn}")
        return f"thread {self.thread}: {self.name}({', '.join(given)})"

    @property
    def result(self) -> str:
        """Say what came of it."""
        if self.outcome is Outcome.LENT:
            return f"connection {self.connection}"
        return self.outcome.value if self.error is None else f"{self.outcome.value} ({self.error})"

    @property
    def span(self) -> str:
        """Say between which moments."""
        return f"[{self.called}..{'' if self.returned is None else self.returned}]"


class History(tuple[Operation, ...]):
    """Operations in the order in which they were called. It is a tuple, and prints as a timeline."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<history of {len(self)} operations>\n{self}" if self else "<empty history>"

    def __str__(self) -> str:
        return "\n".join(lines(self))


def lines(operations: tuple[Operation, ...], notes: dict[int, str] | None = None) -> list[str]:
    """Set operations in columns, a line each, with a note at the end of some of the lines."""
    rows = [(operation.call, operation.result, operation.span) for operation in operations]
    wide = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    notes = notes or {}
    return [
        f"{call:{wide[0]}} -> {result:{wide[1]}}  {span:{wide[2]}}  {notes.get(line, '')}".rstrip()
        for line, (call, result, span) in enumerate(rows)
    ]
