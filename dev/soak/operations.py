"""Do everything to a pool but borrow from it: resize it, drain it, read it, fork under it, make other pools."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, final

from dev.load import Load
from dev.soak.callbacks import Callbacks
from dev.soak.counters import EXPLAINED, Counters
from pgpool_rs import ThreadedConnectionPool

THREADS = 2
PAUSE = 0.1  # Seconds between two operations of a thread, on average.
PATIENCE = 30.0  # Seconds in which the child of a fork ends; a longer one counts as hanging.
MINCONN = 3
MAXCONN = 8


@final
class Operations:
    """Chooses from OPERATIONS for each thread of `load`. It passes the errors that they raise to the counters."""

    def __init__(
        self, pool: Any, address: Mapping[str, Any], callbacks: Callbacks, counters: Counters, seed: int
    ) -> None:
        self.pool = pool
        self.address = address
        self.callbacks = callbacks
        self.done = 0
        """How many operations were done, by all threads, roughly."""
        self.forks = 0
        self._counters = counters
        self.load = Load([self._job(f"{seed} operations {number}") for number in range(THREADS)])

    def _job(self, seed: str) -> Callable[[], float]:
        choice = random.Random(seed)
        operations, weights = list(OPERATIONS), list(OPERATIONS.values())

        def operate() -> float:
            (operation,) = choice.choices(operations, weights)
            try:
                operation(self, choice)
            except BaseException as error:  # noqa: BLE001  a callback's Interrupt, among others
                self._counters.fail(type(error), f"{operation.__name__}: {type(error).__name__}: {error}")
            self.done += 1
            return choice.uniform(0.0, 2 * PAUSE)

        return operate


def resize(of: Operations, choice: random.Random) -> None:
    """Set both limits, up or down."""
    of.pool.resize(choice.randint(0, MINCONN), choice.randint(MINCONN, MAXCONN))


def drain(of: Operations, _: random.Random) -> None:
    """Replace all connections."""
    of.pool.drain()


def check(of: Operations, _: random.Random) -> None:
    """Check all idle connections."""
    of.pool.check()


def maintain(of: Operations, _: random.Random) -> None:
    """Do a round of housekeeping."""
    of.pool.maintain()


def wait(of: Operations, choice: random.Random) -> None:
    """Open missing connections."""
    of.pool.wait(timeout=choice.uniform(0.0, 0.5))


def read(of: Operations, _: random.Random) -> None:
    """Read everything that a pool shows."""
    of.pool.get_stats()
    repr(of.pool)
    for loan in of.pool.loans():
        repr(loan)
    len(of.pool._pool), list(of.pool._used.items()), of.pool._rused.copy(), of.pool.closed


def make_another(of: Operations, choice: random.Random) -> None:
    """Make a pool that shares the limit, use it, and close it or forget it."""
    address = {**of.address, "application_name": "soak another", "connect": of.callbacks.connect}
    # With a name: an unnamed pool is named by its number, and Python never forgets a logger.
    other = ThreadedConnectionPool(1, 2, **address, name="another", background=True, max_lifetime=5)
    with other.connection() as connection:
        _use(connection)
    if choice.random() < 0.5:
        other.closeall()


def fork(of: Operations, _: random.Random) -> None:
    """Fork, let the child use the pool, and wait for it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = _live_as_child(of)
        finally:
            os._exit(status)
    of.forks += 1
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], PATIENCE)[0]:
            os.kill(child, signal.SIGUSR1)  # It prints its stacks.
            time.sleep(1.0)
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the child of a fork hangs")
    finally:
        os.close(handle)
        ending = os.waitpid(child, 0)[1]
    if ending != 0:
        raise AssertionError(f"the child of a fork ended with status {os.waitstatus_to_exitcode(ending)}")


def _live_as_child(of: Operations) -> int:
    """Use the inherited pool; return the exit status."""
    of.callbacks.failing = False
    try:
        for _ in range(2):
            with of.pool.connection(timeout=PATIENCE / 3) as connection:
                _use(connection)
        of.pool.closeall()
    except EXPLAINED:
        return 0
    except BaseException:  # noqa: BLE001  os._exit would lose it
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0


def _use(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        if cursor.fetchone() != (1,):
            raise AssertionError("the server gave another answer than was asked for")
    if connection.opener != os.getpid():
        raise AssertionError("the pool lent a connection that another process opened")


Operation = Callable[[Operations, random.Random], None]

OPERATIONS: dict[Operation, int] = {
    read: 40,
    resize: 10,
    maintain: 10,
    check: 10,
    wait: 10,
    make_another: 8,
    fork: 5,
    drain: 2,
}
"""How often each is chosen, relative to the others."""
