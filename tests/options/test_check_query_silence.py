"""A server that says nothing holds up nobody: check_query gives it up when its time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import extensions

from dev.servers.proxy import Proxy
from pgpool_rs.health import check_query
from tests.lib.postgres import LONG, SHORT, silenced
from tests.lib.programs import run_program
from tests.lib.statements import execute
from tests.lib.waits import Task


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


# Where psycopg2 waits in Python.


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
