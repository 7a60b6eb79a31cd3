"""Try a limit of a host: `.venv/bin/python -m dev.trials.limit [--seconds N] [--no-comparisons]`.

Processes with a pool each share one limit on a real server, under load. Some of them are killed and replaced, forked,
and stopped for a while. Then it compares rates: a limit that is never reached with none, and limited processes with one
process that has a pool of that size. Prints the figures, and exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, final

from dev.servers.postgres import ThrowawayPostgres
from dev.trials.limit.processes import (
    LIMIT,
    MAX_CONNECTIONS,
    MAXCONN,
    PROCESSES,
    THREADS,
    Processes,
    Sampler,
    refused,
    wait,
)
from pgpool_rs import HostLimit, ThreadedConnectionPool
from pgpool_rs._limits.watcher import GRACE

CALM: Final = 3
"""How many of the processes are never disturbed."""
TIMEOUT: Final = 0.15
OVER: Final = 0.1  # Seconds by which a caller may wait longer than that.
BACK: Final = 1.0  # Seconds from a death until all connections are open again.
EVEN: Final = 1.5  # The rate of one undisturbed process by that of another.


@final
@dataclass
class Figures:
    """What was measured."""

    most: int
    """Sessions that the server had at once."""
    most_in_time: int
    """The same without those that it had not ended GRACE after the death of their process."""
    samples: int
    at_limit: float
    """The part of the samples with all connections open."""
    deaths: int
    back: list[float]
    """Seconds from each death until all connections were open again, where some were not."""
    done: Counter[str]
    rates: list[float]
    """Requests per second of each undisturbed process."""
    timeouts: int
    longest: float
    """Seconds that a caller of an undisturbed process waited."""
    asleep: float
    """Seconds by which the machine woke a mere sleeper of these too late."""
    errors: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    """Which processes had the sessions where there were too many, and for how long each had been dead."""

    def broken(self) -> Iterator[str]:
        """Name the promises that were not kept."""
        # The machine may be so busy that it wakes nobody in time, the server included.
        if self.most_in_time > LIMIT or (self.most > LIMIT and self.asleep < OVER):
            yield f"{self.most} sessions, {self.most_in_time} without those of processes long dead"
            yield from self.passed[:: len(self.passed) // 10 + 1]
        if self.errors:
            yield f"{len(self.errors)} errors, such as {Counter(self.errors).most_common(3)}"
        if max(self.back, default=0.0) > BACK:
            yield f"all connections were open again only after {max(self.back):.2f} s"
        if max(self.rates) > EVEN * min(self.rates):
            yield f"one process has {max(self.rates) / min(self.rates):.2f} times the rate of another"
        if self.longest > TIMEOUT + OVER + self.asleep:
            yield f"a caller waited {self.longest:.3f} s"

    def __str__(self) -> str:
        disturbed = ", ".join(f"{count} {word}" for word, count in sorted(self.done.items()))
        rates = ", ".join(f"{rate:.0f}" for rate in self.rates)
        longest, middle = max(self.back, default=0.0), statistics.median(self.back or [0.0])
        return f"""\
    disturbed: {disturbed}
    sessions: {self.most} at most; in {self.at_limit:.0%} of {self.samples:,} samples {LIMIT}
    after {self.deaths} deaths: all open again within {longest:.2f} s, {middle:.2f} s in the median
    requests per second of the undisturbed: {rates}
    timeouts: {self.timeouts:,} of {TIMEOUT:g} s; longest wait {self.longest:.3f} s, a sleep {self.asleep:.3f} s late
    errors: {len(self.errors)}"""


def disturb(seconds: float, seed: int | None = None) -> Figures:
    """Disturb limited processes for so long, and measure."""
    chance = random.Random(seed)
    dead: dict[str, float] = {}
    done: Counter[str] = Counter()
    with ThrowawayPostgres(max_connections=MAX_CONNECTIONS) as server:
        limited = Processes(server.dsn, maxconn=MAXCONN, timeout=TIMEOUT)
        with limited as processes, Sampler(server.dsn) as sampler:
            board = processes.board
            wait(lambda: any(count == LIMIT for _, count in sampler.samples), "the limit to be reached")
            before = [sum(board.of(board.served, process)) for process in range(CALM)]
            for process in range(CALM):
                board.slept[process] = 0.0
            began = time.monotonic()
            while (left := began + seconds - time.monotonic()) > 0:
                number = chance.randrange(CALM, PROCESSES)
                pid = processes.all[number].pid or 0
                what = chance.choice(["killed", "forked", "stopped"])
                done[what] += 1
                if what == "killed":
                    dead[str(pid)] = processes.replace(number)
                elif what == "forked":
                    wait(lambda pid=pid: str(pid) in board.told("ready"), "a new process")  # type: ignore[misc]
                    os.kill(pid, signal.SIGUSR1)
                else:
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(min(left, chance.uniform(0.1, 2.0)))
                    os.kill(pid, signal.SIGCONT)
                time.sleep(chance.uniform(0.2, 1.4))
            took = time.monotonic() - began
            served = [sum(board.of(board.served, process)) for process in range(CALM)]
            time.sleep(BACK + 1.0)  # The children of forks end.
            sampler.stop()
            dead.update({pid: float(moment) for moment, pid in map(str.split, board.told("died"))})
            deaths = list(dead.values())
            calm = range(CALM)
            figures = Figures(
                most=max(count for _, count in sampler.samples),
                most_in_time=max((in_time(*sample, dead) for sample in sampler.over), default=LIMIT),
                samples=len(sampler.samples),
                at_limit=sum(count == LIMIT for _, count in sampler.samples) / len(sampler.samples),
                deaths=len(deaths),
                back=[back(sampler.samples, died) for died in deaths],
                done=done,
                rates=[(after - start) / took for after, start in zip(served, before, strict=True)],
                timeouts=sum(sum(board.of(board.timeouts, process)) for process in calm),
                longest=max(max(board.of(board.longest, process)) for process in calm),
                asleep=max(board.slept[process] for process in calm),
                errors=board.told("error"),
                passed=[owned(*sample, dead) for sample in sampler.over if in_time(*sample, dead) > LIMIT],
            )
        figures.errors += ["too many clients"] * refused(server)
    return figures


def in_time(moment: float, owners: Counter[str], dead: dict[str, float]) -> int:
    """Count the sessions but for those that the server should have ended."""
    return sum(count for pid, count in owners.items() if moment - dead.get(pid, moment) <= GRACE)


def owned(moment: float, owners: Counter[str], dead: dict[str, float]) -> str:
    """Tell how many sessions each process had, and how long before it had died."""
    each = (
        f"{pid}: {count}" + (f" dead {moment - dead[pid]:.2f} s" if pid in dead else "")
        for pid, count in owners.items()
    )
    return f"at {moment:.2f}, {', '.join(each)}"


def back(samples: Sequence[tuple[float, int]], died: float) -> float:
    """Return the seconds from a death until all connections were open again."""
    missing = False
    for moment, count in samples:
        if moment > died:
            missing = missing or count < LIMIT
            if missing and count == LIMIT:
                return moment - died
            if not missing and moment > died + BACK:
                return 0.0
    return float("inf") if missing else 0.0


@contextmanager
def _pools(dsn: str, folder: str) -> Iterator[list[Any]]:
    limits = None, HostLimit("unreached", LIMIT, folder=folder)
    pools = [ThreadedConnectionPool(1, MAXCONN, dsn, timeout=5, limit=limit) for limit in limits]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.closeall()


def compare_unreached(rounds: int, *, loans: int = 2000) -> float:
    """Compare loans with a limit that is never reached with loans without one; the same moment has both."""
    with ThrowawayPostgres() as server, tempfile.TemporaryDirectory() as folder, _pools(server.dsn, folder) as pools:
        ratios = []
        for turn in range(rounds):
            times = {}
            for number in (0, 1) if turn % 2 else (1, 0):
                getconn, putconn = pools[number].getconn, pools[number].putconn
                began = time.thread_time_ns()
                for _ in range(loans):
                    putconn(getconn())
                times[number] = time.thread_time_ns() - began
            ratios.append(times[0] / times[1])
        return statistics.median(ratios)


def compare_reached(seconds: float, rounds: int) -> tuple[float, float]:
    """Measure the requests per second of limited processes, and of one process with a pool of that size, in turn."""
    limited, alone = [], []
    for _ in range(rounds):
        with ThrowawayPostgres(max_connections=MAX_CONNECTIONS) as server:
            with Processes(server.dsn, maxconn=MAXCONN, timeout=5) as processes:
                time.sleep(1.0)
                limited.append(processes.rate(seconds))
            with Processes(
                server.dsn, count=1, threads=PROCESSES * THREADS, limited=False, maxconn=LIMIT, timeout=5
            ) as processes:
                time.sleep(1.0)
                alone.append(processes.rate(seconds))
    return statistics.median(limited), statistics.median(alone)


def main() -> int:
    """Run the trial and the comparisons."""
    parser = argparse.ArgumentParser(description="Disturbs processes under one limit, and tells whether it holds.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they are disturbed (60)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="the seed of what disturbs them")
    parser.add_argument("--no-comparisons", action="store_true", help="compare no rates")
    arguments = parser.parse_args()
    print(f"{PROCESSES} processes, maxconn={MAXCONN}, a limit of {LIMIT}, seed {arguments.seed} ...", flush=True)
    figures = disturb(arguments.seconds, arguments.seed)
    print(figures, flush=True)
    broken = list(figures.broken())
    if not arguments.no_comparisons:
        ratio = compare_unreached(400)
        print(f"  a limit that is never reached: {ratio:.3f} of the rate without", flush=True)
        if ratio < 0.99:
            broken.append("a limit that is never reached costs more than 1 %")
        limited, alone = compare_reached(4.0, 3)
        print(f"  always reached: {limited:.0f} requests per second, {limited / alone:.3f} of one pool's {alone:.0f}")
        if limited < 0.9 * alone:
            broken.append("a limit that is always reached costs more than 10 %")
    for violation in broken:
        print(f"    NOT KEPT: {violation}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
