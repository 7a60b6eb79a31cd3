"""Stubs that a housekeeper maintains in place of pools, and the beginnings of programs with a housekeeper.

A test in this process has a housekeeper of its own, so that it meets no real pool. What is for ever (a fork, an end,
monkey-patching) happens in a process of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgpool_rs._housekeeper import House, Housekeeper
from tests.lib.waits import wait_until

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

    def poked(self, housekeeper: Housekeeper) -> StubPool:
        """Poke the housekeeper and wait for the first call."""
        housekeeper.poke(self)
        self.wait_for_calls(1)
        return self

    def wait_for_calls(self, number: int) -> None:
        wait_until(lambda: len(self.calls) >= number, f"call {number}")


def raises_once(error: BaseException) -> Callable[..., object]:
    left = [error]

    def do(*_: object) -> None:
        if left:
            raise left.pop()

    return do


def house_of(housekeeper: Housekeeper) -> House:
    return housekeeper._houses[os.getpid()]


def thread_of(housekeeper: Housekeeper) -> threading.Thread:
    thread = house_of(housekeeper).thread
    assert thread is not None
    return thread


def assert_asleep(housekeeper: Housekeeper) -> None:
    """Assert that the thread comes to rest: that it does no more rounds of its own accord."""
    rounds: list[House] = []
    make_round = housekeeper._make_round

    def note_round(house: House) -> None:
        rounds.append(house)
        make_round(house)

    def quiet() -> bool:
        before = len(rounds)
        time.sleep(0.15)
        return len(rounds) == before and not house_of(housekeeper).pokes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(housekeeper, "_make_round", note_round)
        wait_until(quiet, "rest")


def let_rest(housekeeper: Housekeeper) -> None:
    """Wait until the thread sleeps, after it has done what it was poked for, or is gone. Then no clock moves it."""

    def rests() -> bool:
        house = house_of(housekeeper)
        thread = house.thread
        if thread is None:
            return not house.is_needed()
        path = Path(f"/proc/self/task/{thread.native_id}/stat")
        return not house.pokes and house.current is None and path.read_text().rpartition(")")[2].split()[0] == "S"

    wait_until(rests, "rest")


PROLOGUE = """
import atexit
import os
import sys
import threading
import time

from pgpool_rs import _housekeeper
from tests.lib.waits import wait_until as until

class Pool:
    def __init__(self, answer=None, does=lambda: None):
        self.name, self.answer, self.does, self.calls = "pool", answer, does, 0

    def _pgpool_name(self):
        return self.name

    def _pgpool_maintain(self):
        self.calls += 1
        self.does()
        return self.answer

def poke_and_wait(pool):
    number = pool.calls
    _housekeeper.housekeeper.poke(pool)
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

from tests.lib.programs import expect_threads_at_forks, in_a_child, show_stacks_when_asked

show_stacks_when_asked()
expect_threads_at_forks()
"""
