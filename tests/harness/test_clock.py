"""The fake server's clock, and what it takes along."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from pgpool_rs import ThreadedConnectionPool, _housekeeper
from pgpool_rs.testing import Clock, FakeServer
from tests.lib.programs import run_program
from tests.lib.waits import Task, waiting_task

ORIGINALS = (time.time, time.monotonic, time.time_ns, time.monotonic_ns)
DAY = 86_400.0


def functions() -> tuple[Any, ...]:
    return time.time, time.monotonic, time.time_ns, time.monotonic_ns


def test_it_tells_the_seconds_since_it_was_made_and_those_it_was_put_forward() -> None:
    clock = Clock()
    assert 0 <= clock() < DAY
    clock.advance(DAY)
    clock.advance(0.5)
    assert DAY + 0.5 <= clock() < 2 * DAY
    assert clock.ahead == DAY + 0.5
    assert "86400.5 s ahead" in repr(clock)


def test_it_runs_by_itself() -> None:
    clock = Clock()
    before = clock()
    time.sleep(0.001)
    assert clock() > before


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (-1, ValueError),
        (-1e-9, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (2e9, ValueError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
    ],
)
def test_what_is_no_step_forward_is_refused(seconds: Any, error: type[Exception]) -> None:
    with FakeServer().installed() as server:
        with pytest.raises(error, match="seconds must be"):
            server.clock.advance(seconds)
        assert server.clock.ahead == 0
        assert functions() == ORIGINALS


def test_a_step_of_nothing_changes_nothing(server: FakeServer) -> None:
    server.clock.advance(0)
    assert server.clock.ahead == 0
    assert functions() == ORIGINALS


def test_it_moves_the_clock_of_pgpool_rs_once_where_servers_are_nested(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(1, 1)
    pool.getconn()
    with FakeServer().installed() as inner:
        inner.clock.advance(DAY)
        assert server.clock.ahead == 0
    assert DAY <= pool.loans()[0].age < 1.5 * DAY


def test_a_pool_lets_go_of_what_is_idle_for_too_long_by_it(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 1, max_idle=60)
    pool.putconn(pool.getconn())
    server.clock.advance(70)
    pool.maintain()
    assert server.open == 0


def test_while_its_server_is_installed_time_goes_along() -> None:
    server = FakeServer()
    server.clock.advance(DAY)
    assert functions() == ORIGINALS
    with server.installed():
        before = functions()
        assert before == ORIGINALS, "nothing is touched until it is put forward again"
        wall, monotonic, wall_ns, monotonic_ns = (function() for function in functions())
        server.clock.advance(DAY)
        assert DAY <= time.time() - wall < 1.5 * DAY
        assert DAY <= time.monotonic() - monotonic < 1.5 * DAY
        assert DAY <= (time.time_ns() - wall_ns) / 1e9 < 1.5 * DAY
        assert DAY <= (time.monotonic_ns() - monotonic_ns) / 1e9 < 1.5 * DAY
    assert functions() == ORIGINALS
    assert time.monotonic() - monotonic < DAY


def test_time_is_put_back_when_the_block_fails() -> None:
    server = FakeServer()
    with pytest.raises(KeyboardInterrupt), server.installed():
        server.clock.advance(1)
        raise KeyboardInterrupt
    assert functions() == ORIGINALS
    with server.installed():
        assert functions() == ORIGINALS


def test_nested_servers_add_up_and_each_takes_back_its_own() -> None:
    with FakeServer().installed() as outer:
        begin = time.monotonic()
        outer.clock.advance(10 * DAY)
        with FakeServer().installed() as inner:
            inner.clock.advance(DAY)
            outer.clock.advance(DAY)
            assert 12 * DAY <= time.monotonic() - begin < 12.5 * DAY
        assert 11 * DAY <= time.monotonic() - begin < 11.5 * DAY
    assert functions() == ORIGINALS


def test_a_server_that_is_installed_twice_takes_its_steps_back_at_the_outer_end() -> None:
    server = FakeServer()
    with server.installed():
        begin = time.monotonic()
        with server.installed():
            server.clock.advance(DAY)
        assert time.monotonic() - begin >= DAY
    assert functions() == ORIGINALS


def test_who_has_replaced_time_meanwhile_is_left_alone_and_told_the_real_time() -> None:
    begin = time.monotonic()
    try:
        with FakeServer().installed() as server:
            server.clock.advance(DAY)
            moved = time.monotonic

            def other() -> float:
                return moved()

            vars(time)["monotonic"] = other
        assert time.monotonic is other
        assert time.monotonic() - begin < DAY
        with FakeServer().installed() as server:
            server.clock.advance(DAY)
            assert DAY <= time.monotonic() - begin < 1.5 * DAY
        assert time.monotonic is other
    finally:
        vars(time)["monotonic"] = ORIGINALS[1]
    assert functions() == ORIGINALS


def test_many_threads_may_put_it_forward_at_once(server: FakeServer) -> None:
    begin = time.monotonic()

    def step() -> None:
        for _ in range(500):
            server.clock.advance(100)

    for task in [Task(step) for _ in range(4)]:
        task.result()
    assert server.clock.ahead == 200_000
    assert 200_000 <= time.monotonic() - begin < 250_000


def test_the_housekeeping_goes_by_the_real_time(server: FakeServer) -> None:
    begin = _housekeeper.clock()
    server.clock.advance(DAY)
    assert _housekeeper.clock() - begin < DAY


def test_a_wait_is_not_shortened(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(1, 1)
    connection = pool.getconn()
    waiting = waiting_task(pool, timeout=60)
    server.clock.advance(DAY)
    pool.putconn(connection)
    assert waiting.result() is connection


def test_a_pool_that_stamps_with_the_module_time_is_aged() -> None:
    """As many do that wrap psycopg2.pool; what was imported from it by name before is out of reach."""
    run_program("""
from time import monotonic
import time
import psycopg2
from psycopg2.pool import ThreadedConnectionPool
from pgpool_rs.testing import FakeServer

class Ageing(ThreadedConnectionPool):
    def _connect(self, key=None):
        connection = super()._connect(key)
        connection.made = self.now()
        return connection

    def _putconn(self, conn, key=None, close=False):
        super()._putconn(conn, key, close or self.now() - conn.made > 60)

    putconn = _putconn

for now in (lambda self: time.time(), lambda self: time.monotonic(), lambda self: server.clock()):
    Ageing.now = now
    with FakeServer().installed() as server:
        pool = Ageing(1, 1)
        connection = pool.getconn()
        server.clock.advance(61)
        pool.putconn(connection)
        assert server.open == 0, now
        assert monotonic() < time.monotonic() - 60
""")
