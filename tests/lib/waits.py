"""Threads, and waits for what they come to: bounded, and ended by an event."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from pgpool_rs.testing import PATIENCE, Gate

T = TypeVar("T")


class Task(Generic[T]):
    """A function that runs in a thread of its own, and its result, which a test waits for."""

    def __init__(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        """Start at once."""
        self._call = functools.partial(function, *args, **kwargs)
        self._result: T | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        """Tell whether it has ended."""
        return not self._thread.is_alive()

    @property
    def ident(self) -> int:
        """Tell the thread's id."""
        assert self._thread.ident is not None
        return self._thread.ident

    def wait(self) -> None:
        """Wait until it has ended, whatever the outcome."""
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise AssertionError("the task hangs")

    def result(self) -> T:
        """Wait for the end; return what it returned or raise what it raised."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]


@contextmanager
def held(gate: Gate, function: Callable[..., T], *args: Any, **kwargs: Any) -> Iterator[Task[T]]:
    """Start a task that comes to the gate, which holds it there until the end of the block."""
    with gate:
        task = Task(function, *args, **kwargs)
        gate.wait_for()
        yield task


def wait_until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait until the condition holds, within the patience of these tests."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} never came")
        time.sleep(0.0005)


def counts(pool: Any) -> dict[str, int]:
    """Read the numbers that repr(pool) shows: idle, lent, opening, returning, waiting, minconn, maxconn."""
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", repr(pool))}


def wait_for_waiters(pool: Any, number: int) -> None:
    """Wait until this many callers of getconn are queued."""
    wait_until(lambda: counts(pool)["waiting"] == number, f"{number} waiters")


def waiting_task(pool: Any, **kwargs: Any) -> Task[Any]:
    """Start a getconn that has to wait, and return once it is queued."""
    before = counts(pool)["waiting"]
    task: Task[Any] = Task(pool.getconn, **{"timeout": None, **kwargs})
    wait_for_waiters(pool, before + 1)
    return task
