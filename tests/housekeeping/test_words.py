"""What the methods for an operator say and wait for: drain, check, wait, repr and the statistics."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolTimeout
from pgpool_rs._core import advance_clock
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_sound
from tests.lib.waits import Task, counts, wait_until


@pytest.mark.parametrize("call", ["drain", "check"])
def test_drain_and_check_wait_for_what_the_housekeeping_is_opening(
    server: FakeServer, our_class: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep, asleep = time.sleep, set()

    def noted(seconds: float) -> None:
        asleep.add(threading.get_ident())
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    # An option that starts the housekeeping thread.
    pool = our_class(1, 2, max_idle=1e6)
    with server.hold("connect") as gate:
        pool.putconn(pool.getconn(), close=True)
        gate.wait_for()
        task = Task(getattr(pool, call))
        wait_until(lambda: task.ident in asleep, "the wait")
        assert (task.done, counts(pool)["opening"]) == (False, 1)
    task.result()
    assert counts(pool)["idle"] == 1
    assert_sound(pool, server)


def test_wait_opens_one_connection_where_minconn_is_0(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2)
    pool.wait(5)
    assert (counts(pool)["idle"], server.open) == (1, 1)
    pool.wait(5)
    assert server.open == 1
    assert_sound(pool, server)


def test_wait_raises_where_minconn_is_0_and_the_server_is_down(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2)

    def down(_: object) -> None:
        raise psycopg2.OperationalError("down")

    server.on("connect", down)
    with pytest.raises(PoolTimeout, match="for 1 connections, 0 are open"):
        pool.wait(0.05)
    server.calm()
    assert counts(pool)["opening"] == 0
    assert_sound(pool, server)


@pytest.mark.parametrize("timeout", [0, 600, None])
def test_a_pool_that_may_have_no_connection_says_so_at_once(
    server: FakeServer, our_class: Any, timeout: float | None
) -> None:
    lowered = our_class(1, 1)
    lowered.getconn()
    lowered.maxconn = 0
    for pool, opened in ((our_class(0, 0), 0), (lowered, 1)):
        with pytest.raises(
            PoolTimeout, match=rf"for 1 connections, {opened} are open; with maxconn=0 every request is refused"
        ):
            pool.wait(timeout)
    assert server.open == 1


def test_usage_counts_what_is_out_once(server: FakeServer, our_class: Any) -> None:
    pool = our_class(0, 2)
    lent = [pool.getconn(), pool.getconn()]
    advance_clock(1000)
    # What is out: two loans of 1,000 s each.
    assert 2_000_000 <= pool.get_stats()["usage_ms"] < 2_900_000
    pool.putconn(lent[0])
    assert 2_000_000 <= pool.pop_stats()["usage_ms"] < 2_900_000
    # What was told is not told again.
    assert pool.get_stats()["usage_ms"] < 900_000
    advance_clock(1000)
    pool.putconn(lent[1])
    assert 1_000_000 <= pool.get_stats()["usage_ms"] < 1_900_000
