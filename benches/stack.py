"""The stack that leak_after records with each loan: what it costs a borrower who is deep in calls."""

import timeit
from collections.abc import Callable

from benches.contenders import Pool
from benches.effort import Effort
from benches.fake import fake_connect
from benches.rounds import difference, interleave, medians
from benches.table import Row, Target
from pgpool_rs import ThreadedConnectionPool

DEPTH = 30
LOANS = 200  # in one timing: few, so that most timings are over before somebody else has a turn on the core
PLAIN, WATCHED = "without leak_after", "with leak_after"


def borrow(pool: Pool, depth: int) -> None:
    """Take a connection and give it back, `depth` calls further down."""
    if depth:
        borrow(pool, depth - 1)
    else:
        pool.putconn(pool.getconn())


def timing(pool: Pool) -> Callable[[], float]:
    """Return a function that times a loan, in nanoseconds."""
    # Called down anew for each loan, as a request is: frames that had been looked at before would come cheaper.
    timer = timeit.Timer("borrow(pool, depth)", globals={"borrow": borrow, "pool": pool, "depth": DEPTH})
    return lambda: timer.timeit(LOANS) / LOANS * 1e9


def measure(effort: Effort) -> list[Row]:
    """Compare a loan's time with that in a pool that records nothing."""
    with fake_connect():
        pools = {PLAIN: ThreadedConnectionPool(1, 1), WATCHED: ThreadedConnectionPool(1, 1, leak_after=60)}
    samples = interleave({name: timing(pool) for name, pool in pools.items()}, effort.pair_rounds)
    cost = medians(samples)
    return [
        Row(
            what=f"leak_after, {DEPTH} calls deep: added to a loan's time",
            pgpool_rs=f"{cost[PLAIN]:,.0f} to {cost[WATCHED]:,.0f} ns",
            figure=difference(samples[WATCHED], samples[PLAIN]),
            target=Target("<=", 2_000, " ns"),
            medians=cost,
        )
    ]
