"""The process under observation: a pool with every option on, its users, and nothing else.

It reads its settings from its standard input, a JSON object in a line, and then one order a line, each of which it
answers with a JSON object: `report`, `rest`, `go` after a rest, and `end`.
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
import tempfile
import time
from collections.abc import Iterator
from typing import Any, final

from dev.load import pool_load
from dev.soak.callbacks import Callbacks
from dev.soak.counters import Counters
from dev.soak.operations import MAXCONN, MINCONN, Operations
from dev.soak.workload import Borrower, Holders
from pgpool_rs import HostLimit, PoolExhausted, ThreadedConnectionPool

THREADS = 16
TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=2"
"""The environment's GLIBC_TUNABLES. Else a thread's own cache of free memory counts as in use, and each of 16 arenas
grows to the most that a thread in it ever needed, so that resident memory rises by steps for hours."""
PATIENCE = 10.0  # Seconds to wait for each connection at a checkpoint; a longer wait means that the pool has lost one.


@final
class LineCounter(logging.Handler):
    """Formats each record, as any handler does, and counts it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)
        self.lines += 1


@final
class EventCounter:
    """Counts what a listener is told."""

    def __init__(self) -> None:
        self.events = 0

    def _count(self, _pool: object, _what: object) -> None:
        self.events += 1

    connected = connect_failed = borrowed = returned = closed = timed_out = _count


@final
class Target:
    """Owns the pool and the threads that use it."""

    def __init__(self, address: dict[str, Any], seed: int) -> None:
        self.log = LineCounter()
        self.ear = EventCounter()
        logger = logging.getLogger("pgpool_rs")
        logger.addHandler(self.log)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        self.counters = Counters()
        self.callbacks = Callbacks(f"{seed} callbacks")
        self._folder = tempfile.TemporaryDirectory(prefix="soak_")
        limit = HostLimit("soak", MAXCONN, folder=self._folder.name)
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
            grow="workers",
            reconnect_backoff=(0.001, 0.02),
            order="fifo",
            reserve=1,
            background=True,
            leak_after=0.5,
            reclaim=True,
            open=False,
            listener=self.ear,
            limit=limit,
        )
        self.pool.open()
        holders = Holders()
        ways = [Borrower(holders, f"{seed} borrower {number}") for number in range(THREADS)]
        self.load = pool_load(self.pool, self.counters.record, threads=THREADS, ways=ways, seed=seed)
        self.operations = Operations(self.pool, {**address, "limit": limit}, self.callbacks, self.counters, seed)

    def begin(self) -> dict[str, Any]:
        """Start all threads."""
        self.callbacks.failing = True
        self.load.start()
        self.operations.load.start()
        return self.report()

    def report(self) -> dict[str, Any]:
        """Give all counts so far."""
        return {
            **self.counters.report(),
            "stats": self.pool.get_stats(),
            "operations": self.operations.done,
            "forks": self.operations.forks,
            "raised": self.callbacks.raised,
            "lines": self.log.lines,
            "events": self.ear.events,
        }

    @contextlib.contextmanager
    def resting(self) -> Iterator[dict[str, Any]]:
        """Pause all threads and lend every connection for a block; give the figures of that moment.

        The pool is then in the same state each time, so that the figures can be compared.
        """
        with self.load.resting(), self.operations.load.resting(), contextlib.ExitStack() as loans:
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
        """Stop all threads and close the pool."""
        self.load.stop()
        self.operations.load.stop()
        self.pool.closeall()
        return self.report()

    def _borrow_all(self, loans: contextlib.ExitStack) -> tuple[int, list[str]]:
        """Borrow maxconn connections, each of which must work, and try one more, which the pool must refuse."""
        problems: list[str] = []
        seen = set()
        try:
            self.pool.check()
            for _ in range(MAXCONN):
                connection = self.pool.getconn(timeout=PATIENCE, priority=True)
                loans.callback(self.pool.putconn, connection)
                seen.add(id(connection))
                with connection.cursor() as cursor:
                    cursor.execute("select 1")
                connection.commit()
        except Exception as error:  # noqa: BLE001  any error is a finding
            problems.append(f"the pool could not lend all connections: {type(error).__name__}: {error}; {self.pool!r}")
            return len(seen), problems
        try:
            loans.callback(self.pool.putconn, self.pool.getconn(timeout=0, priority=True))
            problems.append("the pool lent more than maxconn connections")
        except PoolExhausted:
            pass
        if len(seen) != MAXCONN:
            problems.append("the pool lent one connection twice at a time")
        return len(seen), problems


def tidy_up() -> None:
    """Let Python drop its garbage and its caches, so that the counts are of what is in use."""
    gc.collect()
    linecache.clearcache()
    # This cache holds names that C code looked up, and takes many minutes to fill.
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def heap_in_use() -> int | None:
    """Count the bytes in use by malloc, in all arenas; None if the C library cannot tell.

    Unlike resident memory, this does not depend on fragments and on the number of arenas.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc 2.33 or later
    except AttributeError:
        return None
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def main() -> None:
    """Run until the order to end, or the end of the standard input."""
    faulthandler.register(signal.SIGUSR1)
    settings = json.loads(sys.stdin.readline())
    target = Target(settings["address"], settings["seed"])
    answer(target.begin())
    try:
        obey(target)
    except AssertionError:  # Something hangs.
        faulthandler.dump_traceback()
        raise


def obey(target: Target) -> None:
    """Obey each order until the end."""
    for line in sys.stdin:
        order = line.strip()
        if order == "report":
            answer(target.report())
        elif order == "rest":
            with target.resting() as figures:
                answer(figures)
                sys.stdin.readline()
            answer({})
        elif order == "end":
            answer(target.end())
            return


def answer(figures: dict[str, Any]) -> None:
    """Write an answer."""
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
