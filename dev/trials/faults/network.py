"""Faults between the pool and its server: connections that stay open and lead nowhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, final

import psycopg2

from dev.load import Load
from dev.servers.proxy import Proxy
from dev.trials.errors import BROKEN_OFF, CLOSED, LOST, UNANSWERED, WAITED
from dev.trials.fault import Effort, Fault, Strike
from pgpool_rs import check_query

IMPATIENT = partial(check_query, timeout=1)


@final
class Swallowed(Fault):
    """The network takes all data and delivers none; then it resets open connections, and carries new ones."""

    title = "Half-open: a proxy swallows all, then resets what was open"
    options: ClassVar = {"check": IMPATIENT, "connect_timeout": 2}
    said_of_options = "`check_query(timeout=1)`, `connect_timeout=2`"
    explanations = (LOST, CLOSED, UNANSWERED, BROKEN_OFF, WAITED)
    seconds = 6.0
    word = "swallowed"

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        super().__init__(stack, effort)
        self._proxy = stack.enter_context(Proxy(self.server.port))

    @property
    def address(self) -> dict[str, Any]:
        return self._proxy.dsn_kwargs(self.server.dsn_kwargs)

    def begin(self) -> None:
        self._proxy.swallow()

    def end(self) -> None:
        self._proxy.cut()
        self._proxy.heal()

    def undo(self) -> None:
        """Deliver again."""
        self._proxy.heal()


@final
class Forgotten(Fault):
    """The network forgets all idle connections and never says so, as a firewall does; new ones get through.

    The load rests before, for longer than check_after. Else an unchecked connection would wait for an answer for ever:
    the proxy's kernel acknowledges the swallowed data, so that tcp_user_timeout has no effect.
    """

    title = "Half-open: idle connections silently dead for good, new ones get through"
    options: ClassVar = {"check": IMPATIENT}
    said_of_options = "`check_query(timeout=1)`"
    explanations = ()
    is_compared = False
    quiet: ClassVar[float] = 1.0

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        super().__init__(stack, effort)
        self._old = stack.enter_context(Proxy(self.server.port))
        self._new = stack.enter_context(Proxy(self.server.port))
        self._way = self._old
        self.options = {**self.options, "connect": self._connect}  # type: ignore[misc]

    def _connect(self, **arguments: Any) -> Any:
        return psycopg2.connect(**{**arguments, "port": self._way.port})

    def strike(self, load: Load, name: str) -> Strike:
        del name
        with load.resting():
            time.sleep(self.quiet)
            began = time.monotonic()
            forgotten = len(self._old)
            self._old.swallow()
            self._way = self._new
        return Strike(began, time.monotonic(), f"{forgotten} forgotten")

    def undo(self) -> None:
        """Let the server learn that those connections ended, as its own keepalives would."""
        self._old.heal()
