"""Flask: a connection for each application context that asks for one.

    db = Database()  # in a module of the application
    db.init_app(app)  # in its factory, once `app.config["PGPOOL"]` is set

    @app.post("/orders")
    def order():
        with db.transaction() as conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO orders DEFAULT VALUES")
        return "", 201

The guide is at <https://pgpool-rs.readthedocs.io/en/latest/flask.html>.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from flask import Flask, current_app, g
from werkzeug.exceptions import ServiceUnavailable

from pgpool_rs._core import kind
from pgpool_rs.errors import PoolExhausted
from pgpool_rs.pool import ThreadedConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgpool_rs._core import Loan

__all__ = ["Database"]

DEFAULTS = {"minconn": 1, "maxconn": 10, "timeout": 5, "max_idle": 300, "reconnect_backoff": (0.1, 2)}
DEFAULTS |= {"open": False, "retry_after": 1}
PAUSES = "pgpool_rs.flask: retry_after by pool"


class _NotCommittedError(Exception):
    """Ends a loan as an error would: by a rollback."""


@dataclass
class _Lent:
    """What one application context has borrowed."""

    block: Loan
    connection: Any
    error: BaseException | None = None
    """What ended a transaction. The pool learns from it that a server has gone."""


class Database:
    """Give each application context a connection of the application's pool.

    One object serves any number of applications, each with a pool of its own.
    """

    def __init__(self, app: Flask | None = None, *, key: str = "PGPOOL") -> None:
        """Serve this application, if it is given.

        :param key: where the settings stand in the application's `config`. A second database needs another one.
        """
        self._key = key
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Make the pool of an application, roll back at the end of its contexts, and answer 503 when busy.

        The settings are a dict of what `ThreadedConnectionPool` takes, by name, and `retry_after`, which is the number
        of seconds that the 503 names, 1 by default. The first use opens the pool.
        """
        given = app.config.get(self._key)
        if not isinstance(given, dict):
            raise TypeError(f'app.config["{self._key}"] must be a dict before init_app, and is {kind(given)}')
        settings = {**DEFAULTS, **given}
        pause = settings.pop("retry_after")
        app.extensions[self._key] = pool = ThreadedConnectionPool(**settings)
        app.extensions.setdefault(PAUSES, {})[pool.name] = pause
        app.teardown_appcontext(self._teardown)

        def refuse(error: PoolExhausted) -> Any:
            """Answer 503, as the application's own handler of that status shows it."""
            retry_after = app.extensions[PAUSES].get(error.pool_name, pause)
            return current_app.handle_http_exception(ServiceUnavailable(retry_after=retry_after))

        app.register_error_handler(PoolExhausted, refuse)

    @property
    def pool(self) -> ThreadedConnectionPool:
        """The pool of the current application. The first use opens it."""
        pool = self._unopened()
        pool.open()
        return pool

    def close(self, timeout: float | None = None) -> int:
        """Close the pool of the current application, as `pool.close(timeout)` does, at the end of a worker process."""
        return self._unopened().close(timeout)

    def _unopened(self) -> ThreadedConnectionPool:
        if self._key not in current_app.extensions:
            raise RuntimeError(f'call init_app(app): this application has no Database(key="{self._key}")')
        pool: ThreadedConnectionPool = current_app.extensions[self._key]
        return pool

    @property
    def connection(self) -> Any:
        """The connection of the current application context. The first use borrows it.

        The end of the context rolls back what was not committed, and returns the connection.
        """
        return self._lent().connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """Commit at the end of the block, or roll back if it raised. A block inside another one is refused.

        :raises psycopg2.ProgrammingError: the context is in such a block already.
        """
        lent = self._lent()
        failed = False
        try:
            with lent.connection as connection:
                try:
                    yield connection
                except BaseException as error:
                    lent.error, failed = error, True
                    raise
        except psycopg2.Error:
            # On a lost connection the rollback fails, too, and says less.
            if failed and lent.error is not None:
                raise lent.error from None
            raise

    def _lent(self) -> _Lent:
        name = f"_pgpool_{self._key}"
        if name not in g:
            block = self.pool.connection()
            setattr(g, name, _Lent(block, block.__enter__()))
        lent: _Lent = getattr(g, name)
        return lent

    def _teardown(self, error: BaseException | None) -> None:
        """Return the connection. An error that a handler has answered is None here, so this never commits."""
        lent: _Lent | None = g.pop(f"_pgpool_{self._key}", None)
        if lent is not None:
            error = error or lent.error or _NotCommittedError()
            lent.block.__exit__(type(error), error, error.__traceback__)
