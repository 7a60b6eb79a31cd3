"""Show the pools of all processes of this host that publish them, once or live."""

from __future__ import annotations

import importlib
import math
import select
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pgpool_rs._command.answer import Answer, hide
from pgpool_rs._command.host import add_folder, folder_of
from pgpool_rs._publishing import INTERVAL, VARIABLE, read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

WIDTH = 80
_STALE = 3.0
_MINUTE, _HOUR = 60, 3600
_MILLION = 1_000_000
_STACK = 8
_ESCAPE, _BACKSPACES = 27, {8, 127, 263}  # 263: curses.KEY_BACKSPACE
_ALL, _RECENT = "since the start", f"of the last {INTERVAL:g} s"
_PRINTABLE = {chr(code) for code in range(32, 127)}
_KEYS = "q quit  s sort by the next column  r reverse  / filter"
# Each column with its width; pool gets what is left.
_COLUMNS = {
    "pid": 8, "pool": 0, "lent": 4, "idle": 4, "waiting": 7, "p50": 5, "p99": 5, "oldest": 6, "connects": 8, "errors": 6
}  # fmt: skip
_TEXTS = {"pid", "pool"}

# Of each pool: when its process has published, the buckets of its waits then, and those of the time before.
Seen = dict[tuple[str, int], tuple[float, Mapping[float, int], Mapping[float, int]]]


@dataclass(frozen=True)
class Row:
    """Says how one pool is. Times are in seconds."""

    pid: int
    process: str
    age: float
    pool: str
    lent: int
    idle: int
    waiting: int
    waits: int
    p50: float | None
    p99: float | None
    oldest: float
    stack: Sequence[str]
    connects: int
    errors: int


def rows(folder: Path, before: Seen) -> tuple[list[Row], Seen]:
    """Read all pools. The waits are those since the process published before, or all if it was not seen then."""
    found: list[Row] = []
    seen: Seen = {}
    for process in read(folder):
        for number, pool in enumerate(process.pools):
            waits = pool.histograms["wait"].buckets
            at, last, earlier = before.get((process.name, number), (process.at, {}, {}))
            if at != process.at:
                earlier = last
            # Another pool has this number now, or pop_stats() has set them to 0.
            if any(waits[bound] < count for bound, count in earlier.items()):
                earlier = {}
            seen[process.name, number] = process.at, waits, earlier
            new = {bound: count - earlier.get(bound, 0) for bound, count in waits.items()}
            stats = pool.stats
            found.append(
                Row(
                    process.pid,
                    process.name,
                    round(process.age, 3),
                    pool.name,
                    stats["pool_lent"],
                    stats["pool_available"],
                    stats["requests_waiting"],
                    max(new.values()),
                    percentile(new, 0.5),
                    percentile(new, 0.99),
                    stats["oldest_loan_ms"] / 1000,
                    pool.stack,
                    stats["connections_num"],
                    stats["requests_errors"],
                )
            )
    return found, seen


def percentile(buckets: Mapping[float, int], share: float) -> float | None:
    """Return the bound of the bucket in which this share of the times is reached; None if there are no times."""
    count = max(buckets.values())
    return next(bound for bound in sorted(buckets) if buckets[bound] >= share * count) if count else None


@dataclass
class View:
    """Holds what a user has chosen, and follows the keys."""

    sort: str
    filter: str
    is_reversed: bool = False
    typed: str | None = field(default=None)

    def press(self, key: int) -> bool:
        """Follow a key. Return whether to go on."""
        if self.typed is not None:
            if key in {10, 13}:
                self.filter, self.typed = self.typed, None
            elif key == _ESCAPE:
                self.typed = None
            elif key in _BACKSPACES:
                self.typed = self.typed[:-1]
            elif chr(max(key, 0)) in _PRINTABLE:
                self.typed += chr(key)
        elif key == ord("/"):
            self.typed = ""
        elif key == ord("s"):
            names = list(_COLUMNS)
            self.sort = names[(names.index(self.sort) + 1) % len(names)]
        elif key == ord("r"):
            self.is_reversed = not self.is_reversed
        return self.typed is not None or key != ord("q")

    def chosen(self, among: Sequence[Row]) -> list[Row]:
        """Filter and sort: texts and pids from the least on, other numbers from the greatest on."""
        kept = [row for row in among if self.filter in row.pool or self.filter == str(row.pid)]
        if self.sort == "pool":
            return sorted(kept, key=lambda row: row.pool, reverse=self.is_reversed)
        is_descending = (self.sort not in _TEXTS) != self.is_reversed
        return sorted(kept, key=lambda row: -1.0 if (value := getattr(row, self.sort)) is None else value,
                      reverse=is_descending)  # fmt: skip

    def summary(self, kept: Sequence[Row]) -> str:
        """Count."""
        processes = len({row.process for row in kept})
        lent, idle, waiting = (sum(getattr(row, name) for row in kept) for name in ("lent", "idle", "waiting"))
        return f"processes {processes}, pools {len(kept)}, lent {lent}, idle {idle}, waiting {waiting}"


def table(kept: Sequence[Row], width: int) -> list[str]:
    """Lay the rows out, below a header."""
    rest = width - sum(_COLUMNS.values()) - len(_COLUMNS) + 1
    lines = [{name: name for name in _COLUMNS}]
    for row in kept:
        cells = {name: _number(getattr(row, name)) for name in ("lent", "idle", "waiting", "connects", "errors")}
        cells["pid"] = f"{row.pid}{'!' * (row.age > _STALE)}"
        cells["pool"] = row.pool
        cells |= {name: _time(getattr(row, name)) for name in ("p50", "p99")}
        cells["oldest"] = _time(row.oldest or None)
        lines.append(cells)
    return [
        " ".join(
            f"{cells[name][: width or rest]:{'<' if name == 'pool' else '>'}{width or rest}}"
            for name, width in _COLUMNS.items()
        )
        for cells in lines
    ]


def _number(value: int) -> str:
    return str(value) if value < _MILLION else f"{value / _MILLION:.0f}M"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds == math.inf:
        return ">10s"
    if seconds < 1:
        return f"{1000 * seconds:.0f}ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f}s"
    return f"{seconds / _MINUTE:.0f}m" if seconds < _HOUR else f"{seconds / _HOUR:.0f}h"


def oldest_loan(kept: Sequence[Row]) -> list[str]:
    """Show what borrowed the oldest loan whose stack is known, the innermost calls last."""
    row = max((row for row in kept if row.stack), key=lambda row: row.oldest, default=None)
    if row is None:
        return []
    return [f"oldest loan: {_time(row.oldest)}, pid {row.pid}, pool {row.pool}", *(f"  {at}" for at in row.stack)]


def screen(among: Sequence[Row], view: View, since: str, height: int, width: int) -> list[str]:
    """Lay out a whole screen: the second line is the table's header, and the last one is for keys."""
    kept = view.chosen(among)
    # The end of a line says most.
    stack = [line if len(line) <= width else f"  ...{line[5 - width :]}" for line in oldest_loan(kept)]
    if len(stack) > _STACK:
        stack = [stack[0], *stack[1 - _STACK :]]
    last = f"{_KEYS}  by {view.sort}" if view.typed is None else f"filter: {view.typed}_"
    if view.filter and view.typed is None:
        last += f", with {hide(view.filter, [view.filter])}"
    lines = [f"{view.summary(kept)}; p50, p99 {since}", *table(kept, max(width, WIDTH))]
    room = max(height - len(stack) - 1, 2)
    lines = lines[:room] + [""] * (room - len(lines)) + stack
    # The last cell cannot be written.
    return [line[:width] for line in lines[: height - 1]] + [last[: width - 1]]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_folder(command)
    add = command.add_argument
    add("--sort", choices=_COLUMNS, default="waiting", help="the column to sort by (waiting)")
    add("--filter", default="", metavar="TEXT", help="only pools whose name has this text, or the process of this pid")
    add("--once", action="store_true", help="print once, with the waits since each process began")


def run(args: argparse.Namespace) -> Answer:
    """Show the pools live on a terminal, and once elsewhere."""
    folder, view = folder_of(args), View(args.sort, args.filter)
    if not args.once and not args.json and sys.stdin.isatty() and sys.stdout.isatty():
        try:
            curses = importlib.import_module("curses")
        except ImportError:  # Python was built without
            pass
        else:
            curses.wrapper(_live, curses, folder, view)
            return Answer({}, [])
    kept = view.chosen(rows(folder, {})[0])
    if kept:
        # In a single part, without blank lines.
        text = [f"{view.summary(kept)}; p50, p99 {_ALL}", *table(kept, WIDTH), *oldest_loan(kept)]
    else:
        text = [f"No process publishes such a pool in {folder}: set {VARIABLE}=1 for those that shall."]
    return Answer({"folder": str(folder), "pools": [_data(row) for row in kept]}, ["\n".join(text)])


def _data(row: Row) -> dict[str, Any]:
    """Return a row for JSON, which knows no infinity."""
    return {name: None if value == math.inf else value for name, value in asdict(row).items()}


def _live(window: Any, curses: Any, folder: Path, view: View) -> None:
    for change in (curses.use_default_colors, lambda: curses.curs_set(0)):
        with suppress(curses.error):  # The terminal cannot.
            change()
    window.timeout(0)
    (among, seen), since = rows(folder, {}), _ALL
    due, key = time.monotonic() + INTERVAL, -1
    while view.press(key):
        if time.monotonic() >= due:
            due = time.monotonic() + INTERVAL
            (among, seen), since = rows(folder, seen), _RECENT
        window.erase()
        for number, line in enumerate(screen(among, view, since, *window.getmaxyx())):
            shown = line.encode(window.encoding, "replace").decode(window.encoding)
            window.addstr(number, 0, shown, curses.A_REVERSE if number == 1 else curses.A_NORMAL)
        window.refresh()
        comes = select.select([sys.stdin], [], [], 0.1)[0]
        key = window.getch()
        if comes and key == -1:
            return  # the terminal is gone
