"""The pair, a getconn and a putconn without other threads: plain, with each option, deep in calls, with many lent."""

import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg2

from benches.contenders import (
    CLASSES,
    LOWER_BOUND,
    PGPOOL,
    PSYCOPG2,
    KeyedPool,
    Pool,
    PoolClass,
    class_before,
    fake_connect,
    lower_bound,
)
from benches.harness import Effort, Row, Target, difference, interleave, medians, ratio
from pgpool_rs import ThreadedConnectionPool

STATEMENT = "pool.putconn(pool.getconn())"
SIZE = 4

PLAIN = "no option"  # Checks and statistics are on all the same.
ALL_ON = "max_lifetime: checks, statistics and a lifetime all on"
BEFORE = "before"
TARGETS = {ALL_ON: Target("<=", 1.4, "x")}

DEPTH = 30
LOANS = 200  # In one timing: few, so that in most timings no other process takes the core.
UNRECORDED, RECORDED = "without leak_after", "with leak_after"

FEW, MANY = 10, 10_000
IDLE = 4


def nothing(_connection: object) -> None:
    """Reset nothing, so that only the pool's part is measured."""


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "check=None": {"check": None},
    "check_after=0: a check each time": {"check_after": 0},
    # As the connection is above minconn, it is max_idle that keeps it.
    "max_idle": {"max_idle": 300, "minconn": 0},
    ALL_ON: {"max_lifetime": 1800},
    "leak_after": {"leak_after": 60},
    "reclaim": {"reclaim": True},
    "reset, which does nothing": {"reset": nothing},
    "background": {"background": True},
}


def timing(pool: Pool, pairs: int) -> Callable[[], float]:
    """Return a function that times the pair, in nanoseconds."""
    # A Timer compiles its own loop: in one shared by all pools, the interpreter could specialise for none of them.
    timer = timeit.Timer(STATEMENT, globals={"pool": pool})
    return lambda: timer.timeit(pairs) / pairs * 1e9


def contenders(dsn: str) -> dict[str, Pool]:
    """Open each contender with four connections to the server."""
    pools: dict[str, Pool] = {name: make(SIZE, SIZE, dsn) for name, make in CLASSES.items()}
    pools[LOWER_BOUND] = lower_bound([psycopg2.connect(dsn) for _ in range(SIZE)])
    return pools


def measure(dsn: str, effort: Effort) -> list[Row]:
    """Compare the pair's time with psycopg2.pool's and with the lower bound's."""
    sides = {name: timing(pool, effort.pairs) for name, pool in contenders(dsn).items()}
    return compare("time of the pair", "ns", interleave(sides, effort.pair_rounds))


def compare(what: str, unit: str, samples: Mapping[str, Sequence[float]]) -> list[Row]:
    """Make a row for each of the pair's two targets."""
    cost = medians(samples)
    cells = {name: f"{figure:,.0f} {unit}" for name, figure in cost.items()}
    return [
        Row(
            what=f"{what}, against psycopg2.pool",
            psycopg2_pool=cells[PSYCOPG2],
            pgpool_rs=cells[PGPOOL],
            figure=ratio(samples[PSYCOPG2], samples[PGPOOL]),
            target=Target(">=", 6, "x"),
            medians=cost,
        ),
        Row(
            what=f"{what}, against the lower bound",
            psycopg2_pool=cells[PSYCOPG2],
            pgpool_rs=cells[PGPOOL],
            bound=cells[LOWER_BOUND],
            figure=ratio(samples[PGPOOL], samples[LOWER_BOUND]),
            beside=f"{PSYCOPG2} {ratio(samples[PSYCOPG2], samples[LOWER_BOUND]):.3g}x",
            target=Target("<=", 1.3, "x"),
            medians=cost,
        ),
    ]


def measure_options(dsn: str, effort: Effort, commit: str | None) -> list[Row]:
    """Compare the pair's time with each option with the lower bound's, and with the time at `commit`."""
    pools: dict[str, Pool] = {}
    if commit is not None:
        # First of all: no other thread may import while it is loaded.
        pools[BEFORE] = class_before(commit)(SIZE, SIZE, dsn)
    pools[LOWER_BOUND] = lower_bound([psycopg2.connect(dsn) for _ in range(SIZE)])
    basis: dict[str, Any] = {"minconn": SIZE, "maxconn": SIZE, "dsn": dsn}
    for name, options in OPTIONS.items():
        pools[name] = ThreadedConnectionPool(**{**basis, **options})
    samples = interleave({name: timing(pool, effort.pairs) for name, pool in pools.items()}, effort.option_rounds)
    cost = medians(samples)
    rows = [
        Row(
            what=f"the pair with {name}",
            pgpool_rs=f"{cost[name]:,.0f} ns",
            bound=f"{cost[LOWER_BOUND]:,.0f} ns",
            figure=ratio(samples[name], samples[LOWER_BOUND]),
            beside=f"{ratio(samples[name], samples[PLAIN]):.3g}x of {PLAIN}",
            target=TARGETS.get(name),
            medians=cost,
        )
        for name in OPTIONS
    ]
    if commit is not None:
        growth = {name: ratio(samples[name], samples[BEFORE]) for name in (PLAIN, ALL_ON)}
        rows.append(
            Row(
                what=f"the pair with {ALL_ON}, since {commit}",
                pgpool_rs=f"{cost[BEFORE]:,.0f} to {cost[ALL_ON]:,.0f} ns",
                figure=growth[ALL_ON],
                beside=f"{PLAIN} {growth[PLAIN]:.3g}x",
                target=Target("<=", 1.15, "x"),
                medians=cost,
            )
        )
    return rows


def borrow_deep(pool: Pool, depth: int) -> None:
    """Take a connection and give it back, `depth` calls further down."""
    if depth:
        borrow_deep(pool, depth - 1)
    else:
        pool.putconn(pool.getconn())


def deep_timing(pool: Pool) -> Callable[[], float]:
    """Return a function that times a loan deep in calls, in nanoseconds."""
    # Each loan makes all calls anew, as a request does: the stack of frames that were recorded before would cost less.
    timer = timeit.Timer("borrow(pool, depth)", globals={"borrow": borrow_deep, "pool": pool, "depth": DEPTH})
    return lambda: timer.timeit(LOANS) / LOANS * 1e9


def measure_depth(effort: Effort) -> list[Row]:
    """Compare a loan's time in a pool that records the borrower's stack with that in a pool that does not."""
    with fake_connect():
        pools = {UNRECORDED: ThreadedConnectionPool(1, 1), RECORDED: ThreadedConnectionPool(1, 1, leak_after=60)}
    samples = interleave({name: deep_timing(pool) for name, pool in pools.items()}, effort.pair_rounds)
    cost = medians(samples)
    return [
        Row(
            what=f"leak_after, {DEPTH} calls deep: added to a loan's time",
            pgpool_rs=f"{cost[UNRECORDED]:,.0f} to {cost[RECORDED]:,.0f} ns",
            figure=difference(samples[RECORDED], samples[UNRECORDED]),
            target=Target("<=", 2_000, " ns"),
            medians=cost,
        )
    ]


def measure_many_lent(effort: Effort) -> list[Row]:
    """Compare the pair's time with few and with many connections lent."""
    # The pools live as long as the sides: a timing holds its pool, and a pool holds its lent connections.
    sides = {
        _side(name, lent): timing(_busy(make, lent), effort.pairs)
        for name, make in CLASSES.items()
        for lent in (FEW, MANY)
    }
    samples = interleave(sides, effort.pair_rounds)
    cost = medians(samples)
    cells = {name: f"{cost[_side(name, FEW)]:,.0f} to {cost[_side(name, MANY)]:,.0f} ns" for name in CLASSES}
    growth = {name: ratio(samples[_side(name, MANY)], samples[_side(name, FEW)]) for name in CLASSES}
    return [
        Row(
            what=f"time of the pair, from {FEW} lent to {MANY:,} lent",
            psycopg2_pool=cells[PSYCOPG2],
            pgpool_rs=cells[PGPOOL],
            figure=growth[PGPOOL],
            beside=f"{PSYCOPG2} {growth[PSYCOPG2]:.3g}x",
            target=Target("<=", 1.2, "x"),
            medians=cost,
        )
    ]


def _side(name: str, lent: int) -> str:
    return f"{name}, {lent} lent"


def _busy(make: PoolClass, lent: int) -> KeyedPool:
    """Open a pool of fakes and borrow `lent` of them for good."""
    with fake_connect():
        pool = make(lent + IDLE, lent + IDLE)
    for _ in range(lent):
        pool.getconn()
    return pool
