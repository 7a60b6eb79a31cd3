"""A pretended pool with a limit, and processes that have one and do as they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from pgpool_rs._limits import HostLimit
from tests.lib.programs import ROOT


@final
class LimitedPool:
    """Counts connections as a pool does, and opens none. It calls its limit as the binding does."""

    def __init__(self, limit: Any, name: str = "pool-1", minconn: int = 0) -> None:
        self.limit, self.name, self.minconn = limit, name, minconn
        self.idle = self.lent = self.waiting = 0
        self.most: int | None = None
        self.presses: list[int | None] = []
        self._lock = threading.Lock()
        limit._attach(self)

    def lend(self, count: int = 1) -> int:
        """Lend what is idle, and then open; return how many are lent."""
        for done in range(count):
            with self._lock:
                found = self.idle > 0
                self.idle -= found
                self.lent += found
            if not found:
                if not self.limit._take(self):
                    return done
                with self._lock:
                    self.lent += 1
        return count

    def want(self, count: int) -> None:
        """Let so many callers wait."""
        with self._lock:
            self.waiting += count
        self.limit._wait(self)

    def back(self, count: int = 1) -> None:
        """Take connections back: close what is above the share."""
        for _ in range(count):
            with self._lock:
                self.lent -= 1
                closes = self.most is not None and self.holds >= max(self.minconn, self.most)
                self.idle += not closes
            self.limit._give(self, int(closes))

    def close(self) -> None:
        """Take back what is lent, and close all that is idle."""
        self.back(self.lent)
        with self._lock:
            closed, self.idle = self.idle, 0
        self.limit._give(self, closed)

    @property
    def holds(self) -> int:
        return self.idle + self.lent

    def _pgpool_wanted(self) -> int:
        return self.waiting

    def _pgpool_grant(self, count: int) -> int:
        with self._lock:
            used = min(count, self.waiting)
            self.waiting -= used
            self.lent += used
        return count - used

    def _pgpool_press(self, most: int | None) -> None:
        self.presses.append(most)
        with self._lock:
            self.most = most
            extra = 0 if most is None else min(self.idle, max(0, self.holds - max(self.minconn, most)))
            self.idle -= extra
        self.limit._give(self, extra)


def serve(folder: str, name: str, limit: int) -> None:
    """Do what the lines of standard input say, with a pool of a limit; answer each in a line."""
    pool = LimitedPool(HostLimit(name, limit, folder=folder), f"pool of {os.getpid()}")
    serve_pool(pool)


def serve_pool(pool: LimitedPool) -> None:
    """Do what the lines say with this pool."""
    while line := sys.stdin.readline():
        print(repr(eval(line, {"pool": pool, "os": os, "limit": pool.limit})), flush=True)


@final
class Worker:
    """A process with a pool."""

    def __init__(self, folder: Path, limit: int, name: str = "shop") -> None:
        program = f"from tests.lib.limited import serve; serve({str(folder)!r}, {name!r}, {limit})"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        assert self.process.stdout
        answer = self.process.stdout.readline()
        assert answer, f"the worker has ended: {self.process.wait()}"
        return eval(answer)

    def do(self, line: str) -> Any:
        """Let it evaluate an expression of `pool` and `limit`, and return the value."""
        self.begin(line)
        return self.end()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


@contextmanager
def workers(folder: Path, count: int, limit: int, name: str = "shop") -> Iterator[list[Worker]]:
    """Give processes that share a limit; kill them at the end."""
    found = [Worker(folder, limit, name) for _ in range(count)]
    try:
        for worker in found:
            worker.do("pool.holds")
        yield found
    finally:
        for worker in found:
            worker.kill()
            for pipe in (worker.process.stdin, worker.process.stdout):
                assert pipe
                pipe.close()
