"""Processes under one limit and under load, and a count of their sessions: for the trial and for the picture."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, Final, final

import psycopg2

from dev.load import Load
from dev.servers.postgres import PATIENCE, ThrowawayPostgres
from pgpool_rs import HostLimit, PoolTimeout, ThreadedConnectionPool

PROCESSES: Final = 8
LIMIT: Final = 20
MAXCONN: Final = 10
THREADS: Final = 12
"""In each process."""
MAX_CONNECTIONS: Final = 30
WORK: Final = 0.02  # Seconds that a request takes in the server.
SAMPLE: Final = 0.004

_spawn = multiprocessing.get_context("spawn")


@final
class Board:
    """What the processes share: memory for numbers, without a lock, and a file for lines."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        processes = 2 * PROCESSES  # A deploy has new ones beside the old ones.
        self.served = RawArray("q", processes * THREADS)
        """One for each thread. The children of forks have theirs in memory of their own."""
        self.timeouts = RawArray("q", processes * THREADS)
        self.longest = RawArray("d", processes * THREADS)
        """Seconds that a caller waited."""
        self.slept = RawArray("d", processes)
        """Seconds by which the machine woke a mere sleeper too late."""

    def of(self, numbers: Any, process: int) -> list[Any]:
        """Return the numbers of one process."""
        return list(numbers[process * THREADS : (process + 1) * THREADS])

    def tell(self, *words: object) -> None:
        """Write a line; a killed process writes it whole or not at all."""
        descriptor = os.open(f"{self.folder}/told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, " ".join(str(word).replace("\n", " ") for word in words).encode() + b"\n")
        os.close(descriptor)

    def told(self, word: str) -> list[str]:
        """Return the rest of each line that begins with this word."""
        with suppress(FileNotFoundError):
            lines = Path(self.folder, "told").read_text().splitlines()
            return [line.partition(" ")[2] for line in lines if line.startswith(word + " ")]
        return []


def work(dsn: str, board: Board, process: int, options: dict[str, Any], threads: int, *, limited: bool) -> None:
    """Be one process: borrow all the time, until SIGTERM. SIGUSR1 forks."""
    ended = threading.Event()
    forks = threading.Semaphore(0)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGUSR1, lambda *_: forks.release())
    limit = HostLimit("trial", LIMIT, folder=board.folder) if limited else None
    options = {**options, "dsn": dsn, "application_name": str(os.getpid()), "limit": limit}
    pool: Any = ThreadedConnectionPool(0, **options)
    running = _load(pool, board, process, threads)
    board.tell("ready", os.getpid())
    while not ended.wait(0.02):
        if forks.acquire(blocking=False) and os.fork() == 0:
            board.served = RawArray("q", len(board.served))
            board.longest = RawArray("d", len(board.longest))
            pool._kwargs["application_name"] = str(os.getpid())
            running = _load(pool, board, process, threads)
            if not ended.wait(random.uniform(0.3, 1.5)) and random.random() < 0.5:
                running.stop()
                pool.closeall()
            board.tell("died", time.monotonic(), os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)
    running.stop()
    pool.closeall()


def _load(pool: Any, board: Board, process: int, threads: int) -> Load:
    served, timeouts, longest, slept = board.served, board.timeouts, board.longest, board.slept

    def request(slot: int) -> None:
        began = time.monotonic()
        try:
            connection = pool.getconn()
        finally:
            longest[slot] = max(longest[slot], time.monotonic() - began)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(%s)", (WORK,))
        pool.putconn(connection)
        served[slot] += 1

    def borrow(slot: int) -> float | None:
        try:
            request(slot)
        except PoolTimeout:
            timeouts[slot] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is told
            board.tell("error", type(error).__name__, getattr(error, "pgcode", None), error)
            return 0.5
        return None

    def sleep() -> None:
        began = time.monotonic()
        time.sleep(0.02)
        slept[process] = max(slept[process], time.monotonic() - began - 0.02)

    slots = range(process * THREADS, process * THREADS + threads)
    running = Load([*(partial(borrow, slot) for slot in slots), sleep])
    running.start()
    return running


@final
class Processes:
    """The processes under one limit, or one without a limit."""

    def __init__(
        self, dsn: str, *, count: int = PROCESSES, threads: int = THREADS, limited: bool = True, **options: Any
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="limit_")
        self.board = Board(self._folder.name)
        self._arguments = dsn, self.board, options, threads, limited
        self.all = [self._start(process) for process in range(count)]
        wait(lambda: len(self.board.told("ready")) == count, "the processes to be ready")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(self.all)
        self._folder.cleanup()

    @staticmethod
    def _end(processes: Sequence[SpawnProcess]) -> None:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()

    def _start(self, number: int) -> SpawnProcess:
        dsn, board, options, threads, limited = self._arguments
        process = _spawn.Process(target=work, args=(dsn, board, number, options, threads), kwargs={"limited": limited})
        process.start()
        return process

    def replace(self, number: int) -> float:
        """Kill a process, put a new one in its place, and return when."""
        self.all[number].kill()
        died = time.monotonic()
        self.all[number].join()
        self.all[number] = self._start(number)
        return died

    def deploy(self, seconds: float) -> None:
        """Start as many new processes, and end the old ones when the new ones have been ready for so long."""
        old = list(self.all)
        self.all += [self._start(len(old) + number) for number in range(len(old))]
        wait(lambda: len(self.board.told("ready")) == len(self.all), "the new processes to be ready")
        time.sleep(seconds)
        self._end(old)
        self.all = self.all[len(old) :]

    def rate(self, seconds: float) -> float:
        """Measure how many requests all of them serve in a second."""
        before, began = sum(self.board.served), time.monotonic()
        time.sleep(seconds)
        return float(sum(self.board.served) - before) / (time.monotonic() - began)


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait, for a bounded time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.01)


@final
class Sampler(threading.Thread):
    """Counts the server's sessions all the time, but for its own.

    A read of pg_stat_activity is no snapshot: it may have a session that ended, and one that began after that. So where
    there are too many, those count that a second read has too: they were open together.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self.over: list[tuple[float, Counter[str]]] = []
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self._ended = threading.Event()

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self) -> None:
        """Count until stop()."""
        with self._connection.cursor() as cursor:
            while not self._ended.wait(SAMPLE):
                seen = _sessions(cursor)
                if len(seen) > LIMIT:
                    seen &= _sessions(cursor)
                owners = Counter(name for _, _, name in seen)
                self.samples.append((time.monotonic(), sum(owners.values())))
                if sum(owners.values()) > LIMIT:
                    self.over.append((time.monotonic(), owners))

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self.join()
        self._connection.close()


def _sessions(cursor: Any) -> set[tuple[int, Any, str]]:
    cursor.execute(
        "select pid, backend_start, application_name from pg_stat_activity"
        " where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    return set(cursor.fetchall())


def refused(server: ThrowawayPostgres) -> int:
    """Count the connects that the server refused since it had too many sessions."""
    return (server.folder / "log").read_text(errors="replace").count("too many clients")
