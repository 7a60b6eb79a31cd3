"""Django on `pgpool_rs.django`, with a real server."""

from __future__ import annotations

import gc
import os
import re
import socket
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import OperationalError, ProgrammingError
from django.db.utils import ConnectionHandler
from psycopg2 import extensions

from dev.servers.postgres import ThrowawayPostgres
from dev.suites import django as suite
from pgpool_rs import PoolClosed, PoolExhausted, PoolTimeout
from pgpool_rs.django import _control
from pgpool_rs.testing import PATIENCE
from tests.lib.postgres import Connects, backends, terminate
from tests.lib.programs import ROOT, in_a_child, run_program
from tests.lib.waits import Task, wait_for_waiters, wait_until

NAME = "django"


@pytest.fixture(scope="session", autouse=True)
def _settings() -> None:
    # The libraries that PostGIS needs, from the wheels of others.
    wheels = {"GDAL_LIBRARY_PATH": "pyogrio.libs/libgdal-*", "GEOS_LIBRARY_PATH": "shapely.libs/libgeos_c-*"}
    site = Path(sysconfig.get_path("platlib"))
    found = {name: str(path) for name, pattern in wheels.items() for path in site.glob(pattern)}
    settings.configure(USE_TZ=True, SECRET_KEY="of no use to anybody", DATABASES={}, **found)
    django.setup()


class Site:
    """A project with one database. Each thread has a wrapper of its own."""

    def __init__(self, server: ThrowawayPostgres, pool: Any, **more: Any) -> None:
        address = server.dsn_kwargs
        options = {"application_name": NAME, "gssencmode": "disable", "pool": pool, **more.pop("OPTIONS", {})}
        place = {"USER": "postgres", "HOST": address["host"], "PORT": str(address["port"]), "NAME": "postgres"}
        self.connections = ConnectionHandler(
            {"default": {"ENGINE": "pgpool_rs.django", **place, "OPTIONS": options, **more}},
        )

    @property
    def connection(self) -> Any:
        """The thread's own wrapper."""
        return self.connections["default"]

    def execute(self, statement: str, *parameters: Any) -> Any:
        """Run a statement; return the first column of the first row."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchone()[0]


@pytest.fixture
def postgres(own_server: ThrowawayPostgres) -> ThrowawayPostgres:
    """Give a server."""
    return own_server


@pytest.fixture
def site(postgres: ThrowawayPostgres) -> Iterator[Any]:
    """Give what makes a site. Its pools are closed at the end."""
    sites = []

    def made(pool: Any, **more: Any) -> Site:
        sites.append(Site(postgres, pool, **more))
        return sites[-1]

    yield made
    for one in sites:
        one.connection.close()
        one.connection.close_pool()
    wait_until(lambda: backends(postgres.dsn, NAME) == 0, "the end of all sessions")


ONE = {"min_size": 0, "max_size": 1}


def test_the_names_and_defaults_are_those_of_psycopg_pool(site: Any) -> None:
    pool = site(True).connection.pool
    shown = {name: pool.options[name] for name in ("timeout", "max_idle", "max_lifetime", "open_workers", "name")}
    assert (pool.minconn, pool.maxconn) == (4, 4)
    assert shown == {"timeout": 30, "max_idle": 600, "max_lifetime": 3600, "open_workers": 3, "name": "default"}


def test_settings_for_psycopg_pool_and_options_of_ours_are_taken_together(site: Any) -> None:
    given = {"min_size": 1, "max_size": 3, "num_workers": 2, "timeout": 5, "leak_after": 60, "name": "web"}
    before = dict(given)
    pool = site(given).connection.pool
    assert (pool.minconn, pool.maxconn) == (1, 3)
    assert (pool.options["open_workers"], pool.options["timeout"], pool.options["leak_after"]) == (2, 5, 60)
    assert pool.name == "web"
    assert given == before


@pytest.mark.parametrize(
    ("pool", "options", "text"),
    [
        ({"max_sise": 4}, {}, "'max_sise' is no option of the pool nor of psycopg2.connect; did you mean max_size"),
        ({"maxsize": 4}, {}, "maxsize is called max_size here"),
        ({"reconnect_timeout": 4}, {}, "reconnect_timeout does not exist here"),
        (
            {"max_size": 3},
            {},
            "a pool needs 0 <= min_size <= max_size, not min_size=4 and max_size=3; min_size is 4 by default",
        ),
        ({"min_size": "few"}, {}, "min_size must be a whole number, not a str"),
        ({"timeout": "5"}, {}, "timeout must be a number of seconds or None, not '5'"),
        ({"num_workers": 0}, {}, "num_workers must be 1 or more, not 0"),
        ({"min_size": 0}, {}, "max_size must be 1 or more, not 0; it is min_size by default"),
        ({"min_size": 0, "max_size": 0}, {}, "max_size must be 1 or more, not 0"),
        (True, {"max_size": 3, "timeout": 5}, 'write "OPTIONS": {"pool": {"max_size": ..., "timeout": ...}}'),
        (None, {"minconn": 3}, 'write "OPTIONS": {"pool": {"min_size": ...}}'),
        (True, {"conect_timeout": 3}, "did you mean connect_timeout?"),
        (
            [1, 2],
            {},
            'OPTIONS["pool"] must be a dict of options, True for the defaults, or None for no pool, not a list',
        ),
    ],
)
def test_a_wrong_option_is_named_as_django_names_it(
    postgres: ThrowawayPostgres, pool: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(text)):
        Site(postgres, pool, OPTIONS=options).connection.ensure_connection()


@pytest.mark.parametrize("age", [10, None])
def test_a_pool_beside_persistent_connections_is_refused(site: Any, age: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"persistent connections. Set CONN_MAX_AGE to 0: it is {age}"):
        site(True, CONN_MAX_AGE=age).connection.ensure_connection()


def test_a_pool_opens_nothing_until_a_connection_is_needed(site: Any) -> None:
    one = site(True)
    assert one.connection.pool.get_stats()["connections_num"] == 0
    one.connection.ensure_connection()
    assert one.connection.pool.get_stats()["connections_num"] == 4


def test_without_a_pool_a_connection_is_djangos_own(site: Any) -> None:
    one = site(None)
    one.connection.ensure_connection()
    raw = one.connection.connection
    one.connection.close()
    assert one.connection.pool is None
    assert raw.closed


def test_a_connection_serves_one_request_after_the_other_and_threads_share_it(site: Any) -> None:
    one = site(ONE)
    pids = []
    for _ in range(3):
        pids.append(one.execute("SELECT pg_backend_pid()"))
        one.connection.close()

        def request() -> None:
            pids.append(one.execute("SELECT pg_backend_pid()"))
            one.connection.close()

        Task(request).result()
    assert len(set(pids)) == 1


def test_a_transaction_that_a_request_leaves_open_is_rolled_back(site: Any) -> None:
    one = site(ONE)
    one.connection.set_autocommit(False)
    one.execute("SELECT 1")
    one.connection.close()
    assert one.connection.pool.getconn().get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE


def test_a_block_whose_connection_was_closed_cannot_take_another_one(site: Any) -> None:
    one = site(ONE)
    wrapper = one.connection
    wrapper.ensure_connection()
    wrapper.in_atomic_block = True
    wrapper.close()
    with pytest.raises(ProgrammingError, match="Cannot open a new connection in an atomic block"):
        one.execute("SELECT 1")
    wrapper.in_atomic_block = wrapper.closed_in_transaction = False
    assert one.execute("SELECT 1") == 1


def test_waiting_in_vain_is_djangos_operational_error(site: Any) -> None:
    one = site({**ONE, "timeout": 0.05})
    one.connection.ensure_connection()

    def request() -> None:
        with pytest.raises(OperationalError) as raised:
            one.connection.ensure_connection()
        cause = raised.value.__cause__
        assert isinstance(cause, PoolTimeout)
        assert cause.__cause__ is not cause

    Task(request).result()


def test_a_full_pool_without_a_timeout_and_a_closed_one_are_operational_errors_too(site: Any) -> None:
    one = site({**ONE, "timeout": 0})
    one.connection.ensure_connection()
    other = one.connection.copy()
    with pytest.raises(OperationalError, match="connection pool exhausted") as raised:
        other.ensure_connection()
    assert isinstance(raised.value.__cause__.__cause__, PoolExhausted)
    one.connection.close_pool()
    one.connection.close()
    one = site({**ONE, "timeout": PATIENCE})
    one.connection.ensure_connection()
    waiter = Task(one.connection.copy().ensure_connection)
    wait_for_waiters(one.connection.pool, 1)
    one.connection.close_pool()
    with pytest.raises(OperationalError, match="closed") as raised:
        waiter.result()
    assert isinstance(raised.value.__cause__.__cause__, PoolClosed)


def test_a_session_that_was_killed_is_not_lent_with_health_checks(site: Any, postgres: ThrowawayPostgres) -> None:
    one = site(ONE, CONN_HEALTH_CHECKS=True)
    pid = one.execute("SELECT pg_backend_pid()")
    one.connection.close()
    terminate(postgres.dsn, pid)
    assert one.execute("SELECT pg_backend_pid()") != pid


@pytest.mark.parametrize("min_size", [0, 2])
def test_while_the_server_is_down_few_requests_connect(own_server: ThrowawayPostgres, min_size: int) -> None:
    connect = Connects()
    pool = {"min_size": min_size, "max_size": 8, "timeout": PATIENCE, "connect": connect}
    one = Site(own_server, pool, CONN_HEALTH_CHECKS=True)
    errors: list[BaseException | None] = []

    def request() -> None:
        try:
            one.execute("SELECT 1")
        except OperationalError as error:
            errors.append(error.__cause__)
        finally:
            one.connection.close()

    own_server.stop()  # Requests open the pool of two.
    requests = [Task(request) for _ in range(40)]
    wait_until(lambda: len(connect.failed) > 2)
    own_server.start()
    for task in requests:
        task.result()
    assert errors
    assert {*errors} <= {*connect.failed}
    assert len(connect.failed) < 20
    one.connection.close_pool()


@pytest.mark.parametrize("reset", [None, "discard"])
def test_a_session_is_prepared_as_django_does_and_stays_so(site: Any, reset: Any) -> None:
    seen: list[Any] = []
    options = {"assume_role": "pg_read_all_data", "isolation_level": extensions.ISOLATION_LEVEL_SERIALIZABLE}
    pool = {**ONE, "reset": reset, "configure": seen.append}
    one = site(pool, TIME_ZONE="Africa/Nairobi", OPTIONS=options)
    for _ in range(2):
        assert one.execute("SELECT current_setting('TimeZone')") == "Africa/Nairobi"
        assert one.execute("SELECT current_role::text") == "pg_read_all_data"
        assert one.execute("""SELECT '{"a": 1}'::jsonb""") == '{"a": 1}'
        one.connection.set_autocommit(False)
        assert one.execute("SELECT current_setting('transaction_isolation')") == "serializable"
        one.connection.close()
    assert len(set(seen)) == 1


def test_no_wrapper_lives_longer_than_its_thread_because_of_the_pool(site: Any) -> None:
    one = site(ONE)

    def request() -> Any:
        one.connection.ensure_connection()
        one.connection.close()
        return weakref.ref(one.connection)

    wrapper = Task(request).result()
    gc.collect()
    assert wrapper() is None
    assert one.connection.pool.get_stats()["pool_available"] == 1


def test_a_thread_that_ends_without_close_gives_its_connection_back(site: Any) -> None:
    one = site({**ONE, "timeout": 0})
    gc.disable()  # The end of the thread is enough.
    try:
        for _ in range(3):
            Task(one.execute, "SELECT 1").result()
    finally:
        gc.enable()
    assert one.connection.pool.get_stats()["reclaimed"] == 0


def test_a_wrapper_that_is_forgotten_gives_its_connection_back(site: Any) -> None:
    one = site({**ONE, "timeout": 0})
    one.connection.copy().ensure_connection()
    gc.collect()
    one.connection.ensure_connection()
    assert one.connection.pool.get_stats()["reclaimed"] == 1


def test_a_pool_may_be_closed_while_it_has_lent(site: Any, postgres: ThrowawayPostgres) -> None:
    one = site(ONE)
    one.connection.ensure_connection()
    closed = one.connection.pool
    settings.TIME_ZONE, before = "Africa/Nairobi", settings.TIME_ZONE
    try:
        one.connection.ensure_timezone()
    finally:
        settings.TIME_ZONE = before
    assert one.execute("SELECT 1") == 1
    one.connection.close()
    wait_until(lambda: backends(postgres.dsn, NAME) == 0, "the end of the session")
    assert one.execute("SELECT 1") == 1
    assert one.connection.pool is not closed


# From CPython 3.12 on, a fork beside the housekeeping thread warns.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@forks
def test_the_child_of_a_fork_leaves_the_parents_session_alone(site: Any) -> None:
    one = site(ONE)
    pid = one.execute("SELECT pg_backend_pid()")

    def child() -> None:
        one.connection.close()
        assert one.execute("SELECT pg_backend_pid()") != pid

    in_a_child(child)
    assert one.execute("SELECT pg_backend_pid()") == pid


@forks
def test_a_worker_of_parallel_tests_uses_its_own_database(site: Any) -> None:
    one = site({"min_size": 1, "max_size": 1})
    one.connection.ensure_connection()

    def child() -> None:
        one.connection.creation.setup_worker_connection(7)
        assert one.connection.pool.options["dbname"] == "postgres_7"
        assert [name for _, name in _control.pools] == ["postgres_7"]

    in_a_child(child)


def test_the_backend_for_postgis_borrows_too(site: Any) -> None:
    try:
        from django.contrib.gis.db.backends.postgis.base import DatabaseWrapper
    except ImproperlyConfigured as error:
        pytest.skip(f"{error}")
    one = site(ONE, ENGINE="pgpool_rs.django.postgis")
    assert isinstance(one.connection, DatabaseWrapper)
    assert one.execute("SELECT 1") == 1
    pid = one.execute("SELECT pg_backend_pid()")
    one.connection.close()
    assert one.execute("SELECT pg_backend_pid()") == pid
    assert one.connection.pool.get_stats()["pool_size"] == 1


def test_psycopg2_is_taken_where_psycopg_3_is_installed_too() -> None:
    run_program("""
import psycopg
import pgpool_rs.django.base
from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import is_psycopg3
assert base.Database.__name__ == "psycopg2" and not is_psycopg3
import sys
assert sys.modules["psycopg"] is psycopg
""")


def test_psycopg_3_that_django_has_chosen_before_is_refused() -> None:
    run_program("""
import django.db.backends.postgresql.psycopg_any
from django.core.exceptions import ImproperlyConfigured
try:
    import pgpool_rs.django
except ImproperlyConfigured as error:
    assert "put 'pgpool_rs.django' first into INSTALLED_APPS" in str(error)
else:
    raise AssertionError("not refused")
import psycopg
""")


def test_a_program_that_ends_with_a_connection_open_says_nothing(postgres: ThrowawayPostgres) -> None:
    program = f"""
from django.conf import settings
from django.db import connection
address = {{name.upper(): value for name, value in {postgres.dsn_kwargs!r}.items() if name in ("host", "port", "user")}}
settings.configure(DATABASES={{"default": {{
    "ENGINE": "pgpool_rs.django", "NAME": "postgres", "OPTIONS": {{"pool": True, "gssencmode": "disable"}}, **address
}}}})
connection.ensure_connection()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_alone_imports_no_django() -> None:
    run_program("import sys, pgpool_rs; assert not [name for name in sys.modules if 'django' in name]")


def test_a_sample_of_djangos_own_tests_passes() -> None:
    assert suite.main(["--sample"]) == 0


def test_where_there_is_no_linux_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from pgpool_rs.django.management.commands.pgpool import Command

    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CommandError, match="needs Linux"):
        Command().handle(drain=False)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), KeyboardInterrupt()])
def test_a_thread_for_the_command_that_cannot_start_ends_no_request_and_is_tried_again(
    site: Any, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, tried = threading.Thread.start, 0

    def fail_once(thread: threading.Thread) -> None:
        nonlocal tried
        if thread.name != "pgpool_rs.django":
            start(thread)
            return
        tried += 1
        if tried == 1:
            raise error

    monkeypatch.setattr(_control, "_listening", 0)
    monkeypatch.setattr(apps, "is_installed", lambda _: True)
    monkeypatch.setattr(threading.Thread, "start", fail_once)
    first = site(True)
    if isinstance(error, Exception):
        assert first.execute("SELECT 1") == 1
    else:
        with pytest.raises(type(error)):
            first.execute("SELECT 1")
    for _ in range(2):
        first.connection.close()
        assert first.execute("SELECT 1") == 1
        assert tried == 2


def test_a_thread_for_one_answer_that_cannot_start_does_not_end_the_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([MemoryError(), SystemExit()])

    def fail(_: threading.Thread) -> None:
        raise next(errors)

    monkeypatch.setattr(_control, "ADDRESS", "\0pgpool_rs.django.no_thread.")
    monkeypatch.setattr(_control, "start", fail)
    answering = Task(_control._answer)

    def ask() -> bool:
        with suppress(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{_control.ADDRESS}{os.getpid()}")
        return answering.done

    wait_until(ask, "the end of the answering")
    with pytest.raises(SystemExit):
        answering.result()
