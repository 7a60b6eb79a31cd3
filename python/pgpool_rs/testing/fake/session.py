"""A session at the fake server: its transaction as the server and libpq know it, and what SQL does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from psycopg2 import OperationalError, errors

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableSet

IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)


@final
class Session:
    """Keeps libpq's account of a transaction. What psycopg2 believes of it stands in the connection."""

    def __init__(self, prepared: MutableSet[str]) -> None:
        """Begin in no transaction.

        :param prepared: the server's prepared transactions, by their ids.
        """
        self.transaction_status = IDLE
        self.is_copying = False
        self._prepared = prepared

    def begin(self) -> None:
        """Begin a transaction, as BEGIN does: inside one it is a warning."""
        self._refuse_while_copying()
        self._refuse_in_a_failed_transaction()
        if self.transaction_status == IDLE:
            self.transaction_status = INTRANS

    def end(self) -> None:
        """End the transaction, as COMMIT and ROLLBACK do: outside of one that is a warning."""
        self._refuse_while_copying()
        self.transaction_status = IDLE

    def prepare(self, transaction: str) -> None:
        """Prepare the transaction, which the server keeps from then on; one that has failed is rolled back instead."""
        self._refuse_while_copying()
        if self.transaction_status == INTRANS:
            self._prepared.add(transaction)
        self.transaction_status = IDLE

    def finish_prepared(self, how: str, transaction: str) -> None:
        """Commit a prepared transaction or roll it back, in whichever session it was begun."""
        self._refuse_while_copying()
        self._refuse_in_a_failed_transaction()
        if self.transaction_status == INTRANS:
            self.fail()
            raise errors.ActiveSqlTransaction(f"{how} PREPARED cannot run inside a transaction block\n")
        if transaction not in self._prepared:
            raise errors.UndefinedObject(f'prepared transaction with identifier "{transaction}" does not exist\n')
        self._prepared.discard(transaction)

    def fail(self) -> None:
        """Fail a statement, which fails its transaction."""
        if self.transaction_status == INTRANS:
            self.transaction_status = INERROR

    def run(self, query: Any) -> None:
        """Run a query: each statement in it that begins or ends a transaction does so."""
        self._refuse_while_copying()
        for words in _statements(query):
            match words:
                case ["BEGIN", *_] | ["START", "TRANSACTION", *_]:
                    self.begin()
                case ["PREPARE", "TRANSACTION", transaction]:
                    self.prepare(transaction)
                case ["COMMIT" | "ROLLBACK" as how, "PREPARED", transaction]:
                    self.finish_prepared(how, transaction)
                case ["ROLLBACK", "TO", *_] | ["ROLLBACK", "WORK" | "TRANSACTION", "TO", *_]:
                    self.transaction_status = INTRANS
                case ["COMMIT" | "END" | "ROLLBACK" | "ABORT", *_, "AND", "CHAIN"]:
                    self.transaction_status = INTRANS
                case ["COMMIT" | "END" | "ROLLBACK" | "ABORT", *_]:
                    self.end()
                case ["START_REPLICATION", *_]:
                    self.is_copying = True
                    self.transaction_status = ACTIVE
                case _:
                    self._refuse_in_a_failed_transaction()

    def _refuse_while_copying(self) -> None:
        if self.is_copying:
            raise OperationalError("PQexec not allowed during COPY BOTH\n")

    def _refuse_in_a_failed_transaction(self) -> None:
        if self.transaction_status == INERROR:
            raise errors.InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block\n"
            )


def _statements(query: Any) -> Iterator[list[str]]:
    """Split a query into statements, and each into its words: those of SQL in capitals, quoted ones without quotes."""
    text = query.decode(errors="replace") if isinstance(query, bytes) else query if isinstance(query, str) else ""
    for statement in text.split(";"):
        words = [word[1:-1] if word[0] == word[-1] == "'" else word.upper() for word in statement.split()]
        if words:
            yield words
