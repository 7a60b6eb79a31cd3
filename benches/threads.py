"""Threads: 32 that return connections in a transaction, and 64 that wait for 8 connections."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

from benches.contenders import CLASSES, IDEAL, PGPOOL, PSYCOPG2, FakeConnection, Pool, fake_connect
from benches.harness import Effort, Row, Target, interleave, medians, ratio
from dev.load import Throughput, throughput
from pgpool_rs import ThreadedConnectionPool

ROLLING_BACK = 32  # threads
WORK = ROLLBACK = 0.001  # seconds

WAITING, CONNECTIONS = 64, 8
# In seconds. Each loan begins with one thread waking another, which takes some 50 us on two cores: a twentieth of the
# shorter work, so that its target is just within reach on an idle machine.
WORKS = (0.001, 0.005)


def measure_rollbacks(effort: Effort) -> list[Row]:
    """Compare the rate of threads that leave rollbacks to the pool with that of threads without a pool."""
    with fake_connect(ROLLBACK):
        pools = {name: make(ROLLING_BACK, ROLLING_BACK) for name, make in CLASSES.items()}
    loans: dict[str, Sequence[Callable[[], None]]]
    loans = {name: [partial(_query, pool)] * ROLLING_BACK for name, pool in pools.items()}
    loans[IDEAL] = [partial(_query_alone, FakeConnection(ROLLBACK)) for _ in range(ROLLING_BACK)]
    rates = _rates(_measured(loans, effort))
    rate = medians(rates)
    return [
        Row(
            what=f"{ROLLING_BACK} threads, 1 ms of work, 1 ms of rollback: share of the ideal rate",
            psycopg2_pool=f"{rate[PSYCOPG2]:,.0f}/s",
            pgpool_rs=f"{rate[PGPOOL]:,.0f}/s",
            bound=f"{rate[IDEAL]:,.0f}/s",
            figure=ratio(rates[PGPOOL], rates[IDEAL]),
            beside=f"{PSYCOPG2} {ratio(rates[PSYCOPG2], rates[IDEAL]):.2f}",
            target=Target(">=", 0.97),
            medians=rate,
        )
    ]


def measure_waiting(effort: Effort) -> list[Row]:
    """Measure with short and with longer loans. psycopg2.pool is not compared: it refuses instead of waiting."""
    return [row for work in WORKS for row in _waiting(work, effort)]


def _waiting(work: float, effort: Effort) -> list[Row]:
    """Compare the rate with that of 8 threads with a connection each, and the threads' shares with each other."""
    with fake_connect():
        pool = ThreadedConnectionPool(CONNECTIONS, CONNECTIONS, timeout=60)
    loans = {
        PGPOOL: [partial(_hold, pool, work)] * WAITING,
        IDEAL: [partial(time.sleep, work)] * CONNECTIONS,
    }
    measured = _measured(loans, effort)
    rates = _rates(measured)
    rate = medians(rates)
    spread = median(each.spread for each in measured[PGPOOL])
    what = f"{WAITING} threads, {CONNECTIONS} connections, {work * 1000:g} ms of work"
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


def _measured(loans: Mapping[str, Sequence[Callable[[], None]]], effort: Effort) -> dict[str, list[Throughput]]:
    return interleave(
        {name: partial(throughput, each, effort.load_seconds) for name, each in loans.items()}, effort.load_rounds
    )


def _rates(measured: Mapping[str, Sequence[Throughput]]) -> dict[str, list[float]]:
    return {name: [each.rate for each in rounds] for name, rounds in measured.items()}


def _query(pool: Pool) -> None:
    connection = pool.getconn()
    connection.query(WORK)
    pool.putconn(connection)


def _query_alone(connection: FakeConnection) -> None:
    connection.query(WORK)
    connection.rollback()


def _hold(pool: Pool, seconds: float) -> None:
    connection = pool.getconn()
    time.sleep(seconds)
    pool.putconn(connection)
