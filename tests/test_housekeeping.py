"""The housekeeping thread by itself, with small things in the place of pools.

Each test in this process has a housekeeper of its own, so that it meets no real pool. What is for ever (a fork, an end,
monkey-patching) happens in a process of its own.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from fakes import PATIENCE, Gate
from pgpool_rs import _housekeeping
from pgpool_rs._housekeeping import House, Housekeeper
from support import Task, run_program, wait_until

# Longer than any test may take: what is due after this is not due.
LATER = 600.0


class StubPool:
    """Notes the calls of its `_maintain()` and answers, or does, what it is told to."""

    def __init__(self, answer: float | None = None, does: Callable[[], object] = lambda: None) -> None:
        self.name = "pool-of-the-test"
        self.answer = answer
        self.does = does
        self.calls: list[float] = []
        self.threads: set[threading.Thread] = set()

    def _maintain(self) -> float | None:
        self.calls.append(time.monotonic())
        self.threads.add(threading.current_thread())
        self.does()
        return self.answer

    def wait_for_calls(self, number: int) -> None:
        wait_until(lambda: len(self.calls) >= number, f"call {number}")


class Awkward(StubPool):
    """Is neither hashable nor to be compared nor to be asked whether it is true."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")


def raises(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


def raises_once(error: BaseException) -> Callable[[], object]:
    left = [error]

    def do() -> None:
        if left:
            raise left.pop()

    return do


def house_of(keeper: Housekeeper) -> House:
    return keeper._houses[os.getpid()]


def thread_of(keeper: Housekeeper) -> threading.Thread:
    thread = house_of(keeper).thread
    assert thread is not None
    return thread


def assert_asleep(keeper: Housekeeper) -> None:
    """Assert that the thread comes to rest: that it does no more rounds of its own accord."""
    rounds: list[House] = []
    make_round = keeper._make_round

    def note_round(house: House) -> None:
        rounds.append(house)
        make_round(house)

    def quiet() -> bool:
        before = len(rounds)
        time.sleep(0.15)
        return len(rounds) == before and not house_of(keeper).pokes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "_make_round", note_round)
        wait_until(quiet, "rest")


@pytest.fixture
def keeper() -> Iterator[Housekeeper]:
    """Give a housekeeper that no real pool knows."""
    keeper = Housekeeper()
    yield keeper
    keeper.end()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pool that failed be tried again soon."""
    monkeypatch.setattr(_housekeeping, "PAUSE", 0.03)


# Pokes and due times


def test_a_pool_that_pokes_is_maintained_in_a_daemon_thread_with_our_name(keeper: Housekeeper) -> None:
    pool = StubPool()
    keeper.poke(pool)
    pool.wait_for_calls(1)
    [thread] = pool.threads
    assert thread.name == "pgpool_rs housekeeping"
    assert thread.daemon
    assert thread is not threading.current_thread()


def test_no_thread_is_there_before_the_first_poke(keeper: Housekeeper) -> None:
    pool = StubPool()
    before = threading.active_count()
    keeper.poke_quietly(pool)
    assert threading.active_count() == before
    assert house_of(keeper).thread is None


def test_what_was_poked_quietly_before_the_thread_ran_is_maintained_once_it_does(keeper: Housekeeper) -> None:
    quiet, loud = StubPool(), StubPool()
    keeper.poke_quietly(quiet)
    keeper.poke(loud)
    quiet.wait_for_calls(1)


def test_each_poke_of_a_sleeping_thread_brings_a_call(keeper: Housekeeper) -> None:
    pool = StubPool()
    for number in range(1, 200):
        (keeper.poke if number % 2 else keeper.poke_quietly)(pool)
        pool.wait_for_calls(number)


def test_a_poke_in_the_midst_of_a_call_brings_one_more_call(keeper: Housekeeper) -> None:
    gate = Gate()
    pool = StubPool(does=gate.pass_through)
    keeper.poke(pool)
    gate.wait_for(1)
    for _ in range(100):
        keeper.poke(pool)
    gate.release()
    pool.wait_for_calls(2)
    assert_asleep(keeper)
    assert len(pool.calls) == 2


def test_all_pools_share_one_thread(keeper: Housekeeper) -> None:
    pools = [StubPool() for _ in range(20)]
    for pool in pools:
        keeper.poke(pool)
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

    def poke_together(barrier: threading.Barrier, keeper: Housekeeper, pool: StubPool) -> None:
        barrier.wait(PATIENCE)
        keeper.poke(pool)

    monkeypatch.setattr(threading.Thread, "start", slow_start)
    for _ in range(10):
        started.clear()
        keeper = Housekeeper()
        pools = [StubPool() for _ in range(8)]
        barrier = threading.Barrier(len(pools))
        for task in [Task(poke_together, barrier, keeper, pool) for pool in pools]:
            task.result()
        for pool in pools:
            pool.wait_for_calls(1)
        keeper.end()
        assert len(started) == 1


def test_a_poke_that_sees_no_thread_just_before_another_starts_it_starts_no_second(keeper: Housekeeper) -> None:
    pool = StubPool()
    keeper.poke_quietly(pool)
    house = house_of(keeper)
    lock = house.starting

    class Slow:
        def acquire(self, *, blocking: bool) -> bool:
            house.starting = lock
            keeper.poke(pool)  # comes and goes after this one has looked, and before it has the lock
            return lock.acquire(blocking=blocking)

    house.starting = Slow()  # type: ignore[assignment]
    threads = threading.active_count()
    keeper.poke(pool)
    pool.wait_for_calls(1)
    assert threading.active_count() == threads + 1


def test_a_pool_is_called_again_when_it_said_so(keeper: Housekeeper) -> None:
    pool = StubPool(answer=0.05)
    keeper.poke(pool)
    pool.wait_for_calls(4)
    assert all(later - earlier >= 0.05 for earlier, later in zip(pool.calls, pool.calls[1:], strict=False))


def test_the_earliest_of_many_due_times_is_kept(keeper: Housekeeper) -> None:
    late, soon, never = StubPool(answer=LATER), StubPool(answer=0.02), StubPool()
    for pool in (late, soon, never):
        keeper.poke(pool)
    soon.wait_for_calls(5)
    assert len(late.calls) == 1
    assert len(never.calls) == 1


@pytest.mark.parametrize("answer", [None, LATER, float("inf"), 1e300])
def test_a_thread_with_nothing_to_do_sleeps_without_polling(keeper: Housekeeper, answer: float | None) -> None:
    pool = StubPool(answer)
    keeper.poke(pool)
    pool.wait_for_calls(1)
    assert_asleep(keeper)
    assert len(pool.calls) == 1
    keeper.poke(pool)
    pool.wait_for_calls(2)


@pytest.mark.parametrize("answer", [0, 0.0, -5.0, float("-inf"), float("nan")])
def test_a_pool_that_always_has_something_to_do_is_not_called_without_pause(keeper: Housekeeper, answer: float) -> None:
    pool = StubPool(answer)
    keeper.poke(pool)
    pool.wait_for_calls(10)
    assert all(later - earlier >= 0.0099 for earlier, later in zip(pool.calls, pool.calls[1:], strict=False))


def test_a_pool_that_pokes_while_it_is_maintained_is_not_called_without_pause(keeper: Housekeeper) -> None:
    pool = StubPool()
    pool.does = lambda: keeper.poke(pool)
    keeper.poke(pool)
    pool.wait_for_calls(10)
    assert all(later - earlier >= 0.0099 for earlier, later in zip(pool.calls, pool.calls[1:], strict=False))
    del pool.does


def test_a_pool_that_is_poked_all_the_time_does_not_keep_the_others_waiting(keeper: Housekeeper) -> None:
    busy, other = StubPool(), StubPool(answer=0.01)
    ended = threading.Event()

    def poke_on() -> None:
        while not ended.is_set():
            keeper.poke(busy)

    pokers = [Task(poke_on) for _ in range(3)]
    keeper.poke(other)
    try:
        other.wait_for_calls(5)
    finally:
        ended.set()
        for poker in pokers:
            poker.result()


def test_a_pool_may_refuse_to_be_hashed_or_compared(keeper: Housekeeper) -> None:
    pools = [Awkward(answer=0.01) for _ in range(3)]
    for _ in range(2):
        for pool in pools:
            keeper.poke(pool)
            keeper.poke_quietly(pool)
    for pool in pools:
        pool.wait_for_calls(3)


# Pokes at any moment


def test_a_quiet_poke_may_come_at_every_step_of_a_poke(keeper: Housekeeper) -> None:
    pool = StubPool()
    steps = 0

    def poke_at_every_step(frame: Any, _event: str, _argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += 1
        keeper.poke_quietly(pool)
        return poke_at_every_step

    def poke() -> None:
        sys.settrace(poke_at_every_step)
        try:
            keeper.poke(pool)  # starts the thread
            keeper.poke(pool)
            keeper.poke_quietly(pool)
        finally:
            sys.settrace(None)

    Task(poke).result()
    assert steps > 100
    number = len(pool.calls)
    keeper.poke(pool)
    pool.wait_for_calls(number + 1)


def test_quiet_pokes_from_the_garbage_collection_do_no_harm(keeper: Housekeeper) -> None:
    pool = StubPool()
    poked = []

    class Loan:
        def __init__(self) -> None:
            self.myself = self

    def lost(reference: weakref.ref[Loan]) -> None:
        keeper.poke_quietly(pool)
        poked.append(reference)

    threshold = gc.get_threshold()
    gc.set_threshold(5)
    try:

        def lose_loans() -> None:
            for _ in range(500):
                references = [weakref.ref(Loan(), lost) for _ in range(5)]
                keeper.poke(pool)
                del references[:2]

        for task in [Task(lose_loans) for _ in range(4)]:
            task.result()
    finally:
        gc.set_threshold(*threshold)
    assert poked
    number = len(pool.calls)
    keeper.poke(pool)
    pool.wait_for_calls(number + 1)


def test_a_signal_in_the_midst_of_a_poke_loses_nothing() -> None:
    output = run_program("""
import signal
import time

from pgpool_rs import _housekeeping

class Pool:
    name = "pool"
    calls = 0

    def _maintain(self):
        self.calls += 1

pool, other = Pool(), Pool()
poked = 0
armed = False

def interrupt(*_):
    global armed, poked
    poked += 1
    _housekeeping.poke(other)
    if armed and poked % 3 == 0:
        armed = False
        raise InterruptedError

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
while poked < 600:
    try:
        armed = True
        _housekeeping.poke(pool)
        armed = False
    except InterruptedError:
        pass
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0)
for each in (pool, other):
    number = each.calls
    _housekeeping.poke(each)
    deadline = time.monotonic() + 20
    while each.calls == number:
        assert time.monotonic() < deadline
        time.sleep(0.001)
print("well")
""")
    assert output == "well\n"


# Failures


@pytest.mark.usefixtures("short_pause")
def test_a_pool_that_fails_is_tried_again_and_the_others_go_on(keeper: Housekeeper) -> None:
    bad, good = StubPool(does=raises(ValueError("no"))), StubPool(answer=0.01)
    keeper.poke(bad)
    keeper.poke(good)
    bad.wait_for_calls(3)
    good.wait_for_calls(5)
    assert bad.threads == good.threads
    assert len(bad.threads) == 1


def test_a_pool_that_failed_has_a_pause_whoever_pokes(keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _housekeeping.PAUSE == 1.0
    monkeypatch.setattr(_housekeeping, "PAUSE", 0.2)
    bad, good = StubPool(does=raises_once(ValueError("no"))), StubPool()
    keeper.poke(bad)
    bad.wait_for_calls(1)
    monkeypatch.setattr(_housekeeping, "PAUSE", LATER)
    for number in range(1, 6):
        keeper.poke(bad)
        keeper.poke(good)
        good.wait_for_calls(number)
    bad.wait_for_calls(2)
    first, second = bad.calls
    assert second - first >= 0.2
    keeper.poke(bad)
    bad.wait_for_calls(3)  # it is well again, and called at once


def test_an_answer_that_is_no_number_is_a_failure(keeper: Housekeeper, caplog: pytest.LogCaptureFixture) -> None:
    pool = StubPool()
    pool.answer = "soon"  # type: ignore[assignment]
    keeper.poke(pool)
    wait_until(lambda: "TypeError" in caplog.text, "the log line")


def test_a_failure_is_logged_by_its_class_and_nothing_else(
    keeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "password=hunter2"

    class ConnectFailed(Exception):
        pass

    try:
        raise ValueError(secret)
    except ValueError as error:
        failure = ConnectFailed(secret)
        failure.__context__ = error
    pool = StubPool(does=raises(failure))
    keeper.poke(pool)
    wait_until(lambda: bool(caplog.records), "the log line")
    [record] = caplog.records
    assert record.name == "pgpool_rs.housekeeping"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "housekeeping of pool-of-the-test failed with ConnectFailed; it goes on in 1 s"
    assert record.exc_info is None
    assert record.stack_info is None
    assert "hunter2" not in caplog.text + repr(vars(record))


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_thread_that_a_pool_ends_has_a_successor(
    keeper: Housekeeper, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    bad, good = StubPool(answer=0.01, does=raises_once(error("password=hunter2"))), StubPool(answer=0.01)
    keeper.poke(bad)
    bad.wait_for_calls(1)
    bad.wait_for_calls(3)  # with no other poke
    assert len(bad.threads) == 2
    keeper.poke(good)
    good.wait_for_calls(2)
    assert good.threads == {thread_of(keeper)}
    [record] = caplog.records
    assert record.getMessage() == f"the housekeeping thread was ended by {error.__name__}; another takes its place"
    assert "hunter2" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("short_pause")
def test_the_successor_goes_on_with_the_pools_of_the_thread_that_was_ended(keeper: Housekeeper) -> None:
    others = [StubPool(answer=0.01) for _ in range(5)]
    for pool in others:
        keeper.poke(pool)
        pool.wait_for_calls(1)
    bad = StubPool(does=raises_once(SystemExit()))
    keeper.poke(bad)
    bad.wait_for_calls(2)
    numbers = [len(pool.calls) for pool in others]
    for pool, number in zip(others, numbers, strict=True):
        pool.wait_for_calls(number + 2)
    assert len({thread for pool in others for thread in pool.threads}) == 2


def test_a_successor_is_started_though_the_starter_has_not_finished(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_housekeeping, "PAUSE", 0.0)
    pool = StubPool(does=raises_once(SystemExit()))
    start = threading.Thread.start
    first: list[threading.Thread] = []

    def start_and_tarry(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "pgpool_rs housekeeping" and not first:
            first.append(thread)
            thread.join(PATIENCE)

    monkeypatch.setattr(threading.Thread, "start", start_and_tarry)
    keeper.poke_quietly(pool)
    keeper.poke(pool)
    assert not first[0].is_alive()
    pool.wait_for_calls(2)
    assert thread_of(keeper) is not first[0]


@pytest.mark.parametrize("answer", [None, 0.01])
def test_a_thread_that_an_asynchronous_exception_ends_has_a_successor(
    keeper: Housekeeper, answer: float | None
) -> None:
    pool = StubPool(answer)
    keeper.poke(pool)
    pool.wait_for_calls(1)
    for _ in range(20):
        thread = thread_of(keeper)
        assert thread.ident is not None
        end = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert end(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1
        keeper.poke_quietly(pool)  # which wakes it, and would start nothing
        thread.join(PATIENCE)
        assert not thread.is_alive()
        number = len(pool.calls)
        keeper.poke_quietly(pool)
        pool.wait_for_calls(number + 1)
        assert thread_of(keeper) is not thread


def test_a_thread_found_dead_is_replaced_by_the_next_poke(keeper: Housekeeper) -> None:
    pool = StubPool()
    keeper.poke_quietly(pool)
    # As if it had ended before it could do anything about it.
    house_of(keeper).thread = dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join(PATIENCE)
    keeper.poke(pool)
    pool.wait_for_calls(1)


def test_a_poke_where_no_thread_can_be_started_does_nothing_and_the_next_tries_again(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = StubPool()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: raises(RuntimeError("can't start new thread"))())
        keeper.poke(pool)
        keeper.poke(pool)
    assert pool.calls == []
    keeper.poke(pool)
    pool.wait_for_calls(1)


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
def test_the_thread_keeps_no_pool_alive(keeper: Housekeeper, answer: float | None) -> None:
    pool = [StubPool(answer)]
    keeper.poke(pool[0])
    pool[0].wait_for_calls(1)
    assert_dies(pool)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_failure_keeps_no_pool_alive(keeper: Housekeeper, error: type[BaseException]) -> None:
    kept = error("kept, with its traceback and all the frames")

    class Failing(StubPool):
        def _maintain(self) -> float | None:
            self.calls.append(0.0)
            del self
            raise kept

    pool: list[StubPool] = [Failing()]
    keeper.poke(pool[0])
    pool[0].wait_for_calls(1)
    assert_dies(pool)
    assert kept.__traceback__ is not None


def test_dead_pools_are_forgotten(keeper: Housekeeper, caplog: pytest.LogCaptureFixture) -> None:
    survivor = StubPool()
    for _ in range(50):
        pool = StubPool(LATER)
        keeper.poke(pool)
        pool.wait_for_calls(1)
        del pool
    for _ in range(50):
        keeper.poke_quietly(StubPool())  # dead before it can be called on
    keeper.poke(survivor)
    survivor.wait_for_calls(1)
    house = house_of(keeper)
    wait_until(lambda: len(house.visits) == 1, "the end of the entries")
    assert house.pokes == {}
    assert caplog.records == []


def test_a_new_pool_at_a_dead_pools_address_is_a_new_pool(keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_housekeeping, "PAUSE", LATER)
    pool = StubPool(does=raises(ValueError()))
    keeper.poke(pool)
    pool.wait_for_calls(1)
    wait_until(lambda: house_of(keeper).visits[id(pool)].barred > 0)
    # As if this stood where another has stood, which had failed.
    successor = StubPool()
    house_of(keeper).visits[id(successor)] = house_of(keeper).visits.pop(id(pool))
    keeper.poke(successor)
    successor.wait_for_calls(1)


def test_the_thread_does_not_inherit_the_context_of_who_poked_first(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []
    start = threading.Thread.start

    def look_and_start(thread: threading.Thread) -> None:
        seen.append(request.get())  # what a thread inherits, where threads do
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", look_and_start)
    token = request.set("of the first poker")
    pool = StubPool(does=lambda: seen.append(request.get()))
    keeper.poke(pool)
    pool.wait_for_calls(1)
    wait_until(lambda: len(seen) == 2, "the context")
    request.reset(token)
    assert seen == ["none", "none"]


# The end of the process

PROLOGUE = """
import atexit
import os
import threading
import time

from pgpool_rs import _housekeeping

class Pool:
    def __init__(self, answer=None, does=lambda: None):
        self.name, self.answer, self.does, self.calls = "pool", answer, does, 0

    def _maintain(self):
        self.calls += 1
        self.does()
        return self.answer

def until(condition, patience=20):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)

def poke_and_wait(pool):
    number = pool.calls
    _housekeeping.poke(pool)
    until(lambda: pool.calls > number)
"""

# The process ends well before its thread has slept enough.
IMPATIENCE = 30.0

AT_THE_END = {
    "asleep": "pool = Pool()",
    "asleep for long": "pool = Pool(600)",
    "at work": "pool = Pool(0)",
    "blocked": "pool = Pool(does=lambda: time.sleep(60))",
    "in a failure": "pool = Pool(does=lambda: 1 / 0)\nimport logging\nlogging.disable()",
    "waiting for a lock": "lock = threading.Lock()\nlock.acquire()\npool = Pool(does=lock.acquire)",
}


@pytest.mark.parametrize("state", AT_THE_END)
def test_a_process_ends_quietly_and_soon_with_its_thread(state: str) -> None:
    assert run_program(f"{PROLOGUE}\n{AT_THE_END[state]}\npoke_and_wait(pool)", timeout=IMPATIENCE) == ""


def test_the_end_of_a_process_waits_a_moment_only_for_a_pool_that_is_busy() -> None:
    output = run_program(f"""{PROLOGUE}
pool = Pool(does=lambda: time.sleep(60))
poke_and_wait(pool)
begin = time.monotonic()
_housekeeping._housekeeper.end()
print(0.1 < time.monotonic() - begin < 10)
""")
    assert output == "True\n"


def test_a_sleeping_thread_has_ended_when_the_process_ends() -> None:
    output = run_program(f"""{PROLOGUE}
pool = Pool(600)
poke_and_wait(pool)
time.sleep(0.1)
[thread] = [thread for thread in threading.enumerate() if thread.name == "pgpool_rs housekeeping"]
_housekeeping._housekeeper.end()
print(thread.is_alive())
""")
    assert output == "False\n"


def test_what_ends_later_than_the_thread_finds_it_gone() -> None:
    output = run_program(f"""
import atexit

@atexit.register  # the first to come is the last to go
def look_back():
    assert threading.active_count() == 1
    calls = pool.calls
    _housekeeping.poke(pool)
    assert threading.active_count() == 1
    assert pool.calls == calls
    print("well")
{PROLOGUE}
pool = Pool(600)
poke_and_wait(pool)
time.sleep(0.1)
""")
    assert output == "well\n"


@pytest.mark.parametrize("first", [True, False])
def test_pokes_at_the_very_end_do_nothing(first: bool) -> None:
    output = run_program(f"""{PROLOGUE}
pool = Pool()
if {first}:
    poke_and_wait(pool)
begun = pool.calls
start = threading.Thread.start
threading.Thread.start = lambda thread: (print("started"), start(thread))

class Late:
    def __init__(self):
        self.myself = self
        self.pokes = (_housekeeping.poke, _housekeeping.poke_quietly)

    def __del__(self, pool=pool, begun=begun, write=os.write, sleep=time.sleep):
        for poke in self.pokes:
            poke(pool)
        sleep(0.05)
        write(1, b"well\\n" if pool.calls == begun else b"called\\n")

# Some die while modules are being taken apart, some before and some after.
sys.late = Late()
sys.modules["late"] = Late()
_housekeeping.late = Late()
late = Late()
atexit.register(Late.__del__, late)
atexit.unregister(_housekeeping._housekeeper.end)
atexit.register(_housekeeping._housekeeper.end)
""")
    assert set(output.splitlines()) == {"well"}
    assert len(output.splitlines()) >= 4


def test_once_the_end_has_come_no_other_pool_is_called_on(keeper: Housekeeper) -> None:
    gate = Gate()
    pools = [StubPool(does=gate.pass_through) for _ in range(3)]
    for pool in pools:
        keeper.poke_quietly(pool)
    keeper.poke(pools[0])
    gate.wait_for(1)
    thread = thread_of(keeper)
    keeper.end()
    gate.release()
    thread.join(PATIENCE)
    assert sum(len(pool.calls) for pool in pools) == 1


def test_a_poke_that_the_end_overtakes_starts_no_thread(keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    note = keeper._note

    def note_and_end(pool: StubPool) -> House:
        house = note(pool)
        keeper.end()
        return house

    monkeypatch.setattr(keeper, "_note", note_and_end)
    Task(keeper.poke, StubPool()).result()
    assert house_of(keeper).thread is None


def test_a_thread_that_is_ended_as_the_process_ends_has_no_successor(
    keeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def hold_then_exit() -> None:
        gate.pass_through()
        raise SystemExit

    pool = StubPool(does=hold_then_exit)
    keeper.poke(pool)
    gate.wait_for(1)
    thread = thread_of(keeper)
    Task(keeper.end).result()
    gate.release()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert house_of(keeper).thread is None
    assert caplog.records == []


def test_a_failure_after_the_end_is_not_logged(keeper: Housekeeper, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()

    def hold_then_fail() -> None:
        gate.pass_through()
        raise ValueError

    pool = StubPool(does=hold_then_fail)
    keeper.poke(pool)
    gate.wait_for(1)
    thread = thread_of(keeper)
    keeper.end()
    gate.release()
    thread.join(PATIENCE)
    assert caplog.records == []


# Forks

FORK = f"""{PROLOGUE}
import ctypes
import signal
import traceback
import warnings

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point

def fork_by_hand():
    return ctypes.PyDLL(None).fork()  # as uWSGI does: no hook of Python's runs

def in_child(work, fork=os.fork):
    child = fork()
    if child == 0:
        signal.alarm(20)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    deadline = time.monotonic() + 30
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, status
            return
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.001)
"""


# Python's hooks free the interpreter's own lock, which a thread may hold at the fork. Without them, the thread sleeps.
@pytest.mark.parametrize(("fork", "answer"), [("os.fork", 0.01), ("os.fork", None), ("fork_by_hand", None)])
def test_in_a_child_everything_begins_anew(fork: str, answer: float | None) -> None:
    run_program(f"""{FORK}
pool, mine = Pool({answer}), Pool({answer})
poke_and_wait(pool)

def work():
    number = pool.calls
    time.sleep(0.1)
    assert pool.calls == number, "the parent's pools are called on"
    for _ in range(3):
        poke_and_wait(mine)
    assert pool.calls == number, "the parent's pools are called on"
    for _ in range(3):
        poke_and_wait(pool)  # until they poke here
    time.sleep(0.1)
    in_child(work_of_grandchild, {fork})

def work_of_grandchild():
    for _ in range(3):
        poke_and_wait(mine)

for _ in range(3):
    time.sleep(0.1)
    in_child(work, {fork})
for _ in range(3):
    poke_and_wait(pool)
""")


def test_threads_that_are_the_first_in_a_process_to_poke_share_one_thread(keeper: Housekeeper) -> None:
    barrier = threading.Barrier(2)

    class Houses(dict[int, House]):
        def get(self, process: int) -> House | None:  # type: ignore[override]
            house = super().get(process)
            if house is None:
                barrier.wait(PATIENCE)
            return house

    keeper._houses = Houses()
    pools = [StubPool(), StubPool()]
    for task in [Task(keeper.poke, pool) for pool in pools]:
        task.result()
    for pool in pools:
        pool.wait_for_calls(1)
    assert pools[0].threads == pools[1].threads


def test_in_a_child_only_a_poke_starts_the_thread() -> None:
    run_program(f"""{FORK}
pool = Pool(0.01)
poke_and_wait(pool)

def work():
    assert threading.active_count() == 1
    _housekeeping.poke_quietly(pool)
    assert threading.active_count() == 1
    number = pool.calls
    _housekeeping.poke(Pool())
    until(lambda: pool.calls > number)
    assert threading.active_count() == 2

in_child(work)
""")


def test_a_fork_while_the_thread_is_being_started_leaves_the_child_no_lock() -> None:
    run_program(f"""{FORK}
start = threading.Thread.start
inside, on = threading.Event(), threading.Event()

def held_start(thread):
    if thread.name == "pgpool_rs housekeeping":
        inside.set()
        on.wait(20)
    start(thread)

pool = Pool(0.01)
threading.Thread.start = held_start
poker = threading.Thread(target=_housekeeping.poke, args=(pool,))
poker.start()
assert inside.wait(20)
assert _housekeeping._housekeeper._houses[os.getpid()].starting.locked()

def work():
    threading.Thread.start = start
    mine = Pool(0.01)
    poke_and_wait(mine)

in_child(work)
on.set()
poker.join(20)
until(lambda: pool.calls > 3)
""")


def test_a_fork_while_a_pool_is_called_on_leaves_the_child_free() -> None:
    run_program(f"""{FORK}
inside, on = threading.Event(), threading.Event()
pool = Pool(does=lambda: (inside.set(), on.wait(20)))
poke_and_wait(pool)

def work():
    mine = Pool(0.01)
    poke_and_wait(mine)
    until(lambda: mine.calls > 3)

in_child(work)
on.set()
""")


def test_forks_among_threads_that_poke_leave_no_hung_child() -> None:
    run_program(f"""{FORK}
pools = [Pool(0) for _ in range(3)]
ended = False

def poke_on():
    while not ended:
        for pool in pools:
            _housekeeping.poke(pool)

pokers = [threading.Thread(target=poke_on) for _ in range(3)]
for poker in pokers:
    poker.start()

def work():
    mine = [Pool(0.01) for _ in range(3)]
    # The first pokes come from several threads.
    tasks = [threading.Thread(target=poke_and_wait, args=(pool,)) for pool in mine]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join(20)
    until(lambda: all(pool.calls > 2 for pool in mine))
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("pgpool_rs housekeeping") == 1, names

for _ in range(20):
    in_child(work)
ended = True
""")


def test_a_child_that_ends_like_any_program_ends_soon_and_quietly() -> None:
    output = run_program(f"""{FORK}
pool = Pool(0.01, does=lambda: time.sleep(0.001))
poke_and_wait(pool)
child = os.fork()
if child == 0:
    signal.alarm(20)
    poke_and_wait(pool)
    sys.exit(0)
until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
child = os.fork()
if child == 0:
    signal.alarm(20)
    sys.exit(0)
until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
""")
    assert output == ""


# gevent

GEVENT = """
import warnings
from gevent import monkey
monkey.patch_all()
import gevent
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_under_gevent_it_is_a_greenlet(imported: str) -> None:
    early = "from pgpool_rs import _housekeeping\n" if imported == "before" else ""
    run_program(f"""{early}{GEVENT}{PROLOGUE}
ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)

def maintain():
    assert isinstance(gevent.getcurrent(), gevent.Greenlet)
    seen.append(monkey.get_original("_thread", "get_ident")())
    before = ticks
    time.sleep(0.005)
    until(lambda: ticks > before)

seen = []
ticker = gevent.spawn(tick)
pool = Pool(0.01, maintain)
poke_and_wait(pool)
until(lambda: pool.calls > 3)
assert set(seen) == {{monkey.get_original("_thread", "get_ident")()}}, "a thread of the system's"
number = pool.calls
pool.answer = None
gevent.sleep(0.1)
for _ in range(20):
    poke_and_wait(pool)
""")


def test_under_gevent_a_pool_that_always_pokes_or_has_something_to_do_lets_others_run() -> None:
    run_program(f"""{GEVENT}{PROLOGUE}
pools = [Pool(0) for _ in range(3)]
pools[0].does = lambda: _housekeeping.poke(pools[0])
for pool in pools:
    _housekeeping.poke(pool)
until(lambda: all(pool.calls > 5 for pool in pools))
""")


def test_under_gevent_a_killed_greenlet_has_a_successor() -> None:
    run_program(f"""{GEVENT}{PROLOGUE}
import gc
import logging

logging.disable()
_housekeeping.PAUSE = 0.02

def house():
    return _housekeeping._housekeeper._houses[os.getpid()]

def greenlets():
    return [it for it in gc.get_objects() if isinstance(it, gevent.Greenlet) and not it.dead]

pool, sleepy = Pool(0.01), Pool()
poke_and_wait(pool)
for _ in range(5):
    before = house().thread
    gevent.killall(greenlets(), timeout=20)  # asleep
    number = pool.calls
    until(lambda: pool.calls > number + 2)
    assert house().thread is not before
    sleepy.does = lambda: gevent.sleep(60)
    poke_and_wait(sleepy)
    sleepy.does = lambda: None
    before = house().thread
    gevent.killall(greenlets(), timeout=20)  # in a call
    number = pool.calls
    until(lambda: pool.calls > number + 2)
    assert house().thread is not before
""")


@pytest.mark.parametrize("state", AT_THE_END)
def test_under_gevent_a_process_ends_quietly_and_soon(state: str) -> None:
    assert run_program(f"{GEVENT}{PROLOGUE}\n{AT_THE_END[state]}\npoke_and_wait(pool)", timeout=IMPATIENCE) == ""


def test_under_gevent_the_parents_greenlet_does_nothing_in_a_child() -> None:
    run_program(f"""{GEVENT}{FORK}
pool, busy = Pool(0.01), Pool(0.01, lambda: time.sleep(0.01))
poke_and_wait(pool)
poke_and_wait(busy)

def work():
    number = pool.calls
    time.sleep(0.2)
    assert pool.calls == number, "the parent's greenlet goes on"
    mine = Pool(0.01)
    poke_and_wait(mine)
    until(lambda: mine.calls > 3)
    assert pool.calls == number
    poke_and_wait(pool)
    until(lambda: pool.calls > number + 3)

in_child(work)
number = pool.calls
until(lambda: pool.calls > number + 3)
""")


def test_under_gevent_a_thread_of_the_system_may_poke() -> None:
    run_program(f"""{GEVENT}{PROLOGUE}
pool = Pool()
poke_and_wait(pool)
for _ in range(50):
    number = pool.calls
    gevent.get_hub().threadpool.apply(_housekeeping.poke, (pool,))
    until(lambda: pool.calls > number)
""")
