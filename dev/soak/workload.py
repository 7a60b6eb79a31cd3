"""Borrow in all ways, good and bad, and notice a connection that has two borrowers or is not clean."""

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
from dev.soak.counters import Interrupt, InterruptedRequestError

SHORT_TIMEOUT = 0.001  # Seconds.
SLOW = 0.6  # Seconds that a slow borrower keeps a connection: longer than `leak_after`.


class BrokenPromiseError(Exception):
    """Says that two borrowers have one connection, or that the pool lent a connection that is not clean."""


@final
class Holders:
    """Knows which connections the threads hold."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, connection: Any) -> Iterator[None]:
        """Hold a connection for a block. Raises BrokenPromiseError if it is another borrower's, or not clean."""
        number = id(connection)
        with self._lock:
            if number in self._held:
                raise BrokenPromiseError("two borrowers have the same connection")
            self._held.add(number)
        try:
            if connection.info.transaction_status not in _CLEAN or (connection.autocommit and not connection.closed):
                raise BrokenPromiseError("a connection was lent inside a transaction, or in autocommit")
            if connection.opener != os.getpid():
                raise BrokenPromiseError("a connection was lent that another process opened")
            yield
        finally:
            with self._lock:
                self._held.discard(number)


# A dead connection is in an unknown state.
_CLEAN = (extensions.TRANSACTION_STATUS_IDLE, extensions.TRANSACTION_STATUS_UNKNOWN)


@final
class Borrower:
    """Borrows for one thread, each time in one of the WAYS, at random."""

    def __init__(self, holders: Holders, seed: str) -> None:
        self.choice = random.Random(seed)
        self._holders = holders
        self._seed = seed
        self._keys = 0

    @contextmanager
    def __call__(self, pool: Any) -> Iterator[Any]:
        """Borrow for a block. Turns an Interrupt into an Exception, so that the thread goes on."""
        (way,) = self.choice.choices(list(WAYS), list(WAYS.values()))
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
        """Borrow twice under a key that is used again and again: both times it is the same connection."""
        key = f"{self._seed} again"
        with self._under(pool, key) as connection:
            if pool.getconn(key) is not connection:
                raise BrokenPromiseError("the same key gave another connection")
            yield connection

    @contextmanager
    def impatient(self, pool: Any) -> Iterator[Any]:
        """Wait for a connection for a very short time."""
        connection = pool.getconn(timeout=SHORT_TIMEOUT)
        with self._returned(pool, connection), self._holders.holding(connection):
            yield connection

    @contextmanager
    def slow(self, pool: Any) -> Iterator[Any]:
        """Keep the connection until the pool reports it as a leak."""
        with self.pair(pool) as connection:
            yield connection
            time.sleep(SLOW)

    @contextmanager
    def altering(self, pool: Any) -> Iterator[Any]:
        """Leave a changed setting and autocommit, which `reset` must undo."""
        with self.pair(pool) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("set work_mem = '1MB'")
            yield connection

    @contextmanager
    def closing(self, pool: Any) -> Iterator[Any]:
        """Return a closed connection."""
        with self.pair(pool) as connection:
            yield connection
            connection.close()

    @contextmanager
    def discarding(self, pool: Any) -> Iterator[Any]:
        """Let the pool close the connection."""
        connection = pool.getconn()
        try:
            with self._holders.holding(connection):
                yield connection
        finally:
            pool.putconn(connection, close=True)

    @contextmanager
    def forgetful(self, pool: Any) -> Iterator[Any]:
        """Never return the connection."""
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


WAYS: dict[Callable[[Borrower, Any], AbstractContextManager[Any]], int] = {
    Borrower.pair: 300,
    Borrower.block: 300,
    Borrower.new_key: 80,
    Borrower.old_key: 80,
    Borrower.impatient: 30,
    Borrower.altering: 20,
    Borrower.closing: 5,
    Borrower.discarding: 5,
    Borrower.forgetful: 5,
    Borrower.slow: 1,
}
"""How often each is chosen, relative to the others."""
