"""Nobody is refused because of room that is only promised, or reserved by a caller whose connect then fails."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest

from pgpool_rs import PoolExhausted, SharedLimit, ThreadedConnectionPool
from pgpool_rs.testing import PATIENCE, FakeServer
from tests.lib.waits import Task, counts, wait_for_waiters

DOWN = psycopg2.OperationalError("connection refused")


def followers(pool: Any, waiting: int = 3) -> list[Task[Any]]:
    """Start three callers of a key, and return once so many callers wait."""
    tasks: list[Task[Any]] = [Task(pool.getconn, "k") for _ in range(3)]
    wait_for_waiters(pool, waiting)
    return tasks


def assert_they_share(first: Task[Any], others: list[Task[Any]], *, fails: bool) -> None:
    """Assert that all callers of a key have the first one's connection, or each an error of a connect."""
    if fails:
        for task in (first, *others):
            with pytest.raises(psycopg2.OperationalError, match="refused"):
                task.result()
    else:
        assert {id(task.result()) for task in others} == {id(first.result())}


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


class SlowLimit(SharedLimit):  # type: ignore[misc]
    """A limit that is asked one by one, when the test lets it answer."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.error: BaseException | None = None

    def _take(self, pool: Any) -> bool:
        self.asked.set()
        assert self.answers.wait(PATIENCE)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super()._take(pool)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("places", [1, 5])
def test_callers_of_a_key_wait_for_the_one_that_asks_the_limit_for_it(
    server: FakeServer, places: int, fails: bool
) -> None:
    """They have its connection, or, as it fails, each tries in turn."""
    server.fail("connect", *[DOWN if fails else None] * 4)
    limit = SlowLimit(places)
    pool = ThreadedConnectionPool(0, 1, limit=limit)
    first = Task(pool.getconn, "k")
    assert limit.asked.wait(PATIENCE)
    others = followers(pool)
    with pytest.raises(PoolExhausted):
        pool.getconn()
    limit.answers.set()
    assert_they_share(first, others, fails=fails)


def test_callers_of_a_key_ask_the_limit_themselves_if_the_first_could_not(server: FakeServer) -> None:
    """A time limit, say, strikes the first while it asks."""
    limit = SlowLimit(1)
    limit.error = TimeoutError("the job takes too long")
    pool = ThreadedConnectionPool(0, 1, limit=limit)
    first = Task(pool.getconn, "k")
    assert limit.asked.wait(PATIENCE)
    others = followers(pool)
    limit.answers.set()
    with pytest.raises(TimeoutError):
        first.result()
    assert len({id(task.result()) for task in others}) == 1


def test_a_call_from_within_the_limits_moment_waits_for_nothing(server: FakeServer) -> None:
    """A finalizer's, for instance: two such callers, of two limits, would wait for each other."""
    pools: list[ThreadedConnectionPool] = []
    both_ask = threading.Barrier(2)

    class Nested(SharedLimit):  # type: ignore[misc]
        nested: BaseException | None = None

        def _take(self, pool: Any) -> bool:
            both_ask.wait(PATIENCE)
            try:
                pools[1 - pools.index(pool)].getconn("k", timeout=PATIENCE)
            except PoolExhausted as error:
                self.nested = error
            both_ask.wait(PATIENCE)
            return super()._take(pool)

    limits = [Nested(1), Nested(1)]
    pools += [ThreadedConnectionPool(0, 1, limit=limit) for limit in limits]
    for task in [Task(pool.getconn, "k") for pool in pools]:
        task.result()
    assert all(limit.nested is not None for limit in limits)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("maxconn", [1, 2])
def test_callers_of_a_key_wait_for_the_worker_that_opens_for_the_first_of_them(
    server: FakeServer, maxconn: int, fails: bool
) -> None:
    """They have its connection, or its error."""
    server.fail("connect", *[DOWN if fails else None] * 8)
    pool = ThreadedConnectionPool(0, maxconn, grow="workers")
    with server.hold("connect") as gate:
        first = Task(pool.getconn, "k")
        gate.wait_for()
        others = followers(pool, waiting=4)
    assert_they_share(first, others, fails=fails)


def test_a_caller_of_a_key_is_refused_if_the_one_ahead_waits_for_a_loan(server: FakeServer) -> None:
    """No worker opens anything for either."""
    pool = ThreadedConnectionPool(0, 1, grow="workers")
    lent = pool.getconn()
    waits = Task(pool.getconn, "k", timeout=PATIENCE)
    wait_for_waiters(pool, 1)
    with pytest.raises(PoolExhausted):
        pool.getconn("k")
    pool.putconn(lent)
    waits.result()
