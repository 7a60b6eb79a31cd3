"""Serve the same web shop with pgpool_rs and with psycopg2.pool, and show how each does under load.

Run as: run.py [SECONDS], with the seconds of load for each pool. Stops all that it started, however it ends.
"""

from __future__ import annotations

import ending

ending.listen()  # Before the imports that take their time.

import contextlib
import http.client
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import IO

from children import child
from load import Report
from scenario import CONNECTIONS, MEASURED, ONE_WAY, POOLS
from screen import Sample, Screen
from shop import open_shop

sys.path.append(str(Path(__file__).parents[1]))
from dev.servers.postgres import ThrowawayPostgres


def read_port(output: IO[str], what: str) -> int:
    """Wait for the line with which a child says that it serves, and where."""
    line = output.readline()
    if not line:
        sys.exit(f"{what} did not start; its own words are above")
    return int(line)


def ask_counts(port: int) -> dict[str, int]:
    """Ask the shop for its pool's counts."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/stats")
        counts: dict[str, int] = json.loads(connection.getresponse().read())
        return counts
    finally:
        connection.close()


def averages(samples: Sequence[Sample]) -> dict[str, float]:
    """Give the mean of each of the pool's counts."""
    return {name: mean(getattr(sample, name) for sample in samples) for name in ("idle", "lent", "waiting")}


def try_pool(pool: str, dsn: str, seconds: float, screen: Screen) -> Sample:
    """Serve with this pool, send load, show it, and give the total."""
    samples: list[Sample] = []
    with contextlib.ExitStack() as children:
        web_port = read_port(children.enter_context(child("serve.py", pool, dsn)), f"the web server with {pool}")
        for line in children.enter_context(child("load.py", web_port, seconds)):
            report = Report.from_line(line)
            ending.exit_if_told()
            sample = Sample(report, **ask_counts(web_port))
            if report.is_total:
                sample = Sample(report, **averages(samples))
            elif 0 < report.elapsed <= seconds:
                samples.append(sample)
            screen.show(pool, sample)
            if report.is_total:
                return sample
    sys.exit("the clients ended early; their own words are above")


def main(seconds: float) -> None:
    """Run the demo."""
    try:
        with Screen(seconds) as screen, ThrowawayPostgres(max_connections=CONNECTIONS + 10) as postgres:
            results = {}
            for pool in POOLS:
                ending.exit_if_told()
                open_shop(postgres.socket_dsn)
                with child("../dev/servers/proxy.py", postgres.port, ONE_WAY) as output:
                    port = read_port(output, "the proxy to PostgreSQL")
                    dsn = f"host=127.0.0.1 port={port} user=postgres dbname=postgres gssencmode=disable"
                    results[pool] = try_pool(pool, dsn, seconds, screen)
            screen.conclude(results)
    except SystemExit:
        print("Ended early; nothing of the demo is left running.", file=sys.stderr)
        raise


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else MEASURED)
