"""With grow="workers", a caller gets what comes first: a connection that comes back, or one that a worker opens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolClosed, PoolExhausted, PoolTimeout, ThreadedConnectionPool, TooManyRequests
from pgpool_rs.testing import PATIENCE, FakeServer
from tests.lib.pools import DOWN, assert_sound, wait_for_quiet
from tests.lib.programs import PROLOGUE, run_forking_program, run_program
from tests.lib.waits import Task, counts, wait_for_waiters, wait_until


def growing(minconn: int, maxconn: int, **options: Any) -> Any:
    return ThreadedConnectionPool(minconn, maxconn, **{"grow": "workers", "max_idle": None, **options})


def in_line(pool: Any, number: int, **kwargs: Any) -> list[Task[Any]]:
    """Start so many callers, one after the other, and wait until each waits."""
    tasks, before = [], counts(pool)["waiting"]
    for _ in range(number):
        tasks.append(Task(pool.getconn, **{"timeout": PATIENCE, **kwargs}))
        wait_for_waiters(pool, before + len(tasks))
    return tasks


def test_a_caller_gets_what_comes_back_while_a_worker_connects(server: FakeServer) -> None:
    pool = growing(1, 3)
    lent = pool.getconn()
    with server.hold("connect") as gate:
        (waiter,) = in_line(pool, 1)
        gate.wait_for()
        pool.putconn(lent)
        assert waiter.result() is lent
    wait_for_quiet(pool)
    assert counts(pool)["idle"] == 1, "the new one is kept for the next"
    pool.putconn(lent)
    assert_sound(pool, server)


def test_a_caller_gets_what_a_worker_opens(server: FakeServer) -> None:
    pool = growing(0, 2)
    threads: list[str] = []
    server.on("connect", lambda _: threads.append(threading.current_thread().name))
    pool.putconn(pool.getconn())
    assert [name.rpartition(" ")[2] for name in threads] == ["opening"]
    assert_sound(pool, server)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_open_workers_connect_at_once(server: FakeServer, workers: int) -> None:
    pool = growing(0, 9, open_workers=workers)
    with server.hold("connect") as gate:
        waiters = in_line(pool, 6)
        gate.wait_for(workers)
        for _ in waiters:
            assert server._connecting <= workers
            gate.let_one_through()
    assert len({waiter.result() for waiter in waiters}) == 6
    assert len(server.arguments) == 6
    for waiter in waiters:
        pool.putconn(waiter.result())
    assert_sound(pool, server)


def test_callers_are_served_in_their_order(server: FakeServer) -> None:
    pool = growing(0, 4)
    with server.hold("connect") as gate:
        waiters = in_line(pool, 3)
        for at, waiter in enumerate(waiters):
            gate.wait_for()
            gate.let_one_through()
            waiter.wait()
            assert not any(later.done for later in waiters[at + 1 :])


def test_nothing_is_opened_that_nobody_waits_for_by_the_time(server: FakeServer) -> None:
    pool = growing(1, 5)
    lent = pool.getconn()
    with server.hold("connect") as gate:
        waiters = in_line(pool, 3)
        gate.wait_for()
        for waiter in waiters:
            pool.putconn(lent)
            assert waiter.result() is lent
    wait_for_quiet(pool)
    assert len(server.arguments) == 2, "the one that was under way is the only one"


def test_a_connection_opened_in_vain_is_closed_if_the_pool_keeps_none(server: FakeServer) -> None:
    pool = growing(0, 3, max_idle=0)
    lent = pool.getconn()
    with server.hold("connect") as gate:
        (waiter,) = in_line(pool, 1)
        gate.wait_for()
        pool.putconn(lent)
        waiter.wait()
    wait_until(lambda: server.open == 1)
    assert pool.get_stats()["closed_surplus"] == 1


# --- errors and time limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 5, None])
def test_the_error_of_a_connect_reaches_all_that_waited_when_it_began_if_nothing_is_open(
    server: FakeServer, timeout: float | None
) -> None:
    pool = growing(0, 5)
    with server.hold("connect") as gate:
        server.fail("connect", DOWN, DOWN)
        waiters = in_line(pool, 1, timeout=timeout)
        gate.wait_for()
        waiters += in_line(pool, 2, timeout=timeout)
    for waiter in waiters:
        with pytest.raises(psycopg2.OperationalError, match="down"):
            waiter.result()
    stats = pool.get_stats()
    # The first came before the others.
    assert (stats["connections_errors"], stats["requests_errors"]) == (2, 3)


def test_the_error_reaches_the_first_alone_if_a_connection_may_come_back(server: FakeServer) -> None:
    pool = growing(1, 5)
    lent = pool.getconn()
    with server.hold("connect") as gate:
        first, second = in_line(pool, 2)
        server.fail("connect", DOWN)
        gate.wait_for()
        gate.let_one_through()
        with pytest.raises(psycopg2.OperationalError, match="down"):
            first.result()
        pool.putconn(lent)
        assert second.result() is lent


def test_an_error_that_is_no_database_error_reaches_the_caller_too(server: FakeServer) -> None:
    pool = growing(0, 2)
    server.fail("connect", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pool.getconn()
    assert counts(pool)["opening"] == 0


def test_a_connect_that_hangs_holds_a_caller_no_longer_than_its_timeout(server: FakeServer) -> None:
    pool = growing(0, 2)
    with server.hold("connect"), pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.05)
    wait_for_quiet(pool)


def test_with_timeout_0_a_caller_waits_for_a_connect_but_not_for_a_loan(server: FakeServer) -> None:
    pool = growing(0, 2)
    lent = pool.getconn()
    with server.hold("connect") as gate:
        (waiter,) = in_line(pool, 1, timeout=0)
        gate.wait_for()
        with pytest.raises(PoolExhausted):
            pool.getconn()
    assert waiter.result() is not lent


def test_max_waiting_counts_those_that_wait_for_a_worker(server: FakeServer) -> None:
    pool = growing(0, 5, max_waiting=2)
    with server.hold("connect"):
        in_line(pool, 2)
        with pytest.raises(TooManyRequests):
            pool.getconn(timeout=PATIENCE)


# --- what else may happen meanwhile ----------------------------------------------------------------------------------


def test_keys_are_lent_once(server: FakeServer) -> None:
    pool = growing(0, 5)
    with server.hold("connect"):
        waiters = in_line(pool, 2, key="k")
    assert waiters[0].result() is waiters[1].result()
    assert pool._used == {"k": waiters[0].result()}


def test_closeall_ends_the_wait_and_closes_what_a_worker_opens(server: FakeServer) -> None:
    pool = growing(0, 5)
    with server.hold("connect") as gate:
        waiters = in_line(pool, 2)
        gate.wait_for()
        pool.closeall()
        for waiter in waiters:
            with pytest.raises(PoolClosed):
                waiter.result()
    wait_until(lambda: server.open == 0)
    assert len(server.arguments) == 1


@contextmanager
def no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield


def test_where_no_thread_can_start_the_caller_opens_its_connection(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = growing(0, 2)
    with no_thread_starts(monkeypatch):
        pool.putconn(pool.getconn())
    assert_sound(pool, server)


def test_an_override_that_opens_nothing_in_the_pool_is_called_by_the_caller(server: FakeServer) -> None:
    class Pool(ThreadedConnectionPool):
        def _connect(self, key: Any = None) -> Any:
            return ("own", key)

    pool: Any = Pool(0, 2, grow="workers", timeout=5)
    assert pool.getconn("k") == ("own", "k")
    assert counts(pool)["opening"] == 0


def test_a_borrow_in_configure_does_not_wait_for_its_own_worker(server: FakeServer) -> None:
    nested: list[Any] = []

    def configure(_: Any) -> None:
        if not nested:
            nested.append(None)
            nested[0] = pool.getconn()

    pool = growing(0, 2, configure=configure)
    assert pool.getconn() is not nested[0]


def test_a_dead_connection_is_replaced_by_a_worker(server: FakeServer) -> None:
    pool = growing(0, 2, check=server.check, check_after=0)
    pool.putconn(pool.getconn())
    server.fail("check", DOWN)
    threads: list[str] = []
    server.on("connect", lambda _: threads.append(threading.current_thread().name))
    pool.putconn(pool.getconn())
    assert [name.rpartition(" ")[2] for name in threads] == ["opening"]


def test_the_worker_ends_when_nobody_waits(server: FakeServer) -> None:
    pool = growing(0, 2, name="grown")
    pool.putconn(pool.getconn())
    wait_until(lambda: not any("grown" in thread.name for thread in threading.enumerate()))


# --- on a real server ------------------------------------------------------------------------------------------------


def burst(dsn: str, grow: Any) -> tuple[int, float]:
    """Send 32 requests at once to a pool of 2, whose connects take 30 ms longer. Tell the sessions and the longest."""

    def connect(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.03)
        return psycopg2.connect(*args, **kwargs)

    pool = ThreadedConnectionPool(2, 32, dsn, connect=connect, timeout=30, max_idle=None, grow=grow)
    start, took = threading.Barrier(33), []

    def request() -> None:
        start.wait()
        began = time.monotonic()
        connection = pool.getconn()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.002)")
        connection.commit()
        pool.putconn(connection)
        took.append(time.monotonic() - began)

    requests: list[Task[None]] = [Task(request) for _ in range(32)]
    start.wait()
    for task in requests:
        task.result()
    wait_for_quiet(pool)
    sessions = counts(pool)["idle"]
    pool.closeall()
    return sessions, max(took)


def test_a_burst_opens_few_sessions_and_takes_no_longer(dsn: str) -> None:
    pairs = [(burst(dsn, "workers"), burst(dsn, "caller")) for _ in range(5)]
    assert all(few[0] <= many[0] / 4 for few, many in pairs), pairs
    # The median of five in turns; the server's own logins are slow where they come at once.
    assert sorted(few[1] / many[1] for few, many in pairs)[2] < 1.5, pairs


# --- processes and greenlets -----------------------------------------------------------------------------------------


def test_the_child_of_a_fork_grows_by_workers_of_its_own() -> None:
    run_forking_program(f"""{PROLOGUE}
pool = ThreadedConnectionPool(0, 3, grow="workers", timeout=30)
gate = server.hold("connect")
waiters = [threading.Thread(target=pool.getconn, daemon=True) for _ in range(2)]
for waiter in waiters:
    waiter.start()
gate.wait_for()

def child():
    mine = other_server()
    assert pool.get_stats()["pool_size"] == 0
    connections = [pool.getconn() for _ in range(3)]
    assert all(connection.server is mine for connection in connections)
    assert mine.open == 3

in_a_child(child)
gate.release()
for waiter in waiters:
    waiter.join(30)
assert server.open == 2
""")


def test_a_worker_that_hangs_in_a_connect_does_not_keep_the_process_from_ending() -> None:
    run_program("""
import threading, time
from pgpool_rs import PoolTimeout, ThreadedConnectionPool

hangs = threading.Event()

def connect():
    hangs.set()
    time.sleep(3600)

pool = ThreadedConnectionPool(0, 2, connect=connect, grow="workers", timeout=0.05)
try:
    pool.getconn()
except PoolTimeout:
    pass
else:
    raise SystemExit("served")
assert hangs.wait(100)
""")


def test_under_gevent_a_worker_is_a_greenlet() -> None:
    run_program("""
import warnings
from gevent import monkey
monkey.patch_all()
import gevent
import gevent.event
from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import FakeServer

server = FakeServer()
seen = []
all_served = gevent.event.Event()

def connect():
    seen.append(gevent.getcurrent())
    if len(seen) > 1:
        all_served.wait(30)
    return server.connect()

pool = ThreadedConnectionPool(0, 5, connect=connect, grow="workers", timeout=30, max_idle=60)

def request():
    connection = pool.getconn()
    gevent.sleep(0)
    pool.putconn(connection)

requests = [gevent.spawn(request) for _ in range(20)]
gevent.joinall(requests, raise_error=True)
# The first connection has served all, while workers wait in the other connects.
assert len(seen) > 1 and not set(seen) & set(requests), seen
assert all(isinstance(worker, gevent.Greenlet) for worker in seen), seen
all_served.set()
""")
