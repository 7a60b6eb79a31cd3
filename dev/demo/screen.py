"""Show the demo as it runs: a live table on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import TracebackType
from typing import final

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dev.demo.clients import Report
from dev.demo.scenario import CLIENTS, ONE_WAY, ORDERS, POOLS, WARM_UP
from examples.serve import CONNECTIONS
from examples.shop import PATIENCE, RETRY

COLUMNS = ("pool", "requests/s", "p50 ms", "p99 ms", "errors", "idle", "lent", "waiting")
PLAIN_INTERVAL = 2.0
"""Seconds between two lines where there is no terminal."""

WHAT = f"""\
Compared: one web shop on one web server with {CLIENTS} busy threads and {CONNECTIONS} connections, PostgreSQL \
{1000 * ONE_WAY:g} ms away each way. The two runs differ in the import of ThreadedConnectionPool and in one option, \
timeout={PATIENCE:g}. The shop was written for psycopg2.pool, which refuses when all connections are lent: so it tries \
again every {1000 * RETRY:g} ms, for up to {PATIENCE:g} s, and only then answers 503, an error. pgpool_rs does not \
refuse in that time: getconn waits, and serves waiters in order."""

WHY = f"""\
Why they differ: {1 - ORDERS:.0%} of the requests only read and do not commit, so returning the connection rolls back, \
which is a round trip to PostgreSQL. psycopg2.pool makes it while it holds its one lock, so that no other thread can \
get or return a connection, nor be refused one; pgpool_rs holds no lock then. A thread that tries again is served by \
luck, which shows in p99: a semaphore round psycopg2.pool would mend that, but not requests/s. Nearer to PostgreSQL \
the difference is smaller, and if every request commits it is nearly gone, except in p99. (psycopg2.pool counts a \
connection as lent while it rolls back; pgpool_rs does not.)"""

WIDEST = 100
"""Columns beyond which lines of text are hard to read."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Holds the figures of a pool at one moment, or on average."""

    report: Report
    idle: float
    lent: float
    waiting: float

    def cells(self) -> list[str]:
        """Write it for COLUMNS, without the pool's name."""
        rate, errors = f"{self.report.rate:.0f}", str(self.report.errors)
        times = [f"{self.report.p50:.1f}", f"{self.report.p99:.1f}"]
        return [rate, *times, errors, *(f"{count:.0f}" for count in (self.idle, self.lent, self.waiting))]


@final
class Screen:
    """Owns the standard output while the demo runs."""

    def __init__(self, seconds: float) -> None:
        """Expect `seconds` of load for each pool, after the warm-up."""
        self._console = Console(highlight=False)
        self._console.width = min(self._console.width, WIDEST)
        self._rows = {pool: ["-"] * (len(COLUMNS) - 1) for pool in POOLS}
        self._seconds = WARM_UP + seconds
        self._progress = Progress(TextColumn("{task.description}"), BarColumn(None), TimeRemainingColumn(), expand=True)
        self._task = self._progress.add_task("starting PostgreSQL", total=len(POOLS) * self._seconds)
        # Transient, so that only the conclusion stays on the terminal.
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8, transient=True)
        self._next_line = 0.0

    def __enter__(self) -> Screen:
        """Say what the demo compares, and begin."""
        self._console.print(WHAT)
        self._console.print()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Restore the terminal."""
        self._live.stop()

    def show(self, pool: str, sample: Sample) -> None:
        """Show a sample."""
        done = POOLS.index(pool) * self._seconds + WARM_UP + sample.report.elapsed
        self._rows[pool] = sample.cells()
        self._progress.update(self._task, completed=done, description=pool)
        if not self._console.is_terminal and done >= self._next_line:
            self._next_line = done + PLAIN_INTERVAL
            words = (f"{value} {name}" for name, value in zip(COLUMNS[1:], sample.cells(), strict=True))
            self._console.print(f"{done:5.1f} s  {pool:13}  {', '.join(words)}", soft_wrap=True)

    def conclude(self, results: Mapping[str, Sample]) -> None:
        """Show both pools side by side, and say why they differ."""
        self._live.stop()
        left, right = (results[pool].cells() for pool in POOLS)
        table = Table(box=box.SIMPLE_HEAD, title=f"{self._seconds - WARM_UP:g} seconds of load on each")
        table.add_column("")
        for column in (*POOLS, "ratio"):
            table.add_column(column, justify="right")
        for name, ours, theirs in zip(COLUMNS[1:], left, right, strict=True):
            has_ratio = name in COLUMNS[1:4] and float(theirs) > 0
            table.add_row(name, ours, theirs, f"{float(ours) / float(theirs):.2f}" if has_ratio else "")
        self._console.print(table)
        self._console.print(WHY)

    def _render(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "pool" else "right", min_width=5, no_wrap=True)
        for pool, cells in self._rows.items():
            table.add_row(pool, *cells)
        return Group(table, self._progress)
