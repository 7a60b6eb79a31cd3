"""Disturb real servers under load: `.venv/bin/python -m dev.trials [--only NAME] [--quick]`.

Prints how each trial went, and exits with 1 if the pool broke a promise. Writes docs/reliability.md if all trials ran
in full and the pool kept all promises.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path

from dev import machine
from dev.servers.pgbouncer import PgBouncer, install
from dev.servers.postgres import ThrowawayPostgres
from dev.trials import table
from dev.trials.contrast import LATER, MAXCONN, Contrast, compare
from dev.trials.fault import Effort, Fault
from dev.trials.faults import bouncers, network, pairs, servers
from dev.trials.trial import Result, put_through

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
HANGING = 240.0  # Seconds after which a trial is ended, with all stacks printed.
FAULTS: dict[str, type[Fault]] = {
    "kills": servers.KilledSessions,
    "restart": servers.Restarted,
    "restart-idle": servers.RestartedAtRest,
    "crash": servers.Crashed,
    "halt": servers.Halted,
    "swallow": network.Swallowed,
    "forget": network.Forgotten,
    "failover": pairs.FailedOver,
    "switchover": pairs.SwitchedOver,
    "session-bouncer": bouncers.SessionBouncerKilled,
    "session-server": bouncers.SessionServerRestarted,
    "transaction-bouncer": bouncers.TransactionBouncerRestarted,
    "transaction-server": bouncers.TransactionServerRestarted,
}


def main() -> int:
    """Run the trials."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that all servers are stopped.
    logging.getLogger("pgpool_rs").addHandler(logging.NullHandler())
    names = arguments.only or list(FAULTS)
    if any(issubclass(FAULTS[name], bouncers.Bounced) for name in names):
        install()
    effort = Effort(undisturbed=0.5, kills=5.0) if arguments.quick else Effort(undisturbed=2.0, kills=arguments.seconds)
    results = [_try(name, effort) for name in names]
    kept = not any(result.violations for result in results)
    if not arguments.quick:
        contrasts = [_compare(name, effort) for name in names if FAULTS[name].is_compared]
        if kept and names == list(FAULTS):
            PAGE.write_text(table.write(results, contrasts, *_describe()))
            print(f"written: docs/{PAGE.name}")
    faulthandler.cancel_dump_traceback_later()
    return 0 if kept else 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Disturbs real servers under load, and tells how the pool behaves.")
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="run this trial; may be given again")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long sessions are killed (60)")
    parser.add_argument("--quick", action="store_true", help="run shorter, compare with nothing, write no page")
    return parser.parse_args()


def _try(name: str, effort: Effort) -> Result:
    print(f"{name}: {FAULTS[name].title} ...", flush=True)
    faulthandler.dump_traceback_later(HANGING + effort.kills, exit=True)
    result = put_through(FAULTS[name], effort)
    failed = ", ".join(f"{number:,} {label}" for label, number in result.explained.items()) or "none"
    print(
        f"    {result.done}; {result.requests:,} requests, failed: {failed} ({result.late} late); "
        f"capacity back after {result.back:.2f} s; longest request {result.longest:.2f} s; "
        f"sessions {result.pool_size}/{result.sessions}; pace {result.pace:.2f}",
        flush=True,
    )
    for violation in result.violations:
        print(f"    NOT KEPT: {violation}", flush=True)
    return result


def _compare(name: str, effort: Effort) -> Contrast:
    faulthandler.dump_traceback_later(HANGING, exit=True)
    contrast = compare(FAULTS[name], effort)
    print(
        f"{name}, psycopg2.pool: {contrast.failed:,} of {contrast.requests:,} failed, {contrast.late:,} late; "
        f"{contrast.sound} of {MAXCONN} connections sound after {LATER:g} s",
        flush=True,
    )
    return contrast


def _describe() -> tuple[str, str]:
    """Name the machine and the versions, and the date."""
    with ThrowawayPostgres() as server, PgBouncer(server, "session") as bouncer:
        (version,) = bouncer.show("VERSION")
        described = {**machine.describe(server.dsn), "PgBouncer": version["version"].split()[-1]}
    return machine.sentence(described), str(datetime.now(timezone.utc).date())


if __name__ == "__main__":
    sys.exit(main())
