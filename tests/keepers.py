"""Small things in the place of pools, for a housekeeper to keep, and the beginnings of programs that have one.

A test in this process has a housekeeper of its own, so that it meets no real pool. What is for ever (a fork, an end,
monkey-patching) happens in a process of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from pgpool_rs._housekeeping import House, Housekeeper
from support import wait_until

# Longer than any test may take: what is due after this is not due.
LATER = 600.0


class StubPool:
    """Notes the calls of its `_pgpool_maintain()` and answers, or does, what it is told to."""

    def __init__(self, answer: float | None = None, does: Callable[[], object] = lambda: None) -> None:
        self.name = "pool-of-the-test"
        self.answer = answer
        self.does = does
        self.calls: list[float] = []
        self.threads: set[threading.Thread] = set()

    def _pgpool_name(self) -> str:
        return self.name

    def _pgpool_maintain(self) -> float | None:
        self.calls.append(time.monotonic())
        self.threads.add(threading.current_thread())
        self.does()
        return self.answer

    def wait_for_calls(self, number: int) -> None:
        wait_until(lambda: len(self.calls) >= number, f"call {number}")


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


PROLOGUE = """
import atexit
import os
import threading
import time

from pgpool_rs import _housekeeping

class Pool:
    def __init__(self, answer=None, does=lambda: None):
        self.name, self.answer, self.does, self.calls = "pool", answer, does, 0

    def _pgpool_name(self):
        return self.name

    def _pgpool_maintain(self):
        self.calls += 1
        self.does()
        return self.answer

def until(condition, patience=60):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)

def poke_and_wait(pool):
    number = pool.calls
    _housekeeping.housekeeper.poke(pool)
    until(lambda: pool.calls > number)
"""

# The process ends well before its thread has slept enough.
IMPATIENCE = 200.0

AT_THE_END = {
    "asleep": "pool = Pool()",
    "asleep for long": "pool = Pool(600)",
    "at work": "pool = Pool(0)",
    "blocked": "pool = Pool(does=lambda: time.sleep(600))",
    "in a failure": "pool = Pool(does=lambda: 1 / 0)\nimport logging\nlogging.disable()",
    "waiting for a lock": "lock = threading.Lock()\nlock.acquire()\npool = Pool(does=lock.acquire)",
}

FORK = f"""{PROLOGUE}
import signal
import traceback
import warnings

from processes import FORKS

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point

fork_by_hand = FORKS["fork in C"]

def in_child(work, fork=os.fork):
    child = fork()
    if child == 0:
        signal.alarm(90)
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    deadline = time.monotonic() + 100
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
