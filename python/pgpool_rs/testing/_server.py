"""A database server in memory, shaped like psycopg2 as far as a pool looks.

`FakeServer.connect` stands in for `psycopg2.connect`. The server counts the connections it sees, writes a log of
every call, and fails, hangs or calls back when a test tells it to:

- `fail(call, *errors)`: the next calls of that name raise these, in order;
- `hold(call)`: a `Gate` that keeps every caller of that name inside until it is released;
- `on(call, callback)`: runs the callback inside each call of that name.

The names of calls are connect, execute, rollback, commit, close; `on`, `hold` and `fail` also take closed, info and
status, which are the three ways a pool may look at a connection.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2

from pgpool_rs import AbstractConnectionPool, _housekeeping
from pgpool_rs.testing._connection import BareFakeConnection, FakeConnection
from pgpool_rs.testing._gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class FakeServer:
    """Opens fake connections, counts those it sees, and fails or hangs when told to."""

    def __init__(self, connection_class: type[BareFakeConnection] = FakeConnection) -> None:
        """Open connections of this class."""
        self.connection_class = connection_class
        self.connections: list[BareFakeConnection] = []
        self.log: list[tuple[str, int]] = []
        self.arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.peak = 0
        self.keep = True
        # A connection's __del__ may run while its thread holds this.
        self._lock = threading.RLock()
        self._attempts = 0
        self._connecting = 0
        self._seen: set[int] = set()
        self._faults: dict[str, deque[BaseException | None]] = {}
        self._gates: dict[str, Gate] = {}
        self._callbacks: dict[str, Callable[[Any], object]] = {}

    @contextmanager
    def installed(self) -> Iterator[FakeServer]:
        """Stand in for psycopg2.connect until the end of the block."""
        _end_housekeeping_of_other_pools()
        original = psycopg2.connect
        psycopg2.connect = self.connect
        try:
            yield self
        finally:
            psycopg2.connect = original
            self.calm()

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Open a connection: what psycopg2.connect is replaced with."""
        with self._lock:
            self._attempts += 1
            serial = self._attempts
            self._connecting += 1
            self.peak = max(self.peak, self.open)
            self.arguments.append((args, kwargs))
        connection = self.connection_class(self, serial)
        try:
            self.visit("connect", connection)
        except BaseException:
            with self._lock:
                self._connecting -= 1
            raise
        with self._lock:
            # In one step: a connection that was counted twice for a moment would be one too many.
            self._connecting -= 1
            self._seen.add(serial)
            if self.keep:
                self.connections.append(connection)
        return connection

    def fail(self, call: str, *errors: BaseException | None) -> None:
        """Let the next calls of this name raise these errors in turn (None: let that one pass)."""
        self._faults.setdefault(call, deque()).extend(errors)

    def hold(self, call: str) -> Gate:
        """Hold every caller of this name from now on, until the gate is released."""
        gate = self._gates[call] = Gate()
        return gate

    def calm_gate(self, call: str) -> None:
        """Hold no more callers of this name; those who are held stay so."""
        del self._gates[call]

    def on(self, call: str, callback: Callable[[Any], object]) -> None:
        """Run this, with the connection, inside each call of this name."""
        self._callbacks[call] = callback

    def calm(self) -> None:
        """Forget all faults, gates and callbacks."""
        for gate in self._gates.values():
            gate.release()
        self._gates = {}
        self._faults = {}
        self._callbacks = {}

    @property
    def open(self) -> int:
        """Count the connections the server sees, those being opened included."""
        return len(self._seen) + self._connecting

    def sees(self, connection: BareFakeConnection) -> bool:
        """Tell whether this connection is open at the server."""
        return connection.serial in self._seen

    def forget(self, connection: BareFakeConnection) -> None:
        """Count a connection no more."""
        with self._lock:
            self._seen.discard(connection.serial)

    def calls(self, name: str) -> list[int]:
        """List the numbers of the connections on which this was called, in order."""
        return [serial for call, serial in self.log if call == name]

    def visit(self, call: str, connection: BareFakeConnection) -> None:
        """Log a call, run its callback, pass its gate, and raise what it is to raise."""
        if call in _LOGGED:
            self.log.append((call, connection.serial))
        callback = self._callbacks.get(call)
        if callback is not None:
            callback(connection)
        gate = self._gates.get(call)
        if gate is not None:
            gate.pass_through()
        faults = self._faults.get(call)
        error = faults.popleft() if faults else connection.faults.pop(call, None)
        if error is not None:
            try:
                raise error
            finally:
                # The error holds this frame, which must not hold the error: the connection would live in that cycle.
                del error


_LOGGED = frozenset({"connect", "rollback", "commit", "close"})


def _end_housekeeping_of_other_pools() -> None:
    """Let no pool that has outlived its test, in a cycle for instance, open here what it is missing there."""
    house = _housekeeping._housekeeper._house()
    known = [pool for pool, _ in list(house.pokes.values())] + [visit.pool for visit in list(house.visits.values())]
    for reference in known:
        pool = reference()
        if isinstance(pool, AbstractConnectionPool):
            pool.closed = True
