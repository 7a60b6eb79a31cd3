"""What check_query does to a connection that is well, and what it refuses, as discard_all does."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import extensions

from pgpool_rs.health import check_query, discard_all
from pgpool_rs.testing import FakeServer
from tests.lib.postgres import CHARACTERISTICS, LONG, SET, admin, failing, terminate
from tests.lib.statements import execute

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
    with admin(dsn) as other, other.cursor() as cursor:
        cursor.execute(f"SELECT query, xact_start FROM pg_stat_activity WHERE pid = {conn.info.backend_pid}")
        assert cursor.fetchone() == ("SELECT 1", None)


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
    ("error", "bad"), [(TypeError, "5"), (TypeError, True), (ValueError, 0), (ValueError, -1), (ValueError, math.nan)]
)
def test_a_bad_timeout_is_refused_before_anything_is_asked(error: type[Exception], bad: Any) -> None:
    with pytest.raises(error, match="timeout must be .* not " + repr(bad)):
        check_query(None, bad)


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


# Connections that have died.


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_connection_that_the_server_has_ended_is_refused(conn: Any, dsn: str, autocommit: bool) -> None:
    conn.autocommit = autocommit
    terminate(dsn, conn.info.backend_pid)
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
