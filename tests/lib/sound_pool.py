"""A small pool that does everything right, in Python. To be broken, one line at a time: see broken_pools.py.

It is made to be read, and not to be used: its parts are methods so that a broken pool can get one of them wrong.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from psycopg2.extensions import STATUS_READY
from psycopg2.pool import PoolError

from pgpool_rs.testing import IDLE


class Seat:
    """A waiter: it is given a connection, the room to open one, or nothing when the pool is closed."""

    def __init__(self) -> None:
        self.served = False
        self.connection: Any = None


class SoundPool:
    """Lends connections to threads in the order in which they come, and connects, rolls back and closes unlocked."""

    def __init__(
        self,
        maxconn: int,
        connect: Callable[[], Any],
        *,
        keep: int | None = None,
        max_lifetime: float | None = None,
        max_idle: float | None = None,
        check: Callable[[Any], object] | None = None,
    ) -> None:
        self.maxconn = maxconn
        self.connect = connect
        self.keep = maxconn if keep is None else keep
        self.max_lifetime = max_lifetime
        self.max_idle = max_idle
        self.check = check
        self.closed = False
        self.takes_back = True
        self.changed = threading.Condition()
        self.idle: list[Any] = []
        self.lent: dict[int, tuple[Any, Any]] = {}  # by id(connection): the connection and its key
        self.keyed: dict[Any, Any] = {}  # what is lent under a key; None while it is being opened
        self.taken = 0  # slots that are not idle: lent, being opened, being given back
        self.queue: deque[Seat] = deque()
        self.opened_at: dict[int, float] = {}
        self.idle_since: dict[int, float] = {}
        self.requests = 0

    # --- borrowing ---

    def getconn(self, key: Any = None, timeout: float = 0) -> Any:
        return self.borrow(key, timeout, shared=True)[0]

    def borrow(self, key: Any, timeout: float, *, shared: bool) -> tuple[Any, Any]:
        """Lend a connection; tell which loan it is."""
        with self.changed:
            self.requests += 1
            if self.closed:
                raise PoolError("connection pool is closed")
            if key is not None:
                if not shared:
                    self.refuse_if_lent(key)
                lent = self.find(key)
                if lent is not None:
                    return self.lent[id(lent)]
                if self.closed:
                    raise PoolError("connection pool is closed")
                self.keyed[key] = None
            try:
                connection = self.take_slot(timeout)
            except BaseException:
                self.forget_key(key)
                raise
        return self.fill(key, connection)

    def find(self, key: Any) -> Any:
        """Return what is lent under a key, waiting for a caller that is opening it."""
        self.changed.wait_for(lambda: key not in self.keyed or self.keyed[key] is not None or self.closed)
        return self.keyed.get(key)

    def forget_key(self, key: Any) -> None:
        """Let the next one open this key."""
        self.keyed.pop(key, None)
        self.changed.notify_all()

    def take_slot(self, timeout: float) -> Any:
        """Take an idle connection, or a slot (None) to open one in; wait in the queue if there is neither."""
        if not self.queue or self.may_overtake():
            if self.idle:
                self.taken += 1
                return self.idle.pop()
            if self.has_room():
                self.taken += 1
                return None
        seat = Seat()
        self.queue.append(seat)
        try:
            self.changed.wait_for(lambda: seat.served, timeout)
        finally:
            if not seat.served:
                self.leave(seat)
        if not seat.served:
            raise PoolError("connection pool exhausted")
        if self.closed:
            self.taken -= 1
            raise PoolError("connection pool is closed")
        return seat.connection

    def may_overtake(self) -> bool:
        """Tell whether a newcomer goes first."""
        return False

    def leave(self, seat: Seat) -> None:
        self.queue.remove(seat)

    def has_room(self) -> bool:
        """Tell whether another connection may be opened."""
        return self.taken + len(self.idle) < self.maxconn

    def fill(self, key: Any, connection: Any) -> tuple[Any, Any]:
        """See that there is a connection in a slot that was taken, and that it is sound; file it."""
        try:
            while connection is not None and not self.is_sound(connection):
                self.discard(connection)
                connection = None
            if connection is None:
                connection = self.open()
        except BaseException:
            self.give_up(key)
            raise
        with self.changed:
            if not self.closed:
                self.file(key, connection)
                return self.lent[id(connection)]
            self.taken -= 1
            self.forget_key(key)
        self.close_late(connection)
        raise PoolError("connection pool is closed")

    def open(self) -> Any:
        connection = self.connect()
        self.opened_at[id(connection)] = time.monotonic()
        return connection

    def give_up(self, key: Any) -> None:
        """Free the slot in which nothing could be opened."""
        with self.changed:
            self.taken -= 1
            self.forget_key(key)
            self.serve()

    def close_late(self, connection: Any) -> None:
        """Close what was opened while the pool was being closed."""
        connection.close()

    def file(self, key: Any, connection: Any) -> None:
        """Note a loan."""
        self.lent[id(connection)] = (connection, key)
        if key is not None:
            self.keyed[key] = connection
            self.changed.notify_all()

    def is_sound(self, connection: Any) -> bool:
        """Tell whether an idle connection may be lent."""
        now = time.monotonic()
        if self.is_old(now - self.opened_at[id(connection)]) or self.is_stale(now - self.idle_since[id(connection)]):
            return False
        return self.is_alive(connection)

    def is_old(self, age: float) -> bool:
        """Tell whether a connection has lived for too long."""
        return self.max_lifetime is not None and age >= self.max_lifetime

    def is_stale(self, idle: float) -> bool:
        """Tell whether a connection has been idle for too long."""
        return self.max_idle is not None and idle >= self.max_idle

    def is_alive(self, connection: Any) -> bool:
        """Ask the server."""
        try:
            if self.check is not None:
                self.check(connection)
        except Exception:
            return False
        except BaseException:
            self.discard(connection)
            raise
        return True

    # --- giving back ---

    def putconn(self, connection: Any, key: Any = None, close: bool = False) -> None:
        """Take a connection back."""
        with self.changed:
            if not self.takes_back:
                raise PoolError("connection pool is closed")
            self.unfile(connection, key)
        self.take_back(connection, close=close)

    def take_back(self, connection: Any, *, close: bool) -> None:
        """Clean or close a connection whose loan has ended, and free its slot."""
        try:
            if close or not self.is_clean(connection):
                self.discard(connection)
        except BaseException:
            self.discard_after_failure(connection)
            self.free(None)
            raise
        self.free(None if connection.closed else connection)

    def unfile(self, connection: Any, key: Any) -> None:
        """Take a loan out of `lent`."""
        lent = self.lent.get(id(connection))
        if lent is None or (key is not None and lent[1] != key):
            raise PoolError("trying to put unkeyed connection")
        del self.lent[id(connection)]
        if lent[1] is not None:
            self.forget_key(lent[1])

    def is_clean(self, connection: Any) -> bool:
        """Make a connection clean, and tell whether it is."""
        if connection.closed:
            return False
        try:
            self.end_transaction(connection, "ROLLBACK")
        except Exception:
            return False
        return not connection.closed and self.looks_clean(connection)

    def looks_clean(self, connection: Any) -> bool:
        """Tell whether a connection is in no transaction, by both accounts."""
        return not (self.libpq_knows_of_one(connection) or self.psycopg2_knows_of_one(connection))

    def libpq_knows_of_one(self, connection: Any) -> bool:
        """Tell whether libpq knows of a transaction."""
        return bool(connection.info.transaction_status != IDLE)

    def psycopg2_knows_of_one(self, connection: Any) -> bool:
        """Tell whether psycopg2 knows of a transaction."""
        return bool(connection.status != STATUS_READY)

    def end_transaction(self, connection: Any, how: str) -> None:
        """Commit what is open by either account, or roll it back: with SQL where psycopg2 does nothing."""
        if self.psycopg2_knows_of_one(connection):
            connection.commit() if how == "COMMIT" else connection.rollback()
        if self.libpq_knows_of_one(connection):
            self.end_in_sql(connection, how)

    def end_in_sql(self, connection: Any, how: str) -> None:
        """End a transaction that psycopg2 does not know of."""
        before = connection.autocommit
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(how)
        connection.autocommit = before

    def discard(self, connection: Any) -> None:
        with contextlib.suppress(Exception):
            connection.close()

    def discard_after_failure(self, connection: Any) -> None:
        """Close a connection whose rollback was interrupted."""
        self.discard(connection)

    def free(self, connection: Any) -> None:
        """Free a slot, with the connection that is in it, if there is one."""
        with self.changed:
            late = self.closed
            if not late:
                self.taken -= 1
                if connection is not None and len(self.idle) < self.keep:
                    self.mark_idle(connection)
                    connection = None
                self.serve()
        if connection is not None:
            self.close_late(connection)

    def mark_idle(self, connection: Any) -> None:
        """Keep a connection for the next one."""
        self.idle.append(connection)
        self.idle_since[id(connection)] = time.monotonic()

    def serve(self) -> None:
        """Give what is free to the waiters, in the order of arrival."""
        while self.queue and (self.idle or self.has_room()):
            seat = self.next_seat()
            if self.idle:
                seat.connection = self.idle.pop()
            self.taken += 1
            seat.served = True
        self.wake()

    def next_seat(self) -> Seat:
        return self.queue.popleft()

    def wake(self) -> None:
        self.changed.notify_all()

    # --- blocks ---

    @contextlib.contextmanager
    def connection(self, key: Any = None) -> Iterator[Any]:
        """Lend a connection for a block, and take it back at its end, committed or rolled back."""
        loan = self.borrow(key, 0, shared=False)
        connection = loan[0]
        try:
            yield connection
        except GeneratorExit:  # The garbage collector ends a block that a machine has broken off, at any time.
            raise
        except BaseException:
            self.end_loan(loan)
            self.take_back(connection, close=False)
            raise
        self.end_loan(loan)
        try:
            self.commit_block(connection)
        finally:
            self.take_back(connection, close=False)

    def commit_block(self, connection: Any) -> None:
        """Commit what the block has done, unless it has closed the connection."""
        if not connection.closed:
            self.end_transaction(connection, "COMMIT")

    def refuse_if_lent(self, key: Any) -> None:
        """Refuse a block that would have no loan of its own."""
        if key in self.keyed:
            raise PoolError("a block needs a key that is not lent")

    def end_loan(self, loan: tuple[Any, Any]) -> None:
        """End the loan of a block, and no other."""
        with self.changed:
            if not self.takes_back:
                raise PoolError("connection pool is closed")
            if not self.is_current(loan):
                raise PoolError("the block's connection has been given back")
            self.unfile(loan[0], None)

    def is_current(self, loan: tuple[Any, Any]) -> bool:
        """Tell whether this very loan is still out, and not a later one of the same connection."""
        return self.lent.get(id(loan[0])) is loan

    # --- the rest ---

    def closeall(self) -> None:
        """Close every connection, and refuse everything from now on; after close(), not what was lent before."""
        with self.changed:
            if self.closed and not self.takes_back:
                raise PoolError("connection pool is closed")
            self.takes_back = self.closed
            connections = self.to_close()
            self.dismiss()
        self.close_each(connections)

    def close(self, timeout: float | None = None) -> int:
        """Close what is idle, and close what is lent as it comes back; wait for that, and tell how many are left."""
        with self.changed:
            idle = list(self.idle)
            self.idle.clear()
            self.dismiss()
        self.close_each(idle)
        with self.changed:
            self.changed.wait_for(lambda: not self.lent, timeout or 0)
            return self.left()

    def left(self) -> int:
        """Count what is lent."""
        return len(self.lent)

    def dismiss(self) -> None:
        """Refuse all that wait, and all that come."""
        self.closed = True
        for seat in self.queue:
            seat.served = True
            self.taken += 1
        self.queue.clear()
        self.changed.notify_all()

    def close_each(self, connections: list[Any]) -> None:
        """Close these; if that is interrupted, close the others, and pass the interrupt on."""
        interrupt = None
        for connection in connections:
            try:
                self.discard(connection)
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def to_close(self) -> list[Any]:
        """List what closeall closes."""
        connections = [*self.idle, *(connection for connection, _ in self.lent.values())]
        self.idle.clear()
        return connections


class CountingPool(SoundPool):
    """Tells what is going on in it as well."""

    def get_stats(self) -> dict[str, int]:
        with self.changed:
            return {
                "pool_max": self.maxconn,
                "pool_size": self.taken + len(self.idle),
                "pool_available": len(self.idle),
                "requests_waiting": len(self.queue),
                "requests_num": self.requests,
            }
