"""Write docs/reliability.md: the faults, the promises and the measurements."""

from __future__ import annotations

from collections.abc import Sequence

from dev.trials.contrast import LATER, LONGEST, Contrast
from dev.trials.contrast import MAXCONN as THEIR_MAXCONN
from dev.trials.faults.servers import CHECK_AFTER
from dev.trials.trial import LIBPQ, MAXCONN, MINCONN, OPTIONS, PROMISED, THREADS, Result

PROSE = f"""\
# Reliability

`python -m dev.trials`, which `make prove` runs, writes this page. Edit its prose in `dev/trials/table.py`.

Each line is a trial of its own, on fresh servers: {THREADS} threads share one pool without a break, and the trial
disturbs the server. The threads read, write, keep the server busy for up to 40 ms, and leave transactions open or
failed. Half of them use `connection()` blocks, half `getconn` and `putconn`. They check each answer.

The pool has `minconn={MINCONN}` and `maxconn={MAXCONN}`, so that some threads always wait, and
[the recommended options](options.md#a-recommended-set):
`{", ".join(f"{name}={value!r}" for name, value in OPTIONS.items())}`, and for libpq
`{", ".join(f"{name}={value!r}" for name, value in LIBPQ.items())}`.
The table names other options.

## Promises

A trial fails, and with it the run, unless all of this holds:

- **All capacity is back** within {PROMISED:g} s of the server's return: the trial holds {MAXCONN} connections at once,
  each of which has just answered that it leads to the right server and that this takes writes. The load goes on
  meanwhile. A server has returned when it takes connections again; a standby, when it takes writes; a server behind
  PgBouncer, when a client without a pool gets an answer through it.
- **The server counts as many sessions as the pool**, in `pg_stat_activity` or PgBouncer's `SHOW CLIENTS`, and every
  connection ever opened is in the pool or was closed.
- **The fault explains every failed request**: the fault can cause an error of this class and text, and the request ran
  while the fault lasted. Where sessions are killed one by one, the request had that very session, at most
  {CHECK_AFTER:g} s (`check_after`) after its end, and each session explains one failure. Nothing explains a wrong
  answer, or a connection that the pool lends to two borrowers or inside a transaction.
"""

NOTES = """\
## Columns

- *failed*: all failed requests, by kind. "connection lost" is an error of a query or commit whose session ended during
  it, or so shortly before that `check_after` skips the check. "connect refused", "broken off" and "timed out" are
  connects while no server was there. "read-only server": no server took writes. "25006": a write met a server that
  takes none any more. "PoolTimeout": no connection came free within `timeout`.
- *failed late*: failed requests that began after the server's return.
- *capacity back*: seconds, as promised above; *longest*: seconds that the longest request took, with its wait.
- *sessions*: the pool's count, and the server's.
- *pace*: requests in a second after the fault, divided by those before. Two spans of a few seconds differ by some
  tenths in any case.

## Limits

- A query on a connection that goes silent waits until the kernel gives the connection up: `tcp_user_timeout` and
  keepalives help, `check` does not. The proxy of these trials acknowledges the data that it swallows, so that such a
  query ends by the proxy's reset. The pool does not check a connection that was used within `check_after`.
- Commits at a primary that dies before its standby has them are lost. Replication here is asynchronous.
- While the server behind PgBouncer is away, PgBouncer accepts clients and then disconnects them, or lets them wait for
  `query_wait_timeout`. So a connect does not prove that there is a server, and the first query fails. Lower its
  `server_login_retry`, which is 15 s by default and 0.2 s here: for that long PgBouncer does not notice that the server
  is back.
- `getconn` and `putconn` don't show the pool the errors between them. The pool notices a broken connection by its
  state. It notices a read-only server only in a `connection()` block, whose first 25006 replaces every older
  connection, those of other threads too.
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
        "`psycopg2.pool.ThreadedConnectionPool` has the same faults and load, with pairs only, and `minconn` and "
        f"`maxconn` {THEIR_MAXCONN}, since it refuses instead of waiting, and closes connections above `minconn`; "
        f"sessions are killed for {LONGEST:g} s at most. {LATER:g} s after the return the trial counts its sound "
        "connections. A dead one, one to the wrong server, and one that a failed `putconn` lost are not sound."
    )
    table = _markdown(["fault", "failed late, pgpool_rs", "failed late, psycopg2.pool", "its sound connections"], rows)
    return f"## psycopg2.pool in the same place\n\n{words}\n\n{table}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
