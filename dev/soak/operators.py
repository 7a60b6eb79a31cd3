"""Do all that can be done to a pool beside borrowing: resize it, drain it, read it, fork under it, make others."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from dev.soak.callbacks import Callbacks
from dev.soak.tally import EXPLAINED, Tally
from pgpool_rs import ThreadedConnectionPool

THREADS = 2
PAUSE = 0.1  # Seconds between two operations of a thread, on average.
PATIENCE = 30.0  # Seconds in which an operation ends, or counts as hanging; the child of a fork, too.
MINCONN = 3
MAXCONN = 8


@final
class Operators:
    """Owns threads that choose from OPERATIONS, one after the other. What they raise goes into the tally."""

    def __init__(self, pool: Any, address: Mapping[str, Any], callbacks: Callbacks, tally: Tally, seed: int) -> None:
        self.pool = pool
        self.address = address
        self.callbacks = callbacks
        self.done = 0
        """How many operations were done, by all threads, roughly."""
        self.forks = 0
        self._tally = tally
        self._turns = [threading.Lock() for _ in range(THREADS)]
        self._leaving = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[turn, f"{seed} operator {number}"], daemon=True)
            for number, turn in enumerate(self._turns)
        ]

    def start(self) -> None:
        """Let all threads begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every thread end what it does and leave. Raises AssertionError if one hangs."""
        self._leaving.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            if thread.is_alive():
                raise AssertionError("an operator hangs")

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let nobody operate during this block, which begins when the last operation has ended."""
        taken = [turn for turn in self._turns if turn.acquire(timeout=2 * PATIENCE)]
        try:
            if len(taken) < len(self._turns):
                raise AssertionError("an operation hangs")
            yield
        finally:
            for turn in taken:
                turn.release()

    def _run(self, turn: threading.Lock, seed: str) -> None:
        choice = random.Random(seed)
        operations, weights = list(OPERATIONS), list(OPERATIONS.values())
        while not self._leaving.wait(choice.uniform(0.0, 2 * PAUSE)):
            (operation,) = choice.choices(operations, weights)
            with turn:
                try:
                    operation(self, choice)
                except BaseException as error:  # noqa: BLE001  an Interrupt of a callback's, among others
                    self._tally.fail(type(error), f"{operation.__name__}: {type(error).__name__}: {error}")
                self.done += 1


def resize(of: Operators, choice: random.Random) -> None:
    """Set both limits, up or down."""
    of.pool.resize(choice.randint(0, MINCONN), choice.randint(MINCONN, MAXCONN))


def drain(of: Operators, _: random.Random) -> None:
    """Replace all connections."""
    of.pool.drain()


def check(of: Operators, _: random.Random) -> None:
    """Check all idle connections."""
    of.pool.check()


def maintain(of: Operators, _: random.Random) -> None:
    """Do a round of housekeeping."""
    of.pool.maintain()


def wait(of: Operators, choice: random.Random) -> None:
    """Open what is missing."""
    of.pool.wait(timeout=choice.uniform(0.0, 0.5))


def read(of: Operators, _: random.Random) -> None:
    """Read all that can be read of a pool."""
    of.pool.get_stats()
    repr(of.pool)
    for loan in of.pool.loans():
        repr(loan)
    len(of.pool._pool), list(of.pool._used.items()), of.pool._rused.copy(), of.pool.closed


def make_another(of: Operators, choice: random.Random) -> None:
    """Make a pool, use it, and close it or forget it."""
    address = {**of.address, "application_name": "soak another", "connect": of.callbacks.connect}
    # With a name: unnamed pools have a number, and Python forgets no logger.
    other = ThreadedConnectionPool(1, 2, **address, name="another", background=True, max_lifetime=5)
    with other.connection() as connection:
        _ask(connection)
    if choice.random() < 0.5:
        other.closeall()


def fork(of: Operators, _: random.Random) -> None:
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
            os.kill(child, signal.SIGUSR1)  # Its stacks, for the reader.
            time.sleep(1.0)
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the child of a fork hangs")
    finally:
        os.close(handle)
        ending = os.waitpid(child, 0)[1]
    if ending != 0:
        raise AssertionError(f"the child of a fork ended with status {os.waitstatus_to_exitcode(ending)}")


def _live_as_child(of: Operators) -> int:
    """Use the pool that was inherited, and tell whether all went as it should, as an exit status."""
    of.callbacks.failing = False
    try:
        for _ in range(2):
            with of.pool.connection(timeout=PATIENCE / 3) as connection:
                _ask(connection)
        of.pool.closeall()
    except EXPLAINED:
        return 0
    except BaseException:  # noqa: BLE001  nobody else would hear of it
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0


def _ask(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        if cursor.fetchone() != (1,):
            raise AssertionError("the server answered something else than what was asked")
    if connection.opener != os.getpid():
        raise AssertionError("a process was lent a connection that another has opened")


Operation = Callable[[Operators, random.Random], None]

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
"""How often each is chosen, in relation to the others."""
