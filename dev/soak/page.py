"""Write what was run and what came out, as a page beside the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from dev.soak import operators, subject, verdict, weather
from dev.soak.record import Record
from dev.soak.verdict import Claim

TEXT = """\
# Soak

One pool, with every option on, used by {threads} threads for {duration}, while all went wrong around it. The run writes
this page and its figure: `make soak MINUTES=10`. What is random comes from one seed, which can be given again with
`--seed`; what the threads do to each other is the scheduler's.

**{result}.** Run on {date} with seed {seed}: {machine}.

![memory, threads, descriptors, latency and faults over time](soak.svg)

Dots are moments of rest: the faults are over, everybody has stopped, and all {maxconn} connections are lent, so that
one moment can be compared with another. The lines are what was seen {interval:g} s apart, in the midst of it all:
descriptors and sessions rise and fall with the connections, and the 99th percentile of latency goes up to about as long
as a fault lasts.

## The verdict

| claim | measured | bound | holds |
|---|---|---|---|
{claims}

Growth is the slope of a Theil-Sen fit over the rests, the first third of the run left out, times the time from the
first to the last of them. The bounds are for the whole run, however long, since what fills a cache ends and what leaks
does not. In this one, with {requests:,} requests and {connects:,} connects in that time, they would show
{by_request:.2f} bytes of malloc's memory lost in each request, {by_connect:.0f} in each connect, or one object of
Python's in every {by_object:,.0f} requests.
Threads and descriptors have no tolerance. At each rest

- every one of {maxconn} connections is borrowed and answers, and one more is refused;
- by the pool's own books, connections opened = open + closed, all reasons together;
- the server has as many sessions as the pool has connections, and there are as many threads and descriptors as at the
  first rest, within {patience:g} s.

## What was done

{done}

## What it was made of

Everybody borrows at random: with `getconn` and `putconn`, in `connection()` blocks, under new keys, under the same key
twice, in haste, and for too long; and leaves transactions open or failed, settings changed, connections closed, or
never returns them. Each borrower checks that nobody else has its connection, that it is clean, and that its answers are
its own. {operators} more threads resize, drain, check, maintain and read the pool, make other pools and close or forget
them, and fork; the child uses the pool, and is waited for. `connect`, `configure`, `check` and `reset` raise now and
then: an Exception or, like an interrupt, a BaseException.

The faults come in two streams, one for the server and one for the network, with {least:g} to {most:g} s between two:
terminate is pg_terminate_backend of some sessions, freeze is SIGSTOP for a second, crash is SIGKILL and recovery; cut
resets all connections, swallow takes everything and delivers nothing, and refuse lets nobody in.

The process that is watched holds the pool and its users alone. Server, proxy, faults and this record are another's.
It runs with `GLIBC_TUNABLES={tunables}`: else what lies in a thread's own
cache of free memory counts as in use, and each of 16 arenas grows to the most that a thread in it once needed, which
takes hours to end. Before each count the garbage is collected, and the caches of Python that fill for many minutes are
emptied: looked-up names, and lines of source files.
"""


def write(record: Record, claims: Sequence[Claim], machine: str, place: Path) -> None:
    """Write the page into this file; `machine` says what it was run on, versions included."""
    calms = verdict.judged(record) or record.calms
    requests = calms[-1].requests - calms[0].requests if calms else 0
    connects = calms[-1].connects - calms[0].connects if calms else 0
    text = TEXT.format(
        threads=subject.THREADS,
        duration=_duration(record.seconds),
        date=datetime.now(timezone.utc).date(),
        machine=machine,
        seed=record.seed,
        result="All claims hold" if all(claim.holds for claim in claims) else "A claim fails",
        maxconn=operators.MAXCONN,
        interval=record.interval,
        claims="\n".join(_row(claim) for claim in claims),
        requests=requests,
        connects=connects,
        by_request=verdict.HEAP * 1024 / max(requests, 1),
        by_connect=verdict.HEAP * 1024 / max(connects, 1),
        by_object=requests / verdict.BLOCKS,
        patience=verdict.RECOVERY,
        done=_done(record),
        operators=operators.THREADS,
        least=weather.PAUSE[0],
        most=weather.PAUSE[1],
        tunables=subject.TUNABLES,
    )
    place.write_text(text)


def _row(claim: Claim) -> str:
    cells = (claim.name, claim.measured, claim.bound, "yes" if claim.holds else "**no**")
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _done(record: Record) -> str:
    last = record.last
    stats: Mapping[str, int] = last.get("stats", {})
    closed = {name.removeprefix("closed_"): number for name, number in stats.items() if name.startswith("closed_")}
    rests = len(record.calms)
    rows = {
        "requests": f"{last.get('requests', 0):,}, {last.get('requests', 0) / record.seconds:,.0f} a second",
        "of these failed, as the faults explain": _counts(last.get("failures", {})),
        "operations beside": f"{last.get('operations', 0):,}, {last.get('forks', 0):,} forks among them",
        "raised by callbacks": f"{last.get('raised', 0):,}",
        "connects": f"{stats.get('connections_num', 0):,}, {stats.get('connections_errors', 0):,} failed",
        "connections closed": _counts(closed),
        "forgotten and reclaimed": f"{stats.get('reclaimed', 0):,}",
        "loans reported as too long": f"{stats.get('leaks', 0):,}",
        "lines of log": f"{last.get('lines', 0):,}",
        "faults": _counts(record.faults),
        "rests": f"{rests:,}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number:,}" for name, number in ordered) or "none"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds < 7200 else f"{seconds / 3600:g} hours"
