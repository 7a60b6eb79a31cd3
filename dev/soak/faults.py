"""Make faults at random, in two streams: one for the server and one for the network before it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import Proxy
from dev.servers.standby import ask


@final
@dataclass(frozen=True)
class Fault:
    """Names a fault: how it begins, how it ends, and for how many seconds it lasts, at least and at most."""

    name: str
    begin: Callable[[Faults], None]
    end: Callable[[Faults], None] = lambda _: None
    seconds: tuple[float, float] = (0.0, 0.0)


@final
class Faults:
    """Owns the faults of a server and of the proxy before it. Only step() and stop() change anything."""

    def __init__(self, server: ThrowawayPostgres, proxy: Proxy, application: str, seed: int) -> None:
        self.server = server
        self.proxy = proxy
        self.application = application
        self.choice = random.Random(f"{seed} faults")
        self.begun: list[str] = []
        """The names of the faults that began. Their reader empties the list."""
        self._streams = [Stream(SERVER_FAULTS), Stream(NETWORK_FAULTS)]

    def step(self) -> float:
        """Begin and end the faults that are due; return when, by time.monotonic(), the next is due."""
        return min(stream.step(self) for stream in self._streams)

    def stop(self) -> None:
        """End all faults, and begin none until the next step()."""
        for stream in self._streams:
            stream.end(self)

    def sessions(self, application: str) -> int | None:
        """Count the server's sessions of this application_name; None if the server cannot be asked now."""
        if self.server.pid is None or any(stream.fault is FREEZE for stream in self._streams):
            return None
        query = "select count(*) from pg_stat_activity where application_name = %s"
        return int(ask(self.server, query, application))

    def terminate(self) -> None:
        """Let the server end some of the sessions."""
        ask(
            self.server,
            "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity"
            " where application_name = %s order by random() limit %s) as chosen",
            self.application,
            self.choice.randint(1, 8),
        )


@final
class Stream:
    """Makes one fault after another, with a pause between two."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.fault: Fault | None = None
        self._faults = faults
        self._due = 0.0

    def step(self, of: Faults) -> float:
        """Begin or end a fault if it is due; return when the next step is due."""
        if time.monotonic() < self._due:
            return self._due
        if self.fault is None:
            self.fault = of.choice.choice(self._faults)
            self.fault.begin(of)
            of.begun.append(self.fault.name)
            self._due = time.monotonic() + of.choice.uniform(*self.fault.seconds)
        else:
            self.end(of)
            self._due = time.monotonic() + of.choice.uniform(*PAUSE)
        return self._due

    def end(self, of: Faults) -> None:
        """End the fault if there is one."""
        if self.fault is not None:
            self.fault.end(of)
            self.fault = None


def _crash(of: Faults) -> None:
    of.server.kill()
    of.server.start()


def _delay(of: Faults) -> None:
    of.proxy.delay = of.choice.uniform(0.002, 0.03)


def _heal(of: Faults) -> None:
    of.proxy.heal()


PAUSE = (0.5, 3.0)  # Seconds between two faults of a stream.

FREEZE = Fault("freeze", lambda of: of.server.pause(), lambda of: of.server.resume(), (1.0, 1.0))

SERVER_FAULTS = (
    Fault("terminate", Faults.terminate),
    FREEZE,
    Fault("restart", lambda of: of.server.restart("fast")),
    Fault("crash", _crash),
)
"""Sessions ended by pg_terminate_backend, SIGSTOP and SIGCONT, a restart, and SIGKILL with recovery."""

NETWORK_FAULTS = (
    Fault("cut", lambda of: of.proxy.cut()),
    Fault("swallow", lambda of: of.proxy.swallow(), _heal, (0.2, 1.2)),
    Fault("delay", _delay, _heal, (0.5, 1.5)),
    Fault("refuse", lambda of: of.proxy.refuse(), _heal, (0.2, 0.8)),
)
"""Connections reset, all data held back, all data delayed, and new connections refused."""

NAMES = tuple(fault.name for fault in SERVER_FAULTS + NETWORK_FAULTS)
