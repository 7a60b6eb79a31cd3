"""The housekeeper: one thread in each process, which maintains all pools of the process.

A pool that has something to do, now or later, pokes the housekeeper. The thread then calls the pool's
`_pgpool_maintain()`, which does what is due and returns after how many seconds the thread is to call again. Between two
calls the thread holds only a weak reference to the pool. It ends once no pool is open that has poked.

A poke writes into a dict and wakes the thread. It never waits, so a pool may poke at any moment, also in the middle of
another poke. The parker is a plain lock, which the thread acquires to sleep, since releasing a lock is one step.
Condition and Event hold a lock of their own meanwhile, and so does the SimpleQueue that eventlet puts in place.
"""

from __future__ import annotations

import atexit
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
from pgpool_rs._threads import CANNOT_START, MOST_STARTS, start

if TYPE_CHECKING:
    from collections.abc import Callable

# The thread's clock. It stays the real one where a test replaces the clocks of the module `time`.
clock: Callable[[], float] = time.monotonic

# All in seconds.
MIN_INTERVAL: Final = 0.01  # between two calls of one pool, unless another thread pokes
PAUSE: Final = 1.0  # after a call that failed, even if another thread pokes
JOIN_TIMEOUT: Final = 0.2  # how long the end of the process waits for the thread
LONGEST_SLEEP: Final = 86_400.0  # every lock takes such a timeout, gevent's and eventlet's too

CLOSED: Final = -1.0  # what a pool that is closed answers


class Pool(Protocol):
    """What the housekeeper needs of a pool."""

    def _pgpool_name(self) -> str:
        """Return the name that the log uses."""

    def _pgpool_maintain(self) -> float | None:
        """Do what is due. Return the seconds until something is due again.

        None: nothing is, before the next poke. `CLOSED`: the pool is closed.
        """


@dataclass(slots=True)
class Visit:
    """When the thread calls a pool next, by the monotonic clock."""

    pool: weakref.ref[Pool]
    due: float
    not_before: float = -math.inf  # a poke makes no call due before this


@dataclass(slots=True)
class House:
    """The housekeeper's state in one process. The child of a fork makes its own, and leaves its parent's as it is."""

    process: int
    # The pools that have poked, by id since a pool need not be hashable, each with the thread that poked. All threads
    # write here; the housekeeping thread empties it.
    pokes: dict[int, tuple[weakref.ref[Pool], int]] = field(default_factory=dict)
    visits: dict[int, Visit] = field(default_factory=dict)  # used by the thread alone
    # Held while the thread is started. No caller waits for it: one that finds it taken leaves the start to its holder.
    starting: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    parker: threading.Lock | None = None
    current: Pool | None = None  # the pool that the thread is calling now

    def alive(self) -> bool:
        """Return whether the thread is alive."""
        return self.thread is not None and self.thread.is_alive()

    def is_needed(self) -> bool:
        """Return whether the thread has a pool to call, now or later."""
        return bool(self.pokes or self.visits)

    def wake(self) -> None:
        """Wake the thread, or keep it from falling asleep."""
        if self.parker is not None and self.parker.locked():
            with suppress(RuntimeError):  # another thread has just woken it
                self.parker.release()


class Housekeeper:
    """Calls the pools that poke it, in a thread that the first poke starts."""

    def __init__(self) -> None:
        self._houses: dict[int, House] = {}
        self._ended = False

    def poke(self, pool: Pool) -> None:
        """Have the pool maintained soon. Start the thread if none runs."""
        # At the end of the process, touch nothing else: the interpreter may have cleared this module's names.
        if not self._ended:
            house = self._note(pool)
            if not house.alive():
                self._start(house)
            house.wake()

    def poke_quietly(self, pool: Pool) -> None:
        """Have the pool maintained as soon as the thread runs. Safe in a weak reference's callback."""
        if not self._ended:
            self._note(pool).wake()

    def end_visits(self, pool: Pool) -> None:
        """Have the thread, if it runs, learn that the pool is closed. Start none for that."""
        if not self._ended and self._house().alive():
            self._note(pool).wake()

    def current_pool(self) -> Pool | None:
        """Return the pool that this thread is calling, if this is the housekeeping thread."""
        house = self._house()
        is_here = house.thread is not None and house.thread.ident == threading.get_ident()
        return house.current if is_here else None

    def cares_for(self, pool: Pool) -> bool:
        """Return whether the pool has poked, so that the thread calls it."""
        house, number = self._house(), id(pool)
        poke, visit = house.pokes.get(number), house.visits.get(number)
        return (poke is not None and poke[0]() is pool) or (visit is not None and visit.pool() is pool)

    def end(self) -> None:
        """End the thread and ignore all further pokes. Wait `JOIN_TIMEOUT` seconds at most for a call that runs."""
        self._ended = True
        house = self._house()
        if house.thread is not None and house.alive():
            house.wake()
            house.thread.join(JOIN_TIMEOUT)

    def _house(self) -> House:
        # By process id, since not everything that forks runs the hooks of os.register_at_fork; uWSGI does not.
        process = os.getpid()
        return self._houses.get(process) or self._houses.setdefault(process, House(process))

    def _note(self, pool: Pool) -> House:
        house = self._house()
        house.pokes[id(pool)] = weakref.ref(pool), threading.get_ident()
        return house

    def _on_duty(self, house: House) -> bool:
        # A greenlet goes on in the child of a fork, where it must do nothing.
        return not self._ended and house.process == os.getpid()

    def _start(self, house: House) -> None:
        # Look again after each try: a thread that died meanwhile found the lock taken and left the restart to us.
        # The next poke tries again, and so it does after a thread that dies each time.
        with suppress(*CANNOT_START):
            begin = partial(self._begin, house)
            for _ in range(MOST_STARTS):
                done = house.alive() or not house.is_needed() or not self._on_duty(house)
                if done or not if_free(house.starting, begin):
                    break

    def _begin(self, house: House) -> None:
        if not house.alive():
            house.parker = threading.Lock()
            house.parker.acquire()
            house.thread = threading.Thread(target=self._run, args=(house,), name="pgpool_rs housekeeping", daemon=True)
            start(house.thread)

    def _run(self, house: House) -> None:
        try:
            while self._on_duty(house):
                self._make_round(house)
                if not house.is_needed():
                    # No pool needs the thread. A poke that saw it alive until now starts the next one here.
                    house.thread = None
                    if house.pokes:
                        self._start(house)
                    return
                self._sleep(house)
        except BaseException as error:  # noqa: BLE001  (SystemExit, GreenletExit and the like end this thread quietly)
            house.thread = None
            if self._on_duty(house):
                self._start(house)
                text = "%s ended the housekeeping thread; a new thread takes its place"
                ended_by = type(error).__name__
                _say(logging.WARNING, text, None, "thread_ended", ended_by, ended_by + _log.place(error))

    def _make_round(self, house: House) -> None:
        now = clock()
        for number, poke in list(house.pokes.items()):
            pool, poker = poke
            visit = house.visits.get(number)
            if visit is None or visit.pool is not pool:
                visit = house.visits[number] = Visit(pool, now)
            # A pool may poke from within `_pgpool_maintain()`. The thread must not call it without a pause.
            pause = MIN_INTERVAL if poker == threading.get_ident() else 0.0
            visit.due = max(now + pause, visit.not_before)
            # Last, so that an exception that strikes this thread loses no poke.
            taken = house.pokes.pop(number, poke)
            if taken is not poke:  # it came meanwhile, perhaps from another pool with this id
                house.pokes.setdefault(number, taken)
        for number, visit in list(house.visits.items()):
            if visit.pool() is None:
                del house.visits[number]
            elif visit.due <= now and self._on_duty(house):
                self._call(house, visit)

    def _call(self, house: House, visit: Visit) -> None:
        pool = visit.pool()
        if pool is None:
            return
        # Set first, so that the pause holds however the call ends.
        visit.due = visit.not_before = clock() + PAUSE
        try:
            house.current = pool
            pause = type(pool)._pgpool_maintain(pool)
            visit.due = math.inf if pause is None else clock() + max(MIN_INTERVAL, pause)
            visit.not_before = -math.inf
            if pause == CLOSED:
                house.visits.pop(id(pool), None)
        except Exception as error:  # noqa: BLE001
            if not self._ended:
                # Log no text and no line of source: they could show a password.
                name, failure = type(pool)._pgpool_name(pool), type(error).__name__
                text = "the housekeeper failed to maintain %s: %s; it tries again in %g s"
                _say(
                    logging.ERROR, text, name, "housekeeping_failed", failure, name, failure + _log.place(error), PAUSE
                )
        finally:
            house.current = None
            del pool  # a traceback would keep it alive

    def _sleep(self, house: House) -> None:
        due = min((visit.due for visit in house.visits.values()), default=math.inf)
        # Sleep at least a moment, so that other greenlets run.
        pause = -1 if due == math.inf else min(max(due - clock(), 0.001), LONGEST_SLEEP)
        if house.parker is not None:
            house.parker.acquire(timeout=pause)


def _say(level: int, template: str, pool: str | None, event: str, reason: str, *args: object) -> None:
    if _log.is_heard("housekeeping", level):
        speak(partial(_log.write, level, template, args, pool, event, reason, "housekeeping"))


housekeeper: Final = Housekeeper()
atexit.register(housekeeper.end)
