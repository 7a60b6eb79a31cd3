"""The process that is watched: a pool with every option on, its users, and nothing else.

It reads what it needs from its standard input, a JSON object in a line, and then takes orders, one a line, and answers
each with a JSON object: `report`, `rest`, `go` after a rest, and `end`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import linecache
import logging
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, final

from dev.load import Crowd
from dev.soak.callbacks import Callbacks
from dev.soak.habits import Habit, Holders
from dev.soak.operators import MAXCONN, MINCONN, Operators
from dev.soak.tally import Tally
from pgpool_rs import PoolExhausted, ThreadedConnectionPool

THREADS = 16
TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=2"
"""The environment's GLIBC_TUNABLES. What lies in a thread's own cache of free memory would count as given out; and each
of 16 arenas would grow to what one thread in it once needed, so that resident memory would rise by steps for hours."""
PATIENCE = 10.0  # Seconds in which the pool lends all its connections again, or has lost one.


@final
class Listener(logging.Handler):
    """Formats all that is logged, as any handler does, and keeps the number of lines alone."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)
        self.lines += 1


@final
class Subject:
    """Owns the pool and all who use it."""

    def __init__(self, address: dict[str, Any], seed: int) -> None:
        self.listener = Listener()
        logger = logging.getLogger("pgpool_rs")
        logger.addHandler(self.listener)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        self.tally = Tally()
        self.callbacks = Callbacks(f"{seed} callbacks")
        self.pool = ThreadedConnectionPool(
            MINCONN,
            MAXCONN,
            **address,
            timeout=2.0,
            max_waiting=12,
            name="soak",
            check=self.callbacks.check,
            check_after=0.05,
            max_idle=0.05,
            max_lifetime=1.5,
            configure=self.callbacks.configure,
            reset=self.callbacks.reset,
            connect=self.callbacks.connect,
            open_workers=2,
            background=True,
            leak_after=0.5,
            reclaim=True,
        )
        holders = Holders()
        habits = [Habit(holders, f"{seed} habit {number}") for number in range(THREADS)]
        self.crowd = Crowd(self.pool, self.tally.record, threads=THREADS, ways=habits, seed=seed)
        self.operators = Operators(self.pool, address, self.callbacks, self.tally, seed)

    def begin(self) -> dict[str, Any]:
        """Begin to work."""
        self.callbacks.failing = True
        self.crowd.start()
        self.operators.start()
        return self.report()

    def report(self) -> dict[str, Any]:
        """Tell what was done so far."""
        return {
            **self.tally.report(),
            "stats": self.pool.get_stats(),
            "operations": self.operators.done,
            "forks": self.operators.forks,
            "raised": self.callbacks.raised,
            "lines": self.listener.lines,
        }

    @contextlib.contextmanager
    def resting(self) -> Iterator[dict[str, Any]]:
        """Stop all work and lend every connection for a block; give the figures of that moment.

        The pool is then in the same state each time: all there is to be compared is comparable.
        """
        with self.crowd.resting(), self.operators.resting(), contextlib.ExitStack() as loans:
            began = time.monotonic()
            self.callbacks.failing = False
            self.pool.resize(MINCONN, MAXCONN)
            lent, problems = self._borrow_all(loans)
            seconds = time.monotonic() - began
            tidy_up()
            yield {
                **self.report(),
                "problems": problems,
                "lent": lent,
                "seconds": seconds,
                "objects": len(gc.get_objects()),
                "blocks": sys.getallocatedblocks(),
                "heap": heap_in_use(),
            }
            loans.close()
            self.callbacks.failing = True

    def end(self) -> dict[str, Any]:
        """Stop all work and close the pool."""
        self.crowd.stop()
        self.operators.stop()
        self.pool.closeall()
        return self.report()

    def _borrow_all(self, loans: contextlib.ExitStack) -> tuple[int, list[str]]:
        """Borrow maxconn connections, each of which must work, and be refused one more."""
        problems: list[str] = []
        seen = set()
        try:
            self.pool.check()
            for _ in range(MAXCONN):
                connection = self.pool.getconn(timeout=PATIENCE)
                loans.callback(self.pool.putconn, connection)
                seen.add(id(connection))
                with connection.cursor() as cursor:
                    cursor.execute("select 1")
                connection.commit()
        except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
            problems.append(f"not all connections could be lent: {type(error).__name__}: {error}; {self.pool!r}")
            return len(seen), problems
        try:
            loans.callback(self.pool.putconn, self.pool.getconn(timeout=0))
            problems.append("more than maxconn connections were lent")
        except PoolExhausted:
            pass
        if len(seen) != MAXCONN:
            problems.append("one connection was lent twice at a time")
        return len(seen), problems


def tidy_up() -> None:
    """Let Python drop what it may drop at any time, so that what is counted afterwards is held by somebody."""
    gc.collect()
    linecache.clearcache()
    # Names that C code has looked up stay alive in this cache, which takes many minutes to fill.
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def heap_in_use() -> int | None:
    """Count the bytes that malloc has given out and not taken back, in all arenas; None if the C library cannot tell.

    Unlike resident memory this knows nothing of fragments and of how many arenas the threads were spread over.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc 2.33 or later
    except AttributeError:
        return None
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def main() -> None:
    """Run until told to end, or until nobody is there to tell."""
    faulthandler.register(signal.SIGUSR1)
    settings = json.loads(sys.stdin.readline())
    subject = Subject(settings["address"], settings["seed"])
    answer(subject.begin())
    try:
        obey(subject)
    except AssertionError:  # Something hangs.
        faulthandler.dump_traceback()
        raise


def obey(subject: Subject) -> None:
    """Do what is ordered, until the end."""
    for line in sys.stdin:
        order = line.strip()
        if order == "report":
            answer(subject.report())
        elif order == "rest":
            with subject.resting() as figures:
                answer(figures)
                sys.stdin.readline()
            answer({})
        elif order == "end":
            answer(subject.end())
            return


def answer(figures: dict[str, Any]) -> None:
    """Say what was asked for."""
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
