"""Write docs/reliability.md: what was done, what was promised, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from dev.trials.contrast import LATER, LONGEST, Contrast
from dev.trials.contrast import MAXCONN as THEIR_MAXCONN
from dev.trials.faults.servers import CHECK_AFTER
from dev.trials.trial import LIBPQ, MAXCONN, MINCONN, OPTIONS, PROMISED, THREADS, Result

PROSE = f"""\
# Reliability

Written by `python -m dev.trials`, which `make prove` runs. Do not edit: the prose is in
`dev/trials/table.py`.

Each line is a trial of its own, on fresh servers: {THREADS} threads share one pool without a break, and something is
done to the server. They read, write, keep the server busy for up to 40 ms, leave transactions open, and leave failed
ones. Half of them use `connection()` blocks, half `getconn` and `putconn`. Each answer is compared with what was asked.

The pool has `minconn={MINCONN}` and `maxconn={MAXCONN}`, so that some threads always wait, and
[the recommended options](options.md#a-recommended-set):
`{", ".join(f"{name}={value!r}" for name, value in OPTIONS.items())}`, and for libpq
`{", ".join(f"{name}={value!r}" for name, value in LIBPQ.items())}`.
What differs is in the table.

## What is promised

A trial fails, and with it the run, unless all of this holds:

- **All capacity is back** within {PROMISED:g} s of the server's return: {MAXCONN} connections are held at once, each of
  which has just said that it leads to the right server and that this takes writes. The load goes on meanwhile. The
  server has returned when it takes connections again; the standby, when it takes writes; a server behind PgBouncer,
  when somebody without a pool is answered through it.
- **The server counts as many sessions as the pool**, in `pg_stat_activity`, or PgBouncer's `SHOW CLIENTS`, and all
  connections that were ever opened are in the pool or were closed.
- **No request fails but those that the fault explains**: each error's class and text must be one that this fault can
  cause, and the request must have run while it lasted. Where sessions are ended one by one, it must have had that very
  session, at most {CHECK_AFTER:g} s (`check_after`) after its end, and each session explains one failure. A wrong
  answer is never explained, nor is a connection that is lent to two at once or inside a transaction.
"""

NOTES = """\
## What the columns say

- *failed*: all requests that failed, by kind. "connection lost" is an error of a query or commit whose session
  ended under it, or so short a time before that `check_after` lends it unseen. "connect refused", "broken off",
  "timed out": nobody was there to connect to. "read-only server": there was no server that takes writes. "25006": a
  write met a server that takes none any more. "PoolTimeout": no connection came free within `timeout`.
- *failed late*: those of them that began after the server's return.
- *capacity back*: seconds, as promised above; *longest*: seconds that the longest request took, waiting included.
- *sessions*: the pool's count, and the server's.
- *pace*: requests in a second after the fault, divided by those before. Two spans of a few seconds differ by some
  tenths anyway.

## What the pool can't do

- A query that is under way when its connection goes silent waits until the kernel gives the connection up:
  `tcp_user_timeout` and keepalives are the remedy, not `check`. A proxy acknowledges what it swallows, so in these
  trials it is a reset that ends such queries. Nor is a connection checked that was used within `check_after`.
- What was committed at a primary that dies before its standby had it is lost. Replication here is asynchronous.
- While the server behind PgBouncer is away, PgBouncer lets clients in and then hangs up on them, and lets others
  wait for `query_wait_timeout`. So a connect is no sign that there is a server, and the first query fails. Lower
  its `server_login_retry`, which is 15 s by default and 0.2 s here: for that long it does not notice that the
  server is back.
- `getconn` and `putconn` don't show the pool the errors between them. A connection that broke is noticed by its
  state; a server that has become read-only is noticed only by a `connection()` block, whose first 25006 replaces
  every older connection, those of other threads too.
"""


def write(results: Sequence[Result], contrasts: Sequence[Contrast], machine: str, date: str) -> str:
    """Give the whole page."""
    parts = [PROSE, f"## Results\n\nRun on {date}: {machine}.\n", _trials(results), NOTES]
    if contrasts:
        parts.insert(3, _contrasts(results, contrasts))
    return "\n".join(parts)


def _trials(results: Sequence[Result]) -> str:
    rows = [
        (
            result.title,
            result.done + (f"; {result.options}" if result.options else ""),
            f"{result.requests:,}",
            ", ".join(f"{number:,} {label}" for label, number in result.explained.items()) or "none",
            f"{result.late:,}",
            f"{result.back:.2f}",
            f"{result.longest:.2f}",
            f"{result.pool_size} / {result.sessions}",
            f"{result.pace:.2f}",
        )
        for result in results
    ]
    return _markdown(
        ["fault", "how", "requests", "failed", "failed late", "capacity back", "longest", "sessions", "pace"], rows
    )


def _contrasts(results: Sequence[Result], contrasts: Sequence[Contrast]) -> str:
    ours = {result.title: result for result in results}
    rows = [
        (
            contrast.title,
            f"{ours[contrast.title].late:,}" if contrast.title in ours else "",
            f"{contrast.late:,}",
            f"{contrast.sound} of {THEIR_MAXCONN}",
        )
        for contrast in contrasts
    ]
    words = (
        "`psycopg2.pool.ThreadedConnectionPool` under the same faults and load, with pairs only, and `minconn` and "
        f"`maxconn` {THEIR_MAXCONN}, since it refuses who would have to wait, and closes what is above `minconn`; "
        f"sessions are ended for {LONGEST:g} s at most. Its sound connections are counted {LATER:g} s after the "
        "return: one that leads elsewhere, is dead, or was never given back, since `putconn` raised, is none."
    )
    table = _markdown(["fault", "failed late, pgpool_rs", "failed late, psycopg2.pool", "its sound connections"], rows)
    return f"## psycopg2.pool in the same place\n\n{words}\n\n{table}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
