"""The callbacks of the soaked pool: each does its work, and now and then raises what it may."""

from __future__ import annotations

import os
import random
import threading
from typing import Any, final

import psycopg2
from psycopg2 import extensions

from dev.soak.tally import CallbackError, Interrupt
from pgpool_rs import check_query
from pgpool_rs.health import discard_all

ONE_IN = 300  # Calls of a callback, of which one raises.
PATIENCE = 1.0  # Seconds for the server to answer a check.


@final
class Stamped(extensions.connection):
    """A connection that knows which process has opened it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opener = os.getpid()


@final
class Callbacks:
    """Holds what a pool is given as `connect`, `configure`, `check` and `reset`."""

    def __init__(self, seed: str) -> None:
        self.failing = False
        """Whether they raise anything by themselves."""
        self.raised = 0
        """How often they have."""
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
        check_query(connection, timeout=PATIENCE)

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
