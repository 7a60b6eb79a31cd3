"""gevent and eventlet under one face, for programs that interrupt greenlets at every moment of a call.

`patch` must come first in a program, before what it patches is imported by others.
"""

from __future__ import annotations

import importlib
import itertools
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

INTERRUPTIONS = ("kill", "Timeout")


class Green:
    """A function that runs in a greenlet of its own, with its outcome."""

    def __init__(self, loop: Loop, function: Callable[..., Any], *args: Any) -> None:
        """Let it begin at the loop's next turn."""
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._loop = loop
        self.greenlet = loop.spawn(self._run, function, args)

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self.value = function(*args)
        except BaseException as error:
            # Its traceback would keep alive what died with it: a connection that was being opened, for instance.
            self.error = error.with_traceback(None)
            self.error.__context__ = None
        finally:
            self.done = True

    def result(self) -> Any:
        """Wait for the end; return what it returned or raise what it raised."""
        self._loop.until(lambda: self.done, "the greenlet's end")
        if self.error is not None:
            raise self.error
        return self.value

    @property
    def was_interrupted(self) -> bool:
        """Tell whether it was ended by an interruption."""
        return isinstance(self.error, self._loop.interruptions)


class Loop:
    """What both libraries have, under one name each."""

    interruptions: tuple[type[BaseException], ...]
    spawn: Callable[..., Any]
    sleep: Callable[[float], object]

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call this in the loop before anything that waits for a file or a timer goes on."""
        raise NotImplementedError

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        """Call this in the loop after a while."""
        raise NotImplementedError

    def throw(self, how: str, greenlet: Any) -> None:
        """Interrupt a greenlet, from within the loop."""
        raise NotImplementedError

    def limit(self, seconds: float) -> Any:
        """Give the library's Timeout, which ends a block that takes longer."""
        raise NotImplementedError

    def until(self, condition: Callable[[], bool], what: str = "the condition") -> None:
        """Wait until the condition holds, while other greenlets run."""
        from pgpool_rs.testing import PATIENCE  # not before `patch`

        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} never came")
            self.sleep(0.0002)

    def interrupt(self, green: Green, how: str) -> None:
        """Interrupt it now, unless it has ended."""
        self.soon(self._throw_unless_done, green, how)

    def _throw_unless_done(self, green: Green, how: str) -> None:
        if not green.done:
            self.throw(how, green.greenlet)

    def run_until_departure(self, number: int, how: str, function: Callable[[], object]) -> bool:
        """Run a function in a greenlet and interrupt it when it has left for the loop this many times.

        A greenlet can be interrupted only while it is away, so that 1, 2, 3, ... are all the moments there are.
        Returns whether it left that often.
        """
        trace = importlib.import_module("greenlet").settrace
        departures = 0

        def watch(_: str, change: tuple[Any, Any]) -> None:
            nonlocal departures
            if change[0] is green.greenlet and not green.done:
                departures += 1
                if departures == number:
                    self.interrupt(green, how)

        green = Green(self, function)
        trace(watch)
        try:
            self.until(lambda: green.done, f"the end after departure {number}")
        finally:
            trace(None)
        return departures >= number

    def sweep(self, function: Callable[[], object], check: Callable[[], object]) -> int:
        """Interrupt a function at each moment it has, in both ways, and check each time; return how often."""
        rounds = 0
        for how in INTERRUPTIONS:
            for number in itertools.count(1):
                reached = self.run_until_departure(number, how, function)
                try:
                    check()
                except AssertionError as error:
                    raise AssertionError(f"after {how} at departure {number}: {error}") from error
                if not reached:
                    break
                rounds += 1
                assert number < 1000, "there is no end of it"
        return rounds

    def sprinkle(self, function: Callable[[], object], check: Callable[[], object], rounds: int, most: float) -> int:
        """Interrupt a function after a random while of `most` seconds at most; return how often it was hit."""
        chance = random.Random(rounds)
        hits = 0
        for _ in range(rounds):
            green = Green(self, function)
            self.later(chance.random() * most, self._throw_unless_done, green, chance.choice(INTERRUPTIONS))
            self.until(lambda green=green: green.done, "the greenlet's end")  # type: ignore[misc]
            hits += green.was_interrupted
            check()
        return hits


class _Gevent(Loop):
    def __init__(self, psycogreen: bool) -> None:
        importlib.import_module("gevent.monkey").patch_all()
        self._gevent = gevent = importlib.import_module("gevent")
        self._loop = gevent.get_hub().loop
        self.interruptions = (gevent.GreenletExit, gevent.Timeout)
        self.spawn = gevent.spawn
        self.sleep = gevent.sleep
        self._timers: list[Any] = []
        if psycogreen:
            importlib.import_module("psycogreen.gevent").patch_psycopg()

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        self._loop.run_callback(function, *args)

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        timer = self._loop.timer(seconds)
        timer.start(function, *args)
        self._timers[:] = [*(old for old in self._timers if old.active), timer]

    def throw(self, how: str, greenlet: Any) -> None:
        if how == "kill":
            greenlet.kill(block=False)
        else:
            greenlet.throw(self._gevent.Timeout(0.001))

    def limit(self, seconds: float) -> Any:
        return self._gevent.Timeout(seconds)


class _Eventlet(Loop):
    def __init__(self, psycogreen: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that its days are numbered
            self._eventlet = eventlet = importlib.import_module("eventlet")
            eventlet.monkey_patch(psycopg=False)  # else it sets a wait callback, too
        self._hub = importlib.import_module("eventlet.hubs").get_hub()
        self.interruptions = (importlib.import_module("greenlet").GreenletExit, eventlet.Timeout)
        self.spawn = eventlet.spawn
        self.sleep = eventlet.sleep
        if psycogreen:
            importlib.import_module("psycogreen.eventlet").patch_psycopg()

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        self._hub.schedule_call_global(0, function, *args)

    def later(self, seconds: float, function: Callable[..., object], *args: Any) -> None:
        self._hub.schedule_call_global(seconds, function, *args)

    def throw(self, how: str, greenlet: Any) -> None:
        if how == "kill":
            self._eventlet.kill(greenlet)
        else:
            greenlet.throw(self._eventlet.Timeout())

    def limit(self, seconds: float) -> Any:
        return self._eventlet.Timeout(seconds)


def patch(library: str, *, psycogreen: bool) -> Loop:
    """Patch the standard library for `gevent` or `eventlet`, and psycopg2 with psycogreen's wait callback or not."""
    return {"gevent": _Gevent, "eventlet": _Eventlet}[library](psycogreen)
