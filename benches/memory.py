"""Memory: how much a million loans leave behind."""

import gc
from pathlib import Path

from benches.contenders import CLASSES, PGPOOL, PSYCOPG2, KeyedPool
from benches.harness import Effort, Row, Target

FIRST = 1_000
# Linux counts a process's pages in batches, so that a few hundred KiB may be missing. One byte lost in each loan would
# be four times as much.
TOLERANCE = 256


def measure(dsn: str, effort: Effort) -> list[Row]:
    """Compare the memory used after the first thousand loans with that after all of them."""
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for name, make in CLASSES.items():
        pool = make(1, 4, dsn)
        borrow(pool, 0, FIRST)
        before[name] = resident()
        borrow(pool, FIRST, effort.loans)
        after[name] = resident()
        pool.closeall()
    cells = {name: f"{before[name]:,} to {after[name]:,} KiB" for name in CLASSES}
    growth = {name: float(after[name] - before[name]) for name in CLASSES}
    return [
        Row(
            what=f"resident memory, from {FIRST:,} loans to {effort.loans:,}",
            psycopg2_pool=cells[PSYCOPG2],
            pgpool_rs=cells[PGPOOL],
            figure=growth[PGPOOL],
            beside=f"{PSYCOPG2} {growth[PSYCOPG2]:g}",
            target=Target("<=", TOLERANCE, " KiB"),
            medians=growth,
        )
    ]


def borrow(pool: KeyedPool, first: int, last: int) -> None:
    """Take and give back, every second time under a key that was never used before."""
    for number in range(first, last, 2):
        pool.putconn(pool.getconn())
        pool.putconn(pool.getconn(number))


def resident() -> int:
    """Return this process's resident memory, in KiB."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")
