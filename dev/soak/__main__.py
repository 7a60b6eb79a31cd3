"""Soak a pool: `make soak MINUTES=10`, or `.venv/bin/python -m dev.soak --minutes 10 [--seed N] [--out FOLDER]`.

Writes soak.png and soak.md. Exits with 1 if a figure is not flat or a claim fails.
"""

from __future__ import annotations

import argparse
import platform
import secrets
import signal
import sys
from pathlib import Path

from dev import machine
from dev.servers.postgres import ThrowawayPostgres
from dev.soak import checker, page, plot
from dev.soak.controller import Controller


def main() -> int:
    """Run, check, write the page and print the claims."""
    arguments = parse()
    plot.require()  # Before the run, which may take hours.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that all processes are ended.
    with ThrowawayPostgres() as server:
        described = {**machine.describe(server.dsn), "C library": " ".join(platform.libc_ver())}
    print(f"seed {arguments.seed}", flush=True)
    record = Controller(arguments.minutes * 60, arguments.seed).run()
    claims = checker.check(record)
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot.write(record, arguments.out / page.PICTURE)
    page.write(record, claims, machine.sentence(described), arguments.out / "soak.md")
    for claim in claims:
        print(claim)
    return 0 if all(claim.holds for claim in claims) else 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it lasts (10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="for all that is random")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/maintainers"),
        help="the folder for soak.png and soak.md (docs/maintainers)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
