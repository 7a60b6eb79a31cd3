"""Check the keywords of a pool's constructor that are no options: psycopg2.connect must take them."""

from __future__ import annotations

import difflib
import functools
import re
import types
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg2
from psycopg2 import extensions

from pgpool_rs._secrets import is_uri, mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_Init = TypeVar("_Init", bound="Callable[..., None]")

# The keywords that psycopg2.connect takes in addition to libpq's.
_PSYCOPG2S = frozenset({"dsn", "connection_factory", "cursor_factory", "async", "async_", "database"})

# Other pools' names for our options: psycopg_pool, SQLAlchemy, DBUtils, asyncpg, aiopg, peewee, pools for Tornado.
_ELSEWHERE = {
    "min_size": "minconn",
    "max_size": "maxconn",
    "conninfo": "dsn",
    "connection_class": "connection_factory",
    "num_workers": "open_workers",
    "pool_size": "minconn",
    "max_overflow": "maxconn (pool_size included)",
    "pool_timeout": "timeout",
    "pool_recycle": "max_lifetime",
    "recycle": "max_lifetime",
    "pool_pre_ping": "check",
    "pre_ping": "check",
    "pool_reset_on_return": "reset",
    "pool_use_lifo": "order",
    "use_lifo": "order",
    "pool_logging_name": "name",
    "logging_name": "name",
    "pool_reset_session": "reset",
    "check_connection": "check",
    "reset_on_return": "reset",
    "creator": "connect",
    "pool_name": "name",
    "mincached": "minconn",
    "maxcached": "maxconn",
    "maxconnections": "maxconn",
    "setsession": "configure",
    "ping": "check",
    "blocking": "timeout",
    "minsize": "minconn",
    "maxsize": "maxconn",
    "size": "minconn (and maxconn)",
    "min_connections": "minconn",
    "max_connections": "maxconn",
    "max_idle_connections": "minconn",
    "max_open_connections": "maxconn",
    "min_pool_size": "minconn",
    "max_pool_size": "maxconn",
    "stale_timeout": "max_idle",
    "max_inactive_connection_lifetime": "max_idle",
    "max_recycle_sec": "max_lifetime",
    "max_age": "max_lifetime",
    "init": "configure",
    "on_connect": "configure",
}

_BY_AGE = "max_lifetime replaces a connection by its age"

# What only other pools have, and what to do instead. The nearest name would be a wrong one.
_NOWHERE = {
    "reconnect_timeout": "the pool tries for ever, with the pauses of reconnect_backoff",
    "reconnect_failed": "give a listener that has connect_failed",
    "kwargs": "give the parameters of the connection by name, beside the options",
    "max_uses": _BY_AGE,
    "maxusage": _BY_AGE,
    "max_queries": _BY_AGE,
    "maxshared": "two borrowers never share a connection",
    "failures": "check says which connections are dead",
    "setup": "configure sets a new connection up, and reset a returned one",
}

# libpq's keywords, for suggestions only: libpq itself decides which keywords it takes.
_LIBPQS = (
    *("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "options", "connect_timeout"),
    *("application_name", "client_encoding", "target_session_attrs", "tcp_user_timeout", "keepalives"),
    *("keepalives_idle", "keepalives_interval", "keepalives_count", "sslmode", "sslcert", "sslkey", "sslrootcert"),
    *("gssencmode", "channel_binding", "load_balance_hosts"),
)

_OTHER_URL = re.compile(r"\s*(?P<dialect>\w+)\+(?P<driver>\w+)://")


def is_known(name: str) -> bool:
    """Return whether psycopg2.connect or libpq has an argument of this name."""
    return name in _PSYCOPG2S or name in _LIBPQS


def is_psycopg2s(connect: object) -> bool:
    """Return whether this is psycopg2.connect itself, and no replacement by a test or a tracing library."""
    return type(connect) is types.FunctionType and connect.__globals__ is vars(psycopg2)


def names_missing_sizes(init: _Init) -> _Init:
    """Make a constructor that lacks a size name the keyword that gives the size by another pool's name."""

    @functools.wraps(init)
    def begin(self: object, /, *args: Any, **kwargs: Any) -> None:
        missing = {*("minconn", "maxconn")[len(args) :]} - kwargs.keys()
        for name in kwargs if missing else ():
            if _ELSEWHERE.get(name, "").partition(" ")[0] in missing:
                raise TypeError(_called(name))
        init(self, *args, **kwargs)

    return cast("_Init", begin)


def check(args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Iterable[str]) -> None:
    """Check the arguments that the pool will pass to psycopg2.connect.

    :param options: the names of the pool's own options, for suggestions.
    :raises TypeError: psycopg2.connect takes no keyword of this name.
    :raises psycopg2.ProgrammingError: libpq cannot parse the connection string. The message shows no secret.
    """
    for name in kwargs:
        if name not in _PSYCOPG2S and not _libpq_knows(name):
            raise TypeError(_unknown(name, options))
    dsn = args[0] if args else kwargs.get("dsn")
    if isinstance(dsn, bytes):  # psycopg2 takes them, too
        dsn = bytes.decode(dsn, "utf-8", "surrogateescape")
    if isinstance(dsn, str):
        _check_dsn(dsn)


def _libpq_knows(name: str) -> bool:
    try:
        extensions.make_dsn(**{name: "1"})
    except (psycopg2.Error, ValueError):
        return False
    return True


def _unknown(name: str, options: Iterable[str]) -> str:
    if name in _ELSEWHERE:
        return _called(name)
    if name in _NOWHERE:
        return f"{name} does not exist here: {_NOWHERE[name]}"
    # Other pools have so many names that one of them is always a little like a wrong name.
    others = difflib.get_close_matches(name, _ELSEWHERE, n=1, cutoff=0.8)
    names = ["minconn", "maxconn", *options, *_PSYCOPG2S, *_LIBPQS, *others]
    near = difflib.get_close_matches(name, names, n=1)
    suggestion = f"; did you mean {_ELSEWHERE.get(near[0], near[0])}?" if near else ""
    return f"{name!r} is no option of the pool nor of psycopg2.connect{suggestion}"


def _called(name: str) -> str:
    return f"{name} is called {_ELSEWHERE[name]} here"


def _check_dsn(dsn: str) -> None:
    other = _OTHER_URL.match(dsn)
    if other:
        raise psycopg2.ProgrammingError(f"invalid dsn: this is an SQLAlchemy URL: drop +{other['driver']}")
    text = None
    try:
        extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError as error:
        # libpq's message quotes what it could not parse.
        text = mask(str(error), (dsn,), {})
        if "=" not in dsn and not is_uri(dsn):
            text = 'invalid dsn: it is neither "dbname=... host=..." nor "postgresql://..."'
    except UnicodeError:
        # The error holds the connection string.
        text = "invalid dsn: it cannot be encoded as UTF-8"
    if text is not None:
        raise psycopg2.ProgrammingError(text)
