"""The scenes on a real server: threads under load, a request alone, an exhausted pool, a burst, a lost server."""

import itertools
import threading
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import psycopg
import psycopg2

from benches.harness import Run, percentile, ratio
from benches.peers import BACKGROUND, BARE, BURSTING, CHECKING, DBUTILS, OURS, PEERS, PSYCOPG_POOL, Opened, Peer
from benches.tables import FAIRNESS, IDEAL, IDEAL_3, ROUND_TRIP, Cell, Column, Table
from benches.ways import SIZE
from dev.load import Throughput, throughput
from dev.servers.postgres import ThrowawayPostgres

CONNECTIONS = 8
LOAD_SECONDS, SHORT_SECONDS = 0.35, 0.05  # of one side's turn
SLOW = 0.02  # seconds of a slow query
TIMEOUT = 0.05  # seconds, at an exhausted pool
BURST, IDLE, CONNECT, WORK = 32, 2, 0.03, 0.002
IDLE_BEFORE_LOSS = 1.0  # seconds; a pool that checks what has been idle for a while does so then
ATTEMPTS = 50

# What pictures show.
SHARE, P99 = "share of a connection each", "p99 of the wait, ms"
BURST_TITLE, SESSIONS, BURST_P99 = "A burst", "sessions opened", "p99 of a request, ms"

Work = Callable[[Any], None]


@contextmanager
def opened(peers: Sequence[Peer], dsn: str, least: int, most: int, **more: float) -> Iterator[dict[str, Opened]]:
    """Open a pool of each peer, and close all of them at the end."""
    sides: dict[str, Opened] = {}
    try:
        for peer in peers:
            sides[peer.name] = peer.opened(dsn, least, most, **more)
        yield sides
    finally:
        for side in sides.values():
            side.close()


def ask(query: str, connection: Any) -> None:
    """Execute one statement and fetch its row."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        cursor.fetchone()


QUICK: Work = partial(ask, "SELECT 1")
SLOWLY: Work = partial(ask, f"SELECT pg_sleep({SLOW})")


@dataclass(frozen=True)
class Timing:
    """Tell how threads fared in one turn."""

    load: Throughput
    p99: float  # of the wait for a connection, in seconds


def loan(side: Opened, work: Work, *, commit: bool, waits: list[float]) -> None:
    """Borrow, work, commit if that is not left to the pool, and give back."""
    began = time.perf_counter()
    connection = side.borrow()
    waits.append(time.perf_counter() - began)
    work(connection)
    if commit:
        connection.commit()
    side.give_back(connection)


def alone(connection: Any, works: Iterator[Work], *, commit: bool) -> None:
    """Do the same with a connection of one's own."""
    next(works)(connection)
    connection.commit() if commit else connection.rollback()


def under_load(
    run: Run,
    share: float,
    dsn: str,
    *,
    title: str,
    text: str,
    threads: int,
    commit: bool,
    works: Sequence[Work] = (QUICK,),
) -> Table:
    """Let threads borrow from each pool without pause, and let as many as there are connections have one each."""
    peers = [peer for peer in PEERS if threads <= CONNECTIONS or peer is not BARE]
    ideals: dict[str, Callable[[str], Any]] = {IDEAL: psycopg2.connect, IDEAL_3: psycopg.connect}
    own = {name: [connect(dsn) for _ in range(CONNECTIONS)] for name, connect in ideals.items()}
    seconds = SHORT_SECONDS if run.is_short else LOAD_SECONDS

    def timing(jobs: Callable[[list[float]], Sequence[Callable[[], None]]]) -> Timing:
        waits: list[float] = []
        load = throughput(jobs(waits), seconds)
        return Timing(load, percentile(waits, 0.99))

    def borrowing(side: Opened, waits: list[float]) -> Sequence[Callable[[], None]]:
        return [
            partial(loan, side, work, commit=commit, waits=waits)
            for work in itertools.islice(itertools.cycle(works), threads)
        ]

    def owning(connections: Sequence[Any], _waits: list[float]) -> Sequence[Callable[[], None]]:
        return [partial(alone, connection, itertools.cycle(works), commit=commit) for connection in connections]

    try:
        with opened(peers, dsn, CONNECTIONS, CONNECTIONS) as sides:
            turns = {name: partial(timing, partial(owning, connections)) for name, connections in own.items()}
            turns |= {name: partial(timing, partial(borrowing, side)) for name, side in sides.items()}
            timings = run.turns(share, turns)
    finally:
        for connection in itertools.chain(*own.values()):
            connection.close()
    rates = {name: [each.load.rate for each in rounds] for name, rounds in timings.items()}
    drivers = {PSYCOPG_POOL.name: IDEAL_3, OURS.name: IDEAL}
    rows: dict[str, tuple[Cell, ...]] = {}
    for name, rounds in timings.items():
        rows[name] = (
            median(rates[name]),
            ratio(rates[name], rates[IDEAL]),
            ratio(rates[name], rates[drivers[name]]) if name in drivers else "",
            "" if name in ideals else 1000 * median(each.p99 for each in rounds),
            median(each.load.spread for each in rounds),
        )
    if BARE not in peers:
        rows[BARE.name] = ("refuses", "", "", "", "")
    return Table(
        title=title,
        text=text,
        columns=(
            Column("loans a second", ",.0f"),
            Column(SHARE, better="more"),
            Column("of its driver's", better="more"),
            Column(P99, better="less", matters=0.05),
            Column(FAIRNESS, better="less", matters=0.1),
        ),
        rows=rows,
    )


def pairs(run: Run, share: float, dsn: str) -> Table:
    """Time the pair alone, without a query."""
    with opened(PEERS, dsn, SIZE, SIZE) as sides:
        timers = {name: timeit.Timer(side.pair, globals={"pool": side.pool}) for name, side in sides.items()}
        times = run.turns(share, {name: partial(timer.timeit, 200) for name, timer in timers.items()})
    return Table(
        title="The pair",
        text="Borrow a connection and give it back, in one thread, with no query between.",
        columns=(Column("ns", ",.0f", better="less"), Column(f"of {BARE.name}'s", ",.2f")),
        rows={name: (median(each) / 200 * 1e9, ratio(each, times[BARE.name])) for name, each in times.items()},
    )


def request(run: Run, share: float, dsn: str) -> Table:
    """Time one request at a time, whose transaction the pool ends."""

    def timing(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - began)

    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    with opened([*PEERS, BACKGROUND], dsn, SIZE, SIZE) as sides:
        calls: dict[str, Callable[[], object]] = {ROUND_TRIP: partial(QUICK, connection)}
        calls |= {name: partial(loan, side, QUICK, commit=False, waits=[]) for name, side in sides.items()}
        times = run.turns(share, {name: partial(timing, call) for name, call in calls.items()})
    connection.close()
    return Table(
        title="A request alone, 1 ms away",
        text="One thread borrows, executes `SELECT 1` and gives back; the pool ends the transaction.",
        columns=(Column("ms", better="less"), Column("round trips")),
        rows={name: (median(each), ratio(each, times[ROUND_TRIP])) for name, each in times.items()},
    )


def exhausted(run: Run, share: float, dsn: str) -> Table:
    """Time how a pool refuses, all of whose connections are lent."""
    peers = [peer for peer in PEERS if peer not in (BARE, DBUTILS)]

    def refusal(side: Opened) -> float:
        began = time.perf_counter()
        try:
            side.borrow()
        except Exception:  # noqa: BLE001  each pool has its own
            return 1000 * (time.perf_counter() - began)
        raise AssertionError("an exhausted pool has lent a connection")

    with opened(peers, dsn, SIZE, SIZE, timeout=TIMEOUT) as sides:
        held = {name: [side.borrow() for _ in range(SIZE)] for name, side in sides.items()}
        times = run.turns(share, {name: partial(refusal, side) for name, side in sides.items()})
        for name, connections in held.items():
            for connection in connections:
                sides[name].give_back(connection)
    rows: dict[str, tuple[Cell, ...]] = {
        BARE.name: ("at once: it does not wait",),
        DBUTILS.name: ("never: it has no timeout",),
    }
    return Table(
        title="A refusal",
        text=f"All connections are lent, and the caller waits for {TIMEOUT * 1000:g} ms.",
        columns=(Column("refused after, ms", ",.1f", better="less", matters=1.0),),
        rows=rows | {name: (median(each),) for name, each in times.items()},
    )


def burst(run: Run, share: float, dsn: str) -> Table:
    """Let many requests come at once to a pool with few idle connections and room for all."""
    size = 8 if run.is_short else BURST
    work = partial(ask, f"SELECT pg_sleep({WORK})")

    def once(peer: Peer) -> tuple[list[float], int]:
        times: list[float] = []
        with opened([peer], dsn, IDLE, BURST, connect_seconds=CONNECT) as sides:
            side, gate = sides[peer.name], threading.Barrier(size)
            before = len(side.opening.opened)

            def one() -> None:
                gate.wait()
                began = time.perf_counter()
                loan(side, work, commit=True, waits=[])
                times.append(1000 * (time.perf_counter() - began))

            together([one] * size)
            return times, len(side.opening.opened) - before

    rounds = run.turns(share, {peer.name: partial(once, peer) for peer in BURSTING})
    times = {name: [each for times, _ in turns for each in times] for name, turns in rounds.items()}
    return Table(
        title=BURST_TITLE,
        text=f"{size} requests come at once to a pool with {IDLE} idle connections and room for {BURST}. A connect "
        f"takes {CONNECT * 1000:g} ms more than it does here, and the work {WORK * 1000:g} ms.",
        columns=(
            Column(BURST_P99, ",.0f", better="less"),
            Column("median, ms", ",.0f", better="less"),
            Column(SESSIONS, ",.0f", better="less"),
        ),
        rows={
            name: (percentile(each, 0.99), median(each), median(opened for _, opened in rounds[name]))
            for name, each in times.items()
        },
    )


def server_returns(run: Run, share: float, server: ThrowawayPostgres) -> Table:
    """Restart the server, and let threads use each pool until each thread was served."""

    def once() -> dict[str, tuple[int, float]]:
        found = {}
        with opened(CHECKING, server.dsn, CONNECTIONS, CONNECTIONS) as sides:
            server.restart()
            time.sleep(0 if run.is_short else IDLE_BEFORE_LOSS)
            for name, side in sides.items():
                failures: list[Exception] = []
                began = time.perf_counter()
                together([partial(until_served, side, failures)] * CONNECTIONS)
                found[name] = len(failures), 1000 * (time.perf_counter() - began)
        return found

    rounds = run.turns(share, {"all": once})["all"]
    return Table(
        title="A server that comes back",
        text=f"Each pool has {CONNECTIONS} idle connections, and the server restarts. {IDLE_BEFORE_LOSS:g} s later, "
        f"{CONNECTIONS} threads at once send requests until each has had an answer. The options are what the "
        "pools' documentations offer for this, and cost a round trip in every loan, in good times too. "
        "pgpool_rs asks the kernel, about connections that were idle for half a second.",
        columns=(
            Column("failed requests", ",.0f", better="less"),
            Column("until all are served, ms", ",.1f", better="less"),
        ),
        rows={
            peer.name: (median(each[peer.name][0] for each in rounds), median(each[peer.name][1] for each in rounds))
            for peer in CHECKING
        },
    )


def until_served(side: Opened, failures: list[Exception]) -> None:
    """Send a request again and again, until the server answers."""
    for _ in range(ATTEMPTS):
        try:
            connection = side.borrow()
            try:
                QUICK(connection)
                connection.commit()
            finally:
                with suppress(psycopg2.Error):
                    side.give_back(connection)
        except Exception as error:  # noqa: BLE001  each pool has its own
            failures.append(error)
        else:
            return


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Do each job in a thread of its own; raise what one of them raises."""
    errors: list[BaseException] = []

    def do(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001  the caller raises it
            errors.append(error)

    threads = [threading.Thread(target=do, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
