"""The housekeeping thread is one, begins at the first poke, has a successor if it is ended, and keeps no pool alive."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
import time
import weakref
from contextvars import ContextVar

import pytest

from pgpool_rs import _housekeeper
from pgpool_rs._housekeeper import CLOSED, House, Housekeeper
from pgpool_rs.testing import PATIENCE
from tests.lib.callbacks import raiser
from tests.lib.housekeepers import LATER, StubPool, house_of, raises_once, thread_of
from tests.lib.waits import Task, wait_until

# The start


def test_a_pool_that_pokes_is_maintained_in_a_daemon_thread_with_our_name(housekeeper: Housekeeper) -> None:
    pool = StubPool().poked(housekeeper)
    [thread] = pool.threads
    assert thread.name == "pgpool_rs housekeeping"
    assert thread.daemon
    assert thread is not threading.current_thread()


def test_no_thread_is_there_before_the_first_poke(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    before = threading.active_count()
    housekeeper.poke_quietly(pool)
    assert threading.active_count() == before
    assert house_of(housekeeper).thread is None


def test_all_pools_share_one_thread(housekeeper: Housekeeper) -> None:
    pools = [StubPool() for _ in range(20)]
    for pool in pools:
        housekeeper.poke(pool)
    for pool in pools:
        pool.wait_for_calls(1)
    assert len(set.union(*(pool.threads for pool in pools))) == 1


def test_threads_that_poke_first_all_at_once_start_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = threading.Thread.start

    def slow_start(thread: threading.Thread) -> None:
        if thread.name == "pgpool_rs housekeeping":
            started.append(thread)
            time.sleep(0.01)
        start(thread)

    def poke_together(barrier: threading.Barrier, housekeeper: Housekeeper, pool: StubPool) -> None:
        barrier.wait(PATIENCE)
        housekeeper.poke(pool)

    monkeypatch.setattr(threading.Thread, "start", slow_start)
    for _ in range(10):
        started.clear()
        housekeeper = Housekeeper()
        pools = [StubPool() for _ in range(8)]
        barrier = threading.Barrier(len(pools))
        for task in [Task(poke_together, barrier, housekeeper, pool) for pool in pools]:
            task.result()
        for pool in pools:
            pool.wait_for_calls(1)
        housekeeper.end()
        assert len(started) == 1


def test_a_poke_that_sees_no_thread_just_before_another_starts_it_starts_no_second(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    housekeeper.poke_quietly(pool)
    house = house_of(housekeeper)
    lock = house.starting

    class Slow:
        def acquire(self, *, blocking: bool) -> bool:
            house.starting = lock
            housekeeper.poke(pool)  # comes and goes after this one has looked, and before it has the lock
            return lock.acquire(blocking=blocking)

        def release(self) -> None:
            lock.release()

    house.starting = Slow()  # type: ignore[assignment]
    threads = threading.active_count()
    pool.poked(housekeeper)
    assert threading.active_count() == threads + 1


def test_the_thread_ends_once_all_pools_are_closed_or_gone_and_the_next_poke_starts_another(
    housekeeper: Housekeeper,
) -> None:
    for _ in range(3):
        first, second = StubPool().poked(housekeeper), StubPool().poked(housekeeper)
        thread = thread_of(housekeeper)
        first.answer = CLOSED
        housekeeper.end_visits(first)
        wait_until(lambda first=first: not housekeeper.cares_for(first), "the end of its visits")  # type: ignore[misc]
        housekeeper.poke(second)
        second.wait_for_calls(2)
        assert thread.is_alive()
        second.answer = CLOSED
        housekeeper.end_visits(second)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        housekeeper.end_visits(second)
        assert house_of(housekeeper).thread is None


def test_a_poke_that_sees_the_thread_alive_as_it_ends_is_answered(housekeeper: Housekeeper) -> None:
    late = StubPool()

    class Ending(House):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "thread" and value is None and getattr(self, "thread", None) is not None and not late.calls:
                housekeeper.poke(late)
            super().__setattr__(name, value)

    housekeeper._houses[os.getpid()] = Ending(os.getpid())
    StubPool(CLOSED).poked(housekeeper)
    late.wait_for_calls(1)


def test_threads_that_are_the_first_in_a_process_to_poke_share_one_thread(housekeeper: Housekeeper) -> None:
    barrier = threading.Barrier(2)

    class Houses(dict[int, House]):
        def get(self, process: int) -> House | None:  # type: ignore[override]
            house = super().get(process)
            if house is None:
                barrier.wait(PATIENCE)
            return house

    housekeeper._houses = Houses()
    pools = [StubPool(), StubPool()]
    for task in [Task(housekeeper.poke, pool) for pool in pools]:
        task.result()
    for pool in pools:
        pool.wait_for_calls(1)
    assert pools[0].threads == pools[1].threads


def test_a_poke_where_no_thread_can_be_started_does_nothing_and_the_next_tries_again(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = StubPool()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", raiser(RuntimeError("can't start new thread")))
        housekeeper.poke(pool)
        housekeeper.poke(pool)
    assert pool.calls == []
    pool.poked(housekeeper)


def test_a_time_limit_that_strikes_once_the_thread_has_begun_is_raised_as_it_is(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TimeLimit(Exception):
        """What a job queue raises from a signal handler."""

    # From CPython 3.13 on it has another name.
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    start_new = getattr(threading, name)

    def start_and_be_struck(*args: object, **kwargs: object) -> None:
        start_new(*args, **kwargs)
        # As soon as the thread has begun, it is in limbo no more.
        wait_until(lambda: house_of(housekeeper).thread not in threading._limbo, "the thread")  # type: ignore[attr-defined]
        raise TimeLimit

    pool = StubPool()
    with monkeypatch.context() as patch:
        patch.setattr(threading, name, start_and_be_struck)
        with pytest.raises(TimeLimit):
            housekeeper.poke(pool)
    pool.poked(housekeeper)


def test_the_thread_does_not_inherit_the_context_of_who_poked_first(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []
    start = threading.Thread.start

    def look_and_start(thread: threading.Thread) -> None:
        seen.append(request.get())  # what a thread inherits, where threads do
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", look_and_start)
    token = request.set("of the first poker")
    StubPool(does=lambda: seen.append(request.get())).poked(housekeeper)
    wait_until(lambda: len(seen) == 2, "the context")
    request.reset(token)
    assert seen == ["none", "none"]


# Successors


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_thread_that_a_pool_ends_has_a_successor(
    housekeeper: Housekeeper,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    error: type[BaseException],
) -> None:
    bad, good = StubPool(answer=0.01, does=raises_once(error("password=hunter2"))), StubPool(answer=0.01)
    bad.poked(housekeeper)
    bad.wait_for_calls(3)  # with no other poke
    assert len(bad.threads) == 2
    housekeeper.poke(good)
    good.wait_for_calls(2)
    assert good.threads == {thread_of(housekeeper)}
    [record] = caplog.records
    assert re.fullmatch(
        rf"{error.__name__} \(.*housekeepers\.py:\d+ in do\) ended the housekeeping thread; "
        r"a new thread takes its place",
        record.getMessage(),
    )
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("short_pause")
def test_the_successor_goes_on_with_the_pools_of_the_thread_that_was_ended(housekeeper: Housekeeper) -> None:
    others = [StubPool(answer=0.01) for _ in range(5)]
    for pool in others:
        pool.poked(housekeeper)
    bad = StubPool(does=raises_once(SystemExit()))
    housekeeper.poke(bad)
    bad.wait_for_calls(2)
    numbers = [len(pool.calls) for pool in others]
    for pool, number in zip(others, numbers, strict=True):
        pool.wait_for_calls(number + 2)
    assert len({thread for pool in others for thread in pool.threads}) == 2


def test_a_successor_is_started_though_the_starter_has_not_finished(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.0)
    pool = StubPool(does=raises_once(SystemExit()))
    start = threading.Thread.start
    first: list[threading.Thread] = []

    def start_and_tarry(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "pgpool_rs housekeeping" and not first:
            first.append(thread)
            thread.join(PATIENCE)

    monkeypatch.setattr(threading.Thread, "start", start_and_tarry)
    housekeeper.poke_quietly(pool)
    housekeeper.poke(pool)
    assert not first[0].is_alive()
    pool.wait_for_calls(2)
    assert thread_of(housekeeper) is not first[0]


@pytest.mark.parametrize("answer", [None, 0.01])
def test_a_thread_that_an_asynchronous_exception_ends_has_a_successor(
    housekeeper: Housekeeper, answer: float | None
) -> None:
    pool = StubPool(answer).poked(housekeeper)
    for _ in range(20):
        thread = thread_of(housekeeper)
        assert thread.ident is not None
        end = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert end(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1
        housekeeper.poke_quietly(pool)  # which wakes it, and would start nothing
        thread.join(PATIENCE)
        assert not thread.is_alive()
        number = len(pool.calls)
        housekeeper.poke_quietly(pool)
        pool.wait_for_calls(number + 1)
        assert thread_of(housekeeper) is not thread


def test_a_thread_found_dead_is_replaced_by_the_next_poke(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    housekeeper.poke_quietly(pool)
    # As if it had ended before it could do anything about it.
    house_of(housekeeper).thread = dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join(PATIENCE)
    pool.poked(housekeeper)


# References


def assert_dies(pool: list[StubPool]) -> None:
    """Assert that the only pool in the list dies when it leaves it, without the help of the garbage collector."""
    reference = weakref.ref(pool[0])
    gc.disable()
    try:
        pool.clear()
        wait_until(lambda: reference() is None, "the end of the pool")
    finally:
        gc.enable()


@pytest.mark.parametrize("answer", [None, LATER, 0.0])
def test_the_thread_keeps_no_pool_alive(housekeeper: Housekeeper, answer: float | None) -> None:
    pool = [StubPool(answer)]
    pool[0].poked(housekeeper)
    assert_dies(pool)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_failure_keeps_no_pool_alive(housekeeper: Housekeeper, error: type[BaseException]) -> None:
    kept = error("kept, with its traceback and all the frames")

    class Failing(StubPool):
        def _pgpool_maintain(self) -> float | None:
            self.calls.append(0.0)
            del self
            raise kept

    pool: list[StubPool] = [Failing()]
    pool[0].poked(housekeeper)
    assert_dies(pool)
    assert kept.__traceback__ is not None


def test_dead_pools_are_forgotten(housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture) -> None:
    survivor = StubPool()
    for _ in range(50):
        pool = StubPool(LATER).poked(housekeeper)
        del pool
    for _ in range(50):
        housekeeper.poke_quietly(StubPool())  # dead before it can be called on
    survivor.poked(housekeeper)
    house = house_of(housekeeper)
    wait_until(lambda: len(house.visits) == 1, "the end of the entries")
    assert house.pokes == {}
    assert caplog.records == []


def test_a_new_pool_at_a_dead_pools_address_is_a_new_pool(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_housekeeper, "PAUSE", LATER)
    pool = StubPool(does=raiser(ValueError())).poked(housekeeper)
    wait_until(lambda: house_of(housekeeper).visits[id(pool)].not_before > 0)
    # As if this stood where another has stood, which had failed.
    successor = StubPool()
    house_of(housekeeper).visits[id(successor)] = house_of(housekeeper).visits.pop(id(pool))
    successor.poked(housekeeper)
