"""The options: what each of them costs the pair."""

from collections.abc import Mapping
from typing import Any

import psycopg2

from benches import before
from benches.bare import lower_bound
from benches.contenders import LOWER_BOUND, Pool
from benches.effort import Effort
from benches.pair import SIZE, timing
from benches.rounds import interleave, medians, ratio
from benches.table import Row, Target
from pgpool_rs import ThreadedConnectionPool

PLAIN = "no option"  # Checks and statistics are on all the same.
ALL_ON = "max_lifetime: checks, statistics and a lifetime all on"
BEFORE = "before"


def nothing(_connection: object) -> None:
    """Reset nothing, so that what is measured is the pool's part."""


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
TARGETS = {ALL_ON: Target("<=", 1.4, "x")}


def measure(dsn: str, effort: Effort, commit: str | None) -> list[Row]:
    """Compare the pair's time with each option with the lower bound's, and with what it took at `commit`."""
    pools: dict[str, Pool] = {}
    if commit is not None:
        # First of all: while it is loaded, nobody else may import.
        pools[BEFORE] = before.pool_class(commit)(SIZE, SIZE, dsn)
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
