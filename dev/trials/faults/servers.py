"""Faults of a single server: sessions killed at random, restarts, a crash, a halt."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from typing import ClassVar, final

import psycopg2

from dev.load import Load, Outcome
from dev.trials.errors import BROKEN_OFF, CLOSED, LOST, REFUSED, UNANSWERED, WAITED
from dev.trials.fault import Effort, Fault, Strike, explained_by

CHECK_AFTER = 0.5  # The pool's default: it lends a connection without a check this long after its last use.
CLOCK = 0.1  # Seconds of tolerance in the order of two events.


@final
class KilledSessions(Fault):
    """The server ends sessions of the pool, chosen at random, one after the other."""

    title = "Sessions ended at random (`pg_terminate_backend`)"
    explanations = (LOST, CLOSED, BROKEN_OFF)
    every: ClassVar[float] = 0.05

    def __init__(self, stack: ExitStack, effort: Effort) -> None:
        super().__init__(stack, effort)
        self._killed: dict[int, float] = {}
        self._blamed: set[int] = set()
        self._broken_off = 0

    def strike(self, load: Load, name: str) -> Strike:
        del load
        choice = random.Random(0)
        observer = psycopg2.connect(self.server.dsn)
        observer.autocommit = True
        began = time.monotonic()
        with observer.cursor() as cursor:
            while time.monotonic() < began + self.effort.kills:
                cursor.execute("select pid from pg_stat_activity where application_name = %s", [name])
                pids = [pid for (pid,) in cursor if pid not in self._killed]
                if pids:
                    victim = choice.choice(pids)
                    self._killed[victim] = time.monotonic()
                    cursor.execute("select pg_terminate_backend(%s)", [victim])
                time.sleep(choice.uniform(0.0, 2 * self.every))
        observer.close()
        return Strike(began, time.monotonic(), f"{len(self._killed):,} in {self.effort.kills:g} s")

    def explain(self, outcome: Outcome, strike: Strike) -> str | None:
        """Explain the failure of a request whose own session was killed while it ran, or at most CHECK_AFTER before.

        Each killed session explains one failure. The session of a broken-off connect is not known.
        """
        assert outcome.failure is not None
        if outcome.lent is not None:
            pid = outcome.pid or 0
            killed = self._killed.get(pid)
            if killed is None or outcome.ended < killed - CLOCK or outcome.lent > killed + CHECK_AFTER + CLOCK:
                return None
            if pid in self._blamed:
                return None
            self._blamed.add(pid)
        elif outcome.began > strike.returned or outcome.ended < strike.began:
            return None
        else:
            self._broken_off += 1
            if self._broken_off + len(self._blamed) > len(self._killed):
                return None
        return explained_by(self.explanations, outcome.failure)


@final
class Restarted(Fault):
    """The server is restarted in good order."""

    title = "PostgreSQL restarted (`fast`)"
    explanations = (LOST, CLOSED, REFUSED, BROKEN_OFF)

    def begin(self) -> None:
        self.server.stop()


@final
class RestartedAtRest(Fault):
    """The server is restarted while the load rests. All idle connections die, and no request may fail."""

    title = "PostgreSQL restarted (`immediate`) while the pool is idle"

    def strike(self, load: Load, name: str) -> Strike:
        with load.resting():
            return super().strike(load, name)

    def begin(self) -> None:
        self.server.stop("immediate")


@final
class Crashed(Fault):
    """The server is killed, and recovers at its next start."""

    title = "PostgreSQL killed (`SIGKILL`), recovered"
    options: ClassVar = {"background": False, "max_idle": None}
    said_of_options = "`background=False`, `max_idle=None`"
    explanations = (LOST, CLOSED, REFUSED, BROKEN_OFF)

    def begin(self) -> None:
        self.server.kill()


@final
class Halted(Fault):
    """Every process of the server is halted, for longer than the timeouts of borrowers and connects."""

    title = "PostgreSQL halted (`SIGSTOP`, `SIGCONT`)"
    explanations = (WAITED, UNANSWERED)
    is_compared = False
    seconds = 7.0
    word = "halted"

    def begin(self) -> None:
        self.server.pause()

    def end(self) -> None:
        self.server.resume()

    def undo(self) -> None:
        """Resume the server, if it is still halted."""
        self.server.resume()
