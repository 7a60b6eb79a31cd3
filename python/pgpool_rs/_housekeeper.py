"""The housekeeping thread: one for each process, for all its pools together.

A pool that has something to do, now or later, pokes. The thread then calls its `_pgpool_maintain()`, which does what is
due and answers in how many seconds there will be something again. Between two calls the thread holds a pool weakly.

A poke writes into a dict and rings a bell, and waits for nobody, so it may come at any moment, from the midst of
another poke too. The bell is a plain lock, which the thread acquires to sleep. Its release is one step; Condition and
Event, and the SimpleQueue that eventlet puts in place, hold a lock of their own meanwhile.
"""

from __future__ import annotations

import atexit
import contextvars
import logging
import math
import os
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from pgpool_rs import _log
from pgpool_rs._core import if_free, speak

if TYPE_CHECKING:
    from collections.abc import Callable

# What the thread goes by. It stays the real clock where a test replaces those of the module `time`.
clock: Callable[[], float] = time.monotonic

# All in seconds.
MIN_INTERVAL: Final = 0.01  # between two calls of one pool, unless somebody else pokes
PAUSE: Final = 1.0  # after a call that failed, whoever pokes
JOIN_TIMEOUT: Final = 0.2  # for the thread to end, at the end of the process
LONGEST_SLEEP: Final = 86_400.0  # every lock takes such a timeout, those of gevent and eventlet too


class Pool(Protocol):
    """What can be maintained."""

    def _pgpool_name(self) -> str:
        """Give the name under which a failure is logged."""

    def _pgpool_maintain(self) -> float | None:
        """Do what is due; return in how many seconds there will be something, None for not before the next poke."""


@dataclass(slots=True)
class Visit:
    """When a pool is called next, by the monotonic clock."""

    pool: weakref.ref[Pool]
    due: float
    not_before: float = -math.inf  # until then, no poke makes it due


@dataclass(slots=True)
class House:
    """What belongs to one process. The child of a fork has one of its own, and leaves its parent's as it is."""

    process: int
    # Who has poked, by id as a pool need not be hashable, and in which thread. Written by all, emptied by the thread.
    pokes: dict[int, tuple[weakref.ref[Pool], int]] = field(default_factory=dict)
    visits: dict[int, Visit] = field(default_factory=dict)  # the thread's alone
    # Held while the thread is started. Nobody waits for it: who finds it taken leaves the start to its holder.
    starting: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    bell: threading.Lock | None = None
    current: Pool | None = None  # on which the thread is calling just now

    def alive(self) -> bool:
        """Tell whether the thread is alive."""
        return self.thread is not None and self.thread.is_alive()

    def ring(self) -> None:
        """Wake the thread, or have it not fall asleep."""
        if self.bell is not None and self.bell.locked():
            with suppress(RuntimeError):  # somebody else has just rung
                self.bell.release()


class Housekeeper:
    """Calls on the pools that poke it, from a thread that is started when the first one does."""

    def __init__(self) -> None:
        self._houses: dict[int, House] = {}
        self._ended = False

    def poke(self, pool: Pool) -> None:
        """Have the pool maintained soon, for which the thread is started if there is none."""
        # Once the process ends nothing else is touched: the interpreter may have taken this module's names away.
        if not self._ended:
            house = self._note(pool)
            if not house.alive():
                self._start(house)
            house.ring()

    def poke_quietly(self, pool: Pool) -> None:
        """Have the pool maintained soon if the thread runs, else once it does. Safe in a weak reference's callback."""
        if not self._ended:
            self._note(pool).ring()

    def current_pool(self) -> Pool | None:
        """Return the pool on which this thread is calling, if this is the housekeeping thread."""
        house = self._house()
        is_here = house.thread is not None and house.thread.ident == threading.get_ident()
        return house.current if is_here else None

    def cares_for(self, pool: Pool) -> bool:
        """Tell whether the pool has poked, so that the thread calls on it."""
        house, number = self._house(), id(pool)
        poke, visit = house.pokes.get(number), house.visits.get(number)
        return (poke is not None and poke[0]() is pool) or (visit is not None and visit.pool() is pool)

    def end(self) -> None:
        """Let the thread go, and do nothing from now on; wait a moment if it is just calling on a pool."""
        self._ended = True
        house = self._house()
        if house.thread is not None and house.alive():
            house.ring()
            house.thread.join(JOIN_TIMEOUT)

    def _house(self) -> House:
        # Asked for by process id, as not everything that forks runs the hooks of os.register_at_fork; uWSGI does not.
        process = os.getpid()
        return self._houses.get(process) or self._houses.setdefault(process, House(process))

    def _note(self, pool: Pool) -> House:
        house = self._house()
        house.pokes[id(pool)] = weakref.ref(pool), threading.get_ident()
        return house

    def _on_duty(self, house: House) -> bool:
        # A greenlet lives on in the child of a fork, where it has no business.
        return not self._ended and house.process == os.getpid()

    def _start(self, house: House) -> None:
        # Asked again afterwards: a thread that has died meanwhile found the lock taken and left this to us.
        # There are too many threads, or no memory or stack, or the process ends; the next poke tries again.
        with suppress(RuntimeError, MemoryError, OSError):
            begin = partial(self._begin, house)
            while self._on_duty(house) and not house.alive() and if_free(house.starting, begin):
                pass

    def _begin(self, house: House) -> None:
        if not house.alive():
            house.bell = threading.Lock()
            house.bell.acquire()
            house.thread = threading.Thread(target=self._run, args=(house,), name="pgpool_rs housekeeping", daemon=True)
            # In a context of its own, since it outlives that of the request that happened to poke first.
            try:
                contextvars.Context().run(house.thread.start)
            except KeyError as error:
                # CPython's own, where an Exception struck `start` once the thread had begun.
                raise error.__context__ or error from None

    def _run(self, house: House) -> None:
        try:
            while self._on_duty(house):
                self._make_round(house)
                self._sleep(house)
        except BaseException as error:  # noqa: BLE001  (SystemExit, GreenletExit and the like end this thread, quietly)
            house.thread = None
            if self._on_duty(house):
                self._start(house)
                text = "the housekeeping thread was ended by %s; another takes its place"
                ended_by = type(error).__name__
                _say(logging.WARNING, text, None, "thread_ended", ended_by, ended_by + _place(error))

    def _make_round(self, house: House) -> None:
        now = clock()
        while house.pokes:
            number, (pool, poker) = house.pokes.popitem()
            visit = house.visits.get(number)
            if visit is None or visit.pool is not pool:
                visit = house.visits[number] = Visit(pool, now)
            # What a pool does in its `_pgpool_maintain()` may poke. That is no reason to call it without end.
            breath = MIN_INTERVAL if poker == threading.get_ident() else 0.0
            visit.due = max(now + breath, visit.not_before)
        for number, visit in list(house.visits.items()):
            if visit.pool() is None:
                del house.visits[number]
            elif visit.due <= now and self._on_duty(house):
                self._call_on(house, visit)

    def _call_on(self, house: House, visit: Visit) -> None:
        pool = visit.pool()
        if pool is None:
            return
        # Set beforehand, so that it holds however the call ends.
        visit.due = visit.not_before = clock() + PAUSE
        try:
            house.current = pool
            pause = type(pool)._pgpool_maintain(pool)
            visit.due = math.inf if pause is None else clock() + max(MIN_INTERVAL, pause)
            visit.not_before = -math.inf
        except Exception as error:  # noqa: BLE001
            if not self._ended:
                # No text and no line of source: they could show a password.
                name, failure = type(pool)._pgpool_name(pool), type(error).__name__
                text = "housekeeping of %s failed with %s; it goes on in %g s"
                _say(logging.ERROR, text, name, "housekeeping_failed", failure, name, failure + _place(error), PAUSE)
        finally:
            house.current = None
            del pool  # which a traceback would keep alive

    def _sleep(self, house: House) -> None:
        due = min((visit.due for visit in house.visits.values()), default=math.inf)
        # At least a moment, so that other greenlets have their turn.
        pause = -1 if due == math.inf else min(max(due - clock(), 0.001), LONGEST_SLEEP)
        if house.bell is not None:
            house.bell.acquire(timeout=pause)


def _place(error: BaseException) -> str:
    """Tell where an error was raised, if that was in Python."""
    traceback = error.__traceback__
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f" ({code.co_filename}:{traceback.tb_lineno} in {code.co_name})"


def _say(level: int, template: str, pool: str | None, event: str, reason: str, *args: object) -> None:
    if _log.is_heard("housekeeping", level):
        speak(partial(_log.write, level, template, args, pool, event, reason, "housekeeping"))


housekeeper: Final = Housekeeper()
atexit.register(housekeeper.end)
