"""Connect to the server that a user names, and say what fails without a secret."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import parse_dsn

from pgpool_rs import _keywords
from pgpool_rs._command.answer import USAGE, Failed
from pgpool_rs._secrets import mask
from pgpool_rs._server_full import is_server_full

if TYPE_CHECKING:
    import argparse

CONNECT_TIMEOUT = 10
"""Seconds that a connect may take here, where nothing else says so."""

_FULL = "The limit is reached: look into pg_stat_activity as a superuser, for whom slots are reserved."
# What libpq says of a connect, and what helps.
_ADVICE = {
    "password authentication failed|no password supplied": "Check PGPASSWORD, or the entry in ~/.pgpass.",
    "could not translate host name": "Check the name, and that this machine can resolve it.",
    "Connection refused|No such file or directory": "Check that the server runs, and listens at this address.",
    "timeout expired|timed out": "Check the address, and the firewalls on the way.",
    r"database \".*\" does not exist|role \".*\" does not exist": "Check the names, and their case.",
}


def add_dsn(command: argparse.ArgumentParser) -> None:
    """Add the argument that names the server."""
    command.add_argument(
        "dsn",
        metavar="DSN",
        nargs="?",
        default=os.environ.get("DATABASE_URL", ""),
        help="libpq's connection string, with no password, which others could read; without it, DATABASE_URL, or "
        "libpq's own variables (PGHOST, ...)",
    )


def options_for(dsn: str) -> dict[str, Any]:
    """Check a connection string, and return what a connect takes beside it, so that it ends.

    :raises Failed: libpq cannot read it.
    """
    try:
        _keywords.check((dsn,), {}, ())
    except psycopg2.ProgrammingError as error:
        raise Failed(said(error, dsn), USAGE) from None
    parameters = parse_dsn(dsn)
    # A service may set it.
    given = parameters.keys() & {"connect_timeout", "service"} or os.environ.keys() & {"PGCONNECT_TIMEOUT", "PGSERVICE"}
    return {} if given else {"connect_timeout": CONNECT_TIMEOUT}


def said(error: BaseException, dsn: str) -> str:
    """Return what an error says, in one line and without a secret."""
    text = mask(str(error), (dsn,), {"password": os.environ.get("PGPASSWORD")})
    return " ".join(text.split()) or type(error).__name__


def with_advice(error: BaseException, dsn: str) -> str:
    """Return what an error says, and what helps."""
    text = said(error, dsn)
    advice = [advice for pattern, advice in _ADVICE.items() if re.search(pattern, text)]
    return "\n".join([text, *advice, *([_FULL] if is_server_full(error) else [])])


def place(connection: Any) -> str:
    """Say where a connection leads."""
    info, version = connection.info, connection.server_version
    where = f"{info.host}, port {info.port}, database {info.dbname}, role {info.user}"
    return f"{where}; PostgreSQL {version // 10000}.{version % 10000}"
