"""Run the benchmark: `make bench`, or `.venv/bin/python -m benches [--quick]`.

Every figure is a median over rounds in which all sides took turns, and every ratio the median of the ratios within a
round. Only the ratios mean anything on another machine.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from benches import background, memory, pair, threads
from benches.harness import FULL, QUICK, Row, markdown, text
from dev import machine
from dev.servers.postgres import ThrowawayPostgres

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print the table and write the figures down."""
    arguments = parse()
    now = datetime.now(timezone.utc).replace(microsecond=0)
    with ThrowawayPostgres() as server:
        description = machine.describe(server.dsn)
        rows = measure(server.dsn, arguments)
    print(markdown(rows) if arguments.markdown else text(rows))
    print(f"\n{machine.sentence(description)}; {now.date()}")
    path = arguments.json or RESULTS / f"{now:%Y-%m-%dT%H-%M-%S}.json"
    record = {"date": now.isoformat(), "machine": description, "rows": [asdict(row) | {"met": row.met} for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compares pgpool_rs with psycopg2.pool and with the best possible.")
    parser.add_argument("--quick", action="store_true", help="measure for seconds, not minutes, and less exactly")
    parser.add_argument("--before", metavar="COMMIT", help="compare with the pair of COMMIT too, which is built first")
    parser.add_argument("--markdown", action="store_true", help="print the table as README shows it")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the figures (benches/results/...)")
    return parser.parse_args()


def measure(dsn: str, arguments: argparse.Namespace) -> list[Row]:
    """Take all measurements, one after the other, and name each on stderr."""
    effort = QUICK if arguments.quick else FULL
    subjects: dict[str, Callable[[], list[Row]]] = {
        "the pair": partial(pair.measure, dsn, effort),
        "the pair with each option": partial(pair.measure_options, dsn, effort, arguments.before),
        "stacks": partial(pair.measure_depth, effort),
        "rollbacks in the background": partial(background.measure, dsn, effort),
        "rollbacks in parallel": partial(threads.measure_rollbacks, effort),
        "waiting": partial(threads.measure_waiting, effort),
        "many connections lent": partial(pair.measure_many_lent, effort),
        "resident memory": partial(memory.measure, dsn, effort),
    }
    rows = []
    for number, (name, subject) in enumerate(subjects.items(), start=1):
        print(f"{number}/{len(subjects)} {name} ...", file=sys.stderr)
        rows += subject()
    return rows


if __name__ == "__main__":
    main()
