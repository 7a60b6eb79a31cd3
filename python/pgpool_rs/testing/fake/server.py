"""A database server in memory, shaped like psycopg2 as far as a pool looks.

`FakeServer.connect` stands in for `psycopg2.connect`. The server counts the connections it sees, counts and logs every
call, and fails (`fail`, `fail_nth`), hangs (`hold`), dawdles (`delay`), calls back (`on`) or ends a session (`kill`)
when a test tells it to.

The calls are connect, execute, rollback, commit, close; check, which `server.check` makes; and closed, info and status,
the three ways to look at a connection.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
import weakref
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg2

from pgpool_rs import _housekeeper
from pgpool_rs._fork import renewed_by_fork
from pgpool_rs._pools import pools
from pgpool_rs._validate import seconds as checked_seconds
from pgpool_rs.testing.fake.clock import Clock
from pgpool_rs.testing.fake.connection import BareFakeConnection, FakeConnection
from pgpool_rs.testing.fake.gate import Gate
from pgpool_rs.testing.fake.visit import Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    # A class is raised as a new instance each time.
    Fault = BaseException | type[BaseException]


class FakeServer:
    """Opens fake connections, counts those it sees, and fails or hangs when told to.

    Everything here may be called from any thread, from a callback and from a `__del__`. Faults, gates, callbacks and
    delays hold until `calm()`, or until the end of an `installed()` block.
    """

    CALLS: ClassVar[frozenset[str]] = frozenset(
        {"connect", "execute", "rollback", "commit", "close", "check", "closed", "info", "status"}
    )
    """What can be made to fail and so on. A subclass whose connections visit it with other calls adds them here."""

    def __init__(self, connection_class: type[BareFakeConnection] = FakeConnection, *, keep: bool = True) -> None:
        """Open connections of this class.

        :param keep: whether `connections` and `arguments` are kept, which grow with each connect.
        """
        self.connection_class = connection_class
        self.clock = Clock()
        self.connections: list[BareFakeConnection] = []
        """All connections that were ever opened, in order."""
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        """The arguments of each connect, failed ones included."""
        self.log: list[Visit] = []
        """The calls in `logged`, in order, as pairs of a name and the connection's number; see `Visit`."""
        self.logged: Collection[str] = frozenset({"connect", "rollback", "commit", "close"})
        """Which calls are logged: `FakeServer.CALLS` for all, () for none. They are counted in any case."""
        self.prepared: set[str] = set()
        """The transactions that were prepared and neither committed nor rolled back, by their names."""
        self.keep = keep
        self.peak = 0
        """How many connections the server has seen at once, those being opened included."""
        # A connection's __del__ may run while its thread holds this.
        self._lock = threading.RLock()
        renewed_by_fork(self._lock)  # type: ignore[arg-type]  # what it does to a Lock, it does to an RLock
        self._serials = itertools.count(1)
        self._opening: set[int] = set()
        self._seen: set[int] = set()
        self._opened = 0
        self._counts: Counter[str] = Counter()
        self._faults: dict[str, deque[Fault | None]] = {}
        self._later_faults: dict[tuple[str, int], Fault] = {}
        self._delays: dict[str, float] = {}
        self._gates: dict[str, Gate] = {}
        self._shut: list[Gate] = []
        self._callbacks: dict[str, Callable[[Any], object]] = {}
        self._dead_end: int | None = None

    @contextmanager
    def installed(self) -> Iterator[FakeServer]:
        """Stand in for psycopg2.connect, and take `time` along with the clock, until the end of the block.

        Blocks may stand within each other, and end in reverse order. At the end the server is calm, and the pools that
        were made inside and are in the care of the housekeeping thread are closed: what they would open from then on
        would come from elsewhere. For pools from before the block, that thread opens connections where it did before.
        """
        original = psycopg2.connect
        older: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary((id(pool), pool) for pool in pools())

        def is_older(pool: Any) -> bool:
            return pool is not None and older.get(id(pool)) is pool

        def connect(*args: Any, **kwargs: Any) -> Any:
            return (original if is_older(_housekeeper.housekeeper.current_pool()) else self.connect)(*args, **kwargs)

        psycopg2.connect = connect
        try:
            with self.clock.installed():
                yield self
        finally:
            psycopg2.connect = original
            self.calm()
            for pool in pools():
                if _housekeeper.housekeeper.cares_for(pool) and not is_older(pool):
                    pool.closed = True

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Open a connection: what psycopg2.connect is replaced with, and what is given to a pool as `connect=`."""
        serial = next(self._serials)
        arguments = args, kwargs
        try:
            with self._lock:
                self._opening.add(serial)
                self.peak = max(self.peak, self.open)
                if self.keep:
                    self.arguments.append(arguments)
            connection = self.connection_class(self, serial)
            self.visit("connect", connection)
            with self._lock:
                # In one step: a connection that was counted twice for a moment would be one too many.
                self._opening.discard(serial)
                self._seen.add(serial)
                self._opened += 1
                if self.keep:
                    self.connections.append(connection)
            return connection  # noqa: TRY300  (an interrupt may come between any two lines)
        except BaseException:
            with self._lock:
                self._seen.discard(serial)
            raise
        finally:
            with self._lock:
                self._opening.discard(serial)

    def check(self, connection: Any) -> None:
        """Ask whether a connection is well: a `check=` for a pool, that can be made to fail, hang and so on."""
        connection.visit("check")

    def kill(self, *connections: BareFakeConnection) -> None:
        """End these sessions at the server, as a crash does: the connections do not know it yet.

        The next thing that such a connection asks the server raises OperationalError and finds it broken (closed=2). A
        rollback or commit outside a transaction asks nothing. pgpool_rs's `check_socket` sees it, as `check_query` and
        `server.check` do. What was closed already stays as it is.
        """
        for connection in connections:
            if self.sees(connection):
                if not hasattr(connection, "fileno"):
                    connection.fileno = self._hung_up
                connection.is_killed = True
                self.forget(connection)

    # --- faults -----------------------------------------------------------------------------------------------------

    def fail(self, call: str, *errors: Fault | None) -> None:
        """Let the next calls of this name raise these errors in turn (None: let that one pass)."""
        with self._lock:
            self._faults.setdefault(self._known(call), deque()).extend(errors)

    def fail_nth(self, call: str, n: int, error: Fault) -> None:
        """Let the n-th call of this name from now on raise this error; 1 is the next."""
        if n < 1:
            raise ValueError(f"n must be 1 or more, not {n!r}")
        with self._lock:
            self._later_faults[self._known(call), self._counts[call] + n] = error

    def delay(self, call: str, seconds: float) -> None:
        """Let each call of this name take so long, in real seconds; 0 is no delay."""
        self._delays[self._known(call)] = checked_seconds("seconds", seconds)

    def hold(self, call: str) -> Gate:
        """Hold every caller of this name from now on, until the gate is released."""
        gate = Gate()
        with self._lock:
            self._gates[self._known(call)] = gate
            self._shut = [*(other for other in self._shut if not other.is_released), gate]
        return gate

    def calm_gate(self, call: str) -> None:
        """Hold no more callers of this name. The gate keeps those that it holds."""
        del self._gates[call]

    def on(self, call: str, callback: Callable[[Any], object]) -> None:
        """Run this, with the connection, inside each call of this name. There is one callback for each name."""
        self._callbacks[self._known(call)] = callback

    def calm(self) -> None:
        """Forget all faults, delays, gates and callbacks, and release all callers."""
        with self._lock:
            shut, self._shut = self._shut, []
            self._gates = {}
            self._faults = {}
            self._later_faults = {}
            self._delays = {}
            self._callbacks = {}
        for gate in shut:
            gate.release()

    # --- what has been seen ------------------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Count the connections the server sees, those being opened included."""
        with self._lock:
            return len(self._seen) + self._connecting

    @property
    def live(self) -> frozenset[int]:
        """Give the numbers of the connections that are open: those that were opened, and neither closed nor killed."""
        with self._lock:
            return frozenset(self._seen)

    @property
    def opened(self) -> int:
        """Count the connections that were ever opened."""
        return self._opened

    @property
    def closed(self) -> int:
        """Count those of them that the server sees no more."""
        with self._lock:
            return self._opened - len(self._seen)

    @property
    def _connecting(self) -> int:
        return len(self._opening)

    def sees(self, connection: BareFakeConnection) -> bool:
        """Tell whether this connection is open at the server."""
        return connection.serial in self._seen

    def forget(self, connection: BareFakeConnection) -> None:
        """Count a connection no more."""
        with self._lock:
            self._seen.discard(connection.serial)

    def count(self, call: str) -> int:
        """Count the calls of this name, failed ones included."""
        return self._counts[self._known(call)]

    def calls(self, name: str) -> list[int]:
        """List the numbers of the connections on which this was called, in order, as far as it is logged."""
        return [serial for call, serial in list(self.log) if call == name]

    def visit(self, call: str, connection: BareFakeConnection) -> None:
        """Count and log a call, run its callback, wait for its delay and its gate, and raise its fault."""
        # Made before the lock is taken: an allocation may run the collector, and the collector a `__del__`.
        entry = Visit(call, connection.serial, threading.get_ident(), 0.0) if call in self.logged else None
        with self._lock:
            self._counts[call] += 1
            number = self._counts[call]
            if entry is not None:
                entry.when = self.clock()
                self.log.append(entry)
        callback = self._callbacks.get(call)
        if callback is not None:
            callback(connection)
        delay = self._delays.get(call)
        if delay:
            time.sleep(delay)
        gate = self._gates.get(call)
        if gate is not None:
            gate.pass_through()
        error = self._next_fault(call, number, connection)
        if error is not None:
            try:
                raise error
            finally:
                # The error holds this frame, which must not hold the error: the connection would live in that cycle.
                del error

    def _next_fault(self, call: str, number: int, connection: BareFakeConnection) -> Fault | None:
        with self._lock:
            error = self._later_faults.pop((call, number), None)
            if error is not None:
                return error
            faults = self._faults.get(call)
            return faults.popleft() if faults else connection.faults.pop(call, None)

    def _known(self, call: str) -> str:
        if call not in self.CALLS:
            raise ValueError(f"there is no call {call!r}; there are {', '.join(sorted(self.CALLS))}")
        return call

    def _hung_up(self) -> int:
        """Give a descriptor on which the other side has hung up. It belongs to the server."""
        with self._lock:
            if self._dead_end is None:
                near, far = socket.socketpair()
                far.close()
                self._dead_end = near.detach()
                weakref.finalize(self, os.close, self._dead_end)
            return self._dead_end
