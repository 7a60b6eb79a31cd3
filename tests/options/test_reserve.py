"""With reserve=N, the last N connections are for callers with priority."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pgpool_rs import PoolExhausted, PoolTimeout, ThreadedConnectionPool, TooManyRequests
from pgpool_rs.testing import FakeServer
from tests.lib.pools import assert_sound, give_back, lend
from tests.lib.waits import Task, wait_for_waiters


def full_of_idle(pool_class: Any, number: int, **options: Any) -> Any:
    """Make a pool that has so many idle connections, and room for no more."""
    pool = pool_class(0, number, max_idle=None, **options)
    give_back(pool, [pool.getconn(priority=True) for _ in range(number)])
    return pool


@pytest.mark.parametrize("minconn", [0, 3], ids=["to be opened", "idle"])
@pytest.mark.parametrize("options", [{}, {"order": "fifo"}, {"leak_after": 60}, {"reclaim": True}], ids=str)
def test_only_a_caller_with_priority_gets_the_last(
    server: FakeServer, our_class: Any, minconn: int, options: dict[str, Any]
) -> None:
    pool = our_class(minconn, 3, reserve=1, max_idle=None, **options)
    lent = lend(pool, 2)
    for refused in (pool.getconn, lambda: pool.getconn("key"), pool.connection().__enter__):
        with pytest.raises(PoolExhausted, match=r"^connection pool exhausted"):
            refused()
    with pool.connection(priority=True) as connection:
        assert connection not in lent
    for key in (None, "key"):
        connection = pool.getconn(key, priority=True)
        with pytest.raises(PoolExhausted):
            pool.getconn(priority=True)
        pool.putconn(connection, key)
    give_back(pool, lent)
    assert_sound(pool, server, priority=True)


def test_a_loan_with_priority_leaves_less_to_the_others(server: FakeServer, our_class: Any) -> None:
    pool = full_of_idle(our_class, 3, reserve=1)
    lent = [pool.getconn(priority=True), pool.getconn()]
    with pytest.raises(PoolExhausted):
        pool.getconn()
    give_back(pool, lent[:1])
    lent[0] = pool.getconn()
    give_back(pool, lent)
    assert_sound(pool, server, priority=True)


def test_waiters_with_priority_are_served_before_those_without(server: FakeServer) -> None:
    pool = full_of_idle(ThreadedConnectionPool, 3, reserve=1, timeout=None)
    lent = [*lend(pool, 2), pool.getconn(priority=True)]
    tasks = []
    for number, priority in enumerate((False, False, True, True)):
        tasks.append(Task(pool.getconn, priority=priority))
        wait_for_waiters(pool, number + 1)
    normal, urgent = tasks[:2], tasks[2:]
    give_back(pool, lent[:2])
    assert [task.result() for task in urgent] == lent[:2]
    pool.putconn(lent[2])
    assert pool.get_stats()["requests_waiting"] == 2, "the reserve is not theirs"
    give_back(pool, lent[:2])
    assert [task.result() for task in normal] == lent[:2]
    give_back(pool, lent[:2])
    assert_sound(pool, server, priority=True, timeout=0)


def test_with_workers_too_only_priority_gets_the_last(server: FakeServer) -> None:
    pool = ThreadedConnectionPool(0, 2, reserve=1, grow="workers", max_idle=None, timeout=None)
    first = pool.getconn()
    waiter = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    with pytest.raises(PoolExhausted):
        pool.getconn(timeout=0)
    urgent = pool.getconn(priority=True)
    give_back(pool, [urgent])
    assert pool.get_stats()["requests_waiting"] == 1
    pool.putconn(first)
    give_back(pool, [waiter.result()])
    assert_sound(pool, server, priority=True, timeout=0)


def test_max_waiting_counts_only_the_callers_that_are_served_before(server: FakeServer) -> None:
    pool = full_of_idle(ThreadedConnectionPool, 2, reserve=1, max_waiting=1, timeout=None)
    lent = [pool.getconn(), pool.getconn(priority=True)]
    normal = Task(pool.getconn)
    wait_for_waiters(pool, 1)
    with pytest.raises(TooManyRequests):
        pool.getconn()
    urgent = Task(pool.getconn, priority=True)
    wait_for_waiters(pool, 2)
    with pytest.raises(TooManyRequests):
        pool.getconn(priority=True)
    pool.putconn(lent[0])
    assert urgent.result() is lent[0]
    give_back(pool, lent)
    assert normal.result() in lent
    pool.putconn(normal.result())
    assert_sound(pool, server, priority=True, timeout=0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take no notes")
def test_a_refusal_says_how_many_are_reserved(server: FakeServer) -> None:
    pool = full_of_idle(ThreadedConnectionPool, 3, reserve=1)
    lent = lend(pool, 2)
    for kwargs, error in (({}, PoolExhausted), ({"timeout": 0.01}, PoolTimeout)):
        with pytest.raises(error) as raised:
            pool.getconn(**kwargs)
        assert "has lent 2 of 3 and reserves 1 for priority=True" in str(vars(raised.value)["__notes__"])
    give_back(pool, lent)
    assert_sound(pool, server, priority=True)


def test_the_reserve_is_less_than_maxconn(server: FakeServer, our_class: Any) -> None:
    text = "^reserve must be less than maxconn, not reserve=2 and maxconn=2$"
    with pytest.raises(ValueError, match=text):
        our_class(0, 2, reserve=2)
    pool = our_class(0, 3, reserve=2)
    text = "^maxconn must be greater than reserve, not maxconn=2 and reserve=2$"
    with pytest.raises(ValueError, match=text):
        pool.resize(0, 2)
    with pytest.raises(ValueError, match=text):
        pool.maxconn = 2
    pool.resize(0, 4)
    assert (pool.maxconn, pool.options["reserve"]) == (4, 2)
    assert_sound(pool, server, priority=True)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_priority_is_true_or_false(server: FakeServer, our_class: Any, value: Any) -> None:
    pool = our_class(0, 1)
    for call in (pool.getconn, pool.connection):
        with pytest.raises(TypeError, match=f"priority must be True or False, not {value!r}"):
            call(priority=value)
        with pytest.raises(TypeError):
            call(None, True)
    give_back(pool, [pool.getconn(priority=False)])
    assert_sound(pool, server)


@pytest.mark.parametrize("hook", ["getconn", "_getconn"])
def test_an_override_is_given_priority_only_where_the_caller_gives_it(server: FakeServer, hook: str) -> None:
    seen: list[dict[str, Any]] = []

    def override(self: Any, key: Any = None, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return getattr(ThreadedConnectionPool, hook)(self, key, **kwargs)

    pool: Any = type("Overriding", (ThreadedConnectionPool,), {hook: override})(0, 2, reserve=1)
    with pool.connection(), pool.connection(priority=True):
        pass
    with pool.connection(priority=False):
        give_back(pool, [pool.getconn(priority=True)])
    assert seen == [{}, {"priority": True}, {}, {"priority": True}]
    assert_sound(pool, server, priority=True)
