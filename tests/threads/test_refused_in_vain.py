"""Nobody is refused because of room that is only promised, or reserved by a caller whose connect then fails."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolExhausted, ThreadedConnectionPool
from pgpool_rs.testing import FakeServer
from tests.lib.waits import Task, counts, wait_until

LONG = 30.0


class Connects:
    """A `connect` whose calls wait, each for its own gate, and then fail or not."""

    def __init__(self, server: FakeServer, *fail: bool) -> None:
        self.server = server
        self.calls = iter([(threading.Event(), fails) for fails in fail])
        self.begun: list[threading.Event] = []

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Connect."""
        gate, fails = next(self.calls)
        self.begun.append(gate)
        assert gate.wait(LONG)
        if fails:
            raise psycopg2.OperationalError("connection refused")
        return self.server.connect()

    def release(self, nth: int) -> None:
        """Let one go on, once it has begun."""
        wait_until(lambda: len(self.begun) > nth)
        self.begun[nth].set()


def wait_for_followers(pool: ThreadedConnectionPool, number: int) -> None:
    """Wait until so many wait for the key."""
    wait_until(lambda: counts(pool)["waiting"] == number)


@pytest.mark.parametrize("threads", [4, 8])
def test_each_caller_of_a_key_that_cannot_be_opened_is_told_why(server: FakeServer, threads: int) -> None:
    """The first opens it, the others follow, and when it fails each of them tries in turn."""
    for _ in range(25):
        connects = Connects(server, *[True] * threads)
        pool = ThreadedConnectionPool(0, 1, connect=connects)
        tasks = [Task(pool.getconn, "k") for _ in range(threads)]
        wait_for_followers(pool, threads - 1)
        for nth in range(threads):
            connects.release(nth)
        for task in tasks:
            with pytest.raises(psycopg2.OperationalError, match="refused"):
                task.result()
        assert counts(pool)["opening"] == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_whose_key_was_being_opened_is_refused_because_of_loans_alone(server: FakeServer, fails: bool) -> None:
    """The room goes to one that came before; only when that has a connection is the pool full."""
    connects = Connects(server, True, fails, True)
    pool = ThreadedConnectionPool(0, 1, connect=connects)
    opener = Task(pool.getconn, "k")
    wait_until(lambda: len(connects.begun) == 1)
    other = Task(pool.getconn, timeout=LONG)
    wait_until(lambda: counts(pool)["waiting"] == 1)
    follower = Task(pool.getconn, "k")
    wait_until(lambda: counts(pool)["waiting"] == 2)
    connects.release(0)
    with pytest.raises(psycopg2.OperationalError):
        opener.result()
    connects.release(1)
    if fails:
        connects.release(2)
        with pytest.raises(psycopg2.OperationalError):
            other.result()
        with pytest.raises(psycopg2.OperationalError):
            follower.result()
    else:
        other.result()
        with pytest.raises(PoolExhausted):
            follower.result()
