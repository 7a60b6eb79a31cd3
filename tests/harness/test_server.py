"""The fake server: what it counts, what it can be told to do, and that every kind of pool takes it."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.pool
import pytest
from psycopg2 import extensions

import pgpool_rs
from pgpool_rs import ThreadedConnectionPool, _housekeeper, check_query, check_socket
from pgpool_rs.health import discard_all
from pgpool_rs.testing import (
    ACTIVE,
    IDLE,
    INERROR,
    INTRANS,
    UNKNOWN,
    BareFakeConnection,
    FakeConnection,
    FakeServer,
    MortalFakeConnection,
    Visit,
)
from tests.lib.programs import run_forking_program, run_program
from tests.lib.waits import Task, wait_until

DOWN = psycopg2.OperationalError("down")


class Killed(BaseException):
    """What a greenlet's end looks like."""


def make(server: FakeServer, call: str) -> None:
    """Make a call of this name, on a connection that is in a transaction."""
    if call == "connect":
        server.connect()
        return
    connection = server.connections[0]
    connection.status = INTRANS
    calls: dict[str, Callable[[], object]] = {
        "execute": lambda: connection.cursor().execute("SELECT 1"),
        "rollback": connection.rollback,
        "commit": connection.commit,
        "close": connection.close,
        "check": lambda: server.check(connection),
        "closed": lambda: connection.closed,
        "info": lambda: connection.info.transaction_status,
        "status": connection.get_transaction_status,  # type: ignore[attr-defined]
    }
    calls[call]()


CALLS = sorted(FakeServer.CALLS)


@pytest.fixture
def one() -> FakeServer:
    """Give a server with one connection."""
    server = FakeServer()
    server.connect()
    return server


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [DOWN, ValueError("odd"), KeyboardInterrupt("now"), Killed("now"), Killed], ids=repr)
def test_each_call_can_be_made_to_fail_with_anything(one: FakeServer, call: str, error: Any) -> None:
    one.fail(call, error)
    with pytest.raises(error if isinstance(error, type) else type(error)) as raised:
        make(one, call)
    if not isinstance(error, type):
        assert raised.value is error
    if call != "close" and error is not DOWN:
        make(one, call)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_can_be_held_until_it_is_released(one: FakeServer, call: str) -> None:
    with one.hold(call) as gate:
        task = Task(make, one, call)
        gate.wait_for()
        assert not task.done
    task.result()


@pytest.mark.parametrize("call", CALLS)
def test_each_call_can_take_its_time(one: FakeServer, call: str) -> None:
    one.delay(call, 0.02)
    begin = time.monotonic()
    make(one, call)
    assert time.monotonic() - begin >= 0.02
    one.delay(call, 0)
    with pytest.raises(ValueError, match="seconds must be 0 or more"):
        one.delay(call, -1)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_can_call_back_with_its_connection(one: FakeServer, call: str) -> None:
    seen: list[Any] = []
    one.on(call, seen.append)
    make(one, call)
    assert seen == one.connections[-1:]


@pytest.mark.parametrize("call", CALLS)
def test_each_call_is_counted_and_can_be_logged(one: FakeServer, call: str) -> None:
    one.logged = one.CALLS
    before = one.count(call)
    make(one, call)
    one.fail(call, Killed())
    one.connections[0].set_closed(0)
    with pytest.raises(Killed):
        make(one, call)
    assert one.count(call) == before + 2
    assert len(one.calls(call)) == before + 2


def test_a_name_that_is_no_call_is_refused(one: FakeServer) -> None:
    for tell in (
        lambda: one.fail("rolback", DOWN),
        lambda: one.fail_nth("rolback", 1, DOWN),
        lambda: one.hold("rolback"),
        lambda: one.delay("rolback", 1),
        lambda: one.on("rolback", print),
        lambda: one.count("rolback"),
    ):
        with pytest.raises(ValueError, match="there is no call 'rolback'; there are check, close, "):
            tell()


def test_errors_are_raised_in_turn_and_none_lets_one_pass(one: FakeServer) -> None:
    one.fail("check", DOWN, None)
    one.fail("check", ValueError("odd"))
    outcomes: list[type[BaseException] | None] = []
    for _ in range(4):
        connection: Any = one.connect()
        try:
            one.check(connection)
            outcomes.append(None)
        except Exception as error:
            outcomes.append(type(error))
    assert outcomes == [psycopg2.OperationalError, None, ValueError, None]


def test_the_nth_call_from_now_on_can_be_made_to_fail(one: FakeServer) -> None:
    one.connect()
    one.fail_nth("connect", 3, DOWN)
    one.connect()
    one.connect()
    with pytest.raises(psycopg2.OperationalError, match="down"):
        one.connect()
    one.connect()
    with pytest.raises(ValueError, match="n must be 1 or more"):
        one.fail_nth("connect", 0, DOWN)


def test_the_nth_call_fails_whatever_the_others_do(one: FakeServer) -> None:
    one.fail_nth("connect", 2, ValueError("second"))
    one.fail("connect", KeyError("first"), LookupError("third"))
    for error in (KeyError, ValueError, LookupError):
        with pytest.raises(error):
            one.connect()
    one.connect()


def test_one_connection_can_be_made_to_fail(one: FakeServer) -> None:
    other = one.connect()
    other.faults["rollback"] = DOWN
    one.connections[0].rollback()
    with pytest.raises(psycopg2.OperationalError):
        other.rollback()


def test_calm_forgets_it_all_and_releases_all_who_are_held(one: FakeServer) -> None:
    first = one.hold("connect")
    held = [Task(one.connect)]
    first.wait_for()
    second = one.hold("connect")
    held.append(Task(one.connect))
    second.wait_for()
    one.calm_gate("connect")
    one.fail("connect", DOWN)
    one.fail_nth("connect", 1, DOWN)
    one.on("connect", lambda _: 1 / 0)
    one.delay("connect", 3600)
    one.calm()
    for task in held:
        task.result()
    one.connect()
    assert one.open == 4


def test_a_gate_that_was_released_is_not_kept(one: FakeServer) -> None:
    for _ in range(3):
        with one.hold("close") as gate:
            assert not gate.is_released
        assert gate.is_released
    assert one._shut == [gate]


def test_a_gate_lets_as_many_through_as_it_is_told(one: FakeServer) -> None:
    gate = one.hold("connect")
    tasks = [Task(one.connect) for _ in range(3)]
    gate.wait_for(3)
    gate.let_one_through()
    wait_until(lambda: sum(task.done for task in tasks) == 1, "the first")
    one.calm()
    for task in tasks:
        task.result()


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_query_begins_a_transaction_and_a_failed_one_spoils_it(one: FakeServer) -> None:
    (connection,) = one.connections
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert (cursor.fetchone(), cursor.fetchall(), list(cursor), cursor.rowcount) == ((1,), [(1,)], [(1,)], 1)
        assert connection.transaction_status == INTRANS
        one.fail("execute", psycopg2.ProgrammingError("syntax error"))
        with pytest.raises(psycopg2.ProgrammingError):
            cursor.execute("SELECT")
        cursor.close()
    assert (connection.transaction_status, connection.queries) == (INERROR, ["SELECT 1", "SELECT"])
    connection.rollback()
    assert connection.transaction_status == IDLE
    connection.autocommit = True
    one.fail("execute", psycopg2.ProgrammingError("syntax error"))
    with pytest.raises(psycopg2.ProgrammingError):
        connection.cursor().execute("SELECT")
    assert connection.transaction_status == IDLE


def test_an_operational_error_breaks_a_connection(one: FakeServer) -> None:
    (connection,) = one.connections
    one.fail("execute", DOWN)
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")
    assert (connection.closed, connection.transaction_status, connection.is_open) == (2, UNKNOWN, False)
    with pytest.raises(psycopg2.InterfaceError, match="already closed"):
        connection.cursor()


def test_a_block_commits_or_rolls_back(one: FakeServer) -> None:
    connection = one.connect()
    with connection as same:
        assert same is connection
    with pytest.raises(KeyError), connection:
        raise KeyError
    assert [call for call, serial in one.log if serial == 2] == ["connect", "commit", "rollback"]


def test_a_mortal_connection_is_closed_when_it_is_forgotten() -> None:
    server = FakeServer(MortalFakeConnection, keep=False)
    connection = server.connect()
    assert (server.open, server.connections, server.arguments) == (1, [], [])
    del connection
    gc.collect()
    assert (server.open, server.opened, server.closed) == (0, 1, 1)


# --- a killed connection ---------------------------------------------------------------------------------------------


def in_transaction(connection: Any) -> Any:
    connection.status = INTRANS
    return connection


# What psycopg2 asks the server for.
ASKING: dict[str, Callable[[Any], object]] = {
    "execute": lambda connection: connection.cursor().execute("SELECT 1"),
    "rollback": lambda connection: in_transaction(connection).rollback(),
    "commit": lambda connection: in_transaction(connection).commit(),
    "server.check": lambda connection: connection.server.check(connection),
    "check_query": check_query,
    "discard_all": discard_all,
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_what_is_asked_of_a_killed_connection_fails_and_finds_it_broken(
    one: FakeServer, ask: Callable[[Any], object]
) -> None:
    (connection,) = one.connections
    one.kill(connection)
    assert (connection.closed, connection.info.transaction_status, connection.is_killed) == (0, IDLE, True)
    assert (one.open, one.live, one.closed, connection.is_open) == (0, frozenset(), 1, False)
    with pytest.raises(psycopg2.OperationalError, match="server closed the connection unexpectedly"):
        ask(connection)
    assert (connection.closed, connection.info.transaction_status) == (2, UNKNOWN)
    with pytest.raises(psycopg2.InterfaceError):
        ask(connection)


def test_what_asks_the_server_nothing_does_not_find_a_killed_connection(one: FakeServer) -> None:
    (connection,) = one.connections
    one.kill(connection)
    connection.rollback()
    connection.commit()
    assert connection.closed == 0
    connection.close()
    assert connection.closed == 1


def test_a_closed_connection_cannot_be_killed(one: FakeServer) -> None:
    (connection,) = one.connections
    connection.close()
    one.kill(connection)
    assert not connection.is_killed


def test_a_fake_has_no_descriptor_before_it_is_killed(one: FakeServer) -> None:
    (connection,) = one.connections
    assert not hasattr(connection, "fileno")
    check_socket(connection)
    one.kill(connection)
    with pytest.raises(psycopg2.OperationalError, match="the server has closed the connection"):
        check_socket(connection)


def test_killed_connections_share_one_descriptor_that_goes_with_the_server() -> None:
    server = FakeServer()
    connections = [server.connect() for _ in range(100)]
    server.kill(*connections)
    (descriptor,) = {connection.fileno() for connection in connections}
    os.fstat(descriptor)
    del server, connections
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_connection_with_a_descriptor_of_its_own_keeps_it() -> None:
    class OnSocket(FakeConnection):
        def fileno(self) -> int:
            return -7

    server = FakeServer(OnSocket)
    connection = server.connect()
    server.kill(connection)
    assert connection.fileno() == -7


@pytest.mark.parametrize("check", ["default", "check_query", "server.check"])
def test_a_pool_replaces_what_was_killed(server: FakeServer, our_class: Any, check: str) -> None:
    checks: dict[str, Any] = {"default": check_socket, "check_query": check_query, "server.check": server.check}
    pool = our_class(2, 2, check=checks[check], check_after=0)
    server.kill(*server.connections)
    lent = pool.getconn().serial
    # The other one is opened by this call or by the housekeeping, whichever comes first.
    pool.maintain()
    wait_until(lambda: server.live == {3, 4}, "the other one")
    assert (lent in server.live, server.peak, pool.get_stats()["connections_lost"]) == (True, 2, 2)


def test_psycopg2_says_of_a_killed_connection_what_is_said_here(own_server: Any) -> None:
    """The session is ended at the server, as by a crash of its process, and the connection finds out."""
    connection = psycopg2.connect(own_server.dsn)
    with psycopg2.connect(own_server.dsn) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
    connection.rollback()
    fake = FakeServer().connect()
    fake.server.kill(fake)
    fake.rollback()
    for dead in (connection, fake):
        assert (dead.closed, dead.info.transaction_status) == (0, extensions.TRANSACTION_STATUS_IDLE)
        with pytest.raises(psycopg2.OperationalError, match="server closed the connection unexpectedly"):
            dead.cursor().execute("SELECT 1")
        assert (dead.closed, dead.info.transaction_status) == (2, extensions.TRANSACTION_STATUS_UNKNOWN)
    other.close()


# --- accounts and log ------------------------------------------------------------------------------------------------


def test_the_accounts_agree(one: FakeServer) -> None:
    others = [one.connect() for _ in range(3)]
    one.fail("connect", DOWN)
    with pytest.raises(psycopg2.OperationalError):
        one.connect()
    others[0].close()
    one.kill(others[1])
    assert (one.opened, one.closed, one.open, one.live, one.peak) == (4, 2, 2, frozenset({1, 4}), 5)
    with one.hold("connect") as gate:
        task = Task(one.connect)
        gate.wait_for()
        assert (one.open, len(one.live), one.peak) == (3, 2, 5)
    assert one.sees(task.result())


def test_an_entry_of_the_log_equals_a_pair_and_knows_more(one: FakeServer) -> None:
    connection = one.connections[0]
    one.clock.advance(60)
    task = Task(connection.rollback)
    task.result()
    assert one.log == [("connect", 1), ("rollback", 1)]
    assert [call for call, _ in one.log] == ["connect", "rollback"]
    first, last = one.log
    assert isinstance(last, Visit)
    assert (last.call, last.serial) == ("rollback", 1)
    assert (first.thread, last.thread) == (threading.get_ident(), task.ident)
    assert first.when + 60 <= last.when <= one.clock()


def test_the_log_holds_what_it_is_told_to(one: FakeServer) -> None:
    one.logged = ()
    make(one, "commit")
    one.logged = {"execute"}
    make(one, "execute")
    make(one, "commit")
    assert one.log == [("connect", 1), ("execute", 1)]
    assert one.calls("execute") == [1]


def test_a_run_without_end_leaves_nothing_behind() -> None:
    server = FakeServer(keep=False)
    server.logged = ()

    def live() -> None:
        connection = server.connect("a", b=1)
        connection.cursor().execute("SELECT 1")
        connection.close()

    for _ in range(100):
        live()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(5000):
        live()
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 200
    assert server.count("connect") == server.opened == server.closed == 5100


def test_a_connect_that_is_interrupted_leaves_nothing_open(one: FakeServer) -> None:
    class Refused(FakeConnection):
        def __init__(self, server: FakeServer, serial: int) -> None:
            raise Killed

    one.connection_class = Refused
    with pytest.raises(Killed):
        one.connect()
    assert (one.open, one.opened) == (1, 1)


# --- installed -------------------------------------------------------------------------------------------------------


def test_installed_stands_in_for_psycopg2_connect_until_the_end() -> None:
    original = psycopg2.connect
    server = FakeServer()
    with pytest.raises(Killed), server.installed() as same:
        assert same is server
        psycopg2.connect("a", b=1)
        server.fail("connect", DOWN)
        raise Killed
    assert psycopg2.connect is original
    assert server.arguments == [(("a",), {"b": 1})]
    server.connect()


def test_a_pool_from_before_has_its_housekeeping_from_where_it_had_it() -> None:
    with FakeServer().installed() as outer:
        pool = ThreadedConnectionPool(1, 2, max_idle=60)
        _housekeeper.housekeeper.poke(pool)
        wait_until(lambda: bool(_housekeeper.housekeeper._house().visits), "the thread")
        never_poked = ThreadedConnectionPool(1, 2)
        with FakeServer().installed() as inner:
            with outer.hold("connect") as gate:
                pool.putconn(pool.getconn(), close=True)
                gate.wait_for()
                psycopg2.connect()  # in this thread, while the other is at work for the pool
            wait_until(lambda: outer.opened == 3, "the refill")
            _housekeeper.housekeeper.poke(never_poked)
            assert (inner.opened, pool.closed) == (1, False)
            without_housekeeping = ThreadedConnectionPool(0, 1)
        assert not without_housekeeping.closed
        assert (never_poked.closed, _housekeeper.housekeeper.current_pool()) == (False, None)
        pool.putconn(pool.getconn(), close=True)
        wait_until(lambda: outer.opened == 4, "the refill")
    assert pool.closed, "nothing is opened for it where its server stands no more"


# --- each kind of pool -----------------------------------------------------------------------------------------------


class OfTheirs(psycopg2.pool.ThreadedConnectionPool):
    """A subclass as people write them."""

    def getconn(self, key: Any = None) -> Any:
        return super().getconn(key)


class OfOurs(pgpool_rs.SimpleConnectionPool):
    """The same of ours."""

    def _connect(self, key: Any = None) -> Any:
        return super()._connect(key)


class Owning:
    """A wrapper that is no subclass."""

    def __init__(self, minconn: int, maxconn: int, **options: Any) -> None:
        self._pool = pgpool_rs.ThreadedConnectionPool(minconn, maxconn, **options)

    def getconn(self) -> Any:
        return self._pool.getconn()

    def putconn(self, connection: Any) -> None:
        self._pool.putconn(connection)

    def closeall(self) -> None:
        self._pool.closeall()


THEIRS = [psycopg2.pool.SimpleConnectionPool, psycopg2.pool.ThreadedConnectionPool, OfTheirs]
OURS = [pgpool_rs.SimpleConnectionPool, pgpool_rs.ThreadedConnectionPool, OfOurs, Owning]


def use(pool: Any, server: FakeServer) -> None:
    lent = [pool.getconn() for _ in range(3)]
    assert server.open == 3
    assert server.live == {connection.serial for connection in lent}
    lent[0].cursor().execute("SELECT 1")
    for connection in lent:
        pool.putconn(connection)
    assert (server.open, server.calls("rollback")) == (1, [lent[0].serial])
    pool.closeall()
    assert (server.open, server.opened, server.closed, server.peak) == (0, 3, 3, 3)


@pytest.mark.parametrize("pool_class", [*THEIRS, *OURS])
@pytest.mark.parametrize("connection_class", [BareFakeConnection, FakeConnection, MortalFakeConnection])
def test_each_kind_of_pool_takes_an_installed_server_and_each_of_ours_one_by_connect(
    server: FakeServer, pool_class: Any, connection_class: type[BareFakeConnection]
) -> None:
    server.connection_class = connection_class
    use(pool_class(1, 3), server)
    if pool_class in OURS:
        other = FakeServer(connection_class)
        use(pool_class(1, 3, connect=other.connect), other)


# --- threads and processes -------------------------------------------------------------------------------------------


def test_many_threads_leave_the_accounts_right() -> None:
    server = FakeServer(keep=False)
    server.logged = server.CALLS
    server.fail("connect", *[DOWN] * 100)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(number: int) -> tuple[int, int]:
        chance = random.Random(number)
        opened = failed = 0
        for _ in range(400):
            try:
                connection = server.connect()
            except psycopg2.OperationalError:
                failed += 1
                continue
            opened += 1
            connection.rollback()
            server.kill(connection) if chance.random() < 0.3 else connection.close()
        return opened, failed

    try:
        done = [task.result() for task in [Task(work, number) for number in range(8)]]
    finally:
        sys.setswitchinterval(interval)
    opened, failed = (sum(column) for column in zip(*done, strict=True))
    assert (failed, opened) == (100, 8 * 400 - 100)
    assert (server.opened, server.closed, server.open, server.live) == (opened, opened, 0, frozenset())
    assert (server.count("connect"), server.count("rollback")) == (8 * 400, opened)
    assert len(server.calls("connect")) == 8 * 400
    assert len(set(server.calls("connect"))) == 8 * 400
    assert server.peak <= 8


def test_no_call_is_counted_as_another(one: FakeServer) -> None:
    class Slow(Counter[str]):
        def __getitem__(self, call: str) -> int:
            number = super().__getitem__(call)
            time.sleep(0.001)
            return number

    one._counts = Slow(one._counts)
    for task in [Task(one.connect) for _ in range(20)]:
        task.result()
    assert one.count("connect") == 21


def test_each_fault_is_raised_once_whoever_calls() -> None:
    server = FakeServer(keep=False)
    for n in range(1, 401, 2):
        server.fail_nth("connect", n, ValueError)
    raised: list[int] = []

    def work() -> None:
        for _ in range(100):
            try:
                server.connect()
            except ValueError:
                raised.append(1)

    for task in [Task(work) for _ in range(4)]:
        task.result()
    assert len(raised) == 200


def test_a_connection_that_is_collected_in_the_midst_of_a_call_is_no_deadlock() -> None:
    server = FakeServer(MortalFakeConnection, keep=False)
    gc.collect()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            connection = server.connect()
            connection.itself = connection
    finally:
        gc.set_threshold(*threshold)
    del connection
    gc.collect()
    assert server.open == 0


def test_an_error_that_was_raised_keeps_no_connection_alive() -> None:
    server = FakeServer(keep=False)
    seen: list[weakref.ref[Any]] = []
    server.on("connect", lambda connection: seen.append(weakref.ref(connection)))
    error = ValueError("odd")
    server.fail("connect", error)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="odd"):
            server.connect()
        error.__traceback__ = None
    finally:
        gc.enable()
    assert seen[0]() is None


def test_the_child_of_a_fork_finds_the_server_free() -> None:
    """Its lock is held by another thread at most of the forks."""
    run_forking_program("""
import threading
from pgpool_rs.testing import FakeServer
server = FakeServer(keep=False)
server.logged = ()
stop = []

def work():
    while not stop:
        server.connect().close()
        server.clock.advance(0)

threads = [threading.Thread(target=work) for _ in range(3)]
sys.setswitchinterval(1e-5)
for thread in threads:
    thread.start()

def child():
    server.connect().close()
    server.clock.advance(1)

for _ in range(60):
    in_a_child(child)
stop.append(True)
""")


def test_greenlets_take_turns_while_one_is_delayed_or_held() -> None:
    run_program("""
from gevent import monkey
monkey.patch_all()
import gevent
from pgpool_rs.testing import FakeServer

server = FakeServer()
server.delay("connect", 0.01)
order = []
gate = server.hold("close")
first = server.connect()
held = gevent.spawn(first.close)
opening = [gevent.spawn(server.connect) for _ in range(3)]
gate.wait_for()
gevent.joinall(opening)
assert (server.open, server.peak, held.ready()) == (4, 4, False)
gate.release()
held.join()
assert server.open == 3
""")


# --- types and names -------------------------------------------------------------------------------------------------


def test_nothing_needs_hypothesis_but_the_machine() -> None:
    run_program("""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hypothesis":
            raise ModuleNotFoundError("No module named 'hypothesis'", name=name)

sys.meta_path.insert(0, Absent())
import pgpool_rs_pytest
from pgpool_rs import testing
assert set(testing.__all__) <= set(dir(testing))
for name in set(testing.__all__) - {"PoolMachine"}:
    getattr(testing, name)
try:
    from pgpool_rs.testing import PoolMachine
except ImportError as error:
    assert "pip install hypothesis" in str(error), error
else:
    raise AssertionError("it was imported")
try:
    testing.nothing
except AttributeError as error:
    assert "has no attribute 'nothing'" in str(error)
assert "hypothesis" not in sys.modules
""")


def test_the_machine_is_imported_when_it_is_asked_for() -> None:
    run_program("""
import sys
import pgpool_rs.testing
assert "hypothesis" not in sys.modules
pgpool_rs.testing.PoolMachine
assert "hypothesis" in sys.modules
""")


def test_a_status_is_named_as_psycopg2_numbers_it() -> None:
    assert (IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN) == (
        extensions.TRANSACTION_STATUS_IDLE,
        extensions.TRANSACTION_STATUS_ACTIVE,
        extensions.TRANSACTION_STATUS_INTRANS,
        extensions.TRANSACTION_STATUS_INERROR,
        extensions.TRANSACTION_STATUS_UNKNOWN,
    )
