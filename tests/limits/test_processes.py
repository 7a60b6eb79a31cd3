from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from pgpool_rs._limits import HostLimit
from pgpool_rs._limits.table import CAPACITY
from pgpool_rs._limits.watcher import look
from tests.lib.limited import LimitedPool, workers
from tests.lib.programs import FORKS, Child, in_a_child
from tests.lib.waits import wait_until


def held(folder: Path, limit: int = 9) -> int:
    """Count what all processes hold."""
    return sum(holder.count for holder in HostLimit("shop", limit, folder=folder).holders())


def test_all_processes_together_hold_no_more_than_the_limit(tmp_path: Path) -> None:
    with workers(tmp_path, 3, 10) as found:
        for worker in found:
            worker.begin("pool.lend(8)")
        assert sum(worker.end() for worker in found) == 10 == held(tmp_path, 10)


def test_a_place_that_is_given_back_goes_to_a_waiter_in_another_process(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 3) as (first, second):
        first.do("pool.lend(3)")
        second.do("pool.want(2)")
        first.do("pool.back()")
        wait_until(lambda: second.do("pool.lent") == 1)
        assert second.do("pool.waiting") == 1


def test_idle_connections_are_closed_while_another_process_waits(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 8) as (first, second):
        first.do("[pool.lend(8), pool.back(8)]")
        second.do("pool.want(3)")
        wait_until(lambda: second.do("pool.lent") == 3)
        assert first.do("pool.holds") + second.do("pool.holds") <= 8
        wait_until(lambda: first.do("pool.most") is None)


def test_a_return_above_the_share_is_not_kept_while_another_process_waits(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 8) as (first, second):
        first.do("[pool.lend(8), pool.want(8)]")
        second.do("pool.want(8)")
        wait_until(lambda: first.do("pool.most") == 4)
        first.do("pool.back(8)")
        wait_until(lambda: second.do("pool.lent") == 4)
        assert first.do("pool.holds") == 4


def test_minconn_is_kept_however_many_wait(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 4) as (first, second):
        first.do("[setattr(pool, 'minconn', 3), pool.lend(4), pool.back(4)]")
        second.do("pool.want(4)")
        wait_until(lambda: second.do("pool.lent") == 1)
        assert first.do("pool.holds") == 3


def test_what_remains_of_an_equal_division_goes_round(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 3) as (first, second):
        for worker in (first, second):
            worker.do("pool.want(50)")
        seen = set()

        def both() -> bool:
            for worker in (first, second):
                worker.do("pool.back(pool.lent) or pool.lend(pool.idle)")
            seen.add((first.do("pool.holds"), second.do("pool.holds")))
            return {(1, 2), (2, 1)} <= seen

        wait_until(both)
        assert all(sum(pair) <= 3 for pair in seen)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_places_of_a_killed_process_are_free_again(tmp_path: Path, number: int) -> None:
    with workers(tmp_path, 2, 5) as (first, second):
        first.do("pool.lend(5)")
        second.do("pool.want(5)")
        first.kill(number)
        wait_until(lambda: second.do("pool.lent") == 5)


def test_without_a_waiter_too(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 5) as (first, second):
        first.do("pool.lend(5)")
        assert second.do("pool.lend(1)") == 0
        first.kill()
        wait_until(lambda: second.do("pool.lend(1)") == 1)


def test_a_stopped_process_keeps_its_places_and_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with workers(tmp_path, 3, 6) as (stopped, first, second):
        stopped.do("pool.lend(2)")
        first.do("pool.lend(4)")
        stopped.do("pool.want(4)")
        stopped.kill(signal.SIGSTOP)
        second.do("pool.want(4)")
        first.do("pool.close()")
        wait_until(lambda: second.do("pool.lent") == 4)
        assert held(tmp_path, 6) == 6
        stopped.kill(signal.SIGCONT)
        wait_until(lambda: second.do("pool.most") == 3)


def test_the_lowest_limit_of_all_living_processes_holds(tmp_path: Path) -> None:
    with workers(tmp_path, 1, 10) as (first,):
        first.do("pool.lend(2)")
        with workers(tmp_path, 1, 4) as (second,):
            assert second.do("pool.lend(9)") == 2
            wait_until(lambda: first.do("limit.limit") == 4)
            assert first.do("pool.lend(1)") == 0
        wait_until(lambda: first.do("pool.lend(1)") == 1)
        assert first.do("limit.limit") == 10


def test_a_lower_limit_of_another_process_holds_before_the_watcher_has_looked(tmp_path: Path) -> None:
    pool = LimitedPool(HostLimit("shop", 10, folder=tmp_path))
    pool.limit._table.state().threads["watcher"] = threading.current_thread()  # so none starts
    pool.lend(2)
    with workers(tmp_path, 1, 5) as (other,):
        assert other.do("pool.lend(1)") == 1
        assert pool.lend(9) == 2
        other.do("limit.resize(4)")
        pool.close()
        assert pool.lend(9) == 3


def test_a_pool_whose_first_callers_come_together_is_one_party(tmp_path: Path) -> None:
    with workers(tmp_path, 1, 9) as (other,):
        # Each of two threads has found that the pool has no record.
        other.do("[limit._table.join(limit._table.state(), limit._table.member(pool, limit)) for _ in range(2)]")
        table = HostLimit("shop", 9, folder=tmp_path)._table
        assert len(table.parties(table.state())) == 1
        assert other.do("pool.lend(9)") == 9


def test_a_process_that_was_stopped_does_not_take_a_new_death_for_an_old_one(tmp_path: Path) -> None:
    # It is this process, in which no watcher looks but when the test lets it.
    pool = LimitedPool(HostLimit("shop", 1, folder=tmp_path))
    table = pool.limit._table
    table.state().threads["watcher"] = threading.current_thread()
    with workers(tmp_path, 2, 1) as (first, second):
        for worker in (first, second):
            wait_until(lambda worker=worker: worker.do("pool.lend(1)") == 1)  # type: ignore[misc]
            assert pool.lend(1) == 0
            worker.kill()
            look(table, table.state())
            assert pool.lend(1) == 0, "the server may still have the session"
    wait_until(lambda: (look(table, table.state()), pool.lend(1))[1] == 1)


def test_a_resize_holds_in_all_processes_with_pools(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 4) as (first, second):
        assert first.do("pool.lend(3)") + second.do("pool.lend(3)") == 4
        second.do("pool.want(2)")
        first.do("limit.resize(6)")
        wait_until(lambda: second.do("pool.lent") == 3)
        assert second.do("limit.limit") == 6


def test_a_resize_holds_for_a_pool_that_has_not_connected_yet(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 4) as (first, second):
        first.do("limit.resize(6)")
        assert second.do("pool.lend(6)") == 6


def test_a_resize_holds_for_a_child_that_has_not_connected_since_the_fork(tmp_path: Path) -> None:
    pool = LimitedPool(limit := HostLimit("shop", 4, folder=tmp_path))
    pool.lend(1)
    resized = tmp_path / "resized"

    def child() -> None:
        wait_until(resized.exists)
        assert pool.lend(5) == 5

    waiting = Child(child)
    limit.resize(6)
    resized.touch()
    waiting.wait()


def test_a_lower_limit_is_reached_as_connections_come_back(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 10) as (first, second):
        for worker in (first, second):
            worker.do("pool.lend(5)")
        second.do("limit.resize(4)")
        wait_until(lambda: first.do("limit.limit") == 4)
        assert first.do("pool.lend(1)") == 0
        for worker in (first, second):
            wait_until(lambda worker=worker: worker.do("pool.most") == 2)  # type: ignore[misc]
            worker.do("pool.back(5)")
        wait_until(lambda: held(tmp_path) == 4)
        # Places above the limit were exchanged for lower ones: one that is free can be taken again.
        first.do("pool.close()")
        wait_until(lambda: second.do("pool.lend(1) and pool.lent") == 4)


@pytest.mark.parametrize("how", FORKS)
def test_the_child_of_a_fork_has_none_of_the_places_and_takes_its_own(tmp_path: Path, how: str) -> None:
    limit = HostLimit("shop", 5, folder=tmp_path)
    pool = LimitedPool(limit)
    assert pool.lend(3) == 3

    def child() -> None:
        pool.idle = pool.lent = 0
        pool.limit._give(pool, 3)
        assert pool.lend(5) == 2
        assert {(holder.pid, holder.count) for holder in limit.holders()} == {(os.getppid(), 3), (os.getpid(), 2)}

    in_a_child(child, how=how)
    assert [tuple(holder) for holder in limit.holders()] == [(os.getpid(), "pool-1", 3)]
    wait_until(lambda: pool.lend(1) == 1)


@pytest.mark.parametrize("how", FORKS)
def test_a_waiter_in_the_child_is_served(tmp_path: Path, how: str) -> None:
    pool = LimitedPool(HostLimit("shop", 2, folder=tmp_path))
    pool.lend(2)

    def child() -> None:
        pool.lent = pool.idle = 0
        pool.want(1)
        wait_until(lambda: pool.lent == 1)

    waiting = Child(child, how=how)
    pool.back(2)
    waiting.wait()


def test_the_end_of_a_child_frees_nothing_of_its_parent(tmp_path: Path) -> None:
    pool = LimitedPool(HostLimit("shop", 2, folder=tmp_path))
    pool.lend(2)
    in_a_child(lambda: os.closerange(3, 256))
    with workers(tmp_path, 1, 2) as (other,):
        assert other.do("pool.lend(1)") == 0


def test_a_child_that_closes_all_descriptors_opens_the_file_again(tmp_path: Path) -> None:
    pool = LimitedPool(HostLimit("shop", 3, folder=tmp_path))
    pool.lend(1)

    def daemon() -> None:
        os.closerange(3, 256)
        for _ in range(30):
            os.open("/dev/null", os.O_RDONLY)
        assert pool.lend(3) == 2

    in_a_child(daemon)


def test_a_process_whose_descriptor_was_closed_locks_its_places_again(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 3) as (first, second):
        first.do("pool.lend(2)")
        first.do("os.closerange(3, 256)")
        wait_until(lambda: len(first.do("[tuple(holder) for holder in limit.holders()]")) == 1)
        assert second.do("pool.lend(3)") == 1


def test_nothing_is_written_into_a_file_that_has_the_number_of_the_descriptor_now(tmp_path: Path) -> None:
    pool = LimitedPool(limit := HostLimit("shop", 3, folder=tmp_path))
    pool.lend(2)
    number = limit._table._descriptor  # type: ignore[attr-defined]
    with (tmp_path / "other").open("wb") as other:
        os.dup2(other.fileno(), number)
        pool.close()
        assert other.seek(0, os.SEEK_END) == 0
        os.close(number)
    assert pool.lend(3) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_child_that_has_become_another_user_is_not_told_that_the_file_was_removed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    pool = LimitedPool(limit := HostLimit("shop", 3, folder=tmp_path))

    def worker() -> None:
        os.setuid(65534)
        assert pool.lend(3) == 3
        look(limit._table, limit._table.state())
        assert not limit._table.state().said

    in_a_child(worker)


def test_an_exec_frees_the_places(tmp_path: Path) -> None:
    with workers(tmp_path, 2, 2) as (first, second):
        first.do("pool.lend(2)")
        second.do("pool.want(2)")
        first.begin("os.execv('/bin/sleep', ['sleep', '60'])")
        wait_until(lambda: second.do("pool.lent") == 2)


def test_two_limits_of_one_name_in_one_process_are_one(tmp_path: Path) -> None:
    first = LimitedPool(HostLimit("shop", 3, folder=tmp_path))
    second = LimitedPool(HostLimit("shop", 3, folder=str(tmp_path)), "pool-2")
    assert (first.lend(2), second.lend(2)) == (2, 1)
    assert first.limit._holders() == f"pid {os.getpid()} (pool-1) 2, pid {os.getpid()} (pool-2) 1"
    second.want(1)
    first.back()
    wait_until(lambda: second.waiting == 0)


def test_limits_of_two_names_are_two(tmp_path: Path) -> None:
    pools = [LimitedPool(HostLimit(name, 2, folder=tmp_path)) for name in ("shop", "stock")]
    assert [pool.lend(3) for pool in pools] == [2, 2]


def test_the_places_of_a_pool_that_is_forgotten_are_free_again(tmp_path: Path) -> None:
    limit = HostLimit("shop", 2, folder=tmp_path)
    pool = LimitedPool(limit)
    pool.lend(2)
    del pool
    other = LimitedPool(limit)
    wait_until(lambda: other.lend(1) == 1)


def test_two_hundred_processes_share_twenty_places(tmp_path: Path) -> None:
    limit = HostLimit("shop", 20, folder=tmp_path)
    pool = LimitedPool(limit)

    def child() -> None:
        for _ in range(3):
            pool.want(1)
            wait_until(lambda: pool.lent == 1)
            pool.back()

    children = [Child(child) for _ in range(200)]
    for waiting in children:
        waiting.wait()
        assert not any(limit._table.hints()[20:])
    wait_until(lambda: pool.lend(1) == 1 and pool.lent == 20)
    assert pool.lend(1) == 0


def test_a_thread_that_comes_before_the_limit_is_known_takes_no_place_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = HostLimit("shop", 2, folder=tmp_path)
    pool = LimitedPool(limit)
    pool.lend(2)
    table = limit._table
    state, lock = table.state(), table.lock
    known, state.naming = state.naming, (b"", CAPACITY)

    def lock_meanwhile(place: int) -> bool:
        state.naming = known  # by the thread that came first
        return lock(place)

    monkeypatch.setattr(table, "lock", lock_meanwhile)
    assert not limit._take(pool)
    assert held(tmp_path) == 2
