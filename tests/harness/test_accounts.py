"""The two accounts of a fake connection are those of a real one: the same is done to both, and the same comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions, extras

from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs.testing import ACTIVE, IDLE, INERROR, INTRANS, UNKNOWN, FakeConnection, FakeServer

Step = Callable[[Any], object]


@pytest.fixture(scope="module")
def two_phase_dsn() -> Iterator[str]:
    """Give the address of a server that can prepare transactions."""
    with ThrowawayPostgres(settings={"max_prepared_transactions": "10"}) as server:
        yield server.dsn


def run(query: str) -> Step:
    return lambda connection: connection.cursor().execute(query)


def switch(*, autocommit: bool) -> Step:
    return lambda connection: setattr(connection, "autocommit", autocommit)


def fail(connection: Any) -> None:
    if isinstance(connection, FakeConnection):
        connection.faults["execute"] = psycopg2.errors.SyntaxError('syntax error at or near "SELEC"\n')
    connection.cursor().execute("SELEC 1")


def call(method: str) -> Step:
    return lambda connection: getattr(connection, method)()


def tpc_begin(connection: Any) -> None:
    connection.tpc_begin(connection.xid(1, "transaction", "branch"))


def tpc_rollback_by_name(connection: Any) -> None:
    connection.tpc_rollback(connection.xid(1, "transaction", "branch"))


def enter_and_leave(connection: Any) -> None:
    with connection:
        connection.cursor().execute("SELECT 1")


ON, OFF = switch(autocommit=True), switch(autocommit=False)
PROGRAMS: dict[str, tuple[Step, ...]] = {
    "nothing": (),
    "a query": (run("SELECT 1"),),
    "a query in autocommit": (ON, run("SELECT 1")),
    "a failed query": (fail,),
    "a failed query in autocommit": (ON, fail),
    "BEGIN": (run("BEGIN"),),
    "BEGIN in autocommit": (ON, run("begin")),
    "BEGIN in autocommit, off": (ON, run("START TRANSACTION READ ONLY"), OFF),
    "BEGIN in autocommit, failed": (ON, run("BEGIN"), fail),
    "BEGIN in autocommit, failed, off": (ON, run("BEGIN"), fail, OFF),
    "COMMIT": (run("SELECT 1"), run("COMMIT")),
    "END": (run("SELECT 1"), run("end")),
    "ROLLBACK": (run("SELECT 1"), run("ROLLBACK")),
    "ABORT in a failed one": (fail, run("ABORT")),
    "COMMIT in a failed one": (fail, run("COMMIT")),
    "a query in a failed one": (fail, run("SELECT 1")),
    "COMMIT AND CHAIN": (run("SELECT 1"), run("COMMIT AND CHAIN")),
    "COMMIT AND NO CHAIN": (run("SELECT 1"), run("COMMIT AND NO CHAIN")),
    "ROLLBACK and more": (run("SELECT 1"), run("ROLLBACK; BEGIN; SELECT 1")),
    "ROLLBACK TO": (run("SAVEPOINT s"), fail, run("ROLLBACK TO SAVEPOINT s")),
    "autocommit after ROLLBACK": (run("SELECT 1"), run("ROLLBACK"), ON),
    "a block": (enter_and_leave,),
    "a block in autocommit": (ON, enter_and_leave),
    "tpc_begin": (tpc_begin,),
    "tpc_begin in a transaction": (run("SELECT 1"), tpc_begin),
    "tpc_begin in autocommit": (ON, tpc_begin),
    "tpc_begin, ROLLBACK": (tpc_begin, run("ROLLBACK")),
    "tpc_begin, failed": (tpc_begin, fail),
    "tpc_begin, failed, tpc_prepare": (tpc_begin, fail, call("tpc_prepare")),
    "tpc_begin, tpc_commit": (tpc_begin, call("tpc_commit")),
    "tpc_prepare": (tpc_begin, call("tpc_prepare")),
    "tpc_prepare, tpc_commit": (tpc_begin, call("tpc_prepare"), call("tpc_commit")),
    "PREPARE TRANSACTION": (run("SELECT 1"), run("PREPARE TRANSACTION 'p'")),
    "ROLLBACK PREPARED": (
        run("SELECT 1"),
        run("PREPARE TRANSACTION 'p'"),
        call("rollback"),
        ON,
        run("ROLLBACK PREPARED 'p'"),
    ),
    "tpc_prepare alone": (call("tpc_prepare"),),
    "close": (run("SELECT 1"), call("close")),
}
ENDS: dict[str, Step] = {
    **{method: call(method) for method in ("rollback", "commit", "tpc_prepare", "tpc_commit", "tpc_rollback")},
    "a query": run("SELECT 1"),
    "ROLLBACK": run("ROLLBACK"),
    "autocommit on": ON,
    "tpc_begin": tpc_begin,
    "tpc_rollback by name": tpc_rollback_by_name,
    "a block": enter_and_leave,
}


def outcome(connection: Any, step: Step) -> tuple[Any, ...]:
    """Do a step; tell what came of it, and both accounts."""
    try:
        step(connection)
    except psycopg2.Error as error:
        raised = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    else:
        raised = ""
    told = (connection.info.transaction_status, connection.get_transaction_status(), connection.status)
    # That of a replication connection cannot be read.
    return (raised, connection.closed, *told, getattr(connection, "autocommit", True))


def history(connection: Any, steps: tuple[Step, ...]) -> list[tuple[Any, ...]]:
    return [outcome(connection, step) for step in steps]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_comes_of_the_same_steps_as_with_psycopg2(two_phase_dsn: str, program: str) -> None:
    for end, step in ENDS.items():
        steps = (*PROGRAMS[program], step, run("SELECT 1"))
        real, fake = psycopg2.connect(two_phase_dsn), FakeServer().connect()
        try:
            assert history(fake, steps) == history(real, steps), end
        finally:
            real.close()
            if fake.server.prepared:
                _forget_what_is_prepared(two_phase_dsn)


def _forget_what_is_prepared(dsn: str) -> None:
    with psycopg2.connect(dsn) as connection:
        names = connection.tpc_recover()
    for name in names:
        connection.tpc_rollback(name)
    connection.close()


def test_a_replication_connection_in_copy_is_as_here(two_phase_dsn: str) -> None:
    real: Any = psycopg2.connect(two_phase_dsn, connection_factory=extras.PhysicalReplicationConnection)
    real.cursor().start_replication(start_lsn=0, decode=False)
    fake = FakeServer().connect()
    fake.autocommit = True
    fake.cursor().execute("START_REPLICATION PHYSICAL 0/0")
    steps = (ENDS["rollback"], ENDS["commit"], ENDS["ROLLBACK"], ENDS["rollback"])
    assert history(fake, steps) == history(real, steps)
    assert (fake.transaction_status, fake.status) == (ACTIVE, extensions.STATUS_READY)
    real.close()


def test_the_server_keeps_what_was_prepared_whatever_becomes_of_the_connection() -> None:
    server = FakeServer()
    connection = server.connect()
    tpc_begin(connection)
    assert connection.two_phase is not None
    connection.tpc_prepare()
    connection.close()
    assert server.prepared == {connection.two_phase}
    tpc_rollback_by_name(server.connect())
    assert server.prepared == set()


def test_a_state_that_a_test_sets_is_that_of_both_accounts() -> None:
    connection = FakeServer().connect()
    tpc_begin(connection)
    for state, status in [
        (INTRANS, extensions.STATUS_BEGIN),
        (INERROR, extensions.STATUS_BEGIN),
        (ACTIVE, extensions.STATUS_BEGIN),
        (UNKNOWN, extensions.STATUS_BEGIN),
        (IDLE, extensions.STATUS_READY),
        (UNKNOWN, extensions.STATUS_READY),
    ]:
        connection.status = state
        assert (connection.transaction_status, connection.status, connection.two_phase) == (state, status, None)
    connection.transaction_status = INTRANS
    assert (connection.transaction_status, connection.status) == (INTRANS, extensions.STATUS_READY)
