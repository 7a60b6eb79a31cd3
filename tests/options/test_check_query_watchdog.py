"""The watchdog of check_query bites only a connection that is late, and leaves nothing behind."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import psycopg2
import pytest

from pgpool_rs.health import check_query, discard_all
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.postgres import LONG, SHORT, failing, silenced
from tests.lib.statements import execute
from tests.lib.waits import wait_until


class Timer:
    """Stands in for threading.Timer: it fires when told to, or inside one of its own calls."""

    fires_in = ""
    made: ClassVar[list[Timer]]

    def __init__(self, interval: float, function: Callable[[], None]) -> None:
        self.interval = interval
        self.fire = function
        self.daemon = False
        self.calls: list[str] = []
        self.made.append(self)

    def start(self) -> None:
        assert self.daemon, "it must not keep the interpreter alive"
        self._called("start")

    def cancel(self) -> None:
        self._called("cancel")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fires_in == name:
            self.fire()


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> type[Timer]:
    """Replace threading.Timer, which has to be looked up when it is needed."""

    class Mine(Timer):
        made: ClassVar[list[Timer]] = []

    monkeypatch.setattr(threading, "Timer", Mine)
    return Mine


def timers() -> list[threading.Thread]:
    """List the watchdogs' threads that have not ended."""
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def descriptors() -> int:
    """Count the files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_watchdog_is_called_off_and_bites_nobody_afterwards(timer: type[Timer], conn: Any) -> None:
    check_query(conn, 7)
    [one] = timer.made
    assert one.interval == 7
    assert one.calls == ["start", "cancel"]
    one.fire()
    assert execute(conn, "SELECT 2") == 2


def test_it_is_called_off_where_the_query_fails_too(timer: type[Timer], conn: Any, dsn: str) -> None:
    os.kill(conn.info.backend_pid, signal.SIGTERM)
    with pytest.raises(psycopg2.OperationalError):
        check_query(conn)
    assert timer.made[0].calls == ["start", "cancel"]


@pytest.mark.parametrize("moment", ["start", "cancel"])
def test_a_connection_that_was_bitten_never_passes(timer: type[Timer], conn: Any, moment: str) -> None:
    timer.fires_in = moment
    with pytest.raises(psycopg2.OperationalError, match="did not answer SELECT 1 within 7 seconds"):
        check_query(conn, 7)
    with pytest.raises(psycopg2.Error):
        execute(conn, "SELECT 1")


def test_an_interrupt_is_not_taken_for_the_end_of_the_limit(timer: type[Timer], conn: Any) -> None:
    timer.fires_in = "cancel"
    failing(conn, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        check_query(conn)
    assert conn.autocommit is False


def test_without_a_limit_there_is_no_watchdog(timer: type[Timer], conn: Any) -> None:
    check_query(conn, None)
    check_query(conn, math.inf)
    assert timer.made == []


def test_no_interval_is_longer_than_a_thread_can_wait(timer: type[Timer], conn: Any) -> None:
    check_query(conn, 1e300)
    assert timer.made[0].interval == threading.TIMEOUT_MAX


def test_where_no_thread_can_be_started_the_query_is_made_all_the_same(
    conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = descriptors()
    check_query(conn)
    assert descriptors() == before


def test_neither_threads_nor_descriptors_are_left(conn: Any, dsn: str) -> None:
    check_query(conn)
    before = descriptors()
    for _ in range(20):
        check_query(conn, LONG)
    assert descriptors() == before
    wait_until(lambda: not timers(), "the end of the watchdogs")
    with silenced(conn), pytest.raises(psycopg2.OperationalError):
        check_query(conn, SHORT)
    conn.close()
    assert descriptors() == before - 1
    wait_until(lambda: not timers(), "the end of the watchdogs")


def test_the_other_connections_are_left_alone(conn: Any, dsn: str) -> None:
    silent = psycopg2.connect(dsn)
    with silenced(silent), pytest.raises(psycopg2.OperationalError):
        check_query(silent, SHORT)
    check_query(conn)
    silent.close()


# What is no connection of psycopg2's.


def test_a_connection_without_a_file_descriptor_is_just_asked(timer: type[Timer], server: FakeServer) -> None:
    connection = server.connect()
    check_query(connection)
    assert connection.autocommit is False
    assert connection.transaction_status != INTRANS
    connection.set_closed(2)
    with pytest.raises(psycopg2.InterfaceError):
        check_query(connection)
    assert connection.autocommit is False
    assert timer.made == []


@pytest.mark.parametrize("fileno", [lambda: None, lambda: -1, lambda: "3", 3])
def test_a_file_descriptor_that_is_none_is_no_error(timer: type[Timer], server: FakeServer, fileno: Any) -> None:
    connection = server.connect()
    connection.fileno = fileno
    check_query(connection)
    assert timer.made == []


def test_a_mock_passes(timer: type[Timer]) -> None:
    connection = mock.MagicMock()
    check_query(connection)
    connection.cursor.return_value.__enter__.return_value.execute.assert_called_once_with("SELECT 1")
    discard_all(connection)
    assert timer.made == []
