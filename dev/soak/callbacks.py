"""The callbacks of the soaked pool. Each does its work, and raises an error in a small share of its calls."""

from __future__ import annotations

import os
import random
import threading
from typing import Any, final

import psycopg2
from psycopg2 import extensions

from dev.soak.counters import CallbackError, Interrupt
from pgpool_rs import check_query
from pgpool_rs.health import discard_all

ONE_IN = 300  # One of so many calls raises.
CHECK_TIMEOUT = 1.0  # Seconds.


@final
class Stamped(extensions.connection):
    """A connection that knows which process opened it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opener = os.getpid()


@final
class Callbacks:
    """Holds the pool's `connect`, `configure`, `check` and `reset`."""

    def __init__(self, seed: str) -> None:
        self.failing = False
        """Whether calls raise errors of their own."""
        self.raised = 0
        """How many did."""
        self._choice = random.Random(seed)
        self._lock = threading.Lock()

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        self._perhaps_raise()
        return psycopg2.connect(*args, connection_factory=Stamped, **kwargs)

    def configure(self, connection: Any) -> None:
        self._perhaps_raise()
        with connection.cursor() as cursor:
            cursor.execute("set statement_timeout = '30s'")
        connection.commit()

    def check(self, connection: Any) -> None:
        self._perhaps_raise()
        check_query(connection, timeout=CHECK_TIMEOUT)

    def reset(self, connection: Any) -> None:
        self._perhaps_raise()
        discard_all(connection)
        connection.autocommit = False

    def _perhaps_raise(self) -> None:
        if not self.failing:
            return
        with self._lock:
            chance = self._choice.randrange(2 * ONE_IN)
            self.raised += chance < 2
        if chance == 0:
            raise Interrupt
        if chance == 1:
            raise CallbackError
