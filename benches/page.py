"""Write docs/benchmarks.md: all of its text, and what it concludes, comes from here and from the figures."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from benches import peers
from benches.harness import LEAST_ROUNDS
from benches.pictures import THEMES, Picture
from benches.scenes import CONNECTIONS, LOAD_SECONDS
from benches.tables import IDEAL, MARGIN, Loss, Table

TEXT = """\
# Benchmarks

`make bench` measures pgpool_rs beside the other pools for threads, in one run, on one server, and writes this page and
its pictures. Only the ratios mean anything on another machine.

{machine}. Pools: {versions}. {date}.

{pictures}

"{ideal}" is {connections} threads that have a connection each, and no pool: what the driver, the interpreter and the
server give. psycopg_pool is for psycopg 3, whose connections take longer for the same work. "Of its driver's" is the
share of a connection each of the pool's own driver; the slower the driver, the less a pool's own time shows in it.

## Where pgpool_rs is not first

{not_first}

## What each peer does better

{better}

## How it was measured

- Within a scene, all sides take turns (A, B, C, A, B, C, ...), at least {rounds} times. A figure is the median of the
  turns, and a ratio the median of the ratios within a round. So a machine that changes its pace changes neither.
- The wait is the time from asking a pool for a connection to having it. A turn under load takes {turn:g} s, and so does
  the wait of a thread that gets none. The busiest thread's loans are divided by the idlest's; where a thread had none,
  by one.
- {bare} as it comes refuses when all its connections are lent, so it has figures only where it need not wait. Programs
  put a semaphore round it, as `WaitingPool` below does.
- "1 ms away" is a proxy on the same machine, which delivers all data late, each way. It takes processor time, from all
  sides alike.
- psycopg_pool logs a warning for each transaction that it ends, SQLAlchemy an error for each connection that it finds
  broken, and pgpool_rs both: these loggers are off.
- "Better" means by more than {margin:.0%}, and by what a user could notice. The bold figure of a column is the best of
  the pools'.

Each pool is opened in this way. `at` has the connection string, the least and most connections, and a timeout. A row
whose name has an option has that option too.

```py
{sources}
```

{scenes}
## Ways to borrow

The pair is not the only way to borrow. callgrind counts the instructions of each way, in one run: a count does not
drift as a time does (`python -m benches.instructions`). `make test` fails where a way takes 2 % more than was recorded
last (`benches/ratios.json`). The times are for people. The lower bound is a bare extension that locks a mutex, pops a
connection, finds it again by its address and asks it for its transaction status. It has no keys, limits, waiting,
hooks, closing, clock or statistics.

{ways}
"""

PICTURE = """\
<picture>
  <source media="(prefers-color-scheme: dark)" srcset="{dark}">
  <img alt="{alt}" src="{light}">
</picture>
"""


def write(
    place: Path,
    tables: Sequence[Table],
    ways: Iterable[Sequence[str]],
    pictures: Sequence[Picture],
    machine: str,
) -> None:
    """Write the page into this file; the pictures are beside it."""
    losses = [loss for table in tables for loss in table.losses()]
    text = TEXT.format(
        machine=machine,
        versions=", ".join(f"{name} {version}" for name, version in peers.versions().items()),
        date=datetime.now(timezone.utc).date(),
        pictures="\n".join(
            PICTURE.format(alt=picture.alt(), **{theme: picture.file(theme) for theme in THEMES})
            for picture in pictures
        ).rstrip(),
        not_first=not_first(losses),
        better=better(losses),
        rounds=LEAST_ROUNDS,
        ideal=IDEAL[0].upper() + IDEAL[1:],
        connections=CONNECTIONS,
        turn=LOAD_SECONDS,
        bare=peers.BARE.name,
        margin=MARGIN - 1,
        sources=peers.sources(),
        scenes="".join(f"## {table.title}\n\n{table.text}\n\n{chr(10).join(table.lines())}\n\n" for table in tables),
        ways=markdown(ways),
    )
    place.write_text(text)


def not_first(losses: Sequence[Loss]) -> str:
    """Name the pool that is first, wherever pgpool_rs is not."""
    first: dict[tuple[str, str], Loss] = {}
    for loss in losses:
        best = first.setdefault((loss.table, loss.column), loss)
        if loss.lead > best.lead:
            first[loss.table, loss.column] = loss
    lines = [
        f"- **{loss.table}**: {loss.column}, {loss.theirs} with {loss.peer}{loss.price}, {loss.ours} with pgpool_rs."
        for loss in first.values()
    ]
    return "\n".join(lines) or "pgpool_rs is first in every column below."


def better(losses: Sequence[Loss]) -> str:
    """Say of each peer what it does better, in the figures and beyond them."""
    lines = []
    for peer in peers.PEERS[:-1]:
        told = [
            f"{loss.table} ({loss.column}: {loss.theirs}{loss.peer.removeprefix(peer.name)}, not {loss.ours})"
            for loss in losses
            if peer.name == max((each.name for each in peers.PEERS if loss.peer.startswith(each.name)), key=len)
        ]
        beyond = f" It {peer.better}." if peer.better else ""
        lines.append(f"- **{peer.name}**: {'; '.join(told) or 'nothing in these figures'}.{beyond}")
    return "\n".join(lines)


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Render rows, the first of which are the headings."""
    first, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *others))
