"""Keep a second server that follows a first one, and let it take over.

with ThrowawayPostgres() as primary, ThrowawayPostgres(standby_of=primary) as standby:
    connection = psycopg2.connect(**either_of(primary, standby))
    wait_until_followed(primary, standby)
    primary.kill()
    promote(standby)
"""

from __future__ import annotations

import time
from typing import Any

import psycopg2

from dev.servers.postgres import PATIENCE, PostgresError, ThrowawayPostgres


def either_of(*servers: ThrowawayPostgres, attributes: str = "read-write") -> dict[str, Any]:
    """Give the address of that server which is as wanted, as psycopg2.connect(**address) takes it.

    `attributes` are libpq's target_session_attrs: "read-write", "standby", "any", and so on. The servers are asked in
    this order, at each connect.
    """
    addresses = [server.dsn_kwargs for server in servers]
    return {
        **addresses[0],
        "host": ",".join(address["host"] for address in addresses),
        "port": ",".join(str(address["port"]) for address in addresses),
        "target_session_attrs": attributes,
    }


def wait_until_followed(primary: ThrowawayPostgres, standby: ThrowawayPostgres) -> None:
    """Wait until the standby has all that is committed at the primary now. Raises PostgresError if it does not come."""
    position = ask(primary, "select pg_current_wal_lsn()::text")
    deadline = time.monotonic() + PATIENCE
    while not ask(standby, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", position):
        if time.monotonic() > deadline:
            raise PostgresError(f"the standby does not reach {position}")
        time.sleep(0.01)


def promote(standby: ThrowawayPostgres) -> None:
    """Let the standby take writes; return when it does. Its old primary is not told."""
    if not ask(standby, "select pg_promote(true, %s)", int(PATIENCE)):
        raise PostgresError("the standby was not promoted")


def ask(server: ThrowawayPostgres, query: str, *parameters: object) -> Any:
    """Run one statement in autocommit, and give the first column of the first row, if any."""
    connection = psycopg2.connect(server.dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()
