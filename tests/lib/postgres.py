"""Pools on a real server, and what the server itself has to say of them."""

from __future__ import annotations

import itertools
import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import psycopg2
from psycopg2 import extensions

import pgpool_rs
from dev.servers.postgres import ThrowawayPostgres
from dev.servers.proxy import Proxy
from pgpool_rs.testing import PATIENCE
from tests.lib.pools import balances, give_back, lend
from tests.lib.statements import execute
from tests.lib.waits import wait_until

_serials = itertools.count(1)

# What is counted, beside durations, requests and what is true at the moment.
_EVENTS = ("connections_num", "connections_errors", "connections_lost", "checks_failed", "returns_bad")
# Seconds: long enough that no test waits for it to end, and short enough to wait for.
LONG = 60.0
SHORT = 0.2

SET = extensions.ISOLATION_LEVEL_SERIALIZABLE
CHARACTERISTICS = "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"


@contextmanager
def opened(pool: Any) -> Iterator[Any]:
    """Close the pool at the end, unless the test did."""
    try:
        yield pool
    finally:
        if not pool.closed:
            pool.closeall()


@contextmanager
def admin(dsn: str) -> Iterator[Any]:
    """Give a connection beside the pool."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


@final
class Connects:
    """Is a `connect=` that counts."""

    def __init__(self) -> None:
        self.failed: list[psycopg2.Error] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return psycopg2.connect(*args, **kwargs)
        except psycopg2.Error as error:
            self.failed.append(error)
            raise


def terminate(dsn: str, pid: int) -> None:
    """Let the server end one of its processes, and wait until it is gone."""
    with admin(dsn) as connection:
        execute(connection, "select pg_terminate_backend(%s)", [pid])
        wait_until(lambda: execute(connection, "select count(*) from pg_stat_activity where pid = %s", [pid]) == 0)


def backends(dsn: str, name: str) -> int:
    """Count the server's processes that serve connections of this application_name."""
    with admin(dsn) as connection:
        return int(execute(connection, "select count(*) from pg_stat_activity where application_name = %s", [name]))


@contextmanager
def pool_on(
    postgres: ThrowawayPostgres, minconn: int, maxconn: int, *, proxy: Proxy | None = None, **options: Any
) -> Iterator[Any]:
    """Give a pool on this server, through the proxy if there is one. It waits for a connection unless told otherwise.

    At the end of the block the statistics must add up, and the server must have as many sessions as the pool says; once
    the pool is closed, none.
    """
    name = f"pool {next(_serials)} of {os.getpid()}"
    address = postgres.dsn_kwargs if proxy is None else proxy.dsn_kwargs(postgres.dsn_kwargs)
    options = {"application_name": name, "timeout": PATIENCE, **options}
    pool = pgpool_rs.ThreadedConnectionPool(minconn, maxconn, **address, **options)
    with opened(pool):
        yield pool
        wait_until(lambda: balances(pool.get_stats(), backends(postgres.dsn, name)), "true statistics")
    wait_until(lambda: backends(postgres.dsn, name) == 0, "the end of all sessions")


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


def make_idle(pool: Any, number: int) -> list[Any]:
    """Have so many idle connections in the pool, and give them; the last is the next to be lent."""
    connections = lend(pool, number)
    give_back(pool, connections)
    return connections


def works(connection: Any) -> bool:
    """Tell whether the server answers on this connection."""
    return bool(execute(connection, "select 1") == 1)


@contextmanager
def silenced(connection: Any) -> Iterator[None]:
    """Halt the server's process that serves this connection: the socket stays open, and nobody answers."""
    pid = connection.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def failing(connection: Any, error: BaseException) -> None:
    """Let each query of this connection fail so."""

    class Cursor(extensions.cursor):
        def execute(self, query: Any, parameters: Any = None) -> None:
            raise error

    connection.cursor_factory = Cursor
