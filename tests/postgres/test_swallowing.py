"""Only what a database says is swallowed: a job's time limit, a bug and a cancelled statement are raised in their call.

Job queues raise their time limits, plain exceptions, from a signal handler, wherever Python code happens to run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import QueryCanceledError

from pgpool_rs import check_query
from pgpool_rs.testing import INERROR, INTRANS, BareFakeConnection, FakeServer
from tests.lib.log import listening
from tests.lib.pools import assert_sound
from tests.lib.postgres import opened
from tests.lib.statements import execute
from tests.lib.waits import counts


class TimeLimit(Exception):
    """What a job queue raises in a job that takes too long."""


# --- two errors, one after the other ----------------------------------------------------------------------------------

FAILED = psycopg2.OperationalError("failed")


def in_the_constructor(our_class: Any, server: FakeServer) -> None:
    server.fail("connect", None, FAILED)
    our_class(2, 2)


def in_configure(our_class: Any, server: FakeServer) -> None:
    def configure(_: object) -> None:
        raise FAILED

    our_class(0, 1, configure=configure).getconn()


def in_connect(our_class: Any, server: FakeServer) -> None:
    class Pool(our_class):  # type: ignore[misc]
        def _connect(self, key: Any = None) -> Any:
            super()._connect(key)
            raise FAILED

    Pool(0, 1).getconn()


def at_the_end_of(call: str) -> Callable[[Any, FakeServer], None]:
    def end(our_class: Any, server: FakeServer) -> None:
        pool = our_class(0, 1, name="ends")
        with listening("ends") as log:
            log.fail(FAILED)
            getattr(pool, call)("key")

    return end


def in_the_hash_of_a_key(our_class: Any, server: FakeServer) -> None:
    class Key:
        def __hash__(self) -> int:
            raise MemoryError

    pool = our_class(0, 1)
    pool.putconn(pool.getconn(), Key())


FAILURES = {
    "the constructor": in_the_constructor,
    "configure": in_configure,
    "_connect": in_connect,
    "the end of getconn": at_the_end_of("getconn"),
    "the end of _connect": at_the_end_of("_connect"),
    "the hash of a key": in_the_hash_of_a_key,
}


@pytest.mark.parametrize("struck", [TimeLimit, KeyboardInterrupt])
@pytest.mark.parametrize("failure", FAILURES)
def test_of_a_failure_and_what_strikes_the_close_after_it_the_weightier_is_raised(
    our_class: Any, server: FakeServer, failure: str, struck: type[BaseException]
) -> None:
    server.fail("close", struck("in close"))
    ordinary = failure != "the hash of a key"
    with pytest.raises(struck if ordinary or struck is KeyboardInterrupt else MemoryError) as raised:
        FAILURES[failure](our_class, server)
    context = raised.value.__context__
    assert context is FAILED if ordinary else isinstance(context, (MemoryError, TimeLimit))


@pytest.mark.parametrize("failure", ["the constructor", "configure", "_connect", "the end of getconn"])
def test_of_two_errors_of_a_database_the_first_is_raised(our_class: Any, server: FakeServer, failure: str) -> None:
    server.fail("close", psycopg2.InterfaceError("second"))
    with pytest.raises(psycopg2.OperationalError) as raised:
        FAILURES[failure](our_class, server)
    assert raised.value is FAILED


# --- what is asked in SQL where psycopg2's own call does nothing -----------------------------------------------------


@pytest.mark.parametrize("part", ["status", "autocommit", "set autocommit", "cursor", "execute"])
@pytest.mark.parametrize("error", [TimeLimit, QueryCanceledError, psycopg2.DatabaseError, OSError])
def test_a_rollback_in_sql_that_fails_frees_the_slot(
    our_class: Any, server: FakeServer, part: str, error: type[Exception]
) -> None:
    armed: list[str] = []

    class Connection(BareFakeConnection):
        def __getattribute__(self, name: str) -> Any:
            if name in armed:
                raise error
            return super().__getattribute__(name)

        def __setattr__(self, name: str, value: Any) -> None:
            if f"set {name}" in armed:
                raise error
            super().__setattr__(name, value)

    server.connection_class = Connection
    pool = our_class(1, 1, name="struck")
    connection = pool.getconn()
    connection.transaction_status = INTRANS
    armed.append(part)
    if part == "execute":
        server.fail(part, error())
    with listening("struck", 30) as log:
        if error in {TimeLimit, QueryCanceledError}:
            with pytest.raises(error):
                pool.putconn(connection)
            assert log.texts == []
        else:
            pool.putconn(connection)
            assert len(log.texts) == 1
    armed.clear()
    assert_sound(pool, server)
    assert not server.sees(connection)
    # And where nothing fails, it is kept, out of autocommit as before.
    connection = pool.getconn()
    connection.transaction_status = INERROR
    pool.putconn(connection)
    assert (list(pool._pool), connection.queries[-1], connection.autocommit) == ([connection], "ROLLBACK", False)


# --- on a real server ------------------------------------------------------------------------------------------------


def cancelled(conn: Any) -> None:
    """Be what `wait_select` makes of Ctrl-C in a round trip: the server is asked to cancel it, and does."""
    execute(conn, "set statement_timeout = 1")
    execute(conn, "select pg_sleep(10)")


@pytest.mark.parametrize("option", ["reset", "check"])
def test_a_round_trip_of_the_pools_that_was_cancelled_is_raised(our_class: Any, dsn: str, option: str) -> None:
    with opened(our_class(1, 1, dsn, check_after=0, **{option: cancelled})) as pool:
        with pytest.raises(QueryCanceledError):
            pool.putconn(pool.getconn())
        assert counts(pool)["lent"] == 0


@pytest.mark.parametrize("error", [QueryCanceledError("Ctrl-C"), TimeLimit()])
@pytest.mark.parametrize("bites", [False, True])
def test_what_strikes_check_query_is_raised_though_its_own_limit_has_passed(
    server: FakeServer, our_class: Any, monkeypatch: pytest.MonkeyPatch, *, error: Exception, bites: bool
) -> None:
    """psycopg2's wait_select takes a KeyboardInterrupt for itself, and cancels the statement."""

    class Watchdog:
        has_expired = bites

        def __init__(self, _: Any) -> None: ...

        def set_to(self, _: float) -> Any:
            return nullcontext()

    monkeypatch.setattr("pgpool_rs.health._Watchdog", Watchdog)
    pool = our_class(1, 1, check=check_query, check_after=0)
    server.fail("execute", error)
    with pytest.raises(type(error)):
        pool.getconn()
    assert_sound(pool, server)
