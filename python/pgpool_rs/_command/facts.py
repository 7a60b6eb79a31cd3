"""What can be read of a server, of the way to it, and of what stands before it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extras import DictCursor

from pgpool_rs._command import server

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTINGS = """\
SELECT name, setting FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections',
'reserved_connections', 'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_read_only')"""
_ROLE = """\
SELECT rolsuper, rolconnlimit, datconnlimit, pg_is_in_recovery(),
(SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL)
FROM pg_roles, pg_database WHERE rolname = session_user AND datname = current_database()"""
# From PostgreSQL 16 on.
_RESERVED = """\
SELECT pg_has_role(session_user, oid, 'USAGE') FROM pg_roles WHERE rolname = 'pg_use_reserved_connections'"""


@dataclass(frozen=True)
class Facts:
    """Holds what was read of the server, of the way to it, and of the user's connection string."""

    settings: Mapping[str, int | str]
    is_superuser: bool
    may_use_reserved: bool
    role_limit: int
    database_limit: int
    sessions: int
    is_standby: bool
    is_local: bool
    parameters: Mapping[str, str]
    pooler: Mapping[str, str] | None

    def seconds(self, setting: str) -> float:
        """Return a time that the server has in milliseconds; 0 if it has none."""
        return int(self.settings.get(setting, 0)) / 1000


def look_at(dsn: str, options: Mapping[str, Any]) -> tuple[str, Facts]:
    """Connect, ask all there is to ask, and say where the connection leads."""
    with closing(_connect(dsn, options)) as connection:
        ((is_superuser, role_limit, database_limit, is_standby, sessions),) = _rows(connection, _ROLE)
        parameters = connection.info.dsn_parameters
        return server.place(connection), Facts(
            settings=dict(_rows(connection, _SETTINGS)),
            is_superuser=is_superuser,
            may_use_reserved=_rows(connection, _RESERVED) == [(True,)],
            role_limit=role_limit,
            database_limit=database_limit,
            sessions=sessions,
            is_standby=is_standby,
            is_local=(connection.info.host or "/")[0] in {"/", "@"},
            parameters={name: value for name, value in parameters.items() if name not in options},
            pooler=_pooler(connection, dsn, options),
        )


def _connect(dsn: str, options: Mapping[str, Any]) -> Any:
    connection = psycopg2.connect(dsn, **options)
    connection.autocommit = True  # PgBouncer's console knows no BEGIN.
    return connection


def _rows(connection: Any, query: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _backend(connection: Any) -> int:
    ((pid,),) = _rows(connection, "SELECT pg_backend_pid()")
    return int(pid)


def _pooler(connection: Any, dsn: str, options: Mapping[str, Any]) -> dict[str, str] | None:
    """Find out what stands before the server, if the process that took the login is none of the server's."""
    if connection.info.backend_pid == _backend(connection):
        return None
    try:
        return _console(dsn, {**options, "dbname": "pgbouncer"}, connection.info.dbname)
    except psycopg2.Error:  # no PgBouncer, or not for this role
        pass
    with closing(_connect(dsn, options)) as other:
        # A client in session mode keeps its session.
        mode = "transaction" if _backend(other) == _backend(connection) else "session"
    return {"name": "a pooler", "pool_mode": mode}


def _console(dsn: str, options: Mapping[str, Any], database: str) -> dict[str, str]:
    """Ask PgBouncer's console."""
    with closing(_connect(dsn, options)) as console:
        ((version, *_),) = _rows(console, "SHOW VERSION")
        config = {name: value for name, value, *_ in _rows(console, "SHOW CONFIG")}
        with console.cursor(cursor_factory=DictCursor) as cursor:
            cursor.execute("SHOW DATABASES")
            modes = {row["name"]: row["pool_mode"] for row in cursor}
    return {**config, "name": version, "pool_mode": modes.get(database) or config["pool_mode"]}
