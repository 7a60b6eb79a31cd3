"""The limit holds and no slot is lost, whatever hangs, fails or is interrupted."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import ACTIVE, INTRANS, FakeServer
from tests.lib.pools import assert_whole
from tests.lib.waits import Task, counts, waiting_task


class Stop(BaseException):
    """Stands for KeyboardInterrupt, GreenletExit and the like."""


ERRORS = [psycopg2.OperationalError("down"), Stop("stop")]


@pytest.fixture(params=ERRORS, ids=["Exception", "BaseException"])
def error(request: pytest.FixtureRequest) -> BaseException:
    """Give something to raise."""
    fault: BaseException = request.param
    return fault


def test_hanging_connects_count_against_the_limit(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 3)
    with server.hold("connect") as gate:
        held = [Task(pool.getconn) for _ in range(3)]
        gate.wait_for(3)
        for _ in range(20):
            with pytest.raises(PoolExhausted):
                pool.getconn()
        waiter = waiting_task(pool)
        assert (counts(pool)["opening"], server.open) == (3, 3)
    pool.putconn(held[0].result())
    pool.putconn(waiter.result())
    for task in held[1:]:
        pool.putconn(task.result())
    assert server.peak == 3
    assert_whole(pool)


@pytest.mark.parametrize("call", ["rollback", "close"])
def test_hanging_returns_count_against_the_limit(server: FakeServer, call: str) -> None:
    pool: Any = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    connection.status = ACTIVE
    with server.hold(call) as gate:
        returning = Task(pool.putconn, connection, None, call == "close")
        gate.wait_for()
        with pytest.raises(PoolExhausted):
            pool.getconn()
        assert counts(pool)["returning"] == 1
        waiter = waiting_task(pool)
        assert server.peak == 1
    returning.result()
    pool.putconn(waiter.result())
    assert server.peak == 1
    assert_whole(pool)


def test_a_connection_that_is_being_returned_cannot_be_returned_again(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(1, 2)
    connection = pool.getconn("key")
    connection.status = INTRANS
    with server.hold("rollback") as gate:
        returning = Task(pool.putconn, connection)
        gate.wait_for()
        for arguments in ((connection,), (connection, "key"), (None, "key")):
            with pytest.raises(psycopg2.pool.PoolError):
                pool.putconn(*arguments)
        assert pool.getconn("key") is not connection
    returning.result()
    pool.putconn(None, "key")
    assert_whole(pool)


def test_a_connect_that_returns_after_maxconn_was_lowered_is_not_kept_on_return(server: FakeServer) -> None:
    pool: Any = ThreadedConnectionPool(0, 2)
    pool.minconn = 2
    with server.hold("connect") as gate:
        tasks = [Task(pool.getconn) for _ in range(2)]
        gate.wait_for(2)
        pool.maxconn = 1
    first, second = (task.result() for task in tasks)
    with pytest.raises(PoolExhausted):
        pool.getconn()
    pool.putconn(first)
    assert server.open == 1
    pool.putconn(second)
    assert server.open == 1
    assert_whole(pool)


@pytest.mark.parametrize("call", ["closed", "info", "status", "rollback", "close"])
@pytest.mark.parametrize("close", [False, True])
def test_a_return_interrupted_anywhere_gives_its_slot_back(
    our_class: Any, server: FakeServer, error: BaseException, call: str, close: bool
) -> None:
    pool = our_class(1, 2)
    connection = pool.getconn()
    connection.status = INTRANS
    server.fail(call, error)
    try:
        pool.putconn(connection, close=close)
    except BaseException as raised:
        assert raised is error  # noqa: PT017
    server.calm()
    assert connection not in list(pool._used.values())
    # The caller that gets the slot must not be one too many for the server.
    assert not server.sees(connection) or connection in pool._pool
    assert_whole(pool)
    assert server.open <= 2


@pytest.mark.parametrize("hook", ["_connect", "_getkey", "_getconn", "_putconn"])
@pytest.mark.parametrize("late", [False, True])
def test_a_hook_interrupted_before_or_after_its_work_loses_no_slot(
    our_class: Any, server: FakeServer, error: BaseException, hook: str, late: bool
) -> None:
    armed = True

    def interrupted(self: Any, *args: Any) -> Any:
        if armed and not late:
            raise error
        result = getattr(our_class, hook)(self, *args)
        if armed:
            raise error
        return result

    Hooked = type("Hooked", (our_class,), {hook: interrupted})  # noqa: N806
    armed = False
    pool = Hooked(0, 2)
    for step in range(2):
        armed = step == 0
        try:
            connection = pool.getconn("key")
            pool.putconn(connection)
        except BaseException as raised:
            assert raised is error  # noqa: PT017
        # What a hook lent before it was interrupted is lent, as psycopg2.pool would say: it can be returned.
        armed = False
        for connection in list(pool._used.values()):
            pool.putconn(connection)
    assert_whole(pool)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("timeout", [0, 0.002, None])
def test_the_limit_holds_under_a_storm_of_threads_and_faults(
    server: FakeServer, caplog: pytest.LogCaptureFixture, seed: int, timeout: float | None
) -> None:
    """Eight threads borrow, return, discard and break connections, with faults in every call."""
    caplog.set_level(logging.CRITICAL, "pgpool_rs")
    maxconn = 3
    server.keep = False
    pool: Any = ThreadedConnectionPool(2, maxconn, timeout=timeout)
    owners: dict[int, int] = {}
    noise = random.Random(seed)
    for call in ("connect", "rollback", "close", "status", "closed", "info"):
        server.on(call, lambda _: yield_to_others(noise))

    def storm(seed: int) -> int:
        chance = random.Random(seed)
        loans = 0
        for _ in range(250):
            for call in ("connect", "rollback", "close"):
                if chance.random() < 0.03:
                    server.fail(call, chance.choice(ERRORS))
            try:
                connection = pool.getconn()
            except (psycopg2.Error, Stop):
                continue
            assert owners.setdefault(connection.serial, threading.get_ident()) == threading.get_ident()
            loans += 1
            yield_to_others(chance)
            connection.status = chance.choice([0, 0, 0, 1, 2, 3, 4])
            if chance.random() < 0.1:
                connection.set_closed(2)
            del owners[connection.serial]
            with contextlib.suppress(Stop):
                pool.putconn(connection, close=chance.random() < 0.2)
        return loans

    tasks = [Task(storm, 1000 * seed + number) for number in range(8)]
    assert sum(task.result() for task in tasks) > 100
    server.calm()
    assert server.peak <= maxconn
    assert_whole(pool, timeout=0)
    assert server.open == counts(pool)["idle"]


def yield_to_others(chance: random.Random) -> None:
    """Give other threads the interpreter, sometimes."""
    if chance.random() < 0.3:
        threading.Event().wait(0.00001)
