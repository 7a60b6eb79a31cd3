"""The two accounts of a fake connection's transaction: libpq's, and psycopg2's own, which may differ.

libpq is told by the server. psycopg2 knows what its own methods have done, and nothing of what was done in SQL: after
`execute("ROLLBACK")` it still counts on a transaction, after `execute("BEGIN")` in autocommit it knows of none.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2.extensions import STATUS_BEGIN, STATUS_PREPARED, STATUS_READY, Xid

from pgpool_rs.testing.fake.session import IDLE, UNKNOWN, Session


class Accounts:
    """What a connection does about transactions, as psycopg2 2.9 does it."""

    _closed: int

    def __init__(self, prepared: set[str]) -> None:
        self.queries: list[Any] = []
        self._session = Session(prepared)
        self._status: int = STATUS_READY
        self._two_phase: str | None = None
        self._autocommit = False
        self._entered = False

    def visit(self, call: str, *, asks: bool = True) -> None:
        """Ask the server something."""
        raise NotImplementedError

    def refuse_if_closed(self) -> None:
        """Raise what psycopg2 raises when a closed connection is used."""
        if self._closed:
            raise psycopg2.InterfaceError("connection already closed")

    @property
    def transaction_status(self) -> int:
        """Tell libpq's account, from IDLE to UNKNOWN, without a visit being noticed. Tests set it."""
        return self._session.transaction_status

    @transaction_status.setter
    def transaction_status(self, transaction_status: int) -> None:
        self._session.transaction_status = transaction_status

    @property
    def status(self) -> int:
        """Tell psycopg2's account: STATUS_READY, STATUS_BEGIN or STATUS_PREPARED.

        Tests set it to a transaction status, from IDLE to UNKNOWN: the connection is in that state by both accounts.
        """
        return self._status

    @status.setter
    def status(self, transaction_status: int) -> None:
        self._session.transaction_status = transaction_status
        if transaction_status != UNKNOWN:
            self._session.is_copying = False
            self._two_phase = None
            self._status = STATUS_READY if transaction_status == IDLE else STATUS_BEGIN

    @property
    def two_phase(self) -> str | None:
        """Name the two-phase transaction that psycopg2 is in, begun or prepared. psycopg2 has no attribute for it."""
        return self._two_phase

    @property
    def autocommit(self) -> bool:
        """Tell whether a query begins no transaction. It cannot be set while psycopg2 knows of one."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, autocommit: bool) -> None:
        self.refuse_if_closed()
        if self._status != STATUS_READY:
            raise psycopg2.ProgrammingError("set_session cannot be used inside a transaction")
        self._autocommit = bool(autocommit)

    def run(self, query: Any) -> None:
        """Run a query for a cursor, in a transaction unless in autocommit."""
        self.refuse_if_closed()
        if self._status == STATUS_PREPARED:
            raise psycopg2.ProgrammingError("execute cannot be used with a prepared two-phase transaction")
        self.queries.append(query)
        try:
            self.visit("execute")
        except psycopg2.DatabaseError:
            # The server has refused it, which spoils the transaction.
            if not self._closed:
                self._begin()
                self._session.fail()
            raise
        self._begin()
        self._session.run(query)

    def commit(self) -> None:
        """End the transaction, if psycopg2 knows of one."""
        self._end("commit")

    def rollback(self) -> None:
        """Undo the transaction, if psycopg2 knows of one."""
        self._end("rollback")

    def xid(self, format_id: int, gtrid: str, bqual: str) -> Xid:
        """Make the name of a two-phase transaction."""
        return Xid(format_id, gtrid, bqual)

    def tpc_begin(self, xid: Any) -> None:
        """Begin a two-phase transaction of this name."""
        self.refuse_if_closed()
        if self._status != STATUS_READY:
            raise psycopg2.ProgrammingError("tpc_begin cannot be used inside a transaction")
        if self._autocommit:
            raise psycopg2.ProgrammingError("tpc_begin can't be called in autocommit mode")
        self.visit("execute")
        self._begin()
        self._two_phase = str(xid)

    def tpc_prepare(self) -> None:
        """Let the server keep the transaction until it is committed or rolled back by its name."""
        self.refuse_if_closed()
        if self._status == STATUS_PREPARED:
            raise psycopg2.ProgrammingError("tpc_prepare cannot be used with a prepared two-phase transaction")
        if self._two_phase is None:
            raise psycopg2.ProgrammingError("prepare must be called inside a two-phase transaction")
        self.visit("execute")
        self._session.prepare(self._two_phase)
        self._status = STATUS_PREPARED

    def tpc_commit(self, xid: Any = None) -> None:
        """Commit the two-phase transaction, or one of this name that was prepared before."""
        self._end_two_phase("commit", xid)

    def tpc_rollback(self, xid: Any = None) -> None:
        """Undo the two-phase transaction, or one of this name that was prepared before."""
        self._end_two_phase("rollback", xid)

    def _begin(self) -> None:
        if self._status == STATUS_READY and (self._entered or not self._autocommit):
            self._session.begin()
            self._status = STATUS_BEGIN

    def _end(self, call: str, *, in_two_phase: bool = False) -> None:
        refused = self._two_phase is not None and not in_two_phase
        # Where psycopg2 knows of no transaction it asks the server nothing, and finds no death.
        asks = self._status == STATUS_BEGIN and not refused
        self.visit(call, asks=asks)
        if refused:
            raise psycopg2.ProgrammingError(f"{call} cannot be used during a two-phase transaction")
        if asks:
            self._session.end()
            self._status = STATUS_READY

    def _end_two_phase(self, call: str, xid: Any) -> None:
        self.refuse_if_closed()
        if xid is None and self._two_phase is None:
            raise psycopg2.ProgrammingError(
                "tpc_commit/tpc_rollback with no parameter must be called in a two-phase transaction"
            )
        if xid is not None and self._status != STATUS_READY:
            raise psycopg2.ProgrammingError("tpc_commit/tpc_rollback with a xid must be called outside a transaction")
        if self._status == STATUS_BEGIN:
            self._end(call, in_two_phase=True)
        else:
            self.visit(call)
            self._session.finish_prepared(call.upper(), str(xid or self._two_phase))
        if xid is None:
            self._two_phase = None
            self._status = STATUS_READY
