"""Make the faults: two streams of them at random, one for the server and one for the network before it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import psycopg2

from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import Proxy


@final
@dataclass(frozen=True)
class Fault:
    """Names something bad: how it begins, how it ends, and for how many seconds it lasts."""

    name: str
    begin: Callable[[Weather], None]
    end: Callable[[Weather], None] = lambda _: None
    seconds: tuple[float, float] = (0.0, 0.0)


@final
class Weather:
    """Owns the faults of a server and of the proxy before it. Nothing happens but in step() and calm()."""

    def __init__(self, server: ThrowawayPostgres, proxy: Proxy, application: str, seed: int) -> None:
        self.server = server
        self.proxy = proxy
        self.application = application
        self.choice = random.Random(f"{seed} weather")
        self.happened: list[str] = []
        """The names of the faults that began; whoever reads them empties the list."""
        self._streams = [Stream(SERVER_FAULTS), Stream(NETWORK_FAULTS)]

    def step(self) -> float:
        """Begin and end what is due; return when, by time.monotonic(), there is something to do again."""
        return min(stream.step(self) for stream in self._streams)

    def calm(self) -> None:
        """End all faults, and begin none until the next step()."""
        for stream in self._streams:
            stream.end(self)

    def sessions(self, application: str) -> int | None:
        """Count the server's sessions of this application_name; None if the server cannot be asked now."""
        if self.server.pid is None or any(stream.fault is FREEZE for stream in self._streams):
            return None
        return int(self._ask("select count(*) from pg_stat_activity where application_name = %s", application))

    def terminate(self) -> None:
        """Let the server end some of the sessions."""
        number = self.choice.randint(1, 8)
        self._ask(
            "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity"
            " where application_name = %s order by random() limit %s) as doomed",
            self.application,
            number,
        )

    def _ask(self, query: str, *parameters: object) -> Any:
        connection = psycopg2.connect(self.server.dsn)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, parameters)
                (answer,) = cursor.fetchone() or (None,)
                return answer
        finally:
            connection.close()


@final
class Stream:
    """Has one fault after another, with a pause between two."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.fault: Fault | None = None
        self._faults = faults
        self._due = 0.0

    def step(self, weather: Weather) -> float:
        """Begin or end a fault if it is due; return when something is due again."""
        if time.monotonic() < self._due:
            return self._due
        if self.fault is None:
            self.fault = weather.choice.choice(self._faults)
            self.fault.begin(weather)
            weather.happened.append(self.fault.name)
            self._due = time.monotonic() + weather.choice.uniform(*self.fault.seconds)
        else:
            self.end(weather)
            self._due = time.monotonic() + weather.choice.uniform(*PAUSE)
        return self._due

    def end(self, weather: Weather) -> None:
        """End the fault if there is one."""
        if self.fault is not None:
            self.fault.end(weather)
            self.fault = None


def _stop_and_start(weather: Weather) -> None:
    weather.server.restart("fast")


def _crash(weather: Weather) -> None:
    weather.server.kill()
    weather.server.start()


def _delay(weather: Weather) -> None:
    weather.proxy.delay = weather.choice.uniform(0.002, 0.03)


def _heal(weather: Weather) -> None:
    weather.proxy.heal()


PAUSE = (0.5, 3.0)  # Seconds between two faults of a stream.

FREEZE = Fault("freeze", lambda weather: weather.server.pause(), lambda weather: weather.server.resume(), (1.0, 1.0))

SERVER_FAULTS = (
    Fault("terminate", Weather.terminate),
    FREEZE,
    Fault("restart", _stop_and_start),
    Fault("crash", _crash),
)
"""Sessions ended by pg_terminate_backend, SIGSTOP and SIGCONT, a restart, and SIGKILL with recovery."""

NETWORK_FAULTS = (
    Fault("cut", lambda weather: weather.proxy.cut()),
    Fault("swallow", lambda weather: weather.proxy.swallow(), _heal, (0.2, 1.2)),
    Fault("delay", _delay, _heal, (0.5, 1.5)),
    Fault("refuse", lambda weather: weather.proxy.refuse(), _heal, (0.2, 0.8)),
)
"""Connections reset, silence, all that is said said late, and new connections refused."""

FAULTS = tuple(fault.name for fault in SERVER_FAULTS + NETWORK_FAULTS)
