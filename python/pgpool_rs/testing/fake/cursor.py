"""Cursors of fake connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs.testing.fake.connection import BareFakeConnection


@final
class FakeCursor:
    """A cursor that begins a transaction and answers every query with one row, whose only column is 1."""

    rowcount = 1

    def __init__(self, connection: BareFakeConnection) -> None:
        self.connection = connection

    def __enter__(self) -> FakeCursor:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is held."""

    def __iter__(self) -> Iterator[tuple[int]]:
        return iter(self.fetchall())

    def execute(self, query: Any, _parameters: object = None) -> None:
        """Run a query, in a transaction unless in autocommit, and note it in `connection.queries`."""
        self.connection.run(query)

    def fetchone(self) -> tuple[int]:
        """Return the only row."""
        return (1,)

    def fetchall(self) -> list[tuple[int]]:
        """Return the only row in a list."""
        return [self.fetchone()]

    def close(self) -> None:
        """Do nothing: nothing is held."""
