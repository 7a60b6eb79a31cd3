"""discard_all puts back the session of a connection, and leaves alone what belongs to the connection object."""

from __future__ import annotations

import collections
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions

from pgpool_rs.health import discard_all
from pgpool_rs.testing import INTRANS, FakeServer
from tests.lib.postgres import CHARACTERISTICS, SET, admin, terminate
from tests.lib.statements import execute


@pytest.mark.parametrize("autocommit", [False, True])
def test_discard_all_puts_the_session_back(conn: Any, autocommit: bool) -> None:
    name = execute(conn, "SHOW application_name")
    execute(conn, "SET application_name = 'changed'")
    execute(conn, "SET work_mem = '7MB'; CREATE TEMPORARY TABLE leftover (); LISTEN news; PREPARE it AS SELECT 1")
    execute(conn, "SELECT pg_advisory_lock(5)")
    conn.commit()
    conn.autocommit = autocommit
    discard_all(conn)
    assert conn.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
    assert conn.autocommit is autocommit
    assert execute(conn, "SHOW application_name") == name
    assert execute(conn, "SHOW work_mem") != "7MB"
    assert execute(conn, "SELECT to_regclass('leftover')") is None
    assert execute(conn, "SELECT count(*) FROM pg_listening_channels()") == 0
    assert execute(conn, "SELECT count(*) FROM pg_prepared_statements") == 0
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
    terminate(dsn, conn.info.backend_pid)
    with pytest.raises(psycopg2.OperationalError):
        discard_all(conn)


class Appendable:
    """The least that psycopg2 needs for `conn.notifies`."""

    def append(self, _: object) -> None:
        """Forget it."""


@pytest.mark.parametrize("notifies", [list, collections.deque, Appendable])
def test_discard_all_drops_notifications(conn: Any, dsn: str, notifies: Any) -> None:
    conn.notifies = notifies()
    execute(conn, "LISTEN news")
    conn.commit()
    with admin(dsn) as other:
        execute(other, "SELECT pg_notify('news', 'for the one who listened')")
        execute(conn, "SELECT 1")
        conn.rollback()
        assert notifies is Appendable or len(conn.notifies) == 1
        execute(other, "SELECT pg_notify('news', 'on its way')")
    discard_all(conn)
    assert notifies is Appendable or len(conn.notifies) == 0


def test_a_pool_that_discards_lends_no_notifications_of_another_borrower(our_class: Any, dsn: str) -> None:
    with our_class(1, 1, dsn, reset="discard", check_after=0) as pool, admin(dsn) as other:
        for _ in range(3):
            connection = pool.getconn()
            assert connection.notifies == []
            execute(connection, "LISTEN news")
            connection.commit()
            execute(other, "SELECT pg_notify('news', 'one')")
            execute(connection, "SELECT 1")
            assert len(connection.notifies) == 1
            pool.putconn(connection)
            execute(other, "SELECT pg_notify('news', 'two')")
            pool.check()
            assert connection.notifies == []
