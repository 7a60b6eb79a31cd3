"""Disturb web services under load: `.venv/bin/python -m dev.trials.services [--only SERVICE] [--seconds N]`.

Each service runs under gunicorn, with pools that are smaller than its load. Its workers are killed, or reloaded, or
starved of connections by requests that last longer than others wait, while some visitors hang up. Then every worker
must be able to lend all of its pool at once, and the server must have just these sessions; once the service has ended,
none.
Prints how each trial went, and exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from dev.load import Job, Load
from dev.servers.postgres import ThrowawayPostgres
from dev.trials.services.service import MAXCONN, SERVICES, Answer, Service, wait_until

VISITORS = 12
LEAVERS = 2
TIMEOUT = 0.5
"""Seconds that a request waits for a connection."""

Fault = Callable[[Service], float]
"""Disturbs a service once; returns the seconds until it does so again."""


def kill(service: Service) -> float:
    """Kill a worker, as the kernel does when memory is short."""
    workers = service.workers
    if workers:
        with suppress(ProcessLookupError):
            os.kill(random.choice(workers), signal.SIGKILL)
    return 0.7


def reload(service: Service) -> float:
    """Replace all workers by new ones, as a deployment does."""
    service.master.send_signal(signal.SIGHUP)
    return 1.5


def starve(service: Service) -> float:
    """Take a connection for longer than the others wait."""
    service.visit(f"/work?seconds={4 * TIMEOUT}")
    return 0.0


FAULTS: dict[str, tuple[Fault, int]] = {"killed": (kill, 1), "reloaded": (reload, 1), "starved": (starve, 4 * MAXCONN)}
"""Each with the number of threads that do it."""


def put_through(kind: str, word: str, seconds: float) -> list[str]:
    """Disturb a service for so long; return the promises that were broken."""
    fault, threads = FAULTS[word]
    answers: list[Answer] = []
    violations: list[str] = []
    with ThrowawayPostgres() as server, Service(kind, server, timeout=TIMEOUT) as service:
        jobs: list[Job] = [lambda: answers.append(service.visit("/work?seconds=0.01"))] * VISITORS
        jobs += [lambda: service.leave("/work?seconds=0.05")] * LEAVERS
        with Load(jobs) as load:
            with Load([lambda: fault(service)] * threads) as faults:
                time.sleep(seconds)
                faults.stop()
            load.stop()
        pools: dict[int, Any] = {}

        def is_all_there() -> bool:
            # Workers may still be replaced, and the server takes a while to notice that one was killed.
            pools.clear()
            pools.update(service.whole())
            return service.sessions() == sum(int(told["size"]) for told in pools.values())

        try:
            wait_until(is_all_there, "the pools' sessions", service)
        except AssertionError:
            violations.append(f"the server has {service.sessions()} sessions: {pools}")
        backends = {backend for told in pools.values() for backend in told["backends"]}
        if len(backends) != MAXCONN * len(pools):
            violations.append(f"{len(backends)} connections could be lent of {MAXCONN} in each of {len(pools)} workers")
        statuses = Counter(str(answer.status or answer.error) for answer in answers)
        violations += list(judge(word, answers))
        status = service.stop()
        if status != 0:
            violations.append(f"the service ended with {status}\n{service.log[-3000:]}")
        try:
            wait_until_none(service)
        except AssertionError:
            violations.append(f"{service.sessions()} sessions are left")
    print(f"{kind}, {word}: {dict(statuses.most_common())}; {len(pools)} workers lend {len(backends)}", flush=True)
    return violations


def wait_until_none(service: Service) -> None:
    """Wait until the server has no session of an ended service."""
    deadline = time.monotonic() + 10
    while service.sessions():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def judge(word: str, answers: list[Answer]) -> Iterator[str]:
    """Name the answers that the fault does not explain."""
    if not any(answer.status == 200 for answer in answers):
        yield "nobody was served"
    if word == "starved" and not any(answer.status == 503 for answer in answers):
        yield "the service was not starved"
    for answer in answers:
        if answer.status == 503 and not answer.retry_after:
            yield "a 503 does not say when to come again"
        elif answer.status not in {200, 503, None}:
            yield f"an answer was {answer}"
        # At its end, uvicorn hangs up on visitors whose requests it has not yet read.
        elif answer.status is None and word == "starved":
            yield f"a request was broken off: {answer.error}"


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(description="Disturbs web services under load, and tells how their pools behave.")
    parser.add_argument("--only", choices=list(SERVICES), action="append", help="this service; may be given again")
    parser.add_argument("--fault", choices=list(FAULTS), action="append", help="this fault; may be given again")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each is disturbed (10)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that all is stopped.
    broken = 0
    for kind in arguments.only or SERVICES:
        for word in arguments.fault or FAULTS:
            for violation, number in Counter(put_through(kind, word, arguments.seconds)).items():
                broken += number
                print(f"    NOT KEPT: {violation} ({number} times)", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
