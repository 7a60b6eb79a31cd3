"""What the fake server's log is made of."""

from __future__ import annotations

from typing import final


@final
class Visit(tuple[str, int]):  # noqa: SLOT001  (what a pair has no room for stands in its __dict__)
    """An entry of the log. It equals the pair of the call's name and the connection's number, and knows more."""

    thread: int
    """The thread that called, as `threading.get_ident()` says."""
    when: float
    """When, as `server.clock()` says."""

    def __new__(cls, call: str, serial: int, thread: int, when: float) -> Visit:
        """Make an entry."""
        visit = super().__new__(cls, (call, serial))
        visit.thread = thread
        visit.when = when
        return visit

    @property
    def call(self) -> str:
        """The name of the call."""
        return self[0]

    @property
    def serial(self) -> int:
        """The number of the connection."""
        return self[1]
