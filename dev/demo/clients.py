"""The shop's customers: many clients with real HTTP connections, in a process of their own.

Run as `python -m dev.demo.clients PORT SECONDS`. Prints a Report as a line of JSON several times a second, and a last
one for the whole time.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Callable

from dev.demo.scenario import CLIENTS, ORDERS, WARM_UP
from dev.load import Load
from examples.shop import PRODUCTS

TICK = 0.25
"""Seconds from one report to the next."""

LONGEST_ANSWER = 10.0
"""Seconds after which a request without an answer counts as failed."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Counts the requests that ended in a span of time."""

    elapsed: float
    """Seconds since the warm-up ended; negative before."""

    rate: float
    """Answered requests per second."""

    p50: float
    """Median time to an answer, in milliseconds."""

    p99: float
    """Time within which 99 of 100 answers came, in milliseconds."""

    answered: int
    errors: int
    is_total: bool = False

    def to_line(self) -> str:
        """Write it as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Report:
        """Read the line that to_line wrote."""
        return cls(**json.loads(line))


class Counters:
    """Collects the results of all clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[float] = []
        self._errors = 0

    def add(self, seconds: float, *, is_answer: bool) -> None:
        """Count one request."""
        with self._lock:
            if is_answer:
                self._times.append(seconds)
            else:
                self._errors += 1

    def take(self) -> tuple[list[float], int]:
        """Give the times in seconds and the number of errors since the last call."""
        with self._lock:
            taken = self._times, self._errors
            self._times, self._errors = [], 0
        return taken


def client(port: int, seed: int, counters: Counters) -> Callable[[], None]:
    """Make a client: a function that sends one request, over the connection of the last."""
    choice = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST_ANSWER)

    def send() -> None:
        product = choice.randint(1, PRODUCTS)
        request = ("POST", f"/orders/{product}") if choice.random() < ORDERS else ("GET", f"/products/{product}")
        began = time.monotonic()
        try:
            connection.request(*request)
            response = connection.getresponse()
            response.read()
            is_answer = response.status == http.client.OK
        except (OSError, http.client.HTTPException):
            connection.close()
            is_answer = False
        counters.add(time.monotonic() - began, is_answer=is_answer)

    return send


def report(elapsed: float, span: float, times: list[float], errors: int, *, is_total: bool = False) -> None:
    """Print the results of `span` seconds."""
    ordered = sorted(times) or [0.0]
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    print(Report(elapsed, len(times) / span, p50, p99, len(times), errors, is_total).to_line(), flush=True)


def main(port: int, seconds: float) -> None:
    """Send load for WARM_UP and then for `seconds`, which are reported."""
    counters = Counters()
    all_times: list[float] = []
    all_errors = 0
    counted = 0.0
    with Load([client(port, seed, counters) for seed in range(CLIENTS)]):
        last = time.monotonic()
        begin = last + WARM_UP
        while last < begin + seconds:
            time.sleep(TICK)
            now = time.monotonic()
            times, errors = counters.take()
            report(now - begin, now - last, times, errors)
            if last >= begin:
                all_times += times
                all_errors += errors
                counted += now - last
            last = now
    report(seconds, counted, all_times, all_errors, is_total=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
