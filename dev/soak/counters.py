"""Count requests and failures in memory that does not grow with their number."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, final

import psycopg2

from dev.load import Outcome
from pgpool_rs import PoolExhausted

FINEST = 1e-6  # Seconds; anything shorter counts as this.
STEP = math.log(1.05)  # Each bucket is 5 % wider than the one before, so that a quantile is right to 5 %.
BUCKETS = 400  # The last one begins at 285 s.
KEPT = 10  # Texts of unexplained failures.


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, SystemExit and GreenletExit, raised in a callback."""


class InterruptedRequestError(Exception):
    """Says that an Interrupt came out of a call of the pool."""


class CallbackError(Exception):
    """Says that a callback failed."""


EXPLAINED: tuple[type[BaseException], ...] = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    PoolExhausted,
    CallbackError,
    Interrupt,
    InterruptedRequestError,
)
"""The only errors that may occur: broken connections, refusals, timeouts, and the errors of the callbacks."""


@final
class Histogram:
    """Keeps durations, to 5 %, in a fixed number of counters."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bucket = int(math.log(max(seconds, FINEST) / FINEST) / STEP)
        self._counts[min(bucket, BUCKETS - 1)] += 1
        self._total += 1

    def quantile(self, share: float) -> float | None:
        """Give the duration, in seconds, that this share of all stayed below; None without any."""
        wanted = max(1, math.ceil(share * self._total))
        seen = 0
        for bucket, number in enumerate(self._counts):
            seen += number
            if number and seen >= wanted:
                return FINEST * math.exp((bucket + 0.5) * STEP)
        return None


@final
@dataclass
class Counters:
    """Counts requests and failures of all threads together; the durations are those since the last report()."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    """The texts of the first failures that are not EXPLAINED."""
    unexplained_number: int = 0
    _durations: Histogram = field(default_factory=Histogram)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, outcome: Outcome) -> None:
        """Count one request. Keeps the durations of reads alone: those of other works depend on more than the pool."""
        with self._lock:
            self.requests += 1
            if outcome.failure is None and outcome.work == "read":
                self._durations.add(outcome.seconds)
        if outcome.failure is not None:
            self.fail(outcome.failure.error, f"{outcome.work}: {outcome.failure}")

    def fail(self, error: type[BaseException], text: str) -> None:
        """Count one failure, and keep its text if it is not EXPLAINED."""
        with self._lock:
            if issubclass(error, EXPLAINED):
                self.failures[error.__name__] += 1
            else:
                self.unexplained_number += 1
                if len(self.unexplained) < KEPT:
                    self.unexplained.append(text)

    def report(self) -> dict[str, Any]:
        """Give all counts since the beginning, and quantiles, in seconds, of the reads since the last report."""
        with self._lock:
            durations, self._durations = self._durations, Histogram()
            return {
                "requests": self.requests,
                "failures": dict(self.failures),
                "unexplained": list(self.unexplained),
                "unexplained_number": self.unexplained_number,
                "median": durations.quantile(0.5),
                "p99": durations.quantile(0.99),
            }
