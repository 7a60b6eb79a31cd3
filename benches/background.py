"""Rollbacks in the background: the time that they save a request, with its server a millisecond away."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from benches.contenders import CLASSES, PGPOOL, PSYCOPG2, KeyedPool, PoolClass
from benches.harness import Effort, Row, Target, interleave, medians
from benches.pair import SIZE
from dev.servers.proxy import far_away
from pgpool_rs import ThreadedConnectionPool

# In seconds. With the time of the proxy itself, a round trip takes about a millisecond.
ONE_WAY = 0.0003
REQUESTS = 10  # in one timing
ROUND_TRIP = "round trip"
BACKGROUND = "pgpool_rs, background=True"
SIDES: Mapping[str, PoolClass] = {**CLASSES, BACKGROUND: partial(ThreadedConnectionPool, background=True)}


def request(pool: KeyedPool) -> None:
    """Read with one SELECT, and leave the end of the transaction to the pool."""
    connection = pool.getconn()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    pool.putconn(connection)


def timing(call: Callable[[], object]) -> float:
    """Return the median time of a call, in milliseconds."""
    times = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


def measure(dsn: str, effort: Effort) -> list[Row]:
    """Compare a request's time with and without background, in round trips."""
    with far_away(int(parse_dsn(dsn)["port"]), ONE_WAY) as port:
        far = make_dsn(dsn, port=port)
        pools = {name: make(SIZE, SIZE, far) for name, make in SIDES.items()}
        connection = psycopg2.connect(far)
        connection.autocommit = True
        calls: dict[str, Callable[[], object]] = {name: partial(request, pool) for name, pool in pools.items()}
        calls[ROUND_TRIP] = partial(connection.cursor().execute, "SELECT 1")
        samples = interleave({name: partial(timing, call) for name, call in calls.items()}, effort.request_rounds)
        for pool in pools.values():
            pool.closeall()
        connection.close()
    rounds = zip(samples[PGPOOL], samples[BACKGROUND], samples[ROUND_TRIP], strict=True)
    cost = medians(samples)
    return [
        Row(
            what="background, a request with one SELECT: round trips that it is spared",
            psycopg2_pool=f"{cost[PSYCOPG2]:.2f} ms",
            pgpool_rs=f"{cost[PGPOOL]:.2f} to {cost[BACKGROUND]:.2f} ms",
            figure=median((plain - background) / trip for plain, background, trip in rounds),
            beside=f"of {cost[ROUND_TRIP]:.2f} ms",
            target=Target(">=", 0.7),
            medians=cost,
        )
    ]
