"""Where one connection has died, others may have: which deaths make them suspect, and which errors tell of a death."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import psycopg2
import psycopg2.errors
import pytest

from pgpool_rs._core import advance_clock
from pgpool_rs.testing import INTRANS, UNKNOWN, FakeServer
from pgpool_rs.testing.fake.connection import FakeInfo
from tests.lib.callbacks import Callback
from tests.lib.pools import assert_sound, borrow, closes, filled, give_back, lend, wait_for_quiet


@pytest.fixture
def check() -> Callback:
    return Callback()


# --- which deaths ----------------------------------------------------------------------------------------------------


def three_of(our_class: Any, check: Callback) -> tuple[Any, list[Any]]:
    """Make a pool of which all connections were used just now, so that none needs a check; lend all of them."""
    pool = filled(our_class, 3, check=check, check_after=1000)
    return pool, [pool.getconn() for _ in range(3)]


def assert_suspects(pool: Any, check: Callback, *known: Any) -> None:
    """Assert that every idle connection is checked before it is lent, once, but for those known to be well."""
    idle = {id(connection) for connection in pool._pool} - {id(connection) for connection in known}
    before = len(check.calls)
    for _ in range(2):
        give_back(pool, lend(pool, len(pool._pool)))
    checked = [id(connection) for connection in check.calls[before:]]
    assert len(checked) == len(set(checked))
    assert set(checked) == idle


def test_after_a_failed_check_the_others_are_checked(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool, (first, *others) = three_of(our_class, check)
    pool.putconn(first)
    advance_clock(2000)
    give_back(pool, others)
    assert len(pool._pool) == 3
    pool._pool.reverse()  # the one that has been idle for long is the next to be lent
    check.raises(psycopg2.DatabaseError("dead"))
    connection = pool.getconn()
    assert check.calls == [first, connection], "the dead one, and the next in its place"
    pool.putconn(connection)
    assert_suspects(pool, check, connection)
    assert_sound(pool, server)


@pytest.mark.parametrize("death", ["closed", "unknown status", "rollback"])
def test_after_the_return_of_a_dead_connection_the_others_are_checked(
    server: FakeServer, our_class: Any, check: Callback, death: str
) -> None:
    pool, (first, *others) = three_of(our_class, check)
    give_back(pool, others)
    if death == "closed":
        first.set_closed(2)
    elif death == "unknown status":
        first.status = UNKNOWN
    else:
        first.status = INTRANS
        server.fail("rollback", psycopg2.OperationalError("gone"))
    pool.putconn(first)
    assert closes(pool) == {"lost": 1}
    assert_suspects(pool, check)
    assert_sound(pool, server)


def test_after_the_broken_return_of_one_that_is_not_needed_the_others_are_checked(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool = our_class(1, 2, check=check, check_after=1000)
    kept, surplus = pool.getconn(), pool.getconn()
    pool.putconn(kept)
    surplus.set_closed(2)
    pool.putconn(surplus)
    assert pool.get_stats()["connections_lost"] == 1
    assert_suspects(pool, check)


def test_after_a_failed_connect_all_are_checked(server: FakeServer, our_class: Any, check: Callback) -> None:
    pool = filled(our_class, 3, 4, check=check, check_after=1000)
    lent = lend(pool, 3)
    server.fail("connect", psycopg2.OperationalError("down"))
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    give_back(pool, lent)
    assert_suspects(pool, check)
    assert_sound(pool, server)


def test_after_a_death_a_connection_that_is_opened_later_is_trusted(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool, lent = three_of(our_class, check)
    for connection in lent:
        connection.set_closed(2)
        pool.putconn(connection)
    give_back(pool, lend(pool, 3))
    give_back(pool, lend(pool, 3))
    assert check.calls == []


def test_a_connection_that_its_borrower_closed_makes_no_other_suspect(
    server: FakeServer, our_class: Any, check: Callback
) -> None:
    pool, (first, *others) = three_of(our_class, check)
    give_back(pool, others)
    first.close()
    pool.putconn(first)
    assert closes(pool) == {"by_borrower": 1}
    borrow(pool)
    assert check.calls == []


# --- errors of a block -----------------------------------------------------------------------------------------------


def server_error(code: Any, severity: str | None = "FATAL", localized: str | None = "TÖDLICH") -> psycopg2.Error:
    """Make an error as the server reports it, with this SQLSTATE."""
    told = {"pgcode": code, "diag": SimpleNamespace(severity=localized, severity_nonlocalized=severity)}
    error: psycopg2.Error = type("ServerError", (psycopg2.OperationalError,), told)("from the server")
    return error


def report_of(monkeypatch: pytest.MonkeyPatch, **parameters: object) -> None:
    """Let every server report these parameters, as PostgreSQL does from version 14 on."""
    monkeypatch.setattr(FakeInfo, "parameter_status", lambda _, name: parameters.get(name), raising=False)


def fail_in_a_block(pool: Any, error: BaseException, key: object = None) -> Any:
    with pytest.raises(type(error)), pool.connection(key) as connection:
        raise error
    return connection


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("code", ["57P01", "57P02", "57P03", "08000", "08006", "08P01"])
def test_an_error_that_ends_the_session_replaces_its_connection_and_makes_the_others_suspect(
    server: FakeServer, our_class: Any, check: Callback, code: str, key: object
) -> None:
    pool, lent = three_of(our_class, check)
    give_back(pool, lent)
    connection = fail_in_a_block(pool, server_error(code), key)
    assert not server.sees(connection)
    assert closes(pool) == {"lost": 1}
    assert_suspects(pool, check)
    assert_sound(pool, server)


@pytest.mark.parametrize(
    ("severity", "localized", "replaces"),
    [
        ("FATAL", "TÖDLICH", True),
        ("PANIC", "PANIK", True),
        (None, "FATAL", True),
        (None, "PANIC", True),
        ("ERROR", "FATAL", False),
        ("WARNING", "WARNUNG", False),
        (None, "ERROR", False),
        (None, None, False),
    ],
)
def test_an_error_ends_the_session_only_by_its_severity(
    server: FakeServer, our_class: Any, severity: str | None, localized: str | None, replaces: bool
) -> None:
    """A server before 9.6, and an old PgBouncer, tell it in their own language only."""
    pool = our_class(1, 1)
    connection = fail_in_a_block(pool, server_error("57P01", severity, localized))
    assert server.sees(connection) is not replaces
    assert_sound(pool, server)


def test_an_error_that_another_process_has_pickled_ends_nothing(server: FakeServer, our_class: Any) -> None:
    error: Any = psycopg2.errors.AdminShutdown("from a worker")
    error.__setstate__({"pgcode": "57P01"})
    pool = our_class(1, 1)
    connection = fail_in_a_block(pool, pickle.loads(pickle.dumps(error)))
    assert server.sees(connection)
    assert closes(pool) == {}


@pytest.mark.parametrize("key", [None, "key"])
def test_a_read_only_error_replaces_its_connection_and_each_that_is_older(
    server: FakeServer, our_class: Any, key: object
) -> None:
    pool = our_class(2, 5, check=None, max_idle=None)
    lent = lend(pool, 4)
    pool.putconn(lent[0])  # older, and idle
    pool.putconn(lent[2])  # the one that fails
    connection = fail_in_a_block(pool, server_error("25006"), key)
    assert connection is lent[2]
    pool.putconn(lent[1])  # older, and lent
    pool.putconn(lent[3])  # younger
    pool.putconn(pool.getconn())
    pool.maintain()
    wait_for_quiet(pool)
    assert [connection.serial for connection in lent if server.sees(connection)] == [4]
    assert closes(pool) == {"lost": 1, "drained": 2}
    assert_sound(pool, server)


@pytest.mark.parametrize(
    ("parameters", "replaces"),
    [
        ({"in_hot_standby": "on", "default_transaction_read_only": "off"}, True),
        ({"in_hot_standby": "off", "default_transaction_read_only": "on"}, True),
        ({"in_hot_standby": "off", "default_transaction_read_only": "off"}, False),
        ({"in_hot_standby": "off"}, False),
        ({}, True),
        ({"in_hot_standby": object(), "default_transaction_read_only": object()}, True),
    ],
    ids=["a standby", "made read only", "neither", "a proxy that passes one on", "before PostgreSQL 14", "a mock"],
)
def test_a_read_only_error_replaces_connections_only_where_the_server_reports_that_it_takes_no_writes(
    server: FakeServer, our_class: Any, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, object], replaces: bool
) -> None:
    report_of(monkeypatch, **parameters)
    pool = our_class(3, 3, check=None)
    fail_in_a_block(pool, server_error("25006", severity="ERROR"))
    borrow(pool)
    assert bool(closes(pool)) is replaces
    assert_sound(pool, server)


@pytest.mark.parametrize("standby", ["on", "off"])
@pytest.mark.parametrize("readonly", [True, False, None, object()])
def test_a_connection_that_its_borrower_made_read_only_proves_nothing_of_the_server(
    server: FakeServer, our_class: Any, monkeypatch: pytest.MonkeyPatch, readonly: object, standby: str
) -> None:
    """With autocommit, psycopg2 sets default_transaction_read_only for it, which the server then reports."""
    report_of(monkeypatch, in_hot_standby=standby, default_transaction_read_only="on")
    pool = our_class(3, 3, check=None)
    connection = pool.getconn()
    connection.readonly = readonly
    pool.putconn(connection)
    assert fail_in_a_block(pool, server_error("25006", "ERROR")) is connection
    borrow(pool)
    assert bool(closes(pool)) is (standby == "on" or readonly is not True)
    assert_sound(pool, server)


class Other(Exception):
    """No error of psycopg2's."""

    pgcode = "57P01"


HARMLESS: dict[str, list[Any]] = {
    "does not end the session": [
        server_error(code, severity="ERROR") for code in ("57P01", "57P02", "57P03", "08000", "08001", "08006", "08P01")
    ],
    "is of another kind": [
        server_error(code) for code in ("23505", "40001", "40P01", "57014", "57P04", "25P02", "0A000", "", None)
    ],
    "has a pgcode that is no string": [server_error(code) for code in (5, b"57P01", ["57P01"])],
    "is none of psycopg2's": [Other()],
}


@pytest.mark.parametrize("why", HARMLESS)
def test_an_error_that_tells_of_no_death_replaces_nothing(
    server: FakeServer, our_class: Any, check: Callback, why: str
) -> None:
    pool, lent = three_of(our_class, check)
    give_back(pool, lent)
    for error in HARMLESS[why]:
        connection = fail_in_a_block(pool, error)
        assert server.sees(connection)
        borrow(pool)
        assert (closes(pool), check.calls) == ({}, [])
