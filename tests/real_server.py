"""Pools on a real server, and what the server itself has to say of them."""

from __future__ import annotations

import itertools
import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pgpool_rs
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import Proxy
from pgpool_rs.testing import PATIENCE
from support import wait_until
from test_real_server import admin, backends, execute, opened

_serials = itertools.count(1)

# What is counted, beside durations, requests and what is true at the moment.
_EVENTS = ("connections_num", "connections_errors", "connections_lost", "checks_failed", "returns_bad")


@contextmanager
def pool_on(
    postgres: ThrowawayPostgres, minconn: int, maxconn: int, *, proxy: Proxy | None = None, **options: Any
) -> Iterator[Any]:
    """Give a pool on this server, through the proxy if there is one. It waits for a connection unless told otherwise.

    At the end of the block the books must balance, and the server must have as many sessions as the pool says; once the
    pool is closed, none.
    """
    name = f"pool {next(_serials)} of {os.getpid()}"
    address = postgres.dsn_kwargs if proxy is None else proxy.dsn_kwargs(postgres.dsn_kwargs)
    options = {"application_name": name, "timeout": PATIENCE, **options}
    pool = pgpool_rs.ThreadedConnectionPool(minconn, maxconn, **address, **options)
    with opened(pool):
        yield pool
        wait_until(lambda: _balances(pool.get_stats(), sessions(postgres, name)), "agreement of books and server")
    wait_until(lambda: sessions(postgres, name) == 0, "the end of all sessions")


def _balances(stats: dict[str, int], seen: int) -> bool:
    """Tell whether what was opened is what there is and what was closed, and what there is is what the server sees."""
    closed = sum(number for event, number in stats.items() if event.startswith("closed_"))
    made = stats["connections_num"] - stats["connections_errors"]
    return made == stats["pool_size"] + closed and stats["pool_size"] == seen


def sessions(postgres: ThrowawayPostgres, name: str) -> int:
    """Count the server's sessions of this application_name."""
    return backends(postgres.dsn, name)


def happened(pool: Any) -> dict[str, int]:
    """Give all that the pool has counted of its connections, without what never happened."""
    stats = pool.get_stats().items()
    return {name: number for name, number in stats if number and (name in _EVENTS or name.startswith("closed_"))}


def end(postgres: ThrowawayPostgres, *connections: Any) -> None:
    """Let the server end the sessions of these connections, and wait until their processes are gone."""
    with ExitStack() as handles, admin(postgres.dsn) as connection:
        for pid in [connection.info.backend_pid for connection in connections]:
            handle = os.pidfd_open(pid)
            handles.callback(os.close, handle)
            execute(connection, "select pg_terminate_backend(%s)", [pid])
            assert select.select([handle], [], [], PATIENCE)[0], "the session goes on"


def wait_until_readable(connection: Any) -> None:
    """Wait until something has arrived that the driver has not read."""
    assert select.select([connection], [], [], PATIENCE)[0], "nothing arrived"


def borrow(pool: Any, number: int) -> list[Any]:
    """Borrow so many connections; what has to be opened is opened in this order."""
    return [pool.getconn() for _ in range(number)]


def give_back(pool: Any, *connections: Any) -> None:
    """Return these connections; the last is the next to be lent."""
    for connection in connections:
        pool.putconn(connection)


def idle(pool: Any, number: int) -> list[Any]:
    """Have so many idle connections in the pool, and give them; the last is the next to be lent."""
    connections = borrow(pool, number)
    give_back(pool, *connections)
    return connections


def works(connection: Any) -> bool:
    """Tell whether the server answers on this connection."""
    return bool(execute(connection, "select 1") == 1)
