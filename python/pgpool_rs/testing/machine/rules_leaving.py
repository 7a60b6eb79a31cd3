"""The rules of a machine about what borrowers leave behind in a connection, which its pool must undo."""

from __future__ import annotations

__tracebackhide__ = True

from typing import TYPE_CHECKING, Any

import psycopg2
from hypothesis import strategies as st
from hypothesis.stateful import precondition

from pgpool_rs.testing.fake.session import ACTIVE, INERROR, INTRANS
from pgpool_rs.testing.machine.rules import Rules, a_lender, rule

if TYPE_CHECKING:
    from collections.abc import Callable

STATUSES = {"INTRANS": INTRANS, "INERROR": INERROR, "ACTIVE": ACTIVE}


def _run(connection: Any, *queries: str, autocommit: bool = False) -> None:
    connection.autocommit = autocommit
    for query in queries:
        connection.cursor().execute(query)


def _fail(connection: Any) -> None:
    connection.faults["execute"] = psycopg2.ProgrammingError("a syntax error, as the test has told it to")
    try:
        connection.cursor().execute("SELEC 1")
    except psycopg2.ProgrammingError:
        connection.faults.clear()


def _fail_in_autocommit(connection: Any) -> None:
    _run(connection, "BEGIN", autocommit=True)
    _fail(connection)


def _begin_in_autocommit_and_switch_it_off(connection: Any) -> None:
    _run(connection, "BEGIN", autocommit=True)
    connection.autocommit = False


def _begin_two_phases(connection: Any) -> None:
    _run(connection)
    connection.tpc_begin(f"transaction of {connection.serial}")


def _end_two_phases_in_sql(connection: Any) -> None:
    _begin_two_phases(connection)
    connection.cursor().execute("ROLLBACK")


def _prepare(connection: Any) -> None:
    _begin_two_phases(connection)
    connection.tpc_prepare()


# What libpq and psycopg2 do not agree upon, or neither rolls back.
LEAVINGS: dict[str, Callable[[Any], None]] = {
    "BEGIN in autocommit": lambda connection: _run(connection, "BEGIN", autocommit=True),
    "BEGIN in autocommit, then off": _begin_in_autocommit_and_switch_it_off,
    "BEGIN in autocommit, failed": _fail_in_autocommit,
    "COMMIT in SQL": lambda connection: _run(connection, "SELECT 1", "COMMIT"),
    "ROLLBACK in SQL": lambda connection: _run(connection, "SELECT 1", "ROLLBACK"),
    "tpc_begin": _begin_two_phases,
    "tpc_begin, ROLLBACK in SQL": _end_two_phases_in_sql,
    "tpc_prepare": _prepare,
    "COPY": lambda connection: _run(connection, "START_REPLICATION SLOT s LOGICAL 0/0", autocommit=True),
}


class LeavingRules(Rules):
    """What a borrower does with a connection before it gives it back, or leaves its block."""

    @precondition(lambda self: self._lenders() and self._is_open())
    @rule(borrower=a_lender, status=st.sampled_from(sorted(STATUSES, reverse=True)))
    def leave_a_transaction_open(self, borrower: int, status: str) -> None:
        """Leave a lent connection in a transaction, in a failed one or in the midst of a query."""
        self._note(borrower, f"a transaction open ({status})")
        self._leave(borrower, STATUSES[status])

    @precondition(lambda self: self._lenders() and self._is_open())
    @rule(borrower=a_lender)
    def fail_a_statement(self, borrower: int) -> None:
        """Leave a lent connection after a statement that has failed."""
        self._note(borrower, "a failed statement")
        self._do(borrower, _fail)

    @precondition(lambda self: self._lenders() and self._is_open() and self._may("accounts"))
    @rule(borrower=a_lender, what=st.sampled_from(list(LEAVINGS)))
    def leave_behind(self, borrower: int, what: str) -> None:
        """Leave a lent connection in a transaction that libpq and psycopg2 do not agree upon, or that cannot end."""
        self._note(borrower, what)
        self._do(borrower, LEAVINGS[what])
        self._model.prepared |= self.driver.server.prepared

    _leave_behind_often = leave_behind

    def _do(self, borrower: int, leave: Callable[[Any], None]) -> None:
        connection = self._connection(borrower)
        try:
            if not connection._closed:
                leave(connection)
        except psycopg2.Error:
            pass  # it was in another transaction before

    def _note(self, borrower: int, what: str) -> None:
        model = self._model
        model.lives[self._connection(borrower).serial].left = f"borrower {borrower} had left {what}"
