"""The pair: one connection taken and given back, with nobody else about."""

import timeit
from collections.abc import Callable, Mapping, Sequence

import psycopg2

from benches.bare import lower_bound
from benches.contenders import CLASSES, LOWER_BOUND, PGPOOL, PSYCOPG2, Pool
from benches.effort import Effort
from benches.rounds import interleave, medians, ratio
from benches.table import Row, Target

STATEMENT = "pool.putconn(pool.getconn())"
SIZE = 4


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
