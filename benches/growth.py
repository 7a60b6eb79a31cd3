"""What must not grow: a loan's time with the connections that are lent, and memory with the loans."""

import gc
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from benches.harness import Run, ratio
from benches.peers import BARE, OURS, Opened, Opening, Peer
from benches.tables import Column, Table
from benches.ways import PAIR

FEW, MANY = 10, 10_000
PAIRS = 500  # in one timing
FIRST, LAST = 1_000, 1_000_000  # loans


@contextmanager
def fake_connect() -> Iterator[None]:
    """Make `psycopg2.connect`, which both pools look up when they connect, return what needs no server."""
    with mock.patch("psycopg2.connect", side_effect=lambda *_, **__: object()):
        yield


def measure(run: Run, share: float, dsn: str) -> Table:
    """Compare psycopg2.pool's growth with pgpool_rs's."""
    peers = (BARE, OURS)
    sides = {(peer.name, lent): busy(peer, dsn, lent) for peer in peers for lent in (FEW, MANY)}
    timers = {f"{name} {lent}": timeit.Timer(PAIR, globals={"pool": side.pool}) for (name, lent), side in sides.items()}
    times = run.turns(share, {name: partial(timer.timeit, PAIRS) for name, timer in timers.items()})
    few, many = ({peer.name: times[f"{peer.name} {lent}"] for peer in peers} for lent in (FEW, MANY))
    memory = {peer.name: grown(peer.opened(dsn, 1, 4).pool, FIRST if run.is_short else LAST) for peer in peers}
    nanoseconds = 1e9 / PAIRS
    return Table(
        title="What must not grow",
        text=f"The pair with {FEW} and with {MANY:,} other connections lent, none of them real, and "
        f"the process's resident memory after {FIRST:,} loans and after {LAST:,}, half of them under new keys.",
        columns=(
            Column(f"{FEW} lent, ns", ",.0f", better="less"),
            Column(f"{MANY:,} lent, ns", ",.0f", better="less"),
            Column("growth", ",.2f"),
            Column("memory, KiB more", ",.0f"),
        ),
        rows={
            name: (
                median(few[name]) * nanoseconds,
                median(many[name]) * nanoseconds,
                ratio(many[name], few[name]),
                memory[name],
            )
            for name in few
        },
    )


def busy(peer: Peer, dsn: str, lent: int) -> Opened:
    """Open a pool that has lent so many connections for good, none of them real, and has a real one to lend."""
    with fake_connect():
        side = Opened(peer, Opening(dsn=dsn, least=1, most=lent + 1))
        for _ in range(lent):
            side.borrow()
    side.give_back(side.borrow())
    return side


def grown(pool: Any, loans: int) -> float:
    """Take and give back, every second time under a new key; return what memory has grown by, in KiB."""
    lend: Callable[[int, int], None] = partial(_lend, pool)
    lend(0, FIRST)
    before = resident()
    lend(FIRST, loans)
    after = resident()
    pool.closeall()
    return float(after - before)


def _lend(pool: Any, first: int, last: int) -> None:
    for number in range(first, last, 2):
        pool.putconn(pool.getconn())
        pool.putconn(pool.getconn(number), number)


def resident() -> int:
    """Return this process's resident memory, in KiB."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")
