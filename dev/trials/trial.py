"""Try a pool under load and one fault, and judge it."""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import pgpool_rs
from dev.load import Failure, Outcome, Work, pool_load, request
from dev.trials.fault import Effort, Fault, Strike

THREADS = 16
MINCONN = 4
MAXCONN = 12
"""Fewer than threads, so that some always wait."""
OPTIONS: dict[str, Any] = {
    "timeout": 5,
    "max_waiting": 40,
    "max_idle": 300,
    "max_lifetime": 1800,
    "background": True,
    "leak_after": 60,
}
"""The recommended set of docs/options.md."""
LIBPQ: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""The recommended limits of the network."""
WARM_UP = 0.5  # Seconds until all connections are open.
PROMISED = 5.0  # Seconds after the server's return in which the pool must have all its capacity again.
PATIENCE = 30.0  # Seconds to wait for it, so that the delay of a late pool is measured, too.
STEP = 0.005

_serials = itertools.count(1)


@final
@dataclass(frozen=True)
class Result:
    """Tells how a pool behaved under one fault."""

    title: str
    options: str
    done: str
    requests: int
    explained: dict[str, int]
    """How many requests failed for which reason."""
    back: float
    """Seconds from the server's return until all connections could be held at once, each on the right server."""
    late: int
    """How many requests failed that had begun after the server's return."""
    longest: float
    """Seconds that the longest request took."""
    pool_size: int
    sessions: int
    pace: float
    """Requests that succeeded in a second after the fault, divided by those before."""
    violations: list[str]
    """The promises that were not kept."""


def put_through(fault_class: type[Fault], effort: Effort) -> Result:
    """Run the trial on servers of its own."""
    name = f"trial {next(_serials)} of {os.getpid()}"
    outcomes: list[Outcome] = []
    with ExitStack() as stack, _HousekeepingErrors() as troubles:
        fault = fault_class(stack, effort)
        options = {**LIBPQ, **OPTIONS, **fault.address, **fault.options, "application_name": name}
        pool = pgpool_rs.ThreadedConnectionPool(MINCONN, MAXCONN, **options)
        stack.callback(pool.closeall)
        load = stack.enter_context(pool_load(pool, outcomes.append, threads=THREADS))
        stack.callback(fault.undo)  # So that no thread hangs after a failure of the trial.
        time.sleep(WARM_UP)
        undisturbed = time.monotonic()
        time.sleep(effort.undisturbed)
        strike = fault.strike(load, name)
        # Requests that hang in a dead connection are released, so that the trial reports them and ends.
        relief = threading.Timer(PATIENCE, fault.undo)
        stack.callback(relief.cancel)
        relief.start()
        back = time_to_capacity(pool, fault.port, strike.returned, outcomes)
        recovered = time.monotonic()
        time.sleep(effort.undisturbed)
        end = time.monotonic()
        fault.undo()
        load.stop()
        pool_size, sessions = count_when_quiet(pool, fault, name)
    return judge(
        fault,
        strike,
        outcomes,
        back=back,
        pool_size=pool_size,
        sessions=sessions,
        pace=pace(outcomes, recovered, end) / max(pace(outcomes, undisturbed, strike.began), 1e-9),
        troubles=troubles,
    )


@final
class _HousekeepingErrors(logging.Handler):
    """Collects the log of the housekeeping thread, which logs nothing but errors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def __enter__(self) -> list[str]:
        logging.getLogger("pgpool_rs.housekeeping").addHandler(self)
        return self.messages

    def __exit__(self, *_: object) -> None:
        logging.getLogger("pgpool_rs.housekeeping").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def time_to_capacity(pool: Any, port: int, since: float, outcomes: list[Outcome]) -> float:
    """Try until `maxconn` connections can be held at once, each to the right server.

    Returns the seconds since `since`; infinity after PATIENCE. The load goes on meanwhile, and waits in the same queue.
    Failures here are recorded with the others.
    """
    probe = Work("probe", partial(ask_where, port=port))
    while time.monotonic() < since + PATIENCE:
        with ExitStack() as held:
            for _ in range(pool.maxconn):
                outcome = request(pool, lambda pool: _Held(pool, held), probe, random.Random())
                outcomes.append(outcome)
                if outcome.failure:
                    break
            else:
                return time.monotonic() - since
        time.sleep(STEP)
    return float("inf")


@final
class _Held:
    """Borrows a connection and keeps it after the block, until `held` returns it."""

    def __init__(self, pool: Any, held: ExitStack) -> None:
        self._pool = pool
        self._held = held

    def __enter__(self) -> Any:
        self._connection = self._pool.getconn()
        self._held.callback(self._pool.putconn, self._connection)
        return self._connection

    def __exit__(self, *_: object) -> None:
        pass


class WrongServerError(Exception):
    """Says that a connection leads to the wrong server, or to one that takes no writes."""


def ask_where(connection: Any, _: random.Random | None = None, *, port: int) -> None:
    """Raise WrongServerError unless the connection leads to the server with this port, and it takes writes."""
    with connection.cursor() as cursor:
        cursor.execute("select inet_server_port(), current_setting('transaction_read_only')")
        answer = cursor.fetchone()
    if answer != (port, "off"):
        raise WrongServerError(f"it leads to {answer} and not to {port}")


def count_when_quiet(pool: Any, fault: Fault, name: str) -> tuple[int, int]:
    """Count the connections by the pool and by the server, once both agree, or after PROMISED seconds."""
    deadline = time.monotonic() + PROMISED
    while True:
        stats = pool.get_stats()
        seen = stats["pool_size"], fault.sessions(name)
        balanced = _balances(stats)
        if seen[0] == seen[1] and balanced:
            return seen
        if time.monotonic() > deadline:
            if not balanced:
                raise AssertionError(f"the pool's statistics do not add up: {stats}")
            return seen
        time.sleep(STEP)


def _balances(stats: dict[str, int]) -> bool:
    """Tell whether every connection ever opened is open or was closed, and none is lent."""
    closed = sum(number for event, number in stats.items() if event.startswith("closed_"))
    made = stats["connections_num"] - stats["connections_errors"]
    return made == stats["pool_size"] + closed and stats["pool_available"] == stats["pool_size"]


def pace(outcomes: Sequence[Outcome], begin: float, end: float) -> float:
    """Give the successful requests per second of this time."""
    return sum(begin <= outcome.ended < end and not outcome.failure for outcome in outcomes) / (end - begin)


def judge(
    fault: Fault,
    strike: Strike,
    outcomes: Sequence[Outcome],
    *,
    back: float,
    pool_size: int,
    sessions: int,
    pace: float,
    troubles: Sequence[str] = (),
) -> Result:
    """Compare the measurements with the promises."""
    explained: Counter[str] = Counter()
    unexplained: Counter[str] = Counter()
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        label = fault.explain(outcome, strike)
        if label is None:
            unexplained[_describe(outcome, strike)] += 1
        else:
            explained[label] += 1
    violations = [f"unexplained: {text} ({number} times)" for text, number in unexplained.most_common(10)]
    violations += [f"the housekeeping had an error: {trouble}" for trouble in troubles]
    if back > PROMISED:
        violations.append(f"all connections were back only after {back:.1f} s")
    if pool_size != sessions:
        violations.append(f"the pool counts {pool_size} connections and the server {sessions}")
    return Result(
        title=fault.title,
        options=fault.said_of_options,
        done=strike.done,
        requests=len(outcomes),
        explained=dict(explained.most_common()),
        back=back,
        late=sum(outcome.began > strike.returned for outcome in failed),
        longest=max(outcome.seconds for outcome in outcomes),
        pool_size=pool_size,
        sessions=sessions,
        pace=pace,
        violations=violations,
    )


def _describe(outcome: Outcome, strike: Strike) -> str:
    assert isinstance(outcome.failure, Failure)
    return (
        f"{outcome.work}, which began {outcome.began - strike.began:+.1f} s from the begin of the fault and "
        f"{outcome.began - strike.returned:+.1f} s from the return: {outcome.failure}"
    )
