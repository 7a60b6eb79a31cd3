"""Engines of SQLAlchemy on a real server, with PgPool as their pool."""

from __future__ import annotations

import gc
import itertools
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions
from sqlalchemy import Engine, create_engine, event, exc, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

import pgpool_rs
from dev.servers.postgres import ThrowawayPostgres
from pgpool_rs.sqlalchemy import PgPool
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import backends, end
from tests.lib.programs import FORKS, run_forking_program
from tests.lib.waits import Task, wait_until

_serials = itertools.count(1)


class Engines:
    """Makes engines whose sessions have a name of their own at the server, and counts these sessions."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._name = f"engine {next(_serials)} of {os.getpid()}"
        self._made: list[weakref.ref[Engine]] = []

    def make(self, poolclass: type[QueuePool] = PgPool, **arguments: Any) -> Any:
        """Make an engine."""
        address = {**extensions.parse_dsn(self._dsn), "application_name": self._name}
        engine = create_engine("postgresql+psycopg2://", poolclass=poolclass, connect_args=address, **arguments)
        self._made.append(weakref.ref(engine))
        return engine

    def sessions(self) -> int:
        """Count the sessions of these engines at the server."""
        return backends(self._dsn, self._name)

    def wait_for_sessions(self, number: int) -> None:
        """Wait until there are so many."""
        wait_until(lambda: self.sessions() == number, f"{number} sessions")

    def dispose(self) -> None:
        """Dispose of all engines."""
        for reference in self._made:
            engine = reference()
            if engine is not None:
                engine.dispose()


@pytest.fixture
def engines(dsn: str) -> Iterator[Engines]:
    """Give a maker of engines; at the end, the server must have none of their sessions."""
    engines = Engines(dsn)
    yield engines
    engines.dispose()
    gc.collect()
    engines.wait_for_sessions(0)


def pid_of(connection: Any) -> int:
    """Tell the server's process for a connection."""
    pid: int = connection.scalar(text("select pg_backend_pid()"))
    return pid


EVENTS = (
    *("connect", "first_connect", "checkout", "checkin", "reset", "invalidate", "soft_invalidate", "close", "detach"),
    "close_detached",
)


def what_fires(engine: Engine) -> list[str]:
    """Do all that a borrower can do, and list the events."""
    fired: list[str] = []
    for name in EVENTS:
        event.listen(engine, name, lambda *_, name=name: fired.append(name))
    steps: list[Callable[[Any], object]] = [
        lambda connection: connection.scalar(text("select 1")),
        lambda connection: connection.invalidate(),
        lambda connection: connection.connection.invalidate(soft=True),
        lambda connection: connection.detach(),
        lambda connection: connection.scalar(text("select 1")),
    ]
    for number, step in enumerate(steps):
        fired.append(f"step {number}")
        with engine.connect() as connection:
            step(connection)
    fired.append("raw")
    engine.raw_connection().close()
    fired.append("lost")
    engine.raw_connection()
    gc.collect()
    fired.append("dispose")
    engine.dispose()
    return fired


def test_the_events_fire_as_with_queue_pool(engines: Engines) -> None:
    fired = what_fires(engines.make())
    assert fired == what_fires(engines.make(QueuePool))
    assert {*EVENTS} <= {*fired}


@pytest.mark.parametrize(
    ("arguments", "maxconn"),
    [
        ({}, 15),
        ({"pool_size": 2}, 12),
        ({"pool_size": 2, "max_overflow": 0}, 2),
        ({"pool_size": 2, "max_overflow": -1}, 2**31 - 1),
        ({"pool_size": 0}, 2**31 - 1),
    ],
)
def test_an_engine_has_pool_size_and_max_overflow_connections_and_keeps_pool_size(
    engines: Engines, arguments: dict[str, Any], maxconn: int
) -> None:
    engine, stock = engines.make(**arguments), engines.make(QueuePool, **arguments)
    assert engine.pool.pgpool.maxconn == maxconn
    for pool in (engine.pool, stock.pool):
        borrowed = [pool.connect() for _ in range(min(maxconn, 20))]
        assert pool.checkedout() == len(borrowed)
        for connection in borrowed:
            connection.close()
    assert engine.pool.status() == stock.pool.status()
    stock.dispose()
    wait_until(lambda: engines.sessions() == engine.pool.checkedin(), "the end of the sessions that were closed")


def test_a_caller_who_waits_in_vain_gets_sqlalchemys_timeout_error(engines: Engines) -> None:
    engine = engines.make(pool_size=1, max_overflow=0, pool_timeout=0.05)
    with (
        engine.connect(),
        pytest.raises(exc.TimeoutError, match="PgPool limit of size 1 overflow 0 reached: ") as raised,
    ):
        engine.connect()
    assert raised.value.code == "3o7r"
    assert isinstance(raised.value.__cause__, pgpool_rs.PoolTimeout)
    engine.connect().close()


def test_a_caller_for_whom_there_is_no_place_in_the_queue_gets_it_at_once(engines: Engines) -> None:
    engine = engines.make(PgPool.with_options(max_waiting=1), pool_size=1, max_overflow=0, pool_timeout=PATIENCE)
    with engine.connect():
        waiter = Task(engine.connect)
        wait_until(lambda: engine.pool.pgpool.get_stats()["requests_waiting"] == 1)
        with pytest.raises(exc.TimeoutError) as raised:
            engine.connect()
        assert isinstance(raised.value.__cause__, pgpool_rs.TooManyRequests)
    waiter.result().close()


def test_many_threads_share_few_sessions(engines: Engines) -> None:
    engine = engines.make(pool_size=2, max_overflow=2)
    alive: set[object] = set()
    numbers: list[int] = []

    def opened(connection: object, _record: object) -> None:
        alive.add(connection)
        numbers.append(len(alive))

    event.listen(engine, "connect", opened)
    event.listen(engine, "close", lambda connection, _record: alive.remove(connection))

    def work() -> None:
        for _ in range(20):
            with engine.begin() as connection:
                pid_of(connection)

    for task in [Task(work) for _ in range(16)]:
        task.result()
    assert max(numbers) <= 4
    assert engine.pool.checkedout() == 0
    wait_until(lambda: engines.sessions() == engine.pool.checkedin() <= 2, "the end of the sessions that were closed")


def test_a_lost_connection_comes_back_and_its_transaction_is_rolled_back(engines: Engines) -> None:
    engine = engines.make(pool_size=1, max_overflow=0, pool_timeout=0)
    connection = engine.connect()
    pid = pid_of(connection)
    cycle: list[Any] = [connection]
    cycle.append(cycle)
    del connection, cycle
    gc.collect()
    with engine.connect() as connection:
        assert pid_of(connection) == pid
        assert connection.scalar(text("select pg_current_xact_id_if_assigned()")) is None


def test_the_end_of_a_loan_rolls_back_as_pool_reset_on_return_says(engines: Engines) -> None:
    for style, left in [("rollback", False), ("commit", True), (None, True)]:
        engine = engines.make(pool_size=1, pool_reset_on_return=style)
        raw = engine.raw_connection()
        raw.cursor().execute("create temp table t as select 1")
        raw.close()
        with engine.connect() as connection:
            assert connection.scalar(text("select to_regclass('pg_temp.t') is not null")) is left, style


def test_a_session_that_died_in_the_pool_is_not_lent(own_server: ThrowawayPostgres) -> None:
    engines = Engines(own_server.dsn)
    engine = engines.make(PgPool.with_options(check_after=0))
    closed: list[object] = []
    event.listen(engine, "close", lambda connection, record: closed.append(connection))
    raw = engine.raw_connection()
    dead = raw.dbapi_connection
    raw.close()
    end(own_server, dead)
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
    assert closed == [dead]
    assert engine.pool.pgpool.get_stats()["connections_lost"] == 1
    engine.dispose()


def test_a_session_that_dies_while_it_is_lent_invalidates_the_older_ones(own_server: ThrowawayPostgres) -> None:
    engines = Engines(own_server.dsn)
    engine = engines.make(pool_use_lifo=True)
    with engine.connect() as connection, engine.connect() as other:
        old = {pid_of(connection), pid_of(other)}
        other.close()
        end(own_server, connection.connection.dbapi_connection)
        with pytest.raises(exc.OperationalError) as raised:
            connection.scalar(text("select 1"))
        assert raised.value.connection_invalidated
        connection.rollback()
        with engine.connect() as third:
            assert not {pid_of(connection), pid_of(third)} & old
    assert engine.pool.checkedout() == 0
    assert engines.sessions() == 2
    engine.dispose()


def test_an_engine_survives_a_restart_of_the_server(own_server: ThrowawayPostgres) -> None:
    engines = Engines(own_server.dsn)
    engine = engines.make(pool_size=2, max_overflow=0, pool_pre_ping=True)
    with engine.connect(), engine.connect():
        pass
    own_server.stop()
    for _ in range(3):
        with pytest.raises(exc.OperationalError):
            engine.connect()
    assert engine.pool.checkedout() == 0
    own_server.start()
    with engine.connect() as connection, engine.connect() as other:
        assert pid_of(connection) != pid_of(other)
    engine.dispose()


def test_while_the_server_is_down_few_callers_connect(own_server: ThrowawayPostgres) -> None:
    engine = Engines(own_server.dsn).make(pool_size=4, max_overflow=0, pool_timeout=PATIENCE)
    tries: list[object] = []
    event.listen(engine, "do_connect", lambda *arguments: tries.append(arguments))
    with ExitStack() as stack:
        lent = [stack.enter_context(engine.connect()) for _ in range(4)]
        own_server.stop()
        for connection in lent:
            with pytest.raises(exc.OperationalError):
                connection.scalar(text("select 1"))
    tries.clear()

    def ask() -> None:
        with suppress(exc.OperationalError), engine.connect():
            pass

    tasks = [Task(ask) for _ in range(40)]
    wait_until(lambda: len(tries) > 4)
    wait_until(lambda: engine.pool.pgpool.get_stats()["requests_waiting"] > 20)
    own_server.start()
    for task in tasks:
        task.result()
    assert len(tries) < 30
    assert engine.pool.checkedout() == 0
    engine.dispose()


def test_dispose_closes_what_is_idle_now_and_what_is_lent_when_it_comes_back(engines: Engines) -> None:
    engine = engines.make()
    lent = engine.connect()
    engine.connect().close()
    with ExitStack() as stack:
        stack.enter_context(lent)
        engine.connect().close()
        engine.dispose()
        engines.wait_for_sessions(1)
        assert lent.scalar(text("select 1")) == 1
        with engine.connect() as other:
            assert pid_of(other) != pid_of(lent)
        engines.wait_for_sessions(2)
    engines.wait_for_sessions(1)
    assert engine.pool.checkedin() == 1


def test_a_dropped_engine_leaves_no_session(engines: Engines) -> None:
    engine = engines.make()
    with engine.connect(), engine.connect():
        pass
    pool = weakref.ref(engine.pool.pgpool)
    del engine
    gc.collect()
    assert pool() is None
    engines.wait_for_sessions(0)


def test_dispose_frees_the_old_pool_without_the_collector(engines: Engines) -> None:
    engine = engines.make()
    lent = engine.connect()
    engine.connect().close()
    pool = weakref.ref(engine.pool.pgpool)
    gc.disable()
    try:
        engine.dispose()
        lent.close()
        del lent
        assert pool() is None
    finally:
        gc.enable()


def test_options_of_the_pool_go_with_the_class(engines: Engines) -> None:
    poolclass = PgPool.with_options(max_idle=60, leak_after=60, name="shop").with_options(minconn=0)
    engine = engines.make(poolclass, pool_size=1, max_overflow=2)
    with engine.connect(), engine.connect():
        pass
    assert engine.pool.checkedin() == 2
    assert engine.pool.pgpool.minconn == 0
    engine.dispose()
    assert type(engine.pool) is poolclass
    assert engine.pool.pgpool.name == "shop"


def test_an_unknown_option_is_refused_and_so_is_one_whose_place_an_argument_takes() -> None:
    for name in ("max_idel", "timeout", "connect", "check", "configure", "reset", "reclaim", "close_returns"):
        with pytest.raises(TypeError, match=f"^PgPool takes background, .*, and not {name}$"):
            PgPool.with_options(**{name: None})
    with pytest.raises(ValueError, match=r"^pool_size must be 0 \(no limit\) or more, not -1$"):
        PgPool(psycopg2.connect, pool_size=-1)


def test_housekeeping_connects_only_once_a_caller_has(engines: Engines) -> None:
    engine = engines.make(PgPool.with_options(leak_after=60), pool_size=3)
    engine.pool.pgpool.maintain()
    assert engine.pool.pgpool.get_stats()["connections_num"] == 0
    engine.connect().close()
    engines.wait_for_sessions(3)
    engine.dispose()


def test_a_connection_that_is_not_given_back_is_logged(engines: Engines, caplog: pytest.LogCaptureFixture) -> None:
    engine = engines.make(PgPool.with_options(leak_after=0.01, name="leaky"), pool_size=1)
    with caplog.at_level("INFO"), engine.connect():
        wait_until(lambda: any(record.name == "pgpool_rs.leaky" for record in caplog.records), "a line of the log")
    assert "test_sqlalchemy.py" in caplog.text


def test_an_asyncio_engine_is_refused() -> None:
    for poolclass in (PgPool, PgPool.with_options(max_idle=60)):
        with pytest.raises(exc.ArgumentError, match="Pool class PgPool cannot be used with asyncio engine"):
            create_async_engine("postgresql+psycopg_async://", poolclass=poolclass)


PROGRAM = """
import gc
from psycopg2.extensions import parse_dsn
from sqlalchemy import create_engine, text
from sqlalchemy.exc import InterfaceError
from pgpool_rs.sqlalchemy import PgPool

engine = create_engine("postgresql+psycopg2://", connect_args=parse_dsn({dsn!r}), poolclass=PgPool, pool_size=3)

def pid(connection):
    return connection.scalar(text("select pg_backend_pid()"))
"""


@pytest.mark.parametrize("how", FORKS)
def test_a_fork_needs_no_dispose(dsn: str, how: str) -> None:
    run_forking_program(f"""{PROGRAM.format(dsn=dsn)}
with engine.connect() as first, engine.connect() as second:
    inherited = {{pid(first), pid(second)}}

def child():
    assert engine.pool.checkedin() == engine.pool.checkedout() == 0
    with engine.connect() as first, engine.connect() as second:
        assert not {{pid(first), pid(second)}} & inherited
    engine.dispose()
    gc.collect()

in_a_child(child, how={how!r})
with engine.connect() as first, engine.connect() as second:
    assert {{pid(first), pid(second)}} == inherited
""")


@pytest.mark.parametrize("end", ["lent.close()", "lent.rollback()", "del globals()['lent']; gc.collect()", "use()"])
def test_the_child_says_nothing_on_what_its_parent_has_borrowed(dsn: str, end: str) -> None:
    run_forking_program(f"""{PROGRAM.format(dsn=dsn)}
lent = engine.connect()
mine = pid(lent)
lent.execute(text("create temp table t as select 1 as i"))

def use():
    try:
        lent.scalar(text("select 1"))
    except InterfaceError as error:
        assert error.connection_invalidated
        assert "connection already closed: it belongs to the parent process" in str(error)
    else:
        raise AssertionError("not refused")
    lent.rollback()
    assert pid(lent) != mine
    lent.close()

def child():
    {end}
    with engine.connect() as other:
        assert pid(other) != mine

in_a_child(child)
assert lent.scalar(text("select i from t")) == 1
lent.commit()
assert pid(lent) == mine
lent.close()
assert engine.pool.checkedin() == 1
""")
