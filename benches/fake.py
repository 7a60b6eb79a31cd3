"""Connections without a server: what a pool asks of a connection, answered after as long as one likes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS


class Info:
    """Hold what `connection.info` is read for."""

    def __init__(self) -> None:
        self.transaction_status = TRANSACTION_STATUS_IDLE


class FakeConnection:
    """Sleep where a real connection would wait for its server."""

    def __init__(self, rollback_seconds: float = 0.0) -> None:
        self.closed = 0
        self.info = Info()
        self.rollback_seconds = rollback_seconds

    def get_transaction_status(self) -> int:
        return self.info.transaction_status

    def query(self, seconds: float) -> None:
        """Take `seconds`, and leave a transaction open."""
        time.sleep(seconds)
        self.info.transaction_status = TRANSACTION_STATUS_INTRANS

    def rollback(self) -> None:
        time.sleep(self.rollback_seconds)
        self.info.transaction_status = TRANSACTION_STATUS_IDLE

    def close(self) -> None:
        self.closed = 1


@contextmanager
def fake_connect(rollback_seconds: float = 0.0) -> Iterator[None]:
    """Make `psycopg2.connect`, which every pool looks up when it connects, return fakes."""
    with mock.patch("psycopg2.connect", lambda *_, **__: FakeConnection(rollback_seconds)):
        yield
