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
from collections.abc import Callable
from typing import Any, final

import psycopg2
import pytest

# How long anything in these tests may take before it counts as hanging, in seconds.
PATIENCE = 10.0

IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)


@final
class Gate:
    """Keeps callers inside a call until released, and tells when somebody is inside."""

    def __init__(self) -> None:
        """Make a gate that is shut."""
        self._changed = threading.Condition()
        self._passes = 0
        self._open = False
        self.arrived = 0

    def __enter__(self) -> Gate:
        """Return the gate, to be released at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release whoever is still held."""
        self.release()

    def pass_through(self) -> None:
        """Arrive, and stay until let through."""
        with self._changed:
            self.arrived += 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._open or self._passes > 0, PATIENCE):
                raise AssertionError("nobody released the gate")
            if not self._open:
                self._passes -= 1

    def wait_for(self, arrived: int = 1) -> None:
        """Wait until this many callers have arrived since the gate was made."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.arrived >= arrived, PATIENCE):
                raise AssertionError(f"{self.arrived} arrived at the gate, not {arrived}")

    def let_one_through(self) -> None:
        """Let one caller go on, now or when it arrives."""
        with self._changed:
            self._passes += 1
            self._changed.notify_all()

    def release(self) -> None:
        """Open the gate for good."""
        with self._changed:
            self._open = True
            self._changed.notify_all()


class FakeInfo:
    """What `connection.info` shows of a fake connection."""

    def __init__(self, connection: BareFakeConnection) -> None:
        """Show this connection."""
        self._connection = connection

    @property
    def transaction_status(self) -> int:
        """Tell the transaction status, one of 0 to 4."""
        self._connection.server.visit("info", self._connection)
        return self._connection.status


@final
class FakeCursor:
    """A cursor that begins a transaction and answers every query with 1."""

    def __init__(self, connection: BareFakeConnection) -> None:
        """Work on this connection."""
        self.connection = connection

    def __enter__(self) -> FakeCursor:
        """Return the cursor."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is held."""

    def execute(self, query: str, parameters: object = None) -> None:
        """Begin a transaction, unless in autocommit."""
        self.connection.refuse_if_closed()
        self.connection.queries.append(query)
        self.connection.visit("execute")
        if not self.connection.autocommit and self.connection.status == IDLE:
            self.connection.status = INTRANS

    def fetchone(self) -> tuple[int]:
        """Return the only row."""
        return (1,)


class BareFakeConnection:
    """A connection with what psycopg2.pool uses and no more: closed, info, rollback(), close(), and its identity."""

    def __init__(self, server: FakeServer, serial: int) -> None:
        """Be the connection with this number."""
        self.server = server
        self.serial = serial
        self.status = IDLE
        self.autocommit = False
        self.faults: dict[str, BaseException] = {}
        self.queries: list[str] = []
        self._closed = 0

    def __repr__(self) -> str:
        """Show the number and the state."""
        return f"<connection {self.serial} closed={self._closed} status={self.status}>"

    @property
    def closed(self) -> int:
        """Tell whether it is open (0), closed (1) or broken (2)."""
        self.server.visit("closed", self)
        return self._closed

    @property
    def info(self) -> FakeInfo:
        """Show the transaction status."""
        return FakeInfo(self)

    @property
    def is_open(self) -> bool:
        """Tell whether the server still sees it, without a visit being noticed."""
        return self.server.sees(self)

    def set_closed(self, closed: int) -> None:
        """Put it in a state: 1 or 2 also let the server forget it."""
        self._closed = closed
        if closed:
            self.server.forget(self)

    def refuse_if_closed(self) -> None:
        """Raise what psycopg2 raises when a closed connection is used."""
        if self._closed:
            raise psycopg2.InterfaceError("connection already closed")

    def cursor(self) -> FakeCursor:
        """Return a cursor."""
        self.refuse_if_closed()
        return FakeCursor(self)

    def commit(self) -> None:
        """End the transaction."""
        self._end_transaction("commit")

    def rollback(self) -> None:
        """Undo the transaction."""
        self._end_transaction("rollback")

    def close(self) -> None:
        """Close the connection. Whatever is raised, the server sees it no more."""
        try:
            self.server.visit("close", self)
        except psycopg2.OperationalError:
            self.set_closed(2)
            raise
        finally:
            self.server.forget(self)
        self.set_closed(self._closed or 1)
        self.status = UNKNOWN

    def visit(self, call: str) -> None:
        """Ask the server something. An OperationalError breaks the connection, as it mostly does with psycopg2."""
        try:
            self.server.visit(call, self)
        except psycopg2.OperationalError:
            self.set_closed(2)
            self.status = UNKNOWN
            raise
        self.refuse_if_closed()

    def _end_transaction(self, call: str) -> None:
        self.visit(call)
        self.status = IDLE


class FakeConnection(BareFakeConnection):
    """A connection that also answers psycopg2's `get_transaction_status()`."""

    def get_transaction_status(self) -> int:
        """Answer 0 for an open, idle connection and only then."""
        self.server.visit("status", self)
        if self._closed:
            return self.status or UNKNOWN
        return self.status


class MortalFakeConnection(FakeConnection):
    """A connection that is closed when nobody refers to it any more, as psycopg2's are."""

    def __del__(self) -> None:
        """Let the server forget it."""
        self.server.forget(self)


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

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
        """Stand in for psycopg2.connect until the test ends."""
        _end_housekeeping_of_other_pools()
        monkeypatch.setattr(psycopg2, "connect", self.connect)
        return self

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
    from pgpool_rs import AbstractConnectionPool, _housekeeping

    house = _housekeeping._housekeeper._house()
    known = [pool for pool, _ in list(house.pokes.values())] + [visit.pool for visit in list(house.visits.values())]
    for reference in known:
        pool = reference()
        if isinstance(pool, AbstractConnectionPool):
            pool.closed = True
