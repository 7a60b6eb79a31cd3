"""discard_all puts back the session of a connection, and leaves alone what belongs to the connection object."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions

from checks import CHARACTERISTICS, SET, execute
from pgpool_rs.health import discard_all
from pgpool_rs.testing import INTRANS, FakeServer


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
    assert connection.transaction_status != INTRANS


def test_discard_all_on_a_dead_connection_is_an_error(conn: Any, dsn: str) -> None:
    with psycopg2.connect(dsn) as other:
        execute(other, f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)")
    other.close()
    with pytest.raises(psycopg2.OperationalError):
        discard_all(conn)
