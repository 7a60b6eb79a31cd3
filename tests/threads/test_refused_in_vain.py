"""Nobody is refused because of room that is only promised, or reserved by a caller whose connect then fails."""

from __future__ import annotations

import psycopg2
import pytest

from pgpool_rs import PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import PATIENCE, FakeServer
from tests.lib.waits import Task, counts, wait_for_waiters

DOWN = psycopg2.OperationalError("connection refused")


@pytest.mark.parametrize("threads", [4, 8])
def test_each_caller_of_a_key_that_cannot_be_opened_is_told_why(server: FakeServer, threads: int) -> None:
    """The first opens it, the others follow, and when it fails each of them tries in turn."""
    for _ in range(25):
        server.fail("connect", *[DOWN] * threads)
        pool = ThreadedConnectionPool(0, 1)
        with server.hold("connect") as gate:
            tasks = [Task(pool.getconn, "k") for _ in range(threads)]
            wait_for_waiters(pool, threads - 1)
            for nth in range(threads):
                gate.wait_for(nth + 1)
                gate.let_one_through()
            for task in tasks:
                with pytest.raises(psycopg2.OperationalError, match="refused"):
                    task.result()
        assert counts(pool)["opening"] == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_whose_key_was_being_opened_is_refused_because_of_loans_alone(server: FakeServer, fails: bool) -> None:
    """The room goes to one that came before; only when that has a connection is the pool full."""
    server.fail("connect", DOWN, DOWN if fails else None, DOWN)
    pool = ThreadedConnectionPool(0, 1)
    with server.hold("connect") as gate:
        opener = Task(pool.getconn, "k")
        gate.wait_for()
        other = Task(pool.getconn, timeout=PATIENCE)
        wait_for_waiters(pool, 1)
        follower = Task(pool.getconn, "k")
        wait_for_waiters(pool, 2)
        gate.let_one_through()
        with pytest.raises(psycopg2.OperationalError):
            opener.result()
        gate.wait_for(2)
        gate.let_one_through()
        if fails:
            gate.wait_for(3)
            gate.let_one_through()
            for task in (other, follower):
                with pytest.raises(psycopg2.OperationalError):
                    task.result()
        else:
            other.result()
            with pytest.raises(PoolExhausted):
                follower.result()
