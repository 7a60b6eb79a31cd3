"""Many loans at once: whether giving one back costs more when ten thousand are out."""

from benches.contenders import CLASSES, PGPOOL, PSYCOPG2, KeyedPool, PoolClass
from benches.effort import Effort
from benches.fake import fake_connect
from benches.pair import timing
from benches.rounds import interleave, medians, ratio
from benches.table import Row, Target

FEW, MANY = 10, 10_000
IDLE = 4


def measure(effort: Effort) -> list[Row]:
    """Compare the pair's time with few and with many connections lent."""
    # The pools live as long as the sides: a timing holds its pool, and a pool holds what it lent.
    sides = {
        side(name, lent): timing(busy(make, lent), effort.pairs)
        for name, make in CLASSES.items()
        for lent in (FEW, MANY)
    }
    samples = interleave(sides, effort.pair_rounds)
    cost = medians(samples)
    cells = {name: f"{cost[side(name, FEW)]:,.0f} to {cost[side(name, MANY)]:,.0f} ns" for name in CLASSES}
    growth = {name: ratio(samples[side(name, MANY)], samples[side(name, FEW)]) for name in CLASSES}
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


def side(name: str, lent: int) -> str:
    """Name one side of the comparison."""
    return f"{name}, {lent} lent"


def busy(make: PoolClass, lent: int) -> KeyedPool:
    """Open a pool of fakes and borrow `lent` of them for good."""
    with fake_connect():
        pool = make(lent + IDLE, lent + IDLE)
    for _ in range(lent):
        pool.getconn()
    return pool
