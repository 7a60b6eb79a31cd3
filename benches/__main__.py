"""Measure all pools side by side, and write docs/benchmarks.md: `make bench`, within 10 minutes."""

import argparse
import itertools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from psycopg2.extensions import make_dsn

from benches import growth, instructions, page, pictures, scenes, ways
from benches.harness import Run
from benches.pictures import Picture
from benches.scenes import CONNECTIONS, QUICK, SLOW, SLOWLY
from benches.tables import Table
from dev import machine
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import far_away

SECONDS = 400.0
# In seconds. With the time of the proxy itself, a round trip takes about a millisecond.
ONE_WAY = 0.0003
MANY, EXHAUSTING = 32, 24  # threads
COMMIT, ROLLBACK, AWAY = "commit", "rollback on return", ", 1 ms away"


def main() -> None:
    """Measure, and write the page and its pictures."""
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long; 0 only shows that everything works")
    parser.add_argument("--into", type=Path, default=ways.ROOT / "docs", help="the folder for the page (docs)")
    arguments = parser.parse_args()
    for name in ("psycopg.pool", "sqlalchemy.pool", "pgpool_rs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    run = Run(arguments.seconds)
    if not run.is_short:
        pictures.require()
    with ThrowawayPostgres() as server:
        described = machine.describe(server.dsn)
        del described["pgpool_rs"], described["psycopg2"]  # They stand among the pools.
        tables = {table.title: table for table in measure(run, server)}
        run.scene("ways to borrow")
        rows = instructions.table(counted(run, server.dsn), ways.times(run, 0.04, server.dsn))
    run.scene("the page")
    drawn = [
        Picture("threads", tables[title(MANY, COMMIT, "")], scenes.SHARE, scenes.P99),
        Picture("away", tables[title(MANY, ROLLBACK, AWAY)], scenes.SHARE, scenes.P99),
        Picture("burst", tables[scenes.BURST_TITLE], scenes.SESSIONS, scenes.BURST_P99),
    ]
    if not run.is_short or pictures.can_draw():
        for picture in drawn:
            picture.write(arguments.into)
    page.write(arguments.into / "benchmarks.md", list(tables.values()), rows, drawn, machine.sentence(described))


def measure(run: Run, server: ThrowawayPostgres) -> Iterator[Table]:
    """Play all scenes."""
    with far_away(server.port, ONE_WAY) as port:
        far = make_dsn(server.dsn, port=port)
        run.scene("the pair")
        yield scenes.pairs(run, 0.04, server.dsn)
        for (where, dsn), threads, (end, commit) in itertools.product(
            (("", server.dsn), (AWAY, far)), (CONNECTIONS, MANY), ((COMMIT, True), (ROLLBACK, False))
        ):
            run.scene(f"{threads} threads, {end}{where}")
            yield scenes.under_load(
                run,
                0.075,
                dsn,
                title=title(threads, end, where),
                text=f"Each thread borrows, executes `SELECT 1`, {'commits, ' if commit else ''}gives back, and so on.",
                threads=threads,
                commit=commit,
            )
        run.scene("a request alone")
        yield scenes.request(run, 0.03, far)
    run.scene("slow queries")
    yield scenes.under_load(
        run,
        0.06,
        server.dsn,
        title=f"Exhaustion: {EXHAUSTING} threads over {CONNECTIONS} connections, every second one slow",
        text=f"As above, with commit, and every second thread's query takes {SLOW * 1000:g} ms at the server. In a "
        "pool that serves in the order of asking, the others wait behind these. One that does not may have more "
        "loans, all of them of the same threads.",
        threads=EXHAUSTING,
        commit=True,
        works=(QUICK, SLOWLY),
    )
    run.scene("refusals")
    yield scenes.exhausted(run, 0.02, server.dsn)
    run.scene("a burst")
    yield scenes.burst(run, 0.1, server.dsn)
    run.scene("a server that comes back")
    yield scenes.server_returns(run, 0.05, server)
    run.scene("growth")
    yield growth.measure(run, 0.03, server.dsn)


def title(threads: int, end: str, where: str) -> str:
    """Name a scene with load."""
    return f"{threads} threads over {CONNECTIONS} connections, {end}{where}"


def counted(run: Run, dsn: str) -> dict[str, float]:
    """Count instructions, where that can be done; nothing in a run that only shows that everything works."""
    if run.is_short:
        return {}
    run.scene("instructions")
    try:
        return instructions.count(dsn)
    except instructions.NotCountedError as error:
        print(error, file=sys.stderr)
        return {}


if __name__ == "__main__":
    main()
