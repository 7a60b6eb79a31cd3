"""Try psycopg2.pool under the same fault, to tell the effect of the pool from that of the fault."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

from psycopg2 import Error
from psycopg2.pool import PoolError, ThreadedConnectionPool

from dev.load import Outcome, pool_load
from dev.trials.fault import Effort, Fault
from dev.trials.trial import LIBPQ, THREADS, WARM_UP, WrongServerError, ask_where

MAXCONN = THREADS
"""As many as threads, since it refuses instead of waiting; also its minconn, above which it closes connections."""
LATER = 3.0  # Seconds after the return, in which its users meet the dead connections.
LONGEST = 10.0  # Seconds for which sessions are killed.


@final
@dataclass(frozen=True)
class Contrast:
    """Tells how psycopg2.pool behaved under a fault."""

    title: str
    requests: int
    failed: int
    late: int
    """How many requests failed that began after the server's return."""
    sound: int
    """How many connections to the right server could then be held at once, of MAXCONN."""


def compare(fault_class: type[Fault], effort: Effort) -> Contrast:
    """Run the same trial, on servers of its own."""
    name = f"contrast of {os.getpid()}"
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        fault = fault_class(stack, Effort(effort.undisturbed, min(effort.kills, LONGEST)))
        pool = ThreadedConnectionPool(MAXCONN, MAXCONN, **{**LIBPQ, **fault.address, "application_name": name})
        stack.callback(pool.closeall)
        load = stack.enter_context(pool_load(pool, outcomes.append, threads=THREADS))
        stack.callback(fault.undo)
        time.sleep(WARM_UP)
        strike = fault.strike(load, name)
        time.sleep(LATER)
        with load.resting():
            sound = _count_sound(pool, fault.port)
        load.stop()
    failed = [outcome for outcome in outcomes if outcome.failure]
    late = sum(outcome.began > strike.returned for outcome in failed)
    return Contrast(fault.title, len(outcomes), len(failed), late, sound)


def _count_sound(pool: Any, port: int) -> int:
    """Hold all connections that the pool lends, and count those that lead to the right server."""
    held = []
    sound = 0
    try:
        for _ in range(MAXCONN):
            held.append(pool.getconn())
            try:
                ask_where(held[-1], port=port)
                sound += 1
            except (Error, WrongServerError):
                continue
    except (PoolError, Error):  # It has no more, since some were never returned, or it cannot connect.
        pass
    for connection in held:
        pool.putconn(connection, close=True)
    return sound
