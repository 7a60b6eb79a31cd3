"""Connections in memory, shaped like psycopg2's as far as a pool looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import psycopg2

if TYPE_CHECKING:
    from pgpool_rs.testing._server import FakeServer

IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)


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

    def execute(self, query: str, _parameters: object = None) -> None:
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
