from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from pgpool_rs._limits import SharedLimit, watcher
from pgpool_rs._limits.table import FREED, OWN
from pgpool_rs._limits.watcher import look
from tests.lib.limited import LimitedPool
from tests.lib.programs import in_a_child
from tests.lib.waits import wait_until


def test_all_pools_together_hold_no_more_than_the_limit() -> None:
    limit = SharedLimit(5)
    pools = [LimitedPool(limit, f"pool-{number}") for number in range(3)]
    assert [pool.lend(2) for pool in pools] == [2, 2, 1]
    assert [tuple(holder) for holder in limit.holders()] == [
        (os.getpid(), "pool-0", 2),
        (os.getpid(), "pool-1", 2),
        (os.getpid(), "pool-2", 1),
    ]


def test_a_pool_makes_room_for_the_waiters_of_another() -> None:
    limit = SharedLimit(4)
    first, second = LimitedPool(limit), LimitedPool(limit)
    first.lend(4)
    first.back(4)
    second.want(2)
    wait_until(lambda: second.lent == 2)
    assert first.holds == 2


def test_a_resize_serves_waiters() -> None:
    limit = SharedLimit(1)
    pool = LimitedPool(limit)
    pool.lend(1)
    pool.want(2)
    limit.resize(3)
    wait_until(lambda: pool.lent == 3)
    assert (limit.limit, repr(limit)) == (3, "SharedLimit(3)")


def test_threads_that_take_and_give_at_once_lose_no_place() -> None:
    limit = SharedLimit(7)
    pools = [LimitedPool(limit) for _ in range(8)]

    def work(pool: LimitedPool) -> None:
        for _ in range(300):
            if limit._take(pool):
                assert sum(holder.count for holder in limit.holders()) <= 7
                limit._give(pool, 1)

    threads = [threading.Thread(target=work, args=(pool,)) for pool in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not limit.holders()
    assert pools[0].lend(8) == 7


def test_a_failure_of_a_pool_is_logged_once_and_ends_no_watcher(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "FAILED", 0.001)
    limit = SharedLimit(5)
    pool = LimitedPool(limit)
    failures: list[None] = []

    def fail() -> int:
        failures.append(None)
        raise ValueError("a secret")

    monkeypatch.setattr(pool, "_pgpool_wanted", fail)
    pool.want(1)
    wait_until(lambda: len(failures) > 3)
    thread = limit._table.state().threads["watcher"]
    monkeypatch.undo()
    wait_until(lambda: pool.lent == 1)
    assert limit._table.state().threads["watcher"] is thread
    (line,) = caplog.messages
    assert line.startswith("the watcher of a limit failed: ValueError (")


def test_a_pool_that_is_forgotten_while_the_watcher_looks_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = SharedLimit(2)
    table = limit._table
    table.state().threads["watcher"] = threading.current_thread()  # this test is the watcher
    pools = [LimitedPool(limit)]
    pools[0].lend(2)
    other = LimitedPool(limit)
    other.waiting = 1
    monkeypatch.setattr(other, "_pgpool_wanted", lambda: pools.clear() or other.waiting)  # type: ignore[func-returns-value]
    look(table, table.state())
    look(table, table.state())
    assert other.lent == 1


def test_an_interrupt_while_the_watcher_starts_leaves_that_to_the_next_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = LimitedPool(SharedLimit(2))

    def interrupt(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watcher, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.want(1)
    monkeypatch.undo()
    pool.want(1)
    wait_until(lambda: pool.lent == 2)


@pytest.mark.parametrize("given", [1, 2])
def test_a_place_that_is_returned_while_it_is_exchanged_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    limit = SharedLimit(2)
    table = limit._table
    state, pool = table.state(), LimitedPool(limit)
    member = table.member(pool, limit)
    table.join(state, member)
    member.places = [5, 6]  # from the time of a higher limit
    state.claimed = {5: object(), 6: object()}
    claim = table.claim

    def returned_meanwhile(*args: Any) -> int | None:
        table.give(member, given)
        monkeypatch.undo()
        return claim(*args)

    monkeypatch.setattr(table, "claim", returned_meanwhile)
    watcher._move_down(table, state, member)
    assert len(member.places) == len(state.claimed) == 2 - given
    assert all(place < 2 for place in member.places)


def test_a_pool_above_its_share_takes_what_those_that_starve_do_not_want() -> None:
    limit = SharedLimit(5)
    pool = LimitedPool(limit)
    pool.lend(2)
    member = limit._table.member(pool, limit)
    member.cap, member.leaves = 1, 2
    assert (pool.lend(1), pool.lend(1)) == (1, 0)


def test_a_watcher_that_rests_serves_its_own_pools_and_looks_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "watch", lambda *_: None)
    limit = SharedLimit(2)
    table, pool = limit._table, LimitedPool(limit)
    table.state().resting = float("inf")
    monkeypatch.setattr(table, "parties", lambda _: pytest.fail("it looked at all"))
    assert look(table, table.state()) == (OWN, float("inf"))
    table.member(pool, limit).wanting, pool.waiting = True, 3
    assert look(table, table.state())[0] == FREED
    assert (pool.lent, pool.waiting) == (2, 1)


def test_pools_that_keep_more_than_the_limit_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    limit = SharedLimit(5)
    pools = [LimitedPool(limit, minconn=minconn) for minconn in (0, 3, 2)]
    for pool in pools:
        pool.lend(1)
        pool.want(1)
    wait_until(lambda: sum(holder.count for holder in limit.holders()) == 5)
    assert not caplog.messages
    pools[0].minconn = 1
    pools[0].want(1)
    wait_until(lambda: bool(caplog.messages))
    assert caplog.messages == [
        "3 pools keep 6 connections together (minconn), above the limit of 5: some will not get theirs"
    ]


def test_the_child_of_a_fork_has_a_limit_of_its_own() -> None:
    pool = LimitedPool(SharedLimit(2))
    pool.lend(2)

    def child() -> None:
        pool.lent = 0
        assert pool.lend(3) == 2

    in_a_child(child)
    assert pool.lend(1) == 0
