"""Serve the same web shop with pgpool_rs and with psycopg2.pool, and show both under load.

Run as `python -m dev.demo [SECONDS]`, with the seconds of load for each pool. All its processes end with it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from collections.abc import Sequence
from statistics import mean
from typing import IO

from dev.demo import processes
from dev.demo.clients import Report
from dev.demo.processes import child
from dev.demo.scenario import MEASURED, ONE_WAY, POOLS
from dev.demo.screen import Sample, Screen
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import far_away
from examples.serve import CONNECTIONS


def read_port(output: IO[str], pool: str) -> int:
    """Wait for the web server's line that says where it serves."""
    line = output.readline()
    if not line:
        sys.exit(f"the web server with {pool} did not start; its error is above")
    return int(line.rpartition(":")[2])


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
        serving = children.enter_context(child("examples.serve", dsn, "--pool", pool, "--port", 0))
        web_port = read_port(serving, pool)
        for line in children.enter_context(child("dev.demo.clients", web_port, seconds)):
            report = Report.from_line(line)
            processes.exit_after_signal()
            sample = Sample(report, **ask_counts(web_port))
            if report.is_total:
                sample = Sample(report, **averages(samples))
            elif 0 < report.elapsed <= seconds:
                samples.append(sample)
            screen.show(pool, sample)
            if report.is_total:
                return sample
    sys.exit("the clients ended early; their error is above")


def main(seconds: float) -> None:
    """Run the demo."""
    processes.exit_at_signals()
    try:
        with Screen(seconds) as screen, ThrowawayPostgres(max_connections=CONNECTIONS + 10) as postgres:
            results = {}
            for pool in POOLS:
                processes.exit_after_signal()
                with far_away(postgres.port, ONE_WAY) as port:
                    dsn = f"host=127.0.0.1 port={port} user=postgres dbname=postgres gssencmode=disable"
                    results[pool] = try_pool(pool, dsn, seconds, screen)
            screen.conclude(results)
    except SystemExit:
        print("Ended early; nothing of the demo is left running.", file=sys.stderr)
        raise


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else MEASURED)
