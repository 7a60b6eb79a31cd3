"""Waiting: 64 threads share 8 connections, which psycopg2.pool cannot do, since it refuses instead."""

import time
from functools import partial
from statistics import median

from benches import crowd
from benches.contenders import IDEAL, PGPOOL, Pool
from benches.effort import Effort
from benches.fake import fake_connect
from benches.rounds import interleave, medians, ratio
from benches.table import Row, Target
from pgpool_rs import ThreadedConnectionPool

THREADS, CONNECTIONS = 64, 8
# In seconds. Each loan here begins with one thread waking another, which takes some 50 us on two cores: a twentieth of
# the shorter work, so that its target is just within reach on an idle machine.
WORKS = (0.001, 0.005)


def borrow(pool: Pool, work: float) -> None:
    """Take a connection when there is one, hold it for `work` seconds and give it back."""
    connection = pool.getconn()
    time.sleep(work)
    pool.putconn(connection)


def measure(effort: Effort) -> list[Row]:
    """Measure with short and with longer loans: the shorter, the more the handing over counts."""
    return [row for work in WORKS for row in with_work(work, effort)]


def with_work(work: float, effort: Effort) -> list[Row]:
    """Compare the rate with that of 8 threads with a connection each, and the threads' shares with each other."""
    with fake_connect():
        pool = ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, timeout=60)
    loans = {
        PGPOOL: [partial(borrow, pool, work)] * THREADS,
        IDEAL: [partial(time.sleep, work)] * CONNECTIONS,
    }
    sides = {name: partial(crowd.run, each, effort.crowd_seconds) for name, each in loans.items()}
    outcomes = interleave(sides, effort.crowd_rounds)
    rates = crowd.rates(outcomes)
    rate = medians(rates)
    spread = median(outcome.spread for outcome in outcomes[PGPOOL])
    what = f"{THREADS} threads, {CONNECTIONS} connections, {work * 1000:g} ms of work"
    return [
        Row(
            what=f"{what}: share of the ideal rate",
            pgpool_rs=f"{rate[PGPOOL]:,.0f}/s",
            bound=f"{rate[IDEAL]:,.0f}/s",
            figure=ratio(rates[PGPOOL], rates[IDEAL]),
            target=Target(">=", 0.95),
            medians=rate,
        ),
        Row(
            what=f"{what}: busiest thread to idlest",
            pgpool_rs=f"{spread:.2f}",
            figure=spread,
            target=Target("<=", 1.2, "x"),
            medians={PGPOOL: spread},
        ),
    ]
