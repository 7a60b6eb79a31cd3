"""Rollbacks in parallel: 32 threads whose connections come back in a transaction."""

from functools import partial

from benches import crowd
from benches.contenders import CLASSES, IDEAL, PGPOOL, PSYCOPG2, Pool
from benches.effort import Effort
from benches.fake import FakeConnection, fake_connect
from benches.rounds import interleave, medians, ratio
from benches.table import Row, Target

THREADS = 32
WORK = ROLLBACK = 0.001  # seconds


def borrow(pool: Pool) -> None:
    """Take a connection, work with it and give it back in a transaction, for the pool to roll back."""
    connection = pool.getconn()
    connection.query(WORK)
    pool.putconn(connection)


def own(connection: FakeConnection) -> None:
    """Do the same work with a connection of one's own."""
    connection.query(WORK)
    connection.rollback()


def measure(effort: Effort) -> list[Row]:
    """Compare the rate with that of threads that need no pool."""
    with fake_connect(ROLLBACK):
        pools = {name: make(THREADS, THREADS) for name, make in CLASSES.items()}
    loans = {name: [partial(borrow, pool)] * THREADS for name, pool in pools.items()}
    loans[IDEAL] = [partial(own, FakeConnection(ROLLBACK)) for _ in range(THREADS)]
    sides = {name: partial(crowd.run, each, effort.crowd_seconds) for name, each in loans.items()}
    rates = crowd.rates(interleave(sides, effort.crowd_rounds))
    rate = medians(rates)
    return [
        Row(
            what=f"{THREADS} threads, 1 ms of work, 1 ms of rollback: share of the ideal rate",
            psycopg2_pool=f"{rate[PSYCOPG2]:,.0f}/s",
            pgpool_rs=f"{rate[PGPOOL]:,.0f}/s",
            bound=f"{rate[IDEAL]:,.0f}/s",
            figure=ratio(rates[PGPOOL], rates[IDEAL]),
            beside=f"{PSYCOPG2} {ratio(rates[PSYCOPG2], rates[IDEAL]):.2f}",
            target=Target(">=", 0.97),
            medians=rate,
        )
    ]
