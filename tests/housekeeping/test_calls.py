"""When the housekeeping thread calls on a pool: after each poke, when a time has come, and when a call has failed."""

from __future__ import annotations

import gc
import logging
import re
import sys
import threading
import weakref
from typing import Any

import pytest

from pgpool_rs import _housekeeper
from pgpool_rs._housekeeper import Housekeeper
from pgpool_rs.testing import Gate
from tests.lib.callbacks import raiser
from tests.lib.housekeepers import LATER, StubPool, assert_asleep, house_of, raises_once
from tests.lib.programs import run_program
from tests.lib.waits import Task, wait_until


class Awkward(StubPool):
    """Is neither hashable nor to be compared nor to be asked whether it is true."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")


# Pokes and due times


def test_what_was_poked_quietly_before_the_thread_ran_is_maintained_once_it_does(housekeeper: Housekeeper) -> None:
    quiet, loud = StubPool(), StubPool()
    housekeeper.poke_quietly(quiet)
    housekeeper.poke(loud)
    quiet.wait_for_calls(1)


def test_each_poke_of_a_sleeping_thread_brings_a_call(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    for number in range(1, 200):
        (housekeeper.poke if number % 2 else housekeeper.poke_quietly)(pool)
        pool.wait_for_calls(number)


def test_a_poke_in_the_midst_of_a_call_brings_one_more_call(housekeeper: Housekeeper) -> None:
    gate = Gate()
    pool = StubPool(does=gate.pass_through)
    housekeeper.poke(pool)
    gate.wait_for(1)
    for _ in range(100):
        housekeeper.poke(pool)
    gate.release()
    pool.wait_for_calls(2)
    assert_asleep(housekeeper)
    assert len(pool.calls) == 2


def test_a_pool_is_called_again_when_it_said_so(housekeeper: Housekeeper) -> None:
    pool = StubPool(answer=0.05)
    housekeeper.poke(pool)
    pool.wait_for_calls(4)
    assert all(later - earlier >= 0.05 for earlier, later in zip(pool.calls, pool.calls[1:], strict=False))


def test_the_earliest_of_many_due_times_is_kept(housekeeper: Housekeeper) -> None:
    late, soon, never = StubPool(answer=LATER), StubPool(answer=0.02), StubPool()
    for pool in (late, soon, never):
        housekeeper.poke(pool)
    soon.wait_for_calls(5)
    assert len(late.calls) == 1
    assert len(never.calls) == 1


@pytest.mark.parametrize("answer", [None, LATER, float("inf"), 1e300])
def test_a_thread_with_nothing_to_do_sleeps_without_polling(housekeeper: Housekeeper, answer: float | None) -> None:
    pool = StubPool(answer).poked(housekeeper)
    assert_asleep(housekeeper)
    assert len(pool.calls) == 1
    housekeeper.poke(pool)
    pool.wait_for_calls(2)


@pytest.mark.parametrize("answer", [0, 0.0, -5.0, float("-inf"), float("nan")])
def test_a_pool_that_always_has_something_to_do_is_not_called_without_pause(
    housekeeper: Housekeeper, answer: float
) -> None:
    pool = StubPool(answer)
    housekeeper.poke(pool)
    pool.wait_for_calls(10)
    assert all(later - earlier >= 0.0099 for earlier, later in zip(pool.calls, pool.calls[1:], strict=False))


def test_a_pool_that_pokes_while_it_is_maintained_is_not_called_without_pause(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    pool.does = lambda: housekeeper.poke(pool)
    housekeeper.poke(pool)
    pool.wait_for_calls(10)
    assert all(later - earlier >= 0.0099 for earlier, later in zip(pool.calls, pool.calls[1:], strict=False))
    del pool.does


def test_a_pool_that_is_poked_all_the_time_does_not_keep_the_others_waiting(housekeeper: Housekeeper) -> None:
    busy, other = StubPool(), StubPool(answer=0.01)
    ended = threading.Event()

    def poke_on() -> None:
        while not ended.is_set():
            housekeeper.poke(busy)

    pokers = [Task(poke_on) for _ in range(3)]
    housekeeper.poke(other)
    try:
        other.wait_for_calls(5)
    finally:
        ended.set()
        for poker in pokers:
            poker.result()


def test_a_pool_may_refuse_to_be_hashed_or_compared(housekeeper: Housekeeper) -> None:
    pools = [Awkward(answer=0.01) for _ in range(3)]
    for _ in range(2):
        for pool in pools:
            housekeeper.poke(pool)
            housekeeper.poke_quietly(pool)
    for pool in pools:
        pool.wait_for_calls(3)


# Pokes at any moment


def test_a_quiet_poke_may_come_at_every_step_of_a_poke(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    steps = 0

    def poke_at_every_step(frame: Any, _event: str, _argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += 1
        housekeeper.poke_quietly(pool)
        return poke_at_every_step

    def poke() -> None:
        sys.settrace(poke_at_every_step)
        try:
            housekeeper.poke(pool)  # starts the thread
            housekeeper.poke(pool)
            housekeeper.poke_quietly(pool)
        finally:
            sys.settrace(None)

    Task(poke).result()
    assert steps > 100
    number = len(pool.calls)
    housekeeper.poke(pool)
    pool.wait_for_calls(number + 1)


def test_quiet_pokes_from_the_garbage_collection_do_no_harm(housekeeper: Housekeeper) -> None:
    pool = StubPool()
    poked = []

    class Loan:
        def __init__(self) -> None:
            self.myself = self

    def lost(reference: weakref.ref[Loan]) -> None:
        housekeeper.poke_quietly(pool)
        poked.append(reference)

    threshold = gc.get_threshold()
    gc.set_threshold(5)
    try:

        def lose_loans() -> None:
            for _ in range(500):
                references = [weakref.ref(Loan(), lost) for _ in range(5)]
                housekeeper.poke(pool)
                del references[:2]

        for task in [Task(lose_loans) for _ in range(4)]:
            task.result()
    finally:
        gc.set_threshold(*threshold)
    assert poked
    number = len(pool.calls)
    housekeeper.poke(pool)
    pool.wait_for_calls(number + 1)


def test_a_signal_in_the_midst_of_a_poke_loses_nothing() -> None:
    output = run_program("""
import signal
import time

from pgpool_rs import _housekeeper

class Pool:
    name = "pool"
    calls = 0

    def _pgpool_maintain(self):
        self.calls += 1

pool, other = Pool(), Pool()
poked = 0
armed = False

def interrupt(*_):
    global armed, poked
    poked += 1
    _housekeeper.housekeeper.poke(other)
    if armed and poked % 3 == 0:
        armed = False
        raise InterruptedError

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
while poked < 600:
    try:
        armed = True
        _housekeeper.housekeeper.poke(pool)
        armed = False
    except InterruptedError:
        pass
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0)
for each in (pool, other):
    number = each.calls
    _housekeeper.housekeeper.poke(each)
    deadline = time.monotonic() + 90
    while each.calls == number:
        assert time.monotonic() < deadline
        time.sleep(0.001)
print("well")
""")
    assert output == "well\n"


# Failures


@pytest.mark.usefixtures("short_pause")
def test_a_pool_that_fails_is_tried_again_and_the_others_go_on(housekeeper: Housekeeper) -> None:
    bad, good = StubPool(does=raiser(ValueError("no"))), StubPool(answer=0.01)
    housekeeper.poke(bad)
    housekeeper.poke(good)
    bad.wait_for_calls(3)
    good.wait_for_calls(5)
    assert bad.threads == good.threads
    assert len(bad.threads) == 1


def test_an_exception_that_strikes_as_a_poke_is_taken_loses_no_poke(housekeeper: Housekeeper) -> None:
    class Struck(dict[Any, Any]):
        strikes = 1

        def pop(self, *args: Any) -> Any:
            taken = super().pop(*args)
            if self.strikes:
                self.strikes -= 1
                raise SystemExit
            return taken

        def popitem(self) -> Any:
            taken = super().popitem()
            self.pop(None, None)
            return taken

    pool = StubPool().poked(housekeeper)
    pool.wait_for_calls(1)
    house_of(housekeeper).pokes = Struck()
    pool.poked(housekeeper)
    pool.wait_for_calls(2)


def test_a_pool_that_failed_has_a_pause_whoever_pokes(
    housekeeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _housekeeper.PAUSE == 1.0
    monkeypatch.setattr(_housekeeper, "PAUSE", 0.2)
    bad, good = StubPool(does=raises_once(ValueError("no"))), StubPool()
    bad.poked(housekeeper)
    monkeypatch.setattr(_housekeeper, "PAUSE", LATER)
    for number in range(1, 6):
        housekeeper.poke(bad)
        housekeeper.poke(good)
        good.wait_for_calls(number)
    bad.wait_for_calls(2)
    first, second, *more = bad.calls
    assert second - first >= 0.2
    housekeeper.poke(bad)
    bad.wait_for_calls(3 + len(more))  # it is well again, and called at once


def test_an_answer_that_is_no_number_is_a_failure(housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture) -> None:
    pool = StubPool()
    pool.answer = "soon"  # type: ignore[assignment]
    housekeeper.poke(pool)
    wait_until(lambda: "TypeError" in caplog.text, "the log line")


def test_a_failure_is_logged_by_its_class_and_nothing_else(
    housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "password=hunter2"

    class ConnectFailed(Exception):
        pass

    try:
        raise ValueError(secret)
    except ValueError as error:
        failure = ConnectFailed(secret)
        failure.__context__ = error
    pool = StubPool(does=raiser(failure))
    housekeeper.poke(pool)
    wait_until(lambda: bool(caplog.records), "the log line")
    [record] = caplog.records
    assert record.name == "pgpool_rs.housekeeping"
    assert record.levelno == logging.ERROR
    assert re.fullmatch(
        r"the housekeeper failed to maintain pool-of-the-test: ConnectFailed \(.*callbacks\.py:\d+ in do\); "
        r"it tries again in 1 s",
        record.getMessage(),
    )
    assert record.exc_info is None
    assert record.stack_info is None
    assert "hunter2" not in caplog.text + repr(vars(record))
