"""Borrow in all the ways that there are, good and bad, and notice if what is lent is another's or is not clean."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

from psycopg2 import extensions

from dev.load import by_block, by_pair
from dev.soak.tally import Interrupt, InterruptedRequestError

HASTE = 0.001  # Seconds that one in haste waits for a connection.
SLOW = 0.6  # Seconds for which a slow one keeps it, longer than `leak_after`.


class BrokenPromiseError(Exception):
    """Says that two borrowers have one connection, or that one was lent as its last borrower had left it."""


@final
class Holders:
    """Knows which connections are lent, of all the crowd's."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, connection: Any) -> Iterator[None]:
        """Hold a connection for a block, alone."""
        number = id(connection)
        with self._lock:
            if number in self._held:
                raise BrokenPromiseError("two borrowers have the same connection")
            self._held.add(number)
        try:
            if connection.info.transaction_status not in _CLEAN or (connection.autocommit and not connection.closed):
                raise BrokenPromiseError("a connection was lent inside a transaction, or in autocommit")
            if connection.opener != os.getpid():
                raise BrokenPromiseError("a connection was lent that another process has opened")
            yield
        finally:
            with self._lock:
                self._held.discard(number)


# One that has died, unseen, is in an unknown state.
_CLEAN = (extensions.TRANSACTION_STATUS_IDLE, extensions.TRANSACTION_STATUS_UNKNOWN)


@final
class Habit:
    """Borrows for one thread of a crowd, each time in one of the ways of HABITS, at random."""

    def __init__(self, holders: Holders, seed: str) -> None:
        self.choice = random.Random(seed)
        self._holders = holders
        self._seed = seed
        self._keys = 0

    @contextmanager
    def __call__(self, pool: Any) -> Iterator[Any]:
        """Lend for a block; what was raised to interrupt is turned into an Exception, which a crowd survives."""
        (way,) = self.choice.choices(_WAYS, _WEIGHTS)
        try:
            with way(self, pool) as connection:
                yield connection
        except Interrupt as interrupt:
            raise InterruptedRequestError from interrupt

    @contextmanager
    def pair(self, pool: Any) -> Iterator[Any]:
        """Call getconn and putconn."""
        with by_pair(pool) as connection, self._holders.holding(connection):
            yield connection

    @contextmanager
    def block(self, pool: Any) -> Iterator[Any]:
        """Use a connection() block, which commits or rolls back."""
        with by_block(pool) as connection, self._holders.holding(connection):
            yield connection

    @contextmanager
    def new_key(self, pool: Any) -> Iterator[Any]:
        """Borrow under a key that was never used before."""
        self._keys += 1
        with self._under(pool, (self._seed, self._keys)) as connection:
            yield connection

    @contextmanager
    def old_key(self, pool: Any) -> Iterator[Any]:
        """Borrow under a key that is used again and again, twice over: it is the same connection."""
        key = f"{self._seed} again"
        with self._under(pool, key) as connection:
            if pool.getconn(key) is not connection:
                raise BrokenPromiseError("the same key gave another connection")
            yield connection

    @contextmanager
    def in_haste(self, pool: Any) -> Iterator[Any]:
        """Wait for next to nothing."""
        connection = pool.getconn(timeout=HASTE)
        with self._returned(pool, connection), self._holders.holding(connection):
            yield connection

    @contextmanager
    def slow(self, pool: Any) -> Iterator[Any]:
        """Keep the connection for so long that it is reported."""
        with self.pair(pool) as connection:
            yield connection
            time.sleep(SLOW)

    @contextmanager
    def altering(self, pool: Any) -> Iterator[Any]:
        """Leave a setting and autocommit behind, for `reset` to take back."""
        with self.pair(pool) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("set work_mem = '1MB'")
            yield connection

    @contextmanager
    def closing(self, pool: Any) -> Iterator[Any]:
        """Close the connection, and give it back closed."""
        with self.pair(pool) as connection:
            yield connection
            connection.close()

    @contextmanager
    def discarding(self, pool: Any) -> Iterator[Any]:
        """Have the pool close the connection."""
        connection = pool.getconn()
        try:
            with self._holders.holding(connection):
                yield connection
        finally:
            pool.putconn(connection, close=True)

    @contextmanager
    def forgetful(self, pool: Any) -> Iterator[Any]:
        """Never give the connection back."""
        connection = pool.getconn()
        with self._holders.holding(connection):
            yield connection

    @contextmanager
    def _under(self, pool: Any, key: object) -> Iterator[Any]:
        connection = pool.getconn(key)
        with self._returned(pool, connection, key), self._holders.holding(connection):
            yield connection

    @contextmanager
    def _returned(self, pool: Any, connection: Any, key: object = None) -> Iterator[None]:
        try:
            yield
        finally:
            pool.putconn(connection, key)


HABITS: dict[Callable[[Habit, Any], AbstractContextManager[Any]], int] = {
    Habit.pair: 300,
    Habit.block: 300,
    Habit.new_key: 80,
    Habit.old_key: 80,
    Habit.in_haste: 30,
    Habit.altering: 20,
    Habit.closing: 5,
    Habit.discarding: 5,
    Habit.forgetful: 5,
    Habit.slow: 1,
}
"""How often each is chosen, in relation to the others."""

_WAYS = list(HABITS)
_WEIGHTS = list(HABITS.values())
