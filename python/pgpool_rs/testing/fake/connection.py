"""Connections in memory, shaped like psycopg2's as far as a pool looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2

from pgpool_rs.testing.fake.accounts import Accounts
from pgpool_rs.testing.fake.cursor import FakeCursor
from pgpool_rs.testing.fake.session import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from pgpool_rs.testing.fake.server import FakeServer

# What libpq says of a server that has gone away without a word.
GONE = (
    "server closed the connection unexpectedly\n"
    "\tThis probably means the server terminated abnormally\n"
    "\tbefore or while processing the request.\n"
)


class FakeInfo:
    """What `connection.info` shows of a fake connection."""

    def __init__(self, connection: BareFakeConnection) -> None:
        self._connection = connection

    @property
    def transaction_status(self) -> int:
        """Tell the transaction status, one of 0 to 4."""
        self._connection.server.visit("info", self._connection)
        return self._connection.transaction_status


class BareFakeConnection(Accounts):
    """A connection with what psycopg2.pool uses, and what a test needs to use it.

    psycopg2.pool uses closed, info, rollback(), close(), and its identity.
    """

    _pgpool_whole = True
    """What uses the connection holds this object, as with psycopg2's own; `reclaim` asks."""

    fileno: Callable[[], int]
    """A descriptor on which the server has hung up. Only a connection that was killed has one: the others have no
    socket, and pass every check that looks at one."""

    def __init__(self, server: FakeServer, serial: int) -> None:
        super().__init__(server.prepared)
        self.server = server
        self.serial = serial
        # Tests set this: what the next call of a name raises, once.
        self.faults: dict[str, BaseException] = {}
        self.is_killed = False
        self._closed = 0

    def __repr__(self) -> str:
        told = f"transaction_status={self.transaction_status} status={self._status}"
        return f"<connection {self.serial} closed={self._closed} {told}>"

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

    def cursor(self, *_args: Any, **_kwargs: Any) -> FakeCursor:
        """Return a cursor."""
        self.refuse_if_closed()
        return FakeCursor(self)

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
        self.transaction_status = UNKNOWN

    def visit(self, call: str, *, asks: bool = True) -> None:
        """Ask the server something, or have it noted only that nothing needs to be asked.

        An OperationalError breaks the connection, as it mostly does with psycopg2.
        """
        try:
            self.server.visit(call, self)
            if asks:
                self._find_death()
        except psycopg2.OperationalError:
            self.set_closed(2)
            self.transaction_status = UNKNOWN
            raise
        self.refuse_if_closed()

    def _find_death(self) -> None:
        if self.is_killed and not self._closed:
            raise psycopg2.OperationalError(GONE)


class FakeConnection(BareFakeConnection):
    """A connection that also answers psycopg2's `get_transaction_status()`, and serves as a block that commits."""

    def __enter__(self) -> Self:
        self.refuse_if_closed()
        if self._entered:
            raise psycopg2.ProgrammingError("the connection cannot be re-entered recursively")
        self._entered = True
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        """Commit, or roll back if the block has failed; it stays open."""
        self._entered = False
        if exc_type is None:
            self.commit()
        else:
            self.rollback()

    def get_transaction_status(self) -> int:
        """Answer 0 for an open, idle connection and only then."""
        self.server.visit("status", self)
        if self._closed:
            return self.transaction_status or UNKNOWN
        return self.transaction_status


class MortalFakeConnection(FakeConnection):
    """A connection that closes when its last reference goes, as psycopg2's do."""

    def __del__(self) -> None:
        self.server.forget(self)
