"""The wrapper of a connection: Django's own, which borrows from a pool if `OPTIONS["pool"]` says so."""

from __future__ import annotations

import copy
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.postgresql import base, creation
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from psycopg2 import OperationalError
from psycopg2.extras import register_default_jsonb

from pgpool_rs.django import _control, _settings
from pgpool_rs.errors import PoolError
from pgpool_rs.health import discard_all

if TYPE_CHECKING:
    from pgpool_rs import ThreadedConnectionPool


class _Open(weakref.WeakSet[Any]):
    """The wrappers by which a thread has borrowed. It dies with the thread, and returns what is still lent."""

    def __del__(self) -> None:
        for wrapper in self:
            with suppress(Exception):
                if not wrapper.allow_thread_sharing:
                    wrapper.close()


_thread = threading.local()


class DatabaseCreation(creation.DatabaseCreation):
    """Test databases."""

    def setup_worker_connection(self, _worker_id: object) -> None:
        """Let a worker of a parallel test run forget the pool of its parent, which leads to another database."""
        super().setup_worker_connection(_worker_id)
        self.connection.close_pool()


class Pooled:
    """What stands before a wrapper of Django's, so that it borrows its connection."""

    creation_class = DatabaseCreation
    _lender: ThreadedConnectionPool | None = None

    @property
    def pool(self: Any) -> ThreadedConnectionPool | None:
        """The pool of this alias and database, made at its first use; None without `OPTIONS["pool"]`."""
        given = self.settings_dict["OPTIONS"].get("pool")
        if not given or self.alias == NO_DB_ALIAS:
            return None
        place = self.alias, self.settings_dict["NAME"]
        # Of two threads that make it at the same time, one wins; the other's has opened nothing.
        return _control.pools.get(place) or _control.pools.setdefault(place, self._new_pool(given))

    def _new_pool(self: Any, given: Any) -> ThreadedConnectionPool:
        age = self.settings_dict["CONN_MAX_AGE"]
        if age != 0:
            raise ImproperlyConfigured(
                f"Pooling doesn't support persistent connections. Set CONN_MAX_AGE to 0: it is {age}"
            )
        options: dict[str, Any] = {"name": self.alias}
        if self.settings_dict["CONN_HEALTH_CHECKS"]:
            options["check_after"] = 0
        options |= _settings.given(given)
        template, then = self._without_pool().copy(), options.get("configure")
        options["configure"] = _prepare(template, then=then)
        if options.get("reset") == "discard":
            options["reset"] = _prepare(template, first=discard_all, then=then)
        return _settings.make(options, self.get_connection_params())

    def close_pool(self: Any) -> None:
        """Close the pools of this alias. What they have lent is closed when it comes back."""
        for place in list(_control.pools):
            if place[0] == self.alias and (pool := _control.pools.pop(place, None)):
                pool.close()

    def _without_pool(self: Any) -> Any:
        """Give this wrapper as it would be without a pool. It is not to be kept."""
        plain = copy.copy(self)
        plain.settings_dict = {**self.settings_dict, "OPTIONS": {**self.settings_dict["OPTIONS"], "pool": None}}
        return plain

    def get_connection_params(self: Any) -> Any:
        """Give the arguments for psycopg2.connect. Django itself refuses OPTIONS["pool"]."""
        _settings.check(self.settings_dict["OPTIONS"])
        return super(Pooled, self._without_pool()).get_connection_params()  # type: ignore[misc]

    def get_new_connection(self: Any, conn_params: dict[str, Any]) -> Any:
        """Borrow a connection, or connect."""
        pool = self.pool
        if pool is None:
            return super().get_new_connection(conn_params)  # type: ignore[misc]
        _control.listen()
        _thread.__dict__.setdefault("open", _Open()).add(self)
        try:
            pool.open()
            connection = pool.getconn()
        except PoolError as error:
            # Django's users catch OperationalErrors, as psycopg_pool's errors are. PoolTimeout and TooManyRequests are
            # such already.
            if isinstance(error, OperationalError):
                raise
            raise OperationalError(str(error)) from error
        self._lender = pool
        return connection

    def _close(self: Any) -> Any:
        lender, self._lender = self._lender, None
        if lender is None or self.connection is None:
            return BaseDatabaseWrapper._close(self)
        connection, self.connection = self.connection, None
        with self.wrap_database_errors:
            return lender.putconn(connection)


def _prepare(template: Any, *, first: Any = None, then: Any = None) -> Any:
    """Return what prepares a session as Django does, and keeps no wrapper of a borrowing thread alive."""
    level = template.settings_dict["OPTIONS"].get("isolation_level")

    def prepare(connection: Any) -> None:
        if first is not None:
            first(connection)
        connection.isolation_level = None if level is None else IsolationLevel(level)
        connection.autocommit = True
        register_default_jsonb(conn_or_curs=connection, loads=lambda text: text)
        wrapper = template.copy()
        wrapper.connection = connection
        try:
            wrapper._configure_connection(connection)  # sets time zone and role
        finally:
            wrapper.connection = None
        if then is not None:
            then(connection)

    return prepare


class DatabaseWrapper(Pooled, base.DatabaseWrapper):
    """A connection to PostgreSQL."""
