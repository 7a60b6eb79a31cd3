"""Faults of a primary and its standby: the primary dies, or becomes read-only while its sessions live."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, final

from psycopg2.errors import ReadOnlySqlTransaction

from dev.servers.postgres import ThrowawayPostgres
from dev.servers.standby import ask, either_of, promote, wait_until_followed
from dev.trials.errors import BROKEN_OFF, CLOSED, LOST, READ_ONLY, REFUSED
from dev.trials.fault import Effort, Explanation, Fault, count_sessions

READ_ONLY_WRITE = Explanation("25006", (ReadOnlySqlTransaction,), "read-only transaction", ("use",))


class _Pair(Fault):
    """Owns a primary and its standby; the pool connects to the one that takes writes."""

    said_of_options = "`host=a,b target_session_attrs=read-write`"
    word = "without a primary"

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        super().__init__(stack, effort)
        self.standby = stack.enter_context(ThrowawayPostgres(standby_of=self.server))
        wait_until_followed(self.server, self.standby)

    @property
    def address(self) -> dict[str, Any]:
        return either_of(self.server, self.standby)

    @property
    def port(self) -> int:
        """Give the port of the standby, which is the primary afterwards."""
        return self.standby.port

    def sessions(self, name: str) -> int:
        """Count the sessions at the two servers together."""
        return count_sessions(self.server, name) + count_sessions(self.standby, name)

    def end(self) -> None:
        promote(self.standby)


@final
class FailedOver(_Pair):
    """The primary dies, and some time later the standby is promoted."""

    title = "Primary killed, standby promoted"
    explanations = (LOST, CLOSED, REFUSED, READ_ONLY, BROKEN_OFF)
    seconds = 2.0

    def begin(self) -> None:
        self.server.kill()


@final
class SwitchedOver(_Pair):
    """The primary takes no more writes and keeps its sessions; the standby is promoted a little later.

    A pair of getconn and putconn does not show the pool its errors, a `connection()` block does. So threads
    with pairs go on failing until one with a block meets the error.
    """

    title = "Primary made read-only, its sessions kept, standby promoted"
    explanations = (READ_ONLY_WRITE, READ_ONLY)
    aftermath = 0.5

    def begin(self) -> None:
        ask(self.server, "alter system set default_transaction_read_only = on")
        ask(self.server, "select pg_reload_conf()")
