"""Write a page that says what a run did and showed, beside its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from dev.soak import callbacks, checker, faults, operations, target
from dev.soak.checker import Claim
from dev.soak.record import Record

PICTURE = "soak.png"

TEXT = """\
# Soak

{threads} threads use one pool, with every option on, for {duration}, while its server and its network fail. The run
writes this page and its picture: `make soak MINUTES=10`. One seed, which `--seed` sets, decides everything random; the
order in which the threads run is the system's.

**{result}.** Run on {date} with seed {seed}: {machine}.

![memory, threads, descriptors, latency and faults over time]({picture})

Dots are checkpoints: no fault lasts, every thread pauses, and all {maxconn} connections are lent, so that one
checkpoint can be compared with another. Lines are samples, {interval:g} s apart, while everything runs: descriptors and
sessions rise and fall with the connections, and the 99th percentile of latency rises to about the length of a fault.

## Claims

| claim | measured | bound | holds |
|---|---|---|---|
{claims}

Growth is the slope of a Theil-Sen fit over the checkpoints after the first third of the run, times the time from the
first to the last of them. The bounds are for the whole run, however long, since a cache fills up and a leak does not
end. In this run, with {requests:,} requests and {connects:,} connects in that time, they would show
{by_request:.2f} bytes of malloc's memory lost in each request, {by_connect:.0f} in each connect, or one object of
Python's in every {by_object:,.0f} requests.
Threads and descriptors have no tolerance. At each checkpoint

- the target borrows all {maxconn} connections, each answers, and the pool refuses one more;
- the pool's statistics add up: connections opened = open + closed, for all reasons together;
- the server has as many sessions as the pool has connections, and the target has as many threads and descriptors as at
  the first checkpoint, within {patience:g} s.

## What the run did

{done}

## How it works

The threads borrow at random: with `getconn` and `putconn`, in `connection()` blocks, under new keys, twice under the
same key, with a very short timeout, and for too long. They leave transactions open or failed, change settings, close
connections, or never return them. Each borrower checks that no other borrower has its connection, that it is clean, and
that its answers are its own. {operations} more threads resize, drain, check, maintain and read the pool, make other
pools and close or forget them, and fork; the child uses the pool, and its parent waits for it. `connect`, `configure`,
`check` and `reset` raise in one of {one_in} calls: an Exception or, like an interrupt, a BaseException.

The faults come in two streams, one for the server and one for the network, with {least:g} to {most:g} s between two.
terminate is pg_terminate_backend of some sessions, freeze is SIGSTOP for a second, crash is SIGKILL and recovery; cut
resets all connections, swallow takes all data and delivers none, delay delivers all data late, and refuse takes no new
connection.

The target is a process that holds the pool and its users alone. The server, the proxy, the faults and this record
belong to other processes. The target runs with `GLIBC_TUNABLES={tunables}`:
without it, a thread's own cache of free memory counts as in use, and each of 16 arenas grows to the most that a thread
in it ever needed, which takes hours. Before each count the target collects garbage, and empties the caches of Python
that fill for many minutes: looked-up names, and lines of source files.
"""


def write(record: Record, claims: Sequence[Claim], machine: str, place: Path) -> None:
    """Write the page into this file; `machine` says what it was run on, versions included."""
    checkpoints = checker.judged(record) or record.checkpoints
    requests = checkpoints[-1].requests - checkpoints[0].requests if checkpoints else 0
    connects = checkpoints[-1].connects - checkpoints[0].connects if checkpoints else 0
    text = TEXT.format(
        threads=target.THREADS,
        duration=_duration(record.seconds),
        date=datetime.now(timezone.utc).date(),
        machine=machine,
        seed=record.seed,
        picture=PICTURE,
        result="All claims hold" if all(claim.holds for claim in claims) else "A claim fails",
        maxconn=operations.MAXCONN,
        interval=record.interval,
        claims="\n".join(_row(claim) for claim in claims),
        requests=requests,
        connects=connects,
        by_request=checker.HEAP * 1024 / max(requests, 1),
        by_connect=checker.HEAP * 1024 / max(connects, 1),
        by_object=requests / checker.BLOCKS,
        patience=checker.RECOVERY,
        done=_done(record),
        operations=operations.THREADS,
        one_in=callbacks.ONE_IN,
        least=faults.PAUSE[0],
        most=faults.PAUSE[1],
        tunables=target.TUNABLES,
    )
    place.write_text(text)


def _row(claim: Claim) -> str:
    cells = (claim.name, claim.measured, claim.bound, "yes" if claim.holds else "**no**")
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _done(record: Record) -> str:
    last = record.last
    stats: Mapping[str, int] = last.get("stats", {})
    closed = {name.removeprefix("closed_"): number for name, number in stats.items() if name.startswith("closed_")}
    rows = {
        "requests": f"{last.get('requests', 0):,}, {last.get('requests', 0) / record.seconds:,.0f} a second",
        "failures that the faults explain": _counts(last.get("failures", {})),
        "other operations": f"{last.get('operations', 0):,}, {last.get('forks', 0):,} of them forks",
        "errors raised by callbacks": f"{last.get('raised', 0):,}",
        "connects": f"{stats.get('connections_num', 0):,}, {stats.get('connections_errors', 0):,} failed",
        "connections closed": _counts(closed),
        "forgotten connections reclaimed": f"{stats.get('reclaimed', 0):,}",
        "loans reported as leaks": f"{stats.get('leaks', 0):,}",
        "lines of log": f"{last.get('lines', 0):,}",
        "faults": _counts(record.faults),
        "checkpoints": f"{len(record.checkpoints):,}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number:,}" for name, number in ordered) or "none"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds < 7200 else f"{seconds / 3600:g} hours"
