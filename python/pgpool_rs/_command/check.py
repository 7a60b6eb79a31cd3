"""Make one loan and another one after it, and time each step."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import parse_dsn

from pgpool_rs._command import server
from pgpool_rs._command.answer import Answer, Table
from pgpool_rs.errors import PoolError
from pgpool_rs.pool import ThreadedConnectionPool

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    server.add_dsn(command)


def run(args: argparse.Namespace) -> Answer:
    """Make the loans. A step that fails is the last."""
    options = server.options_for(args.dsn)
    steps = _Steps()
    failure = None
    try:
        steps.take("resolve", lambda: _resolve(args.dsn), str)
        with ThreadedConnectionPool(0, 1, args.dsn, name="check", **options) as pool:
            pool.minconn = 1  # From now on: the first loan opens the connection, and the pool keeps it.
            _lend_twice(pool, steps)
    except (psycopg2.Error, OSError, PoolError) as error:
        failure = server.with_advice(error, args.dsn)
        steps.done.append({"step": steps.name, "ms": None, "note": "failed"})
    rows = [(done["step"], "-" if done["ms"] is None else f"{done['ms']:.3f}", done["note"]) for done in steps.done]
    times = {done["step"]: done["ms"] for done in steps.done}
    # Either rollback is one round trip, and one of them may have met a busy moment.
    conclusion = failure or (
        f"A connect takes as long as {times['connect'] / min(times['rollback'], times['return']):.0f} round trips. "
        "The second loan saves it."
    )
    return Answer(
        {"steps": steps.done, "failure": failure},
        [Table(("step", ">ms", "note"), rows), conclusion],
        is_well=failure is None,
    )


class _Steps:
    """Times the steps, and knows the name of the last one that was begun."""

    def __init__(self) -> None:
        self.name = ""
        self.done: list[dict[str, Any]] = []

    def take(self, name: str, act: Callable[[], Any], note: Callable[[Any], str] | str) -> Any:
        """Take a step, which may raise. `note` is what to say of it, perhaps after a look at what it gives."""
        self.name = name
        begun = time.perf_counter()
        given = act()
        took = time.perf_counter() - begun
        self.done.append({"step": name, "ms": 1000 * took, "note": note if isinstance(note, str) else note(given)})
        return given


def _resolve(dsn: str) -> str:
    """Look up the hosts' addresses; at least one of the hosts must have one."""
    parameters = parse_dsn(dsn)
    names = parameters.get("host") or os.environ.get("PGHOST", "")
    hosts = [host for host in names.split(",") if host and host[0] not in "/@"]
    if "hostaddr" in parameters or not hosts:
        return "no name to look up"
    found: list[str] = []
    failure = None
    for host in hosts:
        try:
            found += dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))
        except (OSError, UnicodeError) as error:  # no such name, or what cannot be one
            why = getattr(error, "strerror", "it is no name")
            failure = OSError(f'could not translate host name "{host}" to address: {why}')
    if failure is not None and not found:
        raise failure
    return ", ".join(found)


def _lend_twice(pool: ThreadedConnectionPool, steps: _Steps) -> None:
    def query() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    connection = steps.take("connect", pool.getconn, lambda made: "with TLS" if made.info.ssl_in_use else "without TLS")
    steps.take("first query", query, "BEGIN and SELECT 1, a round trip each")
    steps.take("rollback", connection.rollback, "one round trip")
    steps.take(
        "return", lambda: pool.putconn(connection), "the pool sees that the connection is clean, and asks nobody"
    )
    first = connection
    connection = steps.take(
        "second loan", pool.getconn, lambda lent: "the same one" if lent is first else "another one"
    )
    steps.take("query", query, "BEGIN and SELECT 1")
    steps.take("return", lambda: pool.putconn(connection), "the pool rolls back")
