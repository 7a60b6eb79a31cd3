"""check_query and discard_all: what they do to a connection, and that a silent server holds up nobody."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import extensions

from fakes import INTRANS, FakeServer
from pgpool_rs.health import check_query, discard_all
from proxy import Proxy
from support import Task, run_program, wait_until

# Seconds: long enough that no test waits for it to end, and short enough to wait for.
LONG = 60.0
SHORT = 0.2

SET = extensions.ISOLATION_LEVEL_SERIALIZABLE
CHARACTERISTICS = "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"


@pytest.fixture
def conn(dsn: str) -> Iterator[Any]:
    """Give a connection of the test's own."""
    connection = psycopg2.connect(dsn)
    yield connection
    connection.close()


def execute(connection: Any, query: str) -> Any:
    """Run a query; return the first column of its first row."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0] if cursor.description else None


@contextmanager
def silenced(connection: Any) -> Iterator[None]:
    """Halt the server's process that serves this connection: the socket stays open, and nobody answers."""
    pid = connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def failing(connection: Any, error: BaseException) -> None:
    """Let each query of this connection fail so."""

    class Cursor(extensions.cursor):
        def execute(self, query: Any, parameters: Any = None) -> None:
            raise error

    connection.cursor_factory = Cursor


def timers() -> list[threading.Thread]:
    """List the watchdogs' threads that have not ended."""
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def descriptors() -> int:
    """Count the files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# What it does to a connection that is well.


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("timeout", [LONG, 5, None, math.inf, 1e300])
def test_a_live_connection_passes_and_is_as_before(conn: Any, autocommit: bool, timeout: float | None) -> None:
    conn.autocommit = autocommit
    for _ in range(3):
        check_query(conn, timeout)
        assert conn.autocommit is autocommit
        assert conn.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
        assert conn.status == extensions.STATUS_READY
    assert execute(conn, "SELECT 2") == 2


@pytest.mark.parametrize("autocommit", [False, True])
def test_it_asks_the_server_one_thing_and_that_out_of_a_transaction(conn: Any, dsn: str, autocommit: bool) -> None:
    conn.autocommit = autocommit
    check_query(conn)
    with psycopg2.connect(dsn) as other:
        asked = f"SELECT query, xact_start FROM pg_stat_activity WHERE pid = {conn.info.backend_pid}"
        with other.cursor() as cursor:
            cursor.execute(asked)
            assert cursor.fetchone() == ("SELECT 1", None)
    other.close()


@pytest.mark.parametrize("autocommit", [False, True])
def test_isolation_readonly_and_deferrable_hold_afterwards(conn: Any, autocommit: bool) -> None:
    conn.set_session("SERIALIZABLE", readonly=True, deferrable=True, autocommit=autocommit)
    check_query(conn)
    assert (conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit) == (SET, True, True, autocommit)
    transaction = [execute(conn, f"SHOW {name.replace('default_', '')}") for name in CHARACTERISTICS]
    assert transaction == ["serializable", "on", "on"]


def test_a_cursor_of_the_connections_own_kind_will_do(dsn: str) -> None:
    for factory in (psycopg2.extras.RealDictCursor, psycopg2.extras.NamedTupleCursor):
        connection = psycopg2.connect(dsn, cursor_factory=factory)
        check_query(connection)
        connection.close()


def test_pending_notices_and_notifications_stay(conn: Any) -> None:
    conn.autocommit = True
    execute(conn, "LISTEN channel")
    execute(conn, "NOTIFY channel, 'hello'")
    check_query(conn)
    assert [notify.payload for notify in conn.notifies] == ["hello"]


# What it refuses.


@pytest.mark.parametrize("begin", ["SELECT 1", "SELECT 1/0"])
@pytest.mark.parametrize("function", [check_query, discard_all])
def test_a_connection_in_a_transaction_is_refused_and_left_alone(conn: Any, begin: str, function: Any) -> None:
    try:
        execute(conn, begin)
    except psycopg2.DataError:
        assert "/0" in begin
    before = conn.info.transaction_status
    with pytest.raises(psycopg2.ProgrammingError, match="inside a transaction"):
        function(conn)
    assert conn.info.transaction_status == before != extensions.TRANSACTION_STATUS_IDLE
    assert conn.autocommit is False


@pytest.mark.parametrize("function", [check_query, discard_all])
def test_a_transaction_begun_in_autocommit_is_refused_and_left_alone(conn: Any, function: Any) -> None:
    conn.autocommit = True
    execute(conn, "BEGIN")
    with pytest.raises(psycopg2.ProgrammingError, match="inside a transaction"):
        function(conn)
    assert conn.info.transaction_status == extensions.TRANSACTION_STATUS_INTRANS
    assert conn.autocommit is True


def test_a_closed_connection_is_refused(conn: Any) -> None:
    conn.close()
    with pytest.raises(psycopg2.InterfaceError, match="closed"):
        check_query(conn)


@pytest.mark.parametrize(
    ("error", "bad"),
    [(TypeError, "5"), (TypeError, True), (ValueError, 0), (ValueError, -1), (ValueError, math.nan)],
)
def test_a_bad_timeout_is_refused_before_anything_is_asked(error: type[Exception], bad: Any) -> None:
    with pytest.raises(error, match="timeout must be .* not " + repr(bad)):
        check_query(None, bad)


# Connections that have died.


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_connection_that_the_server_has_ended_is_refused(conn: Any, dsn: str, autocommit: bool) -> None:
    conn.autocommit = autocommit
    with psycopg2.connect(dsn) as other:
        execute(other, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)")
    other.close()
    with pytest.raises(psycopg2.OperationalError) as raised:
        check_query(conn, LONG)
    assert "did not answer" not in str(raised.value)
    assert conn.closed


def test_a_query_that_fails_is_an_error_and_autocommit_is_put_back(conn: Any) -> None:
    failing(conn, psycopg2.errors.QueryCanceled("statement timeout"))
    with pytest.raises(psycopg2.errors.QueryCanceled, match="statement timeout"):
        check_query(conn)
    assert conn.autocommit is False
    assert conn.closed == 0


# A server that says nothing.


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_silent_server_is_given_up(conn: Any, autocommit: bool) -> None:
    conn.autocommit = autocommit
    with silenced(conn):
        begin = time.monotonic()
        with pytest.raises(psycopg2.OperationalError, match=f"did not answer SELECT 1 within {SHORT} seconds"):
            check_query(conn, SHORT)
        assert time.monotonic() - begin >= SHORT
        assert conn.closed


def test_a_server_silent_as_autocommit_is_put_back_is_given_up(conn: Any) -> None:
    conn.isolation_level = "SERIALIZABLE"  # So that psycopg2 asks the server when autocommit is switched off.
    with ExitStack() as stack:

        class Cursor(extensions.cursor):
            def close(self) -> None:
                super().close()
                stack.enter_context(silenced(conn))

        conn.cursor_factory = Cursor
        with pytest.raises(psycopg2.OperationalError, match="did not answer"):
            check_query(conn, SHORT)


def test_a_silent_server_behind_a_unix_socket_is_given_up(conn: Any, dsn: str) -> None:
    folder = execute(conn, "SHOW unix_socket_directories")
    connection = psycopg2.connect(dsn, host=folder)
    with silenced(connection), pytest.raises(psycopg2.OperationalError, match="did not answer"):
        check_query(connection, SHORT)
    connection.close()


def test_a_silent_server_behind_tls_is_given_up(tls_dsn: str) -> None:
    connection = psycopg2.connect(tls_dsn)
    assert connection.info.ssl_in_use
    check_query(connection, LONG)
    with silenced(connection), pytest.raises(psycopg2.OperationalError, match="did not answer"):
        check_query(connection, SHORT)
    connection.close()


def test_a_network_that_swallows_all_is_given_up(dsn: str) -> None:
    address = extensions.parse_dsn(dsn)
    with Proxy(int(address["port"])) as proxy:
        connection = psycopg2.connect(**proxy.dsn_kwargs(address))
        check_query(connection, LONG)
        proxy.swallow()
        with pytest.raises(psycopg2.OperationalError, match="did not answer"):
            check_query(connection, SHORT)
        connection.close()


def test_a_silent_server_is_given_up_in_many_threads_at_once(dsn: str) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(psycopg2.connect(dsn))) for _ in range(8)]
        for connection in connections:
            stack.enter_context(silenced(connection))
        for task in [Task(check_query, connection, SHORT) for connection in connections]:
            task.wait()
            assert "did not answer" in str(task.error)


@pytest.fixture
def wait_callback() -> Iterator[list[Any]]:
    """Let psycopg2 wait in Python, as it does under gevent, and list what it waits for."""
    waited: list[Any] = []

    def wait(connection: Any) -> None:
        waited.append(connection)
        psycopg2.extras.wait_select(connection)

    extensions.set_wait_callback(wait)
    yield waited
    extensions.set_wait_callback(None)


def test_a_green_connection_passes_and_is_as_before(wait_callback: list[Any], conn: Any) -> None:
    del wait_callback[:]
    check_query(conn)
    assert wait_callback == [conn]
    assert conn.autocommit is False
    assert conn.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE


def test_a_silent_server_is_given_up_on_a_green_connection(wait_callback: list[Any], conn: Any) -> None:
    with silenced(conn), pytest.raises(psycopg2.OperationalError, match="did not answer"):
        check_query(conn, SHORT)
    assert conn.closed


def test_under_gevent_with_a_wait_callback_the_others_go_on(dsn: str) -> None:
    run_program(f"""
from gevent import monkey
monkey.patch_all()
import os, signal
import gevent, gevent.socket
import psycopg2
from psycopg2 import extensions
from pgpool_rs.health import check_query

def wait(connection):
    while (state := connection.poll()) != extensions.POLL_OK:
        (gevent.socket.wait_read if state == extensions.POLL_READ else gevent.socket.wait_write)(connection.fileno())

extensions.set_wait_callback(wait)
connection = psycopg2.connect({dsn!r})
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)
gevent.spawn(tick)
check_query(connection, 20)
gevent.sleep(0.01)
pid = connection.info.backend_pid
os.kill(pid, signal.SIGSTOP)
try:
    ticks = 0
    check_query(connection, 0.3)
except psycopg2.OperationalError as error:
    assert "did not answer" in str(error), error
else:
    raise AssertionError("it passed")
finally:
    os.kill(pid, signal.SIGCONT)
assert ticks > 10, ticks
""")


# The watchdog.


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
    assert connection.status != INTRANS
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


def test_a_connection_that_refuses_autocommit_is_not_asked(server: FakeServer) -> None:
    class Stubborn(SimpleNamespace):
        @property
        def autocommit(self) -> bool:
            return False

        @autocommit.setter
        def autocommit(self, value: bool) -> None:
            raise psycopg2.ProgrammingError("not now")

    with pytest.raises(psycopg2.ProgrammingError, match="not now"):
        check_query(Stubborn())


# discard_all.


@pytest.mark.parametrize("autocommit", [False, True])
def test_discard_all_puts_the_session_back(conn: Any, autocommit: bool) -> None:
    name = execute(conn, "SHOW application_name")
    execute(conn, "SET application_name = 'changed'")
    execute(conn, "CREATE TEMPORARY TABLE leftover ()")
    execute(conn, "SELECT pg_advisory_lock(5)")
    conn.commit()
    conn.autocommit = autocommit
    discard_all(conn)
    assert conn.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
    assert conn.autocommit is autocommit
    assert execute(conn, "SHOW application_name") == name
    assert execute(conn, "SELECT to_regclass('leftover')") is None
    assert execute(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_what_belongs_to_the_connection_object_outlives_discard_all(conn: Any, autocommit: bool) -> None:
    conn.set_session("SERIALIZABLE", readonly=True, deferrable=True, autocommit=autocommit)
    discard_all(conn)
    assert (conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit) == (SET, True, True, autocommit)
    transaction = [execute(conn, f"SHOW {name.replace('default_', '')}") for name in CHARACTERISTICS]
    assert transaction == ["serializable", "on", "on"]


def test_text_is_read_rightly_after_discard_all(conn: Any) -> None:
    before = conn.encoding
    conn.set_client_encoding("LATIN1")
    assert execute(conn, "SELECT 'ä'") == "ä"
    conn.rollback()
    discard_all(conn)
    assert execute(conn, "SELECT 'ä'") == "ä"
    assert conn.encoding == before


def test_discard_all_does_without_what_only_psycopg2_has(server: FakeServer) -> None:
    connection = server.connect()
    discard_all(connection)
    assert connection.autocommit is False
    assert connection.status != INTRANS


def test_discard_all_on_a_dead_connection_is_an_error(conn: Any, dsn: str) -> None:
    with psycopg2.connect(dsn) as other:
        execute(other, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)")
    other.close()
    with pytest.raises(psycopg2.OperationalError):
        discard_all(conn)
